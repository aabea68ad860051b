// Which linear modules of an output are stored quantized, by the names of the Hugging Face form.
#pragma once

#include <string>
#include <vector>

#include "kernels/convert.h"
#include "lib/model/inventory.h"
#include "lib/recipe/dialect.h"

namespace mimo {

// A linear module that the output stores quantized. `name` is the tensor name without ".weight".
struct QuantizedModule {
  std::string name;
  kernels::Codec codec = kernels::Codec::kFp8Block;
  bool input_scale = false;  // activations are quantized too (W4A4)
  // kFp8Block: every scale is a power of two (UE8M0), by construction or because the source's config says so.
  bool power_of_two = false;
  ScaleSpan span = ScaleSpan::kBlock;  // kFp8Block: what one scale stands for
};

struct HfQuantization {
  Dialect dialect = Dialect::kNative;
  std::vector<QuantizedModule> quantized;  // all of them, in model order, each expert's projections by name
  std::vector<std::string> unquantized;    // all other linear modules (2-D weights but for embeddings), in model order
  uint32_t fp8_block_rows = 128, fp8_block_cols = 128;
  std::string kv_cache_scheme = {};  // JSON text of what is declared of the KV cache; "" nothing
  bool keeps = false;  // weights are as the source has them: so is what its config says of them, where it says anything
};

}  // namespace mimo
