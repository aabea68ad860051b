#include "lib/run/publish.h"

#include <algorithm>
#include <vector>

#include "lib/base/durable_file.h"
#include "lib/base/real_path.h"
#include "lib/model/file_names.h"

namespace mimo {
namespace {

// What OUT holds beside the partial directory, the manifest first: without it nobody takes the rest as complete.
Result<std::vector<std::pair<std::string, WrittenFile>>> LookAtOld(FileSystem& fs) {
  MIMO_ASSIGN_OR_RETURN(auto names, fs.List(""));
  std::stable_partition(names.begin(), names.end(), [](const std::string& name) { return name == kManifestName; });
  std::vector<std::pair<std::string, WrittenFile>> old;
  for (const std::string& name : names) {
    if (name == kPartialDirectory) continue;
    MIMO_ASSIGN_OR_RETURN(auto found, Look(fs, name, true));
    if (found) old.emplace_back(name, std::move(*found));
  }
  return old;
}

// Whether `name` can be one of those that List(""), of OUT, gives: OUT itself is not.
bool IsEntry(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find_first_of(std::string_view("/\0", 2)) == name.npos;
}

// Removes what OUT held before, and nothing that has come into its place: another run may have taken OUT over.
Status ClearOld(const PartialDirectory& partial, const PartialDirectory::Publication& publication) {
  FileSystem& fs = partial.fs();
  for (const auto& [name, was] : publication.old) {
    MIMO_RETURN_IF_ERROR(partial.claim().Confirm());
    MIMO_ASSIGN_OR_RETURN(const auto now, Look(fs, name, true));
    if (!now || !was.Is(*now)) continue;
    MIMO_RETURN_IF_ERROR(fs.RemoveAll(name));
    if (name == kManifestName) MIMO_RETURN_IF_ERROR(fs.SyncDirectory(""));
  }
  return fs.SyncDirectory("");
}

Status MoveInto(const PartialDirectory& partial, const std::string& name, const WrittenFile& written) {
  FileSystem& fs = partial.fs();
  const std::string from = partial.FilePath(name);
  MIMO_ASSIGN_OR_RETURN(const auto here, Look(fs, from));
  if (here) {
    if (!written.Is(*here)) return Replaced(partial, from);
    MIMO_RETURN_IF_ERROR(CreateParents(fs, "", name));
    return fs.Rename(from, name);
  }
  MIMO_ASSIGN_OR_RETURN(const auto there, Look(fs, name));
  if (there && written.IsAsWritten(*there, true)) return {};  // moved by an earlier run
  if (there) return Replaced(partial, name);
  return IoError("a file of the output has disappeared")
      .File(JoinPath(partial.claim().path(), from))
      .Advice("run again with --resume");
}

}  // namespace

Error Replaced(const PartialDirectory& partial, const std::string& name) {
  return IoError("a file of the output is not the one that this run wrote")
      .File(JoinPath(partial.claim().path(), name))
      .Advice("see that nobody else writes here and run again with --resume");
}

std::vector<std::string> PublicationOrder(const Plan& plan) {
  std::vector<std::string> names;
  for (const PlanFile& file : plan.files) names.push_back(file.name);
  names.insert(names.end(), plan.carried.begin(), plan.carried.end());
  const size_t texts = names.size();
  for (const TextFile& text : plan.texts) names.push_back(text.name);
  const auto rank = [](const std::string& name) { return name == kConfigName ? 2 : name == kIndexName ? 1 : 0; };
  std::stable_sort(names.begin() + static_cast<std::ptrdiff_t>(texts), names.end(),
                   [&](const std::string& a, const std::string& b) { return rank(a) < rank(b); });
  names.emplace_back(kManifestName);
  return names;
}

Status MakeLink(FileSystem& from, FileSystem& to, LinkMode mode, const std::string& real_target,
                const std::string& link, const std::string& place) {
  MIMO_RETURN_IF_ERROR(to.RemoveAll(link));
  std::string text = real_target;
  if (mode == LinkMode::kSym) {
    MIMO_ASSIGN_OR_RETURN(const auto target, from.Stat(real_target));
    MIMO_ASSIGN_OR_RETURN(const auto directory, to.Stat(ParentOf(link)));
    if (target && directory && target->device == directory->device) text = LinkText(real_target, place);
  }
  Status made = mode == LinkMode::kHard  ? to.HardLink(real_target, link)
                : mode == LinkMode::kSym ? to.SymLink(text, link)
                                         : to.RefLink(real_target, link);
  if (made.ok()) return {};
  Error error = made.TakeError();
  if (mode != LinkMode::kSym) {
    error.advice =
        "the output must be on the checkpoint's file system, and that must be able to do it; "
        "use --link sym or --link none otherwise";
  }
  return error;
}

Status PreparePublication(const Catalogue& catalogue, const Plan& plan, bool overwrite,
                          const std::vector<std::string>& command, PartialDirectory& partial, const RunResults& results,
                          RunReport& report) {
  FileSystem& fs = partial.fs();
  for (const TextFile& text : plan.texts) {
    MIMO_RETURN_IF_ERROR(CreateParents(fs, partial.files(), text.name));
    FileInfo info;
    MIMO_RETURN_IF_ERROR(WriteNewFile(fs, partial.FilePath(text.name), text.content, &info));
    partial.TakeNote(text.name, WrittenFileOf(info));
    report.bytes_written += text.content.size();
    ++report.files_written;
  }
  const auto manifest = [&](const TextSink& sink) { return WriteManifest(catalogue, plan, results, sink); };
  FileInfo info;
  MIMO_ASSIGN_OR_RETURN(const uint64_t bytes, WriteNewFile(fs, partial.FilePath(kManifestName), manifest, &info));
  partial.TakeNote(kManifestName, WrittenFileOf(info));
  report.bytes_written += bytes;
  ++report.files_written;
  const std::vector<std::string> names = PublicationOrder(plan);
  PartialDirectory::Publication publication{plan.digest, overwrite, false, {}, {}, command};
  if (overwrite) {
    MIMO_ASSIGN_OR_RETURN(publication.old, LookAtOld(fs));
  }
  for (const std::string& name : names) {
    publication.files.emplace_back(name, partial.NoteOf(name).value_or(WrittenFile()));
    MIMO_ASSIGN_OR_RETURN(const auto now, Look(fs, partial.FilePath(name)));
    if (!now || !publication.files.back().second.Is(*now)) return Replaced(partial, partial.FilePath(name));
  }
  MIMO_RETURN_IF_ERROR(SyncDirectories(fs, partial.files(), names));
  MIMO_RETURN_IF_ERROR(partial.claim().Confirm());
  return partial.WritePublication(publication);
}

Result<bool> IsWhole(const PartialDirectory& partial, const PartialDirectory::Publication& publication) {
  for (const auto& [name, written] : publication.files) {
    MIMO_ASSIGN_OR_RETURN(const auto here, Look(partial.fs(), partial.FilePath(name)));
    if (here && !written.IsAsWritten(*here, false)) return false;
    if (here) continue;
    MIMO_ASSIGN_OR_RETURN(const auto there, Look(partial.fs(), name));
    if (!there || !written.IsAsWritten(*there, true)) return false;
  }
  return true;
}

Status CheckNames(const PartialDirectory& partial, const Plan& plan, const PartialDirectory::Publication& publication) {
  const std::vector<std::string> names = PublicationOrder(plan);
  size_t same = 0;
  while (same < names.size() && same < publication.files.size() && publication.files[same].first == names[same]) ++same;
  const bool plain = std::all_of(publication.old.begin(), publication.old.end(),
                                 [](const auto& old) { return IsEntry(old.first) && old.first != kPartialDirectory; });
  if (same == names.size() && same == publication.files.size() && plain) return {};
  const auto name = [](bool there, const auto& text) { return there ? text() : std::string("nothing more"); };
  return BadInput("the list of what to publish is not that of the plan")
      .File(partial.path())
      .Expected(name(same < names.size(), [&] { return names[same]; }))
      .Found(name(same < publication.files.size(), [&] { return publication.files[same].first; }))
      .Advice("somebody has changed it: start again with --overwrite");
}

Status FinishPublication(const Plan& plan, bool overwrite, PartialDirectory& partial) {
  FileSystem& fs = partial.fs();
  MIMO_ASSIGN_OR_RETURN(auto publication, partial.ReadPublication());
  if (!publication) {
    return IoError("the list of what to publish has disappeared")
        .File(partial.path())
        .Advice("run again with --resume");
  }
  MIMO_RETURN_IF_ERROR(CheckNames(partial, plan, *publication));
  for (const auto& [name, written] : publication->files) {
    const auto note = partial.NoteOf(name);  // of this run; none where an earlier one wrote it
    if (note && !note->Is(written)) return Replaced(partial, partial.FilePath(name));
  }
  if (overwrite && publication->overwrite && !publication->cleared) {
    MIMO_RETURN_IF_ERROR(ClearOld(partial, *publication));
    publication->cleared = true;
    MIMO_RETURN_IF_ERROR(partial.WritePublication(*publication));
  }
  const auto [manifest, of_manifest] = publication->files.back();
  publication->files.pop_back();
  std::vector<std::string> names;
  for (const auto& [name, written] : publication->files) {
    MIMO_RETURN_IF_ERROR(MoveInto(partial, name, written));
    names.push_back(name);
  }
  MIMO_RETURN_IF_ERROR(SyncDirectories(fs, "", names));
  // A rename is durable when both directories are.
  MIMO_RETURN_IF_ERROR(SyncDirectories(fs, partial.files(), names));
  MIMO_RETURN_IF_ERROR(partial.claim().Confirm());
  MIMO_RETURN_IF_ERROR(MoveInto(partial, manifest, of_manifest));
  MIMO_RETURN_IF_ERROR(fs.SyncDirectory(""));
  MIMO_RETURN_IF_ERROR(SyncDirectories(fs, partial.files(), {manifest}));
  return partial.Remove();
}

}  // namespace mimo
