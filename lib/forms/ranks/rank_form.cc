#include "lib/forms/ranks/rank_form.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "lib/forms/rules.h"
#include "lib/json/parse.h"
#include "lib/model/role_groups.h"
#include "schemas/embedded.h"

namespace mimo {
namespace {

using Json = nlohmann::json;

// A template lists every parameter of a rank.
constexpr JsonLimits kTemplateLimits = {.bytes = size_t{256} << 20};

std::optional<Part> PartFromName(const std::string& name) {
  for (const Part part : {Part::kWeight, Part::kScaleInv, Part::kScale, Part::kScale2, Part::kInputScale})
    if (name == PartSuffix(part)) return part;
  return std::nullopt;
}

// Templates are dumps of torch: its type names and those of safetensors are both taken.
std::optional<DType> DTypeOfDump(const std::string& name) {
  constexpr std::pair<const char*, DType> kTorch[] = {{"bfloat16", DType::kBF16},
                                                      {"float16", DType::kF16},
                                                      {"float32", DType::kF32},
                                                      {"uint8", DType::kU8},
                                                      {"float8_e4m3fn", DType::kF8E4M3},
                                                      {"float8_e8m0fnu", DType::kF8E8M0},
                                                      {"int32", DType::kI32},
                                                      {"int64", DType::kI64}};
  const std::string bare = name.rfind("torch.", 0) == 0 ? name.substr(6) : name;
  for (const auto& [text, dtype] : kTorch)
    if (bare == text) return dtype;
  return DTypeFromName(name);
}

// The layer in `name` where `pattern` has {layer}; nullopt when it does not match.
std::optional<int32_t> LayerIn(std::string_view name, std::string_view pattern) {
  const size_t at = pattern.find(kLayerSlot);
  if (at == std::string_view::npos) return name == pattern ? std::optional(-1) : std::nullopt;
  const std::string_view tail = pattern.substr(at + kLayerSlot.size());
  if (name.size() <= at + tail.size() || !name.starts_with(pattern.substr(0, at)) || !name.ends_with(tail))
    return std::nullopt;
  const std::string_view number = name.substr(at, name.size() - at - tail.size());
  int32_t layer = -1;
  const auto [end, problem] = std::from_chars(number.data(), number.data() + number.size(), layer);
  if (problem != std::errc() || end != number.data() + number.size() || layer < 0) return std::nullopt;
  return layer;
}

}  // namespace

namespace {

Result<std::string_view> TableFor(const std::string& engine, const std::string& family) {
  for (const EmbeddedFile* file = kEmbeddedFiles; file->path != nullptr; ++file) {
    if (!std::string_view(file->path).starts_with("forms/")) continue;
    MIMO_ASSIGN_OR_RETURN(const Json table, ParseJson<Json>(file->content, file->path));
    const Json models = table.value("models", Json::array());
    if (table.value("engine", "") == engine && std::find(models.begin(), models.end(), family) != models.end())
      return std::string_view(file->content);
  }
  return UsageError("no table of rank files of this engine for models of this family")
      .Expected("--to " + engine + " without --format, or a table in schemas/forms for " + family)
      .Found("--to " + engine + " --format sharded-state");
}

}  // namespace

Range RankTensor::ScalarsOf(Role role) const {
  const auto all = static_cast<int64_t>(of.size());
  const auto at = std::find(of.begin(), of.end(), role);
  return at == of.end() ? Range{0, all} : Range{at - of.begin(), at - of.begin() + 1};
}

Result<RankForm> ParseRankForm(std::string_view text) {
  RankForm form;
  std::string file = "a form table";
  try {
    MIMO_ASSIGN_OR_RETURN(const Json table, ParseJson<Json>(text, file));
    form.name_ = table.at("form");
    file = "schemas/forms/" + form.name_ + ".json";
    form.vocab_multiple_ = table.at("vocab_multiple");
    for (const Json& row : table.at("tensors")) {
      RankTensor tensor;
      tensor.pattern = row.at("name");
      for (const Json& name : row.at("of")) {
        const auto role = RoleFromName(name.get<std::string>());
        if (!role) return BadInput("an unknown role").File(file).Found(name.get<std::string>());
        tensor.of.push_back(*role);
      }
      const auto part = PartFromName(row.at("part"));
      const auto cut = FromWord(kCuts, row.at("cut").get<std::string>());
      if (!part || !cut || tensor.of.empty()) return BadInput("a bad row").File(file).Found(tensor.pattern);
      tensor.part = *part;
      tensor.cut = *cut;
      tensor.experts = row.at("stack") == "experts";
      tensor.mtp = row.at("mtp");
      if (row.contains("dtype")) tensor.dtype = row.at("dtype");
      form.tensors_.push_back(std::move(tensor));
    }
    for (const Json& row : table.at("constants")) {
      RankConstant constant;
      constant.pattern = row.at("name");
      const auto dtype = DTypeFromName(row.at("dtype").get<std::string>());
      if (!dtype || (*dtype != DType::kF32 && *dtype != DType::kBF16))
        return BadInput("a constant of an unknown type").File(file).Found(constant.pattern);
      constant.dtype = *dtype;
      constant.shape = row.at("shape").get<std::vector<int64_t>>();
      constant.value = row.at("value");
      constant.when = row.at("when").get<std::vector<std::string>>();
      constant.mtp = row.at("mtp");
      for (const Json& name : row.value("of", Json::array())) {
        const auto role = RoleFromName(name.get<std::string>());
        if (!role || !IsCacheScale(*role)) return BadInput("no scale of the KV cache").File(file).Found(name.dump());
        constant.of.push_back(*role);
      }
      form.constants_.push_back(std::move(constant));
    }
    const Json& aliases = table.at("aliases");
    form.prefixes_ = aliases.at("prefixes").get<std::vector<std::string>>();
    for (const Json& infix : aliases.at("infixes")) form.infixes_.emplace_back(infix.at("with"), infix.at("without"));
    for (const Json& renamed : aliases.at("renamed"))
      form.renamed_.emplace_back(renamed.at("name"), renamed.at("other"));
  } catch (const Json::exception& problem) {
    return BadInput("malformed table").File(file).Found(problem.what());
  }
  return form;
}

Result<RankForm> RankForm::Load(const std::string& engine, const std::string& family,
                                const std::string& form_template) {
  MIMO_ASSIGN_OR_RETURN(const std::string_view text, TableFor(engine, family));
  MIMO_ASSIGN_OR_RETURN(RankForm form, ParseRankForm(text));
  if (form_template.empty()) return form;
  MIMO_ASSIGN_OR_RETURN(const Json dump, ParseJson<Json>(form_template, "--template", kTemplateLimits));
  if (!dump.is_object() || !dump.contains("tensors"))
    return BadInput("not a template").File("--template").Found("no JSON object with tensors");
  if (dump.value("engine", engine) != engine)
    return BadInput("the template of another engine").File("--template").Found(dump.value("engine", engine));
  form.templated_ = true;
  form.name_ = engine + "-" + dump.value("version", std::string("unknown"));
  for (const Json& row : dump.at("tensors")) {
    const std::string name = row.at("name");
    form.template_order_.push_back(name);
    form.template_[name] = {*DTypeFromName(row.at("dtype").get<std::string>()),
                            row.at("shape").get<std::vector<int64_t>>()};
  }
  return form;
}

std::optional<size_t> RankForm::Find(Role role, Part part, bool mtp) const {
  if (role == Role::kAttnQkv) role = Role::kAttnQ;
  if (part == Part::kPacked) part = Part::kWeight;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const RankTensor& t = tensors_[i];
    if (t.part == part && t.mtp == mtp && std::find(t.of.begin(), t.of.end(), role) != t.of.end()) return i;
  }
  return std::nullopt;
}

std::vector<std::string> RankForm::Aliases(const std::string& table_name) const {
  std::vector<std::string> names = {table_name};
  const auto extend = [&](auto change) {
    for (size_t i = 0, n = names.size(); i < n; ++i) {
      std::string changed = change(names[i]);
      if (changed != names[i]) names.push_back(std::move(changed));
    }
  };
  for (const auto* pairs : {&renamed_, &infixes_})
    for (const auto& pair : *pairs)  // clang before 16 captures no structured binding
      extend([&](std::string name) {
        if (const size_t at = name.find(pair.first); at != std::string::npos)
          name.replace(at, pair.first.size(), pair.second);
        return name;
      });
  for (const std::string& prefix : prefixes_) extend([&](const std::string& name) { return prefix + name; });
  return names;
}

bool RankForm::Has(const std::string& table_name) const {
  const std::vector<std::string> names = Aliases(table_name);
  return !templated_ || std::any_of(names.begin(), names.end(),
                                    [&](const std::string& name) { return template_.find(name) != template_.end(); });
}

Result<std::string> RankForm::NameOf(const std::string& table_name, DType dtype,
                                     const std::vector<int64_t>& shape) const {
  if (!templated_) return table_name;
  for (const std::string& name : Aliases(table_name)) {
    const auto found = template_.find(name);
    if (found == template_.end()) continue;
    const Wanted& wanted = found->second;
    if (wanted.shape != shape)
      return UsageError("the template asks for another shape")
          .File("--template")
          .Tensor(table_name)
          .Expected(Json(wanted.shape).dump())
          .Found(Json(shape).dump() + " by the model's config and these ranks")
          .Advice("dump the template with this --tp and --ep, of this model");
    if (wanted.dtype != dtype)
      return UsageError("the template asks for another type")
          .File("--template")
          .Tensor(table_name)
          .Expected(std::string(DTypeName(wanted.dtype)))
          .Found(std::string(DTypeName(dtype)) + ", which this conversion would write")
          .Advice("dump the template with this checkpoint's config, or convert its weights first (--dtype, --recipe)");
    return name;
  }
  return UsageError("the template has no place for an array of the model")
      .File("--template")
      .Tensor(table_name)
      .Expected("this name, or one of its aliases (schemas/forms)")
      .Found("none")
      .Advice("dump the template of the text model, with this --tp and --ep");
}

std::optional<RankForm::Match> RankForm::Identify(std::string_view name) const {
  std::vector<std::string> candidates = {std::string(name)};
  for (const std::string& prefix : prefixes_)
    if (name.starts_with(prefix)) candidates.emplace_back(name.substr(prefix.size()));
  for (const auto* pairs : {&infixes_, &renamed_})
    for (const auto& [table, other] : *pairs)
      for (size_t i = 0, n = candidates.size(); i < n; ++i)
        if (const size_t at = candidates[i].find(other);
            at != std::string::npos && candidates[i].find(table) == std::string::npos)
          candidates.push_back(std::string(candidates[i]).replace(at, other.size(), table));
  for (const std::string& candidate : candidates)
    for (size_t i = 0; i < tensors_.size(); ++i)
      if (const auto layer = LayerIn(candidate, tensors_[i].pattern)) return Match{i, *layer};
  return std::nullopt;
}

std::optional<RankForm::Match> RankForm::FindConstant(std::string_view name) const {
  for (const std::string& prefix : prefixes_)
    if (name.starts_with(prefix)) return FindConstant(name.substr(prefix.size()));
  for (size_t i = 0; i < constants_.size(); ++i)
    if (const auto layer = LayerIn(name, constants_[i].pattern)) return Match{i, *layer};
  return std::nullopt;
}

std::optional<DType> RankForm::WantedType(const std::string& table_name) const {
  for (const std::string& name : Aliases(table_name))
    if (const auto found = template_.find(name); found != template_.end()) return found->second.dtype;
  return std::nullopt;
}

std::vector<std::string> RankForm::Unfilled(const std::vector<std::string>& made) const {
  std::vector<std::string> sorted = made, unfilled;
  std::sort(sorted.begin(), sorted.end());
  for (const std::string& name : template_order_)
    if (!std::binary_search(sorted.begin(), sorted.end(), name)) unfilled.push_back(name);
  return unfilled;
}

Result<std::string> CanonicalTemplate(const std::string& text, const std::string& path) {
  const Result<Json> parsed = ParseJson<Json>(text, path, kTemplateLimits);
  const auto bad = [&](std::string found) {
    return BadInput("not a template")
        .File(path)
        .Expected("JSON of scripts/dump_template.py: engine, version, tensors with name, dtype and shape")
        .Found(std::move(found));
  };
  if (!parsed.ok()) return bad(parsed.error().found).Expected(parsed.error().expected);
  const Json& dump = parsed.value();
  if (!dump.is_object()) return bad("no JSON object");
  const auto tensors = dump.find("tensors");
  if (tensors == dump.end() || !tensors->is_array() || tensors->empty()) return bad("no list of tensors");
  Json canonical;
  canonical["engine"] = dump.value("engine", Json("vllm"));
  canonical["version"] = dump.contains("version") && dump["version"].is_string() ? dump["version"] : Json("unknown");
  canonical["tensors"] = Json::array();
  for (const Json& row : *tensors) {
    if (!row.is_object() || !row.contains("name") || !row["name"].is_string() || !row.contains("dtype") ||
        !row["dtype"].is_string() || !row.contains("shape") || !row["shape"].is_array())
      return bad("a tensor without name, dtype or shape");
    const auto dtype = DTypeOfDump(row["dtype"]);
    if (!dtype) return bad("dtype " + row["dtype"].get<std::string>());
    for (const Json& extent : row["shape"])
      if (!extent.is_number_integer() || extent.get<int64_t>() < 0 || extent.get<int64_t>() > INT32_MAX)
        return bad("a shape with " + extent.dump());
    canonical["tensors"].push_back(
        {{"name", row["name"]}, {"dtype", std::string(DTypeName(*dtype))}, {"shape", row["shape"]}});
  }
  return canonical.dump();
}

}  // namespace mimo
