// Whether a run descends from its reference (--like): what training moves a little stays where it was, and what was
// permuted, sliced wrongly or is of another model does not. Samples of both are compared before anything is written:
// per head of attention, per expert of the router, per 32 rows of every other matrix, and vectors whole.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/forms/checkpoint.h"
#include "lib/judge/finding.h"
#include "lib/judge/strand.h"

namespace mimo {

inline constexpr double kLeastCosine = 0.5;           // of values of the run and of the reference
inline constexpr int64_t kSampledElements = 4096;     // of a unit at the least; all of one that has fewer
inline constexpr int64_t kStripRows = 32;             // of a unit that is no head
inline constexpr double kNegligibleShare = 1.0 / 64;  // of the norm that a unit of its weight has on average

// How a pair of strands is cut into units. Values.
enum class UnitKind : uint8_t {
  kHead,         // rows of one head
  kHeadColumns,  // columns of one head: the output projection, and norms of Q and K over all heads
  kRow,          // the router: an expert
  kStrip,        // 32 rows
  kVector,       // all of it
};

// The same matrix in the run and in the reference.
struct StrandPair {
  Strand run, reference;
  TensorId id;       // of attention: its Q, K or V, whatever is stored
  std::string name;  // of the tensor of the run
  UnitKind kind = UnitKind::kStrip;
  int64_t unit = kStripRows;  // rows of a unit, or columns (kHeadColumns)
  int64_t units() const;
  std::string UnitName(int64_t unit) const;  // "rows 32 to 63", "head 5"
};

// Part of a row that is compared. kHeadColumns: of all units, by column.
struct SampledRow {
  int64_t unit = 0;
  int64_t row = 0;
  int64_t col = 0;
  int64_t cols = 0;
};
// At least kSampledElements of each unit, or all, in few pieces of rows, cut at multiples of 128 columns; which rows
// and columns changes from unit to unit. Follows from the shape and the kind alone.
std::vector<SampledRow> SampleOf(const StrandPair& pair);

// Sums over a sample. Pairs with a value that is not finite are left out: who looks at health names them.
struct Likeness {
  double dot = 0, run = 0, reference = 0;
  uint64_t elements = 0;
  void Add(std::span<const float> run_values, std::span<const float> reference_values);
  Likeness& operator+=(const Likeness& o);
  // 1 where both are zero, 0 where one is.
  double cosine() const;
};

// A matrix with units that do not descend.
struct Divergence {
  size_t pair = 0;              // into Descent::pairs
  std::vector<int64_t> units;   // ascending
  std::vector<double> cosines;  // of them
};

struct Descent {
  std::vector<StrandPair> pairs;
  std::vector<Divergence> divergences;  // by pair
  std::vector<std::string> unread;      // weights that are not compared: their type or place is none that can be read
  uint64_t units = 0, elements = 0, bytes = 0;
  double least = 1;  // cosine of a unit that is not negligible
  std::string least_place;
};

// The pairs of a merged checkpoint, of which none is compared yet. They follow from what is stored, in one order.
Descent PairsOfDescent(const Checkpoint& merged);
// Those of PairsOfDescent that tell in which order gate and up of the experts lie: of the first layer that has some.
std::vector<size_t> PairsOfGateUp(const Descent& descent);
// Compares these pairs. Reads a few percent of their weights in the run and in the reference, on `threads` threads.
// Errors of reading.
Status CompareDescent(FileSystem& fs, const Checkpoint& merged, const std::vector<size_t>& pairs, int threads,
                      Descent* descent);
// Compares all that the run has.
Result<Descent> CompareDescent(FileSystem& fs, const Checkpoint& merged, int threads);

// What is to be said of it: one finding for every cause (schemas/findings/descent.json), each with the tensor where it
// was seen first and the place that its values match best. Reads more of what diverges, and of what could match.
Result<Verdict> JudgeDescent(FileSystem& fs, const Checkpoint& merged, const Descent& descent);

}  // namespace mimo
