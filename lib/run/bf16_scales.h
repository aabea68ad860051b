// Block FP8 whose scales are stored in BF16, as some releases have them.
#pragma once

#include "lib/base/status.h"
#include "lib/run/backend.h"

namespace mimo {

// Backend::Encode of block FP8, of which `scales` and `keep` are BF16 rows. A scale that is kept is what it was; one
// that is made anew is rounded up to BF16, so that nothing is beyond the largest code, and codes are made under it.
// Counts are those of scales kept and made.
Result<kernels::EncodeCounts> EncodeUnderBf16Scales(const kernels::EncodeJob& work, Backend& backend);

}  // namespace mimo
