// Reads a manifest. Elements of its long lists are turned into values as soon as they are complete and never kept as
// JSON.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <string_view>

#include "lib/json/parse.h"
#include "lib/plan/containers.h"
#include "lib/results/manifest_hash.h"
#include "lib/results/result_json.h"

namespace mimo {
namespace {

using nlohmann::json;

constexpr uint64_t kMaxManifestBytes = 1ull << 30;
constexpr char kAdvice[] = "convert again: the manifest is damaged or not from mimo-convert";

class Reader {
 public:
  explicit Reader(const std::string& path) : problems_(path, kAdvice) {}

  Result<Manifest> Read(const std::string& text, const std::string& path) {
    if (const auto agrees = ManifestHashAgrees(text)) {
      if (!*agrees) return ChangedManifest(path);
      out_.holds_own_hash = true;
    }
    const JsonPart part = [this](const std::string& list, const std::string& /*key*/, json& value) {
      return Keep(list, value);
    };
    const Result<json> document = ParseJsonParts(text, path, kLongDocument, part);
    if (!document.ok()) {
      return BadInput("the manifest is not valid JSON")
          .File(path)
          .Expected(document.error().expected)
          .Found(document.error().found)
          .Advice(kAdvice);
    }
    ReadDocument(document.value());
    MIMO_RETURN_IF_ERROR(problems_.Take());
    for (const ManifestTensor& tensor : out_.tensors) {
      if (tensor.file < out_.files.size()) continue;
      problems_.AddText("tensors \"file\"", "below " + std::to_string(out_.files.size()), std::to_string(tensor.file));
    }
    MIMO_RETURN_IF_ERROR(problems_.Take());
    return std::move(out_);
  }

 private:
  // False: the element of `list` is dropped from the document.
  bool Keep(const std::string& list, const json& element) {
    if (list == "tensors") {
      ReadTensor(element);
    } else if (list == "logical_hashes") {
      JsonMembers members(element, problems_, "logical_hashes", logical_hashes_.size());
      logical_hashes_.push_back(TakeLogicalHash(members, problems_));
    } else if (list == "files") {
      ReadFile(element, "files", "header_hash", &out_.files);
    } else if (list == "thresholds") {
      JsonMembers members(element, problems_, "thresholds", out_.thresholds.size());
      std::string role = members.String("role");
      out_.thresholds.push_back({std::move(role), members.Real("min_sqnr_db")});
    } else if (list == "texts" || list == "carried") {
      ReadFile(element, list.c_str(), "hash", &out_.other_files);
    } else {
      static constexpr std::string_view kUnread[] = {"source_files", "dropped", "relayouts"};
      return !element.is_object() || std::find(std::begin(kUnread), std::end(kUnread), list) == std::end(kUnread);
    }
    return false;
  }

  std::optional<Hash128> ReadHash(JsonMembers& members, const char* key) {
    const std::string text = members.String(key, "");
    if (text.empty()) return std::nullopt;
    Hash128 hash;
    if (!Hash128::FromHex(text, &hash)) problems_.AddText(members.Place() + " \"" + key + "\"", "32 hex digits", text);
    return hash;
  }

  // The usual one goes without saying.
  const Container* ReadContainer(const std::string& word, const std::string& place) {
    std::string words;
    for (const Container* container : Containers().subspan(1)) {
      if (container->word() == word) return container;
      words += (words.empty() ? "" : " or ") + std::string(container->word());
    }
    problems_.AddText(place, words, word);
    return Containers()[0];
  }

  void ReadFile(const json& value, const char* list, const char* hash_key, std::vector<ManifestFile>* files) {
    JsonMembers members(value, problems_, list, files->size());
    ManifestFile file;
    file.name = members.String("name");
    file.bytes = members.Integer<uint64_t>("bytes");
    file.linked = members.Bool("linked");
    file.hash = ReadHash(members, hash_key);
    const std::string container = members.String("container", "");
    if (!container.empty()) file.container = ReadContainer(container, members.Place());
    if (!file.hash && !file.linked && file.container->HasHeader()) problems_.AddText(members.Place(), "a hash", "none");
    members.Close();
    files->push_back(std::move(file));
  }

  void ReadTensor(const json& value) {
    JsonMembers members(value, problems_, "tensors", out_.tensors.size());
    ManifestTensor tensor;
    tensor.name = members.String("name");
    tensor.file = members.Integer<uint32_t>("file");
    const std::string dtype = members.String("dtype");
    if (const auto known = DTypeFromName(dtype)) {
      tensor.dtype = *known;
    } else {
      problems_.AddText(members.Place() + " \"dtype\"", "a safetensors dtype", dtype);
    }
    for (const json& dimension : members.Array("shape")) {
      const auto size = IntegerOf<int64_t>(dimension);
      if (!size || *size < 0) problems_.Add(members.Place(), "shape", "sizes", &dimension);
      tensor.shape.push_back(size.value_or(0));
    }
    tensor.hash = ReadHash(members, "hash");
    members.String("transform");
    members.Array("sources");
    for (const char* passed :
         {"anomalies", "encoding", "blocks", "exact_blocks", "kept_blocks", "adjust", "inexact_codes", "error"})
      members.Find(passed);
    members.Close();
    out_.tensors.push_back(std::move(tensor));
  }

  void ReadTotals(const json& value) {
    JsonMembers members(value, problems_, "totals");
    members.Integer<uint64_t>("tensors");
    members.Integer<uint64_t>("payload_bytes");
    out_.blocks = TakeCounts(members);
    JsonMembers anomalies(members.Object("anomalies"), problems_, "totals anomalies");
    out_.anomalies = TakeAnomalies(anomalies);
    anomalies.Close();
    members.Close();
  }

  // Whose elements were kept already.
  void ReadLogicalHashes(JsonMembers& members) {
    members.Array("logical_hashes");
    const bool ascend = std::is_sorted(logical_hashes_.begin(), logical_hashes_.end(),
                                       [](const LogicalHash& a, const LogicalHash& b) { return a.name < b.name; });
    if (!ascend) problems_.AddText("logical_hashes", "one of each tensor, by name", "another order");
    out_.logical_hashes = std::move(logical_hashes_);
  }

  void ReadDocument(const json& document) {
    JsonMembers members(document, problems_, "manifest");
    const std::string format = members.String("format");
    if (format != "mimo-manifest") problems_.AddText("format", "mimo-manifest", format);
    const auto version = members.Integer<int64_t>("version");
    if (version < kManifestWithoutHash || version > kManifestOfValues)
      problems_.AddText("version", "1, 2 or 3", std::to_string(version));
    const bool has_hash = version != kManifestWithoutHash;
    if (out_.holds_own_hash != has_hash)
      problems_.AddText("manifest_hash", has_hash ? "the last member" : "none in version 1",
                        out_.holds_own_hash ? "one" : "none");
    members.Find("manifest_hash");
    out_.tool_version = members.String("tool_version");
    out_.form = members.String("form");
    members.Object("options");
    const auto digest = ReadHash(members, "plan_digest");
    const auto fingerprint = ReadHash(members, "source_fingerprint");
    if (!digest || !fingerprint) problems_.AddText("plan_digest and source_fingerprint", "both", "one or none");
    out_.plan_digest = digest.value_or(Hash128());
    out_.source_fingerprint = fingerprint.value_or(Hash128());
    members.Object("source_layout");
    members.String("target_layout");
    for (const char* list : {"source_files", "files", "texts", "carried", "tensors", "dropped", "relayouts"}) {
      members.Array(list);
    }
    if (version == kManifestOfValues) ReadLogicalHashes(members);
    members.Find("notes");  // for people
    if (const json* found = members.Find("source_checksums"); found != nullptr) {
      JsonMembers checksums(*found, problems_, "source_checksums");
      out_.checksums = TakeChecksums(checksums);
      checksums.Close();
    }
    members.Find("accepted");
    if (members.Find("thresholds") != nullptr) out_.rejections = members.Strings("rejections");
    ReadTotals(members.Object("totals"));
    members.Close();
  }

  JsonProblems problems_;
  Manifest out_;
  std::vector<LogicalHash> logical_hashes_;
};

}  // namespace

Result<Manifest> ParseManifest(const std::string& text, const std::string& path) {
  return Reader(path).Read(text, path);
}

Result<std::string> ReadManifestText(FileSystem& fs, const std::string& path) {
  return ReadWholeFile(fs, path, kMaxManifestBytes);
}

Result<Manifest> ReadManifest(FileSystem& fs, const std::string& path) {
  MIMO_ASSIGN_OR_RETURN(const std::string text, ReadManifestText(fs, path));
  return ParseManifest(text, path);
}

}  // namespace mimo
