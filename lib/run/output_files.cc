#include "lib/run/output_files.h"

#include <algorithm>
#include <vector>

#include "lib/base/real_path.h"
#include "lib/run/publish.h"
#include "lib/run/run_state.h"
#include "lib/run/sources.h"

namespace mimo {
namespace {

constexpr uint64_t kHeaderChunk = 1 << 20;

}  // namespace

OutputFiles::OutputFiles(FileSystem& fs, const Catalogue& catalogue, const Plan& plan, const RunOptions& options,
                         PartialDirectory& partial)
    : fs_(fs),
      catalogue_(catalogue),
      plan_(plan),
      options_(options),
      partial_(partial),
      allocates_(WantsDirect(catalogue, plan, options).second) {}

Status OutputFiles::Make(const PlanFile& file, bool linked) {
  const std::string path = partial_.FilePath(file.name);
  FileSystem& fs = partial_.fs();
  MIMO_RETURN_IF_ERROR(CreateParents(fs, partial_.files(), file.name));
  if (linked) {
    MIMO_ASSIGN_OR_RETURN(const std::string real, fs_.RealPath(catalogue_.PathOf(catalogue_.files[file.source_file])));
    MIMO_ASSIGN_OR_RETURN(const std::string output, FutureRealPath(fs_, options_.output));
    MIMO_RETURN_IF_ERROR(MakeLink(fs_, fs, options_.link, real, path, JoinPath(output, file.name)));
    return partial_.TakeNoteOfLink(file.name);
  }
  MIMO_ASSIGN_OR_RETURN(const auto out, fs.OpenForWrite(path, OpenMode::kCreateNew));
  MIMO_RETURN_IF_ERROR(out->Truncate(file.bytes));
  if (allocates_) MIMO_RETURN_IF_ERROR(out->Allocate());
  MIMO_ASSIGN_OR_RETURN(const FileInfo info, out->Info());
  partial_.TakeNote(file.name, WrittenFileOf(info));
  if (!file.HasHeaderOfSource()) {
    MIMO_RETURN_IF_ERROR(out->WriteAt(0, std::as_bytes(std::span(file.header))));
    return Close(*out);
  }
  MIMO_ASSIGN_OR_RETURN(const auto in, OpenUnchanged(fs_, catalogue_, file.source_file));
  const uint64_t bytes = catalogue_.files[file.source_file].data_begin;
  std::vector<std::byte> chunk;
  for (uint64_t at = 0; at < bytes; at += chunk.size()) {
    chunk.resize(std::min(bytes - at, kHeaderChunk));
    MIMO_RETURN_IF_ERROR(in->ReadAt(at, chunk));
    MIMO_RETURN_IF_ERROR(out->WriteAt(at, chunk));
  }
  return Close(*out);
}

// Other parts, which will write to the file too, may be on other nodes.
Status OutputFiles::Close(WritableFile& out) const {
  if (options_.part) MIMO_RETURN_IF_ERROR(out.Sync());
  return out.Close();
}

Result<std::unique_ptr<WritableFile>> OutputFiles::OpenAgain(const PlanFile& file) {
  MIMO_ASSIGN_OR_RETURN(auto out, partial_.fs().OpenForWrite(partial_.FilePath(file.name), OpenMode::kExisting));
  MIMO_ASSIGN_OR_RETURN(const FileInfo info, out->Info());
  const auto made = partial_.NoteOf(file.name);
  if (!made || !made->Is(WrittenFileOf(info))) return Replaced(partial_, partial_.FilePath(file.name));
  return out;
}

Status OutputFiles::Finish(const PlanFile& file, WritableFile& out) {
  MIMO_RETURN_IF_ERROR(out.Sync());
  MIMO_ASSIGN_OR_RETURN(const FileInfo info, out.Info());
  const auto made = partial_.NoteOf(file.name);
  MIMO_ASSIGN_OR_RETURN(const auto named, Look(partial_.fs(), partial_.FilePath(file.name)));
  const WrittenFile now = WrittenFileOf(info);
  if (!made || !made->Is(now) || !named || !named->Is(now)) return Replaced(partial_, partial_.FilePath(file.name));
  MIMO_RETURN_IF_ERROR(CheckHeader(file, info));
  partial_.TakeNote(file.name, now);
  return {};
}

// Somebody may have cut the file to nothing and let the data restore its length. Containers with checksums complete
// their headers at the end.
Status OutputFiles::CheckHeader(const PlanFile& file, const FileInfo& made) {
  if (file.HasHeaderOfSource() || file.container->HoldsChecksums() || file.header.empty()) return {};
  MIMO_ASSIGN_OR_RETURN(const auto in, partial_.fs().OpenForRead(partial_.FilePath(file.name)));
  MIMO_ASSIGN_OR_RETURN(const FileInfo info, in->Info());
  std::string header(file.header.size(), '\0');
  MIMO_RETURN_IF_ERROR(in->ReadAt(0, std::as_writable_bytes(std::span(header))));
  if (info.inode == made.inode && header == file.header) return {};
  return Replaced(partial_, partial_.FilePath(file.name));
}

Result<bool> OutputFiles::StandsAsLink(const PlanFile& file) {
  const auto made = partial_.NoteOf(file.name);
  MIMO_ASSIGN_OR_RETURN(const auto now, Look(partial_.fs(), partial_.FilePath(file.name)));
  if (!made || !now || !made->Is(*now)) return false;
  if (options_.link == LinkMode::kSym || !now->target.empty())
    return options_.link == LinkMode::kSym && !now->target.empty();
  MIMO_ASSIGN_OR_RETURN(const auto source, fs_.Stat(catalogue_.PathOf(catalogue_.files[file.source_file])));
  return source && (source->inode == now->inode) == (options_.link == LinkMode::kHard);
}

Status OutputFiles::CheckLink(const PlanFile& file) {
  const auto made = partial_.NoteOf(file.name);
  MIMO_ASSIGN_OR_RETURN(const auto now, Look(partial_.fs(), partial_.FilePath(file.name)));
  return made && now && made->Is(*now) ? Status() : Status(Replaced(partial_, partial_.FilePath(file.name)));
}

}  // namespace mimo
