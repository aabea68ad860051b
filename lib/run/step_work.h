// One step in memory: which bytes it reads, what becomes of them, which bytes it writes. No I/O.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "lib/base/hash.h"
#include "lib/base/status.h"
#include "lib/results/block_counts.h"
#include "lib/run/backend.h"
#include "lib/run/extents.h"
#include "lib/run/steps.h"

namespace mimo {

struct WriteJob {
  uint32_t file = 0;    // into Plan::files
  uint64_t offset = 0;  // in the file
  std::span<const std::byte> data;
};

// What a step adds to an output.
struct OutputDelta {
  uint32_t output = 0;
  uint32_t source = kNone;  // into Plan::sources: where the anomalies were found; kNone where nothing was read
  Hash128 hash;
  kernels::Anomalies anomalies;
  uint64_t inexact_codes = 0;
};

// What the blocks of one row of cells came to; errors are summed in column order.
struct CellDelta {
  CellJob job;
  BlockCounts counts;
};

// What a strip of an encoded weight came to.
struct EncodeDelta {
  EncodeStrip strip;
  BlockCounts counts;
  std::vector<kernels::ErrorSums> errors;  // one per kernels::kStatRows rows, when asked for
};

// What a step must be told.
struct TransformRequest {
  bool errors = false;                          // measure the error of encoded weights
  const kernels::Measured* measured = nullptr;  // of the step's group, when its pass is kMeasured
};

struct StepResult {
  std::vector<WriteJob> writes;  // by (file, offset); they point into the buffer
  std::vector<OutputDelta> outputs;
  std::vector<CellDelta> cells;
  std::vector<EncodeDelta> encodes;
  kernels::Measured measured;  // by a step whose pass is kMeasure
};

class AlignedScales;

class StepWork {
 public:
  // `limit` bounds what coalescing of reads may add.
  StepWork(const Job& job, const Step& step, uint64_t limit);

  const std::vector<Extent>& reads() const { return sources_.list(); }
  uint64_t buffer_bytes() const { return sources_.end(); }
  // `buffer` holds the extents of reads() at their offsets.
  Result<StepResult> Transform(std::byte* buffer, Backend& backend, const TransformRequest& request = {}) const;

 private:
  // A rectangle of values: rows [row, row + rows) of a source, columns [col, col + cols).
  struct Rectangle {
    uint32_t source = 0;
    int64_t row = 0;
    int64_t rows = 0;
    int64_t first_row = 0;  // rows from here to `row` were decoded before: bad scales are counted once per band
    int64_t col = 0;
    int64_t cols = 0;
  };

  void AddRows(uint32_t source, int64_t row, int64_t rows);
  void AddScales(uint32_t source, int64_t row, int64_t rows);
  void AddOutput(uint32_t output, int64_t row, int64_t rows);
  void AddStrip(const RowStrip& strip);
  void AddCell(const CellRow& cell);
  void AddTurn(const TurnUnit& unit);
  void AddEncode(const EncodeStrip& strip);
  const std::byte* SourceRow(const std::byte* buffer, uint32_t source, int64_t row) const;
  std::byte* OutputRow(std::byte* buffer, uint32_t output, int64_t row) const;
  // Scales and global of a source that has them per group of a row.
  void SetGroupScales(const std::byte* buffer, const PlanSource& source, int64_t row, kernels::Source* from) const;
  Result<kernels::Anomalies> Decode(const std::byte* buffer, const Rectangle& from, kernels::Target target,
                                    Backend& backend) const;
  // Likewise, times `factor`, with one rounding to the target's codec.
  Result<kernels::Anomalies> DecodeScaled(const std::byte* buffer, const Rectangle& from, float factor,
                                          kernels::Target target, Backend& backend) const;

  // strip_work.cc
  Status MakeStrip(std::byte* buffer, const RowStrip& strip, Backend& backend, StepResult* result) const;
  Status MakeCopy(std::byte* buffer, const RowStrip& strip, const RowTarget& target, const RowCopy& copy,
                  Backend& backend, StepResult* result) const;
  void Invert(std::byte* buffer, const RowStrip& strip, const RowTarget& target, StepResult* result) const;
  // cell_work.cc
  void MakeCellRow(std::byte* buffer, const CellJob& job, StepResult* result) const;
  void MoveCell(std::byte* buffer, const CellRow& cell, BlockCounts* counts, StepResult* result) const;
  void MakeCell(std::byte* buffer, const CellRow& cell, BlockCounts* counts, StepResult* result) const;
  // Codes and scales that were made in buffers; the anomalies are counted with the first segment.
  void EmitMade(std::byte* buffer, const CellRow& cell, uint32_t scale_source, const kernels::Anomalies& anomalies,
                StepResult* result) const;
  void MakeValueCell(std::byte* buffer, const CellRow& cell, BlockCounts* counts, StepResult* result) const;
  // turn_work.cc
  Status MakeTurn(std::byte* buffer, const TurnUnit& unit, Backend& backend, StepResult* result) const;
  Status Turn(std::byte* buffer, const OutputArray& output, const Piece& piece, std::byte* out, Backend& backend,
              OutputDelta* delta) const;
  // encode_work.cc
  Status Encode(std::byte* buffer, Backend& backend, const TransformRequest& request, StepResult* result) const;
  Status EncodeGroup(std::byte* buffer, std::span<const EncodeStrip> strips, Backend& backend,
                     const TransformRequest& request, StepResult* result) const;

  std::vector<kernels::SourceRows> StripRows(std::byte* buffer, size_t strip, AlignedScales* scales) const;
  // Puts the rows of a strip together from rectangles of values; they lie in the buffer afterwards.
  kernels::SourceRows Assemble(std::byte* buffer, size_t strip) const;

  void Emit(uint32_t output, int64_t row, int64_t rows, const std::byte* data, uint32_t source,
            const kernels::Anomalies& anomalies, StepResult* result) const;

  const Job& job_;
  const Step& step_;
  Extents
      outputs_;  // files are those of the plan; only what is not written from where it was read. First in the buffer
  Extents sources_;  // files are those of the catalogue
  // Rows that are put together before they are encoded: after the outputs, by strip of the step (kNotAssembled: whole
  // rows of sources, encoded from where they were read).
  static constexpr uint64_t kNotAssembled = UINT64_MAX;
  std::vector<uint64_t> assembled_at_;  // in the buffer, once all is placed
  uint64_t assembled_bytes_ = 0;
};

}  // namespace mimo
