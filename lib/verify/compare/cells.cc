#include "lib/verify/compare/cells.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include "lib/base/checked.h"

namespace mimo {
namespace {

constexpr double kCoherence = 0.8;  // squared cosine of a multiple: noise of 4 bits leaves 0.98, unrelated values 0.01
constexpr int64_t kBlockRows = 128;
constexpr float kBeyondNoise = 0.25f;  // of a factor

float MedianOf(std::vector<float> values) {
  const auto middle = values.begin() + static_cast<ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

bool IsNear(float value, float expected) {
  return std::abs(value / expected - 1) <= kRatioNoise;
}

// What is a multiple by one factor, and where: bounds in cells.
struct Alike {
  float factor = 0;
  uint64_t count = 0;
  int64_t first_row = INT64_MAX, last_row = -1, first_col = INT64_MAX, last_col = -1;
  std::vector<uint8_t> rows;  // those where most cells are
};

Alike MostAlike(const CellMap& map) {
  std::vector<float> factors;
  for (size_t i = 0; i < map.kinds.size(); ++i)
    if (map.kinds[i] == CellKind::kMultiple) factors.push_back(map.ratios[i]);
  Alike alike;
  if (factors.empty()) return alike;
  alike.factor = MedianOf(std::move(factors));
  alike.rows.assign(static_cast<size_t>(map.rows), 0);
  for (int64_t r = 0; r < map.rows; ++r) {
    int64_t here = 0;
    for (int64_t c = 0; c < map.across; ++c) {
      if (map.kind(r, c) != CellKind::kMultiple || !IsNear(map.ratio(r, c), alike.factor)) continue;
      ++here;
      alike.first_col = std::min(alike.first_col, c);
      alike.last_col = std::max(alike.last_col, c);
    }
    alike.count += static_cast<uint64_t>(here);
    alike.rows[static_cast<size_t>(r)] = here * 2 > map.across;
    if (here == 0) continue;
    alike.first_row = std::min(alike.first_row, r);
    alike.last_row = r;
  }
  return alike;
}

}  // namespace

CellKind CellSums::Kind() const {
  if (aa == 0 && bb == 0) return CellKind::kEmpty;
  if (!(dot * dot >= kCoherence * aa * bb) || !(dot > 0) || !std::isfinite(dot)) return CellKind::kOther;
  return std::abs(dot / aa - 1) <= kRatioNoise ? CellKind::kSame : CellKind::kMultiple;
}

uint64_t CellMap::CountOf(CellKind kind) const {
  return static_cast<uint64_t>(std::count(kinds.begin(), kinds.end(), kind));
}

Result<CellMap> MapCells(const LogicalCheckpoint& a, const LogicalTensor& in_a, const LogicalCheckpoint& b,
                         const LogicalTensor& in_b) {
  CellMap map;
  const int64_t cols = in_a.rows.cols();
  map.rows = in_a.rows.rows();
  map.across = CeilDiv(cols, kCellColumns);
  map.kinds.resize(static_cast<size_t>(map.rows * map.across));
  map.ratios.assign(map.kinds.size(), 0);
  MIMO_RETURN_IF_ERROR(VisitRowPairs(a, in_a, b, in_b, [&](int64_t row, int64_t rows, const float* x, const float* y) {
    for (int64_t r = row; r < row + rows; ++r)
      for (int64_t cell = 0; cell < map.across; ++cell) {
        CellSums sums;
        for (int64_t c = cell * kCellColumns; c < std::min(cols, (cell + 1) * kCellColumns); ++c) sums.Add(*x++, *y++);
        const auto at = static_cast<size_t>(r * map.across + cell);
        map.kinds[at] = sums.Kind();
        if (map.kinds[at] == CellKind::kSame || map.kinds[at] == CellKind::kMultiple) map.ratios[at] = sums.ratio();
      }
  }));
  return map;
}

bool IsNoisy(const CellMap& map) {
  uint64_t same = 0, moved = 0;
  for (size_t i = 0; i < map.kinds.size(); ++i) {
    if (map.kinds[i] != CellKind::kSame) continue;
    ++same;
    moved += std::abs(map.ratios[i] - 1) > 0x1p-8f;
  }
  return moved * 10 > same;
}

bool IsEnough(uint64_t explained, uint64_t left, uint64_t told) {
  return explained > left && left <= std::max<uint64_t>({2, explained / 10, told * 3 / 100});
}

std::string FormatNumber(const char* format, double value) {
  std::array<char, 160> text;
  std::snprintf(text.data(), text.size(), format, value);
  return text.data();
}

std::string RowsOfEvery(const std::vector<uint8_t>& marked) {
  const auto rows = static_cast<int64_t>(marked.size());
  for (const int64_t period : {int64_t{192}, int64_t{128}}) {
    if (rows % period != 0 || rows == period) continue;
    std::vector<int64_t> count(static_cast<size_t>(period), 0);
    for (int64_t r = 0; r < rows; ++r) count[static_cast<size_t>(r % period)] += marked[static_cast<size_t>(r)];
    const int64_t heads = rows / period;
    const auto most = [&](int64_t d) { return count[static_cast<size_t>(d)] * 4 >= heads * 3; };
    int64_t first = 0, last = period - 1;
    while (first < period && !most(first)) ++first;
    while (last > first && !most(last)) --last;
    if (first == period || last - first + 1 >= period - 8) continue;
    bool clear = true;
    for (int64_t d = 0; d < period; ++d)
      clear &= d >= first && d <= last ? most(d) : count[static_cast<size_t>(d)] * 4 <= heads;
    if (clear)
      return "rows " + std::to_string(first) + " to " + std::to_string(last) + " of every " + std::to_string(period);
  }
  return "";
}

PlaceFinding FindFactor(const CellMap& map) {
  const Alike alike = MostAlike(map);
  if (alike.count == 0) return {};
  const uint64_t told = map.told(), same = map.CountOf(CellKind::kSame);
  const uint64_t left = map.CountOf(CellKind::kOther) + map.CountOf(CellKind::kMultiple) - alike.count;
  if (!IsEnough(alike.count, left, told)) return {};
  // Where noise moves ratios, a few are moved further than most.
  if (IsNoisy(map) && alike.count * 2 < told && std::abs(alike.factor - 1) < kBeyondNoise) return {};
  PlaceFinding finding;
  finding.factor = alike.factor;
  finding.evidence = "times " + FormatNumber("%.6g", alike.factor);
  if (same <= std::max<uint64_t>(2, told / 50)) {
    finding.kind = "values.scaled";
    return finding;
  }
  if (alike.first_col == alike.last_col && alike.last_row - alike.first_row < kBlockRows &&
      (map.rows > kBlockRows || map.across > 1)) {
    finding.kind = "scale.single";
    finding.evidence += " in rows " + std::to_string(alike.first_row) + " to " + std::to_string(alike.last_row) +
                        " of the " + std::to_string(kCellColumns) + " columns from " +
                        std::to_string(alike.first_col * kCellColumns);
    return finding;
  }
  finding.kind = "values.scaled-part";
  const std::string rows = RowsOfEvery(alike.rows);
  finding.evidence += " in " + std::to_string(alike.count) + " of " + std::to_string(told) + " cells" +
                      (rows.empty() ? "" : ": " + rows);
  return finding;
}

PlaceFinding FindRowFactors(const CellMap& map) {
  uint64_t told = 0, uniform = 0, changed = 0;
  for (int64_t r = 0; r < map.rows; ++r) {
    std::vector<float> ratios;
    uint64_t here = 0, alike = 0;
    for (int64_t c = 0; c < map.across; ++c) {
      here += map.kind(r, c) != CellKind::kEmpty;
      if (map.kind(r, c) == CellKind::kSame || map.kind(r, c) == CellKind::kMultiple) ratios.push_back(map.ratio(r, c));
    }
    if (here == 0) continue;
    ++told;
    if (ratios.empty()) continue;
    const float factor = MedianOf(ratios);
    for (const float ratio : ratios) alike += std::abs(ratio / factor - 1) <= kRatioNoise / 2;
    if (alike * 4 < here * 3) continue;
    ++uniform;
    changed += !IsNear(factor, 1);
  }
  if (map.across < 2 || uniform * 10 < told * 9 || changed * 4 < told) return {};
  return {"rows.scaled", "each row by a factor of its own: " + std::to_string(changed) + " of " + std::to_string(told),
          0};
}

}  // namespace mimo
