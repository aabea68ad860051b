#include "lib/run/steps.h"

#include <algorithm>
#include <utility>

#include "lib/base/checked.h"
#include "lib/decode/row_bytes.h"
#include "lib/run/encode_strips.h"
#include "lib/run/group_work.h"
#include "lib/run/step_memory.h"
#include "lib/run/turns.h"

namespace mimo {
namespace {

constexpr size_t kMaxItems = 4096;  // strips or cells of one step

// The last row up to `row` where the block grid has an edge.
int64_t EdgeBefore(const SourceArray& source, int64_t row) {
  if (!source.quantized || !HasBlockScales(source.codec)) return row;
  if (source.bands.empty()) return row / source.block_rows * source.block_rows;
  const auto after = std::upper_bound(source.bands.begin(), source.bands.end(), row,
                                      [](int64_t r, const SourceBand& band) { return r < band.row_begin; });
  return after == source.bands.begin() ? row : std::prev(after)->row_begin;
}

// How many of the first rows of `bundle` make a strip of at most `limit` bytes; at least one.
int64_t RowsThatFit(const Job& job, const RowStrip& bundle, uint64_t limit) {
  RowStrip strip = bundle;
  const int64_t most = LargestThatFits(bundle.rows, [&](int64_t rows) {
    strip.rows = rows;
    return StripMemory(job, strip) <= limit;
  });
  // Equal strips rather than full ones and a remainder, cut at an edge of the block grid where there is one.
  const int64_t strips = CeilDiv(bundle.rows, most);
  const int64_t even = CeilDiv(bundle.rows, strips);
  if (bundle.sources.empty()) return even;
  const SourceArray& source = job.plan.sources[bundle.sources[0].source];
  const int64_t row = bundle.sources[0].row;
  const int64_t edge = EdgeBefore(source, row + most) - row;
  const int64_t even_edge = EdgeBefore(source, row + even) - row;
  if (even_edge > 0 && strips * even_edge >= bundle.rows) return even_edge;
  return edge > 0 ? edge : even;
}

RowStrip CutFront(RowStrip* bundle, int64_t rows) {
  RowStrip strip = *bundle;
  strip.rows = rows;
  bundle->rows -= rows;
  for (RowSource& source : bundle->sources) source.row += rows;
  for (RowTarget& target : bundle->targets) target.row += rows;
  return strip;
}

}  // namespace

void StepCutter::Load() {
  work_ = loader_.Load(parts_[next_part_]);
  pass_ = GlobalPass::kWhole;
  next_bundle_ = next_cell_ = next_turn_ = next_encode_ = 0;
  loaded_ = true;
}

// The Take functions return false when the step is full.
bool StepCutter::TakeStrips(Step* step) {
  while (next_bundle_ < work_.bundles.size()) {
    RowStrip& bundle = work_.bundles[next_bundle_];
    const uint64_t whole = StripMemory(job_, bundle);
    if (step->memory_bytes + whole <= limit_ && step->strips.size() < kMaxItems) {
      step->memory_bytes += whole;
      step->progress_bytes += StripProgress(job_, bundle);
      step->strips.push_back(std::move(bundle));
      ++next_bundle_;
      continue;
    }
    if (!step->empty()) return false;
    const int64_t rows = RowsThatFit(job_, bundle, limit_);
    if (rows == bundle.rows) ++next_bundle_;
    RowStrip strip = CutFront(&bundle, rows);
    step->memory_bytes += StripMemory(job_, strip);
    step->progress_bytes += StripProgress(job_, strip);
    step->strips.push_back(std::move(strip));
    return false;
  }
  return true;
}

bool StepCutter::TakeWhole(Step* step, size_t items, uint64_t memory, uint64_t progress) const {
  const bool fits = step->memory_bytes + memory <= limit_ && items < kMaxItems;
  if (!fits && !step->empty()) return false;
  step->memory_bytes += memory;
  step->progress_bytes += progress;
  return true;
}

bool StepCutter::TakeCells(Step* step) {
  for (; next_cell_ < work_.cells.size(); ++next_cell_) {
    const CellRow& cell = job_.plan.groups[group()].cells[work_.cells[next_cell_]];
    if (!TakeWhole(step, step->cells.size(), CellMemory(job_, cell), CellProgress(job_, cell))) return false;
    step->cells.push_back({group(), work_.cells[next_cell_]});
  }
  return true;
}

bool StepCutter::TakeTurns(Step* step) {
  for (; next_turn_ < work_.turns.size(); ++next_turn_) {
    TurnUnit& unit = work_.turns[next_turn_];
    if (!TakeWhole(step, step->turns.size(), TurnMemory(job_, unit), TurnProgress(job_, unit))) return false;
    step->turns.push_back(std::move(unit));
  }
  return true;
}

bool StepCutter::TakeEncodes(Step* step) {
  if (work_.encodes.empty()) return true;
  if (!job_.plan.groups[group()].SharesGlobal()) return TakeEncodedRows(step, GlobalPass::kWhole, work_.encodes.size());
  while (next_encode_ < work_.encodes.size())
    if (!TakeShared(step)) return false;
  return true;
}

// All that shares the global scale of the next encoded weight.
bool StepCutter::TakeShared(Step* step) {
  const auto begin = work_.encodes.cbegin() + static_cast<ptrdiff_t>(next_encode_);
  const auto end = EndOfShare(job_, begin, work_.encodes.end());
  if (pass_ == GlobalPass::kWhole) {
    const uint64_t memory = SharedMemory(job_, std::span(begin, end));
    if (memory <= shared_limit_) {
      if (!step->empty() && (step->memory_bytes + memory > limit_ || step->encodes.size() >= kMaxItems)) return false;
      for (auto weight = begin; weight != end; ++weight) step->progress_bytes += EncodeProgress(job_, *weight);
      step->encodes.insert(step->encodes.end(), begin, end);
      step->memory_bytes += memory;
      next_encode_ = static_cast<size_t>(end - work_.encodes.cbegin());
      return true;
    }
    measured_.assign(begin, end);
    pass_ = GlobalPass::kMeasure;
  }
  // Alone in their steps, so that those who wait for a measure hold nothing that others need.
  if (!step->empty()) return false;
  step->pass = pass_;
  if (!TakeEncodedRows(step, pass_, static_cast<size_t>(end - work_.encodes.cbegin()))) return false;
  if (pass_ == GlobalPass::kMeasure) {
    next_encode_ -= measured_.size();
    std::copy(measured_.begin(), measured_.end(), work_.encodes.begin() + static_cast<ptrdiff_t>(next_encode_));
    pass_ = GlobalPass::kMeasured;
    return false;
  }
  pass_ = GlobalPass::kWhole;
  // A step that ends a group of its own must not take up the next group.
  ended_ = next_encode_ == work_.encodes.size();
  return false;
}

// Up to the strip `end`.
bool StepCutter::TakeEncodedRows(Step* step, GlobalPass pass, size_t end) {
  const FuseGroup& group = job_.plan.groups[parts_[next_part_].group];
  while (next_encode_ < end) {
    EncodeStrip& weight = work_.encodes[next_encode_];
    const uint64_t whole = EncodeMemory(job_, weight, pass);
    EncodeStrip strip = weight;
    const bool fits = step->memory_bytes + whole <= limit_ && step->encodes.size() < kMaxItems;
    if (!fits) {
      if (!step->empty()) return false;
      strip.rows = EncodeRowsThatFit(job_, weight, EncodeUnit(group.encoded[weight.weight]), limit_, pass);
      weight.row += strip.rows;
      weight.rows -= strip.rows;
    }
    step->memory_bytes += EncodeMemory(job_, strip, pass);
    if (pass != GlobalPass::kMeasure) step->progress_bytes += EncodeProgress(job_, strip);
    step->encodes.push_back(strip);
    if (fits || weight.rows == 0) ++next_encode_;
    if (!fits) return next_encode_ == end;
  }
  return true;
}

std::optional<Step> StepCutter::Next() {
  Step step;
  while (next_part_ < parts_.size()) {
    const uint32_t file_group = job_.plan.groups[group()].file_group;
    if (!step.empty() && step.file_group != file_group) return step;
    if (!loaded_) Load();
    step.file_group = file_group;
    const bool all = TakeStrips(&step) && TakeCells(&step) && TakeTurns(&step) && TakeEncodes(&step);
    if (all || ended_) {
      ++next_part_;
      loaded_ = false;
    }
    if (!all) {
      ended_ = false;
      return step;
    }
  }
  if (step.empty()) return std::nullopt;
  return step;
}

}  // namespace mimo
