#include "lib/run/unit_records.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "lib/json/bytes.h"

namespace mimo {
namespace {

using nlohmann::json;

constexpr char kFormat[] = "mimo-unit";
// By UnitRecords::Looked.
constexpr const char* kLookedFormats[] = {"mimo-equal", "mimo-guard"};
constexpr const char* kLookedNames[] = {"equal-", "guard-"};

void AddItems(JsonObject& object, const std::vector<ItemRead>& items) {
  object.List("items", items, [](std::string& out, const ItemRead& item) {
    JsonObject entry(out);
    entry.Number("item", item.item);
    entry.Number("crc", item.crc);
    entry.List("ranges", item.ranges, [](std::string& text, const auto& range) {
      JsonList pair(text);
      AppendInteger(pair.Next(), range.first);
      AppendInteger(pair.Next(), range.second);
    });
  });
}

void AddEdges(JsonObject& object, const std::vector<EdgeBytes>& edges) {
  object.List("edges", edges, [](std::string& out, const EdgeBytes& edge) {
    JsonObject entry(out);
    entry.Number("file", edge.file);
    entry.Number("offset", edge.offset);
    entry.String("bytes", Base64Of(edge.bytes));
  });
}

class Reader {
 public:
  Reader(const Plan& plan, const Unit& unit, const RecordNeeds& needs, const std::vector<uint8_t>& linked)
      : plan_(plan), unit_(unit), needs_(needs), linked_(linked) {}

  // False when it is of no use.
  bool Take(JsonMembers& members, JsonProblems& problems, UnitRecord* record) {
    return TakeOutputs(members, problems, &record->result.results) && TakeFiles(members, problems, record) &&
           TakeResults(plan_, Grids(), needs_.errors, members, problems, &record->result.results) &&
           HasHashes(record->result.results) && TakeCrcs(members, problems, &record->result) &&
           TakeItems(members, problems, &record->result) && TakeEdges(members, problems, &record->result);
  }

 private:
  std::vector<uint32_t> Grids() const {
    std::set<uint32_t> groups;
    for (const UnitPart& part : unit_.parts)
      if (part.whole() && !plan_.groups[part.group].cells.empty()) groups.insert(part.group);
    return {groups.begin(), groups.end()};
  }

  // Outputs of its groups; all that are made of those that are whole.
  bool TakeOutputs(JsonMembers& members, JsonProblems& problems, RecordedResults* results) const {
    std::set<uint32_t> may, must;
    for (const UnitPart& part : unit_.parts) {
      for (const uint32_t o : plan_.groups[part.group].outputs) {
        may.insert(o);
        const bool skipped = linked_[plan_.outputs[o].file] != 0 && !needs_.hash_linked;
        if (part.whole() && !skipped && plan_.outputs[o].end > plan_.outputs[o].begin) must.insert(o);
      }
    }
    for (const json& value : members.Array("outputs")) {
      const auto output = IntegerOf<uint32_t>(value);
      if (!output || !may.contains(*output)) return false;
      if (!results->outputs.empty() && results->outputs.back() >= *output) return false;
      results->outputs.push_back(*output);
    }
    return problems.ok() && std::includes(results->outputs.begin(), results->outputs.end(), must.begin(), must.end());
  }

  bool TakeFiles(JsonMembers& members, JsonProblems& problems, UnitRecord* record) const {
    std::set<uint32_t> files;
    for (const uint32_t o : record->result.results.outputs) files.insert(plan_.outputs[o].file);
    for (const json& value : members.Array("files")) {
      JsonMembers entry(value, problems, "files");
      const auto file = entry.Integer<uint32_t>("file");
      const bool linked = entry.Bool("linked");
      WrittenFile written;
      if (!linked) {
        written.inode = entry.Integer<uint64_t>("inode");
        written.birth_ns = entry.Integer<int64_t>("birth_ns");
        written.bytes = file < plan_.files.size() ? plan_.files[file].bytes : 0;
      }
      entry.Close();
      if (files.erase(file) == 0 || linked != (linked_[file] != 0)) return false;
      record->files.emplace_back(file, written);
    }
    return files.empty() && problems.ok();
  }

  bool HasHashes(const RecordedResults& results) const {
    return std::all_of(results.tensors.begin(), results.tensors.end(),
                       [](const TensorResult& tensor) { return tensor.hash.has_value(); });
  }

  bool TakeCrcs(JsonMembers& members, JsonProblems& problems, UnitOutcome* result) const {
    const std::vector<uint32_t>& outputs = result->results.outputs;
    for (const json& value : members.Array("crcs")) {
      JsonMembers entry(value, problems, "crcs");
      const auto output = entry.Integer<uint32_t>("output");
      const auto crc = entry.Integer<uint32_t>("crc");
      entry.Close();
      if (!problems.ok() || !std::binary_search(outputs.begin(), outputs.end(), output)) return false;
      if (!result->crcs.emplace(output, crc).second) return false;
    }
    return true;
  }

  bool TakeItems(JsonMembers& members, JsonProblems& problems, UnitOutcome* result) const {
    for (const json& value : members.Array("items")) {
      JsonMembers entry(value, problems, "items");
      ItemRead item;
      item.item = entry.Integer<uint32_t>("item");
      item.crc = entry.Integer<uint32_t>("crc");
      uint64_t end = 0;
      for (const json& range : entry.Array("ranges")) {
        if (!range.is_array() || range.size() != 2) return false;
        const auto first = IntegerOf<uint64_t>(range[0]), last = IntegerOf<uint64_t>(range[1]);
        if (!first || !last || *first < end || *last <= *first) return false;
        end = *last;
        item.ranges.emplace_back(*first, *last);
      }
      entry.Close();
      if (!problems.ok()) return false;
      result->items.push_back(std::move(item));
    }
    return true;
  }

  bool TakeEdges(JsonMembers& members, JsonProblems& problems, UnitOutcome* result) const {
    for (const json& value : members.Array("edges")) {
      JsonMembers entry(value, problems, "edges");
      EdgeBytes edge;
      edge.file = entry.Integer<uint32_t>("file");
      edge.offset = entry.Integer<uint64_t>("offset");
      auto bytes = BytesOfBase64(entry.String("bytes"));
      entry.Close();
      if (!problems.ok() || !bytes || edge.file >= plan_.files.size() || linked_[edge.file] != 0) return false;
      const uint64_t length = plan_.files[edge.file].bytes;
      if (edge.offset > length || bytes->size() > length - edge.offset) return false;
      edge.bytes = std::move(*bytes);
      result->edges.push_back(std::move(edge));
    }
    return true;
  }

  const Plan& plan_;
  const Unit& unit_;
  const RecordNeeds& needs_;
  const std::vector<uint8_t>& linked_;
};

std::string Directory() {
  return JoinPath(kPartialDirectory, kUnitsDirectory);
}

}  // namespace

std::string UnitRecords::Name(uint32_t unit) const {
  char digits[24];
  std::snprintf(digits, sizeof digits, "%06u.json", unit);
  return JoinPath(Directory(), digits);
}

Result<std::vector<uint32_t>> UnitRecords::Numbers() const {
  std::vector<uint32_t> numbers;
  MIMO_ASSIGN_OR_RETURN(const auto info, partial_.fs().Stat(Directory()));
  if (!info) return numbers;
  MIMO_ASSIGN_OR_RETURN(const auto names, partial_.fs().List(Directory()));
  for (const std::string& name : names) {
    uint32_t number = 0;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
    if (error == std::errc() && JoinPath(Directory(), name) == Name(number)) numbers.push_back(number);
  }
  std::sort(numbers.begin(), numbers.end());
  return numbers;
}

Result<std::optional<UnitRecord>> UnitRecords::Load(uint32_t unit, const RecordNeeds& needs,
                                                    const std::vector<uint8_t>& linked) const {
  if (unit >= units_.list.size()) return std::optional<UnitRecord>();
  const std::string path = Name(unit);
  MIMO_ASSIGN_OR_RETURN(const auto document, ReadRecordFile(partial_.fs(), path, kFormat));
  if (!document) return std::optional<UnitRecord>();
  JsonProblems problems(path, "");
  JsonMembers members(*document, problems, "unit");
  UnitRecord record;
  if (HashOfHex(members.String("plan_digest")) != plan_.digest) return std::optional<UnitRecord>();
  if (members.Integer<uint32_t>("unit") != unit) return std::optional<UnitRecord>();
  if (members.Integer<uint64_t>("unit_bytes") != unit_bytes_) return std::optional<UnitRecord>();
  if (!Reader(plan_, units_.list[unit], needs, linked).Take(members, problems, &record))
    return std::optional<UnitRecord>();
  members.Close();
  if (!problems.ok()) return std::optional<UnitRecord>();
  return std::optional(std::move(record));
}

Status UnitRecords::Write(uint32_t unit, const UnitOutcome& result, const std::vector<uint8_t>& linked) const {
  std::string text;
  JsonObject object(text);
  AddRecordFormat(object, kFormat, plan_.digest);
  object.Number("unit", unit);
  object.Number("unit_bytes", unit_bytes_);
  object.NumberList("outputs", result.results.outputs);
  std::set<uint32_t> files;
  for (const uint32_t o : result.results.outputs) files.insert(plan_.outputs[o].file);
  object.List("files", files, [&](std::string& out, uint32_t file) {
    JsonObject entry(out);
    entry.Number("file", file);
    if (linked[file] != 0) {
      entry.Bool("linked", true);
      return;
    }
    const WrittenFile written = partial_.NoteOf(plan_.files[file].name).value_or(WrittenFile());
    entry.Number("inode", written.inode);
    entry.Number("birth_ns", written.birth_ns);
  });
  AddResults(object, plan_, result.results);
  object.List("crcs", result.crcs, [](std::string& out, const auto& crc) {
    JsonObject entry(out);
    entry.Number("output", crc.first);
    entry.Number("crc", crc.second);
  });
  AddItems(object, result.items);
  AddEdges(object, result.edges);
  object.Close();
  return WriteRecordFile(partial_.fs(), Name(unit), std::move(text));
}

Result<std::vector<UnitRecords::Entries>> UnitRecords::LoadLooked(Looked at, size_t of) const {
  std::vector<Entries> list;
  MIMO_ASSIGN_OR_RETURN(const auto info, partial_.fs().Stat(Directory()));
  if (!info) return list;
  MIMO_ASSIGN_OR_RETURN(const auto names, partial_.fs().List(Directory()));
  for (const std::string& name : names) {
    if (!name.starts_with(kLookedNames[static_cast<size_t>(at)]) || !name.ends_with(".json")) continue;
    const std::string path = JoinPath(Directory(), name);
    MIMO_ASSIGN_OR_RETURN(const auto document,
                          ReadRecordFile(partial_.fs(), path, kLookedFormats[static_cast<size_t>(at)]));
    if (!document) continue;
    JsonProblems problems(path, "");
    JsonMembers members(*document, problems, "");
    const auto digest = HashOfHex(members.String("plan_digest"));
    const Entries entries(members.Integer<uint64_t>("begin"), members.Integer<uint64_t>("end"));
    const bool same = members.Integer<uint64_t>("of") == of;
    members.Close();
    if (problems.ok() && digest == plan_.digest && same && entries.second <= of) list.push_back(entries);
  }
  return list;
}

Status UnitRecords::WriteLooked(Looked at, const Entries& entries, size_t of) const {
  std::string text;
  JsonObject object(text);
  AddRecordFormat(object, kLookedFormats[static_cast<size_t>(at)], plan_.digest);
  object.Number("begin", entries.first);
  object.Number("end", entries.second);
  object.Number("of", of);
  object.Close();
  const std::string name = kLookedNames[static_cast<size_t>(at)] + std::to_string(entries.first) + "-" +
                           std::to_string(entries.second) + ".json";
  return WriteRecordFile(partial_.fs(), JoinPath(Directory(), name), std::move(text));
}

Status UnitRecords::Drop(const std::vector<uint32_t>& units) const {
  if (units.empty()) return {};
  for (const uint32_t unit : units) MIMO_RETURN_IF_ERROR(partial_.fs().RemoveAll(Name(unit)));
  return partial_.fs().SyncDirectory(Directory());
}

}  // namespace mimo
