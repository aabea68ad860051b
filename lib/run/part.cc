#include "lib/run/part.h"

#include <algorithm>
#include <charconv>

#include "lib/decode/row_bytes.h"
#include "lib/model/file_names.h"

namespace mimo {
namespace {

constexpr char kExtension[] = ".json";
constexpr char kOf[] = "-of-";

// The numbers whose share begins in that of the part: `costs` one after the other, in `part.count` even shares.
template <class Costs>
std::pair<size_t, size_t> ShareOf(const Costs& costs, const RunPart& part) {
  uint64_t total = 0;
  for (const uint64_t cost : costs) total += cost;
  std::pair<size_t, size_t> share(costs.size(), costs.size());
  uint64_t before = 0;
  for (size_t i = 0; i < costs.size(); ++i) {
    // before * count / total, which fits: bytes of a checkpoint are below 2^48, parts at most 2^16.
    const uint64_t owner = total == 0 ? 0 : std::min<uint64_t>(before * part.count / total, part.count - 1);
    if (owner >= part.index && share.first == costs.size()) share.first = i;
    if (owner > part.index) {
      share.second = i;
      break;
    }
    before += costs[i];
  }
  share.first = std::min(share.first, share.second);
  return share;
}

}  // namespace

std::string TextOf(const RunPart& part) {
  return std::to_string(part.index) + "/" + std::to_string(part.count);
}

std::pair<uint32_t, uint32_t> UnitsOfPart(const std::vector<Unit>& units, const RunPart& part) {
  std::vector<uint64_t> costs;
  costs.reserve(units.size());
  for (const Unit& unit : units) costs.push_back(unit.cost);
  const auto [first, end] = ShareOf(costs, part);
  return {static_cast<uint32_t>(first), static_cast<uint32_t>(end)};
}

std::pair<size_t, size_t> EqualRowsOfPart(const Plan& plan, const RunPart& part) {
  std::vector<uint64_t> costs;
  costs.reserve(plan.equal.size());
  for (const EqualRows& equal : plan.equal) costs.push_back(static_cast<uint64_t>(equal.rows));
  return ShareOf(costs, part);
}

std::pair<size_t, size_t> EntriesOfPart(size_t count, const RunPart& part) {
  return ShareOf(std::vector<uint64_t>(count, 1), part);
}

std::string LeaseNameOf(const RunPart& part) {
  return JoinPath(kPartLeasesDirectory, std::to_string(part.index) + kOf + std::to_string(part.count) + kExtension);
}

std::optional<RunPart> PartOfLease(std::string_view file) {
  RunPart part;
  const char* end = file.data() + file.size();
  const auto index = std::from_chars(file.data(), end, part.index);
  if (index.ec != std::errc() || !std::string_view(index.ptr, end).starts_with(kOf)) return std::nullopt;
  const auto count = std::from_chars(index.ptr + std::string_view(kOf).size(), end, part.count);
  if (count.ec != std::errc() || std::string_view(count.ptr, end) != kExtension) return std::nullopt;
  return part;
}

std::vector<FileRange> PagesWithin(const Plan& plan, const std::vector<FileRange>& ranges, uint64_t page_bytes) {
  const uint64_t mask = page_bytes - 1;
  std::vector<FileRange> pages;
  for (FileRange range : ranges) {
    range.begin = (range.begin + mask) & ~mask;
    if (range.end != plan.files[range.file].bytes) range.end &= ~mask;
    if (range.begin < range.end) pages.push_back(range);
  }
  return pages;
}

std::vector<FileRange> RangesOf(const Job& job, const std::vector<Unit>& units, uint32_t first, uint32_t end,
                                PartLoader& loader) {
  Unit all;
  for (uint32_t u = first; u < end; ++u)
    all.parts.insert(all.parts.end(), units[u].parts.begin(), units[u].parts.end());
  return RangesOf(job, all, loader);
}

}  // namespace mimo
