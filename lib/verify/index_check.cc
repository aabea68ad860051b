#include "lib/verify/index_check.h"

#include <nlohmann/json.hpp>

namespace mimo {
namespace {

using nlohmann::json;

constexpr uint64_t kMaxIndexBytes = 1ull << 30;

}  // namespace

Result<std::vector<IndexProblem>> CompareIndex(FileSystem& fs, const std::string& path,
                                               std::map<std::string, std::string> expected, uint64_t total_size) {
  MIMO_ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(fs, path, kMaxIndexBytes));
  std::vector<IndexProblem> problems;
  std::string section, name;
  // Entries of weight_map are compared as they come and not kept.
  const auto visit = [&](int depth, json::parse_event_t event, json& parsed) {
    if (event == json::parse_event_t::key) (depth == 1 ? section : name) = parsed.get<std::string>();
    if (event != json::parse_event_t::value || depth != 2 || section != "weight_map") return true;
    const std::string found = parsed.is_string() ? parsed.get<std::string>() : parsed.dump();
    const auto entry = expected.find(name);
    if (entry == expected.end()) {
      problems.push_back({name, "in the index, but not in the manifest", "", found});
    } else {
      if (entry->second != found) problems.push_back({name, "file in the index", entry->second, found});
      expected.erase(entry);
    }
    return false;
  };
  const json document = json::parse(text, visit, false);
  if (document.is_discarded() || !document.is_object()) {
    problems.push_back({"", "the index is not a JSON object", "", ""});
    return problems;
  }
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

}  // namespace mimo
