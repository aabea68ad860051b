#include "lib/verify/compare/cells.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <map>

#include "lib/base/checked.h"

namespace mimo {
namespace {

constexpr double kCoherence = 0.8;  // squared cosine of a multiple: noise of 4 bits leaves 0.98, unrelated values 0.01
constexpr double kNoise = 0.05;     // of a ratio
constexpr int64_t kHalfBlock = 64;

void MapRow(const float* a, const float* b, int64_t cols, int64_t row, CellMap* map) {
  for (int64_t cell = 0; cell < map->across; ++cell) {
    double dot = 0, aa = 0, bb = 0;
    float largest = 0;
    for (int64_t c = cell * kCellColumns; c < std::min(cols, (cell + 1) * kCellColumns); ++c) {
      const double x = a[c], y = b[c];
      dot += x * y;
      aa += x * x;
      bb += y * y;
      largest = std::max(largest, std::abs(a[c]));
    }
    const auto at = static_cast<size_t>(row * map->across + cell);
    map->amax[at] = largest;
    if (aa == 0 && bb == 0) {
      map->kinds[at] = CellKind::kEmpty;
    } else if (!(dot * dot >= kCoherence * aa * bb) || !(dot > 0) || !std::isfinite(dot)) {
      map->kinds[at] = CellKind::kOther;
    } else {
      map->ratios[at] = static_cast<float>(dot / aa);
      map->kinds[at] = std::abs(dot / aa - 1) <= kNoise ? CellKind::kSame : CellKind::kMultiple;
    }
  }
}

float Median(std::vector<float> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

std::string Text(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

// Ratios of halves of blocks, 0 where they are of no use: [halves][across].
std::vector<float> RatiosOfHalves(const CellMap& map, int64_t halves) {
  std::vector<float> ratios(static_cast<size_t>(halves * map.across), 0);
  for (int64_t h = 0; h < halves; ++h)
    for (int64_t c = 0; c < map.across; ++c) {
      std::vector<float> found;
      for (int64_t r = h * kHalfBlock; r < std::min(map.rows, (h + 1) * kHalfBlock); ++r)
        if (map.kind(r, c) == CellKind::kSame || map.kind(r, c) == CellKind::kMultiple)
          found.push_back(map.ratio(r, c));
      if (!found.empty()) ratios[static_cast<size_t>(h * map.across + c)] = Median(std::move(found));
    }
  return ratios;
}

// The largest value of A in each block, which stands for its scale: [halves][across].
std::vector<float> LargestOfBlocks(const CellMap& map, int64_t halves) {
  std::vector<float> largest(static_cast<size_t>(halves * map.across), 0);
  for (int64_t r = 0; r < map.rows; ++r)
    for (int64_t c = 0; c < map.across; ++c) {
      const int64_t first = r / (2 * kHalfBlock) * 2;
      for (int64_t h = first; h < std::min(first + 2, halves); ++h) {
        float& here = largest[static_cast<size_t>(h * map.across + c)];
        here = std::max(here, map.amax[static_cast<size_t>(r * map.across + c)]);
      }
    }
  return largest;
}

// Which share of halves has the ratio that scales from `down` halves further down and `right` blocks further right
// make, among those where that is not 1.
double ShareExplained(const std::vector<float>& ratios, const std::vector<float>& scales, int64_t halves,
                      int64_t across, int64_t down, int64_t right, bool of_a) {
  uint64_t told = 0, fits = 0;
  for (int64_t h = 0; h < halves; ++h)
    for (int64_t c = 0; c < across; ++c) {
      // Of B, what stands here came from there.
      const int64_t other_h = of_a ? h + down : h - down, other_c = of_a ? c + right : c - right;
      if (other_h < 0 || other_h >= halves || other_c < 0 || other_c >= across) continue;
      const float here = scales[static_cast<size_t>(h * across + c)];
      const float there = scales[static_cast<size_t>(other_h * across + other_c)];
      const float ratio = ratios[static_cast<size_t>(h * across + c)];
      if (!(here > 0) || !(there > 0) || !(ratio > 0)) continue;
      const double predicted = of_a ? there / here : here / there;
      ++told;
      fits += std::abs(ratio / predicted - 1) <= kNoise;
    }
  return told == 0 ? 0 : static_cast<double>(fits) / static_cast<double>(told);
}

// The rows of a head, or of a block, of which most are a multiple: "rows 96 to 127 of every 192".
std::string RowsOfEvery(const CellMap& map) {
  for (const int64_t period : {int64_t{192}, int64_t{128}}) {
    if (map.rows % period != 0 || map.rows == period) continue;
    std::vector<int64_t> changed(static_cast<size_t>(period), 0);
    for (int64_t r = 0; r < map.rows; ++r)
      for (int64_t c = 0; c < map.across; ++c)
        changed[static_cast<size_t>(r % period)] += map.kind(r, c) == CellKind::kMultiple;
    const int64_t most = *std::max_element(changed.begin(), changed.end());
    const auto is_changed = [&](int64_t d) { return changed[static_cast<size_t>(d)] * 2 > most; };
    int64_t first = 0, last = period - 1;
    while (first < period && !is_changed(first)) ++first;
    while (last > first && !is_changed(last)) --last;
    if (last - first + 1 >= period - 8) continue;
    bool whole = true;
    for (int64_t d = first; d <= last; ++d) whole &= is_changed(d);
    if (whole)
      return "rows " + std::to_string(first) + " to " + std::to_string(last) + " of every " + std::to_string(period);
  }
  return "";
}

}  // namespace

uint64_t CellMap::CountOf(CellKind kind) const {
  return static_cast<uint64_t>(std::count(kinds.begin(), kinds.end(), kind));
}

Result<CellMap> MapCells(const LogicalCheckpoint& a, const LogicalTensor& in_a, const LogicalCheckpoint& b,
                         const LogicalTensor& in_b) {
  CellMap map;
  map.rows = in_a.rows.rows();
  map.across = CeilDiv(in_a.rows.cols(), kCellColumns);
  const auto cells = static_cast<size_t>(map.rows * map.across);
  map.kinds.resize(cells);
  map.ratios.assign(cells, 0);
  map.amax.assign(cells, 0);
  const int64_t cols = in_a.rows.cols();
  MIMO_RETURN_IF_ERROR(VisitRowPairs(a, in_a, b, in_b, [&](int64_t row, int64_t rows, const float* x, const float* y) {
    for (int64_t r = 0; r < rows; ++r) MapRow(x + r * cols, y + r * cols, cols, row + r, &map);
  }));
  return map;
}

PlaceFinding FindFactor(const CellMap& map) {
  std::vector<float> factors;
  uint64_t changed = 0;
  for (size_t i = 0; i < map.kinds.size(); ++i) {
    changed += map.kinds[i] == CellKind::kMultiple || map.kinds[i] == CellKind::kOther;
    if (map.kinds[i] == CellKind::kMultiple) factors.push_back(map.ratios[i]);
  }
  if (factors.empty() || factors.size() * 10 < changed * 8) return {};
  const float factor = Median(factors);
  const auto alike = static_cast<size_t>(
      std::count_if(factors.begin(), factors.end(), [factor](float f) { return std::abs(f / factor - 1) <= kNoise; }));
  if (alike * 10 < factors.size() * 9) return {};
  PlaceFinding finding;
  finding.factor = factor;
  const uint64_t same = map.CountOf(CellKind::kSame);
  finding.kind = same * 10 <= factors.size() ? "values.scaled" : "values.scaled-part";
  finding.evidence = "times " + Text("%.6g", factor);
  if (finding.kind == "values.scaled-part") {
    const std::string rows = RowsOfEvery(map);
    finding.evidence += " in " + std::to_string(factors.size()) + " of " + std::to_string(map.kinds.size()) + " cells" +
                        (rows.empty() ? "" : ": " + rows);
  }
  return finding;
}

PlaceFinding FindScales(const CellMap& map, const std::vector<float>& multipliers, bool of_a) {
  const uint64_t multiples = map.CountOf(CellKind::kMultiple), others = map.CountOf(CellKind::kOther);
  if (multiples < others * 4 || multiples == 0) return {};
  const int64_t halves = CeilDiv(map.rows, kHalfBlock);
  const std::vector<float> ratios = RatiosOfHalves(map, halves);
  const std::vector<float> scales = multipliers.empty() ? LargestOfBlocks(map, halves) : multipliers;
  struct Shift {
    int64_t down, right;
    const char* kind;
    const char* words;
  };
  constexpr std::array<Shift, 4> kShifts = {
      {{2, 0, "scale.rows-shifted", "under the scales of the block below"},
       {-2, 0, "scale.rows-shifted", "under the scales of the block above"},
       {0, 1, "scale.columns-shifted", "under the scales of the block to the right"},
       {0, -1, "scale.columns-shifted", "under the scales of the block to the left"}}};
  for (const Shift& shift : kShifts) {
    const double share =
        ShareExplained(ratios, scales, halves, map.across, shift.down, shift.right, of_a || multipliers.empty());
    if (share >= 0.85) return {shift.kind, std::string(shift.words) + Text(" (%.0f %% of blocks)", 100 * share), 0};
  }
  const std::string rows = RowsOfEvery(map);
  const std::string seen = std::to_string(multiples) + " of " + std::to_string(map.kinds.size()) +
                           " cells are multiples, by " + Text("%.3g", *std::min_element(ratios.begin(), ratios.end())) +
                           " to " + Text("%.3g", *std::max_element(ratios.begin(), ratios.end()));
  if (!rows.empty()) return {"scale.grid", rows + " under other scales; " + seen, 0};
  return {"scale.blocks", seen, 0};
}

}  // namespace mimo
