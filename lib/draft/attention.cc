// The attention projections of one layer under a new layout: row moves from the composition of two row maps and, where
// codes stay FP8, one cell row per row of target scales.
#include "lib/draft/attention.h"

#include <algorithm>
#include <map>

#include "lib/base/checked.h"
#include "lib/model/scale_values.h"

namespace mimo {

namespace {

constexpr Role kSplitRoles[3] = {Role::kAttnQ, Role::kAttnK, Role::kAttnV};

class AttentionPlanner {
 public:
  AttentionPlanner(Draft& draft, const AttentionRequest& request)
      : draft_(draft), request_(request), moves_(ComposeRows(request.source, request.target)) {
    weights_ = request.weights->in_order();
    first_ = &draft.inventory().weights[weights_[0]];
    in_blocks_ = first_->in_blocks();
  }

  bool Plan(bool refuse_straddles) {
    const bool same = !request_.as_fp8 && !request_.as_released &&
                      request_.source.layout.fused() == request_.target.layout.fused() && SameRows() &&
                      request_.source.rows == request_.target.rows &&
                      (!in_blocks_ || request_.source.bands == request_.target.bands) && !request_.fold;
    if (request_.decode) {
      PlanDecoded();
    } else if (request_.encode) {
      PlanEncoded();
    } else if (request_.quantize) {
      PlanRelayout(Cells(request_.source, request_.target));
    } else if (same) {
      PlanUnchanged();
    } else if (in_blocks_ || SharesTensorScales()) {
      const QkvMap source = OneBlockEach(request_.source), target = OneBlockEach(request_.target);
      std::vector<CellRow> cells = in_blocks_ ? Cells(request_.source, request_.target) : Cells(source, target);
      const bool straddles = std::any_of(cells.begin(), cells.end(), [](const CellRow& c) { return !c.moved; });
      if (straddles && refuse_straddles) return false;
      PlanRelayout(std::move(cells));
    } else {
      PlanMoved();
    }
    return true;
  }

 private:
  const Weight& SourceWeight(size_t array) const { return draft_.inventory().weights[weights_[array]]; }
  const StoredArray& Stored(uint32_t array) const { return draft_.catalogue().arrays[array]; }
  // Whether some target array takes rows from under several scales per tensor that are not known to be equal.
  bool SharesTensorScales() const {
    if (!first_->per_tensor() || request_.equal_scales) return false;
    std::array<uint8_t, 3> from{};
    from.fill(kPaddingArray);
    for (const RowMove& move : moves_) {
      if (move.source_array == kPaddingArray) continue;
      uint8_t& source = from[move.target_array];
      if (source != kPaddingArray && source != move.source_array) return true;
      source = move.source_array;
    }
    return false;
  }
  // A layout whose arrays are one block each.
  static QkvMap OneBlockEach(QkvMap map) {
    map.bands.clear();
    for (uint8_t i = 0; i < map.arrays; ++i) map.bands.push_back({i, 0, map.rows[i], i, 0});
    map.scale_rows.fill(1);
    return map;
  }
  int64_t block_cols() const { return request_.quantize ? request_.block_cols : first_->block_cols; }
  bool SameRows() const { return moves_ == ComposeRows(request_.target, request_.target); }

  std::string Label() const {
    const std::string& name = Stored(first_->array).name;  // of a projection
    return name.substr(0, name.rfind('.', name.rfind('.') - 1));
  }

  OutputArray NewOutput(size_t array, Part part, DType dtype) const {
    OutputArray output;
    output.id = first_->id;
    output.id.role = request_.target.layout.fused() ? Role::kAttnQkv : kSplitRoles[array];
    output.id.part = part;
    output.name = draft_.catalogue().table->NameOf(output.id);
    output.dtype = dtype;
    if (part == Part::kWeight) {
      output.shape = {request_.target.rows[array], first_->cols};
    } else if (first_->per_tensor()) {
      output.shape = Stored(first_->scale).shape;
    } else {
      output.shape = {request_.target.scale_rows[array], CeilDiv(first_->cols, block_cols())};
    }
    return output;
  }

  // The array whose file an output goes to: that of its first row, so that a split cut from one file stays there.
  uint32_t Near(size_t target_array) const {
    for (const RowMove& move : moves_)
      if (move.target_array == target_array && move.source_array != kPaddingArray)
        return SourceWeight(move.source_array).array;
    return first_->array;
  }

  // Of the arrays of the source's weights that are `part`.
  std::vector<Piece> Pieces(size_t array, uint32_t Weight::*part = &Weight::array) {
    std::vector<Piece> pieces;
    for (const RowMove& move : moves_) {
      if (move.target_array != array) continue;
      if (move.source_array == kPaddingArray) {
        pieces.push_back({kNone, 0, move.target_row, move.rows});
        continue;
      }
      const Weight& weight = SourceWeight(move.source_array);
      const bool decoded = request_.decode || request_.encode;
      const uint32_t source = decoded ? draft_.DecodedSource(weight) : draft_.Source(weight.*part);
      pieces.push_back({source, move.source_row, move.target_row, move.rows});
    }
    return pieces;
  }

  void PlanUnchanged() {
    draft_.BeginGroup(Label());
    for (size_t i = 0; i < static_cast<size_t>(request_.source.arrays); ++i) draft_.AddKept(SourceWeight(i));
  }

  // Rows of values, or of codes with scales of their own: each array moves alike. What is one element for a whole array
  // goes with its rows; those of one target come from one source, or are equal (PlanAttention's contract).
  void PlanMoved() {
    draft_.BeginGroup(Label());
    for (size_t i = 0; i < static_cast<size_t>(request_.target.arrays); ++i) {
      for (const auto part : {&Weight::array, &Weight::scale, &Weight::global, &Weight::input}) {
        if (first_->*part == kNone) continue;
        const StoredArray& stored = Stored(first_->*part);
        OutputArray output = NewOutput(i, stored.id.part, stored.dtype);
        output.shape = stored.shape;
        if (part == &Weight::array && request_.as_fp8) output.dtype = DType::kF8E4M3;
        output.pieces = Pieces(i, part);
        const bool scale = part == &Weight::scale;
        if (part == &Weight::global || part == &Weight::input || (scale && first_->per_tensor())) {
          MoveScalar(&output);
        } else if (scale && stored.shape.size() == 1) {  // one row, whose elements are those of rows
          output.shape[0] = request_.target.rows[i];
          for (Piece& piece : output.pieces)
            piece = {piece.source, 0, 0, 1, piece.source == kNone ? 0 : piece.source_row, piece.target_row, piece.rows};
        } else {
          output.shape[0] = request_.target.rows[i];
        }
        if (scale && HasBlockGrid(first_->storage)) output.pad = ScaleOfOne(stored.dtype);
        draft_.AddOutput(std::move(output), Near(i));
      }
    }
  }

  // The first that the rows come from; the others are held to be equal.
  void MoveScalar(OutputArray* output) {
    std::vector<uint32_t> from;
    for (const Piece& piece : output->pieces)
      if (piece.source != kNone && std::find(from.begin(), from.end(), piece.source) == from.end())
        from.push_back(piece.source);
    for (size_t i = 1; i < from.size(); ++i) draft_.equal.push_back({from[0], from[i], 0, 0, 1});
    output->pieces = {{from[0], 0, 0, 1}};
  }

  void PlanDecoded() {
    draft_.BeginGroup(Label());
    for (size_t i = 0; i < static_cast<size_t>(request_.target.arrays); ++i) {
      OutputArray output = NewOutput(i, Part::kWeight, DTypeOf(*request_.decode));
      output.transform = Transform::kConvert;
      output.target_codec = *request_.decode;
      output.pieces = Pieces(i);
      if (request_.fold && i == 2) {
        output.adjust = Adjust::kScale;
        output.factor = *request_.fold;
      }
      draft_.AddOutput(std::move(output), Near(i));
    }
    SetSourceBands();
  }

  void PlanEncoded() {
    draft_.BeginGroup(Label());
    for (size_t i = 0; i < static_cast<size_t>(request_.target.arrays); ++i) {
      const OutputArray weight = NewOutput(i, Part::kWeight, DType::kU8);
      EncodedRequest encoded;
      encoded.id = weight.id;
      encoded.name = weight.name;
      encoded.rows = request_.target.rows[i];
      encoded.cols = first_->cols;
      encoded.encoding = request_.encode->encoding;
      const QkvLayout& layout = request_.target.layout;
      if (encoded.encoding.codec == Codec::kFp8Block && layout.fused() && layout.chunks > 1)
        encoded.period = encoded.rows / layout.chunks;
      encoded.arrays = request_.encode->arrays;
      encoded.input_scale = request_.encode->input_scales[i];
      encoded.pieces = Pieces(i);
      encoded.keep = request_.encode->keep[i];
      draft_.AddEncoded(encoded, Near(i));
    }
    SetSourceBands();
  }

  // The source's own grid, where it is not simply row / 128 under the array's own scales.
  void SetSourceBands() {
    for (size_t i = 0; i < static_cast<size_t>(request_.source.arrays); ++i) {
      if (!SourceWeight(i).in_blocks()) continue;
      const uint32_t index = draft_.DecodedSource(SourceWeight(i));
      std::vector<SourceBand> bands;
      bool uniform = true;
      for (const ScaleBand& band : request_.source.bands) {
        if (band.array != i) continue;
        const int64_t block = first_->block_rows;
        uniform &= band.scale_array == i && band.row_begin == band.scale_row * block &&
                   (band.row_end - band.row_begin == block || band.row_end == request_.source.rows[i]);
        bands.push_back(
            {band.row_begin, band.row_end, draft_.Source(SourceWeight(band.scale_array).scale), band.scale_row});
      }
      if (!uniform) {
        SourceArray& source = draft_.sources[index];
        source.bands = std::move(bands);
        source.scale = kNone;
      }
    }
  }

  // Cell rows with target arrays and scale arrays as numbers of the layout (0 to 2) still.
  std::vector<CellRow> Cells(const QkvMap& source, const QkvMap& target) const {
    std::map<std::pair<uint8_t, int64_t>, CellRow> cells;
    for (const ScaleBand& band : target.bands) {
      CellRow& cell = cells[{band.scale_array, band.scale_row}];
      cell.scale_output = band.scale_array;
      cell.scale_row = band.scale_row;
      AddSegments(source, band, &cell);
    }
    std::vector<CellRow> result;
    for (auto& [key, cell] : cells) {
      const CellSegment* first = nullptr;  // padding fits any scale
      cell.moved = true;
      for (const CellSegment& s : cell.segments) {
        if (s.source == kNone) continue;
        if (first == nullptr) first = &s;
        cell.moved &= s.scale == first->scale && s.scale_row == first->scale_row && s.factor == first->factor;
      }
      result.push_back(std::move(cell));
    }
    return result;
  }

  // Rows of one target band, cut where the source changes array or scale row. Arrays are numbers of the source layout.
  void AddSegments(const QkvMap& source, const ScaleBand& band, CellRow* cell) const {
    for (const RowMove& move : moves_) {
      if (move.target_array != band.array) continue;
      int64_t row = std::max(band.row_begin, move.target_row);
      const int64_t end = std::min(band.row_end, move.target_row + move.rows);
      if (move.source_array == kPaddingArray) {
        if (row < end) cell->segments.push_back({kNone, 0, band.array, row, end - row, kNone, 0});
        continue;
      }
      while (row < end) {
        const int64_t source_row = move.source_row + row - move.target_row;
        const ScaleBand& from = SourceBandAt(source, move.source_array, source_row);
        int64_t rows = std::min(end - row, from.row_end - source_row);
        float factor = 1;
        if (request_.fold) {  // a move may run on from K to V
          const RowRun& run = RunAt(band.array, row);
          rows = std::min(rows, run.array_row + run.rows - row);
          if (run.projection == Projection::kV) factor = *request_.fold;
        }
        cell->segments.push_back(
            {move.source_array, source_row, band.array, row, rows, from.scale_array, from.scale_row, factor});
        row += rows;
      }
    }
  }

  const RowRun& RunAt(uint8_t array, int64_t row) const {
    return *std::find_if(request_.target.runs.begin(), request_.target.runs.end(), [&](const RowRun& run) {
      return run.array == array && row >= run.array_row && row < run.array_row + run.rows;
    });
  }

  static const ScaleBand& SourceBandAt(const QkvMap& source, uint8_t array, int64_t row) {
    const auto& bands = source.bands;
    auto it =
        std::upper_bound(bands.begin(), bands.end(), std::pair(array, row),
                         [](const auto& key, const ScaleBand& b) { return key < std::pair(b.array, b.row_begin); });
    return *std::prev(it);
  }

  // Scales stay as they are stored where all of a layer are moved; what is made is F32.
  DType RelaidScaleType(const std::vector<CellRow>& cells) const {
    if (request_.quantize || request_.as_released) return DType::kF32;
    for (const CellRow& cell : cells) {
      if (!cell.moved) return DType::kF32;
      for (const CellSegment& s : cell.segments)
        if (s.factor != 1) return DType::kF32;
    }
    return Stored(first_->scale).dtype;
  }

  void PlanRelayout(std::vector<CellRow> cells) {
    draft_.BeginGroup(Label());
    const DType code_type = request_.quantize || request_.as_fp8 ? DType::kF8E4M3 : Stored(first_->array).dtype;
    const DType scale_type = RelaidScaleType(cells);
    const Part scale_part = request_.quantize      ? Part::kScaleInv
                            : request_.as_released ? *request_.as_released
                                                   : Stored(first_->scale).id.part;
    std::array<uint32_t, 3> codes{}, scales{};
    for (size_t i = 0; i < static_cast<size_t>(request_.target.arrays); ++i) {
      OutputArray weight = NewOutput(i, Part::kWeight, code_type);
      weight.transform = Transform::kRelayout;
      weight.target_codec = Codec::kFp8Block;
      codes[i] = draft_.AddOutput(std::move(weight), Near(i));
      OutputArray scale = NewOutput(i, scale_part, scale_type);
      scale.transform = Transform::kScales;
      scale.target_codec = Codec::kFp32;
      scales[i] = draft_.AddOutput(std::move(scale), Near(i));
      if (!request_.quantize && first_->input != kNone) AddInput(i);
    }
    const auto blocks = static_cast<uint64_t>(CeilDiv(first_->cols, block_cols()));
    DraftGroup& group = draft_.group();
    for (CellRow& cell : cells) {
      if (request_.quantize) {
        cell.moved = false;
        cell.keep = (*request_.quantize)[cell.scale_output];
        cell.keep_row = cell.keep == kNone ? 0 : cell.scale_row;
      }
      cell.scale_output = scales[cell.scale_output];
      for (CellSegment& s : cell.segments) {
        s.output = codes[s.output];
        if (s.source == kNone) continue;
        const Weight& weight = SourceWeight(s.source);
        if (request_.quantize) {
          s.source = draft_.DecodedSource(weight);
          draft_.sources[s.source].block_cols = block_cols();
          s.scale = kNone;
          s.scale_row = 0;
          continue;
        }
        s.source = draft_.GridSource(weight);
        s.scale = draft_.Source(SourceWeight(s.scale).scale);
      }
      if (!cell.moved && !request_.quantize) group.straddling_blocks += blocks;
    }
    group.cells = std::move(cells);
  }

  void AddInput(size_t i) {
    const StoredArray& stored = Stored(first_->input);
    OutputArray output = NewOutput(i, stored.id.part, stored.dtype);
    output.shape = stored.shape;
    output.pieces = Pieces(i, &Weight::input);
    MoveScalar(&output);
    draft_.AddOutput(std::move(output), Near(i));
  }

  Draft& draft_;
  const AttentionRequest& request_;
  std::vector<RowMove> moves_;
  std::array<uint32_t, 3> weights_{};
  const Weight* first_ = nullptr;
  bool in_blocks_ = false;
};

}  // namespace

bool PlanAttention(Draft& draft, const AttentionRequest& request, bool refuse_straddles) {
  return AttentionPlanner(draft, request).Plan(refuse_straddles);
}

}  // namespace mimo
