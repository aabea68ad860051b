#include "lib/verify/compare/vectors.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>

namespace mimo {
namespace {

double MiddleOf(std::vector<double> values) {
  if (values.empty()) return 0;
  std::nth_element(values.begin(), values.begin() + static_cast<ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

std::string Formatted(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

// The places of `a` that the elements of `b` come from, where they are the same values in another order.
std::vector<size_t> OrderOf(const std::vector<float>& a, const std::vector<float>& b) {
  std::vector<size_t> in_a(a.size()), in_b(a.size()), from(a.size());
  for (size_t i = 0; i < a.size(); ++i) in_a[i] = in_b[i] = i;
  std::stable_sort(in_a.begin(), in_a.end(), [&](size_t x, size_t y) { return a[x] < a[y]; });
  std::stable_sort(in_b.begin(), in_b.end(), [&](size_t x, size_t y) { return b[x] < b[y]; });
  for (size_t i = 0; i < a.size(); ++i) {
    const float x = a[in_a[i]], y = b[in_b[i]];
    if (std::abs(x - y) > std::abs(x) * 0x1p-8f) return {};
    from[in_b[i]] = in_a[i];
  }
  return from;
}

}  // namespace

Result<PlaceFinding> CompareVectors(const LogicalCheckpoint& a, const LogicalTensor& in_a, const LogicalCheckpoint& b,
                                    const LogicalTensor& in_b) {
  std::vector<float> x, y;
  MIMO_RETURN_IF_ERROR(VisitRowPairs(a, in_a, b, in_b, [&](int64_t, int64_t, const float* from_a, const float* from_b) {
    x.assign(from_a, from_a + in_a.rows.cols());
    y.assign(from_b, from_b + in_b.rows.cols());
  }));
  std::vector<double> offsets, factors;
  std::vector<size_t> changed;
  for (size_t i = 0; i < x.size(); ++i) {
    if (x[i] != y[i]) changed.push_back(i);
    if (!std::isfinite(x[i]) || !std::isfinite(y[i])) continue;
    offsets.push_back(static_cast<double>(y[i]) - x[i]);
    if (x[i] != 0) factors.push_back(static_cast<double>(y[i]) / x[i]);
  }
  const std::string count = std::to_string(changed.size()) + " of " + std::to_string(x.size()) + " elements";
  if (changed.size() <= 1 && x.size() > 1)
    return PlaceFinding{"values.single", "element " + std::to_string(changed.empty() ? 0 : changed[0]), 0};
  if (x.size() > 2 && std::all_of(y.begin(), y.end(), [&](float v) { return v == y[0]; }))
    return PlaceFinding{"values.constant", "all " + Formatted("%.6g", y[0]), 0};
  const std::vector<size_t> from = x.size() > 1 ? OrderOf(x, y) : std::vector<size_t>();
  if (!from.empty()) {
    std::string moves;
    size_t moved = 0;
    for (size_t i = 0; i < from.size(); ++i)
      if (from[i] != i && x[from[i]] != x[i] && ++moved <= 3)
        moves += (moves.empty() ? "" : ", ") + std::to_string(i) + " is " + std::to_string(from[i]);
    return PlaceFinding{"values.permuted", count + " are those of other places: " + moves, 0};
  }
  const double offset = MiddleOf(offsets), factor = MiddleOf(factors);
  size_t by_offset = 0, by_factor = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double near = std::max(std::abs(static_cast<double>(x[i])), std::abs(static_cast<double>(y[i]))) * 0x1p-7;
    by_offset += std::abs(y[i] - (x[i] + offset)) <= std::min(near, std::abs(offset) / 4);
    by_factor += std::abs(y[i] - x[i] * factor) <= near;
  }
  if (by_factor * 10 >= x.size() * 9 && std::abs(factor - 1) > 0x1p-7)
    return PlaceFinding{"values.scaled", "times " + Formatted("%.6g", factor), factor};
  if (by_offset * 10 >= x.size() * 9) return PlaceFinding{"values.offset", "plus " + Formatted("%.6g", offset), 0};
  if (changed.size() * 5 <= x.size()) return PlaceFinding{"values.damaged", count, 0};
  if (by_factor * 10 >= x.size() * 9) return PlaceFinding{"values.noise", count + ", near everywhere", 0};
  return PlaceFinding{"values.other", count, 0};
}

}  // namespace mimo
