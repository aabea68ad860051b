// What an instruction set implements: one table of functions per ISA. The rest (bands, panels, threads, rare anomalies)
// is shared. Every function takes bytes of any alignment, and all ISAs give equal bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/codec/bf16.h"
#include "kernels/codec/block_scale.h"
#include "kernels/codec/fp16.h"
#include "kernels/codec/mx.h"
#include "kernels/codec/nvfp4.h"
#include "kernels/convert.h"

#if defined(__x86_64__) || defined(_M_X64)
#define MIMO_X86 1
#endif

namespace mimo::kernels {

// NaN and infinite elements of a plain source.
struct Counts {
  uint64_t nans = 0;
  uint64_t infinities = 0;
  MIMO_HD Counts& operator+=(const Counts& other) {
    nans += other.nans;
    infinities += other.infinities;
    return *this;
  }
};

// A block FP8 scale made ready for a 16-bit target: what code -> bits needs, in the ISA's own order.
struct alignas(64) Fp8Slot {
  uint8_t table[256];
  bool compact;  // AVX2: `table` is the 16-entry form, not the full one
};

// Rows x (a run of column blocks) of E4M3 codes with their slots, to a 16-bit target.
struct Fp8Panel {
  const uint8_t* codes = nullptr;
  uint64_t code_row_bytes = 0;
  uint8_t* out = nullptr;
  uint64_t out_row_bytes = 0;
  uint64_t rows = 0;
  const uint32_t* edges = nullptr;  // blocks + 1 columns, the first 0
  const Fp8Slot* slots = nullptr;
  uint32_t blocks = 0;
  bool stream = false;
};

// Bits of all 16 nibbles under all 256 E8M0 bytes, for a 16-bit target: 16 low bytes, then 16 high bytes.
struct Mxfp4Planes {
  alignas(64) uint8_t bytes[256][32];
  MIMO_HD uint16_t Bits(uint8_t scale, uint8_t nibble) const {
    return static_cast<uint16_t>(bytes[scale][nibble] | bytes[scale][16 + nibble] << 8);
  }
};
const Mxfp4Planes& Mxfp4PlanesFor(Codec target);

struct Kernels {
  // n elements of a codec -> n FP32 (N), NaN made canonical.
  Counts (*decode_fp32)(const uint8_t* in, size_t n, uint8_t* out, bool stream);
  Counts (*decode_fp16)(const uint8_t* in, size_t n, uint8_t* out, bool stream);
  Counts (*decode_bf16)(const uint8_t* in, size_t n, uint8_t* out, bool stream);
  uint64_t (*decode_fp8)(const uint8_t* codes, size_t n, float scale, uint8_t* out, bool stream);  // returns NaN codes
  void (*decode_mxfp4)(const uint8_t* packed, const uint8_t* scales, size_t n, uint8_t* out, bool stream);
  // One multiplier per 16 elements.
  void (*decode_nvfp4)(const uint8_t* packed, const float* multipliers, size_t n, uint8_t* out, bool stream);
  // n FP32 -> n elements (M). Return the infinities written.
  uint64_t (*encode_fp16)(const float* in, size_t n, uint8_t* out, bool stream);
  uint64_t (*encode_bf16)(const float* in, size_t n, uint8_t* out, bool stream);
  // Fused.
  Counts (*move16)(const uint8_t* in, size_t n, uint8_t* out, uint16_t infinity, bool stream);
  Counts (*move32)(const uint8_t* in, size_t n, uint8_t* out, bool stream);
  void (*fp8_prepare)(float scale, Codec target, Fp8Slot* slot);
  uint64_t (*fp8_panel)(const Fp8Panel& panel);  // returns NaN codes
  void (*mxfp4_row)(const uint8_t* packed, const uint8_t* scales, size_t n, const Mxfp4Planes& planes, uint8_t* out,
                    bool stream);
  bool fp8_panel_fp16;  // whether the panel beats the strip for FP16 too
  void (*fence)();      // orders streaming stores before what follows
};

const Kernels& PortableKernels();
#ifdef MIMO_X86
const Kernels& Avx2Kernels();
const Kernels& Avx512Kernels();
#endif

// All targets together this large or larger are written past the cache.
inline constexpr uint64_t kStreamBytes = uint64_t{16} << 20;

Anomalies ConvertBandsWith(const Kernels& kernels, std::span<const Band> bands, int threads,
                           uint64_t stream_bytes = kStreamBytes);

// `rows` rows of a band from `row` on. Scales are judged where the band begins, so a band may be cut between rows.
Anomalies ConvertRows(const Kernels& kernels, const Band& band, uint64_t row, uint64_t rows, bool stream);

// Adds the elements of a rectangle of FP8 codes that a zero scale makes zero or a large one infinite (in `target`).
void CountRareFp8(float scale, Codec target, const uint8_t* codes, uint64_t row_bytes, uint64_t rows, size_t width,
                  Anomalies* anomalies);

const Kernels& KernelsFor(Isa isa);

uint64_t ElementBytes(Codec codec);  // of the three plain codecs

MIMO_HD inline uint16_t Load16(const uint8_t* p) {
  uint16_t v;
  std::memcpy(&v, p, 2);
  return v;
}
MIMO_HD inline uint32_t Load32(const uint8_t* p) {
  uint32_t v;
  std::memcpy(&v, p, 4);
  return v;
}
MIMO_HD inline void Store16(uint8_t* p, uint16_t v) {
  std::memcpy(p, &v, 2);
}
MIMO_HD inline void StoreFloat(uint8_t* p, float v) {
  std::memcpy(p, &v, 4);
}

}  // namespace mimo::kernels
