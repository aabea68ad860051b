// Cuts a plan into units: what is recorded, gone on with after a stop, and shared out among workers and parts. A unit
// is about so many bytes of output of one file group, in the order of the output files, so that what it writes is
// contiguous. Units are a pure function of the plan and of that size: no thread count, memory or mode of an output has
// a say, so that all processes that work on one output have the same.
//
// Groups that hold cells or encoded weights are in one unit whole, whatever they come to: sums of floats, and weights
// that share a global scale, stay together. Others are cut between and inside their items (group_work.h).
#pragma once

#include <cstdint>
#include <vector>

#include "lib/run/group_work.h"

namespace mimo {

// Little enough that what two workers have begun and not recorded stays below a gigabyte; large enough that a record
// and a sync for each cost nothing.
inline constexpr uint64_t kUnitBytes = 256 << 20;

struct Unit {
  uint32_t file_group = 0;
  uint32_t home = 0;  // the plan file in which it begins
  std::vector<UnitPart> parts;
  uint64_t output_bytes = 0;
  uint64_t cost = 0;  // payload bytes read and written
};

struct Units {
  std::vector<Unit> list;          // by file group, then by place in its files
  uint64_t largest_row_bytes = 0;  // buffer bytes of the largest row, cell row or transposed unit: what must fit
};

// `unit_bytes` is at least 1. Outputs that `job` skips count as others do.
Units CutUnits(const Job& job, uint64_t unit_bytes);

// Bytes of files that a unit writes.
struct FileRange {
  uint32_t file = 0;  // into Plan::files
  uint64_t begin = 0;
  uint64_t end = 0;
};
// Disjoint and not touching, by (file, begin); without outputs that are skipped.
std::vector<FileRange> RangesOf(const Job& job, const Unit& unit, PartLoader& loader);

// Payload bytes that it reads and writes; 0 when all is skipped.
uint64_t ProgressOf(const Job& job, const Unit& unit, PartLoader& loader);

}  // namespace mimo
