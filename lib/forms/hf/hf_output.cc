#include "lib/forms/hf/hf_output.h"

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include "lib/draft/draft.h"
#include "lib/model/family.h"
#include "lib/model/fp8_grid.h"
#include "lib/model/role_groups.h"

namespace mimo {

namespace {

// Weights that a reader builds a linear layer for.
bool IsLinear(const OutputArray& output) {
  const Role role = output.id.role;
  if (role == Role::kVision || role == Role::kAudio)
    return output.shape.size() == 2 && output.name.ends_with(".weight") &&
           output.name.find("embed") == std::string::npos;
  return IsLayerLinear(role) || role == Role::kRouter || IsOutputLayer(role);
}

struct Module {
  const OutputArray* values = nullptr;
  const OutputArray* scales = nullptr;
  std::optional<Codec> codec;  // none: plain
  bool input_scale = false;
  bool power_of_two = false;
};

class QuantizationDescriber {
 public:
  QuantizationDescriber(const Catalogue& catalogue, const Inventory& inventory, const std::vector<SourceArray>& sources)
      : catalogue_(catalogue), sources_(sources) {
    codec_of_.resize(catalogue_.arrays.size());
    for (const Weight& weight : inventory.weights) codec_of_[weight.array] = CodecOf(weight.storage);
  }

  // Before those that are its codes are added.
  void Add(const OutputArray& codes, const kernels::Encoding& encoding) { encodings_[&codes] = &encoding; }

  void Add(const OutputArray& output) {
    const std::string name = output.name.substr(0, output.name.rfind('.'));
    if (output.id.part == Part::kInputScale || output.id.part == Part::kInputGlobal) {
      modules_[name].input_scale = true;
    } else if (!HoldsElements(output.id.part)) {
      if (output.id.part != Part::kScale2 && output.id.part != Part::kGlobalScale) modules_[name].scales = &output;
    } else if (IsLinear(output)) {
      Module& module = modules_[name];
      module.values = &output;
      module.codec = CodecOfOutput(output);
      module.power_of_two =
          module.codec == Codec::kFp8Block && catalogue_.config.scale_fmt == "ue8m0";  // as it was stored
      if (const auto e = encodings_.find(&output); e != encodings_.end()) module.power_of_two = e->second->power_of_two;
    }
  }

  HfQuantization Describe(Dialect dialect) {
    std::erase_if(modules_, [](const auto& entry) { return entry.second.values == nullptr; });
    HfQuantization result;
    result.dialect = dialect;
    const std::vector<std::pair<std::string, Module>> modules = InModelOrder();
    CollectDrafter(dialect, modules);
    std::set<std::string> listed;
    for (const auto& [name, module] : modules) {
      if (!module.codec && dialect == Dialect::kNative && !ListedInNative(module.values->id.role)) continue;
      for (const std::string& asked : WithDrafter(module, Names(dialect, name, module))) {
        if (!listed.insert(asked).second) continue;
        if (module.codec) {
          result.quantized.push_back({asked, *module.codec, module.input_scale, module.power_of_two, SpanOf(module)});
        } else {
          result.unquantized.push_back(asked);
        }
      }
    }
    for (const auto& [codes, encoding] : encodings_) {
      if (encoding->codec != Codec::kFp8Block) continue;
      result.fp8_block_rows = encoding->block_rows;
      result.fp8_block_cols = encoding->block_cols;
    }
    return result;
  }

 private:
  // Of FP8, by the shapes that are written.
  ScaleSpan SpanOf(const Module& module) const {
    if (module.codec != Codec::kFp8Block || module.scales == nullptr || encodings_.contains(module.values))
      return ScaleSpan::kBlock;
    const ModelConfig& c = catalogue_.config;
    const auto grid =
        GridOf({module.values->shape, module.scales->shape, c.block_rows, c.block_cols, true, c.declares_blocks});
    return grid ? grid->span : ScaleSpan::kBlock;
  }

  std::optional<Codec> CodecOfOutput(const OutputArray& output) const {
    switch (output.transform) {
      case Transform::kEncode:
        return output.target_codec;
      case Transform::kRelayout:
        return Codec::kFp8Block;
      case Transform::kMove:
        for (const Piece& piece : output.pieces)
          if (piece.source != kNone) return codec_of_[sources_[piece.source].array];
        return std::nullopt;
      case Transform::kConvert:  // values
      case Transform::kScales:   // beside the elements of a weight
      case Transform::kBeside:
      case Transform::kInvert:
      case Transform::kTranspose:  // of Neuron directories
      case Transform::kConstant:
        break;
    }
    return std::nullopt;
  }

  std::vector<std::pair<std::string, Module>> InModelOrder() const {
    std::vector<std::pair<std::string, Module>> sorted(modules_.begin(), modules_.end());
    const auto key = [](const Module& m) {
      const TensorId& id = m.values->id;
      return std::tuple(id.mtp, id.layer, id.expert, id.role);
    };
    std::stable_sort(sorted.begin(), sorted.end(),
                     [&](const auto& a, const auto& b) { return key(a.second) < key(b.second); });
    return sorted;
  }

  static bool ListedInNative(Role role) { return role != Role::kRouter && !IsOutputLayer(role) && !IsTower(role); }

  // The names under which readers ask for a module, its own first. They look attention up as q, k and v or as qkv, by
  // the architecture and not by what is stored; where algorithms are listed by module, some know merged modules only by
  // their own names (docs/recipes.md).
  std::vector<std::string> Names(Dialect dialect, const std::string& name, const Module& module) const {
    const Role role = module.values->id.role;
    const std::string parent = name.substr(0, name.rfind('.') + 1);
    const auto up = modules_.find(parent + "up_proj");
    const bool merged = !IsExpert(role) && IsGate(role) && up != modules_.end() && up->second.codec == module.codec;
    if (module.codec && dialect != Dialect::kModelOpt) return {name};
    if (merged) return {name, parent + "gate_up_proj"};
    if (!IsAttentionProjection(role)) return {name};
    if (module.codec) return role == Role::kAttnQ ? std::vector{name, parent + "qkv_proj"} : std::vector{name};
    if (role == Role::kAttnK || role == Role::kAttnV) return {};  // named with Q
    return {parent + "q_proj", parent + "k_proj", parent + "v_proj", parent + "qkv_proj"};
  }

  // SGLang's drafter calls every MTP layer alike, as ignore lists of released checkpoints do; "" where it does not.
  std::string DrafterName(const std::string& name) const {
    const MtpNaming& mtp = catalogue_.config.family->mtp;
    const std::string& prefix = mtp.conventions.front().prefix;
    if (mtp.drafter.empty() || !name.starts_with(prefix)) return "";
    return mtp.drafter + name.substr(name.find('.', prefix.size()));
  }

  // Names that all MTP layers agree about.
  void CollectDrafter(Dialect dialect, const std::vector<std::pair<std::string, Module>>& modules) {
    for (const auto& [name, module] : modules) {
      if (!module.values->id.mtp || (module.codec && dialect != Dialect::kModelOpt) || DrafterName(name).empty())
        continue;
      for (const std::string& asked : Names(dialect, name, module)) drafter_[DrafterName(asked)].insert(module.codec);
    }
  }

  std::vector<std::string> WithDrafter(const Module& module, std::vector<std::string> names) const {
    if (!module.values->id.mtp || drafter_.empty()) return names;
    const size_t own = names.size();
    for (size_t i = 0; i < own; ++i) {
      const auto found = drafter_.find(DrafterName(names[i]));
      if (found != drafter_.end() && found->second.size() == 1) names.push_back(found->first);
    }
    return names;
  }

  const Catalogue& catalogue_;
  const std::vector<SourceArray>& sources_;
  std::vector<std::optional<Codec>> codec_of_;                        // by catalogue array, for arrays of codes
  std::map<const OutputArray*, const kernels::Encoding*> encodings_;  // by codes
  std::map<std::string, Module> modules_;
  std::map<std::string, std::set<std::optional<Codec>>> drafter_;
};

}  // namespace

HfQuantization DescribeQuantization(const Catalogue& catalogue, const Inventory& inventory, const Plan& plan,
                                    Dialect dialect) {
  QuantizationDescriber describer(catalogue, inventory, plan.sources);
  for (const FuseGroup& group : plan.groups)
    for (const EncodedWeight& e : group.encoded) describer.Add(plan.outputs[e.codes], e.encoding);
  for (const OutputArray& output : plan.outputs) describer.Add(output);
  return describer.Describe(dialect);
}

HfQuantization DescribeQuantization(const Draft& draft, Dialect dialect) {
  QuantizationDescriber describer(draft.catalogue(), draft.inventory(), draft.sources);
  for (const DraftGroup& group : draft.groups) {
    for (const EncodedWeight& e : group.encoded) describer.Add(group.outputs[e.codes], e.encoding);
    for (const DraftOutput& output : group.outputs) describer.Add(output);
  }
  return describer.Describe(dialect);
}

}  // namespace mimo
