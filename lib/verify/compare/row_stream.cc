#include "lib/verify/compare/row_stream.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "lib/base/checked.h"
#include "lib/decode/row_bytes.h"

namespace mimo {
namespace {

constexpr int64_t kStreamElements = 1 << 20;  // FP32 values in memory at a time

// Rows of one tensor in memory, as they are stored and as values.
class StreamedRows {
 public:
  StreamedRows(const LogicalCheckpoint& checkpoint, const LogicalTensor& tensor)
      : checkpoint_(checkpoint), rows_(tensor.rows) {}

  int64_t at_once() const {
    if (rows_.turned()) return rows_.rows();
    return std::clamp<int64_t>(kStreamElements / std::max<int64_t>(1, rows_.cols()), 1,
                               std::max<int64_t>(1, rows_.rows()));
  }

  Status Read(int64_t row, int64_t rows, bool multipliers) {
    const std::vector<Piece> pieces = rows_.PiecesOf(row, rows);
    StepLayout layout(checkpoint_.job());
    rows_.Place(pieces, row, rows, &layout);
    layout.Place(UINT64_MAX);
    stored_.resize(layout.buffer_bytes());
    MIMO_RETURN_IF_ERROR(checkpoint_.Read(layout, stored_.data()));
    values_.resize(static_cast<size_t>(rows * rows_.cols()));
    const StepBuffer buffer(layout, stored_.data());
    const kernels::Target into{Codec::kFp32, values_.data(), ColumnBytes(Codec::kFp32, rows_.cols())};
    Result<kernels::Anomalies> made = multipliers ? rows_.MakeMultipliers(buffer, pieces, row, rows, into)
                                                  : rows_.Make(buffer, pieces, row, rows, into);
    return made.ok() ? Status() : Status(made.TakeError());
  }
  const float* values() const { return values_.data(); }

 private:
  const LogicalCheckpoint& checkpoint_;
  const ValueRows& rows_;
  std::vector<std::byte> stored_;
  std::vector<float> values_;
};

}  // namespace

Status VisitRows(const LogicalCheckpoint& checkpoint, const LogicalTensor& tensor, const RowVisit& visit) {
  return VisitSomeRows(checkpoint, tensor, 0, tensor.rows.rows(), visit);
}

Status VisitSomeRows(const LogicalCheckpoint& checkpoint, const LogicalTensor& tensor, int64_t first, int64_t count,
                     const RowVisit& visit) {
  StreamedRows rows(checkpoint, tensor);
  for (int64_t row = first; row < first + count; row += rows.at_once()) {
    const int64_t step = std::min(rows.at_once(), first + count - row);
    MIMO_RETURN_IF_ERROR(rows.Read(row, step, /*multipliers=*/false));
    visit(row, step, rows.values());
  }
  return {};
}

Status VisitRowPairs(const LogicalCheckpoint& a, const LogicalTensor& in_a, const LogicalCheckpoint& b,
                     const LogicalTensor& in_b, const RowPairVisit& visit) {
  StreamedRows rows_a(a, in_a), rows_b(b, in_b);
  const int64_t step = std::max(rows_a.at_once(), rows_b.at_once());
  for (int64_t row = 0; row < in_a.rows.rows(); row += step) {
    const int64_t count = std::min(step, in_a.rows.rows() - row);
    MIMO_RETURN_IF_ERROR(rows_a.Read(row, count, /*multipliers=*/false));
    MIMO_RETURN_IF_ERROR(rows_b.Read(row, count, /*multipliers=*/false));
    visit(row, count, rows_a.values(), rows_b.values());
  }
  return {};
}

Status ReadMultipliers(const LogicalCheckpoint& checkpoint, const LogicalTensor& tensor, int64_t every, int64_t width,
                       std::vector<float>* multipliers) {
  StreamedRows rows(checkpoint, tensor);
  const int64_t all = tensor.rows.rows(), cols = tensor.rows.cols(), across = CeilDiv(cols, width);
  multipliers->assign(static_cast<size_t>(CeilDiv(all, every) * across), 0);
  // A row at a time where few are asked for.
  const int64_t step = tensor.rows.turned() || every == 1 ? rows.at_once() : 1;
  for (int64_t row = 0; row < all; row += std::max(step, every)) {
    const int64_t count = std::min(step, all - row);
    MIMO_RETURN_IF_ERROR(rows.Read(row, count, /*multipliers=*/true));
    for (int64_t r = row; r < row + count; r += every)
      for (int64_t c = 0; c < across; ++c)
        (*multipliers)[static_cast<size_t>(r / every * across + c)] = rows.values()[(r - row) * cols + c * width];
  }
  return {};
}

}  // namespace mimo
