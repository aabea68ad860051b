// What a planned directory, of whatever form, says about itself: config.json, the index, and what travels along.
#include <algorithm>
#include <set>

#include "lib/forms/form.h"
#include "lib/forms/hf/cache_scales.h"
#include "lib/forms/hf/hf_config.h"
#include "lib/forms/hf/hf_output.h"
#include "lib/forms/strays.h"
#include "lib/model/family.h"
#include "lib/model/file_names.h"
#include "lib/model/role_groups.h"
#include "lib/plan/words.h"

namespace mimo {
namespace {

// torch_dtype of config.json; "" leaves the source's.
constexpr Words<DTypeChoice, 4> kTorchDTypes{{{DTypeChoice::kKeep, ""},
                                              {DTypeChoice::kBf16, "bfloat16"},
                                              {DTypeChoice::kFp16, "float16"},
                                              {DTypeChoice::kFp32, "float32"}}};

class DirectoryDescriber {
 public:
  DirectoryDescriber(const Planning& p, Plan* plan)
      : p_(p),
        traits_(p.form.traits()),
        config_(p.catalogue.config),
        options_(p.options),
        target_(p.target),
        chooser_(p.chooser),
        plan_(*plan) {}

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
      if (traits_.index) where.emplace_back(output.name, plan_.files[output.file].name);
      plan_.payload_bytes += output.end - output.begin;
    }
    std::sort(where.begin(), where.end());
    plan_.texts.push_back({kConfigName, std::move(config)});
    if (traits_.index) plan_.texts.push_back({kIndexName, Index(hf, where)});
    std::string quant_config;
    if (edited_ && !hf.keeps_quantization) {
      MIMO_ASSIGN_OR_RETURN(quant_config, HfQuantConfig(hf.quantization));
    }
    if (!quant_config.empty()) plan_.texts.push_back({kQuantConfigName, std::move(quant_config)});
    KeepOrigin();
    Carry(hf);
    return {};
  }

 private:
  // What the config is an edit of: that of the source, or of what the source was made from.
  Status ChooseBase() {
    // What a view shows differs from the text of its config.
    MIMO_ASSIGN_OR_RETURN(base_, ParseModelConfig(config_.text, config_.path));
    base_layout_ = p_.layout.layout;
    base_index_ = &p_.catalogue.index;
    if (target_.restores && config_.marker->source) base_layout_ = LayoutOf(*config_.marker->source);
    // The config of ranks lacks what their engine must not see.
    if (p_.catalogue.origin && (target_.restores || p_.view != nullptr)) {
      MIMO_ASSIGN_OR_RETURN(base_, ParseModelConfig(p_.catalogue.origin->config, kOriginConfigName));
      if (p_.catalogue.origin->index) base_index_ = &p_.catalogue.origin->index->info;
    }
    return {};
  }

  // Whether the config differs from the base. Comparing the edited text with that of the base cannot tell: an edit adds
  // "mimo_layout" and writes every key anew, also where it changes nothing that is stored; and an output that was asked
  // to be stored anew says so even where every weight happens to keep its type.
  bool Edits() const {
    const bool asked =
        !chooser_.keeps() || options_.text_only || !traits_.plain || options_.fold_value_scale.has_value();
    const bool restored = target_.restores && p_.catalogue.origin;  // the base is the text of what is restored
    const bool other_base = restored ? config_.marker->recoded : p_.view != nullptr || target_.restores;
    // An output without the scales of the KV cache that the source has must not declare them.
    const bool loses_scheme = p_.catalogue.kv_cache.declared() && CacheSchemeOf(p_, plan_).empty();
    return asked || other_base || loses_scheme || DeclaresOtherwise(p_) || target_.qkv != base_layout_ ||
           target_.block_rows != base_.block_rows || (!restored && target_.resizes(config_));
  }

  Result<HfDescription> DescribeHf() {
    HfDescription hf;
    hf.layout = target_.qkv;
    hf.global = target_.model.global;
    hf.window = target_.model.window;
    hf.vocab = target_.model.vocab;
    hf.intermediate = target_.model.intermediate;
    hf.moe_intermediate = target_.model.moe_intermediate;
    hf.text_only = options_.text_only || LacksTowers();
    if (p_.quantization)
      hf.quantization = *p_.quantization;
    else if (traits_.quantization)
      hf.quantization = DescribeQuantization(p_.catalogue, p_.inventory, plan_, chooser_.dialect());
    if (chooser_.keeps()) {
      hf.quantization.keeps = !DeclaresOtherwise(p_);  // what is not true is said anew
      hf.quantization.fp8_block_rows = static_cast<uint32_t>(target_.block_rows);
      hf.quantization.fp8_block_cols = static_cast<uint32_t>(config_.block_cols);
    }
    // A directory without MTP layers must not announce them, but where every release does.
    if (config_.nextn_layers && config_.family->mtp.released_layers > 0 && p_.form.kind() == FormKind::kHf &&
        WrittenMtpLayers() == 0)
      hf.mtp_layers = 0;
    hf.quantization.kv_cache_scheme = CacheSchemeOf(p_, plan_);
    // Where no scale was looked at, what the config says of them is not known to be true.
    if (DeniesScaleFormat(p_) || (config_.scale_fmt == "ue8m0" && p_.facts.attention_scales == 0 && p_.view == nullptr))
      for (QuantizedModule& module : hf.quantization.quantized) module.power_of_two = false;
    hf.dtype = WordOf(kTorchDTypes, options_.dtype);
    hf.folded_value_scale = options_.fold_value_scale || (config_.marker && !config_.marker->folded.empty());
    LayoutMarker& marker = hf.marker;
    if (!traits_.plain || (!target_.restores && config_.marker)) {
      if (config_.marker) marker = *config_.marker;
      marker.form = p_.form.kind();
      marker.table.clear();
      marker.tp = marker.ep = 0;
      marker.expert_codes.reset();
      marker.router.reset();
      marker.cache_vectors = false;
      marker.cache_vector_names.clear();
      marker.recoded |= !chooser_.keeps() || target_.decodes || options_.on_straddle == StraddlePolicy::kBf16;
      if (!marker.source && !traits_.plain) marker.source = MarkOf(p_.layout.layout);
      if (!traits_.plain && target_.resizes(config_) && !marker.unpadded) marker.unpadded = Unpadded();
    }
    if (options_.fold_value_scale) marker.folded = WordOf(kFoldIntos, *options_.fold_value_scale);
    p_.form.Amend(p_, &hf);
    return hf;
  }

  int64_t WrittenMtpLayers() const {
    std::set<int32_t> layers;
    for (const OutputArray& output : plan_.outputs)
      if (output.id.mtp) layers.insert(output.id.layer);
    return static_cast<int64_t>(layers.size());
  }

  // What forms without towers are shown as: their config must not promise them.
  bool LacksTowers() const {
    if (p_.view == nullptr || !(base_.has_vision || base_.has_audio)) return false;
    return std::none_of(plan_.outputs.begin(), plan_.outputs.end(),
                        [](const OutputArray& output) { return IsTower(output.id.role); });
  }

  UnpaddedDimensions Unpadded() const {
    const AttentionShape global = LogicalShape(config_, false), window = LogicalShape(config_, true);
    return {global.heads,         global.kv_heads,          window.heads, window.kv_heads,
            config_.intermediate, config_.moe_intermediate, config_.vocab};
  }

  // The index of the source again where every tensor is back in its place.
  std::string Index(const HfDescription& hf, const std::vector<std::pair<std::string, std::string>>& where) const {
    if (target_.restores && !edited_ && p_.catalogue.origin->index) {
      auto known = p_.catalogue.origin->index->weight_map;
      std::sort(known.begin(), known.end());
      if (known == where) return base_index_->text;
    }
    return BuildHfIndex(*base_index_, hf, plan_.payload_bytes, where);
  }

  void KeepOrigin() {
    if (target_.restores) return;
    if (p_.catalogue.origin) {
      plan_.texts.push_back({kOriginConfigName, p_.catalogue.origin->config});
      if (p_.catalogue.origin->index) plan_.texts.push_back({kOriginIndexName, p_.catalogue.origin->index->info.text});
    } else if (!traits_.plain) {
      plan_.texts.push_back({kOriginConfigName, config_.text});
      plan_.texts.push_back({kOriginIndexName, SourceIndex()});
    }
  }

  // The index of the source, or one made for it where it has none, so that it is known which file held what.
  std::string SourceIndex() const {
    if (p_.catalogue.index.present && p_.catalogue.name_prefix.empty()) return p_.catalogue.index.text;
    std::vector<std::pair<std::string, std::string>> where;
    for (const StoredArray& array : p_.catalogue.arrays)
      where.emplace_back(array.name, p_.catalogue.files[array.file].name);
    HfDescription plain;
    plain.layout = kOwnGrids;
    return BuildHfIndex(p_.catalogue.index, plain, p_.catalogue.payload_bytes(), where);
  }

  // Or is that directory, where a link leads out of the checkpoint.
  static bool LiesIn(const std::string& directory, const CarriedFile& file) {
    return file.name.starts_with(directory) || (!file.outside.empty() && file.name + '/' == directory);
  }

  void Carry(const HfDescription& hf) {
    if (options_.logical) return;
    for (const CarriedFile& file : p_.catalogue.carried) {
      if (options_.text_only && LiesIn(kAudioTokenizerDirectory, file)) continue;
      if (edited_ && file.name == kQuantConfigName &&
          (!hf.keeps_quantization || hf.quantization.kv_cache_scheme != p_.catalogue.kv_cache.scheme))
        continue;  // it would contradict config.json
      if (file.name == kQuantConfigName && file.outside.empty() && !p_.catalogue.name_prefix.empty() &&
          !p_.catalogue.quant_config.empty()) {
        plan_.texts.push_back({kQuantConfigName, p_.catalogue.quant_config});  // its modules lose the prefix as well
        continue;
      }
      if (LiesIn(kOriginDirectory, file) || IsDroppedStray(p_.stored, file.name, options_.unknown)) continue;
      plan_.carried.push_back(file.name);
    }
  }

  const Planning& p_;
  const FormTraits traits_;
  const ModelConfig& config_;
  const PlanOptions& options_;
  const Target& target_;
  const StorageChooser& chooser_;
  Plan& plan_;
  ModelConfig base_;
  QkvLayout base_layout_;
  const IndexInfo* base_index_ = nullptr;
  bool edited_ = false;
};

}  // namespace

Status Form::Describe(const Planning& p, Plan* plan) const {
  return DirectoryDescriber(p, plan).Describe();
}

}  // namespace mimo
