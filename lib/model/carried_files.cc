#include "lib/model/carried_files.h"

#include <algorithm>

#include "lib/base/real_path.h"
#include "lib/json/bytes.h"
#include "lib/model/file_names.h"

namespace mimo {
namespace {

constexpr char kTensorSuffix[] = ".safetensors";
constexpr int kMaxDirectoryDepth = 16;
constexpr int kMaxLinkedDirectories = 1024;  // links may show one directory many times over, in another as often

class Lister {
 public:
  Lister(FileSystem& fs, const std::string& root, CheckpointBounds bounds, std::vector<CarriedFile>* carried,
         std::vector<std::string>* oddities)
      : fs_(fs), root_(root), bounds_(std::move(bounds)), carried_(*carried), oddities_(*oddities) {}

  Status List() { return ListDirectory("", bounds_.directories()[0], 0); }

 private:
  // `real`: the real path of the directory `relative`.
  Status ListDirectory(const std::string& relative, const std::string& real, int depth) {
    MIMO_ASSIGN_OR_RETURN(const std::vector<std::string> names, fs_.List(JoinPath(root_, relative)));
    for (const std::string& name : names) {
      if (depth == 0 && name.starts_with(kOwnPrefix)) {
        oddities_.push_back("left out: " + Printable(name) + " (names that begin with " + kOwnPrefix +
                            " are mimo-convert's own)");
        continue;
      }
      MIMO_RETURN_IF_ERROR(ListEntry(relative.empty() ? name : JoinPath(relative, name), name, real, depth));
    }
    return {};
  }

  // `parent`: the real path of its directory.
  Status ListEntry(const std::string& relative, const std::string& name, const std::string& parent, int depth) {
    const std::string path = JoinPath(root_, relative);
    const auto bad = [&](const char* what) { return BadInput(what).File(path); };
    MIMO_ASSIGN_OR_RETURN(const std::optional<FileInfo> info, fs_.Stat(path));
    if (!info)
      return bad("dangling symbolic link")
          .Advice(
              "let the download finish, which fetches what is missing alone, or put the file there in place of the "
              "link");
    std::string real = JoinPath(parent, name);
    if (info->symlink) {
      MIMO_ASSIGN_OR_RETURN(real, fs_.RealPath(path));
    }
    const bool outside = !bounds_.Hold(real);
    if (info->kind == FileKind::kDirectory) {
      if (name == ".git" || name == ".cache" || name == kPartialDirectory) return {};
      if (depth == 0 && name.ends_with(kTensorSuffix))
        return bad("not a regular file")
            .Expected("a tensor file")
            .Found("a directory")
            .Advice("put the tensor file there, which may lie below it");
      if (outside) return Add({relative, 0, real});
      if (info->symlink && IsInside(parent, real))
        return bad("a symbolic link to a directory that it lies in")
            .Found(real)
            .Advice("move the link out of the directory");
      if (depth >= kMaxDirectoryDepth)
        return bad("directories nested too deep (a symbolic link to a parent?)")
            .Expected("at most " + std::to_string(kMaxDirectoryDepth) + " levels");
      if (info->symlink && ++linked_directories_ > kMaxLinkedDirectories)
        return bad("too many directories behind symbolic links")
            .Expected("at most " + std::to_string(kMaxLinkedDirectories))
            .Advice("replace the links by what they lead to, or move them out of the directory");
      return ListDirectory(relative, real, depth + 1);
    }
    if (info->kind == FileKind::kRegular) return Add({relative, info->size, outside ? real : "", StampOf(*info)});
    return bad("not a regular file")
        .Expected("regular files and directories only")
        .Found("a device, socket or pipe")
        .Advice("move it out of the directory");
  }

  Status Add(CarriedFile file) {
    carried_.push_back(std::move(file));
    return {};
  }

  FileSystem& fs_;
  const std::string& root_;
  const CheckpointBounds bounds_;
  std::vector<CarriedFile>& carried_;
  std::vector<std::string>& oddities_;
  int linked_directories_ = 0;
};

}  // namespace

Result<CheckpointBounds> CheckpointBounds::Of(FileSystem& fs, const std::string& root) {
  constexpr std::string_view kSnapshots = "/snapshots/";
  CheckpointBounds bounds;
  MIMO_ASSIGN_OR_RETURN(const std::string real, fs.RealPath(root));
  bounds.directories_.push_back(real);
  const size_t snapshots = real.rfind(kSnapshots);
  if (snapshots == std::string::npos) return bounds;
  const std::string blobs = real.substr(0, snapshots) + "/blobs";
  MIMO_ASSIGN_OR_RETURN(const auto info, fs.Stat(blobs));
  if (!info) return bounds;
  MIMO_ASSIGN_OR_RETURN(std::string resolved, fs.RealPath(blobs));
  bounds.directories_.push_back(std::move(resolved));
  return bounds;
}

bool CheckpointBounds::Hold(const std::string& real_path) const {
  return std::any_of(directories_.begin(), directories_.end(),
                     [&](const std::string& directory) { return IsInside(real_path, directory); });
}

Status ListCarried(FileSystem& fs, const std::string& root, std::vector<CarriedFile>* carried,
                   std::vector<std::string>* oddities) {
  MIMO_ASSIGN_OR_RETURN(CheckpointBounds bounds, CheckpointBounds::Of(fs, root));
  return Lister(fs, root, std::move(bounds), carried, oddities).List();
}

Error LeavesCheckpoint(const std::string& path, const std::string& real_path) {
  return BadInput("a symbolic link that leads out of the checkpoint")
      .File(path)
      .Expected("a file in the checkpoint's directory, or in the cache that it is a snapshot of")
      .Found(real_path)
      .Advice(
          "put a copy in place of the link, or move the link out of the directory: what it leads to would be copied "
          "into "
          "the output");
}

Result<std::string> RealPathOfCarried(FileSystem& fs, const CheckpointBounds& bounds, const std::string& root,
                                      const std::string& name) {
  const std::string path = JoinPath(root, name);
  MIMO_ASSIGN_OR_RETURN(std::string real, fs.RealPath(path));
  if (!bounds.Hold(real)) return LeavesCheckpoint(path, real);
  return real;
}

}  // namespace mimo
