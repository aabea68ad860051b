#include "lib/planner/describe_output.h"

#include <algorithm>

#include "lib/form/hf.h"
#include "lib/model/file_names.h"
#include "lib/model/role_groups.h"
#include "lib/plan/words.h"
#include "lib/planner/hf_output.h"

namespace mimo {
namespace {

// torch_dtype of config.json; "" leaves the source's.
constexpr Words<DTypeChoice, 4> kTorchDTypes{{{DTypeChoice::kKeep, ""},
                                              {DTypeChoice::kBf16, "bfloat16"},
                                              {DTypeChoice::kFp16, "float16"},
                                              {DTypeChoice::kFp32, "float32"}}};

class OutputDescriber {
 public:
  OutputDescriber(const OutputDescription& d, Plan* plan)
      : d_(d), config_(d.catalogue.config), options_(d.options), target_(d.target), plan_(*plan) {}

  Status Describe() {
    MIMO_RETURN_IF_ERROR(ChooseBase());
    edited_ = Edits();
    MIMO_ASSIGN_OR_RETURN(const HfDescription hf, DescribeHf());
    std::string config = base_.text;
    if (edited_) {
      MIMO_ASSIGN_OR_RETURN(config, EditHfConfig(base_, hf));
    }
    std::vector<std::pair<std::string, std::string>> where;
    for (const OutputArray& output : plan_.outputs) {
      if (!ranks_ && !megatron_) where.emplace_back(output.name, plan_.files[output.file].name);
      plan_.payload_bytes += output.end - output.begin;
    }
    std::sort(where.begin(), where.end());
    plan_.texts.push_back({kConfigName, std::move(config)});
    if (!ranks_ && !megatron_) plan_.texts.push_back({kIndexName, Index(hf, where)});
    std::string quant_config;
    if (edited_ && !hf.keeps_quantization && !megatron_) {
      MIMO_ASSIGN_OR_RETURN(quant_config, HfQuantConfig(hf.quantization));
    }
    if (!quant_config.empty()) plan_.texts.push_back({kQuantConfigName, std::move(quant_config)});
    KeepOrigin();
    Carry();
    return {};
  }

 private:
  // What the config is an edit of: that of the source, or of what the source was made from.
  Status ChooseBase() {
    // What a view shows differs from the text of its config.
    MIMO_ASSIGN_OR_RETURN(base_, ParseModelConfig(config_.text, config_.path));
    base_layout_ = d_.verdict.layout;
    base_index_ = &d_.catalogue.index;
    if (target_.restores && config_.marker->source) base_layout_ = LayoutOf(*config_.marker->source);
    // The config of ranks lacks what their engine must not see.
    if (d_.catalogue.origin && (target_.restores || d_.viewed)) {
      MIMO_ASSIGN_OR_RETURN(base_, ParseModelConfig(d_.catalogue.origin->config, kOriginConfigName));
      if (d_.catalogue.origin->index) base_index_ = &d_.catalogue.origin->index->info;
    }
    return {};
  }

  // Whether the config differs from the base. Comparing the edited text with that of the base cannot tell: an edit adds
  // "mimo_layout" and writes every key anew, also where it changes nothing that is stored; and an output that was asked
  // to be stored anew says so even where every weight happens to keep its type.
  bool Edits() const {
    const bool asked = !d_.chooser.keeps() || options_.text_only || options_.to != TargetKind::kHf ||
                       options_.fold_value_scale.has_value();
    const bool restored = target_.restores && d_.catalogue.origin;  // the base is the text of what is restored
    const bool other_base = restored ? config_.marker->recoded : d_.viewed || target_.restores;
    return asked || other_base || target_.qkv != base_layout_ || target_.block_rows != base_.block_rows ||
           (!restored && target_.resizes(config_));
  }

  Result<HfDescription> DescribeHf() {
    HfDescription hf;
    hf.layout = target_.qkv;
    hf.global = target_.model.global;
    hf.window = target_.model.window;
    hf.vocab = target_.model.vocab;
    hf.intermediate = target_.model.intermediate;
    hf.moe_intermediate = target_.model.moe_intermediate;
    hf.text_only = options_.text_only || ranks_ || LacksTowers();
    hf.ranks = ranks_;
    // What ranks hold is quantized as the source says, or not at all.
    hf.keeps_quantization = ranks_ && d_.chooser.keeps();
    if (!ranks_ && !megatron_)
      hf.quantization = DescribeQuantization(d_.catalogue, d_.inventory, plan_, d_.chooser.dialect());
    if (d_.chooser.keeps()) {
      hf.quantization.fp8_block_rows = static_cast<uint32_t>(target_.block_rows);
      hf.quantization.fp8_block_cols = static_cast<uint32_t>(config_.block_cols);
    }
    hf.dtype = WordOf(kTorchDTypes, options_.dtype);
    hf.folded_value_scale = options_.fold_value_scale || (config_.marker && !config_.marker->folded.empty());
    LayoutMarker& marker = hf.marker;
    const bool to_hf = options_.to == TargetKind::kHf, neuron = options_.to == TargetKind::kNxdi;
    if (!to_hf || (!target_.restores && config_.marker)) {
      if (config_.marker) marker = *config_.marker;
      marker.form = options_.form();
      marker.table.clear();
      marker.tp = marker.ep = 0;
      marker.expert_codes.reset();
      marker.router.reset();
      marker.recoded |=
          !d_.chooser.keeps() || target_.decodes || options_.on_straddle == StraddlePolicy::kBf16 || neuron;
      if (!marker.source && !to_hf) marker.source = MarkOf(d_.verdict.layout);
      if (!to_hf && target_.resizes(config_) && !marker.unpadded) marker.unpadded = Unpadded();
    }
    if (options_.fold_value_scale) marker.folded = WordOf(kFoldIntos, *options_.fold_value_scale);
    if (ranks_) {
      marker.tp = options_.tp;
      marker.ep = std::max<int64_t>(options_.ep, 1);
      marker.table = target_.table;
    }
    if ((ranks_ || megatron_) && WidensRouter()) marker.router = DType::kBF16;
    if (neuron) {
      if (options_.dtype == DTypeChoice::kKeep)
        marker.expert_codes = options_.expert_codes.value_or(ExpertCodes::kHalve);
      hf.architecture = "MiMoV2FlashForCausalLM";  // the class that NxDI has
      hf.keeps_quantization = options_.dtype == DTypeChoice::kKeep;
      hf.text_only = true;
    }
    return hf;
  }

  // What forms without towers are shown as: their config must not promise them.
  bool LacksTowers() const {
    if (!d_.viewed || !(base_.has_vision || base_.has_audio)) return false;
    return std::none_of(plan_.outputs.begin(), plan_.outputs.end(),
                        [](const OutputArray& output) { return IsTower(output.id.role); });
  }

  bool WidensRouter() const {
    for (const Weight& weight : d_.inventory.weights)
      if (weight.id.role == Role::kRouter)
        return d_.catalogue.arrays[weight.array].dtype == DType::kBF16 &&
               (megatron_ || config_.router_dtype != "bfloat16");
    return false;
  }

  UnpaddedDimensions Unpadded() const {
    const AttentionShape global = LogicalShape(config_, false), window = LogicalShape(config_, true);
    return {global.heads,         global.kv_heads,          window.heads, window.kv_heads,
            config_.intermediate, config_.moe_intermediate, config_.vocab};
  }

  // The index of the source again where every tensor is back in its place.
  std::string Index(const HfDescription& hf, const std::vector<std::pair<std::string, std::string>>& where) const {
    if (target_.restores && !edited_ && d_.catalogue.origin->index) {
      auto known = d_.catalogue.origin->index->weight_map;
      std::sort(known.begin(), known.end());
      if (known == where) return base_index_->text;
    }
    return BuildHfIndex(*base_index_, hf, plan_.payload_bytes, where);
  }

  void KeepOrigin() {
    if (target_.restores) return;
    if (d_.catalogue.origin) {
      plan_.texts.push_back({kOriginConfigName, d_.catalogue.origin->config});
      if (d_.catalogue.origin->index) plan_.texts.push_back({kOriginIndexName, d_.catalogue.origin->index->info.text});
    } else if (options_.to != TargetKind::kHf) {
      plan_.texts.push_back({kOriginConfigName, config_.text});
      plan_.texts.push_back({kOriginIndexName, SourceIndex()});
    }
  }

  // The index of the source, or one made for it where it has none, so that it is known which file held what.
  std::string SourceIndex() const {
    if (d_.catalogue.index.present) return d_.catalogue.index.text;
    std::vector<std::pair<std::string, std::string>> where;
    for (const StoredArray& array : d_.catalogue.arrays)
      where.emplace_back(array.name, d_.catalogue.files[array.file].name);
    HfDescription plain;
    plain.layout = {QkvKind::kSplitIndependent, 1};
    return BuildHfIndex(d_.catalogue.index, plain, d_.catalogue.payload_bytes(), where);
  }

  void Carry() {
    for (const CarriedFile& file : d_.catalogue.carried) {
      if (options_.text_only && file.name.rfind("audio_tokenizer/", 0) == 0) continue;
      if (edited_ && file.name == kQuantConfigName) continue;  // it would contradict config.json
      if (file.name.rfind(kOriginDirectory, 0) == 0) continue;
      plan_.carried.push_back(file.name);
    }
  }

  const OutputDescription& d_;
  const ModelConfig& config_;
  const PlanOptions& options_;
  const Target& target_;
  Plan& plan_;
  ModelConfig base_;
  QkvLayout base_layout_;
  const IndexInfo* base_index_ = nullptr;
  const bool ranks_ = options_.form() == FormKind::kShardedState;
  const bool megatron_ = options_.to == TargetKind::kMegatron;
  bool edited_ = false;
};

}  // namespace

Status DescribeOutput(const OutputDescription& d, Plan* plan) {
  return OutputDescriber(d, plan).Describe();
}

}  // namespace mimo
