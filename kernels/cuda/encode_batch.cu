#include <algorithm>
#include <vector>

#include "kernels/cpu/encode_table.h"
#include "kernels/cuda/encode_batch.h"
#include "kernels/cuda/encode_launch.h"

namespace mimo::kernels::cuda {
namespace {

// Rows of one source run and where they begin in the job.
struct Piece {
  const SourceRows* from;
  uint64_t row;
  uint64_t rows;
  uint64_t job_row;
};

// Bytes of the target's rows.
struct TargetRows {
  uint64_t codes = 0;
  uint64_t scales = 0;      // of each row; block FP8: of each row of blocks
  uint64_t block_rows = 0;  // block FP8, else 0
  uint64_t kept = 0;        // like `scales`, of EncodeJob::keep; 0 without it
};

bool Keeps(const EncodeJob& job) {
  return job.keep != nullptr && (job.encoding.codec == Codec::kFp8Block || job.encoding.codec == Codec::kMxfp4);
}

TargetRows TargetRowsOf(const EncodeJob& job) {
  const uint64_t groups = (job.cols + GroupColumns(job.encoding) - 1) / GroupColumns(job.encoding);
  const bool cells = job.encoding.codec == Codec::kFp8Block;
  const uint64_t scales = cells ? 4 * groups : groups;
  return {cells ? job.cols : RowBytes(job.encoding.codec, job.cols), scales, cells ? job.encoding.block_rows : 0,
          Keeps(job) ? scales : 0};
}

// Staging that a piece takes.
uint64_t CostOf(const SourceRows& from, uint64_t rows, uint64_t cols, const TargetRows* target) {
  uint64_t bytes = rows * Aligned(RowBytes(from.source.codec, cols));
  bytes += Aligned(rows * ScaleRowBytes(from.source.codec, cols));
  if (HasBlockScales(from.source.codec)) {
    bytes += Aligned(4 * ColumnBlocks(from, cols));
    if (from.column_edges != nullptr) bytes += Aligned(4 * (ColumnBlocks(from, cols) + 1));
  }
  if (target == nullptr) return bytes;
  bytes += rows * Aligned(target->codes);
  return target->block_rows > 0 ? bytes : bytes + Aligned(rows * target->scales) + Aligned(rows * target->kept);
}

// Cuts a job into batches that fit in a slot: of whole rows, or of whole rows of blocks.
class Cutter {
 public:
  Cutter(std::span<const SourceRows> runs, uint64_t cols, const TargetRows* target, uint64_t room, uint64_t most_pieces)
      : runs_(runs), cols_(cols), target_(target), room_(room), most_pieces_(most_pieces) {}

  // Empty at the end, or when a single unit does not fit: done() tells which.
  std::vector<Piece> Next() {
    std::vector<Piece> batch;
    uint64_t left = room_;
    while (!done()) {
      if (!(target_ != nullptr && target_->block_rows > 0 ? AddBlockRow(&batch, &left) : AddRows(&batch, &left))) break;
    }
    return batch;
  }
  bool done() {
    while (run_ < runs_.size() && row_ == runs_[run_].rows) {
      ++run_;
      row_ = 0;
    }
    return run_ == runs_.size();
  }

 private:
  void Advance(const Piece& piece) {
    row_ += piece.rows;
    job_row_ += piece.rows;
    (void)done();
  }

  // As many rows of the run at hand as fit.
  bool AddRows(std::vector<Piece>* batch, uint64_t* left) {
    const SourceRows& run = runs_[run_];
    if (batch->size() == most_pieces_ || CostOf(run, 1, cols_, target_) > *left) return false;
    uint64_t low = 1, high = run.rows - row_;  // the cost grows with the rows
    while (low < high) {
      const uint64_t middle = low + (high - low + 1) / 2;
      if (CostOf(run, middle, cols_, target_) <= *left) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    batch->push_back({&run, row_, low, job_row_});
    *left -= CostOf(run, low, cols_, target_);
    Advance(batch->back());
    return true;
  }

  // The next row of blocks, of one run or several, or nothing.
  bool AddBlockRow(std::vector<Piece>* batch, uint64_t* left) {
    const size_t run = run_, pieces = batch->size();
    const uint64_t row = row_, job_row = job_row_, room = *left;
    uint64_t missing = target_->block_rows;
    uint64_t cost = Aligned(target_->scales) + Aligned(target_->kept);
    while (missing > 0 && !done()) {
      const uint64_t rows = std::min(missing, runs_[run_].rows - row_);
      batch->push_back({&runs_[run_], row_, rows, job_row_});
      cost += CostOf(runs_[run_], rows, cols_, target_);
      missing -= rows;
      Advance(batch->back());
    }
    if (cost <= room && batch->size() <= most_pieces_) {
      *left = room - cost;
      return true;
    }
    batch->resize(pieces);
    run_ = run;
    row_ = row;
    job_row_ = job_row;
    return false;
  }

  const std::span<const SourceRows> runs_;
  const uint64_t cols_;
  const TargetRows* const target_;
  const uint64_t room_, most_pieces_;
  size_t run_ = 0;
  uint64_t row_ = 0, job_row_ = 0;
};

// Gathers the source of a piece into a slot.
DeviceBand GatherSource(const Piece& piece, uint64_t cols, StagingSlot* slot) {
  const Source& source = piece.from->source;
  DeviceSource at;
  at.row_bytes = Aligned(RowBytes(source.codec, cols));
  at.data = slot->TakeRows(static_cast<const uint8_t*>(source.data) + piece.row * source.row_bytes, source.row_bytes,
                           RowBytes(source.codec, cols), at.row_bytes, piece.rows);
  at.scale_row_bytes = ScaleRowBytes(source.codec, cols);
  if (at.scale_row_bytes > 0) {
    at.scales = slot->TakeRows(static_cast<const uint8_t*>(source.scales) + piece.row * source.scale_row_bytes,
                               source.scale_row_bytes, at.scale_row_bytes, at.scale_row_bytes, piece.rows);
  } else if (HasBlockScales(source.codec)) {
    const uint64_t bytes = 4 * ColumnBlocks(*piece.from, cols);
    at.scales = slot->TakeRows(source.scales, 0, bytes, bytes, 1);
    if (piece.from->column_edges != nullptr) {
      at.edges =
          reinterpret_cast<const uint32_t*>(slot->TakeRows(piece.from->column_edges, 0, bytes + 4, bytes + 4, 1));
    }
  }
  return BandFrom(*piece.from, piece.row, piece.rows, cols, at);
}

// ---- measuring

Counters NothingMeasured() {
  const MeasureTally nothing;
  Counters counters{};
  std::memcpy(counters.data(), &nothing, sizeof(nothing));
  return counters;
}

void AddMeasured(const Counters& counters, Measured* measured) {
  MeasureTally found;
  std::memcpy(static_cast<void*>(&found), counters.data(), sizeof(found));
  Measured one;
  one.amax = FloatFromBits(found.amax);
  one.least_exponent = static_cast<uint8_t>(found.least);
  one.largest_exponent = static_cast<uint8_t>(found.largest);
  *measured += one;
}

bool StartMeasure(const std::vector<Piece>& batch, uint64_t cols, bool via_bf16, StagingSlot* slot, int multiprocessors,
                  std::string* error) {
  std::vector<DeviceBand> bands;
  for (const Piece& piece : batch) bands.push_back(GatherSource(piece, cols, slot));
  const std::vector<Group> groups = GroupBands(&bands);
  return slot->Upload(NothingMeasured(), bands.data(), bands.size() * sizeof(DeviceBand), error) &&
         LaunchMeasure(groups, reinterpret_cast<const DeviceBand*>(slot->descriptors()), via_bf16,
                       reinterpret_cast<MeasureTally*>(slot->counters()), multiprocessors, slot->stream(), error) &&
         slot->Download(error);
}

Measured CodecsOf(std::span<const SourceRows> rows, uint64_t cols) {
  Measured measured;
  for (const SourceRows& run : rows) {
    if (run.rows > 0 && cols > 0) measured.all_mxfp4 &= run.source.codec == Codec::kMxfp4;
  }
  return measured;
}

// ---- encoding

EncodeCounts CountsOf(const Counters& counters) {
  return {AnomaliesOf(counters), 0, counters[5], counters[6]};
}

uint64_t BlocksOf(const EncodeJob& job) {
  const uint64_t across = (job.cols + GroupColumns(job.encoding) - 1) / GroupColumns(job.encoding);
  if (job.encoding.codec != Codec::kFp8Block) return job.rows * across;
  return (job.rows + job.encoding.block_rows - 1) / job.encoding.block_rows * across;
}

bool LaunchRuns(const std::vector<Group>& groups, const DeviceRun* runs, uint64_t run_count, uint64_t rows,
                const EncodeJob& job, unsigned long long* counters, int multiprocessors, cudaStream_t stream,
                std::string* error) {
  const EncodeParams params{job.encoding, job.global};
  if (job.encoding.codec == Codec::kFp8Block) {
    return LaunchCells(runs, static_cast<uint32_t>(run_count), rows, job.cols, params, counters, multiprocessors,
                       stream, error);
  }
  return LaunchEncode(groups, runs, params, counters, multiprocessors, stream, error);
}

// Aligns and, where the codec allows, sorts.
std::vector<Group> Prepare(const EncodeJob& job, std::vector<DeviceRun>* runs) {
  if (job.encoding.codec != Codec::kFp8Block) return GroupRuns(job.encoding, runs);
  AlignCells(runs);
  return {};
}

bool StartEncode(const std::vector<Piece>& batch, const EncodeJob& job, StagingSlot* slot, int multiprocessors,
                 std::string* error) {
  const TargetRows target = TargetRowsOf(job);
  const uint64_t first = batch.front().job_row;
  const uint64_t rows = batch.back().job_row + batch.back().rows - first;
  uint8_t* cell_scales = nullptr;
  const uint8_t* cell_keep = nullptr;
  if (target.block_rows > 0) {
    if (target.kept > 0) {
      cell_keep = slot->TakeRows(job.keep + first / target.block_rows * job.scale_row_bytes, job.scale_row_bytes,
                                 target.kept, target.kept, (rows + target.block_rows - 1) / target.block_rows);
    }
    cell_scales = slot->TakeOutput(job.scales + first / target.block_rows * job.scale_row_bytes, job.scale_row_bytes,
                                   target.scales, target.scales, (rows + target.block_rows - 1) / target.block_rows);
  }
  std::vector<DeviceRun> runs;
  for (const Piece& piece : batch) {
    DeviceRun run{};
    run.from = GatherSource(piece, job.cols, slot);
    run.code_row_bytes = Aligned(target.codes);
    run.codes = slot->TakeOutput(job.codes + piece.job_row * job.code_row_bytes, job.code_row_bytes, target.codes,
                                 run.code_row_bytes, piece.rows);
    run.scale_row_bytes = target.scales;
    run.scales = cell_scales != nullptr
                     ? cell_scales
                     : slot->TakeOutput(job.scales + piece.job_row * job.scale_row_bytes, job.scale_row_bytes,
                                        target.scales, target.scales, piece.rows);
    run.keep = cell_keep;
    if (target.kept > 0 && target.block_rows == 0) {
      run.keep = slot->TakeRows(job.keep + piece.job_row * job.scale_row_bytes, job.scale_row_bytes, target.kept,
                                target.kept, piece.rows);
    }
    run.first_row = piece.job_row - first;
    runs.push_back(run);
  }
  const std::vector<Group> groups = Prepare(job, &runs);
  return slot->Upload({}, runs.data(), runs.size() * sizeof(DeviceRun), error) &&
         LaunchRuns(groups, reinterpret_cast<const DeviceRun*>(slot->descriptors()), runs.size(), rows, job,
                    slot->counters(), multiprocessors, slot->stream(), error) &&
         slot->Download(error);
}

// start(batch, slot) and finished(counters) for every batch, one slot ahead of the other. Sets `fits` to false and
// stops where a unit does not fit in a slot.
template <typename Start, typename Finished>
bool ForBatches(Cutter* cutter, const SlotPair& slots, bool* fits, std::string* error, const Start& start,
                const Finished& finished) {
  size_t current = 0;
  bool ok = true;
  *fits = true;
  const auto finish = [&](StagingSlot* slot) {
    Counters counters{};
    const bool started = slot->started();
    if (!slot->Finish(&counters, error)) return false;
    if (started) finished(counters);
    return true;
  };
  while (ok && !cutter->done()) {
    const std::vector<Piece> batch = cutter->Next();
    *fits = !batch.empty();
    if (!*fits) break;
    ok = start(batch, slots[current]);
    current = 1 - current;
    ok = ok && finish(slots[current]);
  }
  ok = ok && finish(slots[0]) && finish(slots[1]);
  if (!ok) {
    for (StagingSlot* slot : slots) slot->Abandon();
  }
  return ok;
}

}  // namespace

bool MeasureStaged(std::span<const SourceRows> rows, uint64_t cols, bool via_bf16, const SlotPair& slots,
                   int multiprocessors, Measured* measured, std::string* error) {
  *measured = CodecsOf(rows, cols);
  if (cols == 0) return true;
  Cutter cutter(rows, cols, nullptr, slots[0]->empty_room(), slots[0]->descriptor_bytes() / sizeof(DeviceBand));
  bool fits = true;
  const bool ok = ForBatches(
      &cutter, slots, &fits, error,
      [&](const std::vector<Piece>& batch, StagingSlot* slot) {
        return StartMeasure(batch, cols, via_bf16, slot, multiprocessors, error);
      },
      [&](const Counters& counters) { AddMeasured(counters, measured); });
  if (ok && !fits) *measured = MeasureRows(rows, cols, via_bf16);
  return ok;
}

bool MeasureResident(std::span<const SourceRows> rows, uint64_t cols, bool via_bf16, DeviceScratch* scratch,
                     int multiprocessors, Measured* measured, double* seconds, std::string* error) {
  *measured = CodecsOf(rows, cols);
  *seconds = 0;
  std::vector<DeviceBand> bands;
  for (const SourceRows& run : rows) {
    if (run.rows > 0 && cols > 0) bands.push_back(ResidentBand(run, cols));
  }
  if (bands.empty()) return true;
  const std::vector<Group> groups = GroupBands(&bands);
  Counters counters = NothingMeasured();
  if (!scratch->Run(bands.data(), bands.size() * sizeof(DeviceBand), &counters, seconds, error,
                    [&](const uint8_t* at, unsigned long long* found) {
                      return LaunchMeasure(groups, reinterpret_cast<const DeviceBand*>(at), via_bf16,
                                           reinterpret_cast<MeasureTally*>(found), multiprocessors, nullptr, error);
                    })) {
    return false;
  }
  AddMeasured(counters, measured);
  return true;
}

bool EncodeStaged(const EncodeJob& job, const SlotPair& slots, int multiprocessors, EncodeCounts* counts,
                  std::string* error) {
  *counts = {};
  if (job.rows == 0 || job.cols == 0) return true;
  const TargetRows target = TargetRowsOf(job);
  Cutter cutter(job.from, job.cols, &target, slots[0]->empty_room(), slots[0]->descriptor_bytes() / sizeof(DeviceRun));
  bool fits = true;
  const bool ok = ForBatches(
      &cutter, slots, &fits, error,
      [&](const std::vector<Piece>& batch, StagingSlot* slot) {
        return StartEncode(batch, job, slot, multiprocessors, error);
      },
      [&](const Counters& counters) { *counts += CountsOf(counters); });
  if (!ok) return false;
  if (!fits) {
    *counts = EncodeRows(job);
    return true;
  }
  counts->blocks = BlocksOf(job);
  if (job.errors != nullptr) SumErrors(job, KernelsFor(BestIsa()), EncodersFor(BestIsa()));
  return true;
}

bool EncodeResident(const EncodeJob& job, DeviceScratch* scratch, int multiprocessors, EncodeCounts* counts,
                    double* seconds, std::string* error) {
  *counts = {};
  *seconds = 0;
  std::vector<DeviceRun> runs;
  uint64_t row = 0;
  const bool cells = job.encoding.codec == Codec::kFp8Block;
  for (const SourceRows& rows : job.from) {
    if (rows.rows == 0 || job.cols == 0) continue;
    runs.push_back({ResidentBand(rows, job.cols), job.codes + row * job.code_row_bytes, job.code_row_bytes,
                    job.scales + (cells ? 0 : row * job.scale_row_bytes), job.scale_row_bytes, row,
                    Keeps(job) ? job.keep + (cells ? 0 : row * job.scale_row_bytes) : nullptr});
    row += rows.rows;
  }
  if (runs.empty()) return true;
  const std::vector<Group> groups = Prepare(job, &runs);
  Counters counters{};
  if (!scratch->Run(runs.data(), runs.size() * sizeof(DeviceRun), &counters, seconds, error,
                    [&](const uint8_t* at, unsigned long long* found) {
                      return LaunchRuns(groups, reinterpret_cast<const DeviceRun*>(at), runs.size(), job.rows, job,
                                        found, multiprocessors, nullptr, error);
                    })) {
    return false;
  }
  *counts = CountsOf(counters);
  counts->blocks = BlocksOf(job);
  return true;
}

}  // namespace mimo::kernels::cuda
