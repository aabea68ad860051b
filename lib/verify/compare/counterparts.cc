#include "lib/verify/compare/counterparts.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "lib/model/names.h"
#include "lib/verify/compare/sketch.h"

namespace mimo {
namespace {

constexpr int64_t kProbes = 16;       // rows of a tensor that are held against its counterpart's
constexpr size_t kMostLooked = 4096;  // tensors that are tried

enum class Relation : uint8_t { kExpert, kLayer, kOther };

// What `other` would be to `tensor`; the likely ones first.
Relation RelationOf(const TensorId& here, const TensorId& there) {
  if (here.role != there.role || here.part != there.part || here.role == Role::kUnknown) return Relation::kOther;
  if (here.layer < 0 || there.layer < 0) return Relation::kOther;
  if (here.layer == there.layer && here.mtp == there.mtp)
    return here.expert >= 0 ? Relation::kExpert : Relation::kOther;
  return here.expert == there.expert ? Relation::kLayer : Relation::kOther;
}

struct Candidate {
  Relation relation;
  int64_t away = 0;  // experts, layers
  const LogicalTensor* tensor = nullptr;
};

std::vector<Candidate> CandidatesFor(const LogicalCheckpoint& a, const LogicalTensor& tensor) {
  const TensorId& here = tensor.rows.array().id;
  std::vector<Candidate> candidates;
  for (const LogicalTensor& other : a.tensors()) {
    const TensorId& there = other.rows.array().id;
    if (&other == &tensor || !other.rows.has_values() || other.rows.array().shape != tensor.rows.array().shape)
      continue;
    const Relation relation = RelationOf(here, there);
    // Of experts of other layers there are too many.
    if (relation == Relation::kOther && there.expert >= 0 && there.layer != here.layer) continue;
    candidates.push_back({relation, std::abs(there.layer - here.layer) + std::abs(there.expert - here.expert), &other});
  }
  std::stable_sort(candidates.begin(), candidates.end(), [](const Candidate& x, const Candidate& y) {
    return std::pair(x.relation, x.away) < std::pair(y.relation, y.away);
  });
  if (candidates.size() > kMostLooked) candidates.resize(kMostLooked);
  return candidates;
}

// Rows of a tensor, spread over it, as sketches; of a vector its values.
struct Probe {
  std::vector<RowSketch> sketches;
  std::vector<float> values;
};

int64_t RowOfProbe(const LogicalTensor& tensor, int64_t probe) {
  const int64_t rows = tensor.rows.rows(), probes = std::min(kProbes, rows);
  return (2 * probe + 1) * rows / (2 * probes);
}

Status TakeProbe(const LogicalCheckpoint& checkpoint, const LogicalTensor& tensor, int64_t probe, Probe* into) {
  if (tensor.rows.rows() == 1)
    return VisitRows(checkpoint, tensor, [&](int64_t, int64_t, const float* values) {
      into->values.assign(values, values + tensor.rows.cols());
    });
  std::vector<RowSketch> one;
  MIMO_RETURN_IF_ERROR(SketchSomeRows(checkpoint, tensor, RowOfProbe(tensor, probe), 1, &one));
  into->sketches.push_back(one[0]);
  return {};
}

// Whether nearly all elements are the same but for the rounding of a type: small beside what tells them apart.
bool IsSameVector(const std::vector<float>& x, const std::vector<float>& y) {
  const auto middle_of = [](std::vector<float> values) {
    const auto middle = values.begin() + static_cast<ptrdiff_t>(values.size() / 2);
    std::nth_element(values.begin(), middle, values.end());
    return *middle;
  };
  const float middle = middle_of(x);
  std::vector<float> away = x;
  for (float& value : away) value = std::abs(value - middle);
  const double near = middle_of(std::move(away)) / 20;
  size_t same = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double apart = std::abs(static_cast<double>(x[i]) - y[i]);
    same += x[i] == y[i] || (apart <= std::abs(x[i]) * 0x1p-8 && apart <= near);
  }
  return same * 100 >= x.size() * 95;
}

// Whether most rows that are probed are the same.
Result<bool> IsCounterpart(const LogicalCheckpoint& a, const LogicalTensor& other, const Probe& of_b) {
  Probe probe;
  if (!of_b.values.empty()) {
    MIMO_RETURN_IF_ERROR(TakeProbe(a, other, 0, &probe));
    return IsSameVector(of_b.values, probe.values);
  }
  size_t same = 0;
  for (size_t i = 0; i < of_b.sketches.size(); ++i) {
    MIMO_RETURN_IF_ERROR(TakeProbe(a, other, static_cast<int64_t>(i), &probe));
    same += IsSameRow(of_b.sketches[i], probe.sketches[i], other.rows.cols());
    if (i == 1 && same == 0) return false;
  }
  return same * 10 >= of_b.sketches.size() * 7;
}

Status TakeProbes(const LogicalCheckpoint& checkpoint, const LogicalTensor& tensor, Probe* into) {
  const int64_t probes = std::min(kProbes, tensor.rows.rows());
  for (int64_t i = 0; i < probes; ++i) MIMO_RETURN_IF_ERROR(TakeProbe(checkpoint, tensor, i, into));
  return {};
}

// Whether B has a tensor of A where A has it.
Result<bool> IsInPlace(const LogicalCheckpoint& a, const LogicalCheckpoint& b, const LogicalTensor& of_a) {
  const LogicalTensor* there = b.Find(of_a.name);
  if (there == nullptr || there->rows.array().shape != of_a.rows.array().shape || !there->rows.has_values())
    return false;
  Probe probe;
  MIMO_RETURN_IF_ERROR(TakeProbes(b, *there, &probe));
  return IsCounterpart(a, of_a, probe);
}

const char* KindOf(Relation relation, bool repeated) {
  switch (relation) {
    case Relation::kExpert:
      return repeated ? "experts.repeated" : "experts.permuted";
    case Relation::kLayer:
      return repeated ? "layers.repeated" : "layers.exchanged";
    case Relation::kOther:
      break;
  }
  return repeated ? "tensor.repeated" : "tensor.exchanged";
}

}  // namespace

Result<PlaceFinding> FindCounterpart(const LogicalCheckpoint& a, const LogicalCheckpoint& b, const TensorPair& pair) {
  Probe of_b;
  MIMO_RETURN_IF_ERROR(TakeProbes(b, *pair.b, &of_b));
  // What has one value everywhere is no tensor in particular.
  if (pair.b->rows.rows() == 1 &&
      std::all_of(of_b.values.begin(), of_b.values.end(), [&](float value) { return value == of_b.values[0]; }))
    return PlaceFinding();
  for (const Candidate& candidate : CandidatesFor(a, *pair.a)) {
    MIMO_ASSIGN_OR_RETURN(const bool same, IsCounterpart(a, *candidate.tensor, of_b));
    if (!same) continue;
    MIMO_ASSIGN_OR_RETURN(const bool repeated, IsInPlace(a, b, *candidate.tensor));
    return PlaceFinding{KindOf(candidate.relation, repeated), "this is " + candidate.tensor->name, 0};
  }
  return PlaceFinding();
}

}  // namespace mimo
