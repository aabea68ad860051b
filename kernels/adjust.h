// Moves of codes that change them on the way: E4M3 codes to and from the range of Neuron's E4M3 (largest 240), and
// matrices turned over. Equal bytes on every instruction set. No threads are started.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/convert.h"

namespace mimo::kernels {

// What becomes of an E4M3 code (kernels/codec/e4m3_adjust.h). NaN codes stay as they are.
enum class CodeRule : uint8_t {
  kHalve,   // half the value, ties to even
  kDouble,  // twice the value, at most 448
  kNeuron,  // E4M3(BF16(value / (448 / 240)))
};

struct CodeCounts {
  uint64_t inexact = 0;   // kHalve: a bit was lost; kNeuron: the new value is not the old one times 240 / 448
  uint64_t overflow = 0;  // kDouble: twice the value is beyond 448
  CodeCounts& operator+=(const CodeCounts& other);
  bool operator==(const CodeCounts&) const = default;
};

// n codes. `out` may be `in`; otherwise they do not overlap.
CodeCounts AdjustCodes(CodeRule rule, const uint8_t* in, uint8_t* out, size_t n, Isa isa = BestIsa());

// out[c][r] = in[r][c] for `rows` x `cols` elements of 1, 2 or 4 bytes; the strides are of `in` and of `out`, in bytes,
// and bytes between the rows are left alone. Any alignment. The two do not overlap.
void Transpose(const uint8_t* in, uint64_t in_row_bytes, uint64_t rows, uint64_t cols, uint32_t element_bytes,
               uint8_t* out, uint64_t out_row_bytes, Isa isa = BestIsa());

}  // namespace mimo::kernels
