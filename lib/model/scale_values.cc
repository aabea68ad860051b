#include "lib/model/scale_values.h"

#include <cstring>

#include "kernels/codec/bf16.h"
#include "kernels/codec/e8m0.h"
#include "kernels/codec/fp16.h"

namespace mimo {
namespace {

// `widen` is no pointer to a kernel: those are always inlined, which g++ refuses below -O2 where one is called through
// it.
template <class Stored, class Widen>
void WidenEach(const std::byte* stored, uint64_t count, float* out, Widen widen) {
  for (uint64_t i = 0; i < count; ++i) {
    Stored bits;
    std::memcpy(&bits, stored + i * sizeof bits, sizeof bits);
    out[i] = widen(bits);
  }
}

}  // namespace

bool IsExponentType(DType dtype) {
  return dtype == DType::kF8E8M0 || dtype == DType::kU8;
}

bool IsScaleType(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16 || IsExponentType(dtype);
}

void WidenScales(DType dtype, const std::byte* stored, uint64_t count, float* out) {
  if (dtype == DType::kF32) {
    std::memcpy(out, stored, count * sizeof(float));
  } else if (dtype == DType::kBF16) {
    WidenEach<uint16_t>(stored, count, out, [](uint16_t bits) { return kernels::Bf16ToFloat(bits); });
  } else if (dtype == DType::kF16) {
    WidenEach<uint16_t>(stored, count, out, [](uint16_t bits) { return kernels::Fp16ToFloat(bits); });
  } else {
    WidenEach<uint8_t>(stored, count, out, [](uint8_t bits) { return kernels::E8m0ToFloat(bits); });
  }
}

float WidenScale(DType dtype, const std::byte* stored) {
  float scale = 0;
  WidenScales(dtype, stored, 1, &scale);
  return scale;
}

std::string ScaleOfOne(DType dtype) {
  if (dtype == DType::kF32) return {"\x00\x00\x80\x3f", 4};
  if (dtype == DType::kBF16) return "\x80\x3f";
  if (dtype == DType::kF16) return {"\x00\x3c", 2};
  return "\x7f";
}

}  // namespace mimo
