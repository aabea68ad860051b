#include "lib/run/step_memory.h"

#include <algorithm>

#include "lib/base/checked.h"
#include "lib/run/bundles.h"
#include "lib/run/encode_strips.h"
#include "lib/run/row_bytes.h"
#include "lib/run/turns.h"

namespace mimo {

std::vector<SourceBand> BandsOf(const PlanSource& source, int64_t row, int64_t rows) {
  std::vector<SourceBand> bands;
  const int64_t end = row + rows;
  if (source.bands.empty()) {
    bands.reserve(static_cast<size_t>(CeilDiv(end, source.block_rows) - row / source.block_rows));
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
  if (!source.quantized || rows <= 0) return 0;
  if (!HasBlockScales(source.codec)) {
    const uint64_t global = source.global == kNone ? 0 : job.array(source.global).bytes + kSlack;
    return Rows(rows, job.array(source.scale).row_bytes()) + kSlack + global;
  }
  // Twice: rows of scales that are not aligned to 4 bytes are copied.
  if (source.bands.empty()) {
    const int64_t scale_rows = (row + rows - 1) / source.block_rows - row / source.block_rows + 1;
    return 2 * (Rows(scale_rows, job.array(source.scale).row_bytes()) + kSlack);
  }
  uint64_t bytes = 0;
  for (const SourceBand& band : BandsOf(source, row, rows)) {
    bytes += 2 * (job.array(band.scale).row_bytes() + kSlack);
  }
  return bytes;
}

uint32_t DirectSource(const Job& job, const RowStrip& strip, const RowTarget& target) {
  const OutputArray& output = job.plan.outputs[target.output];
  if (output.transform != Transform::kMove || output.adjust != Adjust::kAsIs) return kNone;
  if (strip.copies.empty()) return strip.sources.empty() ? kNone : 0;
  const RowCopy& copy = strip.copies[target.first_copy];
  return target.copies == 1 && copy.cols == 0 ? copy.source : kNone;
}

bool DecodesSource(const Job& job, const RowStrip& strip, size_t index) {
  if (!job.plan.sources[strip.sources[index].source].quantized) return false;
  const auto decodes = [&](uint32_t target) {
    return job.plan.outputs[strip.targets[target].output].transform == Transform::kConvert;
  };
  if (strip.copies.empty()) {
    for (uint32_t t = 0; t < strip.targets.size(); ++t) {
      if (decodes(t)) return true;
    }
    return false;
  }
  return std::any_of(strip.copies.begin(), strip.copies.end(),
                     [&](const RowCopy& copy) { return copy.source == index && decodes(copy.target); });
}

uint64_t StripMemory(const Job& job, const RowStrip& strip) {
  uint64_t bytes = 0;
  for (size_t i = 0; i < strip.sources.size(); ++i) {
    const RowSource& from = strip.sources[i];
    bytes += Rows(strip.rows, job.array(from.source).row_bytes()) + kSlack;
    if (DecodesSource(job, strip, i)) bytes += ScaleMemory(job, from.source, from.row, strip.rows);
  }
  for (const RowTarget& target : strip.targets) {
    const OutputArray& output = job.plan.outputs[target.output];
    if (output.transform == Transform::kConstant || DirectSource(job, strip, target) != kNone) continue;
    bytes += Rows(strip.rows, output.row_bytes()) + kSlack;
  }
  return bytes;
}

uint64_t StripProgress(const Job& job, const RowStrip& strip) {
  uint64_t bytes = 0;
  for (const RowSource& from : strip.sources) bytes += Rows(strip.rows, job.array(from.source).row_bytes());
  for (const RowTarget& target : strip.targets) {
    if (job.modes[target.output] != OutputMode::kWrite) continue;
    bytes += Rows(strip.rows, job.plan.outputs[target.output].row_bytes());
  }
  return bytes;
}

uint64_t CellMemory(const Job& job, const CellRow& cell) {
  uint64_t bytes = 2 * job.plan.outputs[cell.scale_output].row_bytes() + kSlack;
  for (const CellSegment& segment : cell.segments) {
    const uint64_t codes = Rows(segment.rows, job.plan.outputs[segment.output].row_bytes()) + kSlack;
    if (!cell.moved || segment.source == kNone) bytes += codes;
    if (segment.source == kNone) continue;
    bytes += Rows(segment.rows, job.array(segment.source).row_bytes()) + kSlack;
    if (segment.scale != kNone) bytes += job.array(segment.scale).row_bytes() + kSlack;
  }
  if (cell.keep != kNone) bytes += job.array(cell.keep).row_bytes() + kSlack;
  return bytes;
}

uint64_t CellProgress(const Job& job, const CellRow& cell) {
  uint64_t bytes = job.plan.outputs[cell.scale_output].row_bytes();
  for (const CellSegment& segment : cell.segments) {
    bytes += Rows(segment.rows, job.plan.outputs[segment.output].row_bytes());
    if (segment.source != kNone) bytes += Rows(segment.rows, job.array(segment.source).row_bytes());
  }
  if (cell.keep != kNone) bytes += job.array(cell.keep).row_bytes();
  return bytes;
}

JobSize MeasureJob(const Job& job) {
  JobSize size;
  size.busy_file_groups.assign(job.plan.file_groups, 0);
  for (uint32_t g = 0; g < job.plan.groups.size(); ++g) {
    const FuseGroup& group = job.plan.groups[g];
    bool busy = false;
    const auto add = [&](uint64_t progress, uint64_t unit) {
      size.progress_bytes += progress;
      size.largest_unit_bytes = std::max(size.largest_unit_bytes, unit);
      busy = true;
    };
    for (RowStrip& bundle : BundlesOf(job, g)) {
      const uint64_t progress = StripProgress(job, bundle);
      bundle.rows = 1;
      add(progress, StripMemory(job, bundle));
    }
    for (const uint32_t c : CellsOf(job, g)) add(CellProgress(job, group.cells[c]), CellMemory(job, group.cells[c]));
    for (const TurnUnit& unit : TurnsOf(job, g)) add(TurnProgress(job, unit), TurnMemory(job, unit));
    for (const EncodeStrip& weight : EncodesOf(job, g)) {
      EncodeStrip unit = weight;
      unit.rows = std::min(unit.rows, EncodeUnit(group.encoded[weight.weight]));
      add(EncodeProgress(job, weight), EncodeMemory(job, unit, GlobalPass::kMeasured));
    }
    if (busy) size.busy_file_groups[group.file_group] = 1;
  }
  return size;
}

}  // namespace mimo
