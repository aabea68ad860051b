// FP8 in blocks that others stored with scales of another type, or under the name of bytes, as the releases have it.
#pragma once

#include "lib/draft/draft.h"

namespace mimo {

// The arrays of a weight in blocks (Weight::in_blocks; not of attention, whose blocks may lie across arrays) under the
// names of `arrays`: codes as they are, as F8_E4M3; scales as F32, exactly; input_scale as it is.
void AddAsReleased(Draft& draft, const Weight& weight, const WeightArrays& arrays);

}  // namespace mimo
