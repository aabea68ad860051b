// Cuts a plan into steps: amounts of work that fit in memory. The order and the cuts decide nothing about the bytes of
// the result.
//
// Rows are cut along the SOURCE: an atom is a run of source rows that all go to the same outputs (several where KV
// heads are replicated), so every source byte is read once however finely a group is cut. Cells of a new block grid are
// never cut.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "lib/base/status.h"
#include "lib/plan/plan.h"

namespace mimo {

enum class OutputMode : uint8_t {
  kWrite,
  kHashOnly,  // lies in a linked file
  kSkip,      // lies in a linked file that is not read, or is complete already
};

// What the steps are cut from. References outlive every step.
struct Job {
  const Catalogue& catalogue;
  const Plan& plan;
  std::vector<OutputMode> modes;  // one per plan output

  const StoredArray& array(uint32_t source) const { return catalogue.arrays[plan.sources[source].array]; }
};

struct RowTarget {
  uint32_t output = 0;
  int64_t row = 0;
};

// Rows [row, row + rows) of `source` and where the first of them goes in each target.
struct RowStrip {
  uint32_t source = 0;
  int64_t row = 0;
  int64_t rows = 0;
  int64_t first_row = 0;  // of the atom: below `row` when this strip continues it
  std::vector<RowTarget> targets;
};

struct CellJob {
  uint32_t group = 0;
  uint32_t cell = 0;
};

struct Step {
  uint32_t file_group = 0;
  std::vector<RowStrip> strips;
  std::vector<CellJob> cells;
  uint64_t memory_bytes = 0;    // bound on source and output buffers
  uint64_t progress_bytes = 0;  // payload read and written
  bool empty() const { return strips.empty() && cells.empty(); }
};

// [first, last] bands of a block-FP8 source that rows [row, row + rows) touch, cut to those rows.
std::vector<SourceBand> BandsOf(const PlanSource& source, int64_t row, int64_t rows);

// Buffer bytes that a strip or a cell needs, alignment included.
uint64_t StripMemory(const Job& job, const RowStrip& strip);
uint64_t CellMemory(const Job& job, const CellRow& cell);

// What a job comes to, before it starts.
struct JobSize {
  uint64_t progress_bytes = 0;
  uint64_t largest_unit_bytes = 0;        // of a single row or cell row: the least memory that will do
  std::vector<uint8_t> busy_file_groups;  // per file group: has any work
};
JobSize MeasureJob(const Job& job);

// Hands out the steps, file group after file group. Not thread-safe.
class StepCutter {
 public:
  // No step needs more than `limit` bytes unless a single row or cell row does.
  StepCutter(const Job& job, uint64_t limit);
  // nullopt at the end.
  std::optional<Step> Next();

 private:
  bool TakeStrips(Step* step);
  bool TakeCells(Step* step);
  void Load(uint32_t group);

  const Job& job_;
  const uint64_t limit_;
  std::vector<uint32_t> order_;  // groups by (file group, place of their first source)
  size_t next_group_ = 0;
  bool loaded_ = false;
  std::vector<RowStrip> atoms_;  // of the group being cut; the first may be cut already
  size_t next_atom_ = 0;
  std::vector<uint32_t> cells_;  // by place of their first source
  size_t next_cell_ = 0;
};

}  // namespace mimo
