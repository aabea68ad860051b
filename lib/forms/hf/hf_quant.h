// What config.json and hf_quant_config.json say about quantized weights, in each dialect (reference
// quantization-formats.md 3.5, 3.6, 4.3; docs/recipes.md).
#pragma once

#include <string>

#include "lib/base/status.h"
#include "lib/forms/quantized_modules.h"
#include "lib/model/file_names.h"

namespace mimo {

// The value of "quantization_config" as JSON text; "" when the key must go. `source` is that value in the source's
// config.json, "" without one: what it says beyond what this edit decides stays (kNative), or goes (other dialects).
// kUsage when the dialect cannot describe the mixture.
Result<std::string> QuantizationConfig(const HfQuantization& quantization, const std::string& source);

// hf_quant_config.json; "" when the dialect has none or nothing is quantized. Agrees with QuantizationConfig.
Result<std::string> HfQuantConfig(const HfQuantization& quantization);

}  // namespace mimo
