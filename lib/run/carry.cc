#include "lib/run/carry.h"

#include <algorithm>
#include <unordered_map>

#include "lib/run/publish.h"

namespace mimo {

CarriedFiles::CarriedFiles(FileSystem& fs, const Catalogue& catalogue, const Plan& plan, const RunOptions& options,
                           PartialDirectory& partial)
    : fs_(fs),
      catalogue_(catalogue),
      plan_(plan),
      options_(options),
      partial_(partial),
      links_(options.link == LinkMode::kHard || options.link == LinkMode::kReflink) {}

Status CarriedFiles::Prepare(RunResults* results) {
  std::unordered_map<std::string, uint64_t> sizes;
  for (const CarriedFile& file : catalogue_.carried) sizes[file.name] = file.bytes;
  carried_ = &results->carried;
  carried_->clear();
  for (const std::string& name : plan_.carried) {
    MIMO_RETURN_IF_ERROR(CreateParents(partial_.fs(), partial_.files(), name));
    carried_->push_back({name, sizes[name], std::nullopt, links_});
  }
  return {};
}

uint64_t CarriedFiles::progress_bytes() const {
  const uint64_t times = !links_ ? 2 : options_.hash_linked ? 1 : 0;
  uint64_t bytes = 0;
  for (const CarriedResult& file : *carried_) bytes += file.bytes * times;
  return bytes;
}

std::optional<size_t> CarriedFiles::Take() {
  const size_t file = next_++;
  return file < plan_.carried.size() ? std::optional(file) : std::nullopt;
}

// `to` "": only hashes.
Result<Hash128> CarriedFiles::Copy(const std::string& from, const std::string& to, std::span<std::byte> chunk,
                                   Counts* counts) {
  MIMO_ASSIGN_OR_RETURN(const auto in, fs_.OpenForRead(from));
  std::unique_ptr<WritableFile> out;
  if (!to.empty()) {
    MIMO_RETURN_IF_ERROR(partial_.fs().Remove(to));
    MIMO_ASSIGN_OR_RETURN(out, partial_.fs().OpenForWrite(to, OpenMode::kCreateNew));
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
    if (options_.progress != nullptr) options_.progress->Advance(part.size() * (out ? 2 : 1));
    at += part.size();
  }
  if (out) {
    MIMO_RETURN_IF_ERROR(out->Sync());
    MIMO_RETURN_IF_ERROR(out->Close());
  }
  return hash.Digest();
}

Result<CarriedFiles::Counts> CarriedFiles::Carry(size_t file, std::span<std::byte> chunk) {
  CarriedResult& carried = (*carried_)[file];
  const std::string from = JoinPath(catalogue_.root, carried.name);
  const std::string to = partial_.FilePath(carried.name);
  Counts counts;
  counts.linked = links_;
  if (links_) MIMO_RETURN_IF_ERROR(MakeLink(fs_, partial_.fs(), options_.link, from, to));
  if (!links_ || options_.hash_linked) {
    MIMO_ASSIGN_OR_RETURN(carried.hash, Copy(from, links_ ? "" : to, chunk, &counts));
  }
  MIMO_RETURN_IF_ERROR(partial_.TakeNote(carried.name));
  const uint64_t bytes = partial_.NoteOf(carried.name)->bytes;
  if (bytes != carried.bytes) {
    return BadInput("the file changed while it was read")
        .File(from)
        .Expected(std::to_string(carried.bytes) + " bytes")
        .Found(std::to_string(bytes) + " bytes")
        .Advice("run again when nothing writes to the checkpoint");
  }
  return counts;
}

}  // namespace mimo
