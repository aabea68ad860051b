#include "lib/forms/ranks/rank_places.h"

#include <algorithm>

#include "lib/decode/row_bytes.h"
#include "lib/forms/rules.h"

namespace mimo {

RankPlaces::RankPlaces(const RankForm& form, const Planning& p)
    : form_(form),
      model_(p.target.model),
      tp_(p.options.tp),
      ep_(std::max<int64_t>(p.options.ep, 1)),
      experts_(p.target.model.experts),
      ranks_(p.options.ranks) {
  if (ranks_.empty())
    for (int64_t r = 0; r < tp_; ++r) ranks_.push_back(r);
}

int64_t RankPlaces::PartsOf(const RankTensor& tensor, int32_t layer) const {
  const int64_t kv_heads = layer < 0 ? 0 : model_.attention_of(layer, tensor.mtp).kv_heads;
  return tensor.parts(tp_, ep_, kv_heads);
}

std::vector<int64_t> RankPlaces::ShapeOnRank(const RankTensor& tensor, int32_t layer,
                                             const std::vector<int64_t>& shape) const {
  std::vector<int64_t> on_rank = shape;
  const int64_t parts = PartsOf(tensor, layer);
  if (tensor.cut == Cut::kScalars) {
    on_rank.clear();
    if (tensor.of.size() > 1 || !tensor.experts) on_rank.push_back(static_cast<int64_t>(tensor.of.size()));
  } else if (tensor.by_columns()) {
    on_rank.back() /= parts;
  } else {
    on_rank[0] = RowsWithTail(tensor, on_rank[0]) / parts * tensor.members();
  }
  if (tensor.experts) on_rank.insert(on_rank.begin(), experts_ / ep_);
  return on_rank;
}

std::optional<Placed> RankPlaces::PlaceOf(const RankTensor& tensor, const TensorId& id,
                                          const std::vector<int64_t>& shape, int64_t rank) const {
  const int64_t all_rows = MatrixRows(shape);
  Placed placed{{0, all_rows}, {0, RowElements(shape)}};
  const auto role = std::find(tensor.of.begin(), tensor.of.end(), id.role);
  int64_t before = role == tensor.of.end() ? 0 : role - tensor.of.begin();  // parts in front of this one
  if (tensor.experts) {
    const int64_t local = LocalExpert(id.expert, rank);
    if (local < 0) return std::nullopt;
    before += local * tensor.members();
  }
  const int64_t parts = PartsOf(tensor, id.layer), part = rank * parts / tp_;
  if (tensor.by_columns()) {
    placed.cols = EvenPart(placed.cols.size(), parts, part);
  } else {
    placed.rows = EvenPart(RowsWithTail(tensor, all_rows), parts, part);
    placed.rows = {std::min(placed.rows.begin, all_rows), std::min(placed.rows.end, all_rows)};
  }
  placed.target_row = before * placed.rows.size();
  return placed;
}

std::optional<Range> RankPlaces::ScalarsOf(const RankTensor& tensor, const TensorId& id, int64_t rank) const {
  int64_t before = 0;
  if (tensor.experts) {
    const int64_t local = LocalExpert(id.expert, rank);
    if (local < 0) return std::nullopt;
    before = local * static_cast<int64_t>(tensor.of.size());
  }
  const Range own = tensor.ScalarsOf(id.role);
  return Range{before + own.begin, before + own.end};
}

int64_t RankPlaces::RowsWithTail(const RankTensor& tensor, int64_t rows) const {
  return tensor.cut == Cut::kVocab ? RoundUp(rows, form_.vocab_multiple()) : rows;
}

int64_t RankPlaces::LocalExpert(int64_t expert, int64_t rank) const {
  if (ep_ == 1) return expert;
  const int64_t each = experts_ / ep_;
  return expert / each == rank ? expert % each : -1;
}

Result<std::string> RankPlaces::NameOf(const RankTensor& tensor, int32_t layer, DType dtype,
                                       const std::vector<int64_t>& shape) const {
  return NameOf(tensor.mtp, NameInLayer(tensor.pattern, layer), dtype, shape);
}

// MTP layers are no part of the model that a template was dumped from.
Result<std::string> RankPlaces::NameOf(bool mtp, const std::string& table_name, DType dtype,
                                       const std::vector<int64_t>& shape) const {
  if (mtp) return table_name;
  return form_.NameOf(table_name, dtype, shape);
}

std::string RankPlaces::FileOf(bool mtp, int64_t rank, int32_t layer) {
  return std::string(mtp ? "mtp" : "model") + "-rank-" + std::to_string(rank) + "-part-" +
         std::to_string(mtp ? layer : layer + 1) + ".safetensors";
}

Status CheckFilled(const OutputArray& array, int64_t columns, const std::string& table_name) {
  int64_t filled = 0;
  for (const Piece& piece : array.pieces) filled += piece.rows * (piece.cols == 0 ? columns : piece.cols);
  if (filled == array.rows() * columns) return {};
  return UsageError("--include/--exclude keep a part of what a rank holds in one array")
      .Tensor(table_name)
      .Expected("all of its weights, or none")
      .Found(std::to_string(filled) + " of " + std::to_string(array.rows() * columns) + " elements")
      .Advice("widen the pattern");
}

uint32_t RankOutputs::Add(OutputArray output, const std::string& name, bool mtp, int64_t rank, int32_t layer,
                          uint32_t near) {
  if (rank == places_.ranks().front() && !mtp) first_names_.push_back(name);
  output.name = "rank" + std::to_string(rank) + "/" + name;
  return draft_.AddOutput(std::move(output), near, RankPlaces::FileOf(mtp, rank, layer));
}

Status RankOutputs::AddUnused(const RankTensor& scalars, int32_t layer, uint32_t near) {
  OutputArray unused;
  unused.dtype = scalars.experts ? DType::kF32 : DType::kBF16;
  unused.shape = places_.ShapeOnRank(scalars, layer, {});
  unused.transform = Transform::kConstant;
  unused.id = {scalars.of[0], scalars.part, scalars.mtp, layer, -1};
  const std::string_view value = scalars.experts ? std::string_view("\x00\x00\x80\x3f", 4) : "\xc0\x7f";  // 1, NaN
  for (uint64_t at = 0; at < ArrayBytes(unused.dtype, unused.shape); at += value.size()) unused.constant += value;
  MIMO_ASSIGN_OR_RETURN(const std::string name, places_.NameOf(scalars, layer, unused.dtype, unused.shape));
  draft_.BeginGroup(name);
  for (const int64_t rank : places_.ranks()) Add(unused, name, scalars.mtp, rank, layer, near);
  return {};
}

}  // namespace mimo
