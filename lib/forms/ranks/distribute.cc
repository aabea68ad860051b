// From a planned Hugging Face form to the arrays of ranks: every planned output is cut into the rectangles that ranks
// hold, and these are put together as the form's table says (lib/forms/ranks/rank_form.h).
#include <algorithm>
#include <bit>
#include <map>
#include <tuple>

#include "lib/decode/row_bytes.h"
#include "lib/draft/cut_pieces.h"
#include "lib/forms/ranks/rank_form.h"
#include "lib/forms/ranks/sharded_state_form.h"
#include "lib/forms/refusals.h"
#include "lib/forms/rules.h"
#include "lib/model/role_groups.h"

namespace mimo {
namespace {

constexpr char kRestFile[] = "hf-rest.safetensors";

std::string BytesOf(double value, DType dtype) {
  const auto bits = std::bit_cast<uint32_t>(static_cast<float>(value));
  std::string bytes;
  for (int i = dtype == DType::kBF16 ? 2 : 0; i < 4; ++i) bytes.push_back(static_cast<char>(bits >> (8 * i)));
  return bytes;
}

class Distributor {
 public:
  Distributor(const RankForm& form, Planning* p)
      : p_(*p),
        draft_(p->draft),
        form_(form),
        tp_(p->options.tp),
        ep_(std::max<int64_t>(p->options.ep, 1)),
        experts_(p->target.model.experts) {
    ranks_ = p->options.ranks;
    if (ranks_.empty())
      for (int64_t r = 0; r < tp_; ++r) ranks_.push_back(r);
  }

  Status Distribute() {
    for (const SourceArray& source : draft_.sources)
      if (draft_.reasons()[source.array].empty())
        draft_.SetReason(source.array, "of ranks that are not written (--ranks)");
    planned_ = std::move(draft_.groups);
    draft_.groups.clear();
    for (DraftGroup& group : planned_) MIMO_RETURN_IF_ERROR(Sort(group));
    for (auto& [key, members] : stacks_) MIMO_RETURN_IF_ERROR(MakeStack(std::get<2>(key), std::get<1>(key), members));
    MIMO_RETURN_IF_ERROR(AddConstants());
    if (ranks_.front() == 0) AddRest();
    return CheckTemplate();
  }

 private:
  const ModelConfig& config() const { return p_.catalogue.config; }

  // By (mtp, layer, tensor of the form); layer -1 is outside of layers.
  using StackKey = std::tuple<bool, int32_t, size_t>;

  // Which planned outputs make which arrays of a rank; re-laid attention is cut at once.
  Status Sort(DraftGroup& group) {
    if (!group.cells.empty()) return CutCells(group);
    for (DraftOutput& output : group.outputs) {
      if (output.transform == Transform::kEncode || output.transform == Transform::kBeside)
        return UsageError("rank files cannot be quantized in the same run")
            .Expected("two runs: --recipe or --dtype first, then --format sharded-state")
            .Found(output.name);
      const auto tensor = form_.Find(output.id.role, output.id.part, output.id.mtp);
      if (IsTower(output.id.role) || output.id.role == Role::kUnknown) {
        rest_.push_back(&output);
        continue;
      }
      if (!tensor)
        return UsageError("form " + form_.name() + " has no place for an array of this checkpoint")
            .Expected("BF16, block FP8 or MXFP4 weights")
            .Found(output.name)
            .Advice("convert it first: --dtype bf16, or a recipe of the native dialect");
      stacks_[{output.id.mtp, output.id.layer, *tensor}].push_back(&output);
    }
    return {};
  }

  // Where the part of a planned output that `rank` holds goes in its array; nullopt: it holds none. Divisibility has
  // been checked when the target was chosen.
  std::optional<Placed> PlaceOf(const RankTensor& tensor, const OutputArray& output, int64_t rank) const {
    Placed placed{{0, output.rows()}, {0, RowElements(output.shape)}};
    const auto role = std::find(tensor.of.begin(), tensor.of.end(), output.id.role);
    int64_t before = role == tensor.of.end() ? 0 : role - tensor.of.begin();  // parts in front of this one
    if (tensor.experts) {
      const int64_t local = LocalExpert(output.id.expert, rank);
      if (local < 0) return std::nullopt;
      before += local * tensor.members();
    }
    const int64_t parts = tensor.parts(tp_, ep_), part = parts > 1 ? rank : 0;
    if (tensor.by_columns()) {
      placed.cols = EvenPart(placed.cols.size(), parts, part);
    } else {
      const int64_t rows = output.rows();
      placed.rows = EvenPart(RowsWithTail(tensor, rows), parts, part);
      placed.rows = {std::min(placed.rows.begin, rows), std::min(placed.rows.end, rows)};
    }
    placed.target_row = before * placed.rows.size();
    return placed;
  }

  // The vocabulary is padded.
  int64_t RowsWithTail(const RankTensor& tensor, int64_t rows) const {
    return tensor.cut == Cut::kVocab ? RoundUp(rows, form_.vocab_multiple()) : rows;
  }

  int64_t LocalExpert(int64_t expert, int64_t rank) const {
    if (ep_ == 1) return expert;
    const int64_t each = experts_ / ep_;
    return expert / each == rank ? expert % each : -1;
  }

  // The shape of a rank's array, from one of the outputs that make it.
  std::vector<int64_t> ShapeOnRank(const RankTensor& tensor, const OutputArray& output) const {
    std::vector<int64_t> shape = output.shape;
    const int64_t parts = tensor.parts(tp_, ep_);
    if (tensor.by_columns())
      shape.back() /= parts;
    else
      shape[0] = RowsWithTail(tensor, shape[0]) / parts * tensor.members();
    if (tensor.experts) shape.insert(shape.begin(), experts_ / ep_);
    return shape;
  }

  DType TypeOf(const RankTensor& tensor, DType stored) const {
    if (tensor.dtype == "F32") return DType::kF32;
    if (tensor.dtype == "router") return config().router_dtype == "bfloat16" ? DType::kBF16 : DType::kF32;
    return stored;
  }

  Status MakeStack(size_t index, int32_t layer, const std::vector<const DraftOutput*>& members) {
    const RankTensor& tensor = form_.tensors()[index];
    const DraftOutput& first = *members[0];
    const std::string table_name = NameInLayer(tensor.pattern, layer);
    const std::vector<int64_t> shape = ShapeOnRank(tensor, first);
    MIMO_ASSIGN_OR_RETURN(const std::string name, NameOf(tensor.mtp, table_name, shape));
    draft_.BeginGroup(table_name);
    for (const int64_t rank : ranks_) {
      OutputArray made = OutputLike(first);
      made.name = RankName(rank, name);
      made.id.expert = -1;
      made.dtype = TypeOf(tensor, first.dtype);
      made.shape = shape;
      for (const DraftOutput* output : members) {
        if (output->dtype != first.dtype || output->transform != first.transform)
          return UsageError("weights that a rank holds in one array are stored differently")
              .Expected(first.name)
              .Found(output->name)
              .Advice("store them alike first");
        if (const auto placed = PlaceOf(tensor, *output, rank)) CutPieces(*output, *placed, &made.pieces);
      }
      SortPieces(&made.pieces);
      PadRows(made.rows(), &made.pieces);  // only the vocabulary has a tail that nothing fills
      if (made.dtype != first.dtype) {
        made.transform = Transform::kConvert;
        made.target_codec = *ValueCodecOf(made.dtype);
        for (const Piece& piece : made.pieces)
          if (piece.source != kNone) draft_.sources[piece.source].codec = *ValueCodecOf(first.dtype);
      }
      Add(std::move(made), tensor.mtp, rank, layer, first.near);
    }
    return {};
  }

  void Add(OutputArray output, bool mtp, int64_t rank, int32_t layer, uint32_t near) {
    if (rank == ranks_.front() && !mtp) made_.push_back(std::string(HeaderName(output.name)));
    draft_.AddOutput(std::move(output), near, FileOf(mtp, rank, layer));
  }

  // MTP layers are no part of the model that a template was dumped from.
  Result<std::string> NameOf(bool mtp, const std::string& table_name, const std::vector<int64_t>& shape) const {
    if (mtp) return table_name;
    return form_.NameOf(table_name, shape);
  }

  static std::string FileOf(bool mtp, int64_t rank, int32_t layer) {
    return std::string(mtp ? "mtp" : "model") + "-rank-" + std::to_string(rank) + "-part-" +
           std::to_string(mtp ? layer : layer + 1) + ".safetensors";
  }

  static std::string RankName(int64_t rank, const std::string& name) {
    return "rank" + std::to_string(rank) + "/" + name;
  }

  // A re-laid fused(tp): the cells of chunk r, with its codes and scales, are those of rank r.
  Status CutCells(const DraftGroup& group) {
    draft_.BeginGroup(group.label);
    std::map<std::pair<uint32_t, int64_t>, uint32_t> made;  // (place in the group, rank) -> place in the new one
    for (uint32_t i = 0; i < group.outputs.size(); ++i) {
      const DraftOutput& output = group.outputs[i];
      const auto index = form_.Find(output.id.role, output.id.part, output.id.mtp);
      if (!index || output.id.role != Role::kAttnQkv)
        return UsageError("form " + form_.name() + " has no place for this")
            .Expected("fused attention")
            .Found(output.name);
      const RankTensor& tensor = form_.tensors()[*index];
      OutputArray part = output;
      part.shape[0] /= tp_;
      MIMO_ASSIGN_OR_RETURN(const std::string name,
                            NameOf(tensor.mtp, NameInLayer(tensor.pattern, output.id.layer), part.shape));
      for (const int64_t rank : ranks_) {
        part.name = RankName(rank, name);
        made[{i, rank}] = static_cast<uint32_t>(draft_.group().outputs.size());
        Add(part, tensor.mtp, rank, output.id.layer, output.near);
      }
    }
    const auto cut = [&](uint32_t* output, int64_t* row) {
      const int64_t each = group.outputs[*output].shape[0] / tp_;
      const auto found = made.find({*output, *row / each});
      if (found == made.end()) return false;
      *output = found->second;
      *row %= each;
      return true;
    };
    DraftGroup& target = draft_.group();
    for (CellRow cell : group.cells) {
      const auto blocks = static_cast<uint64_t>(group.outputs[cell.scale_output].shape[1]);
      if (!cut(&cell.scale_output, &cell.scale_row)) continue;
      for (CellSegment& s : cell.segments) cut(&s.output, &s.target_row);
      if (!cell.moved) target.straddling_blocks += blocks;
      target.cells.push_back(std::move(cell));
    }
    return {};
  }

  Status AddConstants() {
    Facts facts;
    const bool fp8 = p_.chooser.keeps() && config().quant_method.find("fp8") != std::string::npos;
    facts["quant_method"] = std::string(fp8 ? "fp8" : "none");
    std::vector<std::pair<bool, int32_t>> layers;
    for (const auto& [key, members] : stacks_) {
      const std::pair layer(std::get<0>(key), std::get<1>(key));
      if (layer.second >= 0 && (layers.empty() || layers.back() != layer)) layers.push_back(layer);
    }
    for (const RankConstant& constant : form_.constants()) {
      MIMO_ASSIGN_OR_RETURN(const bool holds, AllHold(constant.when, facts));
      if (!holds) continue;
      for (const auto& [mtp, layer] : layers) {
        if (mtp != constant.mtp) continue;
        const std::string table_name = NameInLayer(constant.pattern, layer);
        Result<std::string> name = NameOf(mtp, table_name, constant.shape);
        if (!name.ok()) continue;  // a build without it
        draft_.BeginGroup(table_name);
        for (const int64_t rank : ranks_) {
          OutputArray made;
          made.name = RankName(rank, name.value());
          made.dtype = constant.dtype;
          made.shape = constant.shape;
          made.transform = Transform::kConstant;
          made.constant = BytesOf(constant.value, constant.dtype);
          Add(std::move(made), mtp, rank, layer, 0);
        }
      }
    }
    return {};
  }

  void AddRest() {
    for (DraftOutput* output : rest_) {
      draft_.BeginGroup(output->name);
      output->unchanged = false;  // its file is another
      draft_.AddOutput(std::move(*output), output->near, kRestFile);
    }
  }

  Status CheckTemplate() const {
    std::string missing;
    for (const std::string& name : form_.Unfilled(made_)) missing += (missing.empty() ? "" : ", ") + name;
    if (missing.empty()) return {};
    return UsageError("the template names arrays that nothing of this checkpoint fills")
        .Expected("arrays of schemas/forms")
        .Found(missing.substr(0, 400))
        .Advice("dump the template of the text model, without towers or drafters");
  }

  const Planning& p_;
  Draft& draft_;
  const RankForm& form_;
  const int64_t tp_, ep_, experts_;
  std::vector<int64_t> ranks_;
  std::vector<DraftGroup> planned_;
  std::map<StackKey, std::vector<const DraftOutput*>> stacks_;
  std::vector<DraftOutput*> rest_;
  std::vector<std::string> made_;  // names of the first rank's arrays
};

}  // namespace

Status ShardedStateForm::Arrange(Planning* p) const {
  MIMO_ASSIGN_OR_RETURN(const RankForm form, RankForm::Load(TargetWord(p->options), p->options.form_template));
  p->target.table = form.name();
  return Distributor(form, p).Distribute();
}

}  // namespace mimo
