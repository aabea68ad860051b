// What one step gives: bytes to write, and what they add to the results of the run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/encode.h"
#include "lib/base/hash.h"
#include "lib/results/block_counts.h"
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

// Elements [first, first + count) of an output of scalars.
struct ScalarDelta {
  uint32_t output = 0;
  int64_t first = 0;
  int64_t count = 0;
  float value = 0;
};

struct StepResult {
  std::vector<WriteJob> writes;  // by (file, offset) once merged; they point into the buffer, or into the plan
  std::vector<OutputDelta> outputs;
  std::vector<CellDelta> cells;
  std::vector<EncodeDelta> encodes;
  std::vector<ScalarDelta> scalars;  // of encoded weights; written when all of their output are known
  kernels::Measured measured;        // by a step whose pass is kMeasure

  // Rows [row, row + rows) of `output`, which lie at `data`, are final: hashes them, and has them written unless their
  // file is linked. `data` outlives this.
  void Emit(const Job& job, uint32_t output, int64_t row, int64_t rows, const std::byte* data, uint32_t source,
            const kernels::Anomalies& anomalies);
  // Joins writes that continue each other in the file and in memory.
  void MergeWrites();
};

}  // namespace mimo
