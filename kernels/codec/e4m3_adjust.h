// E4M3 codes in another range: AWS Neuron's E4M3 ends at 240 (quantization-formats.md 1.3, target-layouts.md 7.1).
#pragma once

#include "kernels/codec/bf16.h"
#include "kernels/codec/e4m3.h"

namespace mimo::kernels {

inline constexpr float kNeuronMax = 240.0f;
inline constexpr uint8_t kNeuronMaxCode = 0x77;
// 448 / 240 as FP32.
inline constexpr float kNeuronFactor = static_cast<float>(448.0 / 240.0);

// A code under a rule, and whether something was lost.
struct AdjustedCode {
  uint8_t code = 0;
  bool inexact = false;
  bool overflow = false;
};

// Half the value. Inexact for odd codes below 2^-5, whose last bit has no place; ties go to even.
MIMO_HD inline AdjustedCode HalveCode(uint8_t code) {
  if (E4m3IsNan(code)) return {code, false, false};
  const float value = E4m3ToFloat(code);
  const uint8_t half = E4m3FromFloat(value * 0.5f, /*saturate=*/true);
  return {half, E4m3ToFloat(half) * 2.0f != value, false};
}

// Twice the value; 448 under the sign where that is beyond 448.
MIMO_HD inline AdjustedCode DoubleCode(uint8_t code) {
  if (E4m3IsNan(code)) return {code, false, false};
  const float twice = E4m3ToFloat(code) * 2.0f;
  return {E4m3FromFloat(twice, /*saturate=*/true), false, twice > kE4m3Max || twice < -kE4m3Max};
}

// The rule of the published Neuron scripts, `(weight.bfloat16() / (448 / 240)).to(float8_e4m3fn)`: torch divides a BF16
// tensor by a Python number in FP32, with the number rounded to FP32, and rounds the quotient to BF16. (Sources:
// whn09/neuronx-distributed-inference:contrib/models/MiMo-V2.5/src/conversion_script/preprocess_mimo_v2_5_fp8.py,
// pytorch/pytorch:aten/src/ATen/native/cpu/BinaryOpsKernel.cpp, div_true_kernel.)
MIMO_HD inline AdjustedCode NeuronCode(uint8_t code) {
  if (E4m3IsNan(code)) return {code, false, false};
  const float value = E4m3ToFloat(code);
  const uint8_t scaled = E4m3FromFloat(Bf16ToFloat(Bf16FromFloat(value / kNeuronFactor)), /*saturate=*/true);
  // 448 / 240 = 28 / 15: both products are exact.
  return {scaled, E4m3ToFloat(scaled) * 28.0f != value * 15.0f, false};
}

}  // namespace mimo::kernels
