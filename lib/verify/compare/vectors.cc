#include "lib/verify/compare/vectors.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>

#include "lib/verify/compare/elements.h"

namespace mimo {
namespace {

double MiddleOf(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// At most so many elements of `n` may be damaged on top of anything: none of a few.
size_t DamageIn(size_t n) {
  return n * 3 / 100;
}

size_t ChangedIn(const std::vector<float>& x, const std::vector<float>& y) {
  size_t changed = 0;
  for (size_t i = 0; i < x.size(); ++i) changed += x[i] != y[i] && !(std::isnan(x[i]) && std::isnan(y[i]));
  return changed;
}

std::string CountText(size_t changed, size_t all) {
  return std::to_string(changed) + " of " + std::to_string(all) + " elements";
}

// The value that all but a few elements are, where those of `x` are not.
std::optional<float> ConstantOf(const std::vector<float>& x, const std::vector<float>& y) {
  std::map<float, size_t> in_x, in_y;
  for (const float value : x)
    if (!std::isnan(value)) ++in_x[value];
  for (const float value : y)
    if (!std::isnan(value)) ++in_y[value];
  for (const auto& [value, count] : in_y) {
    if (count + DamageIn(y.size()) < y.size()) continue;
    const auto before = in_x.find(value);
    if (before == in_x.end() || before->second * 2 < count) return value;
  }
  return std::nullopt;
}

// One factor, or one summand, for all but a few.
PlaceFinding FindFactorOrOffset(const std::vector<float>& x, const std::vector<float>& y) {
  std::vector<double> offsets, factors;
  for (size_t i = 0; i < x.size(); ++i) {
    if (!std::isfinite(x[i]) || !std::isfinite(y[i])) continue;
    offsets.push_back(static_cast<double>(y[i]) - x[i]);
    if (x[i] != 0) factors.push_back(static_cast<double>(y[i]) / x[i]);
  }
  const double offset = MiddleOf(std::move(offsets)), factor = MiddleOf(std::move(factors));
  size_t by_offset = 0, by_factor = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double near = std::max(std::abs(static_cast<double>(x[i])), std::abs(static_cast<double>(y[i]))) * 0x1p-7;
    by_offset += std::abs(y[i] - (x[i] + offset)) <= std::min(near, std::abs(offset) / 4);
    by_factor += std::abs(y[i] - x[i] * factor) <=
                 std::max(std::abs(static_cast<double>(y[i])), std::abs(x[i] * factor)) * 0x1p-7;
  }
  const size_t enough = x.size() - std::max(DamageIn(x.size()), x.size() / 10);
  // A factor near 1 is what the equal elements have.
  if (by_factor >= enough && std::abs(factor - 1) > 0x1p-6)
    return {factor < 0 && std::abs(factor + 1) < 0x1p-6 ? "values.negated" : "values.scaled",
            "times " + FormatNumber("%.6g", factor), factor};
  if (by_offset >= enough && offset != 0) return {"values.offset", "plus " + FormatNumber("%.6g", offset), 0};
  return {};
}

// How many elements of `y` are elements of `x` in whatever place, each once.
size_t SharedIn(std::vector<float> x, std::vector<float> y) {
  std::sort(x.begin(), x.end());
  std::sort(y.begin(), y.end());
  size_t shared = 0;
  for (size_t i = 0, j = 0; i < x.size() && j < y.size();) {
    if (x[i] < y[j]) {
      ++i;
    } else if (y[j] < x[i]) {
      ++j;
    } else {
      ++shared;
      ++i;
      ++j;
    }
  }
  return shared;
}

// A few of the moves, "3 is 5, 5 is 3".
std::string MovesOf(const std::vector<float>& x, const std::vector<float>& y) {
  std::string moves;
  size_t shown = 0;
  for (size_t i = 0; i < y.size() && shown < 3; ++i) {
    if (x[i] == y[i]) continue;
    const auto from = std::find(x.begin(), x.end(), y[i]);
    if (from == x.end()) continue;
    ++shown;
    moves += (moves.empty() ? "" : ", ") + std::to_string(i) + " is " + std::to_string(from - x.begin());
  }
  return moves;
}

}  // namespace

Status ReadVectors(const LogicalCheckpoint& a, const LogicalTensor& in_a, const LogicalCheckpoint& b,
                   const LogicalTensor& in_b, std::vector<float>* x, std::vector<float>* y) {
  return VisitRowPairs(a, in_a, b, in_b, [&](int64_t, int64_t, const float* from_a, const float* from_b) {
    x->assign(from_a, from_a + in_a.rows.cols());
    y->assign(from_b, from_b + in_b.rows.cols());
  });
}

PlaceFinding FindVectorRule(const std::vector<float>& x, const std::vector<float>& y) {
  const size_t changed = ChangedIn(x, y), damage = DamageIn(x.size());
  if (changed == 1 && x.size() > 1) {
    const size_t at = static_cast<size_t>(
        std::mismatch(x.begin(), x.end(), y.begin(), [](float a, float b) { return a == b || std::isnan(a); }).first -
        x.begin());
    return {"values.single", "element " + std::to_string(at), 0};
  }
  size_t broken = 0;
  for (size_t i = 0; i < x.size(); ++i) broken += std::isfinite(x[i]) && !std::isfinite(y[i]);
  if (broken > damage) return {"values.non-finite", CountText(broken, x.size()) + " are no numbers any more", 0};
  if (changed > damage) {
    const ElementVotes votes = CountElements(x.data(), y.data(), static_cast<int64_t>(x.size()), 0, Codec::kFp32);
    if (votes.not_bf16 > 0 && votes.rounded + damage >= changed)
      return {"values.f32-bits-lost", "these are the values rounded to BF16", 0};
    if (votes.not_bf16 > 0 && votes.truncated + damage >= changed)
      return {"values.truncated", "these are the values with the bits beyond BF16 cut off, not rounded", 0};
  }
  if (x.size() > 2)
    if (const auto constant = ConstantOf(x, y)) return {"values.constant", "all " + FormatNumber("%.6g", *constant), 0};
  return FindFactorOrOffset(x, y);
}

PlaceFinding FindVectorOrder(const std::vector<float>& x, const std::vector<float>& y) {
  const size_t changed = ChangedIn(x, y), damage = DamageIn(x.size());
  const std::string count = CountText(changed, x.size());
  // Vectors of a few hundred different values share most of them with any other: less may be amiss here.
  if (changed > damage && SharedIn(x, y) + x.size() / 50 >= x.size())
    return {"values.permuted", count + " are those of other places: " + MovesOf(x, y), 0};
  size_t near = 0;
  for (size_t i = 0; i < x.size(); ++i) near += std::abs(y[i] - x[i]) <= std::abs(x[i]) * 0x1p-6f;
  if (near == x.size()) return {"values.noise", count + ", near everywhere", 0};
  if (changed * 5 <= x.size()) return {"values.damaged", count, 0};
  return {"values.other", count, 0};
}

}  // namespace mimo
