#include "lib/run/steps.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "lib/base/checked.h"
#include "lib/run/atoms.h"
#include "lib/run/encode_strips.h"
#include "lib/run/row_bytes.h"

namespace mimo {
namespace {

constexpr uint64_t kSlack = 64;     // alignment of one range in the buffer
constexpr size_t kMaxItems = 4096;  // strips or cells of one step

bool Decoded(const Job& job, const RowStrip& strip) {
  return std::any_of(strip.targets.begin(), strip.targets.end(),
                     [&](const RowTarget& t) { return job.plan.outputs[t.output].transform == Transform::kConvert; });
}

uint64_t StripProgress(const Job& job, const RowStrip& strip) {
  uint64_t bytes = Rows(strip.rows, job.array(strip.source).row_bytes());
  for (const RowTarget& target : strip.targets) {
    if (job.modes[target.output] != OutputMode::kWrite) continue;
    bytes += Rows(strip.rows, job.plan.outputs[target.output].row_bytes());
  }
  return bytes;
}

uint64_t CellProgress(const Job& job, const CellRow& cell) {
  uint64_t bytes = job.plan.outputs[cell.scale_output].row_bytes();
  for (const CellSegment& segment : cell.segments)
    bytes += 2 * Rows(segment.rows, job.array(segment.source).row_bytes());
  return bytes;
}

// The last row up to `row` where the block grid has an edge.
int64_t EdgeBefore(const PlanSource& source, int64_t row) {
  if (!source.quantized || source.codec != Codec::kFp8Block) return row;
  if (source.bands.empty()) return row / source.block_rows * source.block_rows;
  const auto after = std::upper_bound(source.bands.begin(), source.bands.end(), row,
                                      [](int64_t r, const SourceBand& band) { return r < band.row_begin; });
  return after == source.bands.begin() ? row : std::prev(after)->row_begin;
}

// How many of the first rows of `atom` make a strip of at most `limit` bytes; at least one.
int64_t RowsThatFit(const Job& job, const RowStrip& atom, uint64_t limit) {
  RowStrip strip = atom;
  const auto memory = [&](int64_t rows) {
    strip.rows = rows;
    return StripMemory(job, strip);
  };
  int64_t low = 1, high = atom.rows;
  while (low < high) {
    const int64_t middle = low + (high - low + 1) / 2;
    if (memory(middle) <= limit) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  // Equal strips rather than full ones and a remainder, cut at an edge of the block grid where there is one.
  const int64_t strips = CeilDiv(atom.rows, low);
  const int64_t even = CeilDiv(atom.rows, strips);
  const PlanSource& source = job.plan.sources[atom.source];
  const int64_t edge = EdgeBefore(source, atom.row + low) - atom.row;
  const int64_t even_edge = EdgeBefore(source, atom.row + even) - atom.row;
  if (even_edge > 0 && strips * even_edge >= atom.rows) return even_edge;
  return edge > 0 ? edge : even;
}

RowStrip CutFront(RowStrip* atom, int64_t rows) {
  RowStrip strip = *atom;
  strip.rows = rows;
  atom->row += rows;
  atom->rows -= rows;
  for (RowTarget& target : atom->targets) target.row += rows;
  return strip;
}

std::tuple<uint32_t, uint64_t> Place(const Job& job, uint32_t source, int64_t row) {
  const StoredArray& array = job.array(source);
  return {array.file, array.begin + Rows(row, array.row_bytes())};
}

}  // namespace

std::vector<SourceBand> BandsOf(const PlanSource& source, int64_t row, int64_t rows) {
  std::vector<SourceBand> bands;
  const int64_t end = row + rows;
  if (source.bands.empty()) {
    for (int64_t begin = row; begin < end;) {
      const int64_t scale_row = begin / source.block_rows;
      const int64_t stop = std::min(end, (scale_row + 1) * source.block_rows);
      bands.push_back({begin, stop, source.scale, scale_row});
      begin = stop;
    }
    return bands;
  }
  auto it = std::upper_bound(source.bands.begin(), source.bands.end(), row,
                             [](int64_t r, const SourceBand& band) { return r < band.row_end; });
  for (; it != source.bands.end() && it->row_begin < end; ++it) {
    bands.push_back({std::max(row, it->row_begin), std::min(end, it->row_end), it->scale, it->scale_row});
  }
  return bands;
}

uint64_t ScaleMemory(const Job& job, uint32_t source_index, int64_t row, int64_t rows) {
  const PlanSource& source = job.plan.sources[source_index];
  if (!source.quantized) return 0;
  if (source.codec != Codec::kFp8Block) {
    const uint64_t global = source.global == kNone ? 0 : job.array(source.global).bytes + kSlack;
    return Rows(rows, job.array(source.scale).row_bytes()) + kSlack + global;
  }
  uint64_t bytes = 0;  // twice: a row of scales that is not aligned to 4 bytes is copied
  for (const SourceBand& band : BandsOf(source, row, rows)) {
    bytes += 2 * (job.array(band.scale).row_bytes() + kSlack);
  }
  return bytes;
}

uint64_t StripMemory(const Job& job, const RowStrip& strip) {
  uint64_t bytes = Rows(strip.rows, job.array(strip.source).row_bytes()) + kSlack;
  if (Decoded(job, strip)) bytes += ScaleMemory(job, strip.source, strip.row, strip.rows);
  for (const RowTarget& target : strip.targets) {
    const OutputArray& output = job.plan.outputs[target.output];
    if (output.transform != Transform::kMove) bytes += Rows(strip.rows, output.row_bytes()) + kSlack;
  }
  return bytes;
}

uint64_t CellMemory(const Job& job, const CellRow& cell) {
  uint64_t codes = 0, scales = 0;
  for (const CellSegment& segment : cell.segments) {
    codes += Rows(segment.rows, job.array(segment.source).row_bytes()) + kSlack;
    scales += job.array(segment.scale).row_bytes() + kSlack;
  }
  if (cell.moved) return codes + scales;
  return 2 * codes + scales + job.plan.outputs[cell.scale_output].row_bytes() + kSlack;
}

JobSize MeasureJob(const Job& job) {
  JobSize size;
  size.busy_file_groups.assign(job.plan.file_groups, 0);
  for (uint32_t g = 0; g < job.plan.groups.size(); ++g) {
    const FuseGroup& group = job.plan.groups[g];
    bool busy = false;
    for (const RowStrip& atom : AtomsOf(job, g)) {
      size.progress_bytes += StripProgress(job, atom);
      RowStrip row = atom;
      row.rows = 1;
      size.largest_unit_bytes = std::max(size.largest_unit_bytes, StripMemory(job, row));
      busy = true;
    }
    for (const uint32_t c : CellsOf(job, g)) {
      size.progress_bytes += CellProgress(job, group.cells[c]);
      size.largest_unit_bytes = std::max(size.largest_unit_bytes, CellMemory(job, group.cells[c]));
      busy = true;
    }
    for (const EncodeStrip& weight : EncodesOf(job, g)) {
      size.progress_bytes += EncodeProgress(job, weight);
      EncodeStrip unit = weight;
      unit.rows = std::min(unit.rows, EncodeUnit(group.encoded[weight.weight]));
      size.largest_unit_bytes = std::max(size.largest_unit_bytes, EncodeMemory(job, unit, GlobalPass::kMeasured));
      busy = true;
    }
    if (busy) size.busy_file_groups[group.file_group] = 1;
  }
  return size;
}

StepCutter::StepCutter(const Job& job, uint64_t limit, uint64_t group_limit)
    : job_(job), limit_(limit), group_limit_(group_limit) {
  using Key = std::tuple<uint32_t, uint32_t, uint64_t, uint32_t>;
  std::vector<Key> keys;
  for (uint32_t g = 0; g < job.plan.groups.size(); ++g) {
    const FuseGroup& group = job.plan.groups[g];
    std::tuple<uint32_t, uint64_t> first{UINT32_MAX, 0};
    for (const uint32_t o : group.outputs) {
      if (job.modes[o] == OutputMode::kSkip) continue;
      for (const Piece& piece : job.plan.outputs[o].pieces) {
        first = std::min(first, Place(job, piece.source, piece.source_row));
      }
    }
    for (const CellRow& cell : group.cells) {
      first = std::min(first, Place(job, cell.segments[0].source, cell.segments[0].source_row));
    }
    keys.emplace_back(group.file_group, std::get<0>(first), std::get<1>(first), g);
  }
  std::sort(keys.begin(), keys.end());
  order_.reserve(keys.size());
  for (const Key& key : keys) order_.push_back(std::get<3>(key));
}

void StepCutter::Load(uint32_t group) {
  atoms_ = AtomsOf(job_, group);
  cells_ = CellsOf(job_, group);
  std::stable_sort(cells_.begin(), cells_.end(), [&](uint32_t a, uint32_t b) {
    const CellSegment& x = job_.plan.groups[group].cells[a].segments[0];
    const CellSegment& y = job_.plan.groups[group].cells[b].segments[0];
    return Place(job_, x.source, x.source_row) < Place(job_, y.source, y.source_row);
  });
  encodes_ = EncodesOf(job_, group);
  pass_ = GlobalPass::kWhole;
  if (job_.plan.groups[group].SharesGlobal() && GroupMemory(job_, group) > group_limit_) pass_ = GlobalPass::kMeasure;
  next_atom_ = next_cell_ = next_encode_ = 0;
  loaded_ = true;
}

// Both return false when the step is full.
bool StepCutter::TakeStrips(Step* step) {
  while (next_atom_ < atoms_.size()) {
    RowStrip& atom = atoms_[next_atom_];
    const uint64_t whole = StripMemory(job_, atom);
    if (step->memory_bytes + whole <= limit_ && step->strips.size() < kMaxItems) {
      step->memory_bytes += whole;
      step->progress_bytes += StripProgress(job_, atom);
      step->strips.push_back(std::move(atom));
      ++next_atom_;
      continue;
    }
    if (!step->empty()) return false;
    const int64_t rows = RowsThatFit(job_, atom, limit_);
    if (rows == atom.rows) ++next_atom_;
    RowStrip strip = CutFront(&atom, rows);
    step->memory_bytes += StripMemory(job_, strip);
    step->progress_bytes += StripProgress(job_, strip);
    step->strips.push_back(std::move(strip));
    return false;
  }
  return true;
}

bool StepCutter::TakeCells(Step* step) {
  const uint32_t group = order_[next_group_];
  for (; next_cell_ < cells_.size(); ++next_cell_) {
    const CellRow& cell = job_.plan.groups[group].cells[cells_[next_cell_]];
    const uint64_t memory = CellMemory(job_, cell);
    const bool fits = step->memory_bytes + memory <= limit_ && step->cells.size() < kMaxItems;
    if (!fits && !step->empty()) return false;
    step->memory_bytes += memory;
    step->progress_bytes += CellProgress(job_, cell);
    step->cells.push_back({group, cells_[next_cell_]});
  }
  return true;
}

bool StepCutter::TakeEncodes(Step* step) {
  if (encodes_.empty()) return true;
  const uint32_t group = order_[next_group_];
  if (!job_.plan.groups[group].SharesGlobal()) return TakeEncodedRows(step, GlobalPass::kWhole);
  if (pass_ == GlobalPass::kWhole) {
    const uint64_t memory = GroupMemory(job_, group);
    if (!step->empty() && (step->memory_bytes + memory > limit_ || step->encodes.size() >= kMaxItems)) return false;
    for (const EncodeStrip& weight : encodes_) {
      step->progress_bytes += EncodeProgress(job_, weight);
      step->encodes.push_back(weight);
    }
    step->memory_bytes += memory;
    return true;
  }
  // Alone in their steps, so that those who wait for a measure hold nothing that others need.
  if (!step->empty()) return false;
  step->pass = pass_;
  const bool all = TakeEncodedRows(step, pass_);
  if (all && pass_ == GlobalPass::kMeasure) {
    pass_ = GlobalPass::kMeasured;
    encodes_ = EncodesOf(job_, group);
    next_encode_ = 0;
    return false;
  }
  // A step that ends a group of its own must not take up the next group.
  ended_ = all;
  return false;
}

bool StepCutter::TakeEncodedRows(Step* step, GlobalPass pass) {
  const FuseGroup& group = job_.plan.groups[order_[next_group_]];
  while (next_encode_ < encodes_.size()) {
    EncodeStrip& weight = encodes_[next_encode_];
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
    if (!fits) return next_encode_ == encodes_.size();
  }
  return true;
}

std::optional<Step> StepCutter::Next() {
  Step step;
  while (next_group_ < order_.size()) {
    const uint32_t group = order_[next_group_];
    const uint32_t file_group = job_.plan.groups[group].file_group;
    if (!step.empty() && step.file_group != file_group) return step;
    if (!loaded_) Load(group);
    step.file_group = file_group;
    const bool all = TakeStrips(&step) && TakeCells(&step) && TakeEncodes(&step);
    if (all || ended_) {
      ++next_group_;
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
