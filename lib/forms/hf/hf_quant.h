// What config.json and hf_quant_config.json say about quantized weights, in each dialect (reference
// quantization-formats.md 3.5, 3.6, 4.3; docs/recipes.md).
#pragma once

#include <string>
#include <vector>

#include "kernels/convert.h"
#include "lib/base/status.h"
#include "lib/model/file_names.h"
#include "lib/recipe/dialect.h"

namespace mimo {

// A linear module that the output stores quantized. `name` is the tensor name without ".weight".
struct QuantizedModule {
  std::string name;
  kernels::Codec codec = kernels::Codec::kFp8Block;
  bool input_scale = false;  // activations are quantized too (W4A4)
  // kFp8Block: every scale is a power of two (UE8M0), by construction or because the source's config says so.
  bool power_of_two = false;
};

struct HfQuantization {
  Dialect dialect = Dialect::kNative;
  std::vector<QuantizedModule> quantized;  // all of them, in model order, each expert's projections by name
  std::vector<std::string> unquantized;    // all other linear modules (2-D weights but for embeddings), in model order
  uint32_t fp8_block_rows = 128, fp8_block_cols = 128;
};

// The value of "quantization_config" as JSON text; "" when the key must go. `source` is that value in the source's
// config.json, "" without one: what it says beyond what this edit decides stays (kNative), or goes (other dialects).
// kUsage when the dialect cannot describe the mixture.
Result<std::string> QuantizationConfig(const HfQuantization& quantization, const std::string& source);

// hf_quant_config.json; "" when the dialect has none or nothing is quantized. Agrees with QuantizationConfig.
Result<std::string> HfQuantConfig(const HfQuantization& quantization);

}  // namespace mimo
