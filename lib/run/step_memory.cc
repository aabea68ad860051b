#include "lib/run/step_memory.h"

#include <algorithm>

#include "lib/decode/row_bytes.h"
#include "lib/run/bundles.h"
#include "lib/run/cell_work.h"
#include "lib/run/encode_strips.h"
#include "lib/run/encode_work.h"
#include "lib/run/strip_work.h"
#include "lib/run/turn_work.h"
#include "lib/run/turns.h"

namespace mimo {
namespace {

constexpr uint64_t kSlack = 64;  // alignment of one range in the buffer

class MemoryCount final : public Needs {
 public:
  using Needs::Needs;

  void Read(uint32_t source, int64_t, int64_t rows) override { AddRoom(Rows(rows, job_.array(source).row_bytes())); }
  void ReadScales(uint32_t index, int64_t row, int64_t rows) override {
    if (rows <= 0) return;
    const SourceArray& source = job_.plan.sources[index];
    const uint64_t before = bytes_;
    VisitScaleRows(source, row, rows, [this](uint32_t scale, int64_t at, int64_t count) { Read(scale, at, count); });
    if (!HasBlockScales(source.codec)) return;
    bytes_ += (bytes_ - before) * (32 / BitsPerElement(source.scale_type));  // what is no aligned float is copied
  }
  void Make(uint32_t output, int64_t, int64_t rows) override {
    AddRoom(Rows(rows, job_.plan.outputs[output].row_bytes()));
  }
  void AddRoom(uint64_t bytes) override { bytes_ += bytes == 0 ? 0 : bytes + kSlack; }
  uint64_t bytes() const { return bytes_; }

 private:
  uint64_t bytes_ = 0;
};

}  // namespace

uint64_t StripMemory(const Job& job, const RowStrip& strip) {
  MemoryCount count(job);
  PlaceStrip(strip, &count);
  return count.bytes();
}

uint64_t CellMemory(const Job& job, const CellRow& cell) {
  MemoryCount count(job);
  PlaceCell(cell, &count);
  return count.bytes();
}

uint64_t TurnMemory(const Job& job, const TurnUnit& unit) {
  MemoryCount count(job);
  PlaceTurn(unit, &count);
  return count.bytes();
}

uint64_t EncodeMemory(const Job& job, const EncodeStrip& strip, GlobalPass pass) {
  MemoryCount count(job);
  PlaceEncode(strip, pass, &count);
  return count.bytes();
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

uint64_t StripProgress(const Job& job, const RowStrip& strip) {
  uint64_t bytes = 0;
  for (const RowSource& from : strip.sources) bytes += Rows(strip.rows, job.array(from.source).row_bytes());
  for (const RowTarget& target : strip.targets) {
    if (job.modes[target.output] != OutputMode::kWrite) continue;
    bytes += Rows(strip.rows, job.plan.outputs[target.output].row_bytes());
  }
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

JobSize MeasureGroup(const Job& job, uint32_t g) {
  JobSize size;
  const FuseGroup& group = job.plan.groups[g];
  const auto add = [&](uint64_t progress, uint64_t unit) {
    size.progress_bytes += progress;
    size.largest_unit_bytes = std::max(size.largest_unit_bytes, unit);
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
  return size;
}

}  // namespace mimo
