// From a planned Hugging Face form to the arrays of ranks: every planned output is cut into the rectangles that ranks
// hold, and these are put together as the form's table says (lib/forms/ranks/rank_form.h).
#include <algorithm>
#include <bit>
#include <map>
#include <set>
#include <tuple>

#include "lib/decode/row_bytes.h"
#include "lib/draft/cut_pieces.h"
#include "lib/forms/fp8_scales.h"
#include "lib/forms/hf/hf_output.h"
#include "lib/forms/ranks/encoded_ranks.h"
#include "lib/forms/ranks/rank_cache_scales.h"
#include "lib/forms/ranks/rank_form.h"
#include "lib/forms/ranks/rank_places.h"
#include "lib/forms/ranks/sharded_state_form.h"
#include "lib/forms/refusals.h"
#include "lib/forms/rules.h"
#include "lib/model/family.h"
#include "lib/model/role_groups.h"
#include "lib/model/scale_values.h"

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
        places_(form, *p),
        outputs_(places_, &draft_),
        cache_(places_, p->catalogue),
        notes_(p->notes),
        encoded_(places_, p->chooser.dialect(), &draft_, &outputs_) {}

  Status Distribute() {
    for (const SourceArray& source : draft_.sources)
      if (draft_.reasons()[source.array].empty())
        draft_.SetReason(source.array, "of ranks that are not written (--ranks)");
    planned_ = std::move(draft_.groups);
    draft_.groups.clear();
    MIMO_RETURN_IF_ERROR(CheckDialect());
    MIMO_RETURN_IF_ERROR(CheckFp8());
    for (DraftGroup& group : planned_) MIMO_RETURN_IF_ERROR(Sort(group));
    for (auto& [key, members] : stacks_) MIMO_RETURN_IF_ERROR(MakeStack(std::get<2>(key), std::get<1>(key), members));
    MIMO_RETURN_IF_ERROR(encoded_.Make());
    MIMO_RETURN_IF_ERROR(AddInputScales());
    MIMO_RETURN_IF_ERROR(AddConstants());
    KeepOtherCacheScales();
    if (places_.ranks().front() == 0) AddRest();
    return CheckTemplate();
  }

 private:
  const ModelConfig& config() const { return p_.catalogue.config; }

  // By (mtp, layer, tensor of the form); layer -1 is outside of layers.
  using StackKey = std::tuple<bool, int32_t, size_t>;

  // The codecs that outputs are stored in, each with and without input scales.
  std::set<std::pair<Codec, bool>> Algorithms() const {
    std::set<std::pair<Codec, bool>> algorithms;
    if (p_.quantization) {
      for (const QuantizedModule& module : p_.quantization->quantized)
        algorithms.emplace(module.codec, module.input_scale);
    } else {
      for (const Weight& weight : p_.inventory.weights)
        if (const auto codec = CodecOf(weight.storage)) algorithms.emplace(*codec, weight.input != kNone);
    }
    return algorithms;
  }

  Status CheckDialect() const {
    if (p_.chooser.dialect() != Dialect::kCompressedTensors || Algorithms().empty()) return {};
    return UsageError("rank files have the names of vLLM's own FP8 and MXFP4, and of its ModelOpt classes")
        .Expected("the dialect native or modelopt")
        .Found("compressed-tensors")
        .Advice("a recipe in the dialect modelopt, or --dtype bf16");
  }

  // Ranks are cut at blocks, and their codes are FP8 by type; scales of another type are widened.
  Status CheckFp8() const {
    std::vector<const Weight*> odd(p_.catalogue.arrays.size(), nullptr);
    for (const Weight& weight : p_.inventory.weights) {
      if (!HasBlockGrid(weight.storage)) continue;
      const DType scale = p_.catalogue.arrays[weight.scale].dtype;
      if (!weight.in_blocks() || p_.catalogue.arrays[weight.array].dtype != DType::kF8E4M3 || IsExponentType(scale))
        odd[weight.array] = &weight;
    }
    const auto check = [&](uint32_t source) -> const Weight* {
      return source == kNone ? nullptr : odd[draft_.sources[source].array];
    };
    for (const DraftGroup& group : planned_) {
      for (const CellRow& cell : group.cells)
        for (const CellSegment& s : cell.segments)
          if (const Weight* weight = check(s.source)) return NoPlaceFor(p_.catalogue, *weight, "rank files");
      for (const DraftOutput& output : group.outputs) {
        if (output.transform != Transform::kMove || IsTower(output.id.role)) continue;
        for (const Piece& piece : output.pieces)
          if (const Weight* weight = check(piece.source)) return NoPlaceFor(p_.catalogue, *weight, "rank files");
      }
    }
    return {};
  }

  // Which planned outputs make which arrays of a rank; re-laid attention is cut at once.
  Status Sort(DraftGroup& group) {
    if (!group.cells.empty()) return CutCells(group);
    if (!group.encoded.empty()) {
      if (group.SharesGlobal() && !p_.options.ranks.empty())
        return UsageError("the global scale of NVFP4 is taken from what all ranks hold")
            .Expected("no --ranks; or two runs: the recipe first, then --format sharded-state --ranks")
            .Found(group.outputs[0].name);
      return encoded_.Add(group);
    }
    for (DraftOutput& output : group.outputs) {
      if (IsCacheScale(output.id.role)) {
        MIMO_RETURN_IF_ERROR(cache_.Add(&output));
        continue;
      }
      const auto tensor = form_.Find(output.id.role, output.id.part, output.id.mtp);
      if (IsTower(output.id.role) || output.id.role == Role::kUnknown) {
        rest_.push_back(&output);
        continue;
      }
      const bool foreign = output.id.part == Part::kScaleInv && IsExponentType(output.dtype);
      if (!tensor || foreign || !encoded_.HasClass(output.id))
        return UsageError("form " + form_.name() + " has no place for an array of this checkpoint")
            .Expected("BF16, block FP8, MXFP4, or ModelOpt's NVFP4 and MXFP8 weights")
            .Found(output.name)
            .Advice("convert it first: --dtype bf16, or a recipe of the native dialect");
      stacks_[{output.id.mtp, output.id.layer, *tensor}].push_back(&output);
    }
    return {};
  }

  DType TypeOf(const RankTensor& tensor, DType stored) const {
    if (tensor.part == Part::kScaleInv) return DType::kF32;
    if (tensor.dtype == "F32") return DType::kF32;
    if (tensor.dtype == "router") return config().router_dtype == "bfloat16" ? DType::kBF16 : DType::kF32;
    return stored;
  }

  Status MakeStack(size_t index, int32_t layer, const std::vector<const DraftOutput*>& members) {
    const RankTensor& tensor = form_.tensors()[index];
    const DraftOutput& first = *members[0];
    const std::vector<int64_t> shape = places_.ShapeOnRank(tensor, layer, first.shape);
    const DType dtype = TypeOf(tensor, first.dtype);
    MIMO_ASSIGN_OR_RETURN(const std::string name, places_.NameOf(tensor, layer, dtype, shape));
    for (const DraftOutput* output : members) {
      if (output->dtype != first.dtype || output->transform != first.transform)
        return UsageError("weights that a rank holds in one array are stored differently")
            .Expected(first.name)
            .Found(output->name)
            .Advice("store them alike first");
      if (output->transform == Transform::kInvert)
        return UsageError("global scales cannot change their dialect and be cut at once")
            .Expected("two runs: the dialect first, then --format sharded-state")
            .Found(output->name);
    }
    const std::string table_name = NameInLayer(tensor.pattern, layer);
    draft_.BeginGroup(table_name);
    for (const int64_t rank : places_.ranks()) {
      OutputArray made = OutputLike(first);
      made.id.expert = -1;
      made.dtype = dtype;
      made.shape = shape;
      for (const DraftOutput* output : members) CutMember(tensor, *output, rank, &made);
      SortPieces(&made.pieces);
      if (tensor.cut == Cut::kVocab) PadRows(made.rows(), &made.pieces);  // its tail is nobody's
      MIMO_RETURN_IF_ERROR(CheckFilled(made, RowElements(made.shape), table_name));
      if (made.dtype != first.dtype) {
        made.transform = Transform::kConvert;
        made.target_codec = *ValueCodecOf(made.dtype);
        for (const Piece& piece : made.pieces)
          if (piece.source != kNone) draft_.sources[piece.source].codec = *ValueCodecOf(first.dtype);
      }
      outputs_.Add(std::move(made), name, tensor.mtp, rank, layer, first.near);
    }
    return {};
  }

  void CutMember(const RankTensor& tensor, const DraftOutput& output, int64_t rank, OutputArray* made) const {
    if (tensor.cut != Cut::kScalars) {
      if (const auto placed = places_.PlaceOf(tensor, output.id, output.shape, rank))
        CutPieces(output, *placed, &made->pieces);
      return;
    }
    const auto own = places_.ScalarsOf(tensor, output.id, rank);
    if (!own) return;
    const int64_t columns = RowElements(made->shape);
    for (int64_t i = own->begin; i < own->end; ++i)
      made->pieces.push_back({output.pieces[0].source, 0, i / columns, 1, 0, i % columns, 1});
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
      part.shape[0] /= places_.tp();
      if (output.transform == Transform::kScales) part.dtype = DType::kF32;
      MIMO_ASSIGN_OR_RETURN(const std::string name, places_.NameOf(tensor, output.id.layer, part.dtype, part.shape));
      for (const int64_t rank : places_.ranks())
        made[{i, rank}] = outputs_.Add(part, name, tensor.mtp, rank, output.id.layer, output.near);
    }
    const auto cut = [&](uint32_t* output, int64_t* row) {
      const int64_t each = group.outputs[*output].shape[0] / places_.tp();
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

  // Beside global scales that are kept.
  Status AddInputScales() {
    for (const auto& [key, members] : stacks_) {
      const auto [mtp, layer, index] = key;
      if (form_.tensors()[index].part != Part::kScale2) continue;
      const auto input = form_.Find(form_.tensors()[index].of[0], Part::kInputScale, mtp);
      if (!input || stacks_.contains({mtp, layer, *input})) continue;
      MIMO_RETURN_IF_ERROR(outputs_.AddUnused(form_.tensors()[*input], layer, members[0]->near));
    }
    return {};
  }

  // Whether the engine's quantization has a method for the KV cache, which has scales: block FP8 has, and ModelOpt's
  // but for a mixture of algorithms.
  bool HasCacheScales() const {
    if (p_.chooser.keeps() && config().quant_method.find("fp8") != std::string::npos) return true;
    const size_t algorithms = Algorithms().size();
    return p_.chooser.dialect() == Dialect::kNative ? algorithms > 0 && !p_.chooser.keeps() : algorithms == 1;
  }

  Status AddConstants() {
    Facts facts;
    facts["cache_scales"] = std::string(HasCacheScales() ? "yes" : "no");
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
        if (!mtp && !form_.Has(table_name)) continue;  // a build without it
        if (const DraftOutput* scale = cache_.Take(constant, layer)) {
          MIMO_RETURN_IF_ERROR(cache_.Fill(constant, *scale, layer, &draft_, &outputs_));
          continue;
        }
        MIMO_ASSIGN_OR_RETURN(const std::string name, places_.NameOf(mtp, table_name, constant.dtype, constant.shape));
        draft_.BeginGroup(table_name);
        for (const int64_t rank : places_.ranks()) {
          OutputArray made;
          made.dtype = constant.dtype;
          made.shape = constant.shape;
          made.transform = Transform::kConstant;
          made.constant = BytesOf(constant.value, constant.dtype);
          outputs_.Add(std::move(made), name, mtp, rank, layer, 0);
        }
      }
    }
    return {};
  }

  // Scales of the KV cache that no array of a rank takes travel with what no rank holds.
  void KeepOtherCacheScales() {
    const std::vector<DraftOutput*> others = cache_.Rest();
    if (others.empty()) return;
    rest_.insert(rest_.end(), others.begin(), others.end());
    notes_.push_back(std::to_string(others.size()) + " scales of the KV cache have no place in the state of form " +
                     form_.name() + " under this quantization: they are kept in " + kRestFile +
                     ", and the engine runs without them");
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
    for (const std::string& name : form_.Unfilled(outputs_.first_names()))
      missing += (missing.empty() ? "" : ", ") + name;
    if (missing.empty()) return {};
    return UsageError("the template names arrays that nothing of this checkpoint fills")
        .Expected("arrays of schemas/forms")
        .Found(missing.substr(0, 400))
        .Advice("dump the template of the text model, without towers or drafters");
  }

  const Planning& p_;
  Draft& draft_;
  const RankForm& form_;
  const RankPlaces places_;
  RankOutputs outputs_;
  RankCacheScales cache_;
  std::vector<std::string>& notes_;
  EncodedRanks encoded_;
  std::vector<DraftGroup> planned_;
  std::map<StackKey, std::vector<const DraftOutput*>> stacks_;
  std::vector<DraftOutput*> rest_;
};

}  // namespace

Status ShardedStateForm::Arrange(Planning* p) const {
  MIMO_ASSIGN_OR_RETURN(const RankForm form, RankForm::Load(TargetWord(p->options), p->catalogue.config.family->name,
                                                            p->options.form_template));
  p->target.table = form.name();
  if (!p->chooser.keeps() || DeclaresOtherwise(*p) || ShownOtherwise(*p))
    p->quantization = DescribeQuantization(p->draft, p->chooser.dialect());
  return Distributor(form, p).Distribute();
}

}  // namespace mimo
