#include "lib/base/requested_file.h"

#include <random>

#include "lib/base/durable_file.h"
#include "lib/base/real_path.h"

namespace mimo {
namespace {

// A name beside `path`, of a length of its own, so that it fits where `path` does.
std::string TemporaryBeside(const std::string& path) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::random_device random;  // of the system: not to be foreseen
  std::string name = ".mimo-";
  for (int word = 0; word < 4; ++word) {
    uint32_t bits = random();
    for (int digit = 0; digit < 8; ++digit, bits >>= 4) name += kDigits[bits & 15];
  }
  return JoinPath(ParentOf(path), name + ".tmp");
}

Error Refused(const std::string& option, const std::string& path, std::string what) {
  return UsageError(option + " " + path + " is " + std::move(what))
      .Advice("name a new file, or a regular one to replace");
}

}  // namespace

Result<RequestedFile> RequestedFile::Check(FileSystem& fs, std::string option, std::string path,
                                           const std::vector<Untouchable>& untouchable) {
  const std::string name = path.substr(path.rfind('/') + 1);
  if (path == "-") return UsageError(option + " writes a file, not standard output").Found("-").Advice("name a file");
  if (name.empty() || name == "." || name == "..") return Refused(option, path, "not the name of a file");
  MIMO_ASSIGN_OR_RETURN(const auto directory, fs.Stat(ParentOf(path)));
  if (!directory || directory->kind != FileKind::kDirectory)
    return IoError(option + " names a file in a directory that does not exist")
        .File(path)
        .Found(ParentOf(path))
        .Advice("make the directory, or name another file");
  MIMO_ASSIGN_OR_RETURN(const std::string parent, fs.RealPath(ParentOf(path)));
  const std::string real = JoinPath(parent, name);
  for (const Untouchable& other : untouchable) {
    std::string place = other.path;
    if (!other.resolved) {
      MIMO_ASSIGN_OR_RETURN(place, FutureRealPath(fs, other.path));
    }
    if (!IsInside(real, place)) continue;
    return UsageError(option + (real == place ? " would replace " : " would write into ") + other.what)
        .File(path)
        .Found(place)
        .Advice("name a file elsewhere");
  }
  RequestedFile file(fs, std::move(option), real);
  MIMO_RETURN_IF_ERROR(file.CheckKind());
  const std::string temporary = TemporaryBeside(real);
  MIMO_ASSIGN_OR_RETURN(const auto probe, fs.OpenForWrite(temporary, OpenMode::kCreateNew));
  Status closed = probe->Close();
  MIMO_RETURN_IF_ERROR(fs.Remove(temporary));
  MIMO_RETURN_IF_ERROR(std::move(closed));
  return file;
}

// Stat follows links, and of one that dangles it says that nothing is there.
Status RequestedFile::CheckKind() const {
  MIMO_ASSIGN_OR_RETURN(const auto link, fs_->ReadLink(path_));
  if (link) return Refused(option_, path_, "a symbolic link, to " + *link);
  MIMO_ASSIGN_OR_RETURN(const auto info, fs_->Stat(path_));
  if (!info || info->kind == FileKind::kRegular) return {};
  return Refused(option_, path_, info->kind == FileKind::kDirectory ? "a directory" : "a device, a pipe or a socket");
}

Status RequestedFile::WriteTemporary(const std::string& temporary, const TextSource& content) const {
  MIMO_ASSIGN_OR_RETURN(const auto file, fs_->OpenForWrite(temporary, OpenMode::kCreateNew));
  MIMO_ASSIGN_OR_RETURN(const auto old, fs_->Stat(path_));
  if (old) MIMO_RETURN_IF_ERROR(file->SetMode(old->mode & 0777));
  if (auto bytes = WriteWhole(*file, content); !bytes.ok()) return bytes.TakeError();
  MIMO_RETURN_IF_ERROR(file->Close());
  MIMO_RETURN_IF_ERROR(CheckKind());
  MIMO_RETURN_IF_ERROR(fs_->Rename(temporary, path_));
  return fs_->SyncDirectory(ParentOf(path_));
}

Status RequestedFile::Write(const TextSource& content) const {
  MIMO_RETURN_IF_ERROR(CheckKind());
  const std::string temporary = TemporaryBeside(path_);
  Status written = WriteTemporary(temporary, content);
  if (written.ok()) return written;
  const Status removed = fs_->Remove(temporary);  // the error that counts is the first one
  return written;
}

}  // namespace mimo
