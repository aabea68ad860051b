#include "lib/run/partial.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <set>

#include "lib/json/bytes.h"
#include "lib/json/parse.h"
#include "lib/plan/plan_json.h"
#include "lib/results/result_json.h"

namespace mimo {
namespace {

using nlohmann::json;

constexpr char kStateName[] = "state.json";
constexpr char kPublishName[] = "publish.json";
constexpr char kFilesName[] = "files.json";

std::string InPartial(const std::string& name) {
  return JoinPath(kPartialDirectory, name);
}

std::string InRecords(const std::string& name) {
  return JoinPath(InPartial("records"), name);
}
// Outputs of a file group in the order of its files.
std::vector<uint32_t> OutputsOf(const Plan& plan, uint32_t file_group) {
  std::vector<uint32_t> outputs;
  for (const PlanFile& file : plan.files) {
    if (file.file_group == file_group) outputs.insert(outputs.end(), file.outputs.begin(), file.outputs.end());
  }
  return outputs;
}

// Groups of a file group that have a new grid, ascending.
std::vector<uint32_t> GridsOf(const Plan& plan, uint32_t file_group) {
  std::vector<uint32_t> groups;
  for (uint32_t g = 0; g < plan.groups.size(); ++g)
    if (plan.groups[g].file_group == file_group && !plan.groups[g].cells.empty()) groups.push_back(g);
  return groups;
}

}  // namespace

namespace {

std::string TextOf(const Threshold& threshold) {
  char digits[32];
  const auto written = std::to_chars(digits, digits + sizeof digits, threshold.min_sqnr_db);
  return threshold.role + "=" + std::string(digits, written.ptr);
}

}  // namespace

std::vector<std::string> AskedOf(const RunOptions& options) {
  std::vector<std::string> asked;
  if (options.hash_linked) asked.emplace_back("--hash-linked");
  if (options.measure_errors) asked.emplace_back(kErrorReport);
  for (const Threshold& threshold : options.thresholds) asked.push_back("--min-sqnr=" + TextOf(threshold));
  return asked;
}

bool IsOfLeases(const std::string& name) {
  return BelongsToLease(kLeaseName, name) || BelongsToLease(kStartLeaseName, name) ||
         InPartial(name) == kPartLeasesDirectory;
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
  return ReadState(fs_, path());
}

Result<std::optional<PartialDirectory::State>> PartialDirectory::ReadState(FileSystem& fs, const std::string& path) {
  MIMO_ASSIGN_OR_RETURN(const auto document, ReadRecordFile(fs, InPartial(kStateName), "mimo-partial"));
  if (!document) return std::optional<State>();
  JsonProblems problems(path, "");
  JsonMembers members(*document, problems, "state");
  State state;
  const auto digest = HashOfHex(members.String("plan_digest"));
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
  if (members.Has("command")) state.command = members.Strings("command");
  state.unit_bytes = members.Integer<uint64_t>("unit_bytes");
  state.asked = members.Strings("asked");
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
    if (!IsOfLeases(name)) MIMO_RETURN_IF_ERROR(fs_.RemoveAll(InPartial(name)));
  }
  MIMO_RETURN_IF_ERROR(Repair());
  std::string text;
  JsonObject object(text);
  AddRecordFormat(object, "mimo-partial", state.plan_digest);
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
  if (!state.command.empty()) object.StringList("command", state.command);
  object.Number("unit_bytes", state.unit_bytes);
  object.StringList("asked", state.asked);
  object.Close();
  MIMO_RETURN_IF_ERROR(WriteRecordFile(fs_, InPartial(kStateName), std::move(text)));
  return fs_.SyncDirectory("");
}

Status PartialDirectory::WriteFiles(const Plan& plan, const std::vector<uint8_t>& linked, uint64_t unit_bytes) {
  std::string text;
  JsonObject object(text);
  AddRecordFormat(object, "mimo-files", plan.digest);
  object.Number("unit_bytes", unit_bytes);
  JsonList files(object.Key("files"));
  for (size_t f = 0; f < plan.files.size(); ++f) {
    JsonObject file(files.Next());
    AddWritten(file, NoteOf(plan.files[f].name).value_or(WrittenFile()));
    if (linked[f] != 0) file.Bool("linked", true);
    file.Close();
  }
  files.Close();
  object.Close();
  return WriteRecordFile(fs_, InPartial(kFilesName), std::move(text));
}

Result<bool> PartialDirectory::LoadFiles(const Plan& plan, const std::vector<uint8_t>& linked, uint64_t unit_bytes) {
  MIMO_ASSIGN_OR_RETURN(const auto document, ReadRecordFile(fs_, InPartial(kFilesName), "mimo-files"));
  if (!document) return false;
  JsonProblems problems(path(), "");
  JsonMembers members(*document, problems, "files");
  if (HashOfHex(members.String("plan_digest")) != plan.digest) return false;
  const uint64_t cut = members.Integer<uint64_t>("unit_bytes");
  const json& files = members.Array("files");
  if (!problems.ok() || files.size() != plan.files.size()) return false;
  std::vector<WrittenFile> notes;
  for (size_t f = 0; f < plan.files.size(); ++f) {
    JsonMembers file(files[f], problems, "files", f);
    const bool was_linked = file.Bool("linked");
    notes.push_back(TakeWritten(file, problems));
    file.Close();
    if (!problems.ok()) return false;
    if (cut != unit_bytes || was_linked != (linked[f] != 0))
      return UsageError("the parts of this output were begun with other options")
          .File(path())
          .Expected("the same --link and --unit-size for all parts")
          .Found(cut != unit_bytes ? "units of " + std::to_string(cut) + " bytes" : "another --link")
          .Advice("repeat the options of the first part");
    MIMO_ASSIGN_OR_RETURN(const auto now, Look(fs_, FilePath(plan.files[f].name)));
    if (!now || !notes.back().Is(*now)) return false;
  }
  members.Close();
  if (!problems.ok()) return false;
  for (size_t f = 0; f < plan.files.size(); ++f) TakeNote(plan.files[f].name, notes[f]);
  return true;
}

Status PartialDirectory::DropFiles() {
  MIMO_ASSIGN_OR_RETURN(const auto info, fs_.Stat(InPartial(kFilesName)));
  if (!info) return {};
  MIMO_RETURN_IF_ERROR(fs_.RemoveAll(InPartial(kFilesName)));
  return fs_.SyncDirectory(kPartialDirectory);
}

std::string PartialDirectory::RecordName(uint32_t file_group) const {
  char digits[16];
  std::snprintf(digits, sizeof digits, "%04u.json", file_group);
  return digits;
}

Result<bool> PartialDirectory::LoadRecord(const Plan& plan, uint32_t file_group, const RecordNeeds& needs,
                                          RunResults* results) {
  const std::string path = InRecords(RecordName(file_group));
  MIMO_ASSIGN_OR_RETURN(const auto document, ReadRecordFile(fs_, path, "mimo-record"));
  if (!document) return false;
  JsonProblems problems(path, "");
  JsonMembers members(*document, problems, "record");
  if (HashOfHex(members.String("plan_digest")) != plan.digest) return false;
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
  if (notes.size() != files.size()) return false;
  RecordedResults recorded{OutputsOf(plan, file_group), {}, {}};
  if (!TakeResults(plan, GridsOf(plan, file_group), needs.errors, members, problems, &recorded)) return false;
  for (size_t i = 0; i < recorded.outputs.size(); ++i) {
    const bool wanted = needs.hash_linked || results->linked[plan.outputs[recorded.outputs[i]].file] == 0;
    if (wanted != recorded.tensors[i].hash.has_value()) return false;
  }
  members.Close();
  if (!problems.ok()) return false;
  for (size_t i = 0; i < recorded.outputs.size(); ++i) results->tensors[recorded.outputs[i]] = recorded.tensors[i];
  for (const auto& [group, counts] : recorded.grids) results->groups[group] = counts;
  for (const auto& [name, written] : notes) TakeNote(name, written);
  return true;
}

Status PartialDirectory::WriteRecord(const Plan& plan, uint32_t file_group, const RunResults& results) {
  std::string text;
  JsonObject object(text);
  AddRecordFormat(object, "mimo-record", plan.digest);
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
  RecordedResults recorded{OutputsOf(plan, file_group), {}, {}};
  for (const uint32_t o : recorded.outputs) recorded.tensors.push_back(results.tensors[o]);
  for (const uint32_t g : GridsOf(plan, file_group)) recorded.grids[g] = results.groups[g];
  AddResults(object, plan, recorded);
  object.Close();
  return WriteRecordFile(fs_, InRecords(RecordName(file_group)), std::move(text));
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
  return ReadPublication(fs_, path());
}

Result<std::optional<PartialDirectory::Publication>> PartialDirectory::ReadPublication(FileSystem& fs,
                                                                                       const std::string& path) {
  MIMO_ASSIGN_OR_RETURN(const auto document, ReadRecordFile(fs, InPartial(kPublishName), "mimo-publication"));
  if (!document) return std::optional<Publication>();
  JsonProblems problems(path, "");
  JsonMembers members(*document, problems, "publication");
  Publication publication;
  const auto digest = HashOfHex(members.String("plan_digest"));
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
  if (members.Has("command")) publication.command = members.Strings("command");
  members.Close();
  if (!digest || !problems.ok() || publication.files.empty()) return std::optional<Publication>();
  publication.plan_digest = *digest;
  return std::optional<Publication>(std::move(publication));
}

Status PartialDirectory::WritePublication(const Publication& publication) {
  std::string text;
  JsonObject object(text);
  AddRecordFormat(object, "mimo-publication", publication.plan_digest);
  object.Bool("overwrite", publication.overwrite);
  object.Bool("cleared", publication.cleared);
  for (const auto& [key, list] : {std::pair("files", &publication.files), std::pair("old", &publication.old)}) {
    object.List(key, *list, [](std::string& out, const auto& file) {
      JsonObject entry(out);
      AddBytes(entry, "name", file.first);
      AddWritten(entry, file.second);
    });
  }
  if (!publication.command.empty()) object.StringList("command", publication.command);
  object.Close();
  return WriteRecordFile(fs_, InPartial(kPublishName), std::move(text));
}

Status PartialDirectory::Repair() {
  for (const std::string& directory : {files(), InPartial("records"), InPartial(kUnitsDirectory)}) {
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
