#include "lib/run/publish.h"

#include <algorithm>
#include <vector>

#include "lib/base/durable_file.h"
#include "lib/base/real_path.h"
#include "lib/model/file_names.h"

namespace mimo {
namespace {

// Removes what OUT held before, its manifest first: from then on nobody takes it as complete.
Status ClearOld(FileSystem& fs) {
  MIMO_RETURN_IF_ERROR(fs.Remove(kManifestName));
  MIMO_RETURN_IF_ERROR(fs.SyncDirectory(""));
  MIMO_ASSIGN_OR_RETURN(const auto names, fs.List(""));
  for (const std::string& name : names) {
    if (name != kPartialDirectory) MIMO_RETURN_IF_ERROR(fs.RemoveAll(name));
  }
  return fs.SyncDirectory("");
}

Status MoveInto(const PartialDirectory& partial, const std::string& name, const WrittenFile& written) {
  FileSystem& fs = partial.fs();
  const std::string from = partial.FilePath(name);
  MIMO_ASSIGN_OR_RETURN(const auto here, Look(fs, from));
  if (here) {
    if (*here != written) return Replaced(partial, from);
    MIMO_RETURN_IF_ERROR(CreateParents(fs, "", name));
    return fs.Rename(from, name);
  }
  MIMO_ASSIGN_OR_RETURN(const auto there, Look(fs, name));
  if (there && *there == written) return {};  // moved by an earlier run
  if (there) return Replaced(partial, name);
  return IoError("a file of the output has disappeared")
      .File(JoinPath(partial.claim().path(), from))
      .Advice("start again with --overwrite");
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
  MIMO_RETURN_IF_ERROR(to.Remove(link));
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

Status PreparePublication(const Catalogue& catalogue, const Plan& plan, bool overwrite, PartialDirectory& partial,
                          const RunResults& results, RunReport& report) {
  FileSystem& fs = partial.fs();
  for (const TextFile& text : plan.texts) {
    MIMO_RETURN_IF_ERROR(CreateParents(fs, partial.files(), text.name));
    MIMO_RETURN_IF_ERROR(WriteNewFile(fs, partial.FilePath(text.name), text.content));
    MIMO_RETURN_IF_ERROR(partial.TakeNote(text.name));
    report.bytes_written += text.content.size();
    ++report.files_written;
  }
  const auto manifest = [&](const TextSink& sink) { return WriteManifest(catalogue, plan, results, sink); };
  MIMO_ASSIGN_OR_RETURN(const uint64_t bytes, WriteNewFile(fs, partial.FilePath(kManifestName), manifest));
  MIMO_RETURN_IF_ERROR(partial.TakeNote(kManifestName));
  report.bytes_written += bytes;
  ++report.files_written;
  const std::vector<std::string> names = PublicationOrder(plan);
  PartialDirectory::Publication publication{plan.digest, overwrite, false, {}};
  for (const std::string& name : names) {
    publication.files.emplace_back(name, partial.NoteOf(name).value_or(WrittenFile()));
    MIMO_ASSIGN_OR_RETURN(const auto now, Look(fs, partial.FilePath(name)));
    if (now != publication.files.back().second) return Replaced(partial, partial.FilePath(name));
  }
  MIMO_RETURN_IF_ERROR(SyncDirectories(fs, partial.files(), names));
  MIMO_RETURN_IF_ERROR(partial.claim().Confirm());
  return partial.WritePublication(publication);
}

Result<bool> IsWhole(const PartialDirectory& partial, const PartialDirectory::Publication& publication) {
  for (const auto& [name, written] : publication.files) {
    MIMO_ASSIGN_OR_RETURN(const auto here, Look(partial.fs(), partial.FilePath(name)));
    if (here && *here != written) return false;
    if (here) continue;
    MIMO_ASSIGN_OR_RETURN(const auto there, Look(partial.fs(), name));
    if (there != written) return false;
  }
  return true;
}

Status FinishPublication(PartialDirectory& partial) {
  FileSystem& fs = partial.fs();
  MIMO_ASSIGN_OR_RETURN(auto publication, partial.ReadPublication());
  if (!publication) {
    return IoError("the list of what to publish has disappeared")
        .File(partial.path())
        .Advice("run again with --resume");
  }
  if (publication->overwrite && !publication->cleared) {
    MIMO_RETURN_IF_ERROR(partial.claim().Confirm());
    MIMO_RETURN_IF_ERROR(ClearOld(fs));
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
