// Bands, or rectangles of them, gathered into a staging slot to be converted together.
#pragma once

#include <string>
#include <vector>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/staging.h"

namespace mimo::kernels::cuda {

// Columns [begin, end) of a band, with the blocks they touch.
struct Columns {
  uint64_t begin = 0, end = 0;
  uint64_t first_block = 0, blocks = 0;  // kFp8Block
  uint64_t count() const { return end - begin; }
};
Columns ColumnsOf(const Band& band, uint64_t begin, uint64_t end);

// Staging bytes of some columns: once, and for each row.
struct Cost {
  uint64_t fixed = 0;
  uint64_t in_row = 0, scale_row = 0, out_row = 0;
  uint64_t Of(uint64_t rows) const {
    return fixed + Aligned(rows * in_row) + Aligned(rows * scale_row) + Aligned(rows * out_row);
  }
};
Cost CostOf(const Band& band, const Columns& columns);

class ConvertBatch {
 public:
  explicit ConvertBatch(StagingSlot* slot) : slot_(slot) {}
  uint64_t room() const {
    return (bands_.size() + 1) * sizeof(DeviceBand) <= slot_->descriptor_bytes() ? slot_->room() : 0;
  }
  // Rows [row, row + rows) of some columns; CostOf(...).Of(rows) must fit in room().
  void Add(const Band& band, const Columns& columns, uint64_t row, uint64_t rows);
  // Sends what was gathered on its way.
  bool Start(int multiprocessors, std::string* error);
  bool Finish(Anomalies* anomalies, std::string* error);
  void Abandon();

 private:
  StagingSlot* slot_;
  std::vector<DeviceBand> bands_;
};

}  // namespace mimo::kernels::cuda
