// The reference implementation in plain C++: the codecs of kernels/codec, element by element. Runs everywhere.
#include <algorithm>

#include "kernels/cpu/kernel_table.h"

namespace mimo::kernels {
namespace {

template <Codec kFrom>
float PlainValue(const uint8_t* p) {
  if constexpr (kFrom == Codec::kFp32) return CanonicalNan(FloatFromBits(Load32(p)));
  if constexpr (kFrom == Codec::kFp16) return Fp16ToFloat(Load16(p));
  return CanonicalNan(Bf16ToFloat(Load16(p)));
}

template <Codec kFrom>
Counts DecodePlain(const uint8_t* __restrict in, size_t n, uint8_t* __restrict out, bool) {
  Counts counts;
  for (size_t i = 0; i < n; ++i) {
    const float x = PlainValue<kFrom>(in + ElementBits(kFrom) / 8 * i);
    counts.nans += IsNan(x);
    counts.infinities += IsInf(x);
    StoreFloat(out + 4 * i, x);
  }
  return counts;
}

uint64_t DecodeFp8(const uint8_t* codes, size_t n, float scale, uint8_t* out, bool) {
  uint64_t nans = 0;
  for (size_t i = 0; i < n; ++i) {
    nans += E4m3IsNan(codes[i]);
    StoreFloat(out + 4 * i, Fp8Value(codes[i], scale));
  }
  return nans;
}

void DecodeMxfp4(const uint8_t* packed, const uint8_t* scales, size_t n, uint8_t* out, bool) {
  for (size_t i = 0; i < n; ++i) {
    const uint8_t nibble = packed[i / 2] >> (i % 2 * 4) & 15;
    StoreFloat(out + 4 * i, Mxfp4Value(nibble, scales[i / kMxfp4Group]));
  }
}

void DecodeNvfp4(const uint8_t* packed, const float* multipliers, size_t n, uint8_t* out, bool) {
  for (size_t i = 0; i < n; ++i) {
    const uint8_t nibble = packed[i / 2] >> (i % 2 * 4) & 15;
    StoreFloat(out + 4 * i, Nvfp4Value(nibble, multipliers[i / kNvfp4Group]));
  }
}

// Bits of a 16-bit target.
uint16_t Bits16(float x, Codec target) {
  return target == Codec::kFp16 ? Fp16FromFloat(x) : Bf16FromFloat(x);
}

template <Codec kTo>
uint64_t EncodePlain(const float* __restrict in, size_t n, uint8_t* __restrict out, bool) {
  uint64_t infinities = 0;
  for (size_t i = 0; i < n; ++i) {
    const uint16_t bits = Bits16(in[i], kTo);
    infinities += (bits & 0x7FFF) == (kTo == Codec::kFp16 ? kFp16Inf : kBf16Inf);
    Store16(out + 2 * i, bits);
  }
  return infinities;
}

Counts Move16(const uint8_t* __restrict in, size_t n, uint8_t* __restrict out, uint16_t infinity, bool) {
  Counts counts;
  for (size_t i = 0; i < n; ++i) {
    const uint16_t magnitude = Load16(in + 2 * i) & 0x7FFF;
    counts.nans += magnitude > infinity;
    counts.infinities += magnitude == infinity;
  }
  std::memcpy(out, in, 2 * n);
  return counts;
}

Counts Move32(const uint8_t* __restrict in, size_t n, uint8_t* __restrict out, bool) {
  Counts counts;
  for (size_t i = 0; i < n; ++i) {
    const float x = FloatFromBits(Load32(in + 4 * i));
    counts.nans += IsNan(x);
    counts.infinities += IsInf(x);
  }
  std::memcpy(out, in, 4 * n);
  return counts;
}

// The slot holds the 16-bit results of codes 0x00..0x7F; a code's sign is the result's.
void Fp8Prepare(float scale, Codec target, Fp8Slot* slot) {
  slot->compact = false;
  for (unsigned code = 0; code < 128; ++code) {
    Store16(slot->table + 2 * code, Bits16(Fp8Value(static_cast<uint8_t>(code), scale), target));
  }
}

uint64_t Fp8Run(const uint8_t* __restrict codes, size_t n, const uint8_t* __restrict table, uint8_t* __restrict out) {
  uint64_t nans = 0;
  for (size_t i = 0; i < n; ++i) {
    const uint8_t code = codes[i];
    nans += E4m3IsNan(code);
    Store16(out + 2 * i, static_cast<uint16_t>(Load16(table + 2 * (code & 0x7F)) ^ (code & 0x80) << 8));
  }
  return nans;
}

uint64_t Fp8PanelRows(const Fp8Panel& panel) {
  uint64_t nans = 0;
  for (uint64_t row = 0; row < panel.rows; ++row) {
    const uint8_t* codes = panel.codes + row * panel.code_row_bytes;
    uint8_t* out = panel.out + row * panel.out_row_bytes;
    for (uint32_t block = 0; block < panel.blocks; ++block) {
      const size_t start = panel.edges[block];
      nans += Fp8Run(codes + start, panel.edges[block + 1] - start, panel.slots[block].table, out + 2 * start);
    }
  }
  return nans;
}

void Mxfp4Row(const uint8_t* __restrict packed, const uint8_t* __restrict scales, size_t n, const Mxfp4Planes& planes,
              uint8_t* __restrict out, bool) {
  for (size_t start = 0; start < n; start += kMxfp4Group) {
    const size_t end = std::min<size_t>(n, start + kMxfp4Group);
    uint16_t bits[16];
    for (uint8_t nibble = 0; nibble < 16; ++nibble) bits[nibble] = planes.Bits(scales[start / kMxfp4Group], nibble);
    for (size_t i = start; i < end; ++i) Store16(out + 2 * i, bits[packed[i / 2] >> (i % 2 * 4) & 15]);
  }
}

void Fence() {}

Mxfp4Planes MakePlanes(Codec target) {
  Mxfp4Planes planes;
  for (unsigned scale = 0; scale < 256; ++scale) {
    for (unsigned nibble = 0; nibble < 16; ++nibble) {
      const float value = Mxfp4Value(static_cast<uint8_t>(nibble), static_cast<uint8_t>(scale));
      const uint16_t bits = Bits16(value, target);
      planes.bytes[scale][nibble] = static_cast<uint8_t>(bits & 0xFF);
      planes.bytes[scale][16 + nibble] = static_cast<uint8_t>(bits >> 8);
    }
  }
  return planes;
}

}  // namespace

const Mxfp4Planes& Mxfp4PlanesFor(Codec target) {
  static const Mxfp4Planes bf16 = MakePlanes(Codec::kBf16);
  static const Mxfp4Planes fp16 = MakePlanes(Codec::kFp16);
  return target == Codec::kFp16 ? fp16 : bf16;
}

const Kernels& PortableKernels() {
  static constexpr Kernels kernels = {
      .decode_fp32 = DecodePlain<Codec::kFp32>,
      .decode_fp16 = DecodePlain<Codec::kFp16>,
      .decode_bf16 = DecodePlain<Codec::kBf16>,
      .decode_fp8 = DecodeFp8,
      .decode_mxfp4 = DecodeMxfp4,
      .decode_nvfp4 = DecodeNvfp4,
      .encode_fp16 = EncodePlain<Codec::kFp16>,
      .encode_bf16 = EncodePlain<Codec::kBf16>,
      .move16 = Move16,
      .move32 = Move32,
      .fp8_prepare = Fp8Prepare,
      .fp8_panel = Fp8PanelRows,
      .mxfp4_row = Mxfp4Row,
      .fp8_panel_fp16 = true,
      .fence = Fence,
  };
  return kernels;
}

}  // namespace mimo::kernels
