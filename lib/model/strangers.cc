#include "lib/model/strangers.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "lib/json/parse.h"
#include "schemas/embedded.h"

namespace mimo {
namespace {

using Json = nlohmann::json;

constexpr std::string_view kStrangerTable = "findings/unknown.json";

struct StrangerRow {
  Stranger kind;
  std::vector<std::string> components, prefixes, suffixes;
};

std::vector<std::string> WordsOf(const Json& entry, const char* key) {
  return entry.value(key, std::vector<std::string>());
}

std::vector<StrangerRow> ReadStrangers() {
  std::vector<StrangerRow> rows;
  for (int i = 0; i < kEmbeddedFileCount; ++i) {
    if (kEmbeddedFiles[i].path != kStrangerTable) continue;
    const Result<Json> table = ParseJson<Json>(kEmbeddedFiles[i].content, kEmbeddedFiles[i].path);
    if (!table.ok()) return {};
    for (const Json& entry : table.value().at("findings"))
      rows.push_back({{entry.at("id"), entry.at("name"), entry.at("means"), entry.at("advice")},
                      WordsOf(entry, "components"),
                      WordsOf(entry, "prefixes"),
                      WordsOf(entry, "suffixes")});
  }
  return rows;
}

const std::vector<StrangerRow>& StrangerRows() {
  static const std::vector<StrangerRow> rows = ReadStrangers();
  return rows;
}

bool HasComponent(std::string_view name, std::string_view wanted) {
  for (size_t at = name.find(wanted); at != std::string_view::npos; at = name.find(wanted, at + 1)) {
    const size_t end = at + wanted.size();
    if ((at == 0 || name[at - 1] == '.') && (end == name.size() || name[end] == '.')) return true;
  }
  return false;
}

bool IsStranger(const StrangerRow& row, std::string_view name) {
  const auto any = [](const std::vector<std::string>& list, auto fits) {
    return std::any_of(list.begin(), list.end(), fits);
  };
  return any(row.components, [&](const std::string& c) { return HasComponent(name, c); }) ||
         any(row.prefixes, [&](const std::string& p) { return name.starts_with(p); }) ||
         any(row.suffixes, [&](const std::string& s) { return name.ends_with(s); });
}

}  // namespace

const Stranger* FindStranger(std::string_view tensor) {
  const std::vector<StrangerRow>& rows = StrangerRows();
  for (const StrangerRow& row : rows)
    if (IsStranger(row, tensor)) return &row.kind;
  return rows.empty() ? nullptr : &rows.back().kind;
}

std::vector<StrangerCount> CountStrangers(const std::vector<std::string>& tensors) {
  std::vector<StrangerCount> counts;
  for (const StrangerRow& row : StrangerRows()) counts.push_back({&row.kind, 0, ""});
  for (const std::string& tensor : tensors) {
    const Stranger* kind = FindStranger(tensor);
    for (StrangerCount& count : counts) {
      if (count.kind != kind) continue;
      if (count.count++ == 0) count.example = tensor;
    }
  }
  std::erase_if(counts, [](const StrangerCount& count) { return count.count == 0; });
  return counts;
}

}  // namespace mimo
