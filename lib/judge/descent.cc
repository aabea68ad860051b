#include "lib/judge/descent.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <mutex>
#include <numeric>
#include <unordered_map>

#include "lib/base/checked.h"
#include "lib/base/workers.h"
#include "lib/model/role_groups.h"

namespace mimo {
namespace {

constexpr int64_t kCutColumns = 128;  // columns are cut at multiples of these: whole groups of every codec
// Vectors with fewer (sinks, biases of routers) may move as a whole; all of them zero is another matter.
constexpr uint64_t kFewElements = 1024;

// A little of every unit costs what its rows cost to fetch: two halves of rows where 32 rows are compared, more and
// shorter pieces where units are few (heads), or where single rows may be new (tokens that a run gave a meaning).
int64_t PiecesOf(const StrandPair& pair) {
  switch (pair.kind) {
    case UnitKind::kHead:
      return 4;
    case UnitKind::kStrip:
      return pair.id.role == Role::kEmbed || pair.id.role == Role::kLmHead ? 8 : 2;
    case UnitKind::kHeadColumns:
    case UnitKind::kRow:
    case UnitKind::kVector:
      break;
  }
  return 1;
}

// Sums in lanes: fast, and the same on every machine.
void AddSums(const float* a, const float* b, size_t count, Likeness* likeness) {
  constexpr size_t kLanes = 8;
  double dot[kLanes] = {}, run[kLanes] = {}, reference[kLanes] = {};
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      const double x = a[i + lane], y = b[i + lane];
      dot[lane] += x * y;
      run[lane] += x * x;
      reference[lane] += y * y;
    }
  }
  for (size_t lane = 0; i < count; ++i, ++lane) {
    const double x = a[i], y = b[i];
    dot[lane] += x * y;
    run[lane] += x * x;
    reference[lane] += y * y;
  }
  for (size_t lane = 0; lane < kLanes; ++lane) {
    likeness->dot += dot[lane];
    likeness->run += run[lane];
    likeness->reference += reference[lane];
  }
  likeness->elements += count;
}

// What one thread found.
struct ComparedShare {
  std::vector<Divergence> divergences;
  uint64_t units = 0, elements = 0, bytes = 0;
  double least = 1;
  size_t least_pair = 0;
  int64_t least_unit = -1;
};

class Comparer {
 public:
  Comparer(FileSystem& fs, const Checkpoint& merged, const std::vector<StrandPair>& pairs)
      : pairs_(pairs), run_(fs, merged), reference_(fs, merged) {}

  Status Compare(size_t index) {
    const StrandPair& pair = pairs_[index];
    MIMO_RETURN_IF_ERROR(run_.Begin(pair.run));
    MIMO_RETURN_IF_ERROR(reference_.Begin(pair.reference));
    std::vector<Likeness> units(static_cast<size_t>(pair.units()));
    for (const SampledRow& piece : SampleOf(pair)) {
      const auto cols = static_cast<size_t>(piece.cols);
      run_values_.resize(cols);
      reference_values_.resize(cols);
      MIMO_RETURN_IF_ERROR(run_.Read(piece.row, piece.col, run_values_));
      MIMO_RETURN_IF_ERROR(reference_.Read(piece.row, piece.col, reference_values_));
      if (pair.kind != UnitKind::kHeadColumns) {
        units[static_cast<size_t>(piece.unit)].Add(run_values_, reference_values_);
        continue;
      }
      const auto width = static_cast<size_t>(pair.unit);
      for (size_t u = 0; u < units.size(); ++u)
        units[u].Add(std::span(run_values_).subspan(u * width, width),
                     std::span(reference_values_).subspan(u * width, width));
    }
    Judge(index, units);
    return {};
  }

  ComparedShare Take() {
    found_.bytes = run_.bytes() + reference_.bytes();
    return std::move(found_);
  }

 private:
  void Judge(size_t index, const std::vector<Likeness>& units) {
    Likeness all;
    for (const Likeness& unit : units) all += unit;
    const double usual = all.elements == 0 ? 0 : all.reference / static_cast<double>(all.elements);
    const bool few = pairs_[index].kind == UnitKind::kVector && all.elements < kFewElements;
    Divergence divergence;
    divergence.pair = index;
    for (size_t u = 0; u < units.size(); ++u) {
      const Likeness& unit = units[u];
      ++found_.units;
      found_.elements += unit.elements;
      const double norm = usual * static_cast<double>(unit.elements) * kNegligibleShare * kNegligibleShare;
      if (unit.reference == 0 || unit.reference < norm) continue;
      if (few && unit.run != 0) continue;
      const double cosine = unit.cosine();
      if (cosine < found_.least) {
        found_.least = cosine;
        found_.least_pair = index;
        found_.least_unit = static_cast<int64_t>(u);
      }
      if (cosine >= kLeastCosine) continue;
      divergence.units.push_back(static_cast<int64_t>(u));
      divergence.cosines.push_back(cosine);
    }
    if (!divergence.units.empty()) found_.divergences.push_back(std::move(divergence));
  }

  const std::vector<StrandPair>& pairs_;
  StrandReader run_, reference_;
  std::vector<float> run_values_, reference_values_;
  ComparedShare found_;
};

class PairMaker {
 public:
  PairMaker(const Checkpoint& merged, Descent* descent)
      : merged_(merged), like_(*merged.like), catalogue_(merged.catalogue()), descent_(*descent) {}

  void Make() {
    for (uint32_t i = 0; i < like_.first_grafted; ++i)
      run_of_.emplace(NameOf(merged_.inventory.weights[i]), &merged_.inventory.weights[i]);
    for (const AttentionWeights& a : like_.reference.attention) AddAttention(a);
    for (const Weight& w : like_.reference.weights)
      if (!IsAttentionProjection(w.id.role)) AddWeight(w);
  }

 private:
  std::string NameOf(const Weight& w) const {
    const std::string name = catalogue_.table->NameOf(w.id);
    if (!name.empty() && !IsTower(w.id.role)) return name;
    const std::string& stored = catalogue_.arrays[w.array].name;
    return stored.starts_with(kReferencePrefix) ? stored.substr(sizeof kReferencePrefix - 1) : stored;
  }

  const AttentionShape& ShapeOf(int32_t layer, bool mtp) {
    const bool windowed = catalogue_.config.windowed_at(layer, mtp);
    std::optional<AttentionShape>& shape = shapes_[windowed ? 1 : 0];
    if (!shape) shape = LogicalShape(catalogue_.config, windowed);
    return *shape;
  }

  void AddAttention(const AttentionWeights& reference) {
    if (reference.first() == kNone) return;
    const AttentionWeights* run = nullptr;
    for (const AttentionWeights& a : merged_.inventory.attention)
      if (a.mtp == reference.mtp && a.layer == reference.layer && a.first() < like_.first_grafted) run = &a;
    if (run == nullptr) return;
    const auto weights = [](const AttentionWeights& a, const Inventory& inventory) {
      std::vector<const Weight*> list;
      for (const uint32_t i : a.in_order()) list.push_back(i == kNone ? nullptr : &inventory.weights[i]);
      return list;
    };
    const AttentionShape& shape = ShapeOf(reference.layer, reference.mtp);
    std::vector<Strand> of_run =
        AttentionStrands(merged_, weights(*run, merged_.inventory), merged_.layout.layout, shape);
    std::vector<Strand> of_reference =
        AttentionStrands(merged_, weights(reference, like_.reference), like_.layout, shape);
    const std::string first = NameOf(merged_.inventory.weights[run->first()]);
    if (of_run.empty() || of_reference.empty()) {
      descent_.unread.push_back(first);
      return;
    }
    constexpr Role kRoles[] = {Role::kAttnQ, Role::kAttnK, Role::kAttnV};
    for (size_t i = 0; i < of_run.size(); ++i) {
      StrandPair pair{std::move(of_run[i]), std::move(of_reference[i]), {}, first, UnitKind::kHead, shape.head_dim};
      pair.id = {kRoles[i], Part::kWeight, reference.mtp, reference.layer, -1};
      if (!run->fused()) pair.name = NameOf(*pair.run.weights[i]);
      if (kRoles[i] == Role::kAttnV) pair.unit = shape.v_head_dim;
      descent_.pairs.push_back(std::move(pair));
    }
  }

  // Elements of a head in a norm of Q or K over all heads; 0 for every other weight.
  int64_t WidthOfHeadNorm(const TensorId& id, const Strand& strand) {
    if ((id.role != Role::kAttnQNorm && id.role != Role::kAttnKNorm) || strand.rows != 1) return 0;
    const int64_t width = ShapeOf(id.layer, id.mtp).head_dim;
    return width > 0 && strand.cols > width && strand.cols % width == 0 ? width : 0;
  }

  void AddWeight(const Weight& reference) {
    const auto found = run_of_.find(NameOf(reference));
    if (found == run_of_.end()) return;
    const std::optional<Strand> a = StrandOf(merged_, *found->second), b = StrandOf(merged_, reference);
    if (!a || !b || a->rows != b->rows || a->cols != b->cols || a->rows * a->cols == 0) {
      descent_.unread.push_back(found->first);
      return;
    }
    StrandPair pair{*a, *b, reference.id, found->first, UnitKind::kStrip, kStripRows};
    if (reference.id.role == Role::kRouter) {
      pair.kind = UnitKind::kRow;
      pair.unit = 1;
    } else if (reference.id.role == Role::kAttnO) {
      const int64_t width = ShapeOf(reference.id.layer, reference.id.mtp).v_head_dim;
      if (width > 0 && a->cols % width == 0) {
        pair.kind = UnitKind::kHeadColumns;
        pair.unit = width;
      }
    } else if (const int64_t width = WidthOfHeadNorm(reference.id, *a); width > 0) {
      pair.kind = UnitKind::kHeadColumns;
      pair.unit = width;
    } else if (a->rows == 1) {
      pair.kind = UnitKind::kVector;
      pair.unit = 1;
    }
    descent_.pairs.push_back(std::move(pair));
  }

  const Checkpoint& merged_;
  const Like& like_;
  const Catalogue& catalogue_;
  Descent& descent_;
  std::unordered_map<std::string, const Weight*> run_of_;
  std::array<std::optional<AttentionShape>, 2> shapes_;
};

}  // namespace

int64_t StrandPair::units() const {
  return kind == UnitKind::kHeadColumns ? run.cols / unit : CeilDiv(run.rows, unit);
}

std::string StrandPair::UnitName(int64_t index) const {
  switch (kind) {
    case UnitKind::kHead:
      return (id.role == Role::kAttnQ   ? "Q head "
              : id.role == Role::kAttnK ? "K head "
                                        : "V head ") +
             std::to_string(index);
    case UnitKind::kHeadColumns:
      return (id.role == Role::kAttnQNorm   ? "Q head "
              : id.role == Role::kAttnKNorm ? "K head "
                                            : "columns of head ") +
             std::to_string(index);
    case UnitKind::kRow:
      return "row " + std::to_string(index);
    case UnitKind::kStrip:
      return "rows " + std::to_string(index * unit) + " to " +
             std::to_string(std::min((index + 1) * unit, run.rows) - 1);
    case UnitKind::kVector:
      break;
  }
  return "all of it";
}

std::vector<SampledRow> SampleOf(const StrandPair& pair) {
  std::vector<SampledRow> sample;
  const int64_t cols = pair.run.cols;
  if (pair.kind == UnitKind::kHeadColumns) {  // whole rows, which hold some of every head
    const int64_t count = std::min(pair.run.rows, CeilDiv(kSampledElements, pair.unit));
    for (int64_t i = 0; i < count; ++i) sample.push_back({0, (2 * i + 1) * pair.run.rows / (2 * count), 0, cols});
    return sample;
  }
  for (int64_t unit = 0; unit < pair.units(); ++unit) {
    const int64_t first = unit * pair.unit, rows = std::min(pair.unit, pair.run.rows - first);
    const int64_t pieces = std::min(rows, std::max(PiecesOf(pair), CeilDiv(kSampledElements, cols)));
    const int64_t wanted = CeilDiv(CeilDiv(kSampledElements, pieces), kCutColumns) * kCutColumns;
    const int64_t width = pair.kind == UnitKind::kVector ? cols : std::min(cols, wanted);
    const int64_t windows = cols / width;
    for (int64_t i = 0; i < pieces; ++i) {
      const int64_t row = (i * rows / pieces + unit * 5) % rows;  // all different: less than `rows` apart
      sample.push_back({unit, first + row, (unit + i) % windows * width, width});
    }
  }
  return sample;
}

void Likeness::Add(std::span<const float> run_values, std::span<const float> reference_values) {
  Likeness sums;
  AddSums(run_values.data(), reference_values.data(), run_values.size(), &sums);
  if (!std::isfinite(sums.run) || !std::isfinite(sums.reference)) {
    sums = {};
    for (size_t i = 0; i < run_values.size(); ++i)
      if (std::isfinite(run_values[i]) && std::isfinite(reference_values[i]))
        AddSums(&run_values[i], &reference_values[i], 1, &sums);
  }
  *this += sums;
}

Likeness& Likeness::operator+=(const Likeness& o) {
  dot += o.dot;
  run += o.run;
  reference += o.reference;
  elements += o.elements;
  return *this;
}

double Likeness::cosine() const {
  if (run == 0 && reference == 0) return 1;
  return run == 0 || reference == 0 ? 0 : dot / (std::sqrt(run) * std::sqrt(reference));
}

Descent PairsOfDescent(const Checkpoint& merged) {
  Descent descent;
  PairMaker(merged, &descent).Make();
  return descent;
}

std::vector<size_t> PairsOfGateUp(const Descent& descent) {
  const auto of_experts = [](const TensorId& id) {
    return !id.mtp && (id.role == Role::kExpertGate || id.role == Role::kExpertUp);
  };
  int32_t first = INT32_MAX;
  for (const StrandPair& pair : descent.pairs)
    if (of_experts(pair.id)) first = std::min(first, pair.id.layer);
  std::vector<size_t> found;
  for (size_t i = 0; i < descent.pairs.size(); ++i)
    if (of_experts(descent.pairs[i].id) && descent.pairs[i].id.layer == first) found.push_back(i);
  return found;
}

Result<Descent> CompareDescent(FileSystem& fs, const Checkpoint& merged, int threads) {
  Descent descent = PairsOfDescent(merged);
  std::vector<size_t> all(descent.pairs.size());
  std::iota(all.begin(), all.end(), size_t{0});
  MIMO_RETURN_IF_ERROR(CompareDescent(fs, merged, all, threads, &descent));
  return descent;
}

Status CompareDescent(FileSystem& fs, const Checkpoint& merged, const std::vector<size_t>& pairs, int threads,
                      Descent* out) {
  Descent& descent = *out;
  std::atomic<size_t> next = 0;
  std::mutex mutex;
  std::vector<ComparedShare> all;
  constexpr size_t kShare = 4;  // pairs that a thread takes at a time
  const auto count =
      std::min<size_t>(static_cast<size_t>(threads > 0 ? threads : ThreadsOfMachine()), CeilDiv(pairs.size(), kShare));
  Workers workers(static_cast<int>(std::max<size_t>(count, 1)), "fewer --threads");
  const auto work = [&](int) -> Status {
    Comparer comparer(fs, merged, descent.pairs);
    for (size_t begin = next.fetch_add(kShare); begin < pairs.size() && !workers.stopped();
         begin = next.fetch_add(kShare))
      for (size_t i = begin; i < std::min(begin + kShare, pairs.size()); ++i)
        MIMO_RETURN_IF_ERROR(comparer.Compare(pairs[i]));
    const std::lock_guard lock(mutex);
    all.push_back(comparer.Take());
    return {};
  };
  MIMO_RETURN_IF_ERROR(workers.Run(work));
  size_t least_pair = descent.pairs.size();
  for (ComparedShare& found : all) {
    std::move(found.divergences.begin(), found.divergences.end(), std::back_inserter(descent.divergences));
    descent.units += found.units;
    descent.elements += found.elements;
    descent.bytes += found.bytes;
    if (found.least_unit < 0) continue;
    if (found.least > descent.least || (found.least == descent.least && found.least_pair >= least_pair)) continue;
    descent.least = found.least;
    least_pair = found.least_pair;
    descent.least_place = descent.pairs[least_pair].name + ", " + descent.pairs[least_pair].UnitName(found.least_unit);
  }
  std::sort(descent.divergences.begin(), descent.divergences.end(),
            [](const Divergence& a, const Divergence& b) { return a.pair < b.pair; });
  return {};
}

}  // namespace mimo
