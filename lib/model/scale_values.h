// Multipliers as they are stored: in F32, in the 16-bit type that the model had when it was quantized, or as exponents.
// All of them are F32 values exactly, so that widening loses nothing. Publicly seen: F32 in every release of the
// family; BF16 in what llm-compressor and Qwen write (vllm-project/vllm#55498); F16 (InternLM/lmdeploy#4276); E8M0 in
// DeepSeek-V3.1's blocks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "lib/io/dtype.h"

namespace mimo {

// Whether scales of FP8 blocks, rows and tensors may be of this type: F32, BF16, F16, and E8M0 as F8_E8M0 or U8.
bool IsScaleType(DType dtype);
// Of these, the ones that are exponents: a byte e is 2^(e - 127), 255 is NaN.
bool IsExponentType(DType dtype);

// `count` scales of type `dtype` at `stored`, aligned or not, as F32; exact. `dtype` is a scale type.
void WidenScales(DType dtype, const std::byte* stored, uint64_t count, float* out);
float WidenScale(DType dtype, const std::byte* stored);

// The bytes of a scale of one: what rows that are added have under their zeros.
std::string ScaleOfOne(DType dtype);

}  // namespace mimo
