#include "lib/base/durable_file.h"

namespace mimo {
namespace {

TextSource Whole(std::string_view content) {
  return [content](const TextSink& sink) { return sink(content); };
}

}  // namespace

Result<uint64_t> WriteWhole(WritableFile& file, const TextSource& content) {
  uint64_t bytes = 0;
  MIMO_RETURN_IF_ERROR(content([&](std::string_view piece) {
    const uint64_t at = bytes;
    bytes += piece.size();
    return file.WriteAt(at, std::as_bytes(std::span(piece)));
  }));
  MIMO_RETURN_IF_ERROR(file.Sync());
  return bytes;
}

Result<uint64_t> WriteNewFile(FileSystem& fs, const std::string& path, const TextSource& content, FileInfo* info) {
  MIMO_RETURN_IF_ERROR(fs.RemoveAll(path));
  MIMO_ASSIGN_OR_RETURN(const auto file, fs.OpenForWrite(path, OpenMode::kCreateNew));
  MIMO_ASSIGN_OR_RETURN(const uint64_t bytes, WriteWhole(*file, content));
  if (info != nullptr) {
    MIMO_ASSIGN_OR_RETURN(*info, file->Info());
  }
  MIMO_RETURN_IF_ERROR(file->Close());
  return bytes;
}

Status WriteNewFile(FileSystem& fs, const std::string& path, std::string_view content, FileInfo* info) {
  Result<uint64_t> bytes = WriteNewFile(fs, path, Whole(content), info);
  return bytes.ok() ? Status() : bytes.TakeError();
}

Status WriteDurably(FileSystem& fs, const std::string& path, const TextSource& content) {
  const std::string temporary = path + ".tmp";
  if (Result<uint64_t> bytes = WriteNewFile(fs, temporary, content); !bytes.ok()) return bytes.TakeError();
  // A directory in the way would stop the renaming for ever.
  MIMO_ASSIGN_OR_RETURN(const auto there, fs.Stat(path));
  if (there && there->kind == FileKind::kDirectory && !there->symlink) MIMO_RETURN_IF_ERROR(fs.RemoveAll(path));
  MIMO_RETURN_IF_ERROR(fs.Rename(temporary, path));
  return fs.SyncDirectory(ParentOf(path));
}

Status WriteDurably(FileSystem& fs, const std::string& path, std::string_view content) {
  return WriteDurably(fs, path, Whole(content));
}

}  // namespace mimo
