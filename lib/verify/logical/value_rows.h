// Rows of a planned output as values, made from what was read of its sources: whatever the codec and wherever the rows
// lie. What compares, hashes and explains reads checkpoints through this.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "kernels/convert.h"
#include "lib/base/status.h"
#include "lib/decode/decode.h"
#include "lib/run/needs.h"
#include "lib/run/step_layout.h"

namespace mimo {

// An output whose elements are moved, converted, turned over or constant; of one group with encoded weights or cells
// there are no values here.
class ValueRows {
 public:
  // `job` outlives it. kUsage: the output is made otherwise.
  static Result<ValueRows> Of(const Job& job, uint32_t output);

  const OutputArray& array() const { return job_->plan.outputs[output_]; }
  int64_t rows() const { return array().rows(); }
  int64_t cols() const { return cols_; }
  // Whether elements are numbers that decode; else they are bytes as they are stored, `row_bytes` a row.
  bool has_values() const { return values_; }
  uint64_t row_bytes() const { return array().row_bytes(); }
  // Whether every row needs all that the output is made from: rectangles that are turned over.
  bool turned() const { return array().transform == Transform::kTranspose; }
  // The codec that all elements are stored in; nullopt: several, or padding and constants among them.
  const std::optional<Codec>& stored_as() const { return stored_as_; }

  // The pieces that rows [row, row + rows) take from, ascending.
  std::vector<Piece> PiecesOf(int64_t row, int64_t rows) const;
  // Tells what must be read of them.
  void Place(const std::vector<Piece>& pieces, int64_t row, int64_t rows, Needs* needs) const;
  // Makes rows [row, row + rows) from `pieces`, those of these rows or of more, which are in memory. `target` has room
  // for them; its rows are `cols()` values. What was odd is counted; nothing is refused.
  Result<kernels::Anomalies> Make(const StepBuffer& buffer, const std::vector<Piece>& pieces, int64_t row, int64_t rows,
                                  kernels::Target target) const {
    return MakeWith(OnCpu, buffer, pieces, row, rows, target);
  }
  // In place of values what each is a multiple of: the scale of its block, group, row or tensor; 1 where it has none.
  Result<kernels::Anomalies> MakeMultipliers(const StepBuffer& buffer, const std::vector<Piece>& pieces, int64_t row,
                                             int64_t rows, kernels::Target target) const;
  // The same of elements that are no values, as bytes.
  void Copy(const StepBuffer& buffer, const std::vector<Piece>& pieces, int64_t row, int64_t rows,
            std::byte* target) const;
  // The part of `piece` in rows [row, row + rows).
  static Piece Cut(const Piece& piece, int64_t row, int64_t rows);

 private:
  ValueRows(const Job& job, uint32_t output) : job_(&job), output_(output) {}
  static Result<kernels::Anomalies> OnCpu(std::span<const kernels::Band> bands);
  Result<kernels::Anomalies> MakeWith(const BandConverter& convert, const StepBuffer& buffer,
                                      const std::vector<Piece>& pieces, int64_t row, int64_t rows,
                                      kernels::Target target) const;
  Result<kernels::Anomalies> Turn(const BandConverter& convert, const StepBuffer& buffer, const Piece& piece,
                                  kernels::Target target) const;
  int64_t ColumnsOf(const Piece& piece) const { return piece.cols == 0 ? cols_ : piece.cols; }

  const Job* job_;
  uint32_t output_;
  int64_t cols_ = 0;
  bool values_ = false;
  std::optional<Codec> stored_as_;
};

}  // namespace mimo
