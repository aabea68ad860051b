// Rows of blocks of FP8: a block of target rows and a panel of columns at a time, which stays in the cache between its
// two passes. The first finds the maximum of each cell, the second encodes.
#include <algorithm>
#include <vector>

#include "kernels/cpu/encode_table.h"

namespace mimo::kernels {
namespace {

constexpr uint64_t kPanel = 1024;  // columns, rounded to whole cells

// What is known of a cell before its first code.
struct Cell {
  float amax = 0;
  bool all_mxfp4 = true;  // and no NaN byte
  uint8_t least = 255;    // bytes of groups that are not zero
  uint8_t largest = 0;
  bool all_finite = true;  // known where a scale may be kept
  float scale = 0;
  bool exact = false;
};

// A row of the target and where it comes from.
struct RowOf {
  const SourceRows* rows = nullptr;
  uint64_t row = 0;
};

bool AnyNonZero(const uint8_t* packed, size_t columns) {
  for (size_t i = 0; i < columns; ++i) {
    if ((packed[i / 2] >> (i % 2 * 4) & 7) != 0) return true;
  }
  return false;
}

// E4M3 codes of the 16 nibbles by how far their byte is below the largest; the last row keeps signs only.
using ExactCodes = uint8_t[kFp8ExactSpan + 2][16];
const ExactCodes& ExactTable() {
  static const auto table = [] {
    struct {
      ExactCodes codes;
    } all{};
    for (uint8_t nibble = 0; nibble < 16; ++nibble) {
      for (uint8_t under = 0; under <= kFp8ExactSpan; ++under) {
        all.codes[under][nibble] = Fp8ExactCode(nibble, static_cast<uint8_t>(200 - under), 200);
      }
      all.codes[kFp8ExactSpan + 1][nibble] = Fp8ExactCode(nibble & 8, 200, 200);
    }
    return all;
  }();
  return table.codes;
}

class Cells {
 public:
  Cells(const EncodeJob& job, const Kernels& kernels, const EncodeKernels& encoders)
      : job_(job), kernels_(kernels), encoders_(encoders), width_(job.encoding.block_cols) {}

  EncodeCounts Encode() {
    for (const SourceRows& rows : job_.from) {
      counts_.anomalies.bad_scales += CountBadScales(rows, job_.cols);
      for (uint64_t row = 0; row < rows.rows; ++row) {
        block_.push_back({&rows, row});
        if (block_.size() == job_.encoding.block_rows) EncodeBlock();
      }
    }
    if (!block_.empty()) EncodeBlock();
    return counts_;
  }

 private:
  void EncodeBlock() {
    const uint64_t panel = width_ < kPanel ? kPanel / width_ * width_ : width_;
    for (uint64_t col = 0; col < job_.cols; col += panel) EncodePanel(col, std::min(job_.cols, col + panel));
    first_row_ += block_.size();
    ++block_row_;
    block_.clear();
  }

  void EncodePanel(uint64_t start, uint64_t end) {
    cells_.assign((end - start + width_ - 1) / width_, Cell{});
    for (const RowOf& row : block_) MeasureRow(row, start, end);
    uint8_t* scales = job_.scales + block_row_ * job_.scale_row_bytes + start / width_ * 4;
    for (size_t i = 0; i < cells_.size(); ++i) {
      Cell& cell = cells_[i];
      const float old = job_.keep == nullptr ? 0 : KeptScale(start / width_ + i);
      const bool kept = job_.keep != nullptr && cell.all_finite && Fp8ScaleFits(job_.encoding, cell.amax, old);
      cell.exact = !kept && !job_.encoding.neuron && cell.all_mxfp4 && cell.largest >= cell.least &&
                   cell.largest - cell.least <= kFp8ExactSpan && cell.largest <= kMxfp4LargestFinite;
      cell.scale = kept ? old : cell.exact ? Fp8ExactScale(cell.largest) : Fp8CellScale(job_.encoding, cell.amax);
      counts_.kept_blocks += kept;
      StoreFloat(scales + 4 * i, cell.scale);
      counts_.exact_blocks += cell.exact;
    }
    counts_.blocks += cells_.size();
    for (size_t i = 0; i < block_.size(); ++i) EncodeRow(block_[i], first_row_ + i, start, end);
  }

  float KeptScale(uint64_t column) const {
    return FloatFromBits(Load32(job_.keep + block_row_ * job_.scale_row_bytes + 4 * column));
  }

  // Decodes pieces of a row that lie in one cell and one strip.
  template <class Visit>
  void ForPieces(const RowOf& row, uint64_t start, uint64_t end, Anomalies* anomalies, const Visit& visit) {
    for (uint64_t at = start; at < end; at += kEncodeStrip) {
      const uint64_t stop = std::min(end, at + kEncodeStrip);
      DecodeStrip(kernels_, *row.rows, job_.cols, row.row, at, stop - at, strip_, anomalies);
      if (job_.encoding.via_bf16) anomalies->overflows += encoders_.round_bf16(strip_, stop - at);
      for (uint64_t piece = at; piece < stop;) {
        const uint64_t index = (piece - start) / width_;
        const uint64_t piece_end = std::min(stop, start + (index + 1) * width_);
        visit(&cells_[index], strip_ + (piece - at), piece, piece_end - piece);
        piece = piece_end;
      }
    }
  }

  // BF16 values tell how large they are as they are stored. False where not all are finite: then they are to be looked
  // at.
  bool MeasureBf16(const RowOf& row, uint64_t start, uint64_t end) {
    const Source& source = row.rows->source;
    if (source.codec != Codec::kBf16) return false;
    const uint8_t* values = static_cast<const uint8_t*>(source.data) + row.row * source.row_bytes;
    for (size_t i = 0; i < cells_.size(); ++i) {
      const uint64_t col = start + i * width_;
      const uint16_t largest = encoders_.max16(values + 2 * col, std::min(width_, end - col));
      if (largest >= kBf16Inf) return false;
      cells_[i].amax = std::max(cells_[i].amax, FloatFromBits(uint32_t{largest} << 16));
    }
    return true;
  }

  void MeasureRow(const RowOf& row, uint64_t start, uint64_t end) {
    const Source& source = row.rows->source;
    if (!MeasureBf16(row, start, end)) {
      ForPieces(row, start, end, &counts_.anomalies, [&](Cell* cell, const float* values, uint64_t, uint64_t count) {
        cell->amax = std::max(cell->amax, encoders_.amax(values, count));
        if (job_.keep == nullptr) return;
        cell->all_finite &= encoders_.max32(reinterpret_cast<const uint8_t*>(values), count) < kFp32Inf;
      });
    }
    const uint8_t* bytes = static_cast<const uint8_t*>(source.scales) + row.row * source.scale_row_bytes;
    const uint8_t* packed = static_cast<const uint8_t*>(source.data) + row.row * source.row_bytes;
    for (size_t i = 0; i < cells_.size(); ++i) {
      Cell& cell = cells_[i];
      cell.all_mxfp4 = cell.all_mxfp4 && source.codec == Codec::kMxfp4;
      if (!cell.all_mxfp4) continue;
      const uint64_t cell_end = std::min(end, start + (i + 1) * width_);
      for (uint64_t col = start + i * width_; col < cell_end; col += kMxGroup) {
        const uint8_t byte = bytes[col / kMxGroup];
        if (byte == kE8m0Nan) {
          cell.all_mxfp4 = false;
          break;
        }
        if (byte >= cell.least && byte <= cell.largest) continue;
        if (!AnyNonZero(packed + col / 2, std::min<uint64_t>(kMxGroup, cell_end - col))) continue;
        cell.least = std::min(cell.least, byte);
        cell.largest = std::max(cell.largest, byte);
      }
    }
  }

  void EncodeRow(const RowOf& row, uint64_t target_row, uint64_t start, uint64_t end) {
    Anomalies again;  // counted by the first pass already
    uint8_t* codes = job_.codes + target_row * job_.code_row_bytes;
    bool all_exact = true;
    for (const Cell& cell : cells_) all_exact &= cell.exact;
    if (!all_exact) {
      ForPieces(row, start, end, &again, [&](Cell* cell, const float* values, uint64_t col, uint64_t count) {
        if (cell->exact) return;
        encoders_.fp8(values, count, cell->scale, codes + col);
        if (!job_.encoding.neuron) return;
        for (uint64_t i = 0; i < count; ++i) codes[col + i] = Fp8NeuronLimit(codes[col + i]);
      });
    }
    for (size_t i = 0; i < cells_.size(); ++i) {
      if (!cells_[i].exact) continue;
      const uint64_t cell_end = std::min(end, start + (i + 1) * width_);
      for (uint64_t col = start + i * width_; col < cell_end; col += kMxGroup) {
        MoveGroup(row, cells_[i].largest, col, std::min<uint64_t>(kMxGroup, cell_end - col), codes + col);
      }
    }
  }

  // A group of zeros may have any byte.
  static void MoveGroup(const RowOf& row, uint8_t largest, uint64_t col, uint64_t count, uint8_t* codes) {
    const Source& source = row.rows->source;
    const uint8_t byte = static_cast<const uint8_t*>(source.scales)[row.row * source.scale_row_bytes + col / kMxGroup];
    const uint8_t* packed = static_cast<const uint8_t*>(source.data) + row.row * source.row_bytes + col / 2;
    const bool in_span = byte <= largest && largest - byte <= kFp8ExactSpan;
    const uint8_t* table = ExactTable()[in_span ? largest - byte : kFp8ExactSpan + 1];
    for (uint64_t i = 0; i < count; ++i) codes[i] = table[packed[i / 2] >> (i % 2 * 4) & 15];
  }

  const EncodeJob& job_;
  const Kernels& kernels_;
  const EncodeKernels& encoders_;
  const uint64_t width_;
  std::vector<RowOf> block_;  // the rows of the block at hand
  std::vector<Cell> cells_;   // of the panel at hand
  uint64_t first_row_ = 0;
  uint64_t block_row_ = 0;
  EncodeCounts counts_;
  alignas(64) float strip_[kEncodeStrip];
};

}  // namespace

EncodeCounts EncodeCells(const EncodeJob& job, const Kernels& kernels, const EncodeKernels& encoders) {
  return Cells(job, kernels, encoders).Encode();
}

}  // namespace mimo::kernels
