#include "lib/run/turn_work.h"

#include <algorithm>
#include <vector>

#include "kernels/adjust.h"
#include "lib/decode/decode.h"
#include "lib/decode/row_bytes.h"
#include "lib/plan/reads.h"
#include "lib/run/adjust_rows.h"
#include "lib/run/turns.h"

namespace mimo {
namespace {

constexpr int64_t kDecodedRows = 64;  // of a source at a time: their columns fill cache lines of the target

// `rows` x `cols` elements of `from` become `cols` x `rows` of `to`.
void TurnOver(const std::byte* from, uint64_t from_stride, std::byte* to, uint64_t to_stride, uint64_t rows,
              uint64_t cols, uint64_t element_bytes) {
  kernels::Transpose(reinterpret_cast<const uint8_t*>(from), from_stride, rows, cols,
                     static_cast<uint32_t>(element_bytes), reinterpret_cast<uint8_t*>(to), to_stride);
}

// One rectangle, its first element at `out`.
Status Turn(const StepBuffer& buffer, const OutputArray& output, const Piece& piece, std::byte* out, Backend& backend,
            OutputDelta* delta) {
  const uint64_t element = BitsPerElement(output.dtype) / 8;
  const auto rows = static_cast<uint64_t>(piece.rows), cols = static_cast<uint64_t>(piece.cols);
  const ByteRectangle to{out, rows, cols * element, output.row_bytes()};
  if (piece.source == kNone) {
    FillElements(to, output.pad);
    return {};
  }
  if (!Decodes(output, buffer.sources()[piece.source])) {
    const std::byte* from =
        buffer.Row(piece.source, piece.source_row) + static_cast<uint64_t>(piece.source_col) * element;
    TurnOver(from, buffer.RowBytes(piece.source), out, to.stride, cols, rows, element);
    const Adjusted adjusted = AdjustElements(to, output.adjust, output.factor);
    delta->anomalies = adjusted.anomalies;
    delta->inexact_codes = adjusted.inexact_codes;
    return {};
  }
  const auto convert = [&](std::span<const kernels::Band> bands) { return backend.Convert(bands); };
  std::vector<std::byte> values(static_cast<uint64_t>(std::min(kDecodedRows, piece.cols)) * rows * element);
  for (int64_t done = 0; done < piece.cols; done += kDecodedRows) {
    const int64_t count = std::min(kDecodedRows, piece.cols - done);
    const SourceRectangle from{piece.source,     piece.source_row + done, count,
                               piece.source_row, piece.source_col,        piece.rows};
    MIMO_ASSIGN_OR_RETURN(const kernels::Anomalies anomalies,
                          Decode(buffer, from, {output.target_codec, values.data(), rows * element}, convert));
    delta->anomalies += anomalies;
    TurnOver(values.data(), rows * element, out + static_cast<uint64_t>(done) * element, to.stride,
             static_cast<uint64_t>(count), rows, element);
  }
  return {};
}

}  // namespace

void PlaceTurn(const TurnUnit& unit, Needs* needs) {
  for (const TurnSource& from : SourcesOf(needs->job(), unit)) {
    needs->Read(from.source, from.row, from.rows);
    if (from.decoded) needs->ReadScales(from.source, from.row, from.rows);
  }
  for (const TurnRows& rows : unit.targets) needs->Make(rows.output, rows.row, rows.rows);
}

Status MakeTurn(const StepBuffer& buffer, const TurnUnit& unit, Backend& backend, StepResult* result) {
  const Job& job = buffer.job();
  for (const TurnRows& rows : unit.targets) {
    const OutputArray& output = job.plan.outputs[rows.output];
    std::byte* out = buffer.Output(rows.output, rows.row);
    OutputDelta delta;
    delta.output = rows.output;
    for (const Piece& piece : PiecesOf(job, rows)) {
      delta.source = piece.source;
      delta.anomalies = {};
      delta.inexact_codes = 0;
      std::byte* at = out + Rows(piece.target_row - rows.row, output.row_bytes()) +
                      static_cast<uint64_t>(piece.target_col) * BitsPerElement(output.dtype) / 8;
      MIMO_RETURN_IF_ERROR(Turn(buffer, output, piece, at, backend, &delta));
      if (delta.inexact_codes != 0 || delta.anomalies != kernels::Anomalies()) result->outputs.push_back(delta);
    }
    kernels::Anomalies anomalies;
    if (HoldsScales(output)) anomalies.bad_scales = BadScales(output.dtype, out, Rows(rows.rows, output.row_bytes()));
    result->Emit(job, rows.output, rows.row, rows.rows, out, delta.source, anomalies);
  }
  return {};
}

}  // namespace mimo
