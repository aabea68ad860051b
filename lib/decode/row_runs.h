// Rows of stored arrays in memory as the kernels take them: runs of rows that share one row of scales.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "kernels/encode.h"
#include "lib/decode/source_array.h"

namespace mimo {

// Where the bytes of stored arrays lie in memory. Only what is there may be asked for.
class SourceMemory {
 public:
  virtual ~SourceMemory() = default;
  // The arrays; their scales, globals and bands are given by place in this list.
  virtual std::span<const SourceArray> sources() const = 0;
  virtual uint64_t RowBytes(uint32_t source) const = 0;
  // Row `row` of a source. Rows that are decoded together follow each other in memory.
  virtual const std::byte* Row(uint32_t source, int64_t row) const = 0;
};

// A rectangle of values: rows [row, row + rows) of a source, columns [col, col + cols).
struct SourceRectangle {
  uint32_t source = 0;
  int64_t row = 0;
  int64_t rows = 0;
  int64_t first_row = 0;  // rows from here to `row` were decoded before: bad scales are counted once per band
  int64_t col = 0;
  int64_t cols = 0;
};

// Points into the memory of the rectangles, which outlives it.
class RowRuns {
 public:
  RowRuns() = default;
  RowRuns(const RowRuns&) = delete;
  RowRuns& operator=(const RowRuns&) = delete;

  // `from` with its scales and global, which must be in memory too (VisitScaleRows). Of all runs the first alone may
  // continue a band that was begun before (kernels::SourceRows::continues).
  void Add(const SourceMemory& memory, const SourceRectangle& from);
  // Rows that lie elsewhere.
  void Add(const kernels::SourceRows& rows) { runs_.push_back(rows); }
  // The same of block FP8, under a scale for every two neighbours of `edges` (kernels::Band::column_edges).
  void Add(kernels::SourceRows rows, std::vector<float> scales, std::vector<uint32_t> edges);

  std::span<const kernels::SourceRows> list() const { return runs_; }

 private:
  void AddBands(const SourceMemory& memory, const SourceRectangle& from, kernels::SourceRows run);
  // The scales of bands as the kernels want them: aligned floats, where they lie when they are that, else copies.
  void AddScales(const SourceMemory& memory, const SourceArray& source, std::span<const SourceBand> bands,
                 std::vector<const float*>* rows);

  std::vector<kernels::SourceRows> runs_;
  std::deque<std::vector<float>> scales_;    // copies; never moved
  std::deque<std::vector<uint32_t>> edges_;  // of columns; never moved
};

}  // namespace mimo
