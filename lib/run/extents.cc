#include "lib/run/extents.h"

#include <algorithm>
#include <tuple>

#include "lib/base/direct_io.h"

namespace mimo {

namespace {
constexpr uint64_t kAlignment = 64;
}  // namespace

void Extents::Add(uint32_t file, uint64_t begin, uint64_t bytes) {
  if (bytes == 0) return;
  if (!ranges_.empty() && ranges_.back().file == file && ranges_.back().begin + ranges_.back().bytes == begin) {
    ranges_.back().bytes += bytes;
    return;
  }
  ranges_.push_back({file, begin, bytes, 0});
}

void Extents::Place(uint64_t base, uint64_t max_gap, uint64_t limit, bool whole_blocks) {
  std::sort(ranges_.begin(), ranges_.end(), [](const Extent& a, const Extent& b) {
    return std::tie(a.file, a.begin, a.bytes) < std::tie(b.file, b.begin, b.bytes);
  });
  Merge(base, max_gap, whole_blocks);
  if (end_ - base > limit && max_gap > 0) Merge(base, 0, whole_blocks);
  if (end_ - base > limit && whole_blocks) Merge(base, 0, false);
}

void Extents::Merge(uint64_t base, uint64_t max_gap, bool whole_blocks) {
  extents_.clear();
  for (const Extent& range : ranges_) {
    if (!extents_.empty() && extents_.back().file == range.file &&
        range.begin <= extents_.back().begin + extents_.back().bytes + max_gap) {
      Extent& last = extents_.back();
      last.bytes = std::max(last.bytes, range.begin + range.bytes - last.begin);
    } else {
      extents_.push_back(range);
    }
  }
  end_ = base;
  for (Extent& extent : extents_) {
    extent.whole_blocks = whole_blocks && extent.bytes >= kLeastDirectBytes;
    if (extent.whole_blocks) {
      extent.offset = UpToBlock(end_) + extent.begin % DirectBlock();
      end_ = UpToBlock(extent.offset + extent.bytes);
    } else {
      extent.offset = end_ + (extent.begin - end_) % kAlignment;
      end_ = extent.offset + extent.bytes;
    }
  }
}

uint64_t Extents::OffsetOf(uint32_t file, uint64_t begin) const {
  const auto after =
      std::upper_bound(extents_.begin(), extents_.end(), std::tie(file, begin),
                       [](const auto& key, const Extent& extent) { return key < std::tie(extent.file, extent.begin); });
  const Extent& extent = *std::prev(after);
  return extent.offset + (begin - extent.begin);
}

}  // namespace mimo
