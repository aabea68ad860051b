// The verdict on a checkpoint, whatever it is to be used for: what was read, what is to be written, or what lies in a
// directory. Everything here goes by headers, config and what opening has surveyed; values are health.h's.
#pragma once

#include "lib/forms/checkpoint.h"
#include "lib/judge/declared.h"
#include "lib/judge/finding.h"
#include "lib/plan/plan.h"

namespace mimo {

// Of what was opened, as far as it came: the refusal that stopped it, files, declarations, how sure the layout is.
Verdict JudgeOpened(const OpenedCheckpoint& opened, Subject subject = Subject::kSource);
Verdict JudgeCheckpoint(const Checkpoint& checkpoint, Subject subject = Subject::kSource);

// The checkpoint that a plan writes, as a catalogue: its arrays, the config and index among its texts, what it carries.
// Data does not exist yet. Errors of config and index that the plan has made, which is a defect.
Result<Catalogue> CatalogueOfPlan(const Catalogue& stored, const Plan& plan);

// Of what a plan writes, before a byte is written: what readers will find declared and stored. Forms whose arrays are
// shown through a view are judged as what the view shows; those that no catalogue can be made of are not judged.
Result<Verdict> JudgePlan(const Checkpoint& checkpoint, const Plan& plan);

}  // namespace mimo
