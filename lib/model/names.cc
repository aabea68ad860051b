#include "lib/model/names.h"

#include <array>

#include "lib/base/words.h"

namespace mimo {
namespace {

constexpr Words<Role, 42> kRoleNames{{
    {Role::kEmbed, "embed"},
    {Role::kLmHead, "lm_head"},
    {Role::kFinalNorm, "final_norm"},
    {Role::kInputNorm, "input_norm"},
    {Role::kPostAttentionNorm, "post_attention_norm"},
    {Role::kAttnQ, "attn.q"},
    {Role::kAttnK, "attn.k"},
    {Role::kAttnV, "attn.v"},
    {Role::kAttnQkv, "attn.qkv"},
    {Role::kAttnO, "attn.o"},
    {Role::kAttnQBias, "attn.q_bias"},
    {Role::kAttnKBias, "attn.k_bias"},
    {Role::kAttnVBias, "attn.v_bias"},
    {Role::kAttnQNorm, "attn.q_norm"},
    {Role::kAttnKNorm, "attn.k_norm"},
    {Role::kAttnSink, "attn.sink"},
    {Role::kMlpGate, "mlp.gate"},
    {Role::kMlpUp, "mlp.up"},
    {Role::kMlpDown, "mlp.down"},
    {Role::kRouter, "router"},
    {Role::kRouterBias, "router.bias"},
    {Role::kExpertGate, "expert.gate"},
    {Role::kExpertUp, "expert.up"},
    {Role::kExpertDown, "expert.down"},
    {Role::kSharedGate, "shared.gate"},
    {Role::kSharedUp, "shared.up"},
    {Role::kSharedDown, "shared.down"},
    {Role::kMtpENorm, "mtp.enorm"},
    {Role::kMtpHNorm, "mtp.hnorm"},
    {Role::kMtpEhProj, "mtp.eh_proj"},
    {Role::kMtpPreMlpNorm, "mtp.pre_mlp_norm"},
    {Role::kMtpFinalNorm, "mtp.final_norm"},
    {Role::kMtpEmbed, "mtp.embed"},
    {Role::kMtpHead, "mtp.lm_head"},
    {Role::kCacheK, "cache.k"},
    {Role::kCacheV, "cache.v"},
    {Role::kCacheQ, "cache.q"},
    {Role::kCacheKv, "cache.kv"},
    {Role::kVision, "tower.vision"},
    {Role::kAudio, "tower.audio"},
    {Role::kSpeech, "tower.speech"},
    {Role::kUnknown, "unknown"},
}};

constexpr Words<Part, kPartCount> kPartSuffixes{{
    {Part::kWeight, "weight"},
    {Part::kScaleInv, "weight_scale_inv"},
    {Part::kScale, "weight_scale"},
    {Part::kScale2, "weight_scale_2"},
    {Part::kInputScale, "input_scale"},
    {Part::kPacked, "weight_packed"},
    {Part::kGlobalScale, "weight_global_scale"},
    {Part::kInputGlobal, "input_global_scale"},
    {Part::kRowScale, "scale"},
}};
static_assert(NamesEach(kRoleNames) && NamesEach(kPartSuffixes));

// A name with its decimal path components replaced by '#', and their values.
struct Shape {
  std::string text;
  std::array<int32_t, 2> numbers{-1, -1};
  size_t count = 0;
};

// False when a decimal component is not the canonical form of a number that fits, or there are more than two.
bool TakeShape(std::string_view name, Shape* shape) {
  shape->text.reserve(name.size());
  for (size_t at = 0; at <= name.size();) {
    size_t end = name.find('.', at);
    if (end == std::string_view::npos) end = name.size();
    const std::string_view component = name.substr(at, end - at);
    if (at != 0) shape->text.push_back('.');
    int64_t value = 0;
    bool decimal = !component.empty();
    for (const char c : component) {
      decimal = c >= '0' && c <= '9';
      if (!decimal) break;
      if (value <= INT32_MAX) value = value * 10 + (c - '0');
    }
    if (decimal) {
      if (component.size() > 1 && component[0] == '0') return false;
      if (value > INT32_MAX || shape->count == shape->numbers.size()) return false;
      shape->numbers[shape->count++] = static_cast<int32_t>(value);
      shape->text.push_back('#');
    } else if (component == "#") {
      return false;  // would look like a number
    } else {
      shape->text.append(component);
    }
    at = end + 1;
  }
  return true;
}

// All of it when there is no '.'.
std::string_view LastComponent(std::string_view name) {
  const size_t dot = name.rfind('.');
  return dot == std::string_view::npos ? name : name.substr(dot + 1);
}

// nullopt for a component that no Hugging Face quantizer writes, and for "weight" itself.
std::optional<Part> CompanionOf(std::string_view component) {
  const auto part = FromWord(kPartSuffixes, component);
  return part == Part::kWeight || part == Part::kRowScale ? std::nullopt : part;
}

void Replace(std::string* text, std::string_view placeholder, int32_t number) {
  const size_t at = text->find(placeholder);
  if (at != std::string::npos) text->replace(at, placeholder.size(), std::to_string(number));
}

}  // namespace

std::string_view RoleName(Role role) {
  return WordOf(kRoleNames, role);
}

std::optional<Role> RoleFromName(std::string_view name) {
  return FromWord(kRoleNames, name);
}

std::string_view PartSuffix(Part part) {
  return WordOf(kPartSuffixes, part);
}

std::string NameOfPart(std::string_view name, Part part) {
  std::string result(name.substr(0, name.size() - LastComponent(name).size()));
  return result += PartSuffix(part);
}

std::string NameInLayer(const std::string& pattern, int32_t layer) {
  std::string name = pattern;
  if (const size_t at = name.find(kLayerSlot); at != std::string::npos)
    name.replace(at, kLayerSlot.size(), std::to_string(layer));
  return name;
}

std::string_view HeaderName(std::string_view name) {
  if (!name.starts_with("rank")) return name;
  size_t at = 4;
  while (at < name.size() && name[at] >= '0' && name[at] <= '9') ++at;
  return at > 4 && at < name.size() && name[at] == '/' ? name.substr(at + 1) : name;
}

TensorId ModelTable::Identify(std::string_view tensor_name) const {
  TensorId id;
  for (const auto& [prefix, role] : data_->towers) {
    if (tensor_name.starts_with(prefix)) {
      id.role = role;
      return id;
    }
  }
  std::string weight_name;
  if (const auto companion = CompanionOf(LastComponent(tensor_name))) {
    id.part = *companion;
    weight_name = NameOfPart(tensor_name, Part::kWeight);
    tensor_name = weight_name;
  }
  Shape shape;
  if (!TakeShape(tensor_name, &shape)) return {};
  const bool behind = !data_->behind_by_shape.empty() && shape.numbers[0] >= decoder_layers_;
  const auto& by_shape = behind ? data_->behind_by_shape : data_->by_shape;
  auto it = by_shape.find(shape.text);
  if (it == by_shape.end()) {
    const auto scale = data_->cache_by_shape.find(shape.text);
    if (scale == data_->cache_by_shape.end()) return {};
    const CacheScaleName& name = data_->cache_scales[scale->second];
    return {name.role, Part::kWeight, name.mtp, shape.numbers[0], -1};
  }
  const TensorRule& rule = data_->rules[it->second];
  id.role = rule.role;
  id.mtp = rule.mtp;
  id.layer = shape.numbers[0];  // a table has {layer} before {expert}
  if (behind) id.layer -= static_cast<int32_t>(decoder_layers_);
  id.expert = shape.numbers[1];
  return id;
}

std::string ModelTable::NameOf(const TensorId& id) const {
  const TensorRule* rule = RuleOf(id);
  if (rule == nullptr) return "";
  std::string name = rule->pattern;
  Replace(&name, kLayerSlot, id.layer);
  Replace(&name, kLayerBehindSlot, id.layer + static_cast<int32_t>(decoder_layers_));
  Replace(&name, "{expert}", id.expert);
  if (id.part == Part::kWeight) return name;
  return LastComponent(name) == PartSuffix(Part::kWeight) ? NameOfPart(name, id.part) : "";
}

std::string_view ModelTable::FuseOf(const TensorId& id) const {
  const TensorRule* rule = RuleOf(id);
  return rule == nullptr ? std::string_view() : rule->fuse;
}

const CacheScaleName* ModelTable::CacheScaleOf(std::string_view tensor_name) const {
  Shape shape;
  if (!TakeShape(tensor_name, &shape)) return nullptr;
  const auto it = data_->cache_by_shape.find(shape.text);
  return it == data_->cache_by_shape.end() ? nullptr : &data_->cache_scales[it->second];
}

std::string ModelTable::CacheScaleAt(const TensorId& id, CachePlacement placement) const {
  for (const CacheScaleName& name : data_->cache_scales)
    if (name.role == id.role && name.mtp == id.mtp && name.placement == placement)
      return NameInLayer(name.pattern, id.layer);
  return "";
}

const TensorRule* ModelTable::RuleOf(const TensorId& id) const {
  for (const TensorRule& rule : data_->rules) {
    if (rule.role == id.role && rule.mtp == id.mtp) return &rule;
  }
  return nullptr;
}

}  // namespace mimo
