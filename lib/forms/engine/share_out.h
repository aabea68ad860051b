// Whether the ranks of an engine can share out a model.
#pragma once

#include "lib/forms/engine/engine_targets.h"
#include "lib/forms/form.h"

namespace mimo {

// Checks that --tp and --ep share out the model of the target, each weight in whole blocks, padding it first where
// --pad asks for it; without --pad FP8 experts may be cut into `smaller` blocks, of which a note then tells. kUsage
// names the nearest number that can, and refuses to pad heads where norms are over all of them: zeros would lower their
// mean square.
Status ShareOut(Planning* p, const SmallerBlocks& smaller);

}  // namespace mimo
