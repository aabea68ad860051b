#include "lib/planner/resolve.h"

#include <algorithm>

#include "lib/decode/row_bytes.h"
#include "lib/draft/cut_pieces.h"
#include "lib/plan/reads.h"
#include "lib/recipe/codec_types.h"

namespace mimo {
namespace {

constexpr char kTwoRuns[] = "two runs: --to hf first, then the rest";

class StoredReader {
 public:
  StoredReader(const View& view, const Catalogue& stored, Plan* plan) : view_(view), stored_(stored), plan_(*plan) {}

  Status ReplaceSources() {
    shown_ = std::move(plan_.sources);
    plan_.sources.clear();
    source_of_.assign(stored_.arrays.size(), kNone);
    for (OutputArray& output : plan_.outputs) MIMO_RETURN_IF_ERROR(ResolveOutput(&output));
    for (FuseGroup& group : plan_.groups) {
      for (CellRow& cell : group.cells) MIMO_RETURN_IF_ERROR(ResolveCell(&cell));
      for (EncodedWeight& weight : group.encoded) {
        int64_t row = 0;
        if (weight.keep != kNone) MIMO_RETURN_IF_ERROR(MoveToStored(&weight.keep, &row));
      }
    }
    for (PlanFile& file : plan_.files)
      if (file.source_file >= view_.real_files) file.source_file = kNone;
    // Replicas of what is not read need no comparison.
    for (const Replica& r : view_.replicas) {
      if (source_of_[r.first] == kNone && source_of_[r.second] == kNone) continue;
      const uint32_t first = Source(r.first), second = Source(r.second);
      plan_.equal.push_back({first, second, r.first_row, r.second_row, r.rows});
    }
    return {};
  }

 private:
  uint32_t Source(uint32_t array) {
    uint32_t& index = source_of_[array];
    if (index == kNone) {
      index = static_cast<uint32_t>(plan_.sources.size());
      SourceArray& source = plan_.sources.emplace_back();
      source.array = array;
      source.block_rows = stored_.config.block_rows;
      source.block_cols = stored_.config.block_cols;
    }
    return index;
  }

  // Codes of a Hugging Face run that is merged with its reference: the array is stored as it is shown, and so are its
  // scales, those of other arrays among them (SourceArray::bands).
  bool IsWholeOfRun(const SourceArray& shown) const {
    return view_.form == FormKind::kHf && shown.quantized && view_.fragments[shown.array].size() == 1;
  }

  // Codes of a rank under its own scales: row / block, for ranks are cut at blocks, and chunks begin their grids anew.
  uint32_t Decoded(uint32_t array, const SourceArray& shown) {
    if (IsWholeOfRun(shown)) return RealSource(shown);
    const uint32_t index = Source(array);
    if (!shown.quantized) {
      plan_.sources[index].codec = shown.codec;
      return index;
    }
    const uint32_t scale = Source(view_.scale_of[array]);
    SourceArray& source = plan_.sources[index];
    source.quantized = true;
    source.codec = shown.codec;
    source.scale = scale;
    const bool turned = view_.transposed[shown.array] != 0;
    source.block_rows = turned ? shown.block_cols : shown.block_rows;
    source.block_cols = turned ? shown.block_rows : shown.block_cols;
    source.scale_type = shown.scale_type;
    source.scales_in_a_row = shown.scales_in_a_row;
    return index;
  }

  // Its codec and grid are those of the plan so far; scales are real as well.
  uint32_t RealSource(const SourceArray& shown) {
    const auto source_of = [&](uint32_t source) {
      return source == kNone ? kNone : Source(view_.fragments[shown_[source].array][0].array);
    };
    SourceArray real = shown;
    real.array = view_.fragments[shown.array][0].array;
    const uint32_t index = Source(real.array);
    real.scale = source_of(shown.scale);
    real.global = source_of(shown.global);
    for (SourceBand& band : real.bands) band.scale = source_of(band.scale);
    plan_.sources[index] = std::move(real);
    return index;
  }

  Status ResolveOutput(OutputArray* output) {
    std::vector<Piece> pieces;
    planned_ = output->transform;
    for (const Piece& piece : output->pieces)
      if (piece.source == kNone)
        pieces.push_back(piece);
      else
        MIMO_RETURN_IF_ERROR(ResolvePiece(output, piece, &pieces));
    SortPieces(&pieces);
    output->pieces = std::move(pieces);
    int64_t row = 0;
    if (output->keep != kNone) MIMO_RETURN_IF_ERROR(MoveToStored(&output->keep, &row));
    output->unchanged &= plan_.files[output->file].source_file < view_.real_files;
    return {};
  }

  // What is shown turned over is turned back where it is moved or decoded.
  Status TurnBack(const SourceArray& shown, OutputArray* output) const {
    switch (planned_) {
      case Transform::kMove:
        SetTransposed(output);
        return {};
      case Transform::kConvert:
        output->transform = Transform::kTranspose;
        return CheckBlocksOf(shown);
      case Transform::kEncode:
      case Transform::kTranspose:
      case Transform::kInvert:
      case Transform::kRelayout:
      case Transform::kScales:
      case Transform::kBeside:
      case Transform::kConstant:
        break;
    }
    return UsageError("what Neuron directories hold turned over cannot be quantized or turned over again")
        .Expected(kTwoRuns)
        .Found(output->name);
  }

  // Blocks of a stack lie on one grid where each matrix is whole blocks.
  Status CheckBlocksOf(const SourceArray& shown) const {
    const StoredArray& array = view_.catalogue.arrays[shown.array];
    if (!shown.quantized || (array.shape[0] % shown.block_rows == 0 && array.shape[1] % shown.block_cols == 0))
      return {};
    return UsageError("experts that are no whole blocks cannot be decoded where they are stacked")
        .Expected(kTwoRuns)
        .Found(array.name);
  }

  Status ResolvePiece(OutputArray* output, const Piece& piece, std::vector<Piece>* pieces) {
    const SourceArray& shown = shown_[piece.source];
    // As it was planned: an earlier piece may have turned the output over.
    const bool decodes = planned_ == Transform::kTranspose ? Decodes(*output, shown) : Decodes(planned_);
    const bool turned = view_.transposed[shown.array] != 0, turns = planned_ == Transform::kTranspose;
    if (decodes && kernels::HasGlobal(shown.codec) && shown.quantized)
      return UsageError("experts with global scales of their own cannot be decoded where they are stacked")
          .Expected(kTwoRuns)
          .Found(output->name);
    if (turned) MIMO_RETURN_IF_ERROR(TurnBack(shown, output));
    if (view_.IsReal(shown.array, stored_)) {
      pieces->push_back(piece);
      pieces->back().source = RealSource(shown);
      return {};
    }
    // Columns of fragments are stored elements, those of decoded pieces are values: two to a byte of 4-bit codes.
    const int64_t per = decodes && shown.quantized && IsPacked(shown.codec) ? 2 : 1;
    const StoredArray& array = view_.catalogue.arrays[shown.array];
    // Of what is shown: where an output is turned over, its columns are the rows of its sources.
    const int64_t height = turns ? piece.cols : piece.rows;
    const int64_t width = turns ? piece.rows : piece.cols == 0 ? RowElements(array.shape) * per : piece.cols;
    for (const Fragment& f : view_.fragments[shown.array]) {
      const int64_t row_begin = std::max(f.row, piece.source_row);
      const int64_t row_end = std::min(f.row + f.rows, piece.source_row + height);
      const int64_t col_begin = std::max(f.col * per, piece.source_col);
      const int64_t col_end = std::min((f.col + f.cols) * per, piece.source_col + width);
      if (row_begin >= row_end || col_begin >= col_end) continue;
      Piece part;
      part.source = decodes ? Decoded(f.array, shown) : Source(f.array);
      if ((turned || turns) && !decodes && IsValueCodec(output->target_codec))
        plan_.sources[part.source].codec = output->target_codec;
      part.rows = turns ? col_end - col_begin : row_end - row_begin;
      part.cols = turns ? row_end - row_begin : col_end - col_begin;
      const int64_t down = row_begin - piece.source_row, right = col_begin - piece.source_col;
      part.target_row = piece.target_row + (turns ? right : down);
      part.target_col = piece.target_col + (turns ? down : right);
      const int64_t row_in = row_begin - f.row, col_in = col_begin - f.col * per;
      part.source_row = f.stored_row + (turned ? col_in : row_in);
      part.source_col = f.stored_col * per + (turned ? row_in : col_in);
      // An encoded output of 4-bit codes has two values to an element too.
      const int64_t of_output = planned_ == Transform::kEncode && IsPacked(output->target_codec) ? 2 : 1;
      const bool whole = !turned && !turns && part.cols == RowElements(output->shape) * of_output &&
                         part.cols == RowElements(stored_.arrays[f.array].shape) * per && part.source_col == 0 &&
                         part.target_col == 0;
      if (whole) part.cols = 0;
      pieces->push_back(part);
    }
    return {};
  }

  // Codes come back doubled, and scales halved, where they were halved for Neuron.
  void SetTransposed(OutputArray* output) const {
    output->transform = Transform::kTranspose;
    const bool codes = output->dtype == DType::kF8E4M3, scales = output->id.part == Part::kScaleInv;
    output->target_codec = ValueCodecOf(output->dtype).value_or(Codec::kFp8Block);
    if (!view_.halved_codes) return;
    if (codes) output->adjust = Adjust::kDouble;
    if (scales) {
      output->adjust = Adjust::kScale;
      output->factor = 0.5f;
    }
  }

  Error NotInWholeRows(uint32_t shown) const {
    return UsageError("a block grid over what is not stored in whole rows")
        .Expected(kTwoRuns)
        .Found(view_.catalogue.arrays[shown].name);
  }

  // The stored rows behind `row` of a shown array whose fragments are whole rows.
  Result<std::pair<uint32_t, int64_t>> RowOf(uint32_t shown_source, int64_t row) const {
    const uint32_t shown = shown_[shown_source].array;
    for (const Fragment& f : view_.fragments[shown])
      if (row >= f.row && row < f.row + f.rows && f.col == 0 && f.stored_col == 0 && view_.transposed[shown] == 0)
        return std::pair(f.array, f.stored_row + row - f.row);
    return NotInWholeRows(shown);
  }

  // The same as a plan source.
  Status MoveToStored(uint32_t* source, int64_t* row) {
    MIMO_ASSIGN_OR_RETURN(const auto place, RowOf(*source, *row));
    *source = Source(place.first);
    *row = place.second;
    return {};
  }

  // Rows of values, cut where they are stored apart.
  Status ResolveValues(const CellSegment& segment, std::vector<CellSegment>* segments) {
    const SourceArray& shown = shown_[segment.source];
    int64_t found = 0;
    for (const Fragment& f : view_.fragments[shown.array]) {
      const int64_t begin = std::max(f.row, segment.source_row);
      const int64_t end = std::min(f.row + f.rows, segment.source_row + segment.rows);
      if (begin >= end || f.col != 0 || f.stored_col != 0) continue;
      CellSegment part = segment;
      part.source = Decoded(f.array, shown);
      part.source_row = f.stored_row + begin - f.row;
      part.target_row = segment.target_row + begin - segment.source_row;
      part.rows = end - begin;
      found += part.rows;
      segments->push_back(part);
    }
    if (found != segment.rows) return NotInWholeRows(shown.array);
    return {};
  }

  Status ResolveCell(CellRow* cell) {
    if (cell->keep != kNone) MIMO_RETURN_IF_ERROR(MoveToStored(&cell->keep, &cell->keep_row));
    std::vector<CellSegment> segments;
    for (CellSegment s : cell->segments) {
      if (s.source != kNone && s.scale == kNone) {
        MIMO_RETURN_IF_ERROR(ResolveValues(s, &segments));
        continue;
      }
      if (s.source != kNone) {
        const SourceArray& shown = shown_[s.source];
        MIMO_RETURN_IF_ERROR(MoveToStored(&s.source, &s.source_row));
        MIMO_RETURN_IF_ERROR(MoveToStored(&s.scale, &s.scale_row));
        plan_.sources[s.source].block_rows = shown.block_rows;
        plan_.sources[s.source].block_cols = shown.block_cols;
        plan_.sources[s.source].scale_type = shown.scale_type;
      }
      segments.push_back(s);
    }
    cell->segments = std::move(segments);
    return {};
  }

  const View& view_;
  const Catalogue& stored_;
  Plan& plan_;
  std::vector<SourceArray> shown_;
  std::vector<uint32_t> source_of_;       // by stored array: its plan source
  Transform planned_ = Transform::kMove;  // of the output that is resolved
};

}  // namespace

Status ReadFromStored(const View& view, const Catalogue& stored, Plan* plan) {
  return StoredReader(view, stored, plan).ReplaceSources();
}

}  // namespace mimo
