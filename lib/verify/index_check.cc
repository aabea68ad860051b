#include "lib/verify/index_check.h"

#include <nlohmann/json.hpp>

#include "lib/json/parse.h"

namespace mimo {
namespace {

using nlohmann::json;

constexpr uint64_t kMaxIndexBytes = 1ull << 30;

}  // namespace

std::vector<IndexProblem> CompareIndexText(const std::string& text, const std::string& path,
                                           std::map<std::string, std::string> expected, uint64_t total_size) {
  std::vector<IndexProblem> problems;
  // Entries of weight_map are compared as they come and not kept.
  const auto visit = [&](const std::string& section, const std::string& name, json& value) {
    if (section != "weight_map") return true;
    const std::string found = value.is_string() ? value.get<std::string>() : "no file name";
    const auto entry = expected.find(name);
    if (entry == expected.end()) {
      problems.push_back({name, "in the index, but not in the manifest", "", found});
    } else {
      if (!value.is_string() || entry->second != found)
        problems.push_back({name, "file in the index", entry->second, found});
      expected.erase(entry);
    }
    return false;
  };
  const Result<json> parsed = ParseJsonParts(text, path, kLongDocument, visit);
  if (!parsed.ok() || !parsed.value().is_object()) {
    const Error error = parsed.ok() ? BadInput("") : parsed.error();
    problems.push_back({"", "the index is not a JSON object", error.expected, error.found});
    return problems;
  }
  const json& document = parsed.value();
  for (const auto& [tensor, file] : expected) problems.push_back({tensor, "not in the index", file, "nothing"});
  const auto metadata = document.find("metadata");
  if (metadata != document.end() && metadata->is_object() && metadata->contains("total_size")) {
    const json& size = (*metadata)["total_size"];
    if (!size.is_number() || size.get<double>() != static_cast<double>(total_size)) {
      problems.push_back({"", "total_size in the index", std::to_string(total_size), size.dump()});
    }
  }
  return problems;
}

Result<std::vector<IndexProblem>> CompareIndex(FileSystem& fs, const std::string& path,
                                               std::map<std::string, std::string> expected, uint64_t total_size) {
  MIMO_ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(fs, path, kMaxIndexBytes));
  return CompareIndexText(text, path, std::move(expected), total_size);
}

}  // namespace mimo
