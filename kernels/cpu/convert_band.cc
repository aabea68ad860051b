// Rows of one band, for any ISA: cut into runs, panels and strips; the rare anomalies counted here, once for all ISAs.
#include <algorithm>

#include "kernels/cpu/kernel_table.h"

namespace mimo::kernels {
namespace {

constexpr size_t kStrip = 2048;        // FP32 elements: 8 KiB, well inside L1
constexpr uint32_t kPanelBlocks = 64;  // 64 slots of 320 bytes: well inside L2, most of a row
constexpr uint64_t kPanelMinRows = 4;  // a slot costs about as much as converting a row of its block twice

uint64_t Encode(const Kernels& kernels, Codec target, const float* strip, size_t n, uint8_t* out, bool stream) {
  const bool fp16 = target == Codec::kFp16;  // else BF16: FP32 is not encoded
  return fp16 ? kernels.encode_fp16(strip, n, out, stream) : kernels.encode_bf16(strip, n, out, stream);
}

bool BecomesInfinite(float value, Codec target) {
  if (target == Codec::kFp16) return (Fp16FromFloat(value) & 0x7FFF) == kFp16Inf;
  if (target == Codec::kBf16) return (Bf16FromFloat(value) & 0x7FFF) == kBf16Inf;
  return IsInf(value);
}

// ---- plain sources

Counts PlainRun(const Kernels& kernels, Codec from, Codec to, const uint8_t* in, size_t n, uint8_t* out, bool stream,
                uint64_t* overflows) {
  if (from == to) {
    if (from == Codec::kFp32) return kernels.move32(in, n, out, stream);
    return kernels.move16(in, n, out, from == Codec::kFp16 ? kFp16Inf : kBf16Inf, stream);
  }
  const auto decode = from == Codec::kFp32   ? kernels.decode_fp32
                      : from == Codec::kFp16 ? kernels.decode_fp16
                                             : kernels.decode_bf16;
  if (to == Codec::kFp32) return decode(in, n, out, stream);  // 16-bit values are all finite in FP32
  const uint64_t in_bytes = ElementBytes(from);
  alignas(64) float strip[kStrip];
  Counts total;
  for (size_t at = 0; at < n; at += kStrip) {
    const size_t count = std::min(kStrip, n - at);
    const Counts counts = decode(in + at * in_bytes, count, reinterpret_cast<uint8_t*>(strip), false);
    *overflows += Encode(kernels, to, strip, count, out + at * 2, stream) - counts.infinities;
    total += counts;
  }
  return total;
}

void ConvertPlain(const Kernels& kernels, const Band& band, uint64_t row, uint64_t rows, bool stream,
                  Anomalies* anomalies) {
  const Source& source = band.source;
  const Target& target = band.target;
  const uint8_t* in = static_cast<const uint8_t*>(source.data) + row * source.row_bytes;
  uint8_t* out = static_cast<uint8_t*>(target.data) + row * target.row_bytes;
  uint64_t cols = band.cols;
  if (source.row_bytes == cols * ElementBytes(source.codec) && target.row_bytes == cols * ElementBytes(target.codec)) {
    cols *= rows;  // no gaps: one long row
    rows = 1;
  }
  for (uint64_t r = 0; r < rows; ++r) {
    const Counts counts = PlainRun(kernels, source.codec, target.codec, in + r * source.row_bytes, cols,
                                   out + r * target.row_bytes, stream, &anomalies->overflows);
    anomalies->nan_codes += counts.nans;
    anomalies->infinities += counts.infinities;
  }
}

// ---- block FP8

uint64_t Fp8Strips(const Kernels& kernels, const Fp8Panel& panel, const float* scales, Codec target) {
  alignas(64) float strip[kStrip];
  uint64_t nans = 0;
  for (uint64_t row = 0; row < panel.rows; ++row) {
    const uint8_t* codes = panel.codes + row * panel.code_row_bytes;
    uint8_t* out = panel.out + row * panel.out_row_bytes;
    for (uint32_t block = 0; block < panel.blocks; ++block) {
      const size_t end = panel.edges[block + 1];
      if (target == Codec::kFp32) {
        const size_t at = panel.edges[block];
        nans += kernels.decode_fp8(codes + at, end - at, scales[block], out + 4 * at, panel.stream);
        continue;
      }
      for (size_t at = panel.edges[block]; at < end; at += kStrip) {
        const size_t count = std::min(kStrip, end - at);
        nans += kernels.decode_fp8(codes + at, count, scales[block], reinterpret_cast<uint8_t*>(strip), false);
        Encode(kernels, target, strip, count, out + 2 * at, panel.stream);
      }
    }
  }
  return nans;
}

void ConvertFp8(const Kernels& kernels, const Band& band, uint64_t row, uint64_t rows, bool stream,
                Anomalies* anomalies) {
  const Codec to = band.target.codec;
  const uint64_t out_bytes = ElementBytes(to);
  const uint64_t width = band.column_block;
  const uint64_t blocks = band.column_edges != nullptr ? band.column_blocks : (band.cols + width - 1) / width;
  const auto edge = [&](uint64_t block) {
    return band.column_edges != nullptr ? uint64_t{band.column_edges[block]} : std::min(block * width, band.cols);
  };
  const bool slots_wanted =
      rows >= kPanelMinRows && (to == Codec::kBf16 || (to == Codec::kFp16 && kernels.fp8_panel_fp16));
  Fp8Slot slots[kPanelBlocks];
  float scales[kPanelBlocks];
  uint32_t edges[kPanelBlocks + 1];
  for (uint64_t first = 0; first < blocks; first += kPanelBlocks) {
    const uint64_t start = edge(first);
    Fp8Panel panel;
    panel.blocks = static_cast<uint32_t>(std::min<uint64_t>(kPanelBlocks, blocks - first));
    panel.codes = static_cast<const uint8_t*>(band.source.data) + row * band.source.row_bytes + start;
    panel.code_row_bytes = band.source.row_bytes;
    panel.out = static_cast<uint8_t*>(band.target.data) + row * band.target.row_bytes + start * out_bytes;
    panel.out_row_bytes = band.target.row_bytes;
    panel.rows = rows;
    panel.edges = edges;
    panel.slots = slots;
    panel.stream = stream;
    edges[0] = 0;
    for (uint32_t block = 0; block < panel.blocks; ++block) {
      edges[block + 1] = static_cast<uint32_t>(edge(first + block + 1) - start);
      const size_t block_width = edges[block + 1] - edges[block];
      scales[block] = FloatFromBits(Load32(static_cast<const uint8_t*>(band.source.scales) + 4 * (first + block)));
      if (block_width == 0) continue;
      anomalies->bad_scales += row == 0 && Fp8ScaleIsBad(scales[block]);
      CountRareFp8(scales[block], to, panel.codes + edges[block], panel.code_row_bytes, rows, block_width, anomalies);
      if (slots_wanted) kernels.fp8_prepare(scales[block], to, &slots[block]);
    }
    anomalies->nan_codes += slots_wanted ? kernels.fp8_panel(panel) : Fp8Strips(kernels, panel, scales, to);
  }
}

// ---- MXFP4

void ConvertMxfp4(const Kernels& kernels, const Band& band, uint64_t row, uint64_t rows, bool stream,
                  Anomalies* anomalies) {
  const Codec to = band.target.codec;
  uint8_t first_rare = kE8m0Nan;  // the smallest byte under which a nibble overflows, or the NaN byte
  while (first_rare > 0 && BecomesInfinite(Mxfp4Value(7, first_rare - 1), to)) --first_rare;
  const uint64_t groups = (band.cols + kMxfp4Group - 1) / kMxfp4Group;
  for (uint64_t r = row; r < row + rows; ++r) {
    const uint8_t* packed = static_cast<const uint8_t*>(band.source.data) + r * band.source.row_bytes;
    const uint8_t* scales = static_cast<const uint8_t*>(band.source.scales) + r * band.source.scale_row_bytes;
    uint8_t* out = static_cast<uint8_t*>(band.target.data) + r * band.target.row_bytes;
    if (to == Codec::kFp32) {
      kernels.decode_mxfp4(packed, scales, band.cols, out, stream);
    } else {
      kernels.mxfp4_row(packed, scales, band.cols, Mxfp4PlanesFor(to), out, stream);
    }
    uint8_t largest = 0;
    for (uint64_t group = 0; group < groups; ++group) largest = std::max(largest, scales[group]);
    if (largest < first_rare) continue;
    for (uint64_t group = 0; group < groups; ++group) {
      if (scales[group] < first_rare) continue;
      const uint64_t end = std::min<uint64_t>(band.cols, (group + 1) * kMxfp4Group);
      for (uint64_t i = group * kMxfp4Group; i < end; ++i) {
        const bool nan = scales[group] == kE8m0Nan;
        anomalies->nan_codes += nan;
        anomalies->overflows +=
            !nan && BecomesInfinite(Mxfp4Value(packed[i / 2] >> (i % 2 * 4) & 15, scales[group]), to);
      }
    }
  }
}

// ---- MXFP8

// A strip of FP32, or the target itself where that is FP32.
struct StripOut {
  alignas(64) float strip[kStrip];
  Codec to;
  uint8_t* At(uint8_t* out, size_t column) {
    return to == Codec::kFp32 ? out + 4 * column : reinterpret_cast<uint8_t*>(strip);
  }
  void Finish(const Kernels& kernels, size_t column, size_t count, uint8_t* out, bool stream) const {
    if (to != Codec::kFp32) Encode(kernels, to, strip, count, out + 2 * column, stream);
  }
};

void ConvertMxfp8(const Kernels& kernels, const Band& band, uint64_t row, uint64_t rows, bool stream,
                  Anomalies* anomalies) {
  StripOut strip;
  strip.to = band.target.codec;
  for (uint64_t r = row; r < row + rows; ++r) {
    const uint8_t* codes = static_cast<const uint8_t*>(band.source.data) + r * band.source.row_bytes;
    const uint8_t* scales = static_cast<const uint8_t*>(band.source.scales) + r * band.source.scale_row_bytes;
    uint8_t* out = static_cast<uint8_t*>(band.target.data) + r * band.target.row_bytes;
    for (size_t at = 0; at < band.cols; at += kStrip) {
      const size_t count = std::min<size_t>(kStrip, band.cols - at);
      uint8_t* to = strip.At(out, at);
      for (size_t start = 0; start < count; start += kMxGroup) {
        const size_t width = std::min<size_t>(kMxGroup, count - start);
        const uint8_t byte = scales[(at + start) / kMxGroup];
        const float scale = E8m0ToFloat(byte);
        const uint64_t nans = kernels.decode_fp8(codes + at + start, width, scale, to + 4 * start, false);
        anomalies->nan_codes += byte == kE8m0Nan ? width : nans;
        CountRareFp8(scale, strip.to, codes + at + start, 0, 1, width, anomalies);
      }
      strip.Finish(kernels, at, count, out, stream);
    }
  }
}

// ---- NVFP4

// What is odd about the elements of one group. The usual group costs three compares.
void CountNvfp4(uint8_t scale, float multiplier, const Source& source, Codec to, const uint8_t* packed, size_t width,
                Anomalies* anomalies) {
  if (E4m3IsNan(scale)) {
    anomalies->nan_codes += width;
    return;
  }
  const bool overflows = IsFinite(source.global) && BecomesInfinite(Nvfp4Value(7, multiplier), to);
  if (multiplier != 0 && !overflows) return;
  for (size_t i = 0; i < width; ++i) {
    const uint8_t nibble = packed[i / 2] >> (i % 2 * 4) & 15;
    anomalies->zero_scale_codes += multiplier == 0 && (nibble & 7) != 0;
    anomalies->overflows += overflows && BecomesInfinite(Nvfp4Value(nibble, multiplier), to);
  }
}

void ConvertNvfp4(const Kernels& kernels, const Band& band, uint64_t row, uint64_t rows, bool stream,
                  Anomalies* anomalies) {
  const Source& source = band.source;
  StripOut strip;
  strip.to = band.target.codec;
  float multipliers[kStrip / kNvfp4Group];
  anomalies->bad_scales += row == 0 && Fp8ScaleIsBad(source.global);
  for (uint64_t r = row; r < row + rows; ++r) {
    const uint8_t* packed = static_cast<const uint8_t*>(source.data) + r * source.row_bytes;
    const uint8_t* scales = static_cast<const uint8_t*>(source.scales) + r * source.scale_row_bytes;
    uint8_t* out = static_cast<uint8_t*>(band.target.data) + r * band.target.row_bytes;
    for (size_t at = 0; at < band.cols; at += kStrip) {
      const size_t count = std::min<size_t>(kStrip, band.cols - at);
      for (size_t start = 0; start < count; start += kNvfp4Group) {
        const uint8_t scale = scales[(at + start) / kNvfp4Group];
        const float multiplier = Nvfp4Multiplier(scale, source.global, source.global_divides);
        multipliers[start / kNvfp4Group] = multiplier;
        CountNvfp4(scale, multiplier, source, strip.to, packed + (at + start) / 2,
                   std::min<size_t>(kNvfp4Group, count - start), anomalies);
      }
      const bool direct = strip.to == Codec::kFp32;
      kernels.decode_nvfp4(packed + at / 2, multipliers, count, strip.At(out, at), direct && stream);
      strip.Finish(kernels, at, count, out, stream);
    }
  }
}

}  // namespace

// Rare, so counted by a pass of its own.
void CountRareFp8(float scale, Codec target, const uint8_t* codes, uint64_t row_bytes, uint64_t rows, size_t width,
                  Anomalies* anomalies) {
  if (scale == 0) {
    for (uint64_t r = 0; r < rows; ++r) {
      for (size_t i = 0; i < width; ++i) anomalies->zero_scale_codes += (codes[r * row_bytes + i] & 0x7F) != 0;
    }
    return;
  }
  if (!IsFinite(scale) || !BecomesInfinite(Fp8Value(kE4m3MaxCode, scale), target)) return;
  uint8_t first = kE4m3MaxCode;  // the smallest magnitude that overflows; larger ones do as well
  while (first > 0 && BecomesInfinite(Fp8Value(first - 1, scale), target)) --first;
  for (uint64_t r = 0; r < rows; ++r) {
    for (size_t i = 0; i < width; ++i) {
      const uint8_t magnitude = codes[r * row_bytes + i] & 0x7F;
      anomalies->overflows += magnitude >= first && magnitude != kE4m3Nan;
    }
  }
}

uint64_t ElementBytes(Codec codec) {
  return ElementBits(codec) / 8;
}

Anomalies ConvertRows(const Kernels& kernels, const Band& band, uint64_t row, uint64_t rows, bool stream) {
  Anomalies anomalies;
  if (rows == 0 || band.cols == 0) return anomalies;
  switch (band.source.codec) {
    case Codec::kFp8Block:
      ConvertFp8(kernels, band, row, rows, stream, &anomalies);
      break;
    case Codec::kMxfp4:
      ConvertMxfp4(kernels, band, row, rows, stream, &anomalies);
      break;
    case Codec::kMxfp8:
      ConvertMxfp8(kernels, band, row, rows, stream, &anomalies);
      break;
    case Codec::kNvfp4:
      ConvertNvfp4(kernels, band, row, rows, stream, &anomalies);
      break;
    case Codec::kFp32:
    case Codec::kFp16:
    case Codec::kBf16:
      ConvertPlain(kernels, band, row, rows, stream, &anomalies);
      break;
  }
  if (stream) kernels.fence();
  return anomalies;
}

}  // namespace mimo::kernels
