#include "lib/forms/megatron/megatron_form.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <nlohmann/json.hpp>

#include "lib/forms/rules.h"
#include "lib/json/parse.h"
#include "lib/model/role_groups.h"

namespace mimo {
namespace {

using Json = nlohmann::json;

constexpr char kFormTable[] = "forms/megatron.json";

Error BadTable(std::string what) {
  return BadInput(std::move(what)).File(std::string("schemas/") + kFormTable);
}

// -1: not a number.
int32_t Number(std::string_view text) {
  int32_t value = -1;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
  return problem == std::errc() && end == text.data() + text.size() && !text.empty() && text[0] != '-' ? value : -1;
}

std::vector<std::string_view> Components(std::string_view key) {
  std::vector<std::string_view> parts;
  while (true) {
    const size_t dot = key.find('.');
    parts.push_back(key.substr(0, dot));
    if (dot == std::string_view::npos) return parts;
    key.remove_prefix(dot + 1);
  }
}

}  // namespace

Result<MegatronForm> ParseMegatronForm(std::string_view text) {
  MegatronForm form;
  try {
    MIMO_ASSIGN_OR_RETURN(const Json table, ParseJson<Json>(text, "schemas/forms/megatron.json"));
    for (const Json& row : table.at("tensors")) {
      MegatronTensor tensor;
      tensor.pattern = row.at("name");
      for (const Json& name : row.at("of")) {
        const auto role = RoleFromName(name.get<std::string>());
        if (!role) return BadTable("an unknown role").Found(name.get<std::string>());
        tensor.of.push_back(*role);
      }
      const auto cut = FromWord(kCuts, row.at("cut").get<std::string>());
      if (!cut || tensor.of.empty()) return BadTable("a bad row").Found(tensor.pattern);
      tensor.cut = *cut;
      tensor.when = row.value("when", "");
      tensor.mtp = row.value("mtp", false);
      tensor.f32 = row.value("dtype", "") == "F32";
      form.tensors_.push_back(std::move(tensor));
    }
    for (const Json& row : table.at("extra_state")) {
      MegatronModule module{
          row.at("name"), row.value("when", ""), row.value("mtp", false), row.value("experts", false), {}};
      if (row.contains("of") && !(module.of = RoleFromName(row.at("of").get<std::string>())))
        return BadTable("an unknown role").Found(module.pattern);
      form.modules_.push_back(std::move(module));
    }
  } catch (const Json::exception& problem) {
    return BadTable("malformed table").Found(problem.what());
  }
  form.Index();
  return form;
}

void MegatronForm::Index() {
  by_pattern_.clear();
  for (size_t i = 0; i < tensors_.size(); ++i) by_pattern_.emplace(tensors_[i].pattern, i);
}

// Modules stay but for norms of one head: which are asked for follows from the layers that a model has.
MegatronForm MegatronForm::Of(const Family& family) const {
  const std::vector<TensorRule>& rules = family.table.rules();
  const auto lacks = [&](const MegatronTensor& tensor) {
    if (tensor.when == "dense" && family.moe.kind == LayerPattern::Kind::kAll) return true;
    if (tensor.when == "moe" && family.moe.kind == LayerPattern::Kind::kNoLayer) return true;
    return std::none_of(tensor.of.begin(), tensor.of.end(), [&](Role role) {
      return std::any_of(rules.begin(), rules.end(),
                         [&](const TensorRule& rule) { return rule.role == role && rule.mtp == tensor.mtp; });
    });
  };
  MegatronForm of = *this;
  std::erase_if(of.tensors_, lacks);
  const auto of_one_head = [&](Role role, bool mtp) {
    return std::any_of(rules.begin(), rules.end(), [&](const TensorRule& rule) {
      return rule.role == role && rule.mtp == mtp && rule.shape == std::vector<std::string>{"head_dim"};
    });
  };
  for (MegatronTensor& tensor : of.tensors_)  // a norm of one head, not of all, is whole on every rank
    if ((tensor.cut == Cut::kQHeads || tensor.cut == Cut::kKvHeads) && of_one_head(tensor.of[0], tensor.mtp))
      tensor.cut = Cut::kReplicated;
  std::erase_if(of.modules_,
                [&](const MegatronModule& module) { return module.of && !of_one_head(*module.of, module.mtp); });
  of.Index();
  return of;
}

Result<const MegatronForm*> MegatronForm::Get(const Family& family) {
  using Forms = std::map<std::string, MegatronForm>;
  static const Result<Forms> forms = []() -> Result<Forms> {
    MIMO_ASSIGN_OR_RETURN(const MegatronForm whole, ParseMegatronForm(EmbeddedText(kFormTable)));
    MIMO_ASSIGN_OR_RETURN(const std::vector<const Family*>* families, Family::All());
    Forms made;
    for (const Family* one : *families) made.emplace(one->name, whole.Of(*one));
    return made;
  }();
  if (!forms.ok()) return BadTable("the embedded table cannot be read");
  const auto found = forms.value().find(family.name);
  if (found == forms.value().end()) return BadTable("a family that is not embedded").Found(family.name);
  return &found->second;
}

std::optional<size_t> MegatronForm::Find(const TensorId& id, const ModelConfig& model) const {
  const bool moe = !id.mtp && id.layer >= 0 && model.moe[static_cast<size_t>(id.layer)] != 0;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const MegatronTensor& tensor = tensors_[i];
    if (tensor.mtp != id.mtp || std::find(tensor.of.begin(), tensor.of.end(), id.role) == tensor.of.end()) continue;
    if (tensor.when.empty() || (tensor.when == "moe") == moe) return i;
  }
  return std::nullopt;
}

std::optional<MegatronName> MegatronForm::Identify(std::string_view key) const {
  std::vector<std::string_view> parts = Components(key);
  size_t at = 0;
  MegatronName name;
  name.part = VirtualPart(parts[0]);
  if (name.part >= 0) ++at;
  while (at < parts.size() && (parts[at] == "model" || parts[at] == "module")) ++at;
  std::string pattern;
  const auto add = [&](std::string_view part) {
    if (!pattern.empty()) pattern += '.';
    pattern += part;
  };
  bool gated = false;
  for (; at < parts.size(); ++at) {
    std::string_view part = parts[at];
    if (part == "mtp_model_layer") part = "transformer_layer";
    gated |= part == "linear_fc1";
    if (part == "layers") {
      add(part);
      add(kLayerSlot);
      const int32_t layer = at + 1 < parts.size() ? Number(parts[at + 1]) : -1;
      if (layer >= 0) ++at;
      name.layer = layer;
      name.stacked_layers = layer < 0;
    } else if (part == "experts") {  // experts[.experts|.local_experts][.E]
      add("experts.experts");
      if (at + 1 < parts.size() && (parts[at + 1] == "experts" || parts[at + 1] == "local_experts")) ++at;
      if (at + 1 < parts.size()) name.expert = Number(parts[at + 1]);
      if (name.expert >= 0) ++at;
    } else if (at + 1 == parts.size() && part.starts_with("weight")) {  // weight[E][_w|_v]
      std::string_view tail = part.substr(6);
      if (gated && (tail.ends_with("_w") || tail.ends_with("_v"))) {
        name.half = tail.back();
        tail.remove_suffix(2);
      }
      if (!tail.empty()) {
        if (name.expert >= 0) return std::nullopt;
        name.expert = Number(tail);
        if (name.expert < 0) return std::nullopt;
      }
      add("weight");
    } else {
      add(part);
    }
  }
  const auto found = by_pattern_.find(pattern);
  if (found == by_pattern_.end()) return std::nullopt;
  const MegatronTensor& tensor = tensors_[found->second];
  if (name.expert >= 0 && !tensor.experts()) return std::nullopt;
  if (name.stacked_layers && tensor.mtp) return std::nullopt;
  name.tensor = found->second;
  return name;
}

int32_t VirtualPart(std::string_view component) {
  return component.starts_with("model") ? Number(component.substr(5)) : -1;
}

bool IsTrainingState(std::string_view key) {
  constexpr std::string_view kRoots[] = {"optimizer",           "chained_",           "rng_state",   "rerun_state",
                                         "opt_param_scheduler", "lr_scheduler",       "rng.",        "args",
                                         "iteration",           "checkpoint_version", "train_state", "scheduler"};
  if (key.find("_extra_state") != std::string_view::npos) return true;
  return std::any_of(std::begin(kRoots), std::end(kRoots),
                     [&](std::string_view root) { return key.starts_with(root); });
}

std::vector<MegatronRun> RunsOf(Role role, const AttentionShape& shape, int64_t rows) {
  if (role == Role::kMlpUp || role == Role::kExpertUp) return {{0, rows, rows}};
  if (!IsAttentionProjection(role)) return {{0, 0, rows}};
  const int64_t heads = shape.heads / shape.kv_heads;  // of Q, to a group
  const int64_t group = (heads + 1) * shape.head_dim + shape.v_head_dim;
  const int64_t each = role == Role::kAttnQ   ? heads * shape.head_dim
                       : role == Role::kAttnK ? shape.head_dim
                                              : shape.v_head_dim;
  const int64_t begin = role == Role::kAttnQ ? 0 : heads * shape.head_dim + (role == Role::kAttnV ? shape.head_dim : 0);
  std::vector<MegatronRun> runs;
  for (int64_t g = 0; g < shape.kv_heads; ++g) runs.push_back({g * each, g * group + begin, each});
  return runs;
}

int64_t MegatronRows(const MegatronTensor& tensor, const AttentionShape& shape, int64_t rows) {
  if (tensor.cut == Cut::kHeads) return shape.q_rows() + shape.k_rows() + shape.v_rows();
  return rows * static_cast<int64_t>(tensor.of.size());
}

std::string ChunkName(const std::string& key, const std::vector<int64_t>& offsets) {
  std::string name = key + "[";
  for (size_t i = 0; i < offsets.size(); ++i) name += (i == 0 ? "" : ",") + std::to_string(offsets[i]);
  return name + "]";
}

std::pair<std::string, std::vector<int64_t>> ParseChunkName(const std::string& name) {
  const size_t bracket = name.rfind('[');
  std::vector<int64_t> offsets;
  for (const char* at = name.c_str() + bracket; *at != ']';) {  // past '[' or ','
    offsets.push_back(0);
    at = std::from_chars(at + 1, name.data() + name.size(), offsets.back()).ptr;
  }
  return {name.substr(0, bracket), std::move(offsets)};
}

}  // namespace mimo
