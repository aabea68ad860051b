#include "lib/run/strip_work.h"

#include <cmath>
#include <cstring>

#include "lib/decode/decode.h"
#include "lib/decode/row_bytes.h"
#include "lib/run/adjust_rows.h"

namespace mimo {
namespace {

void CopyRows(const std::byte* from, uint64_t stride, const ByteRectangle& to) {
  if (stride == to.bytes && to.stride == to.bytes) {
    std::memcpy(to.data, from, to.rows * to.bytes);
    return;
  }
  for (uint64_t r = 0; r < to.rows; ++r) std::memcpy(to.data + r * to.stride, from + r * stride, to.bytes);
}

// One rectangle of rows that are made in the buffer.
Status MakeCopy(const StepBuffer& buffer, const RowStrip& strip, const RowTarget& target, const RowCopy& copy,
                Backend& backend, StepResult* result) {
  const Job& job = buffer.job();
  const OutputArray& output = job.plan.outputs[target.output];
  const auto bytes_of = [&](int64_t elements) {
    return static_cast<uint64_t>(elements) * BitsPerElement(output.dtype) / 8;
  };
  ByteRectangle to;
  to.rows = static_cast<uint64_t>(strip.rows);
  to.stride = output.row_bytes();
  to.data = buffer.Output(target.output, target.row) + bytes_of(copy.target_col);
  to.bytes = copy.cols == 0 ? to.stride : bytes_of(copy.cols);
  if (copy.source == kNone) {
    FillElements(to, output.pad);
    return {};
  }
  const RowSource& from = strip.sources[copy.source];
  OutputDelta delta;
  delta.output = target.output;
  delta.source = from.source;
  const uint64_t stride = buffer.RowBytes(from.source);
  if (output.transform == Transform::kMove) {
    CopyRows(buffer.Row(from.source, from.row) + bytes_of(copy.source_col), stride, to);
    const Adjusted adjusted = AdjustElements(to, output.adjust, output.factor);
    delta.anomalies = adjusted.anomalies;
    delta.inexact_codes = adjusted.inexact_codes;
  } else {
    const Codec codec = job.plan.sources[from.source].codec;
    const int64_t cols = copy.cols == 0 ? static_cast<int64_t>(ValueColumns(codec, stride)) : copy.cols;
    const SourceRectangle values{from.source, from.row, strip.rows, from.first_row, copy.source_col, cols};
    const kernels::Target into{output.target_codec, to.data, to.stride};
    const auto convert = [&](std::span<const kernels::Band> bands) { return backend.Convert(bands); };
    MIMO_ASSIGN_OR_RETURN(delta.anomalies, output.adjust == Adjust::kScale
                                               ? DecodeScaled(buffer, values, output.factor, into, convert)
                                               : Decode(buffer, values, into, convert));
  }
  if (delta.inexact_codes != 0 || delta.anomalies != kernels::Anomalies()) result->outputs.push_back(delta);
  return {};
}

// The bits of another checkpoint, where they say what these rows say.
void Keep(const StepBuffer& buffer, const RowStrip& strip, const RowTarget& target, StepResult* result) {
  const OutputArray& output = buffer.job().plan.outputs[target.output];
  OutputDelta delta;
  delta.output = target.output;
  delta.source = output.keep;
  for (int64_t row = 0; row < strip.rows; ++row)
    delta.inexact_codes += KeepBits(buffer.Output(target.output, target.row + row),
                                    buffer.Row(output.keep, target.row + row), output.row_bytes() / sizeof(float));
  if (delta.inexact_codes != 0) result->outputs.push_back(delta);
}

void Invert(const StepBuffer& buffer, const RowStrip& strip, const RowTarget& target, StepResult* result) {
  const RowSource& from = strip.sources[strip.copies.empty() ? 0 : strip.copies[target.first_copy].source];
  float value = 0;
  std::memcpy(&value, buffer.Row(from.source, from.row), sizeof value);
  const float inverse = 1.0f / value;
  kernels::Anomalies anomalies;
  anomalies.bad_scales = !std::isfinite(inverse) || !(value > 0);
  std::byte* out = buffer.Output(target.output, target.row);
  std::memcpy(out, &inverse, sizeof inverse);
  result->Emit(buffer.job(), target.output, target.row, 1, out, from.source, anomalies);
}

}  // namespace

void PlaceStrip(const RowStrip& strip, Needs* needs) {
  const Job& job = needs->job();
  for (size_t i = 0; i < strip.sources.size(); ++i) {
    const RowSource& from = strip.sources[i];
    needs->Read(from.source, from.row, strip.rows);
    if (DecodesSource(job, strip, i)) needs->ReadScales(from.source, from.row, strip.rows);
  }
  for (const RowTarget& target : strip.targets) {
    if (job.plan.outputs[target.output].transform == Transform::kConstant) continue;
    if (DirectSource(job, strip, target) == kNone) needs->Make(target.output, target.row, strip.rows);
    const uint32_t keep = job.plan.outputs[target.output].keep;
    if (keep != kNone) needs->Read(keep, target.row, strip.rows);
  }
}

Status MakeStrip(const StepBuffer& buffer, const RowStrip& strip, Backend& backend, StepResult* result) {
  const Job& job = buffer.job();
  for (const RowTarget& target : strip.targets) {
    const OutputArray& output = job.plan.outputs[target.output];
    if (output.transform == Transform::kInvert) {
      Invert(buffer, strip, target, result);
      continue;
    }
    const uint32_t direct = DirectSource(job, strip, target);
    const std::byte* data = nullptr;
    uint32_t source = kNone;
    if (output.transform == Transform::kConstant) {
      data = reinterpret_cast<const std::byte*>(output.constant.data()) + Rows(target.row, output.row_bytes());
    } else if (direct != kNone) {
      const RowSource& from = strip.sources[direct];
      source = from.source;
      data = buffer.Row(from.source, from.row);
    } else {
      data = buffer.Output(target.output, target.row);
      if (strip.copies.empty()) {
        const RowCopy copy{strip.sources.empty() ? kNone : 0, 0, 0, 0, 0};
        MIMO_RETURN_IF_ERROR(MakeCopy(buffer, strip, target, copy, backend, result));
      }
      for (const RowCopy& copy : strip.CopiesOf(target)) {
        MIMO_RETURN_IF_ERROR(MakeCopy(buffer, strip, target, copy, backend, result));
      }
      if (output.keep != kNone) Keep(buffer, strip, target, result);
      if (!strip.sources.empty()) source = strip.sources[0].source;
    }
    kernels::Anomalies anomalies;
    if (output.transform == Transform::kMove && HoldsScales(output)) {
      anomalies.bad_scales = BadScales(output.dtype, data, Rows(strip.rows, output.row_bytes()));
    }
    result->Emit(job, target.output, target.row, strip.rows, data, source, anomalies);
  }
  return {};
}

}  // namespace mimo
