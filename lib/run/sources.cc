#include "lib/run/sources.h"

#include <algorithm>
#include <set>

#include "lib/plan/reads.h"

namespace mimo {
namespace {

std::string Text(uint64_t bytes, const FileStamp& stamp) {
  if (stamp.inode == 0) return std::to_string(bytes) + " bytes";
  return std::to_string(bytes) + " bytes, inode " + std::to_string(stamp.inode) + ", changed at " +
         std::to_string(stamp.mtime_ns) + " ns";
}

Error Changed(const std::string& path) {
  return BadInput("the checkpoint has changed since this output was begun")
      .File(path)
      .Advice("put the file back as it was and run with --resume, or start again with --overwrite");
}

Status Compare(const std::string& path, uint64_t bytes, const FileStamp& stamp, const std::optional<FileInfo>& info) {
  if (!info) return Changed(path).Expected(Text(bytes, stamp)).Found("no such file");
  const FileStamp now = stamp.inode == 0 ? FileStamp() : StampOf(*info);
  if (info->size == bytes && now == stamp) return {};
  return Changed(path).Expected(Text(bytes, stamp)).Found(Text(info->size, now));
}

Status Compare(FileSystem& fs, const std::string& path, uint64_t bytes, const FileStamp& stamp) {
  MIMO_ASSIGN_OR_RETURN(const auto info, fs.Stat(path));
  return Compare(path, bytes, stamp, info);
}

}  // namespace

Result<std::unique_ptr<ReadableFile>> OpenUnchanged(FileSystem& fs, const Catalogue& catalogue, uint32_t file) {
  const CatalogueFile& entry = catalogue.files[file];
  const std::string path = catalogue.PathOf(entry);
  MIMO_ASSIGN_OR_RETURN(auto opened, fs.OpenForRead(path));
  MIMO_ASSIGN_OR_RETURN(const FileInfo info, opened->Info());
  MIMO_RETURN_IF_ERROR(Compare(path, entry.bytes, entry.stamp, info));
  return opened;
}

std::vector<SourceState> SourceStates(const Catalogue& catalogue) {
  std::vector<SourceState> states;
  for (const CatalogueFile& file : catalogue.files) states.push_back({file.name, file.bytes, file.stamp});
  return states;
}

Status CheckSameSources(const Catalogue& catalogue, const std::vector<SourceState>& begun) {
  const std::vector<SourceState> now = SourceStates(catalogue);
  const auto [a, b] = std::mismatch(begun.begin(), begun.end(), now.begin(), now.end());
  if (a == begun.end() && b == now.end()) return {};
  if (a == begun.end() || b == now.end())
    return Changed(catalogue.root).Expected(std::to_string(begun.size()) + " tensor files").Found(now.size());
  const std::string path = catalogue.PathOf(catalogue.files[static_cast<size_t>(b - now.begin())]);
  return Changed(path).Expected(a->name + " of " + Text(a->bytes, a->stamp)).Found(Text(b->bytes, b->stamp));
}

Status CheckUnchanged(FileSystem& fs, const Catalogue& catalogue, uint32_t file) {
  const CatalogueFile& entry = catalogue.files[file];
  return Compare(fs, catalogue.PathOf(entry), entry.bytes, entry.stamp);
}

Status CheckAllUnchanged(FileSystem& fs, const Catalogue& catalogue, const Plan& plan) {
  for (uint32_t f = 0; f < catalogue.files.size(); ++f) MIMO_RETURN_IF_ERROR(CheckUnchanged(fs, catalogue, f));
  const std::set<std::string> carried(plan.carried.begin(), plan.carried.end());
  for (const CarriedFile& file : catalogue.carried) {
    if (!carried.contains(file.name)) continue;
    MIMO_RETURN_IF_ERROR(Compare(fs, JoinPath(catalogue.root, file.name), file.bytes, file.stamp));
  }
  return {};
}

std::vector<std::vector<uint32_t>> FilesReadBy(const Catalogue& catalogue, const Plan& plan) {
  std::vector<std::set<uint32_t>> files(plan.file_groups);
  for (const FuseGroup& group : plan.groups) {
    VisitGroupReads(plan, group, [&](uint32_t source) {
      files[group.file_group].insert(catalogue.arrays[plan.sources[source].array].file);
    });
  }
  for (const PlanFile& file : plan.files) {
    if (file.source_file != kNone) files[file.file_group].insert(file.source_file);
  }
  std::vector<std::vector<uint32_t>> out;
  for (const std::set<uint32_t>& set : files) out.emplace_back(set.begin(), set.end());
  return out;
}

}  // namespace mimo
