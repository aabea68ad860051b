// Cuts a plan into steps: amounts of work that fit in memory. The order and the cuts decide nothing about the bytes of
// the result.
//
// Rows are cut along the SOURCE: an atom is a run of source rows that all go to the same outputs (several where KV
// heads are replicated), so every source byte is read once however finely a group is cut. Cells of a new block grid are
// never cut. Encoded weights are cut along the TARGET, at multiples of EncodeUnit rows. A group that shares a global
// scale is one step; where it exceeds the memory of the run, its rows are measured in steps of their own first, and
// read again.
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

// Rows [row, row + rows) of an encoded weight.
struct EncodeStrip {
  uint32_t group = 0;
  uint32_t weight = 0;  // into FuseGroup::encoded
  int64_t row = 0;
  int64_t rows = 0;
};

// How a step comes by the global scales of its encoded weights.
enum class GlobalPass : uint8_t {
  kWhole,     // all rows of every group that shares one are in the step
  kMeasure,   // it measures rows of one group, and writes nothing
  kMeasured,  // the group's measuring steps have been handed out before
};

struct Step {
  uint32_t file_group = 0;
  std::vector<RowStrip> strips;
  std::vector<CellJob> cells;
  std::vector<EncodeStrip> encodes;  // by group
  GlobalPass pass = GlobalPass::kWhole;
  uint64_t memory_bytes = 0;    // bound on source and output buffers
  uint64_t progress_bytes = 0;  // payload read and written
  bool empty() const { return strips.empty() && cells.empty() && encodes.empty(); }
};

// [first, last] bands of a block-FP8 source that rows [row, row + rows) touch, cut to those rows.
std::vector<SourceBand> BandsOf(const PlanSource& source, int64_t row, int64_t rows);

// Buffer bytes that a strip or a cell needs, alignment included.
uint64_t StripMemory(const Job& job, const RowStrip& strip);
uint64_t CellMemory(const Job& job, const CellRow& cell);
// The same of scales and globals that rows of a source need to be decoded.
uint64_t ScaleMemory(const Job& job, uint32_t source, int64_t row, int64_t rows);

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
  // No step needs more than `limit` bytes unless a single row, cell row or encode unit does, or a group that shares a
  // global scale, which may need `group_limit`.
  StepCutter(const Job& job, uint64_t limit, uint64_t group_limit);
  // nullopt at the end.
  std::optional<Step> Next();

 private:
  bool TakeStrips(Step* step);
  bool TakeCells(Step* step);
  bool TakeEncodes(Step* step);
  bool TakeEncodedRows(Step* step, GlobalPass pass);
  void Load(uint32_t group);

  const Job& job_;
  const uint64_t limit_;
  const uint64_t group_limit_;
  std::vector<uint32_t> order_;  // groups by (file group, place of their first source)
  size_t next_group_ = 0;
  bool loaded_ = false;
  std::vector<RowStrip> atoms_;  // of the group being cut; the first may be cut already
  size_t next_atom_ = 0;
  std::vector<uint32_t> cells_;  // by place of their first source
  size_t next_cell_ = 0;
  std::vector<EncodeStrip> encodes_;  // whole weights; the next one may be cut already
  size_t next_encode_ = 0;
  GlobalPass pass_ = GlobalPass::kWhole;  // of the group being cut
  bool ended_ = false;                    // the group is cut, and its last step is alone
};

}  // namespace mimo
