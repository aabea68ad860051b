#include "lib/foreign/foreign_table.h"

#include <nlohmann/json.hpp>
#include <optional>

#include "lib/base/words.h"
#include "lib/json/parse.h"
#include "schemas/embedded.h"

namespace mimo {
namespace {

using Json = nlohmann::json;
using Kind = ForeignCondition::Kind;

constexpr std::string_view kPath = "foreign.json";

// The key that says what kind of condition an object is; others qualify it.
constexpr Words<Kind, 14> kConditionKeys{{
    {Kind::kArrays, "arrays"},
    {Kind::kNoArrays, "no_arrays"},
    {Kind::kOnlyArrays, "only_arrays"},
    {Kind::kPrefixed, "prefixed"},
    {Kind::kConfig, "config"},
    {Kind::kNotConfig, "not_config"},
    {Kind::kNotFamily, "not_family"},
    {Kind::kFile, "file"},
    {Kind::kNoFile, "no_file"},
    {Kind::kBegins, "begins"},
    {Kind::kHolds, "holds"},
    {Kind::kDangling, "dangling"},
    {Kind::kMetadata, "metadata"},
    {Kind::kRootIsFile, "root_is_file"},
}};
static_assert(NamesEach(kConditionKeys));

Error BadTable(const std::string& what) {
  return BadInput("bad table of foreign storages: " + what).File("schemas/foreign.json");
}

Result<ForeignCondition> ParseCondition(const Json& object) {
  std::optional<ForeignCondition> condition;
  for (const auto& [key, value] : object.items()) {
    const auto kind = FromWord(kConditionKeys, key);
    if (!kind) continue;
    if (condition) return BadTable("two conditions in one object").Found(object.dump());
    condition = ForeignCondition{*kind, value.is_string() ? value.get<std::string>() : ""};
  }
  if (!condition) return BadTable("no condition").Found(object.dump());
  for (const auto& [key, value] : object.items()) {
    if (FromWord(kConditionKeys, key)) continue;
    if (key == "rank")
      condition->rank = value.get<size_t>();
    else if (key == "any")
      condition->values = value.get<std::vector<std::string>>();
    else
      return BadTable("unknown key \"" + key + "\"").Found(object.dump());
  }
  return *std::move(condition);
}

Result<ForeignKind> ParseKind(const Json& row) {
  ForeignKind kind{row.at("id").get<std::string>(),    row.at("name").get<std::string>(),
                   row.at("means").get<std::string>(), row.at("advice").get<std::string>(),
                   row.value("always", false),         {}};
  for (const Json& sign : row.at("signs")) {
    std::vector<ForeignCondition>& conditions = kind.signs.emplace_back();
    for (const Json& object : sign) {
      MIMO_ASSIGN_OR_RETURN(ForeignCondition condition, ParseCondition(object));
      conditions.push_back(std::move(condition));
    }
    if (conditions.empty()) return BadTable("a sign of nothing").Found(kind.id);
  }
  if (kind.signs.empty()) return BadTable("a kind without signs").Found(kind.id);
  return kind;
}

}  // namespace

Result<std::vector<ForeignKind>> ParseForeignKinds(std::string_view json) {
  std::vector<ForeignKind> kinds;
  MIMO_ASSIGN_OR_RETURN(const Json table, ParseJson<Json>(json, "schemas/foreign.json"));
  try {
    for (const Json& row : table.at("findings")) {
      MIMO_ASSIGN_OR_RETURN(ForeignKind kind, ParseKind(row));
      kinds.push_back(std::move(kind));
    }
  } catch (const Json::exception& e) {
    return BadTable("not the expected JSON").Found(e.what());
  }
  return kinds;
}

const std::vector<ForeignKind>& ForeignKinds() {
  static const std::vector<ForeignKind> kinds = [] {
    for (const EmbeddedFile* file = kEmbeddedFiles; file->path != nullptr; ++file) {
      if (file->path != kPath) continue;
      if (auto parsed = ParseForeignKinds(file->content); parsed.ok()) return std::move(parsed).value();
    }
    return std::vector<ForeignKind>();
  }();
  return kinds;
}

}  // namespace mimo
