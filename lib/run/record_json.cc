#include "lib/run/record_json.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <string_view>
#include <utility>

#include "lib/base/durable_file.h"
#include "lib/json/bytes.h"
#include "lib/json/parse.h"
#include "lib/results/result_json.h"

namespace mimo {

using nlohmann::json;

namespace {

constexpr uint64_t kMaxBytes = 256ull << 20;
constexpr int kVersion = 2;  // the first had no hashes
constexpr std::string_view kSeal = ",\"record_hash\":\"";

// Whether the list `key` of a record speaks of things that `may` be in it, and of none twice; `take` gets the number
// and the members of each, and has to take them all. Counts them.
template <class May, class Take>
std::optional<size_t> TakeEach(JsonMembers& record, JsonProblems& problems, const char* key, const char* number,
                               const May& may, const Take& take) {
  std::set<uint32_t> seen;
  for (const json& value : record.Array(key)) {
    JsonMembers entry(value, problems, key);
    const auto which = entry.Integer<uint32_t>(number);
    if (!problems.ok() || !may(which) || !seen.insert(which).second) return std::nullopt;
    take(which, entry);
    entry.Close();
  }
  return seen.size();
}

// What a record says of its outputs, each of which has its hash. Encoded ones must all be in it.
bool TakeTensors(const Plan& plan, const std::vector<uint32_t>& outputs, bool errors, JsonMembers& record,
                 JsonProblems& problems, std::vector<TensorResult>* tensors) {
  const json& hashes = record.Array("hashes");
  if (hashes.size() != outputs.size()) return false;
  tensors->assign(outputs.size(), {});
  for (size_t i = 0; i < outputs.size(); ++i)
    if (hashes[i].is_string()) (*tensors)[i].hash = HashOfHex(hashes[i].get<std::string>());
  const auto any = [&](uint32_t tensor) { return tensor < outputs.size(); };
  const auto encodes = [&](uint32_t tensor) {
    return any(tensor) && plan.outputs[outputs[tensor]].transform == Transform::kEncode;
  };
  const auto anomalies = [&](uint32_t tensor, JsonMembers& entry) {
    (*tensors)[tensor].anomalies = TakeAnomalies(entry);
  };
  const auto adjusted = [&](uint32_t tensor, JsonMembers& entry) {
    (*tensors)[tensor].counts.inexact_codes = entry.Integer<uint64_t>("inexact_codes");
  };
  bool sound = true;
  const auto encoded = [&](uint32_t tensor, JsonMembers& entry) {
    BlockCounts& counts = (*tensors)[tensor].counts;
    counts.encoded_blocks = entry.Integer<uint64_t>("blocks");
    counts.exact_blocks = entry.Integer<uint64_t>("exact_blocks");
    counts.kept_blocks = entry.Integer<uint64_t>("kept_blocks", 0);
    counts.fresh_blocks = counts.encoded_blocks - counts.exact_blocks - counts.kept_blocks;
    const json* error = entry.Find("error");
    sound = sound && counts.exact_blocks <= counts.encoded_blocks &&
            counts.kept_blocks <= counts.encoded_blocks - counts.exact_blocks && (error != nullptr || !errors);
    if (!errors || error == nullptr) return;
    JsonMembers sums(*error, problems, "error");
    (*tensors)[tensor].error = TakeError(sums);
    sums.Close();
  };
  if (!TakeEach(record, problems, "anomalies", "tensor", any, anomalies)) return false;
  if (record.Has("adjusted") && !TakeEach(record, problems, "adjusted", "tensor", any, adjusted)) return false;
  size_t count = 0;
  for (uint32_t i = 0; i < outputs.size(); ++i) count += encodes(i) ? 1 : 0;
  return TakeEach(record, problems, "encoded", "tensor", encodes, encoded) == count && sound;
}

}  // namespace

// The object in `path`; nullopt when it is missing or damaged: then it counts as not written.
Result<std::unique_ptr<json>> ReadRecordFile(FileSystem& fs, const std::string& path, const char* format) {
  MIMO_ASSIGN_OR_RETURN(const auto info, fs.Stat(path));
  if (!info || info->kind != FileKind::kRegular || info->size > kMaxBytes) return std::unique_ptr<json>();
  MIMO_ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(fs, path, kMaxBytes));
  if (SealedRecord(text) != text) return std::unique_ptr<json>();
  Result<json> parsed = ParseJson<json>(text, path, kLongDocument);
  if (!parsed.ok()) return std::unique_ptr<json>();
  json document = std::move(parsed).value();
  if (!document.is_object() || document.value("format", json()) != format ||
      document.value("version", json()) != kVersion) {
    return std::unique_ptr<json>();
  }
  for (const char* member : {"format", "version", "record_hash"}) document.erase(member);
  return std::make_unique<json>(std::move(document));
}

std::string SealedRecord(std::string object) {
  if (const size_t seal = object.rfind(kSeal); seal != std::string::npos) {
    object.resize(seal);
  } else {
    while (!object.empty() && (object.back() == '\n' || object.back() == '}')) {
      const bool brace = object.back() == '}';
      object.pop_back();
      if (brace) break;
    }
  }
  const std::string hash = HashBytes(std::as_bytes(std::span(object))).Hex();
  return object + std::string(kSeal) + hash + "\"}\n";
}

Status WriteRecordFile(FileSystem& fs, const std::string& path, std::string object) {
  return WriteDurably(fs, path, SealedRecord(std::move(object)));
}

void AddRecordFormat(JsonObject& object, const char* format, const Hash128& digest) {
  object.String("format", format);
  object.Number("version", kVersion);
  object.String("plan_digest", digest.Hex());
}

std::optional<Hash128> HashOfHex(const std::string& text) {
  Hash128 hash;
  if (!Hash128::FromHex(text, &hash)) return std::nullopt;
  return hash;
}

// A name or the text of a link, whose bytes need not be UTF-8.
void AddBytes(JsonObject& entry, const std::string& key, const std::string& bytes) {
  if (IsUtf8(bytes)) {
    entry.String(key, bytes);
  } else {
    entry.String(key + "_base64", Base64Of(bytes));
  }
}

// What AddBytes wrote; nothing where there is none.
std::optional<std::string> TakeBytes(JsonMembers& entry, JsonProblems& problems, const std::string& key) {
  const std::string in_base64 = key + "_base64";
  if (entry.Has(key.c_str())) return entry.String(key.c_str());
  if (!entry.Has(in_base64.c_str())) return std::nullopt;
  auto bytes = BytesOfBase64(entry.String(in_base64.c_str()));
  if (!bytes) problems.AddText(entry.Place(), "base64", "something else");
  return bytes;
}

void AddWritten(JsonObject& entry, const WrittenFile& file) {
  entry.Number("bytes", file.bytes);
  entry.Number("inode", file.inode);
  entry.Number("mtime_ns", file.mtime_ns);
  entry.Number("ctime_ns", file.ctime_ns);
  entry.Number("birth_ns", file.birth_ns);
  if (!file.target.empty()) AddBytes(entry, "target", file.target);
}

WrittenFile TakeWritten(JsonMembers& entry, JsonProblems& problems) {
  WrittenFile file;
  file.bytes = entry.Integer<uint64_t>("bytes");
  file.inode = entry.Integer<uint64_t>("inode");
  file.mtime_ns = entry.Integer<int64_t>("mtime_ns");
  file.ctime_ns = entry.Integer<int64_t>("ctime_ns");
  file.birth_ns = entry.Integer<int64_t>("birth_ns");
  file.target = TakeBytes(entry, problems, "target").value_or("");
  return file;
}

void AddResults(JsonObject& object, const Plan& plan, const RecordedResults& results) {
  // Of the tensors that are wanted(output, result): their number, then what add(entry, result) puts in.
  const auto list = [&](const char* name, const auto& wanted, const auto& add) {
    JsonList entries(object.Key(name));
    for (size_t i = 0; i < results.outputs.size(); ++i) {
      const TensorResult& tensor = results.tensors[i];
      if (!wanted(plan.outputs[results.outputs[i]], tensor)) continue;
      JsonObject entry(entries.Next());
      entry.Number("tensor", i);
      add(entry, tensor);
      entry.Close();
    }
    entries.Close();
  };
  object.List("hashes", results.tensors, [&](std::string& out, const TensorResult& tensor) {
    AppendJsonString(out, tensor.hash ? tensor.hash->Hex() : "");
  });
  list(
      "anomalies", [](const auto&, const auto& tensor) { return tensor.anomalies != kernels::Anomalies(); },
      [](JsonObject& entry, const auto& tensor) { AddAnomalies(entry, tensor.anomalies); });
  list(
      "adjusted", [](const auto&, const auto& tensor) { return tensor.counts.inexact_codes != 0; },
      [](JsonObject& entry, const auto& tensor) { entry.Number("inexact_codes", tensor.counts.inexact_codes); });
  list(
      "encoded", [](const auto& output, const auto&) { return output.transform == Transform::kEncode; },
      [](JsonObject& entry, const auto& tensor) {
        entry.Number("blocks", tensor.counts.encoded_blocks);
        entry.Number("exact_blocks", tensor.counts.exact_blocks);
        if (tensor.counts.kept_blocks != 0) entry.Number("kept_blocks", tensor.counts.kept_blocks);
        if (!tensor.error) return;
        JsonObject error(entry.Key("error"));
        AddError(error, *tensor.error);
        error.Close();
      });
  JsonList relayouts(object.Key("relayouts"));
  for (const auto& [group, counts] : results.grids) {
    JsonObject entry(relayouts.Next());
    entry.Number("group", group);
    AddGridCounts(entry, counts);
    entry.Close();
  }
  relayouts.Close();
}

bool TakeResults(const Plan& plan, const std::vector<uint32_t>& groups, bool errors, JsonMembers& record,
                 JsonProblems& problems, RecordedResults* results) {
  if (!TakeTensors(plan, results->outputs, errors, record, problems, &results->tensors)) return false;
  const auto relays = [&](uint32_t group) { return std::binary_search(groups.begin(), groups.end(), group); };
  const auto take = [&](uint32_t group, JsonMembers& entry) { results->grids[group] = TakeGridCounts(entry); };
  return TakeEach(record, problems, "relayouts", "group", relays, take) == groups.size();
}

}  // namespace mimo
