// Cuts parts of a plan into steps: amounts of work that fit in memory. The order and the cuts decide nothing about the
// bytes of the result.
//
// Moved and converted rows are cut in bundles (bundles.h): rows of one or more sources and of one or more outputs, of
// equal number, joined by rectangles. So every source byte is read once however finely a group is cut: where one source
// goes to several outputs (replicated KV heads, columns dealt out to ranks), and where several meet in one row (the way
// back). Cells of a new block grid and transposed units are never cut. Encoded weights are cut along the TARGET, at
// multiples of EncodeUnit rows. Those that share a global scale are in one step; where they exceed the memory of the
// run, their rows are measured in steps of their own first, and read again.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "lib/plan/plan.h"
#include "lib/run/job.h"

namespace mimo {

class PartLoader;

// Rows of a source in a bundle.
struct RowSource {
  uint32_t source = 0;  // into Plan::sources
  int64_t row = 0;
  int64_t first_row = 0;  // where the bundle began: below `row` when a strip continues it
};

// Columns of the rows of a source that become columns of the rows of a target; units as in Piece.
struct RowCopy {
  uint32_t source = kNone;  // into RowStrip::sources; kNone: padding
  uint32_t target = 0;      // into RowStrip::targets
  int64_t source_col = 0;
  int64_t target_col = 0;
  int64_t cols = 0;  // 0: whole rows of both
};

// Rows of an output in a bundle.
struct RowTarget {
  uint32_t output = 0;
  uint32_t first_copy = 0;  // its own in RowStrip::copies
  uint32_t copies = 0;
  int64_t row = 0;
};

// A bundle or a part of it: row i of every source and row i of every target, for i in [0, rows). Without copies every
// target takes whole rows of the one source; of none, its constant or padding.
struct RowStrip {
  int64_t rows = 0;
  std::vector<RowSource> sources;
  std::vector<RowTarget> targets;
  std::vector<RowCopy> copies;  // by target
  std::span<const RowCopy> CopiesOf(const RowTarget& target) const {
    return std::span(copies).subspan(target.first_copy, target.copies);
  }
};

// Rows [row, row + rows) of a transposed output.
struct TurnRows {
  uint32_t output = 0;
  int64_t row = 0;
  int64_t rows = 0;
};

// Transposed rows that share source rows or pieces; never cut (turns.h).
struct TurnUnit {
  std::vector<TurnRows> targets;
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

// Items [first, end) of a fuse group (group_work.h), or all of it.
struct UnitPart {
  uint32_t group = 0;
  uint32_t first = 0;
  uint32_t end = kNone;  // kNone: the group is whole
  bool whole() const { return end == kNone; }
};

// What there is to do for one.
struct GroupWork {
  std::vector<RowStrip> bundles;
  std::vector<uint32_t> cells;
  std::vector<TurnUnit> turns;
  std::vector<EncodeStrip> encodes;  // by share
};

// How a step comes by the global scales of its encoded weights.
enum class GlobalPass : uint8_t {
  kWhole,     // all rows of everything that shares one are in the step
  kMeasure,   // it measures rows that share one, and writes nothing
  kMeasured,  // their measuring steps have been handed out before
};

struct Step {
  uint32_t file_group = 0;
  std::vector<RowStrip> strips;
  std::vector<CellJob> cells;
  std::vector<TurnUnit> turns;
  std::vector<EncodeStrip> encodes;  // by (group, share)
  GlobalPass pass = GlobalPass::kWhole;
  uint64_t memory_bytes = 0;    // bound on source and output buffers
  uint64_t progress_bytes = 0;  // payload read and written
  bool empty() const { return strips.empty() && cells.empty() && turns.empty() && encodes.empty(); }
};

// The source whose rows, unaltered, are those of `target`: they are written from where they were read. kNone: the rows
// are made in a buffer, or are constant.
uint32_t DirectSource(const Job& job, const RowStrip& strip, const RowTarget& target);

// Whether a strip decodes rows of its source `index`, so that their scales are needed.
bool DecodesSource(const Job& job, const RowStrip& strip, size_t index);

// What a group comes to, before it starts.
struct JobSize {
  uint64_t progress_bytes = 0;
  uint64_t largest_unit_bytes = 0;  // of a single row, cell row or unit: the least memory that will do
};
JobSize MeasureGroup(const Job& job, uint32_t group);

// Hands out the steps of parts of groups, in their order. Not thread-safe.
class StepCutter {
 public:
  // No step needs more than `limit` bytes unless a single row, cell row, transposed or encode unit does, or what shares
  // a global scale, which may need `shared_limit`. `job` and `loader`, of that job, outlive it.
  StepCutter(const Job& job, PartLoader& loader, uint64_t limit, uint64_t shared_limit, std::vector<UnitPart> parts)
      : job_(job), loader_(loader), limit_(limit), shared_limit_(shared_limit), parts_(std::move(parts)) {}
  // nullopt at the end.
  std::optional<Step> Next();

 private:
  bool TakeStrips(Step* step);
  // Adds what is never cut; `items`: of its kind in the step.
  bool TakeWhole(Step* step, size_t items, uint64_t memory, uint64_t progress) const;
  bool TakeCells(Step* step);
  bool TakeTurns(Step* step);
  bool TakeEncodes(Step* step);
  bool TakeShared(Step* step);
  bool TakeEncodedRows(Step* step, GlobalPass pass, size_t end);
  void Load();
  uint32_t group() const { return parts_[next_part_].group; }

  const Job& job_;
  PartLoader& loader_;
  const uint64_t limit_;
  const uint64_t shared_limit_;
  const std::vector<UnitPart> parts_;
  size_t next_part_ = 0;
  bool loaded_ = false;
  GroupWork work_;  // of the part being cut; the next bundle and the next encoded weight may be cut already
  size_t next_bundle_ = 0;
  size_t next_cell_ = 0;
  size_t next_turn_ = 0;
  size_t next_encode_ = 0;
  std::vector<EncodeStrip> measured_;     // what is being measured, whole
  GlobalPass pass_ = GlobalPass::kWhole;  // of what shares a global scale and is being cut
  bool ended_ = false;                    // the group is cut, and its last step is alone
};

}  // namespace mimo
