// The encoders in plain C++, group by group: the definitions of kernels/codec. Runs everywhere.
#include <algorithm>

#include "kernels/cpu/encode_table.h"

namespace mimo::kernels {
namespace {

uint64_t RoundBf16(float* values, size_t n) {
  uint64_t infinities = 0;
  for (size_t i = 0; i < n; ++i) {
    const float rounded = RoundedToBf16(values[i]);
    infinities += IsInf(rounded) && !IsInf(values[i]);
    values[i] = rounded;
  }
  return infinities;
}

float Amax(const float* values, size_t n) {
  float amax = 0;
  for (size_t i = 0; i < n; ++i) amax = std::max(amax, FiniteMagnitude(values[i]));
  return amax;
}

template <class CodeOf>
void Pack(const float* values, size_t n, uint8_t* codes, const CodeOf& code_of) {
  for (size_t i = 0; i < n; i += 2) {
    codes[i / 2] = static_cast<uint8_t>(code_of(values[i]) | code_of(values[i + 1]) << 4);
  }
}

void Nvfp4(const float* values, size_t groups, ScaleRule rule, const Nvfp4Range& range, uint8_t* codes,
           uint8_t* scales) {
  for (size_t group = 0; group < groups; ++group, values += kNvfp4Group, codes += kNvfp4Group / 2) {
    float magnitudes[kNvfp4Group];
    for (size_t i = 0; i < kNvfp4Group; ++i) magnitudes[i] = FiniteMagnitude(values[i]);
    const float amax = *std::max_element(magnitudes, magnitudes + kNvfp4Group);
    scales[group] = Nvfp4GroupScale(rule, magnitudes, amax, range);
    const float multiplier = Nvfp4Multiplier(scales[group], range.multiplier, false);
    Pack(values, kNvfp4Group, codes, [&](float x) { return Nvfp4Code(x, multiplier); });
  }
}

uint64_t Mxfp4(const float* values, size_t groups, ScaleRule rule, bool toward_zero, const uint8_t* keep,
               uint8_t* codes, uint8_t* scales) {
  uint64_t kept = 0;
  for (size_t group = 0; group < groups; ++group, values += kMxGroup, codes += kMxGroup / 2) {
    const float amax = Amax(values, kMxGroup);
    if (keep != nullptr && Mxfp4ScaleFits(amax, keep[group]) && std::all_of(values, values + kMxGroup, IsFinite)) {
      const uint8_t byte = keep[group];
      scales[group] = byte;
      Pack(values, kMxGroup, codes, [&](float x) { return Mxfp4KeptCode(x, byte, toward_zero); });
      ++kept;
      continue;
    }
    const uint8_t byte = MxGroupScale(rule, amax, MxElement::kE2m1);
    scales[group] = byte;
    Pack(values, kMxGroup, codes, [&](float x) { return Mxfp4Code(x, byte, toward_zero); });
  }
  return kept;
}

void Mxfp8(const float* values, size_t groups, ScaleRule rule, uint8_t* codes, uint8_t* scales) {
  for (size_t group = 0; group < groups; ++group, values += kMxGroup, codes += kMxGroup) {
    const uint8_t byte = MxGroupScale(rule, Amax(values, kMxGroup), MxElement::kE4m3);
    scales[group] = byte;
    for (size_t i = 0; i < kMxGroup; ++i) codes[i] = Mxfp8Code(values[i], byte);
  }
}

void Fp8(const float* values, size_t n, float scale, uint8_t* codes) {
  for (size_t i = 0; i < n; ++i) codes[i] = Fp8Code(values[i], scale);
}

SegmentErrors Errors(const float* x, const float* y, size_t n) {
  SegmentErrors total;
  ErrorLane lanes[kStatLanes];
  for (size_t i = 0; i < n; ++i) {
    if (!IsFinite(x[i])) continue;
    lanes[i % kStatLanes].Add(x[i], y[i]);
    const double difference = static_cast<double>(y[i]) - static_cast<double>(x[i]);
    total.max_error = std::max(total.max_error, difference < 0 ? -difference : difference);
    total.amax = std::max(total.amax, static_cast<double>(Magnitude(x[i])));
    ++total.elements;
  }
  FoldLanes(lanes);
  total.sums = lanes[0];
  return total;
}

uint64_t Beyond(const float* values, size_t n, float divisor, float limit) {
  uint64_t count = 0;
  for (size_t i = 0; i < n; ++i) count += Magnitude(values[i]) / divisor > limit;
  return count;
}

void ColumnMax(const uint8_t* row, size_t n, uint8_t* largest) {
  for (size_t i = 0; i < n; ++i) largest[i] = std::max<uint8_t>(largest[i], row[i] & 0x7F);
}

uint16_t Max16(const uint8_t* in, size_t n) {
  int16_t largest = 0;
  for (size_t i = 0; i < n; ++i) largest = std::max(largest, static_cast<int16_t>(Load16(in + 2 * i) & 0x7FFF));
  return static_cast<uint16_t>(largest);
}

uint32_t Max32(const uint8_t* in, size_t n) {
  int32_t largest = 0;
  for (size_t i = 0; i < n; ++i) largest = std::max(largest, static_cast<int32_t>(Load32(in + 4 * i) & ~kFp32Sign));
  return static_cast<uint32_t>(largest);
}

}  // namespace

const EncodeKernels& PortableEncoders() {
  static constexpr EncodeKernels kernels = {
      .round_bf16 = RoundBf16,
      .amax = Amax,
      .nvfp4 = Nvfp4,
      .mxfp4 = Mxfp4,
      .mxfp8 = Mxfp8,
      .fp8 = Fp8,
      .errors = Errors,
      .beyond = Beyond,
      .fp8_nvfp4 = nullptr,
      .column_max = ColumnMax,
      .max16 = Max16,
      .max32 = Max32,
  };
  return kernels;
}

}  // namespace mimo::kernels
