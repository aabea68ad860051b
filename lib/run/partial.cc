#include "lib/run/partial.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <set>

#include "lib/base/durable_file.h"
#include "lib/json/bytes.h"
#include "lib/json/parse.h"
#include "lib/plan/plan_json.h"
#include "lib/results/result_json.h"

namespace mimo {
namespace {

using nlohmann::json;

constexpr char kStateName[] = "state.json";
constexpr char kPublishName[] = "publish.json";

std::string InPartial(const std::string& name) {
  return JoinPath(kPartialDirectory, name);
}

std::string InRecords(const std::string& name) {
  return JoinPath(InPartial("records"), name);
}
constexpr uint64_t kMaxBytes = 256ull << 20;

// The object in `path`; nullopt when it is missing or damaged: then it counts as not written.
Result<std::optional<json>> ReadObject(FileSystem& fs, const std::string& path, const char* format) {
  MIMO_ASSIGN_OR_RETURN(const auto info, fs.Stat(path));
  if (!info || info->kind != FileKind::kRegular || info->size > kMaxBytes) return std::optional<json>();
  MIMO_ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(fs, path, kMaxBytes));
  Result<json> parsed = ParseJson<json>(text, path, kLongDocument);
  if (!parsed.ok()) return std::optional<json>();
  json document = std::move(parsed).value();
  if (!document.is_object() || document.value("format", json()) != format || document.value("version", json()) != 1) {
    return std::optional<json>();
  }
  document.erase("format");
  document.erase("version");
  return std::optional<json>(std::move(document));
}

void AddFormat(JsonObject& object, const char* format, const Hash128& digest) {
  object.String("format", format);
  object.Number("version", 1);
  object.String("plan_digest", digest.Hex());
}

std::optional<Hash128> HashOf(const std::string& text) {
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

// Outputs of a file group in the order of its files.
std::vector<uint32_t> OutputsOf(const Plan& plan, uint32_t file_group) {
  std::vector<uint32_t> outputs;
  for (const PlanFile& file : plan.files) {
    if (file.file_group == file_group) outputs.insert(outputs.end(), file.outputs.begin(), file.outputs.end());
  }
  return outputs;
}

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

// What it says of the new grids of its file group, which must all be in it.
bool TakeGrids(const Plan& plan, uint32_t file_group, JsonMembers& record, JsonProblems& problems,
               std::map<uint32_t, BlockCounts>* grids) {
  const auto relays = [&](uint32_t group) {
    return group < plan.groups.size() && plan.groups[group].file_group == file_group &&
           !plan.groups[group].cells.empty();
  };
  size_t count = 0;
  for (uint32_t g = 0; g < plan.groups.size(); ++g) count += relays(g) ? 1 : 0;
  const auto take = [&](uint32_t group, JsonMembers& entry) { (*grids)[group] = TakeGridCounts(entry); };
  return TakeEach(record, problems, "relayouts", "group", relays, take) == count;
}

}  // namespace

bool WrittenFile::Is(const WrittenFile& other) const {
  return inode == other.inode && bytes == other.bytes && birth_ns == other.birth_ns && target == other.target;
}

bool WrittenFile::IsAsWritten(const WrittenFile& now, bool moved) const {
  return Is(now) && mtime_ns == now.mtime_ns && (moved || ctime_ns == 0 || ctime_ns == now.ctime_ns);
}

WrittenFile WrittenFileOf(const FileInfo& info) {
  return {info.inode, info.size, info.mtime_ns, info.ctime_ns, info.birth_ns, ""};
}

Result<std::optional<WrittenFile>> Look(FileSystem& fs, const std::string& name, bool directories) {
  MIMO_ASSIGN_OR_RETURN(const auto info, fs.Stat(name));
  if (!info) return std::optional<WrittenFile>();
  WrittenFile file = WrittenFileOf(*info);
  if (info->symlink && info->kind == FileKind::kOther) {
    MIMO_ASSIGN_OR_RETURN(auto text, fs.ReadLink(name));
    file.target = std::move(text).value_or("");
  } else if (info->kind == FileKind::kDirectory) {
    if (!directories) return std::optional<WrittenFile>();
    file = {info->inode, 0, 0, 0, info->birth_ns, ""};
  } else if (info->kind != FileKind::kRegular && !directories) {
    return std::optional<WrittenFile>();
  }
  return std::optional(std::move(file));
}

Status CreateParents(FileSystem& fs, const std::string& root, const std::string& name) {
  const size_t slash = name.rfind('/');
  return slash == std::string::npos ? Status() : fs.CreateDirectories(JoinPath(root, name.substr(0, slash)));
}

Status SyncDirectories(FileSystem& fs, const std::string& root, const std::vector<std::string>& names) {
  std::set<std::string, std::greater<>> directories;  // "a/b" before "a"
  for (const std::string& name : names) {
    for (size_t slash = name.rfind('/'); slash != std::string::npos && slash > 0; slash = name.rfind('/', slash - 1)) {
      directories.insert(name.substr(0, slash));
    }
  }
  directories.insert("");  // `root` itself, last
  for (const std::string& directory : directories) {
    const std::string path = JoinPath(root, directory);
    MIMO_ASSIGN_OR_RETURN(const auto info, fs.Stat(path));
    if (info) MIMO_RETURN_IF_ERROR(fs.SyncDirectory(path));
  }
  return {};
}

PartialDirectory::PartialDirectory(const OutputClaim& claim) : claim_(claim), fs_(claim.files()) {}

Status PartialDirectory::TakeNoteOfLink(const std::string& name) {
  MIMO_ASSIGN_OR_RETURN(auto written, Look(fs_, FilePath(name)));
  if (!written) return IoError("a file of the output has disappeared").File(JoinPath(claim_.path(), FilePath(name)));
  written->ctime_ns = 0;  // a hard link shares it with all other names
  TakeNote(name, *written);
  return {};
}

void PartialDirectory::TakeNote(const std::string& name, const WrittenFile& file) {
  const std::lock_guard lock(mutex_);
  notes_[name] = file;
}

std::optional<WrittenFile> PartialDirectory::NoteOf(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  const auto note = notes_.find(name);
  return note == notes_.end() ? std::nullopt : std::optional(note->second);
}

Result<std::optional<PartialDirectory::State>> PartialDirectory::ReadState() const {
  MIMO_ASSIGN_OR_RETURN(const auto document, ReadObject(fs_, InPartial(kStateName), "mimo-partial"));
  if (!document) return std::optional<State>();
  JsonProblems problems(path(), "");
  JsonMembers members(*document, problems, "state");
  State state;
  const auto digest = HashOf(members.String("plan_digest"));
  state.tool_version = members.String("tool_version");
  members.Object("options");
  state.created_output = members.Bool("created_output");
  state.overwrite = members.Bool("overwrite");
  for (const json& value : members.Array("sources")) {
    JsonMembers entry(value, problems, "sources");
    SourceState source;
    source.name = entry.String("name");
    source.bytes = entry.Integer<uint64_t>("bytes");
    source.stamp.mtime_ns = entry.Integer<int64_t>("mtime_ns");
    source.stamp.inode = entry.Integer<uint64_t>("inode");
    state.sources.push_back(std::move(source));
  }
  members.Close();
  if (!digest || !problems.ok()) return std::optional<State>();
  state.plan_digest = *digest;
  return std::optional<State>(std::move(state));
}

Status PartialDirectory::Start(const Plan& plan, const State& state) {
  MIMO_RETURN_IF_ERROR(fs_.CreateDirectories(kPartialDirectory));
  MIMO_RETURN_IF_ERROR(fs_.RemoveAll(InPartial(kPublishName)));
  MIMO_RETURN_IF_ERROR(fs_.SyncDirectory(kPartialDirectory));
  MIMO_RETURN_IF_ERROR(fs_.RemoveAll(InPartial(kStateName)));
  MIMO_RETURN_IF_ERROR(fs_.SyncDirectory(kPartialDirectory));
  MIMO_ASSIGN_OR_RETURN(const auto names, fs_.List(kPartialDirectory));
  for (const std::string& name : names) {
    if (InPartial(name) != kLeaseName) MIMO_RETURN_IF_ERROR(fs_.RemoveAll(InPartial(name)));
  }
  MIMO_RETURN_IF_ERROR(Repair());
  std::string text;
  JsonObject object(text);
  AddFormat(object, "mimo-partial", state.plan_digest);
  object.String("tool_version", state.tool_version);
  object.Key("options") += PlanOptionsJson(plan.options);
  object.Bool("created_output", state.created_output);
  object.Bool("overwrite", state.overwrite);
  object.List("sources", state.sources, [](std::string& out, const SourceState& source) {
    JsonObject entry(out);
    entry.String("name", source.name);
    entry.Number("bytes", source.bytes);
    entry.Number("mtime_ns", source.stamp.mtime_ns);
    entry.Number("inode", source.stamp.inode);
  });
  object.Close();
  text += '\n';
  MIMO_RETURN_IF_ERROR(WriteDurably(fs_, InPartial(kStateName), text));
  return fs_.SyncDirectory("");
}

std::string PartialDirectory::RecordName(uint32_t file_group) const {
  char digits[16];
  std::snprintf(digits, sizeof digits, "%04u.json", file_group);
  return digits;
}

Result<bool> PartialDirectory::LoadRecord(const Plan& plan, uint32_t file_group, const RecordNeeds& needs,
                                          RunResults* results) {
  const std::string path = InRecords(RecordName(file_group));
  MIMO_ASSIGN_OR_RETURN(const auto document, ReadObject(fs_, path, "mimo-record"));
  if (!document) return false;
  JsonProblems problems(path, "");
  JsonMembers members(*document, problems, "record");
  if (HashOf(members.String("plan_digest")) != plan.digest) return false;
  if (members.Integer<uint32_t>("file_group") != file_group) return false;
  std::vector<std::pair<std::string, WrittenFile>> notes;
  const json& files = members.Array("files");
  for (size_t f = 0; f < plan.files.size(); ++f) {
    if (plan.files[f].file_group != file_group) continue;
    if (notes.size() == files.size()) return false;
    JsonMembers file(files[notes.size()], problems, "files", notes.size());
    const std::string& name = plan.files[f].name;
    if (file.String("name") != name || file.Bool("linked") != (results->linked[f] != 0)) return false;
    const WrittenFile written = TakeWritten(file, problems);
    MIMO_ASSIGN_OR_RETURN(const auto now, Look(fs_, FilePath(name)));
    if (!now || !written.IsAsWritten(*now, false)) return false;
    if (written.target.empty() && written.bytes != plan.files[f].bytes) return false;
    file.Close();
    notes.emplace_back(name, written);
  }
  const std::vector<uint32_t> outputs = OutputsOf(plan, file_group);
  const json& hashes = members.Array("hashes");
  if (notes.size() != files.size() || hashes.size() != outputs.size()) return false;
  std::vector<TensorResult> tensors(outputs.size());
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (hashes[i].is_string()) tensors[i].hash = HashOf(hashes[i].get<std::string>());
    const bool wanted = needs.hash_linked || results->linked[plan.outputs[outputs[i]].file] == 0;
    if (wanted != tensors[i].hash.has_value()) return false;
  }
  std::map<uint32_t, BlockCounts> grids;
  if (!TakeTensors(plan, outputs, needs.errors, members, problems, &tensors)) return false;
  if (!TakeGrids(plan, file_group, members, problems, &grids)) return false;
  members.Close();
  if (!problems.ok()) return false;
  for (size_t i = 0; i < outputs.size(); ++i) results->tensors[outputs[i]] = tensors[i];
  for (const auto& [group, counts] : grids) results->groups[group] = counts;
  for (const auto& [name, written] : notes) TakeNote(name, written);
  return true;
}

Status PartialDirectory::WriteRecord(const Plan& plan, uint32_t file_group, const RunResults& results) {
  std::string text;
  JsonObject object(text);
  AddFormat(object, "mimo-record", plan.digest);
  object.Number("file_group", file_group);
  JsonList files(object.Key("files"));
  for (size_t f = 0; f < plan.files.size(); ++f) {
    if (plan.files[f].file_group != file_group) continue;
    JsonObject file(files.Next());
    file.String("name", plan.files[f].name);
    AddWritten(file, NoteOf(plan.files[f].name).value_or(WrittenFile()));
    if (results.linked[f] != 0) file.Bool("linked", true);
    file.Close();
  }
  files.Close();
  const std::vector<uint32_t> outputs = OutputsOf(plan, file_group);
  // Of the tensors that are wanted(output, result): their number, then what add(entry, result) puts in.
  const auto list = [&](const char* name, const auto& wanted, const auto& add) {
    JsonList entries(object.Key(name));
    for (size_t i = 0; i < outputs.size(); ++i) {
      const TensorResult& tensor = results.tensors[outputs[i]];
      if (!wanted(plan.outputs[outputs[i]], tensor)) continue;
      JsonObject entry(entries.Next());
      entry.Number("tensor", i);
      add(entry, tensor);
      entry.Close();
    }
    entries.Close();
  };
  object.List("hashes", outputs, [&](std::string& out, uint32_t o) {
    const auto& hash = results.tensors[o].hash;
    AppendJsonString(out, hash ? hash->Hex() : "");
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
  for (size_t g = 0; g < plan.groups.size(); ++g) {
    if (plan.groups[g].file_group != file_group || plan.groups[g].cells.empty()) continue;
    JsonObject entry(relayouts.Next());
    entry.Number("group", g);
    AddGridCounts(entry, results.groups[g]);
    entry.Close();
  }
  relayouts.Close();
  object.Close();
  text += '\n';
  return WriteDurably(fs_, InRecords(RecordName(file_group)), text);
}

Status PartialDirectory::DropRecords(const std::vector<uint32_t>& kept) {
  const std::string records = InPartial("records");
  std::set<std::string> names;
  for (const uint32_t g : kept) names.insert(RecordName(g));
  MIMO_ASSIGN_OR_RETURN(const auto found, fs_.List(records));
  bool dropped = false;
  for (const std::string& name : found) {
    if (names.contains(name)) continue;
    MIMO_RETURN_IF_ERROR(fs_.RemoveAll(JoinPath(records, name)));
    dropped = true;
  }
  return dropped ? fs_.SyncDirectory(records) : Status();
}

Result<std::optional<PartialDirectory::Publication>> PartialDirectory::ReadPublication() const {
  MIMO_ASSIGN_OR_RETURN(const auto document, ReadObject(fs_, InPartial(kPublishName), "mimo-publication"));
  if (!document) return std::optional<Publication>();
  JsonProblems problems(path(), "");
  JsonMembers members(*document, problems, "publication");
  Publication publication;
  const auto digest = HashOf(members.String("plan_digest"));
  publication.overwrite = members.Bool("overwrite");
  publication.cleared = members.Bool("cleared");
  for (const auto& [key, list] : {std::pair("files", &publication.files), std::pair("old", &publication.old)}) {
    for (const json& value : members.Array(key)) {
      JsonMembers entry(value, problems, key);
      auto name = TakeBytes(entry, problems, "name");
      if (!name) return std::optional<Publication>();
      list->emplace_back(std::move(*name), TakeWritten(entry, problems));
    }
  }
  members.Close();
  if (!digest || !problems.ok() || publication.files.empty()) return std::optional<Publication>();
  publication.plan_digest = *digest;
  return std::optional<Publication>(std::move(publication));
}

Status PartialDirectory::WritePublication(const Publication& publication) {
  std::string text;
  JsonObject object(text);
  AddFormat(object, "mimo-publication", publication.plan_digest);
  object.Bool("overwrite", publication.overwrite);
  object.Bool("cleared", publication.cleared);
  for (const auto& [key, list] : {std::pair("files", &publication.files), std::pair("old", &publication.old)}) {
    object.List(key, *list, [](std::string& out, const auto& file) {
      JsonObject entry(out);
      AddBytes(entry, "name", file.first);
      AddWritten(entry, file.second);
    });
  }
  object.Close();
  text += '\n';
  return WriteDurably(fs_, InPartial(kPublishName), text);
}

Status PartialDirectory::Repair() {
  for (const std::string& directory : {files(), InPartial("records")}) {
    MIMO_ASSIGN_OR_RETURN(const auto info, fs_.Stat(directory));
    if (info && info->kind != FileKind::kDirectory && !info->symlink) MIMO_RETURN_IF_ERROR(fs_.Remove(directory));
    MIMO_RETURN_IF_ERROR(fs_.CreateDirectories(directory));
  }
  return {};
}

Status PartialDirectory::Remove() {
  MIMO_ASSIGN_OR_RETURN(const auto info, fs_.Stat(kPartialDirectory));
  if (!info) return {};
  MIMO_ASSIGN_OR_RETURN(auto names, fs_.List(kPartialDirectory));
  // The state first: what is half removed is not gone on with.
  std::stable_partition(names.begin(), names.end(), [](const std::string& name) { return name == kStateName; });
  for (const std::string& name : names) {
    if (name == kPublishName || InPartial(name) == kLeaseName) continue;
    MIMO_RETURN_IF_ERROR(claim_.Confirm());
    MIMO_RETURN_IF_ERROR(fs_.RemoveAll(InPartial(name)));
  }
  MIMO_RETURN_IF_ERROR(fs_.SyncDirectory(kPartialDirectory));
  MIMO_RETURN_IF_ERROR(fs_.RemoveAll(InPartial(kPublishName)));
  return fs_.SyncDirectory(kPartialDirectory);
}

}  // namespace mimo
