#include "lib/run/source_checks.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "lib/base/crc32.h"
#include "lib/io/torch/text.h"
#include "lib/io/torch/zip.h"
#include "lib/plan/reads.h"

namespace mimo {
namespace {

constexpr uint64_t kAlwaysRead = 1 << 20;  // what is left of an item, if it is no more
constexpr uint64_t kChunk = 1 << 20;

// Calls visit(source, row, rows) with all rows that an output reads, some more than once.
template <class Visit>
void VisitRows(const Job& job, uint32_t index, Visit visit) {
  const OutputArray& output = job.plan.outputs[index];
  for (const Piece& piece : output.pieces) {
    if (piece.source == kNone) continue;
    const SourceArray& source = job.plan.sources[piece.source];
    const int64_t rows = output.transform == Transform::kTranspose ? piece.cols : piece.rows;
    visit(piece.source, piece.source_row, rows);
    if (rows > 0 && Decodes(output, source)) VisitScaleRows(source, piece.source_row, rows, visit);
  }
}

template <class Visit>
void VisitRows(const Job& job, const FuseGroup& group, Visit visit) {
  bool any = false;
  for (const uint32_t o : group.outputs) {
    if (job.modes[o] == OutputMode::kSkip) continue;
    any = true;
    VisitRows(job, o, visit);
  }
  if (!any) return;
  for (const CellRow& cell : group.cells) {
    if (cell.keep != kNone) visit(cell.keep, cell.keep_row, int64_t{1});
    for (const CellSegment& segment : cell.segments) {
      if (segment.source != kNone) visit(segment.source, segment.source_row, segment.rows);
      if (segment.scale != kNone) visit(segment.scale, segment.scale_row, int64_t{1});
    }
  }
  for (const EncodedWeight& weight : group.encoded)
    if (weight.keep != kNone) visit(weight.keep, int64_t{0}, job.array(weight.keep).rows());
}

// How many bytes the ranges cover.
uint64_t Covered(std::vector<std::pair<uint64_t, uint64_t>>* ranges) {
  std::sort(ranges->begin(), ranges->end());
  uint64_t bytes = 0, end = 0;
  for (const auto& [b, e] : *ranges) {
    if (e <= end) continue;
    bytes += e - std::max(b, end);
    end = e;
  }
  return bytes;
}

}  // namespace

SourceChecks::SourceChecks(const Job& job) : job_(job) {
  if (job.catalogue.items.empty()) return;
  ChooseItems();
  FindReplicas();
  for (const Care care : care_) {
    counts_.verified += care == Care::kCompare || care == Care::kReplica ? 1 : 0;
    counts_.unverified += care == Care::kUnneeded ? 1 : 0;
    counts_.without += care == Care::kWithout ? 1 : 0;
  }
}

void SourceChecks::ChooseItems() {
  const size_t items = job_.catalogue.items.size();
  care_.assign(items, Care::kUnneeded);
  group_.assign(items, kNone);
  std::vector<std::vector<Range>> needed(items);
  for (const FuseGroup& group : job_.plan.groups) {
    VisitRows(job_, group, [&](uint32_t source, int64_t row, int64_t rows) {
      const StoredArray& array = job_.array(source);
      if (array.item == kNone || rows <= 0) return;
      if (group_[array.item] == kNone) group_[array.item] = group.file_group;
      const uint64_t begin = array.begin + Rows(row, array.row_bytes());
      const uint64_t end = begin + Rows(rows, array.row_bytes());
      std::vector<Range>& ranges = needed[array.item];
      if (!ranges.empty() && ranges.back().second == begin)
        ranges.back().second = end;
      else if (ranges.empty() || ranges.back() != Range(begin, end))
        ranges.emplace_back(begin, end);
    });
  }
  for (uint32_t i = 0; i < items; ++i) {
    if (!HoldsChecksum(item(i).crc, item(i).bytes)) {
      care_[i] = Care::kWithout;
    } else if (group_[i] != kNone) {
      const uint64_t left = item(i).bytes - Covered(&needed[i]);
      if (left > std::max(item(i).bytes / 2, kAlwaysRead)) continue;
      care_[i] = Care::kCompare;
      items_of_[group_[i]].push_back(i);
    }
  }
}

// Items whose every byte is compared with one that has a CRC-32 need none.
void SourceChecks::FindReplicas() {
  std::map<uint32_t, std::vector<Range>> equal;  // by item
  for (const EqualRows& rows : job_.plan.equal) {
    const StoredArray &first = job_.array(rows.first), &second = job_.array(rows.second);
    if (second.item == kNone || first.item == kNone || care_[first.item] != Care::kCompare) continue;
    const uint64_t begin = second.begin + Rows(rows.second_row, second.row_bytes());
    equal[second.item].emplace_back(begin, begin + Rows(rows.rows, second.row_bytes()));
  }
  for (auto& [i, ranges] : equal)
    if (care_[i] == Care::kUnneeded && Covered(&ranges) == item(i).bytes) care_[i] = Care::kReplica;
}

bool SourceChecks::IsOpen(uint32_t index) const {
  const std::lock_guard lock(mutex_);
  return care_[index] == Care::kCompare;
}

// Of `wanted` what nobody has taken; it is the caller's from now on.
std::vector<SourceChecks::Range> SourceChecks::Take(uint32_t index, Range wanted) {
  std::vector<Range> out;
  const std::lock_guard lock(mutex_);
  if (care_[index] != Care::kCompare) return out;
  std::map<uint64_t, uint64_t>& taken = progress_[index].taken;
  auto next = taken.upper_bound(wanted.first);
  if (next != taken.begin() && std::prev(next)->second >= wanted.first) --next;
  Range joined = wanted;
  uint64_t at = wanted.first;
  while (next != taken.end() && next->first <= wanted.second) {
    if (next->first > at) out.emplace_back(at, next->first);
    at = std::max(at, next->second);
    joined = {std::min(joined.first, next->first), std::max(joined.second, next->second)};
    next = taken.erase(next);
  }
  if (at < wanted.second) out.emplace_back(at, wanted.second);
  taken[joined.first] = joined.second;
  return out;
}

// The CRC-32 is made outside of the lock. `data` begins at `begin`; `unit` kNone: nobody's.
Status SourceChecks::Put(uint32_t index, uint32_t unit, const std::vector<Range>& ranges, uint64_t begin,
                         std::span<const std::byte> data) {
  if (ranges.empty()) return {};
  const StoredItem& whole = item(index);
  uint32_t crc = 0;
  uint64_t bytes = 0;
  for (const auto& [b, e] : ranges) {
    crc ^= Crc32OfPart(Crc32(data.subspan(b - begin, e - b)), whole.begin + whole.bytes - e);
    bytes += e - b;
  }
  if (unit != kNone) {
    const std::lock_guard lock(mutex_);
    ItemRead& read = reads_[unit][index];
    read.item = index;
    read.crc ^= crc;
    for (const Range& range : ranges) {
      if (!read.ranges.empty() && read.ranges.back().second == range.first)
        read.ranges.back().second = range.second;
      else
        read.ranges.push_back(range);
    }
  }
  return AddCrc(index, crc, bytes);
}

Status SourceChecks::AddCrc(uint32_t index, uint32_t crc, uint64_t bytes) {
  {
    const std::lock_guard lock(mutex_);
    Progress& progress = progress_.at(index);
    progress.crc ^= crc;
    progress.added += bytes;
    if (progress.added < item(index).bytes) return {};
    crc = progress.crc;
    progress_.erase(index);
    care_[index] = Care::kCompared;
  }
  return crc == item(index).crc ? Status() : Damaged(index, crc);
}

std::vector<ItemRead> SourceChecks::TakeReads(uint32_t unit) {
  std::vector<ItemRead> reads;
  const std::lock_guard lock(mutex_);
  const auto of_unit = reads_.find(unit);
  if (of_unit == reads_.end()) return reads;
  for (auto& [index, read] : of_unit->second) {
    std::sort(read.ranges.begin(), read.ranges.end());
    std::vector<Range> joined;
    for (const Range& range : read.ranges) {
      if (!joined.empty() && joined.back().second == range.first)
        joined.back().second = range.second;
      else
        joined.push_back(range);
    }
    read.ranges = std::move(joined);
    reads.push_back(std::move(read));
  }
  reads_.erase(of_unit);
  return reads;
}

Status SourceChecks::Restore(const ItemRead& read) {
  if (read.item >= care_.size() || read.ranges.empty() || read.ranges.front().first < item(read.item).begin ||
      read.ranges.back().second > item(read.item).begin + item(read.item).bytes || !IsOpen(read.item))
    return {};
  uint64_t bytes = 0;
  {
    const std::lock_guard lock(mutex_);
    const std::map<uint64_t, uint64_t>& taken = progress_[read.item].taken;
    for (const auto& [begin, end] : read.ranges) {
      const auto next = taken.lower_bound(end);
      if (next != taken.begin() && std::prev(next)->second > begin) return {};
      bytes += end - begin;
    }
  }
  for (const Range& range : read.ranges) Take(read.item, range);
  return AddCrc(read.item, read.crc, bytes);
}

Error SourceChecks::Damaged(uint32_t index, uint32_t found) const {
  const Catalogue& catalogue = job_.catalogue;
  Error error = BadChecksum(catalogue.PathOf(catalogue.files[item(index).file]), "the data", item(index).crc, found);
  const auto in = std::find_if(catalogue.arrays.begin(), catalogue.arrays.end(),
                               [&](const StoredArray& array) { return array.item == index; });
  if (in != catalogue.arrays.end()) error.tensor = in->name;
  return error;
}

Status SourceChecks::Add(uint32_t file_group, uint32_t unit, uint32_t file, uint64_t begin,
                         std::span<const std::byte> data) {
  const std::vector<StoredItem>& items = job_.catalogue.items;
  if (items.empty()) return {};
  const uint64_t end = begin + data.size();
  auto next = std::upper_bound(items.begin(), items.end(), std::tie(file, begin),
                               [](const auto& key, const auto& i) { return key < std::tie(i.file, i.begin); });
  if (next != items.begin()) --next;
  for (; next != items.end() && std::tie(next->file, next->begin) < std::tie(file, end); ++next) {
    const auto index = static_cast<uint32_t>(next - items.begin());
    const Range common(std::max(begin, next->begin), std::min(end, next->begin + next->bytes));
    if (next->file != file || common.first >= common.second || group_[index] != file_group) continue;
    MIMO_RETURN_IF_ERROR(Put(index, unit, Take(index, common), begin, data));
  }
  return {};
}

Status SourceChecks::Finish(uint32_t file_group, const Open& open, uint64_t* read) {
  std::vector<std::byte> chunk;
  const auto items = items_of_.find(file_group);
  if (items == items_of_.end()) return {};
  for (const uint32_t i : items->second) {
    if (!IsOpen(i)) continue;
    const uint64_t end = item(i).begin + item(i).bytes;
    for (uint64_t at = item(i).begin; at < end;) {
      const uint64_t next = std::min(at + kChunk, end);
      const std::vector<Range> ranges = Take(i, {at, next});
      if (!ranges.empty()) {
        MIMO_ASSIGN_OR_RETURN(const auto file, open(item(i).file));
        chunk.resize(next - at);
        for (const auto& [b, e] : ranges) {
          MIMO_RETURN_IF_ERROR(file->ReadAt(b, std::span(chunk).subspan(b - at, e - b)));
          *read += e - b;
        }
        MIMO_RETURN_IF_ERROR(Put(i, kNone, ranges, at, chunk));
      }
      at = next;
    }
  }
  return {};
}

std::vector<std::string> SourceChecks::Unverified() const {
  std::vector<std::string> names;
  const std::lock_guard lock(mutex_);
  for (const StoredArray& array : job_.catalogue.arrays)
    if (array.item != kNone && (care_[array.item] == Care::kUnneeded || care_[array.item] == Care::kWithout))
      names.push_back(array.name);
  return names;
}

}  // namespace mimo
