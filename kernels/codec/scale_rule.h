// The encoders' choices by name: which scale a group gets under an Encoding, and which value is encoded.
#pragma once

#include "kernels/codec/bf16.h"
#include "kernels/codec/block_scale.h"
#include "kernels/codec/mx.h"
#include "kernels/codec/nvfp4.h"
#include "kernels/encode.h"

namespace mimo::kernels {

MIMO_HD inline float RoundedToBf16(float x) {
  return Bf16ToFloat(Bf16FromFloat(x));
}

// What is encoded for a decoded source value.
MIMO_HD inline float EncodedValue(float x, bool via_bf16) {
  return via_bf16 ? RoundedToBf16(x) : x;
}

MIMO_HD inline Nvfp4Range RangeOf(const Nvfp4Global& global) {
  return {global.multiplier, global.amax};
}

// `magnitudes`: FiniteMagnitude of the group's 16 encoded values; `amax` the largest of them.
MIMO_HD inline uint8_t Nvfp4GroupScale(ScaleRule rule, const float* magnitudes, float amax, const Nvfp4Range& range) {
  switch (rule) {
    case ScaleRule::kFourOverSix:
      return Nvfp4FourOverSixScale(magnitudes, amax, range);
    case ScaleRule::kSweep:
      return Nvfp4SweepScale(magnitudes, range);
    case ScaleRule::kMse:
      return Nvfp4MseScale(magnitudes, amax, range);
    case ScaleRule::kMax:
    case ScaleRule::kRceil:  // rules of MXFP4 and MXFP8, which no NVFP4 encoding has
    case ScaleRule::kFloor:
    case ScaleRule::kEven:
    case ScaleRule::kCeil:
      break;
  }
  return Nvfp4MaxScale(amax, range.multiplier);
}

// `amax`: the largest FiniteMagnitude of the group's 32 encoded values.
MIMO_HD inline uint8_t MxGroupScale(ScaleRule rule, float amax, MxElement element) {
  switch (rule) {
    case ScaleRule::kFloor:
      return MxFloorByte(amax, element);
    case ScaleRule::kEven:
      return MxEvenByte(amax, element);
    case ScaleRule::kCeil:
      return MxCeilByte(amax, element);
    case ScaleRule::kRceil:
    case ScaleRule::kMax:  // rules of NVFP4, which no MX encoding has
    case ScaleRule::kFourOverSix:
    case ScaleRule::kSweep:
    case ScaleRule::kMse:
      break;
  }
  return MxRceilByte(amax, element);
}

// `amax`: the largest FiniteMagnitude of the cell's encoded values.
MIMO_HD inline float Fp8CellScale(const Encoding& encoding, float amax) {
  if (encoding.neuron) return Fp8NeuronScale(amax);
  return encoding.power_of_two ? Fp8PowerScale(amax) : Fp8FreshScale(amax);
}

MIMO_HD inline uint8_t Fp8CellCode(const Encoding& encoding, float x, float scale) {
  const uint8_t code = Fp8Code(x, scale);
  return encoding.neuron ? Fp8NeuronLimit(code) : code;
}

// Whether values of which the largest magnitude is `amax`, all finite, stay under a scale that is there already: none
// rounds beyond the largest code. 464 lies between 448 and 480, and the tie goes to 448; that of Neuron, 248, to 256.
MIMO_HD inline bool Fp8ScaleFits(const Encoding& encoding, float amax, float scale) {
  if (!IsFinite(scale) || !(scale > 0)) return false;
  return encoding.neuron ? amax / scale < 248.0f : amax / scale <= 464.0f;
}

// The largest magnitude that has a code.
MIMO_HD inline float Fp8CellMax(const Encoding& encoding) {
  return encoding.neuron ? kNeuronMax : kE4m3Max;
}

}  // namespace mimo::kernels
