#include "tests/faults/durability_journal.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>

#include "lib/base/durable_file.h"

namespace mimo {
namespace {

constexpr uint64_t kMostContent = uint64_t{1} << 32;

std::string Normal(const std::string& path) {
  std::string out = std::filesystem::path(path).lexically_normal().string();
  while (out.size() > 1 && out.ends_with('/')) out.pop_back();
  return out;
}

std::string Parent(const std::string& path) {
  const std::string parent = std::filesystem::path(path).parent_path().string();
  return parent.empty() ? "." : parent;
}

// What stood at a path: enough to put it back. A directory is removed or replaced only when it is empty.
struct Stash {
  enum class Kind : uint8_t { kFile, kDirectory, kSymLink } kind = Kind::kFile;
  std::string content;                // of a file; target of a symbolic link
  std::shared_ptr<std::string> kept;  // another name of the file, so that what comes back is the very file
};

// Another name for a file that is about to lose its own; null where there can be none. It goes with the last who has
// it.
std::shared_ptr<std::string> Keep(const std::string& path) {
  static std::atomic<uint64_t> number = 0;
  std::error_code error;
  const auto name = std::filesystem::temp_directory_path(error) /
                    ("mimo-kept-" + std::to_string(::getpid()) + "-" + std::to_string(number++));
  std::filesystem::create_hard_link(path, name, error);
  if (error) return nullptr;
  return {new std::string(name.string()), [](std::string* kept) {
            std::error_code ignored;
            std::filesystem::remove(*kept, ignored);
            delete kept;
          }};
}

Result<std::optional<Stash>> Look(FileSystem& base, const std::string& path) {
  std::error_code error;
  Stash stash;
  if (std::filesystem::is_symlink(std::filesystem::symlink_status(path, error))) {
    stash.kind = Stash::Kind::kSymLink;
    stash.content = std::filesystem::read_symlink(path, error).string();
    return std::optional<Stash>(std::move(stash));
  }
  MIMO_ASSIGN_OR_RETURN(const auto info, base.Stat(path));
  if (!info) return std::optional<Stash>();
  if (info->kind == FileKind::kDirectory) {
    stash.kind = Stash::Kind::kDirectory;
  } else {
    MIMO_ASSIGN_OR_RETURN(stash.content, ReadWholeFile(base, path, kMostContent));
    stash.kept = Keep(path);
  }
  return std::optional<Stash>(std::move(stash));
}

Status PutBack(FileSystem& base, const std::string& path, const Stash& stash) {
  switch (stash.kind) {
    case Stash::Kind::kDirectory:
      return base.CreateDirectories(path);
    case Stash::Kind::kSymLink:
      return base.SymLink(stash.content, path);
    case Stash::Kind::kFile:
      break;
  }
  std::error_code error;
  if (stash.kept) std::filesystem::rename(*stash.kept, path, error);
  return stash.kept && !error ? Status() : WriteNewFile(base, path, stash.content);
}

// The path of something follows when that, or a directory above it, is renamed.
void FollowThing(const std::string& from, const std::string& to, std::string* path) {
  if (path->starts_with(from) && (path->size() == from.size() || (*path)[from.size()] == '/')) {
    path->replace(0, from.size(), to);
  }
}

// A place follows only when a directory above it is renamed: what comes to stand there later is something else.
void FollowPlace(const std::string& from, const std::string& to, std::string* path) {
  if (path->size() > from.size()) FollowThing(from, to, path);
}

bool IsTombstone(const std::string& path) {
  return path.starts_with('\0');
}

}  // namespace

struct DurabilityJournal::Record {
  enum class Kind : uint8_t { kData, kCreated, kRemoved, kRenamed } kind = Kind::kCreated;
  std::string thing;                 // created or renamed: where it is now
  std::string origin;                // renamed: the place it came from
  std::vector<std::string> pending;  // directories still to be synced
  std::optional<Stash> taken;        // what a removal or a rename took away
  std::string place;                 // where `taken` was
  std::string tombstone;             // stands for `taken` in older records

  std::shared_ptr<File> file;                         // kData
  std::string before;                                 // content last synced
  std::vector<std::pair<uint64_t, uint64_t>> ranges;  // offset, bytes written since
};

DurabilityJournal::DurabilityJournal(FileSystem& base) : base_(base) {}
DurabilityJournal::~DurabilityJournal() = default;

std::shared_ptr<DurabilityJournal::File> DurabilityJournal::FileAt(const std::string& path) {
  const std::string normal = Normal(path);
  for (const auto& file : files_) {
    if (file->path == normal) return file;
  }
  files_.push_back(std::make_shared<File>(File{normal}));
  return files_.back();
}

Status DurabilityJournal::WillChange(const std::shared_ptr<File>& file, uint64_t offset, uint64_t bytes) {
  if (IsTombstone(file->path)) return {};  // removed while open
  if (!file->dirty) {
    auto record = std::make_shared<Record>();
    record->kind = Record::Kind::kData;
    record->file = file;
    MIMO_ASSIGN_OR_RETURN(const auto info, base_.Stat(file->path));
    if (info) {
      MIMO_ASSIGN_OR_RETURN(record->before, ReadWholeFile(base_, file->path, kMostContent));
    }
    file->dirty = true;
    records_.push_back(std::move(record));
  }
  for (const auto& record : records_) {
    if (record->file == file && bytes != 0) record->ranges.emplace_back(offset, bytes);
  }
  return {};
}

void DurabilityJournal::Synced(const File& file) {
  for (auto it = records_.begin(); it != records_.end();) {
    if ((*it)->file.get() == &file) {
      (*it)->file->dirty = false;
      it = records_.erase(it);
    } else {
      ++it;
    }
  }
}

void DurabilityJournal::SyncedDirectory(const std::string& path) {
  const std::string normal = Normal(path);
  records_.remove_if([&](const std::shared_ptr<Record>& record) {
    if (record->kind == Record::Kind::kData) return false;
    std::erase(record->pending, normal);
    return record->pending.empty();
  });
}

Result<std::shared_ptr<DurabilityJournal::Record>> DurabilityJournal::WillCreate(const std::string& path) {
  auto record = std::make_shared<Record>();
  record->kind = Record::Kind::kCreated;
  record->thing = Normal(path);
  record->pending = {Parent(record->thing)};
  return record;
}

Result<std::shared_ptr<DurabilityJournal::Record>> DurabilityJournal::WillRemove(const std::string& path) {
  auto record = std::make_shared<Record>();
  record->kind = Record::Kind::kRemoved;
  record->place = Normal(path);
  record->pending = {Parent(record->place)};
  MIMO_ASSIGN_OR_RETURN(record->taken, Look(base_, record->place));
  if (!record->taken) return std::shared_ptr<Record>();  // nothing there: nothing happens
  return record;
}

Result<std::shared_ptr<DurabilityJournal::Record>> DurabilityJournal::WillRename(const std::string& from,
                                                                                 const std::string& to) {
  auto record = std::make_shared<Record>();
  record->kind = Record::Kind::kRenamed;
  record->origin = Normal(from);
  record->place = Normal(to);
  record->thing = record->place;
  if (record->origin == record->place) return std::shared_ptr<Record>();
  record->pending = {Parent(record->origin)};
  if (Parent(record->place) != Parent(record->origin)) record->pending.push_back(Parent(record->place));
  MIMO_ASSIGN_OR_RETURN(record->taken, Look(base_, record->place));
  return record;
}

void DurabilityJournal::Happened(std::shared_ptr<Record> record) {
  if (record == nullptr) return;
  if (record->taken) {
    record->tombstone.assign(1, '\0').append(std::to_string(tombstones_++));
    Relocate(record->place, record->tombstone);
  }
  if (record->kind == Record::Kind::kRenamed) Relocate(record->origin, record->place);
  records_.push_back(std::move(record));
}

// Older records speak of the paths of their time; they follow what is renamed, so that they stay right when the rename
// becomes durable before them. Undoing the rename leads them back.
void DurabilityJournal::Relocate(const std::string& from, const std::string& to) {
  for (const auto& record : records_) {
    FollowThing(from, to, &record->thing);
    FollowPlace(from, to, &record->origin);
    FollowPlace(from, to, &record->place);
    for (std::string& directory : record->pending) FollowThing(from, to, &directory);
  }
  for (const auto& file : files_) FollowThing(from, to, &file->path);
}

Status DurabilityJournal::UndoData(const Record& record, bool data_zero) {
  const std::string& path = record.file->path;
  if (IsTombstone(path)) return {};  // removed for good
  MIMO_ASSIGN_OR_RETURN(const auto info, base_.Stat(path));
  if (!info || info->kind != FileKind::kRegular) return {};
  if (!data_zero) return WriteNewFile(base_, path, record.before);
  MIMO_ASSIGN_OR_RETURN(const auto file, base_.OpenForWrite(path, OpenMode::kKeep));
  for (const auto& [offset, bytes] : record.ranges) {
    if (offset >= info->size) continue;
    const std::string zeros(std::min(bytes, info->size - offset), '\0');
    MIMO_RETURN_IF_ERROR(file->WriteAt(offset, std::as_bytes(std::span(zeros))));
  }
  return file->Close();
}

Status DurabilityJournal::UndoEntry(const Record& record) {
  // What was removed for good cannot be undone, nor what lies in a directory that is gone.
  const auto reachable = [&](const std::string& path) -> Result<bool> {
    if (IsTombstone(path)) return false;
    MIMO_ASSIGN_OR_RETURN(const auto parent, base_.Stat(Parent(path)));
    return parent.has_value();
  };
  if (record.kind != Record::Kind::kRemoved) {
    MIMO_ASSIGN_OR_RETURN(const bool there, reachable(record.thing));
    bool back = false;
    if (record.kind == Record::Kind::kRenamed) {
      MIMO_ASSIGN_OR_RETURN(back, reachable(record.origin));
    }
    if (there && back) {
      MIMO_RETURN_IF_ERROR(base_.Rename(record.thing, record.origin));
      Relocate(std::string(record.thing), record.origin);
    } else if (there) {
      MIMO_RETURN_IF_ERROR(base_.RemoveAll(record.thing));
    }
  }
  if (!record.taken) return {};
  MIMO_ASSIGN_OR_RETURN(const bool place_there, reachable(record.place));
  if (!place_there) return {};
  Relocate(record.tombstone, record.place);
  return PutBack(base_, record.place, *record.taken);
}

Status DurabilityJournal::PowerLoss(bool entries_revert, bool data_zero) {
  while (!records_.empty()) {
    const std::shared_ptr<Record> record = std::move(records_.back());
    records_.pop_back();
    if (record->kind == Record::Kind::kData) {
      MIMO_RETURN_IF_ERROR(UndoData(*record, data_zero));
    } else if (entries_revert) {
      MIMO_RETURN_IF_ERROR(UndoEntry(*record));
    }
  }
  files_.clear();
  return {};
}

}  // namespace mimo
