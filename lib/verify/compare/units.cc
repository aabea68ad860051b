#include "lib/verify/compare/units.h"

#include <algorithm>
#include <numeric>
#include <tuple>

#include "lib/base/workers.h"
#include "lib/decode/row_bytes.h"

namespace mimo {
namespace {

constexpr uint64_t kUnitBytes = 2 << 20;   // of one side, as it is stored
constexpr uint64_t kKeptBytes = 24 << 20;  // of the buffers that are used again
constexpr char kMoreMemory[] = "try again with more memory";

// Bytes of a row as it is stored, but for scales.
uint64_t StoredRowBytes(const ValueRows& rows) {
  return rows.stored_as() ? ColumnBytes(*rows.stored_as(), rows.cols()) : rows.row_bytes();
}

// Where a tensor begins in the files of its checkpoint.
std::pair<uint32_t, uint64_t> PlaceOf(const Job& job, const ValueRows& rows) {
  for (const Piece& piece : rows.array().pieces)
    if (piece.source != kNone) return job.PlaceOf(piece.source, piece.source_row);
  return {UINT32_MAX, 0};
}

}  // namespace

std::vector<CompareUnit> UnitsOf(const TensorPair& pair, uint32_t number) {
  const ValueRows &a = pair.a->rows, &b = pair.b->rows;
  const int64_t strip = UnitComparer(a, b).strip_rows();
  const uint64_t row_bytes = std::max<uint64_t>({1, StoredRowBytes(a), StoredRowBytes(b)});
  const int64_t strips = std::max<int64_t>(1, static_cast<int64_t>(kUnitBytes / row_bytes) / strip);
  const int64_t rows = a.turned() || b.turned() ? std::max<int64_t>(1, a.rows()) : strips * strip;
  std::vector<CompareUnit> units;
  for (int64_t row = 0; row < a.rows(); row += rows) units.push_back({number, row, std::min(rows, a.rows() - row)});
  return units;
}

std::vector<uint32_t> PairsInOrder(const LogicalCheckpoint& a, const std::vector<TensorPair>& pairs) {
  std::vector<std::pair<uint32_t, uint64_t>> places;
  places.reserve(pairs.size());
  for (const TensorPair& pair : pairs) places.push_back(PlaceOf(a.job(), pair.a->rows));
  std::vector<uint32_t> order(pairs.size());
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(),
            [&](uint32_t x, uint32_t y) { return std::tie(places[x], x) < std::tie(places[y], y); });
  return order;
}

UnitRunner::UnitRunner(const LogicalCheckpoint& a, const LogicalCheckpoint& b, const std::vector<TensorPair>& pairs,
                       const UnitRunOptions& options)
    : a_(a),
      b_(b),
      pairs_(pairs),
      options_(options),
      memory_bytes_(options.memory_bytes > 0 ? options.memory_bytes : DefaultMemoryBytes()),
      budget_(memory_bytes_, kKeptBytes) {
  comparers_.reserve(pairs.size());
  for (const TensorPair& pair : pairs) comparers_.emplace_back(pair.a->rows, pair.b->rows);
}

Status UnitRunner::Run(const std::vector<CompareUnit>& units, bool measure, std::vector<UnitResult>* results) {
  results->assign(units.size(), {});
  std::atomic<size_t> next = 0;
  Workers workers(options_.threads > 0 ? options_.threads : ThreadsOfMachine(), kMoreMemory);
  return workers.Run(
      [&](int) -> Status {
        while (!workers.stopped()) {
          const size_t at = next++;
          if (at >= units.size()) break;
          const CompareUnit& unit = units[at];
          MIMO_RETURN_IF_ERROR(RunOne(unit, comparers_[unit.pair], measure, &(*results)[at]));
        }
        return {};
      },
      [this] { budget_.Cancel(); });
}

Status UnitRunner::RunOne(const CompareUnit& unit, const UnitComparer& comparer, bool measure, UnitResult* result) {
  const TensorPair& pair = pairs_[unit.pair];
  StepLayout layout_a(a_.job()), layout_b(b_.job());
  pair.a->rows.Place(pair.a->rows.PiecesOf(unit.row, unit.rows), unit.row, unit.rows, &layout_a);
  pair.b->rows.Place(pair.b->rows.PiecesOf(unit.row, unit.rows), unit.row, unit.rows, &layout_b);
  layout_a.Place(2 * kUnitBytes);
  layout_b.Place(2 * kUnitBytes);
  const uint64_t bytes_a = (layout_a.buffer_bytes() + 4095) / 4096 * 4096;
  const uint64_t bytes = bytes_a + layout_b.buffer_bytes();
  const Buffer buffer = budget_.Acquire(bytes);
  if (!buffer && bytes > memory_bytes_)
    return UsageError("the memory is too small for rows of both checkpoints")
        .Tensor(pair.a->name)
        .Expected("at least " + std::to_string(bytes) + " bytes")
        .Found(std::to_string(memory_bytes_) + " bytes")
        .Advice("raise --memory");
  if (!buffer) return IoError("no memory for " + std::to_string(bytes) + " bytes of rows").Advice(kMoreMemory);
  MIMO_RETURN_IF_ERROR(a_.Read(layout_a, buffer.data()));
  MIMO_RETURN_IF_ERROR(b_.Read(layout_b, buffer.data() + bytes_a));
  const StepBuffer in_a(layout_a, buffer.data()), in_b(layout_b, buffer.data() + bytes_a);
  MIMO_ASSIGN_OR_RETURN(*result, comparer.Compare(in_a, in_b, unit.row, unit.rows, measure));
  bytes_read_ += bytes;
  if (options_.progress != nullptr) options_.progress->Advance(bytes);
  return {};
}

}  // namespace mimo
