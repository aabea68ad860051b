// A share of a run that several processes make, each on a node of its own or on the same one: which units are whose,
// and who may write what.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lib/run/units.h"

namespace mimo {

struct RunPart {
  uint32_t index = 0;  // below `count`
  uint32_t count = 1;
  bool operator==(const RunPart&) const = default;
};
inline constexpr uint32_t kMostParts = 65536;

// "3/16".
std::string TextOf(const RunPart& part);

// The units [first, end) of a part. A pure function of the units: those of all parts are all units, each once, in
// order; what a part costs is off an even share by one unit at most.
std::pair<uint32_t, uint32_t> UnitsOfPart(const std::vector<Unit>& units, const RunPart& part);

// The entries [first, end) of Plan::equal that a part compares: likewise.
std::pair<size_t, size_t> EqualRowsOfPart(const Plan& plan, const RunPart& part);
// The entries [first, end) of `count` of one cost (source_guard.h) that are the part's to look at.
std::pair<size_t, size_t> EntriesOfPart(size_t count, const RunPart& part);

// The lease of a part, a name in OUT; and back, nullopt for what is none.
std::string LeaseNameOf(const RunPart& part);
std::optional<RunPart> PartOfLease(std::string_view file);

// What a process may write of its own into a file that others write to as well: whole pages. Ranges of `plan` files as
// RangesOf gives them, without the pages at their ends that are not theirs alone; `page_bytes` is a power of two.
std::vector<FileRange> PagesWithin(const Plan& plan, const std::vector<FileRange>& ranges, uint64_t page_bytes);
// What the units [first, end) write, joined.
std::vector<FileRange> RangesOf(const Job& job, const std::vector<Unit>& units, uint32_t first, uint32_t end,
                                PartLoader& loader);

}  // namespace mimo
