// What one step reads and makes, and where it lies in the step's buffer: first the outputs that are not written from
// where they were read, then the rooms, then the sources.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "lib/decode/row_runs.h"
#include "lib/run/extents.h"
#include "lib/run/job.h"

namespace mimo {

// Filled by the Place* functions of strip_work.h, cell_work.h, turn_work.h and encode_work.h, then placed once.
class StepLayout {
 public:
  // `job` outlives it.
  explicit StepLayout(const Job& job) : job_(job) {}

  void Read(uint32_t source, int64_t row, int64_t rows);
  // The scales and the global that these rows need to be decoded.
  void ReadScales(uint32_t source, int64_t row, int64_t rows);
  void Make(uint32_t output, int64_t row, int64_t rows);
  // The next room: bytes for rows that are put together and not written. None when `bytes` is 0.
  void AddRoom(uint64_t bytes);
  // `limit` bounds what coalescing of reads may add.
  void Place(uint64_t limit);

  const Job& job() const { return job_; }
  const std::vector<Extent>& reads() const { return sources_.list(); }
  uint64_t buffer_bytes() const { return sources_.end(); }

 private:
  friend class StepBuffer;
  static constexpr uint64_t kNoRoom = UINT64_MAX;

  const Job& job_;
  Extents outputs_;              // files are those of the plan
  std::vector<uint64_t> rooms_;  // offsets; from the first one on until all is placed
  uint64_t room_bytes_ = 0;
  Extents sources_;  // files are those of the catalogue
};

// A layout with its memory: the rows of sources as they were read, those of outputs as they are made.
class StepBuffer final : public SourceMemory {
 public:
  // Both outlive it. `data` has buffer_bytes(), with the extents of reads() at their offsets.
  StepBuffer(const StepLayout& layout, std::byte* data) : layout_(layout), data_(data) {}

  const Job& job() const { return layout_.job_; }
  std::span<const SourceArray> sources() const override { return job().plan.sources; }
  uint64_t RowBytes(uint32_t source) const override { return job().array(source).row_bytes(); }
  const std::byte* Row(uint32_t source, int64_t row) const override;
  std::byte* Output(uint32_t output, int64_t row) const;
  // Null when it is none.
  std::byte* Room(size_t index) const;

 private:
  const StepLayout& layout_;
  std::byte* const data_;
};

}  // namespace mimo
