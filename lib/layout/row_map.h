// Where the rows of Q, K and V lie in every layout of the field: the fused(C) family and the split ones (design:
// docs/layouts.md).
//
// fused(C) is C chunks; chunk c holds Q heads [c*H/C, (c+1)*H/C), then its K heads, then its V heads. With C <= G the
// KV heads of a chunk are [c*G/C, (c+1)*G/C); with C > G it holds a copy of KV head floor(c*G/C).
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "lib/base/status.h"
#include "lib/model/config.h"

namespace mimo {

enum class Projection : uint8_t { kQ = 0, kK = 1, kV = 2 };

enum class QkvKind : uint8_t {
  kFused,  // one array, block grid tiled per chunk
  kSplit,  // q, k, v arrays cut out of fused(chunks), or out of fused(KV heads) in layers with fewer: heads are not
           // replicated, and the block grid is still that of the chunk
  kSplitIndependent,  // q, k, v arrays, each with its own uniform grid
};

struct QkvLayout {
  QkvKind kind = QkvKind::kFused;
  int64_t chunks = 1;  // C; 1 for kSplitIndependent
  bool operator==(const QkvLayout&) const = default;
  bool fused() const { return kind == QkvKind::kFused; }
  std::string ToString() const;  // "fused(4)", "split(4)", "split(independent)"
};
// Each of q, k and v with a grid of its own; the usual layout of values.
inline constexpr QkvLayout kOwnGrids{QkvKind::kSplitIndependent, 1};

// Arrays of a layout, in order: fused {qkv}, split {q, k, v}. `rows` consecutive rows starting at `array_row` of array
// `array` hold rows [logical_row, logical_row + rows) of `projection`, heads ascending.
struct RowRun {
  uint8_t array = 0;
  Projection projection = Projection::kQ;
  int64_t array_row = 0;
  int64_t logical_row = 0;
  int64_t rows = 0;
  bool operator==(const RowRun&) const = default;
};

// Rows [row_begin, row_end) of `array` take row `scale_row` of the scales of array `scale_array`.
struct ScaleBand {
  uint8_t array = 0;
  int64_t row_begin = 0;
  int64_t row_end = 0;
  uint8_t scale_array = 0;
  int64_t scale_row = 0;
  bool operator==(const ScaleBand&) const = default;
};

// One layer's attention under one layout. An immutable value.
struct QkvMap {
  QkvLayout layout;
  int arrays = 1;
  std::array<int64_t, 3> rows{};        // of each array
  std::array<int64_t, 3> scale_rows{};  // of its scale array
  std::vector<RowRun> runs;             // ascending by (array, array_row); cover every row once
  std::vector<ScaleBand> bands;         // ascending by (array, row_begin); cover every row once
};

// Whether `layout` can hold `shape`: the chunks that it is cut into divide the Q heads, and divide the KV heads or
// (fused) are a multiple of them.
bool LayoutFits(const QkvLayout& layout, const AttentionShape& shape);

// The map of `shape` (KV heads before replication) under `layout`; requires LayoutFits. `block_rows` is the height of a
// block.
QkvMap BuildQkvMap(const QkvLayout& layout, const AttentionShape& shape, int64_t block_rows = 128);

// A run of target rows and where the source stores them.
inline constexpr uint8_t kPaddingArray = 0xFF;
struct RowMove {
  uint8_t target_array = 0;
  int64_t target_row = 0;
  uint8_t source_array = 0;  // kPaddingArray: heads that the source has not
  int64_t source_row = 0;
  int64_t rows = 0;
  bool operator==(const RowMove&) const = default;
};

// source layout -> target layout: for every target row, in order, its source row (the first copy where the source holds
// replicas). Shapes may differ in their head counts: heads are counted from the first, those beyond the source's are
// padding. Neighbouring rows that stay neighbours are one move.
std::vector<RowMove> ComposeRows(const QkvMap& source, const QkvMap& target);

// Whether some block of the target takes rows from under several scales of the source.
bool Straddles(const QkvMap& source, const QkvMap& target);

}  // namespace mimo
