#include "lib/base/transfers.h"

#include <sys/types.h>

#include <algorithm>
#include <limits>

#include "lib/base/direct_io.h"

namespace mimo {
namespace {

// Whether a range goes past the page cache; one that no offset of a file can name is for the file to refuse.
bool GoesDirect(const DirectFile* direct, uint64_t offset, uint64_t bytes) {
  const uint64_t most = static_cast<uint64_t>(std::numeric_limits<off_t>::max()) - DirectBlock();
  return direct != nullptr && bytes >= std::max(kLeastDirectBytes, DirectBlock()) && bytes <= most &&
         offset <= most - bytes;
}

}  // namespace

Status ReadAll(std::span<const ReadRequest> requests) {
  DirectBatch batch;
  for (const ReadRequest& request : requests) {
    const DirectFile* const direct = request.file->direct();
    if (GoesDirect(direct, request.offset, request.out.size()))
      batch.Read(*direct, request.offset, request.out, request.whole_blocks);
    else
      MIMO_RETURN_IF_ERROR(request.file->ReadAt(request.offset, request.out));
  }
  return batch.Run();
}

Status WriteAll(std::span<const WriteRequest> requests) {
  DirectBatch batch;
  for (const auto& [file, offset, data] : requests) {
    const DirectFile* const direct = file->direct();
    if (!GoesDirect(direct, offset, data.size())) {
      MIMO_RETURN_IF_ERROR(file->WriteAt(offset, data));
      continue;
    }
    // Blocks at the ends are others' too: the page cache puts them together.
    const uint64_t end = offset + data.size();
    const uint64_t first = UpToBlock(offset), last = end / DirectBlock() * DirectBlock();
    MIMO_RETURN_IF_ERROR(file->WriteAt(offset, data.first(first - offset)));
    batch.Write(*direct, first, data.subspan(first - offset, last - first));
    MIMO_RETURN_IF_ERROR(file->WriteAt(last, data.last(end - last)));
  }
  return batch.Run();
}

}  // namespace mimo
