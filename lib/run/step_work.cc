#include "lib/run/step_work.h"

#include <algorithm>
#include <cstring>
#include <tuple>

#include "lib/base/checked.h"
#include "lib/run/adjust_rows.h"
#include "lib/run/aligned_scales.h"
#include "lib/run/row_bytes.h"

namespace mimo {
namespace {

constexpr uint64_t kMaxGap = 64 << 10;

const std::byte* ValueColumn(Codec codec, const std::byte* row, int64_t col) {
  switch (codec) {
    case Codec::kFp32:
      return row + 4 * col;
    case Codec::kFp16:
    case Codec::kBf16:
      return row + 2 * col;
    case Codec::kFp8Block:
    case Codec::kMxfp8:
      return row + col;
    case Codec::kMxfp4:
    case Codec::kNvfp4:
      return row + col / 2;
  }
  return row;
}

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
  for (const TurnUnit& unit : step.turns) AddTurn(unit);
  for (const EncodeStrip& strip : step.encodes) AddEncode(strip);
  outputs_.Place(0, 0, 0);
  const uint64_t assembled = Aligned(outputs_.end());
  for (uint64_t& at : assembled_at_) at += at == kNotAssembled ? 0 : assembled;
  const uint64_t output_bytes = assembled_bytes_ == 0 ? outputs_.end() : assembled + assembled_bytes_;
  sources_.Place(output_bytes, kMaxGap, limit > output_bytes ? limit - output_bytes : 0);
}

void StepWork::AddRows(uint32_t source, int64_t row, int64_t rows) {
  const StoredArray& array = job_.array(source);
  sources_.Add(array.file, array.begin + Rows(row, array.row_bytes()), Rows(rows, array.row_bytes()));
}

void StepWork::AddOutput(uint32_t index, int64_t row, int64_t rows) {
  const OutputArray& output = job_.plan.outputs[index];
  outputs_.Add(output.file, output.begin + Rows(row, output.row_bytes()), Rows(rows, output.row_bytes()));
}

void StepWork::AddScales(uint32_t index, int64_t row, int64_t rows) {
  const PlanSource& source = job_.plan.sources[index];
  if (!source.quantized) return;
  if (!HasBlockScales(source.codec)) {
    AddRows(source.scale, row, rows);
    if (source.global != kNone) AddRows(source.global, 0, 1);
    return;
  }
  if (source.bands.empty()) {
    const int64_t first = row / source.block_rows;
    return AddRows(source.scale, first, (row + rows - 1) / source.block_rows - first + 1);
  }
  for (const SourceBand& band : BandsOf(source, row, rows)) AddRows(band.scale, band.scale_row, 1);
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

void StepWork::SetGroupScales(const std::byte* buffer, const PlanSource& source, int64_t row,
                              kernels::Source* from) const {
  from->scales = SourceRow(buffer, source.scale, row);  // of column 0
  from->scale_row_bytes = job_.array(source.scale).row_bytes();
  if (source.global == kNone) return;
  std::memcpy(&from->global, SourceRow(buffer, source.global, 0), sizeof from->global);
  from->global_divides = source.global_divides;
}

Result<kernels::Anomalies> StepWork::Decode(const std::byte* buffer, const Rectangle& from, kernels::Target target,
                                            Backend& backend) const {
  const PlanSource& source = job_.plan.sources[from.source];
  kernels::Band whole;
  whole.source.codec = source.codec;
  whole.source.row_bytes = job_.array(from.source).row_bytes();
  const std::byte* in = ValueColumn(source.codec, SourceRow(buffer, from.source, from.row), from.col);
  whole.source.data = in;
  whole.target = target;
  whole.rows = static_cast<uint64_t>(from.rows);
  whole.cols = static_cast<uint64_t>(from.cols);
  if (!source.quantized || !HasBlockScales(source.codec)) {
    if (source.quantized) {
      SetGroupScales(buffer, source, from.row, &whole.source);
      const int64_t group = GroupOf(source.codec);
      whole.source.scales = static_cast<const std::byte*>(whole.source.scales) + from.col / group;
    }
    return backend.Convert(std::span(&whole, 1));
  }
  whole.column_block = static_cast<uint32_t>(source.block_cols);
  whole.column_blocks = static_cast<uint32_t>(CeilDiv(from.cols, source.block_cols));
  std::vector<uint32_t> edges;
  if (const int64_t within = from.col % source.block_cols; within != 0) {  // begins inside a block
    edges.push_back(0);
    for (int64_t edge = source.block_cols - within; edge < from.cols; edge += source.block_cols)
      edges.push_back(static_cast<uint32_t>(edge));
    edges.push_back(static_cast<uint32_t>(from.cols));
    whole.column_blocks = static_cast<uint32_t>(edges.size() - 1);
    whole.column_edges = edges.data();
  }
  const std::vector<SourceBand> cuts = BandsOf(source, from.row, from.rows);
  AlignedScales scales;
  std::vector<kernels::Band> bands;
  bands.reserve(cuts.size());
  for (const SourceBand& cut : cuts) {
    kernels::Band band = whole;
    const int64_t skipped = cut.row_begin - from.row;
    band.source.data = in + Rows(skipped, whole.source.row_bytes);
    band.source.scales = scales.Row(SourceRow(buffer, cut.scale, cut.scale_row), job_.array(cut.scale).row_bytes()) +
                         from.col / source.block_cols;
    band.target.data = static_cast<std::byte*>(target.data) + Rows(skipped, target.row_bytes);
    band.rows = static_cast<uint64_t>(cut.row_end - cut.row_begin);
    bands.push_back(band);
  }
  // The first band may have begun in an earlier strip, which counted its scales.
  const bool continues = from.row > from.first_row && BandsOf(source, from.row - 1, 2).size() == 1;
  const std::span<const kernels::Band> all(bands);
  kernels::Anomalies anomalies;
  if (continues) {
    MIMO_ASSIGN_OR_RETURN(anomalies, backend.Convert(all.first(1)));
    anomalies.bad_scales = 0;
  }
  const auto fresh = all.subspan(continues ? 1 : 0);
  if (fresh.empty()) return anomalies;
  MIMO_ASSIGN_OR_RETURN(const kernels::Anomalies more, backend.Convert(fresh));
  return anomalies += more;
}

Result<kernels::Anomalies> StepWork::DecodeScaled(const std::byte* buffer, const Rectangle& from, float factor,
                                                  kernels::Target target, Backend& backend) const {
  constexpr int64_t kValues = 64 << 10;  // stay in the cache
  const int64_t rows = std::clamp<int64_t>(kValues / std::max<int64_t>(from.cols, 1), 1, from.rows);
  const uint64_t row_bytes = static_cast<uint64_t>(from.cols) * sizeof(float);
  std::vector<std::byte> values(Rows(rows, row_bytes));
  kernels::Anomalies anomalies;
  for (int64_t done = 0; done < from.rows; done += rows) {
    Rectangle part = from;
    part.row += done;
    part.rows = std::min(rows, from.rows - done);
    MIMO_ASSIGN_OR_RETURN(const kernels::Anomalies decoded,
                          Decode(buffer, part, {Codec::kFp32, values.data(), row_bytes}, backend));
    anomalies += decoded;
    const auto count = static_cast<uint64_t>(part.rows);
    anomalies += AdjustElements({values.data(), count, row_bytes, row_bytes}, Adjust::kScale, factor).anomalies;
    kernels::Band band;
    band.source.codec = Codec::kFp32;
    band.source.data = values.data();
    band.source.row_bytes = row_bytes;
    band.target = target;
    band.target.data = static_cast<std::byte*>(target.data) + Rows(done, target.row_bytes);
    band.rows = count;
    band.cols = static_cast<uint64_t>(from.cols);
    MIMO_ASSIGN_OR_RETURN(const kernels::Anomalies rounded, backend.Convert(std::span(&band, 1)));
    anomalies.overflows += rounded.overflows;  // the rest was counted as it was decoded
  }
  return anomalies;
}

Result<StepResult> StepWork::Transform(std::byte* buffer, Backend& backend, const TransformRequest& request) const {
  StepResult result;
  for (const RowStrip& strip : step_.strips) MIMO_RETURN_IF_ERROR(MakeStrip(buffer, strip, backend, &result));
  for (const CellJob& job : step_.cells) MakeCellRow(buffer, job, &result);
  for (const TurnUnit& unit : step_.turns) MIMO_RETURN_IF_ERROR(MakeTurn(buffer, unit, backend, &result));
  MIMO_RETURN_IF_ERROR(Encode(buffer, backend, request, &result));
  MergeWrites(&result.writes);
  return result;
}

}  // namespace mimo
