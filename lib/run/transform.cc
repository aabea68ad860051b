#include "lib/run/transform.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <tuple>

#include "lib/base/checked.h"
#include "lib/run/row_bytes.h"

namespace mimo {
namespace {

constexpr uint64_t kMaxGap = 64 << 10;

float LoadFloat(const std::byte* at) {
  float value = 0;
  std::memcpy(&value, at, sizeof value);
  return value;
}

uint64_t BadScales(const std::byte* data, uint64_t bytes) {
  uint64_t bad = 0;
  for (uint64_t i = 0; i + sizeof(float) <= bytes; i += sizeof(float)) {
    const float scale = LoadFloat(data + i);
    if (!std::isfinite(scale) || scale < 0) ++bad;
  }
  return bad;
}

// Bands of a strip of block FP8. Rows of scales that are not aligned as floats are copied to `copies`.
class BandBuilder {
 public:
  void Add(kernels::Band band, const std::byte* scales, uint64_t scale_bytes) {
    if (reinterpret_cast<uintptr_t>(scales) % alignof(float) != 0) {
      std::vector<float>& copy = copies_.emplace_back(scale_bytes / sizeof(float));
      std::memcpy(copy.data(), scales, scale_bytes);
      band.source.scales = copy.data();
    } else {
      band.source.scales = scales;
    }
    bands_.push_back(band);
  }
  std::span<const kernels::Band> bands() const { return bands_; }

 private:
  std::vector<kernels::Band> bands_;
  std::deque<std::vector<float>> copies_;
};

// Joins writes that continue each other in the file and in memory.
void MergeWrites(std::vector<WriteJob>* writes) {
  std::sort(writes->begin(), writes->end(), [](const WriteJob& a, const WriteJob& b) {
    return std::tie(a.file, a.offset) < std::tie(b.file, b.offset);
  });
  size_t kept = 0;
  for (size_t i = 0; i < writes->size(); ++i) {
    const WriteJob& next = (*writes)[i];
    if (kept > 0) {
      WriteJob& last = (*writes)[kept - 1];
      if (last.file == next.file && last.offset + last.data.size() == next.offset &&
          last.data.data() + last.data.size() == next.data.data()) {
        last.data = {last.data.data(), last.data.size() + next.data.size()};
        continue;
      }
    }
    (*writes)[kept++] = next;
  }
  writes->resize(kept);
}

}  // namespace

StepWork::StepWork(const Job& job, const Step& step, uint64_t limit) : job_(job), step_(step) {
  for (const RowStrip& strip : step.strips) AddStrip(strip);
  for (const CellJob& cell : step.cells) AddCell(job.plan.groups[cell.group].cells[cell.cell]);
  for (const EncodeStrip& strip : step.encodes) AddEncode(strip);
  outputs_.Place(0, 0, 0);
  const uint64_t output_bytes = outputs_.end();
  sources_.Place(output_bytes, kMaxGap, limit > output_bytes ? limit - output_bytes : 0);
}

void StepWork::AddRows(uint32_t source, int64_t row, int64_t rows) {
  const StoredArray& array = job_.array(source);
  sources_.Add(array.file, array.begin + Rows(row, array.row_bytes()), Rows(rows, array.row_bytes()));
}

void StepWork::AddStrip(const RowStrip& strip) {
  AddRows(strip.source, strip.row, strip.rows);
  bool decoded = false;
  for (const RowTarget& target : strip.targets) {
    const OutputArray& output = job_.plan.outputs[target.output];
    if (output.transform == Transform::kMove) continue;
    decoded |= output.transform == Transform::kConvert;
    outputs_.Add(output.file, output.begin + Rows(target.row, output.row_bytes()),
                 Rows(strip.rows, output.row_bytes()));
  }
  if (decoded) AddScales(strip.source, strip.row, strip.rows);
}

void StepWork::AddScales(uint32_t index, int64_t row, int64_t rows) {
  const PlanSource& source = job_.plan.sources[index];
  if (!source.quantized) return;
  if (source.codec != Codec::kFp8Block) {
    AddRows(source.scale, row, rows);
    if (source.global != kNone) AddRows(source.global, 0, 1);
    return;
  }
  for (const SourceBand& band : BandsOf(source, row, rows)) AddRows(band.scale, band.scale_row, 1);
}

void StepWork::AddCell(const CellRow& cell) {
  for (const CellSegment& segment : cell.segments) {
    AddRows(segment.source, segment.source_row, segment.rows);
    AddRows(segment.scale, segment.scale_row, 1);
    if (cell.moved) continue;
    const OutputArray& codes = job_.plan.outputs[segment.output];
    outputs_.Add(codes.file, codes.begin + Rows(segment.target_row, codes.row_bytes()),
                 Rows(segment.rows, codes.row_bytes()));
  }
  if (cell.moved) return;
  const OutputArray& scales = job_.plan.outputs[cell.scale_output];
  outputs_.Add(scales.file, scales.begin + Rows(cell.scale_row, scales.row_bytes()), scales.row_bytes());
}

const std::byte* StepWork::SourceRow(const std::byte* buffer, uint32_t source, int64_t row) const {
  const StoredArray& array = job_.array(source);
  return buffer + sources_.OffsetOf(array.file, array.begin + Rows(row, array.row_bytes()));
}

std::byte* StepWork::OutputRow(std::byte* buffer, uint32_t output, int64_t row) const {
  const OutputArray& array = job_.plan.outputs[output];
  return buffer + outputs_.OffsetOf(array.file, array.begin + Rows(row, array.row_bytes()));
}

// Rows [row, row + rows) of `output` are final: hash them, and have them written unless the file is linked.
void StepWork::Emit(uint32_t output, int64_t row, int64_t rows, const std::byte* data, uint32_t source,
                    const kernels::Anomalies& anomalies, StepResult* result) const {
  const OutputArray& array = job_.plan.outputs[output];
  const std::span<const std::byte> bytes(data, Rows(rows, array.row_bytes()));
  const Hash128 hash = HashRows(bytes, array.row_bytes(), static_cast<uint64_t>(row));
  if (job_.modes[output] == OutputMode::kWrite) {
    result->writes.push_back({array.file, array.begin + Rows(row, array.row_bytes()), bytes});
  }
  result->outputs.push_back({output, source, hash, anomalies});
}

void StepWork::Move(const std::byte* buffer, const RowStrip& strip, const RowTarget& target, StepResult* result) const {
  const OutputArray& output = job_.plan.outputs[target.output];
  const std::byte* data = SourceRow(buffer, strip.source, strip.row);
  kernels::Anomalies anomalies;
  if (output.id.part == Part::kScaleInv && output.dtype == DType::kF32) {
    anomalies.bad_scales = BadScales(data, Rows(strip.rows, output.row_bytes()));
  }
  Emit(target.output, target.row, strip.rows, data, strip.source, anomalies, result);
}

void StepWork::SetGroupScales(const std::byte* buffer, const PlanSource& source, int64_t row,
                              kernels::Source* from) const {
  from->scales = SourceRow(buffer, source.scale, row);
  from->scale_row_bytes = job_.array(source.scale).row_bytes();
  if (source.global == kNone) return;
  from->global = LoadFloat(SourceRow(buffer, source.global, 0));
  from->global_divides = source.global_divides;
}

void StepWork::Invert(std::byte* buffer, const RowStrip& strip, const RowTarget& target, StepResult* result) const {
  const float value = LoadFloat(SourceRow(buffer, strip.source, strip.row));
  const float inverse = 1.0f / value;
  kernels::Anomalies anomalies;
  anomalies.bad_scales = !std::isfinite(inverse) || !(value > 0);
  std::byte* out = OutputRow(buffer, target.output, target.row);
  std::memcpy(out, &inverse, sizeof inverse);
  Emit(target.output, target.row, 1, out, strip.source, anomalies, result);
}

Status StepWork::Convert(std::byte* buffer, const RowStrip& strip, const RowTarget& target, Backend& backend,
                         StepResult* result) const {
  const PlanSource& source = job_.plan.sources[strip.source];
  const OutputArray& output = job_.plan.outputs[target.output];
  const std::byte* in = SourceRow(buffer, strip.source, strip.row);
  std::byte* out = OutputRow(buffer, target.output, target.row);
  kernels::Band whole;
  whole.source.codec = source.codec;
  whole.source.data = in;
  whole.source.row_bytes = job_.array(strip.source).row_bytes();
  whole.target = {output.target_codec, out, output.row_bytes()};
  whole.rows = static_cast<uint64_t>(strip.rows);
  whole.cols = ValueColumns(source.codec, whole.source.row_bytes);
  kernels::Anomalies anomalies;
  if (!source.quantized || source.codec != Codec::kFp8Block) {
    if (source.quantized) SetGroupScales(buffer, source, strip.row, &whole.source);
    MIMO_ASSIGN_OR_RETURN(anomalies, backend.Convert(std::span(&whole, 1)));
    Emit(target.output, target.row, strip.rows, out, strip.source, anomalies, result);
    return {};
  }
  // The first band may have begun in an earlier strip, which counted its scales.
  BandBuilder continued, fresh;
  whole.column_block = static_cast<uint32_t>(source.block_cols);
  whole.column_blocks = static_cast<uint32_t>(CeilDiv(static_cast<int64_t>(whole.cols), source.block_cols));
  for (const SourceBand& cut : BandsOf(source, strip.row, strip.rows)) {
    kernels::Band band = whole;
    const int64_t skipped = cut.row_begin - strip.row;
    band.source.data = in + Rows(skipped, whole.source.row_bytes);
    band.target.data = out + Rows(skipped, whole.target.row_bytes);
    band.rows = static_cast<uint64_t>(cut.row_end - cut.row_begin);
    const bool continues = skipped == 0 && strip.row > strip.first_row && BandsOf(source, strip.row - 1, 2).size() == 1;
    (continues ? continued : fresh)
        .Add(band, SourceRow(buffer, cut.scale, cut.scale_row), job_.array(cut.scale).row_bytes());
  }
  if (!continued.bands().empty()) {
    MIMO_ASSIGN_OR_RETURN(anomalies, backend.Convert(continued.bands()));
    anomalies.bad_scales = 0;
  }
  if (!fresh.bands().empty()) {
    MIMO_ASSIGN_OR_RETURN(const kernels::Anomalies more, backend.Convert(fresh.bands()));
    anomalies += more;
  }
  Emit(target.output, target.row, strip.rows, out, strip.source, anomalies, result);
  return {};
}

void StepWork::MoveCell(const std::byte* buffer, const CellRow& cell, CellSums* sums, StepResult* result) const {
  for (const CellSegment& segment : cell.segments) {
    Emit(segment.output, segment.target_row, segment.rows, SourceRow(buffer, segment.source, segment.source_row),
         segment.source, {}, result);
  }
  const CellSegment& first = cell.segments[0];
  const std::byte* scales = SourceRow(buffer, first.scale, first.scale_row);
  const uint64_t bytes = job_.plan.outputs[cell.scale_output].row_bytes();
  kernels::Anomalies anomalies;
  anomalies.bad_scales = BadScales(scales, bytes);
  sums->moved_blocks = bytes / sizeof(float);
  Emit(cell.scale_output, cell.scale_row, 1, scales, first.scale, anomalies, result);
}

void StepWork::MakeCell(std::byte* buffer, const CellRow& cell, CellSums* sums, StepResult* result) const {
  const CellSegment& first = cell.segments[0];
  const uint64_t columns = job_.array(first.source).row_bytes();
  const auto block = static_cast<uint64_t>(job_.plan.sources[first.source].block_cols);
  std::byte* scales = OutputRow(buffer, cell.scale_output, cell.scale_row);
  const uint64_t blocks = job_.plan.outputs[cell.scale_output].row_bytes() / sizeof(float);
  kernels::Anomalies anomalies;
  std::vector<kernels::CellPart> parts(cell.segments.size());
  for (uint64_t b = 0; b < blocks; ++b) {
    for (size_t i = 0; i < parts.size(); ++i) {
      const CellSegment& segment = cell.segments[i];
      parts[i].codes =
          reinterpret_cast<const uint8_t*>(SourceRow(buffer, segment.source, segment.source_row)) + b * block;
      parts[i].code_row_bytes = columns;
      parts[i].scale = LoadFloat(SourceRow(buffer, segment.scale, segment.scale_row) + b * sizeof(float));
      parts[i].out = reinterpret_cast<uint8_t*>(OutputRow(buffer, segment.output, segment.target_row)) + b * block;
      parts[i].out_row_bytes = columns;
      parts[i].rows = static_cast<uint64_t>(segment.rows);
    }
    const uint64_t width = std::min(block, columns - b * block);
    const kernels::CellResult made = kernels::RequantizeCell(parts, width, job_.plan.options.fresh_scales);
    std::memcpy(scales + b * sizeof(float), &made.scale, sizeof(float));
    anomalies += made.anomalies;
    if (made.moved) {
      ++sums->equal_scale_blocks;
      continue;
    }
    ++sums->requantized_blocks;
    sums->squared_error += made.squared_error;
    sums->squared_sum += made.squared_sum;
    sums->max_error = std::max(sums->max_error, static_cast<double>(made.max_error));
  }
  for (size_t i = 0; i < cell.segments.size(); ++i) {
    const CellSegment& segment = cell.segments[i];
    Emit(segment.output, segment.target_row, segment.rows, OutputRow(buffer, segment.output, segment.target_row),
         segment.source, i == 0 ? anomalies : kernels::Anomalies(), result);
  }
  Emit(cell.scale_output, cell.scale_row, 1, scales, first.scale, {}, result);
}

Result<StepResult> StepWork::Transform(std::byte* buffer, Backend& backend, const TransformRequest& request) const {
  StepResult result;
  for (const RowStrip& strip : step_.strips) {
    for (const RowTarget& target : strip.targets) {
      const mimo::Transform what = job_.plan.outputs[target.output].transform;
      if (what == mimo::Transform::kMove) {
        Move(buffer, strip, target, &result);
      } else if (what == mimo::Transform::kInvert) {
        Invert(buffer, strip, target, &result);
      } else {
        MIMO_RETURN_IF_ERROR(Convert(buffer, strip, target, backend, &result));
      }
    }
  }
  for (const CellJob& job : step_.cells) {
    const CellRow& cell = job_.plan.groups[job.group].cells[job.cell];
    CellSums sums;
    if (cell.moved) {
      MoveCell(buffer, cell, &sums, &result);
    } else {
      MakeCell(buffer, cell, &sums, &result);
    }
    result.cells.push_back({job, sums});
  }
  MIMO_RETURN_IF_ERROR(Encode(buffer, backend, request, &result));
  MergeWrites(&result.writes);
  return result;
}

}  // namespace mimo
