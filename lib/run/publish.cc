#include "lib/run/publish.h"

#include <algorithm>
#include <vector>

#include "lib/base/durable_file.h"
#include "lib/model/file_names.h"

namespace mimo {
namespace {

// Tensor and carried files, then texts with the index and the config at their end, then the manifest.
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

// Removes what OUT held before, its manifest first: from then on nobody takes it as complete.
Status ClearOld(FileSystem& fs, const std::string& output) {
  MIMO_RETURN_IF_ERROR(fs.Remove(JoinPath(output, kManifestName)));
  MIMO_RETURN_IF_ERROR(fs.SyncDirectory(output));
  MIMO_ASSIGN_OR_RETURN(const auto names, fs.List(output));
  for (const std::string& name : names) {
    if (name != kPartialDirectory) MIMO_RETURN_IF_ERROR(fs.RemoveAll(JoinPath(output, name)));
  }
  return fs.SyncDirectory(output);
}

Status MoveInto(FileSystem& fs, const std::string& output, const PartialDirectory& partial, const std::string& name) {
  const std::string from = partial.FilePath(name);
  const std::string to = JoinPath(output, name);
  MIMO_ASSIGN_OR_RETURN(const auto here, fs.Stat(from));
  if (here) {
    MIMO_RETURN_IF_ERROR(CreateParents(fs, output, name));
    return fs.Rename(from, to);
  }
  MIMO_ASSIGN_OR_RETURN(const auto there, fs.Stat(to));
  if (there) return {};  // moved by an earlier run
  return IoError("a file of the output has disappeared").File(from).Advice("start again with --overwrite");
}

}  // namespace

Status MakeLink(FileSystem& fs, LinkMode mode, const std::string& target, const std::string& link) {
  MIMO_RETURN_IF_ERROR(fs.Remove(link));
  MIMO_ASSIGN_OR_RETURN(const std::string real, fs.RealPath(target));
  Status made = mode == LinkMode::kHard  ? fs.HardLink(real, link)
                : mode == LinkMode::kSym ? fs.SymLink(real, link)
                                         : fs.RefLink(real, link);
  if (made.ok()) return {};
  Error error = made.TakeError();
  if (mode != LinkMode::kSym) {
    error.advice =
        "the output must be on the checkpoint's file system, and that must be able to do it; "
        "use --link sym or --link none otherwise";
  }
  return error;
}

Status PreparePublication(FileSystem& fs, const Catalogue& catalogue, const Plan& plan, bool overwrite,
                          PartialDirectory& partial, const RunResults& results, RunReport& report) {
  for (const TextFile& text : plan.texts) {
    const std::string path = partial.FilePath(text.name);
    MIMO_RETURN_IF_ERROR(CreateParents(fs, partial.files(), text.name));
    MIMO_RETURN_IF_ERROR(WriteNewFile(fs, path, text.content));
    report.bytes_written += text.content.size();
    ++report.files_written;
  }
  const auto manifest = [&](const TextSink& sink) { return WriteManifest(catalogue, plan, results, sink); };
  MIMO_ASSIGN_OR_RETURN(const uint64_t bytes, WriteNewFile(fs, partial.FilePath(kManifestName), manifest));
  report.bytes_written += bytes;
  ++report.files_written;
  PartialDirectory::Publication publication{plan.digest, overwrite, false, PublicationOrder(plan)};
  MIMO_RETURN_IF_ERROR(SyncDirectories(fs, partial.files(), publication.names));
  return partial.WritePublication(publication);
}

Status FinishPublication(FileSystem& fs, const std::string& output, PartialDirectory& partial) {
  MIMO_ASSIGN_OR_RETURN(auto publication, partial.ReadPublication());
  if (!publication) {
    return IoError("the list of what to publish has disappeared")
        .File(partial.path())
        .Advice("run again with --resume");
  }
  if (publication->overwrite && !publication->cleared) {
    MIMO_RETURN_IF_ERROR(ClearOld(fs, output));
    publication->cleared = true;
    MIMO_RETURN_IF_ERROR(partial.WritePublication(*publication));
  }
  const std::string manifest = publication->names.back();
  publication->names.pop_back();
  for (const std::string& name : publication->names) MIMO_RETURN_IF_ERROR(MoveInto(fs, output, partial, name));
  MIMO_RETURN_IF_ERROR(SyncDirectories(fs, output, publication->names));
  // A rename is durable when both directories are.
  MIMO_RETURN_IF_ERROR(SyncDirectories(fs, partial.files(), publication->names));
  MIMO_RETURN_IF_ERROR(MoveInto(fs, output, partial, manifest));
  MIMO_RETURN_IF_ERROR(fs.SyncDirectory(output));
  MIMO_RETURN_IF_ERROR(SyncDirectories(fs, partial.files(), {manifest}));
  return partial.Remove();
}

}  // namespace mimo
