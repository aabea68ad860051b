// Makes the plan of a conversion. Pure: no I/O, nothing but its arguments decides.
#pragma once

#include "lib/base/status.h"
#include "lib/forms/checkpoint.h"
#include "lib/layout/decide.h"
#include "lib/layout/survey.h"
#include "lib/model/inventory.h"
#include "lib/plan/plan.h"

namespace mimo {

// What is behind a catalogue that a view shows.
struct ViewedPlan {
  const View& view;
  const Catalogue& stored;
  const Like* like = nullptr;  // of a merged checkpoint: some weights are the reference's, under its layout
};

// kUsage: options contradict or a pattern matches nothing. kBadInput: the checkpoint cannot be converted (unknown
// tensors under UnknownPolicy::kRefuse, ...). kCheckFailed: `lossless` or on_straddle=refuse does not hold; the message
// lists the layers. With a view, `catalogue` is what it shows, and the plan is in terms of the arrays behind it.
Result<Plan> MakePlan(const Catalogue& catalogue, const Inventory& inventory, const LayoutVerdict& source,
                      const PlanOptions& options, const SurveyFacts& facts = {}, const ViewedPlan* viewed = nullptr);
Result<Plan> MakePlan(const Checkpoint& checkpoint, const PlanOptions& options);

}  // namespace mimo
