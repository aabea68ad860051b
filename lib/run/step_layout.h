// What one step reads and makes, and where it lies in the step's buffer: first the outputs that are not written from
// where they were read, then the rooms, then the sources.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "lib/decode/row_runs.h"
#include "lib/run/extents.h"
#include "lib/run/needs.h"

namespace mimo {

// What goes past the page cache, of a buffer that begins at a block (lib/base/direct_io.h).
struct DirectSides {
  bool reads = false;
  bool writes = false;
};

// Told what is needed, then placed once.
class StepLayout final : public Needs {
 public:
  using Needs::Needs;

  void Read(uint32_t source, int64_t row, int64_t rows) override;
  void ReadScales(uint32_t source, int64_t row, int64_t rows) override;
  void Make(uint32_t output, int64_t row, int64_t rows) override;
  void AddRoom(uint64_t bytes) override;
  // `limit` bounds what coalescing of reads and whole blocks may add.
  void Place(uint64_t limit, DirectSides direct = {});

  const std::vector<Extent>& reads() const { return sources_.list(); }
  uint64_t buffer_bytes() const { return sources_.end(); }

 private:
  friend class StepBuffer;
  static constexpr uint64_t kNoRoom = UINT64_MAX;

  void PlaceAll(uint64_t limit, DirectSides direct);

  Extents outputs_;              // files are those of the plan
  std::vector<uint64_t> rooms_;  // offsets from the first one on
  uint64_t first_room_ = 0, room_bytes_ = 0;
  Extents sources_;  // files are those of the catalogue
};

// A layout with its memory: the rows of sources as they were read, those of outputs as they are made.
class StepBuffer final : public SourceMemory {
 public:
  // Both outlive it. `data` has buffer_bytes(), with the extents of reads() at their offsets.
  StepBuffer(const StepLayout& layout, std::byte* data) : layout_(layout), data_(data) {}

  const Job& job() const { return layout_.job(); }
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
