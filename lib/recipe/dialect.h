// How quantized weights are named and typed on disk. One table (dialect.cc) from which every output name follows; the
// reader (lib/model/inventory.h) knows all of them. Reference quantization-formats.md 3.1, 4.3.
#pragma once

#include <cstdint>
#include <optional>

#include "kernels/convert.h"
#include "lib/io/dtype.h"
#include "lib/model/names.h"

namespace mimo {

using kernels::Codec;

enum class Dialect : uint8_t {
  kNative,             // the family's own: quant_method fp8, store_dtype
  kModelOpt,           // hf_quant_config.json and quant_method modelopt
  kCompressedTensors,  // quant_method compressed-tensors
};

struct WeightArrays {
  Part codes = Part::kWeight;
  DType code_dtype = DType::kU8;
  Part scales = Part::kScale;
  DType scale_dtype = DType::kU8;
  std::optional<Part> global = {};  // F32; its shape is [] or, where it divides, [1]
  bool global_divides = false;
  std::optional<Part> input = {};  // of activations, when they are quantized: F32, shaped as the global scale
  bool input_divides = false;      // the stored value is 1 / multiplier
};

// nullopt: the dialect has no such weights. kFp32, kFp16 and kBf16 have none either.
std::optional<WeightArrays> ArraysOf(Dialect dialect, kernels::Codec codec);

}  // namespace mimo
