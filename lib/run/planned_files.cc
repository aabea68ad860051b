#include "lib/run/planned_files.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "lib/run/planned_groups.h"
#include "lib/run/sources.h"

namespace mimo {
namespace {

constexpr uint32_t kReadOnlyMode = 0444;

Error ReadOnly(const std::string& path) {
  return IoError("a planned output is read only").File(path);
}

// A range of a file whose bytes are known.
struct FixedBytes {
  uint64_t begin = 0;
  std::string bytes;
  uint64_t end() const { return begin + bytes.size(); }
};

// Collects what a container writes around its arrays.
class FrameCatcher final : public WritableFile {
 public:
  Status WriteAt(uint64_t offset, std::span<const std::byte> data) override {
    frames.push_back({offset, std::string(reinterpret_cast<const char*>(data.data()), data.size())});
    return {};
  }
  Status Truncate(uint64_t) override { return {}; }
  Status SetMode(uint32_t) override { return {}; }
  Status Sync() override { return {}; }
  Result<FileInfo> Info() const override { return FileInfo(); }
  Status Close() override { return {}; }
  std::vector<FixedBytes> frames;
};

class FixedFile final : public ReadableFile {
 public:
  FixedFile(std::string_view content, const FileInfo& info) : content_(content), info_(info) {}
  Status ReadAt(uint64_t offset, std::span<std::byte> out) const override {
    if (offset > content_.size() || out.size() > content_.size() - offset) return BadInput("truncated");
    std::memcpy(out.data(), content_.data() + offset, out.size());
    return {};
  }
  uint64_t size() const override { return content_.size(); }
  Result<FileInfo> Info() const override { return info_; }

 private:
  const std::string_view content_;
  const FileInfo info_;
};

// A tensor file: its header and frames, and arrays that are made.
class TensorsFile final : public ReadableFile {
 public:
  TensorsFile(const Plan& plan, uint32_t file, const FileInfo& info, std::vector<FixedBytes> fixed,
              StepsOfGroups& steps)
      : plan_(plan), file_(file), info_(info), fixed_(std::move(fixed)), steps_(steps) {}

  Status ReadAt(uint64_t offset, std::span<std::byte> out) const override {
    if (offset > info_.size || out.size() > info_.size - offset) return BadInput("truncated");
    std::fill(out.begin(), out.end(), std::byte{0});  // what is between arrays
    const uint64_t end = offset + out.size();
    for (const FixedBytes& part : fixed_) {
      const uint64_t from = std::max(offset, part.begin), to = std::min(end, part.end());
      if (from < to) std::memcpy(out.data() + (from - offset), part.bytes.data() + (from - part.begin), to - from);
    }
    const std::vector<uint32_t>& outputs = plan_.files[file_].outputs;
    auto at = std::partition_point(outputs.begin(), outputs.end(),
                                   [&](uint32_t o) { return plan_.outputs[o].end <= offset; });
    for (; at != outputs.end() && plan_.outputs[*at].begin < end; ++at) {
      const uint64_t from = std::max(offset, plan_.outputs[*at].begin), to = std::min(end, plan_.outputs[*at].end);
      if (from < to) MIMO_RETURN_IF_ERROR(steps_.Read(*at, from, out.subspan(from - offset, to - from)));
    }
    return {};
  }
  uint64_t size() const override { return info_.size; }
  Result<FileInfo> Info() const override { return info_; }

 private:
  const Plan& plan_;
  const uint32_t file_;
  const FileInfo info_;
  const std::vector<FixedBytes> fixed_;
  StepsOfGroups& steps_;
};

}  // namespace

PlannedFiles::PlannedFiles(FileSystem& fs, const Catalogue& catalogue, const Plan& plan, std::string root,
                           uint64_t memory_bytes)
    : PlannedFiles(fs, catalogue, plan, std::move(root), OpenWritten()) {
  steps_ = std::make_unique<StepsOfGroups>(fs, catalogue, plan, memory_bytes);
}

PlannedFiles::PlannedFiles(FileSystem& fs, const Catalogue& catalogue, const Plan& plan, std::string root,
                           OpenWritten written)
    : fs_(fs), catalogue_(catalogue), plan_(plan), root_(std::move(root)), written_(std::move(written)) {
  for (uint32_t i = 0; i < plan.files.size(); ++i)
    entries_[plan.files[i].name] = {Entry::Kind::kTensors, i, plan.files[i].bytes};
  for (uint32_t i = 0; i < plan.texts.size(); ++i)
    entries_[plan.texts[i].name] = {Entry::Kind::kText, i, plan.texts[i].content.size()};
  const std::set<std::string> carried(plan.carried.begin(), plan.carried.end());
  for (const CarriedFile& file : catalogue.carried)
    if (carried.contains(file.name))
      entries_[file.name] = {Entry::Kind::kCarried, 0, file.bytes, JoinPath(catalogue.root, file.name)};
  directories_.insert("");
  for (const auto& [name, entry] : entries_)
    for (size_t slash = name.find('/'); slash != std::string::npos; slash = name.find('/', slash + 1))
      directories_.insert(name.substr(0, slash));
}

PlannedFiles::~PlannedFiles() = default;

kernels::Anomalies PlannedFiles::anomalies() const {
  return steps_ ? steps_->anomalies() : kernels::Anomalies();
}

// Null where it is no file; `name` is relative to the root, nullopt-like "/" outside of it.
const PlannedFiles::Entry* PlannedFiles::Find(const std::string& path, std::string* name) const {
  *name = "/";
  if (path == root_) name->clear();
  const std::string below = root_ + "/";
  if (path.starts_with(below)) *name = path.substr(below.size());
  while (!name->empty() && name->back() == '/' && *name != "/") name->pop_back();
  const auto found = entries_.find(*name);
  return found == entries_.end() ? nullptr : &found->second;
}

Result<std::optional<FileInfo>> PlannedFiles::Stat(const std::string& path) {
  std::string name;
  const Entry* entry = Find(path, &name);
  FileInfo info;
  info.mode = kReadOnlyMode;
  if (entry == nullptr) {
    if (!directories_.contains(name)) return std::optional<FileInfo>();
    info.kind = FileKind::kDirectory;
    return std::optional<FileInfo>(info);
  }
  info.kind = FileKind::kRegular;
  info.size = entry->bytes;
  return std::optional<FileInfo>(info);
}

Result<std::unique_ptr<ReadableFile>> PlannedFiles::OpenForRead(const std::string& path) {
  std::string name;
  const Entry* entry = Find(path, &name);
  if (entry == nullptr) return IoError("no such file").File(path);
  MIMO_ASSIGN_OR_RETURN(const std::optional<FileInfo> info, Stat(path));
  switch (entry->kind) {
    case Entry::Kind::kTensors:
      return written_ ? written_(entry->index) : OpenTensors(entry->index, *info);
    case Entry::Kind::kText:
      return std::unique_ptr<ReadableFile>(std::make_unique<FixedFile>(plan_.texts[entry->index].content, *info));
    case Entry::Kind::kCarried:
      break;
  }
  return fs_.OpenForRead(entry->carried);
}

Result<std::unique_ptr<ReadableFile>> PlannedFiles::OpenTensors(uint32_t file, const FileInfo& info) {
  const PlanFile& planned = plan_.files[file];
  std::vector<FixedBytes> fixed;
  if (planned.HasHeaderOfSource() && planned.source_file != kNone) {
    MIMO_ASSIGN_OR_RETURN(const auto source, OpenUnchanged(fs_, catalogue_, planned.source_file));
    std::string header(catalogue_.files[planned.source_file].data_begin, '\0');
    MIMO_RETURN_IF_ERROR(source->ReadAt(0, {reinterpret_cast<std::byte*>(header.data()), header.size()}));
    fixed.push_back({0, std::move(header)});
  } else if (!planned.header.empty()) {
    fixed.push_back({0, planned.header});
  }
  if (planned.container->HoldsChecksums()) {
    std::vector<TensorInfo> arrays;
    for (const uint32_t o : planned.outputs) {
      const OutputArray& output = plan_.outputs[o];
      arrays.push_back({output.name, output.dtype, output.shape, output.begin, output.end});
    }
    // Zero: of an array of which none was computed.
    const std::vector<uint32_t> crcs(arrays.size(), 0);
    FrameCatcher catcher;
    MIMO_RETURN_IF_ERROR(planned.container->Complete(arrays, crcs, catcher));
    std::move(catcher.frames.begin(), catcher.frames.end(), std::back_inserter(fixed));
  }
  return std::unique_ptr<ReadableFile>(std::make_unique<TensorsFile>(plan_, file, info, std::move(fixed), *steps_));
}

Result<std::vector<std::string>> PlannedFiles::List(const std::string& directory) {
  std::string name;
  Find(directory, &name);
  if (!directories_.contains(name)) return IoError("no such directory").File(directory);
  const std::string prefix = name.empty() ? "" : name + '/';
  std::set<std::string> names;
  for (const auto& [entry, unused] : entries_)
    if (entry.starts_with(prefix))
      names.insert(entry.substr(prefix.size(), entry.find('/', prefix.size()) - prefix.size()));
  return std::vector<std::string>(names.begin(), names.end());
}

Result<std::string> PlannedFiles::RealPath(const std::string& path) {
  return path;
}
Result<std::optional<std::string>> PlannedFiles::ReadLink(const std::string&) {
  return std::optional<std::string>();
}

Result<std::unique_ptr<WritableFile>> PlannedFiles::OpenForWrite(const std::string& path, OpenMode) {
  return ReadOnly(path);
}
Status PlannedFiles::CreateDirectories(const std::string& path) {
  return ReadOnly(path);
}
Status PlannedFiles::Rename(const std::string& from, const std::string&) {
  return ReadOnly(from);
}
Status PlannedFiles::Remove(const std::string& path) {
  return ReadOnly(path);
}
Status PlannedFiles::RemoveAll(const std::string& path) {
  return ReadOnly(path);
}
Status PlannedFiles::RemoveDirectory(const std::string& path) {
  return ReadOnly(path);
}
Status PlannedFiles::HardLink(const std::string&, const std::string& link) {
  return ReadOnly(link);
}
Status PlannedFiles::SymLink(const std::string&, const std::string& link) {
  return ReadOnly(link);
}
Status PlannedFiles::RefLink(const std::string&, const std::string& link) {
  return ReadOnly(link);
}
Status PlannedFiles::SyncDirectory(const std::string& path) {
  return ReadOnly(path);
}
Result<uint64_t> PlannedFiles::FreeBytes(const std::string& path) {
  return ReadOnly(path);
}
Result<std::unique_ptr<LockFile>> PlannedFiles::OpenLock(const std::string& path, OpenMode) {
  return ReadOnly(path);
}
Result<std::unique_ptr<FileSystem>> PlannedFiles::Beneath(const std::string& root) {
  return ReadOnly(root);
}

}  // namespace mimo
