// Transposed units of one step in memory.
#include <algorithm>
#include <vector>

#include "kernels/adjust.h"
#include "lib/plan/reads.h"
#include "lib/run/adjust_rows.h"
#include "lib/run/row_bytes.h"
#include "lib/run/step_work.h"
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

}  // namespace

void StepWork::AddTurn(const TurnUnit& unit) {
  for (const TurnSource& from : SourcesOf(job_, unit)) {
    AddRows(from.source, from.row, from.rows);
    if (from.decoded) AddScales(from.source, from.row, from.rows);
  }
  for (const TurnRows& rows : unit.targets) AddOutput(rows.output, rows.row, rows.rows);
}

Status StepWork::MakeTurn(std::byte* buffer, const TurnUnit& unit, Backend& backend, StepResult* result) const {
  for (const TurnRows& rows : unit.targets) {
    const OutputArray& output = job_.plan.outputs[rows.output];
    std::byte* out = OutputRow(buffer, rows.output, rows.row);
    OutputDelta delta;
    delta.output = rows.output;
    for (const Piece& piece : PiecesOf(job_, rows)) {
      delta.source = piece.source;
      delta.anomalies = {};
      delta.inexact_codes = 0;
      std::byte* at = out + Rows(piece.target_row - rows.row, output.row_bytes()) +
                      static_cast<uint64_t>(piece.target_col) * BitsPerElement(output.dtype) / 8;
      MIMO_RETURN_IF_ERROR(Turn(buffer, output, piece, at, backend, &delta));
      if (delta.inexact_codes != 0 || delta.anomalies != kernels::Anomalies()) result->outputs.push_back(delta);
    }
    kernels::Anomalies anomalies;
    if (HoldsScales(output)) anomalies.bad_scales = BadScales(out, Rows(rows.rows, output.row_bytes()));
    Emit(rows.output, rows.row, rows.rows, out, delta.source, anomalies, result);
  }
  return {};
}

// One rectangle, its first element at `out`.
Status StepWork::Turn(std::byte* buffer, const OutputArray& output, const Piece& piece, std::byte* out,
                      Backend& backend, OutputDelta* delta) const {
  const uint64_t element = BitsPerElement(output.dtype) / 8;
  const auto rows = static_cast<uint64_t>(piece.rows), cols = static_cast<uint64_t>(piece.cols);
  const ByteRectangle to{out, rows, cols * element, output.row_bytes()};
  if (piece.source == kNone) {
    Fill(to, output.pad);
    return {};
  }
  if (!Decodes(output, job_.plan.sources[piece.source])) {
    const std::byte* from =
        SourceRow(buffer, piece.source, piece.source_row) + static_cast<uint64_t>(piece.source_col) * element;
    TurnOver(from, job_.array(piece.source).row_bytes(), out, to.stride, cols, rows, element);
    const Adjusted adjusted = AdjustElements(to, output.adjust, output.factor);
    delta->anomalies = adjusted.anomalies;
    delta->inexact_codes = adjusted.inexact_codes;
    return {};
  }
  std::vector<std::byte> values(static_cast<uint64_t>(std::min(kDecodedRows, piece.cols)) * rows * element);
  for (int64_t done = 0; done < piece.cols; done += kDecodedRows) {
    const int64_t count = std::min(kDecodedRows, piece.cols - done);
    const Rectangle from{piece.source, piece.source_row + done, count, piece.source_row, piece.source_col, piece.rows};
    MIMO_ASSIGN_OR_RETURN(const kernels::Anomalies anomalies,
                          Decode(buffer, from, {output.target_codec, values.data(), rows * element}, backend));
    delta->anomalies += anomalies;
    TurnOver(values.data(), rows * element, out + static_cast<uint64_t>(done) * element, to.stride,
             static_cast<uint64_t>(count), rows, element);
  }
  return {};
}

}  // namespace mimo
