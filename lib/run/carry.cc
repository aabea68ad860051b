#include "lib/run/carry.h"

#include <algorithm>
#include <unordered_map>

#include "lib/base/real_path.h"
#include "lib/run/publish.h"

namespace mimo {

CarriedFiles::CarriedFiles(FileSystem& from, const Catalogue& catalogue, const Plan& plan, const RunOptions& options,
                           PartialDirectory& partial)
    : from_(from), to_(partial.fs()), catalogue_(catalogue), plan_(plan), options_(options), partial_(partial) {}

bool CarriedFiles::Links(const std::string& name, const RunOptions& options) {
  return options.link != LinkMode::kCopy && name.ends_with(".safetensors");
}

Status CarriedFiles::Prepare(RunResults* results) {
  std::unordered_map<std::string, uint64_t> sizes;
  for (const CarriedFile& file : catalogue_.carried) {
    sizes[file.name] = file.bytes;
    stamps_[file.name] = file.stamp;
  }
  carried_ = &results->carried;
  carried_->clear();
  MIMO_ASSIGN_OR_RETURN(bounds_, CheckpointBounds::Of(from_, catalogue_.root));
  MIMO_ASSIGN_OR_RETURN(output_, FutureRealPath(from_, options_.output));
  for (const std::string& name : plan_.carried) {
    MIMO_RETURN_IF_ERROR(CreateParents(to_, partial_.files(), name));
    carried_->push_back({name, sizes[name], std::nullopt, Links(name, options_)});
  }
  return {};
}

uint64_t CarriedFiles::progress_bytes() const {
  uint64_t bytes = 0;
  for (const CarriedResult& file : *carried_) bytes += !file.linked || options_.hash_linked ? file.bytes : 0;
  return bytes;
}

std::optional<size_t> CarriedFiles::Take() {
  const size_t file = next_++;
  return file < plan_.carried.size() ? std::optional(file) : std::nullopt;
}

// `copy` "": only hashes.
Result<Hash128> CarriedFiles::Copy(const std::string& name, const std::string& real, const std::string& copy,
                                   std::span<std::byte> chunk, Counts* counts) {
  MIMO_ASSIGN_OR_RETURN(const auto in, from_.OpenResolved(real));
  MIMO_ASSIGN_OR_RETURN(const FileInfo now, in->Info());
  if (const FileStamp& stamp = stamps_.at(name); stamp.inode != 0 && stamp != StampOf(now))
    return BadInput("the checkpoint has changed since it was opened").File(JoinPath(catalogue_.root, name));
  std::unique_ptr<WritableFile> out;
  if (!copy.empty()) {
    MIMO_ASSIGN_OR_RETURN(const auto info, from_.Stat(real));
    MIMO_RETURN_IF_ERROR(to_.RemoveAll(copy));
    MIMO_ASSIGN_OR_RETURN(out, to_.OpenForWrite(copy, OpenMode::kCreateNew));
    if (info) MIMO_RETURN_IF_ERROR(out->SetMode(info->mode & 0777));  // first: nobody else reads what is private
  }
  StreamHash hash;
  for (uint64_t at = 0; at < in->size();) {
    MIMO_RETURN_IF_ERROR(partial_.claim().CheckStop());
    const std::span<std::byte> part = chunk.first(std::min<uint64_t>(in->size() - at, chunk.size()));
    MIMO_RETURN_IF_ERROR(in->ReadAt(at, part));
    hash.Update(part);
    counts->read += part.size();
    if (out) {
      MIMO_RETURN_IF_ERROR(out->WriteAt(at, part));
      counts->written += part.size();
    }
    if (options_.progress != nullptr) options_.progress->Advance(part.size());
    at += part.size();
  }
  if (out) {
    MIMO_RETURN_IF_ERROR(out->Sync());
    MIMO_ASSIGN_OR_RETURN(const FileInfo made, out->Info());
    partial_.TakeNote(name, WrittenFileOf(made));
    MIMO_RETURN_IF_ERROR(out->Close());
  }
  return hash.Digest();
}

Result<CarriedFiles::Counts> CarriedFiles::Carry(size_t file, std::span<std::byte> chunk) {
  CarriedResult& carried = (*carried_)[file];
  const std::string copy = partial_.FilePath(carried.name);
  MIMO_ASSIGN_OR_RETURN(const std::string real, RealPathOfCarried(from_, *bounds_, catalogue_.root, carried.name));
  Counts counts;
  counts.linked = carried.linked;
  if (carried.linked)
    MIMO_RETURN_IF_ERROR(MakeLink(from_, to_, options_.link, real, copy, JoinPath(output_, carried.name)));
  if (!carried.linked || options_.hash_linked) {
    MIMO_ASSIGN_OR_RETURN(carried.hash, Copy(carried.name, real, carried.linked ? "" : copy, chunk, &counts));
  }
  if (carried.linked) MIMO_RETURN_IF_ERROR(partial_.TakeNoteOfLink(carried.name));
  uint64_t bytes = counts.read;
  if (carried.linked) {
    MIMO_ASSIGN_OR_RETURN(const auto info, from_.Stat(real));
    bytes = info ? info->size : 0;
  }
  if (bytes != carried.bytes) {
    return BadInput("the file changed while it was read")
        .File(JoinPath(catalogue_.root, carried.name))
        .Expected(std::to_string(carried.bytes) + " bytes")
        .Found(std::to_string(bytes) + " bytes")
        .Advice("run again when nothing writes to the checkpoint");
  }
  return counts;
}

}  // namespace mimo
