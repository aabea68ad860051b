#include "lib/run/assembled_rows.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "lib/base/checked.h"
#include "lib/decode/decode.h"
#include "lib/decode/row_bytes.h"
#include "lib/model/scale_values.h"

namespace mimo {
namespace {

constexpr int64_t kGroup = kernels::GroupOf(Codec::kMxfp4);
constexpr std::byte kE8m0One{127};

// Whether rows in this codec can be put together as they are stored. Those of NVFP4 have global scales of their own.
bool StandsBeside(Codec codec) {
  return IsValueCodec(codec) || codec == Codec::kFp8Block || codec == Codec::kMxfp4;
}

int64_t ColumnsOf(const StripPiece& piece, int64_t columns) {
  return piece.cols == 0 ? columns : piece.cols;
}

class Assembler {
 public:
  Assembler(const StepBuffer& buffer, const EncodeStrip& strip, const AssembledRows& form, std::byte* room)
      : buffer_(buffer),
        form_(form),
        room_(room),
        columns_(EncodeColumns(buffer.job(), buffer.job().plan.groups[strip.group].encoded[strip.weight])),
        rows_(strip.rows),
        pieces_(PiecesOf(buffer.job(), strip)) {}

  Result<kernels::Anomalies> Assemble(RowRuns* runs) {
    kernels::Anomalies odd;
    for (const StripPiece& piece : pieces_) {
      if (piece.source == kNone) {
        FillPadding(piece);
      } else if (SourceOf(piece).codec == form_.codec) {
        CopyPiece(piece);
      } else {
        MIMO_ASSIGN_OR_RETURN(const kernels::Anomalies found, DecodePiece(piece));
        odd.bad_scales += found.bad_scales;
        odd.zero_scale_codes += found.zero_scale_codes;
      }
    }
    if (form_.codec == Codec::kFp8Block) {
      AddBlocks(runs);
      return odd;
    }
    kernels::SourceRows run = RunAt(0, rows_);
    if (form_.scale_row_bytes > 0) {
      run.source.scales = Scales(0);
      run.source.scale_row_bytes = form_.scale_row_bytes;
    }
    runs->Add(run);
    return odd;
  }

 private:
  const SourceArray& SourceOf(const StripPiece& piece) const { return buffer_.job().plan.sources[piece.source]; }
  std::byte* Scales(int64_t row) const {
    return room_ + Rows(rows_, form_.row_bytes) + Rows(row, form_.scale_row_bytes);
  }
  std::byte* At(int64_t row, int64_t col) const {
    return room_ + Rows(row, form_.row_bytes) + ColumnBytes(form_.codec, col);
  }
  kernels::SourceRows RunAt(int64_t row, int64_t rows) const {
    kernels::SourceRows run;
    run.source.codec = form_.codec;
    run.source.data = At(row, 0);
    run.source.row_bytes = form_.row_bytes;
    run.rows = static_cast<uint64_t>(rows);
    return run;
  }

  void FillPadding(const StripPiece& piece) const {
    const int64_t cols = ColumnsOf(piece, columns_);
    for (int64_t row = piece.target_row; row < piece.target_row + piece.rows; ++row) {
      std::memset(At(row, piece.target_col), 0, ColumnBytes(form_.codec, cols));
      if (form_.scale_row_bytes > 0) std::fill_n(Scales(row) + piece.target_col / kGroup, cols / kGroup, kE8m0One);
    }
  }

  void CopyPiece(const StripPiece& piece) const {
    const int64_t cols = ColumnsOf(piece, columns_);
    const SourceArray& source = SourceOf(piece);
    for (int64_t i = 0; i < piece.rows; ++i) {
      const int64_t row = piece.target_row + i;
      std::memcpy(At(row, piece.target_col),
                  buffer_.Row(piece.source, piece.source_row + i) + ColumnBytes(form_.codec, piece.source_col),
                  ColumnBytes(form_.codec, cols));
      if (form_.scale_row_bytes > 0)
        std::memcpy(Scales(row) + piece.target_col / kGroup,
                    buffer_.Row(source.scale, piece.source_row + i) + piece.source_col / kGroup,
                    static_cast<size_t>(cols / kGroup));
    }
  }

  // To FP32: nothing is lost, and what is odd about the values shows when they are encoded.
  Result<kernels::Anomalies> DecodePiece(const StripPiece& piece) const {
    const SourceRectangle from{piece.source,     piece.source_row,
                               piece.rows,       piece.begins ? piece.source_row : piece.source_row - 1,
                               piece.source_col, ColumnsOf(piece, columns_)};
    const kernels::Target into{form_.codec, At(piece.target_row, piece.target_col), form_.row_bytes};
    return Decode(buffer_, from, into, [](std::span<const kernels::Band> bands) -> Result<kernels::Anomalies> {
      return kernels::ConvertBands(bands);
    });
  }

  // Runs of rows under one row of scales in every rectangle, whose scales are put together too.
  void AddBlocks(RowRuns* runs) const {
    std::set<int64_t> edges{0, rows_};
    for (const StripPiece& piece : pieces_) {
      edges.insert({piece.target_row, piece.target_row + piece.rows});
      if (piece.source == kNone) continue;
      for (const SourceBand& band : BandsOf(SourceOf(piece), piece.source_row, piece.rows))
        edges.insert(piece.target_row + band.row_begin - piece.source_row);
    }
    for (auto begin = edges.begin(), end = std::next(begin); end != edges.end(); begin = end++)
      AddBlockRun(*begin, *end - *begin, runs);
  }

  void AddBlockRun(int64_t row, int64_t rows, RowRuns* runs) const {
    std::vector<const StripPiece*> beside;
    for (const StripPiece& piece : pieces_)
      if (piece.target_row <= row && row < piece.target_row + piece.rows) beside.push_back(&piece);
    std::sort(beside.begin(), beside.end(),
              [](const StripPiece* a, const StripPiece* b) { return a->target_col < b->target_col; });
    kernels::SourceRows run = RunAt(row, rows);
    run.continues = true;
    std::vector<float> scales;
    std::vector<uint32_t> edges{0};
    for (const StripPiece* piece : beside) {
      const int64_t end = piece->target_col + ColumnsOf(*piece, columns_);
      if (piece->source == kNone) {
        scales.push_back(1);
        edges.push_back(static_cast<uint32_t>(end));
        continue;
      }
      const SourceArray& source = SourceOf(*piece);
      const int64_t source_row = piece->source_row + row - piece->target_row;
      const SourceBand band = BandsOf(source, source_row, 1)[0];
      const bool first = row == piece->target_row && piece->begins;
      run.continues = run.continues && !first && source_row > 0 && BandsOf(source, source_row - 1, 2).size() == 1;
      const uint64_t element = BitsPerElement(source.scale_type) / 8;
      const std::byte* stored = source.scales_in_a_row ? buffer_.Row(band.scale, 0) + Rows(band.scale_row, element)
                                                       : buffer_.Row(band.scale, band.scale_row);
      for (int64_t col = piece->target_col; col < end; col = edges.back()) {
        const int64_t source_col = piece->source_col + col - piece->target_col;
        const int64_t block = source_col / source.block_cols;
        scales.push_back(WidenScale(source.scale_type, stored + Rows(block, element)));
        edges.push_back(static_cast<uint32_t>(std::min(end, col + (block + 1) * source.block_cols - source_col)));
      }
    }
    runs->Add(run, std::move(scales), std::move(edges));
  }

  const StepBuffer& buffer_;
  const AssembledRows& form_;
  std::byte* const room_;
  const int64_t columns_, rows_;
  const std::vector<StripPiece> pieces_;
};

}  // namespace

std::optional<AssembledRows> AssembledRowsOf(const Job& job, const EncodeStrip& strip) {
  const int64_t columns = EncodeColumns(job, job.plan.groups[strip.group].encoded[strip.weight]);
  bool whole = true, in_groups = columns % kGroup == 0;
  std::optional<Codec> codec;
  for (const StripPiece& piece : PiecesOf(job, strip)) {
    const int64_t width = ColumnsOf(piece, columns);
    whole &= piece.source != kNone && piece.target_col == 0 && width == columns;
    in_groups &= piece.target_col % kGroup == 0 && width % kGroup == 0;
    if (piece.source == kNone) continue;
    const Codec from = job.plan.sources[piece.source].codec;
    codec = !codec || *codec == from ? from : Codec::kFp32;
  }
  if (whole) return std::nullopt;
  if (!codec || !StandsBeside(*codec) || (codec == Codec::kMxfp4 && !in_groups)) codec = Codec::kFp32;
  const uint64_t scales = *codec == Codec::kMxfp4 ? static_cast<uint64_t>(columns / kGroup) : 0;
  return AssembledRows{*codec, ColumnBytes(*codec, columns), scales};
}

Result<kernels::Anomalies> AssembleRows(const StepBuffer& buffer, const EncodeStrip& strip, const AssembledRows& form,
                                        std::byte* room, RowRuns* runs) {
  return Assembler(buffer, strip, form, room).Assemble(runs);
}

}  // namespace mimo
