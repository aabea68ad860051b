// AVX-512 F + BW + VL + VBMI: a whole table of 128 (E4M3 magnitudes) or 2 x 16 (nibbles) bytes in registers, looked up
// 64 at a time. Everything else is memory bound already with AVX2. The tests compile this file a second time against an
// emulation of the intrinsics (MIMO_AVX512_INTRINSICS), under another name.
#include "kernels/cpu/kernel_table.h"

#ifdef MIMO_X86
#ifdef MIMO_AVX512_INTRINSICS
#include MIMO_AVX512_INTRINSICS
#else
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC's own intrinsics: _mm512_undefined_epi32
#endif
#include <immintrin.h>
#define MIMO_AVX512_ENTRY Avx512Kernels
#endif

namespace mimo::kernels {
const Kernels& MIMO_AVX512_ENTRY();

namespace {

__m512i Load(const uint8_t* p) {
  return _mm512_loadu_si512(reinterpret_cast<const void*>(p));
}

template <bool kStream>
void Store(uint8_t* p, __m512i v) {
  if constexpr (kStream) {
    _mm512_stream_si512(reinterpret_cast<__m512i*>(p), v);
  } else {
    _mm512_storeu_si512(reinterpret_cast<void*>(p), v);
  }
}

bool Aligned(const uint8_t* p) {
  return reinterpret_cast<uintptr_t>(p) % 64 == 0;
}

// The slot: 128 low bytes, then 128 high bytes, of the results of codes 0x00..0x7F. Exact for every scale: the entries
// come from the strip functions themselves.
void Fp8Prepare(float scale, Codec target, Fp8Slot* slot) {
  static constexpr auto kCodes = [] {
    struct {
      uint8_t code[128];
    } all{};
    for (unsigned i = 0; i < 128; ++i) all.code[i] = static_cast<uint8_t>(i);
    return all;
  }();
  alignas(64) float values[128];
  alignas(64) uint8_t bits[256];
  const Kernels& strips = Avx2Kernels();
  strips.decode_fp8(kCodes.code, 128, scale, reinterpret_cast<uint8_t*>(values), false);
  (target == Codec::kFp16 ? strips.encode_fp16 : strips.encode_bf16)(values, 128, bits, false);
  for (size_t i = 0; i < 128; ++i) {
    slot->table[i] = bits[2 * i];
    slot->table[128 + i] = bits[2 * i + 1];
  }
  slot->compact = false;
}

// One block of one row. Returns NaN codes.
template <bool kStream>
uint64_t Fp8Run(const uint8_t* codes, size_t n, const uint8_t* table, uint8_t* out) {
  const __m512i low0 = Load(table);
  const __m512i low1 = Load(table + 64);
  const __m512i high0 = Load(table + 128);
  const __m512i high1 = Load(table + 192);
  const __m512i sign = _mm512_set1_epi8(-128);
  const __m512i magnitude = _mm512_set1_epi8(0x7F);
  // Eighths 0 4 1 5 2 6 3 7, so that the unpacks, which work within quarters, give codes 0..31 and 32..63.
  const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
  uint64_t nans = 0;
  size_t i = 0;
  for (; i + 64 <= n; i += 64) {
    const __m512i code = _mm512_permutexvar_epi64(order, Load(codes + i));
    const __m512i low = _mm512_permutex2var_epi8(low0, code, low1);  // bit 7 of the index is ignored
    const __m512i high = _mm512_xor_si512(_mm512_permutex2var_epi8(high0, code, high1), _mm512_and_si512(code, sign));
    nans += static_cast<uint64_t>(
        __builtin_popcountll(_mm512_cmpeq_epi8_mask(_mm512_and_si512(code, magnitude), magnitude)));
    Store<kStream>(out + 2 * i, _mm512_unpacklo_epi8(low, high));
    Store<kStream>(out + 2 * i + 64, _mm512_unpackhi_epi8(low, high));
  }
  for (; i < n; ++i) {
    const unsigned code = codes[i] & 0x7Fu;
    nans += code == kE4m3Nan;
    Store16(out + 2 * i, static_cast<uint16_t>((table[code] | table[128 + code] << 8) ^ (codes[i] & 0x80) << 8));
  }
  return nans;
}

uint64_t Fp8PanelRows(const Fp8Panel& panel) {
  uint64_t nans = 0;
  for (uint64_t row = 0; row < panel.rows; ++row) {
    const uint8_t* codes = panel.codes + row * panel.code_row_bytes;
    uint8_t* row_out = panel.out + row * panel.out_row_bytes;
    for (uint32_t block = 0; block < panel.blocks; ++block) {
      const uint32_t start = panel.edges[block];
      const uint32_t width = panel.edges[block + 1] - start;
      uint8_t* out = row_out + 2 * size_t{start};
      const uint8_t* table = panel.slots[block].table;
      nans += panel.stream && Aligned(out) ? Fp8Run<true>(codes + start, width, table, out)
                                           : Fp8Run<false>(codes + start, width, table, out);
    }
  }
  return nans;
}

template <bool kStream>
void Mxfp4Run(const uint8_t* packed, const uint8_t* scales, size_t n, const Mxfp4Planes& planes, uint8_t* out) {
  // Quarter k: packed bytes 4k .. 4k+3, each four times: low byte and high byte of the even element, then of the odd
  // one.
  const __m512i four_times =
      _mm512_set_epi32(0x0F0F0F0F, 0x0E0E0E0E, 0x0D0D0D0D, 0x0C0C0C0C, 0x0B0B0B0B, 0x0A0A0A0A, 0x09090909, 0x08080808,
                       0x07070707, 0x06060606, 0x05050505, 0x04040404, 0x03030303, 0x02020202, 0x01010101, 0x00000000);
  const __m512i even = _mm512_set1_epi32(0x00000F0F);
  const __m512i odd = _mm512_set1_epi32(0x0F0F0000);
  const __m512i high_plane = _mm512_set1_epi32(0x10001000);
  size_t i = 0;
  for (; i + kMxfp4Group <= n; i += kMxfp4Group) {
    const uint8_t* plane = planes.bytes[scales[i / kMxfp4Group]];
    const __m512i table = _mm512_castsi256_si512(_mm256_load_si256(reinterpret_cast<const __m256i*>(plane)));
    const __m128i group = _mm_loadu_si128(reinterpret_cast<const __m128i*>(packed + i / 2));
    const __m512i bytes = _mm512_shuffle_epi8(_mm512_broadcast_i32x4(group), four_times);
    const __m512i nibbles =
        _mm512_or_si512(_mm512_and_si512(bytes, even), _mm512_and_si512(_mm512_srli_epi32(bytes, 4), odd));
    Store<kStream>(out + 2 * i, _mm512_permutexvar_epi8(_mm512_or_si512(nibbles, high_plane), table));
  }
  PortableKernels().mxfp4_row(packed + i / 2, scales + i / kMxfp4Group, n - i, planes, out + 2 * i, false);
}

void Mxfp4Row(const uint8_t* packed, const uint8_t* scales, size_t n, const Mxfp4Planes& planes, uint8_t* out,
              bool stream) {
  if (stream && Aligned(out)) {
    Mxfp4Run<true>(packed, scales, n, planes, out);
  } else {
    Mxfp4Run<false>(packed, scales, n, planes, out);
  }
}

}  // namespace

const Kernels& MIMO_AVX512_ENTRY() {
  static const Kernels kernels = [] {
    Kernels all = Avx2Kernels();
    all.fp8_prepare = Fp8Prepare;
    all.fp8_panel = Fp8PanelRows;
    all.fp8_panel_fp16 = true;
    all.mxfp4_row = Mxfp4Row;
    return all;
  }();
  return kernels;
}

}  // namespace mimo::kernels
#endif  // MIMO_X86
