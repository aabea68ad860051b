// What a run and its reference both have, as matrices that can be laid side by side: the heads of a projection of
// attention, ascending, whatever layout either stores them in, or the rows of any other weight. And their values, a few
// columns of a row at a time, whatever they are stored as: what looks at samples of weights reads them here.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/decode/row_runs.h"
#include "lib/forms/checkpoint.h"
#include "lib/layout/row_map.h"
#include "lib/model/inventory.h"

namespace mimo {

// One side of a matrix. What it points to outlives it.
struct Strand {
  std::array<const Weight*, 3> weights{};  // as lib/layout/row_map.h numbers them; all but attention: the first alone
  std::shared_ptr<const QkvMap> map;       // of attention; null: rows are those of weights[0]
  Projection projection = Projection::kQ;  // of attention
  int64_t rows = 0;                        // values
  int64_t cols = 0;
};

// The strand of a weight that is no projection of attention; nullopt where its type is none of values, or where it is
// shown turned over (lib/forms/view.h), so that no row of it lies in one place.
std::optional<Strand> StrandOf(const Checkpoint& checkpoint, const Weight& weight);
// The strands of Q, K and V of a layer under `layout`; nothing where one of them could not be read, or has other rows
// than the config says.
std::vector<Strand> AttentionStrands(const Checkpoint& checkpoint, std::span<const Weight* const> weights,
                                     const QkvLayout& layout, const AttentionShape& shape);

// Reads strands of one merged checkpoint (Checkpoint::like). For one thread; each has its own.
class StrandReader final : private SourceMemory {
 public:
  // Both outlive it.
  StrandReader(FileSystem& fs, const Checkpoint& checkpoint)
      : fs_(fs), view_(*checkpoint.view), stored_(checkpoint.stored) {}

  // Takes a strand up; scales of whole weights are read once, those of groups in a row with their rows. Errors of
  // reading.
  Status Begin(const Strand& strand);
  // Columns [col, col + out.size()) of a row: decoded, or as they are. `col` is a multiple of the groups of its codec
  // and of whole bytes. Errors of reading.
  Status Read(int64_t row, int64_t col, std::span<float> out);
  uint64_t bytes() const { return bytes_; }  // read so far

 private:
  struct Part {  // an array that is shown: elements, scales or a global
    uint32_t array = kNone;
    uint64_t row_bytes = 0;
    bool whole = false;  // all of its rows are in `data`; else row `row` alone
    int64_t row = -1;
    std::vector<std::byte> data;
  };

  std::span<const SourceArray> sources() const override { return sources_; }
  uint64_t RowBytes(uint32_t source) const override { return parts_[source].row_bytes; }
  const std::byte* Row(uint32_t source, int64_t row) const override;

  uint32_t AddPart(uint32_t array);
  Status LoadWhole(uint32_t part);
  // Bytes [begin, end) of a row of a shown array into the same place of `row_data`.
  Status ReadShown(uint32_t array, int64_t row, uint64_t begin, uint64_t end, std::byte* row_data);
  Result<const ReadableFile*> FileOf(uint32_t file);

  FileSystem& fs_;
  const View& view_;
  const Catalogue& stored_;
  Strand strand_;
  std::vector<SourceArray> sources_;  // beside parts_: how each is decoded
  std::vector<Part> parts_;
  std::array<uint32_t, 3> element_parts_{};                               // by weight of the strand
  std::vector<std::pair<uint32_t, std::unique_ptr<ReadableFile>>> open_;  // the latest few
  size_t next_open_ = 0;
  uint64_t bytes_ = 0;
};

}  // namespace mimo
