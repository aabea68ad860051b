// quantization_config of a checkpoint that others quantized, whose weights are kept: what it says stays, and its lists
// of modules follow the modules that are renamed or decoded.
#pragma once

#include <string>

#include "lib/base/status.h"
#include "lib/forms/quantized_modules.h"

namespace mimo {

// `source`: the value of "quantization_config" (quant_method compressed-tensors) as JSON text. Of the answer holds:
// every module of `quantization` that is stored plain is named by "ignore" or matched by one of its "re:" patterns,
// none that is quantized is; a group of weights that named projections of attention one by one names those that are
// stored. Modules are matched as compressed-tensors does: by exact name, or by re.match (anchored at the beginning)
// after "re:". kBadInput for a source that is no such object.
Result<std::string> KeptCompressedTensors(const HfQuantization& quantization, const std::string& source);

}  // namespace mimo
