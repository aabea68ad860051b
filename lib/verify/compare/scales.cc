#include "lib/verify/compare/scales.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <map>
#include <optional>

#include "kernels/codec.h"
#include "kernels/codec/e4m3.h"
#include "lib/base/checked.h"

namespace mimo {
namespace {

constexpr int64_t kQuarterBlock = 32;  // rows: blocks of other heights end at multiples of it
constexpr double kScaleNoise = 0.02;   // of a ratio of sums over many values
constexpr double kExact = 0.9995;      // squared cosine of the same codes under two scales
constexpr double kMost = 0.85;         // of the cells that a rule speaks of

bool HasGroups(Codec codec) {
  return codec == Codec::kMxfp4 || codec == Codec::kMxfp8 || codec == Codec::kNvfp4;
}

bool HasScaleCodec(const LogicalTensor& tensor) {
  const auto& codec = tensor.rows.stored_as();
  return codec && (*codec == Codec::kFp8Block || HasGroups(*codec));
}

bool NearScale(double a, double b) {
  return b > 0 && std::abs(a / b - 1) <= kScaleNoise;
}

// The largest magnitudes of A in blocks of 128 rows, by cells.
std::vector<float> LargestInBlocks(const std::vector<float>& amax, const ScaleMap& map) {
  std::vector<float> largest(amax.size(), 0);
  const int64_t rows_of_block = std::max<int64_t>(1, 128 / map.every);
  for (int64_t r = 0; r < map.rows; ++r)
    for (int64_t c = 0; c < map.across; ++c) {
      const int64_t first = r / rows_of_block * rows_of_block;
      float& here = largest[map.at(first, c)];
      here = std::max(here, amax[map.at(r, c)]);
    }
  for (int64_t r = 0; r < map.rows; ++r)
    for (int64_t c = 0; c < map.across; ++c)
      largest[map.at(r, c)] = largest[map.at(r / rows_of_block * rows_of_block, c)];
  return largest;
}

// Ratios of cells, from those of their rows: the middle one, so that a few rows that are damaged do not count.
class ScaleBands {
 public:
  ScaleBands(const ScaleMap& map, int64_t cols, std::vector<float>* ratios, std::vector<float>* amax)
      : map_(map), cols_(cols), ratios_(*ratios), amax_(*amax), found_(static_cast<size_t>(map.across)) {
    kinds_.resize(ratios->size());
    others_.resize(found_.size());
  }

  void Add(int64_t row, const float* x, const float* y) {
    if (row / map_.every != band_) Close();
    band_ = row / map_.every;
    for (int64_t c = 0; c < map_.across; ++c) {
      CellSums sums;
      float& amax = amax_[map_.at(band_, c)];
      for (int64_t i = c * map_.width; i < std::min(cols_, (c + 1) * map_.width); ++i) {
        sums.Add(x[i], y[i]);
        amax = std::max(amax, std::abs(x[i]));
      }
      CellKind kind = sums.Kind();
      // Of a few values noise makes a ratio, too: under another scale they are as they were, times that.
      if (kind == CellKind::kMultiple && map_.width < kCellColumns && sums.dot * sums.dot < kExact * sums.aa * sums.bb)
        kind = std::abs(sums.ratio() - 1) < 0.5f ? CellKind::kSame : CellKind::kOther;
      if (kind == CellKind::kOther) ++others_[static_cast<size_t>(c)];
      if (kind == CellKind::kSame || kind == CellKind::kMultiple)
        found_[static_cast<size_t>(c)].push_back(sums.ratio());
    }
  }

  void Finish(std::vector<CellKind>* kinds) {
    Close();
    *kinds = kinds_;
  }

 private:
  void Close() {
    if (band_ < 0) return;
    for (int64_t c = 0; c < map_.across; ++c) {
      std::vector<float>& found = found_[static_cast<size_t>(c)];
      size_t& others = others_[static_cast<size_t>(c)];
      CellKind& kind = kinds_[map_.at(band_, c)];
      if (found.empty() || others > found.size()) {
        kind = others > 0 ? CellKind::kOther : CellKind::kEmpty;
      } else {
        const auto middle = found.begin() + static_cast<ptrdiff_t>(found.size() / 2);
        std::nth_element(found.begin(), middle, found.end());
        ratios_[map_.at(band_, c)] = *middle;
        kind = std::abs(*middle - 1) <= kRatioNoise ? CellKind::kSame : CellKind::kMultiple;
      }
      found.clear();
      others = 0;
    }
  }

  const ScaleMap& map_;
  const int64_t cols_;
  std::vector<float>& ratios_;
  std::vector<float>& amax_;
  std::vector<CellKind> kinds_;
  std::vector<std::vector<float>> found_;  // of the band, by cell
  std::vector<size_t> others_;
  int64_t band_ = -1;
};

// What a rule explains.
struct Share {
  uint64_t spoken = 0, fits = 0, changed = 0;
  double share() const { return spoken == 0 ? 0 : static_cast<double>(fits) / static_cast<double>(spoken); }
  bool enough() const { return changed > 0 && share() >= kMost; }
  std::string text() const { return FormatNumber("%.0f %% of cells", 100 * share()); }
};

// Holds predicted scales against those that are seen; `predict` says nothing where it gives 0.
Share ShareOf(const ScaleMap& map, const std::function<double(int64_t, int64_t)>& predict) {
  Share share;
  for (int64_t r = 0; r < map.rows; ++r)
    for (int64_t c = 0; c < map.across; ++c) {
      const double right = map.right[map.at(r, c)], predicted = predict(r, c);
      if (!(right > 0) || !(predicted > 0) || map.kinds[map.at(r, c)] == CellKind::kEmpty) continue;
      ++share.spoken;
      share.fits += NearScale(map.seen[map.at(r, c)], predicted);
      share.changed += !NearScale(predicted, right);
    }
  return share;
}

// The middle of what `of` makes of (right, seen).
double MiddleOfCells(const ScaleMap& map, const std::function<double(double, double)>& of) {
  std::vector<double> values;
  for (size_t i = 0; i < map.right.size(); ++i)
    if (map.right[i] > 0 && map.seen[i] > 0) values.push_back(of(map.right[i], map.seen[i]));
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// Scales that are none, the inverse, squares, bytes taken as numbers, or powers of two.
PlaceFinding FindOtherScales(const ScaleMap& map) {
  struct Rule {
    const char* kind;
    const char* words;
    double (*made)(double right);
  };
  constexpr std::array<Rule, 4> kRules = {
      {{"scale.dropped", "values are codes times %.6g, whatever their scale", [](double) { return 1.0; }},
       {"scale.inverted", "divided by scales and not multiplied, times %.6g", [](double right) { return 1 / right; }},
       {"scale.twice", "multiplied by scales twice, times %.6g", [](double right) { return right * right; }},
       {"scale.as-numbers", "exponents of scales taken as numbers, times %.6g",
        [](double right) { return std::round(std::log2(right)) + 127; }}}};
  for (const Rule& rule : kRules) {
    const double factor =
        MiddleOfCells(map, [&](double right, double seen) { return seen / std::max(rule.made(right), 1e-300); });
    const Share share = ShareOf(map, [&](int64_t r, int64_t c) { return factor * rule.made(map.right[map.at(r, c)]); });
    if (share.enough() && share.changed * 10 >= share.spoken)
      return {rule.kind, FormatNumber(rule.words, factor) + " in " + share.text(), 0};
  }
  if (!map.exact) return {};
  const Share rounded = ShareOf(map, [&](int64_t r, int64_t c) {
    const double right = map.right[map.at(r, c)], seen = map.seen[map.at(r, c)];
    if (!(seen > 0)) return right;
    const double power = std::exp2(std::round(std::log2(seen)));
    return power > right / 2 * (1 - kScaleNoise) && power < right * 2 * (1 + kScaleNoise) ? power : right;
  });
  if (rounded.enough() && rounded.changed * 2 >= rounded.spoken)
    return {"scale.powers-of-two", "scales are powers of two, codes are not of them: " + rounded.text(), 0};
  return {};
}

// Columns of scales that stand further left or right, or rows that are columns.
PlaceFinding FindOtherColumns(const ScaleMap& map) {
  for (const int64_t by : {int64_t{1}, int64_t{-1}, int64_t{2}, int64_t{-2}}) {
    const Share share = ShareOf(map, [&](int64_t r, int64_t c) -> double {
      return c + by < 0 || c + by >= map.across ? 0 : map.right[map.at(r, c + by)];
    });
    if (share.enough() && share.changed * 2 >= share.spoken)
      return {"scale.columns-shifted",
              "under the scales of " + std::to_string(std::abs(by)) + " further to the " + (by > 0 ? "right" : "left") +
                  ": " + share.text(),
              0};
  }
  const int64_t rows_of_block = std::max<int64_t>(1, map.width / map.every);
  if (CeilDiv(map.rows, rows_of_block) != map.across || map.across < 2) return {};
  const Share share = ShareOf(map, [&](int64_t r, int64_t c) -> double {
    const int64_t row = c * rows_of_block;
    return row < map.rows ? map.right[map.at(row, r / rows_of_block)] : 0;
  });
  if (share.enough() && share.changed * 4 >= share.spoken)
    return {"scale.transposed", "rows of scales are columns: " + share.text(), 0};
  return {};
}

// Rows of scales one after the other, each once.
struct ScaleSequence {
  std::vector<const float*> rows;
  std::vector<int64_t> own;  // of every row of cells, its row of scales
  std::vector<size_t> of;    // which tensor a row of scales is of: 0 this one, then those beside it
};

ScaleSequence SequenceOf(const ScaleMap& map, const std::vector<ScaleRows>& beside) {
  ScaleSequence sequence;
  const auto across = static_cast<size_t>(map.across);
  const auto add = [&](const std::vector<float>& scales, size_t of, bool own) {
    for (size_t r = 0; r < scales.size() / across; ++r) {
      const float* row = scales.data() + r * across;
      if (r == 0 || !std::equal(row, row + across, row - across)) {
        sequence.rows.push_back(row);
        sequence.of.push_back(of);
      }
      if (own) sequence.own.push_back(static_cast<int64_t>(sequence.rows.size()) - 1);
    }
  };
  add(map.right, 0, true);
  for (size_t i = 0; i < beside.size(); ++i) add(beside[i].scales, i + 1, false);
  return sequence;
}

// Which row of scales a row of cells is seen under: its own where that fits; -1 where none does.
int64_t SeenUnder(const ScaleMap& map, const ScaleSequence& sequence, int64_t row) {
  const float* seen = map.seen.data() + map.at(row, 0);
  int64_t told = 0;
  for (int64_t c = 0; c < map.across; ++c) told += seen[c] > 0;
  if (told == 0) return -1;
  const auto fits = [&](int64_t candidate) {
    const float* scales = sequence.rows[static_cast<size_t>(candidate)];
    int64_t misses = 0;
    for (int64_t c = 0; c < map.across && misses * 4 <= told; ++c)
      misses += seen[c] > 0 && !NearScale(seen[c], scales[c]);
    return misses * 4 <= told;
  };
  const int64_t own = sequence.own[static_cast<size_t>(row)];
  if (fits(own)) return own;
  const auto count = static_cast<int64_t>(sequence.rows.size());
  // The nearest first: scales of one value are in several places.
  for (int64_t away = 1; away < count; ++away)
    for (const int64_t candidate : {own + away, own - away})
      if (candidate >= 0 && candidate < count && fits(candidate)) return candidate;
  return -1;
}

// As if the rows of scales, one after the other, held for so many rows each.
PlaceFinding FindBlockHeight(const ScaleMap& map, const ScaleSequence& sequence, const std::vector<int64_t>& under) {
  for (const int64_t height : {128, 96, 64, 32, 48, 112, 120, 125, 144, 160, 192, 256}) {
    uint64_t fits = 0, changed = 0, told = 0;
    for (int64_t r = 0; r < map.rows; ++r) {
      if (under[static_cast<size_t>(r)] < 0) continue;
      const int64_t predicted = std::min<int64_t>(r * map.every / height, sequence.own.back());
      ++told;
      fits += predicted == under[static_cast<size_t>(r)];
      changed += predicted != sequence.own[static_cast<size_t>(r)];
    }
    if (changed > 0 && static_cast<double>(fits) >= kMost * static_cast<double>(told) && told * 2 > under.size())
      return {"scale.block-height",
              "as if each row of scales held for " + std::to_string(height) + " rows: " +
                  FormatNumber("%.0f %% of rows", 100 * static_cast<double>(fits) / static_cast<double>(told)),
              0};
  }
  return {};
}

PlaceFinding FindOtherRows(const ScaleMap& map, const std::vector<ScaleRows>& beside) {
  const ScaleSequence sequence = SequenceOf(map, beside);
  std::vector<int64_t> under(static_cast<size_t>(map.rows));
  std::vector<uint8_t> changed_rows;
  std::map<int64_t, uint64_t> deltas;
  std::map<size_t, uint64_t> of;
  uint64_t found = 0, changed = 0;
  for (int64_t r = 0; r < map.rows; ++r) {
    const int64_t here = under[static_cast<size_t>(r)] = SeenUnder(map, sequence, r);
    const int64_t own = sequence.own[static_cast<size_t>(r)];
    const bool moved = here >= 0 && here != own;
    found += here >= 0;
    changed += moved;
    if (moved) {
      ++deltas[here - own];
      ++of[sequence.of[static_cast<size_t>(here)]];
    }
    changed_rows.insert(changed_rows.end(), static_cast<size_t>(map.every), moved);
  }
  if (changed == 0 || static_cast<double>(found) < kMost * static_cast<double>(map.rows)) return {};
  const auto most =
      std::max_element(deltas.begin(), deltas.end(), [](const auto& x, const auto& y) { return x.second < y.second; });
  const std::string share = std::to_string(changed * static_cast<uint64_t>(map.every)) + " of " +
                            std::to_string(map.rows * map.every) + " rows";
  if (most->second * 10 >= changed * 7 && changed * 10 >= found * 7)
    return {"scale.rows-shifted",
            "under the scales of " + std::to_string(std::abs(most->first)) + " further " +
                (most->first > 0 ? "down" : "up") + ": " + share,
            0};
  if (PlaceFinding height = FindBlockHeight(map, sequence, under); !height.kind.empty()) return height;
  const std::string rows = RowsOfEvery(changed_rows);
  const auto from =
      std::max_element(of.begin(), of.end(), [](const auto& x, const auto& y) { return x.second < y.second; });
  return {"scale.grid",
          (rows.empty() ? share : rows) + " under scales of other blocks" +
              (from->first > 0 ? ", of " + beside[from->first - 1].name : ""),
          0};
}

}  // namespace

Result<ScaleMap> MapScales(const LogicalCheckpoint& a, const LogicalCheckpoint& b, const TensorPair& pair) {
  ScaleMap map;
  const bool of_a = HasScaleCodec(*pair.a), of_b = HasScaleCodec(*pair.b);
  map.exact = of_a || of_b;
  const LogicalTensor& scaled = of_b && !of_a ? *pair.b : *pair.a;
  const bool groups = map.exact && HasGroups(*scaled.rows.stored_as());
  map.every = groups ? 1 : kQuarterBlock;
  map.width = groups ? static_cast<int64_t>(kernels::GroupOf(*scaled.rows.stored_as())) : kCellColumns;
  const int64_t cols = pair.a->rows.cols();
  map.rows = CeilDiv(pair.a->rows.rows(), map.every);
  map.across = CeilDiv(cols, map.width);
  map.kinds.resize(static_cast<size_t>(map.rows * map.across));
  map.right.assign(map.kinds.size(), 0);
  map.seen.assign(map.kinds.size(), 0);
  std::vector<float> amax(map.kinds.size(), 0), ratios(map.kinds.size(), 0);
  ScaleBands bands(map, cols, &ratios, &amax);
  MIMO_RETURN_IF_ERROR(
      VisitRowPairs(a, *pair.a, b, *pair.b, [&](int64_t row, int64_t rows, const float* x, const float* y) {
        for (int64_t r = row; r < row + rows; ++r, x += cols, y += cols) bands.Add(r, x, y);
      }));
  bands.Finish(&map.kinds);
  std::vector<float> multipliers;
  const bool theirs = of_b && !of_a;
  if (map.exact) {
    MIMO_RETURN_IF_ERROR(ReadMultipliers(theirs ? b : a, scaled, map.every, map.width, &multipliers));
  } else {
    multipliers = LargestInBlocks(amax, map);
  }
  for (size_t i = 0; i < map.kinds.size(); ++i) {
    const float ratio = ratios[i];
    map.right[i] = !theirs ? multipliers[i] : ratio > 0 ? multipliers[i] / ratio : 0;
    map.seen[i] = ratio == 0 ? 0 : theirs ? multipliers[i] : multipliers[i] * ratio;
  }
  return map;
}

Result<ScaleRows> ReadScaleRows(const LogicalCheckpoint& checkpoint, const LogicalTensor& tensor, const ScaleMap& map) {
  ScaleRows rows{tensor.name, {}};
  if (!HasScaleCodec(tensor) || CeilDiv(tensor.rows.cols(), map.width) != map.across) return rows;
  MIMO_RETURN_IF_ERROR(ReadMultipliers(checkpoint, tensor, map.every, map.width, &rows.scales));
  return rows;
}

PlaceFinding FindScales(const ScaleMap& map, const std::vector<ScaleRows>& beside) {
  uint64_t multiples = 0, others = 0, told = 0;
  for (const CellKind kind : map.kinds) {
    multiples += kind == CellKind::kMultiple;
    others += kind == CellKind::kOther;
    told += kind != CellKind::kEmpty;
  }
  if (!IsEnough(multiples, others, told)) return {};
  if (multiples == 1 && others == 0) {
    const auto at = std::find(map.kinds.begin(), map.kinds.end(), CellKind::kMultiple) - map.kinds.begin();
    const int64_t row = at / map.across * map.every, col = at % map.across * map.width;
    return {"scale.single",
            "times " + FormatNumber("%.6g", map.seen[static_cast<size_t>(at)] / map.right[static_cast<size_t>(at)]) +
                " in row " + std::to_string(row) + " and the columns from " + std::to_string(col),
            0};
  }
  for (const auto find : {FindOtherScales, FindOtherColumns})
    if (PlaceFinding finding = find(map); !finding.kind.empty()) return finding;
  if (PlaceFinding finding = FindOtherRows(map, beside); !finding.kind.empty()) return finding;
  return {"scale.blocks",
          std::to_string(multiples) + " of " + std::to_string(told) + " cells of " + std::to_string(map.every) + " x " +
              std::to_string(map.width) + " are multiples, each of its own",
          0};
}

PlaceFinding FindGlobalScale(const std::vector<float>& multipliers, double factor) {
  if (multipliers.empty() || !(factor > 0)) return {};
  // Without the global scale of its group a multiplier is an E4M3 number.
  const auto are_e4m3 = [&](double by) {
    for (const float multiplier : multipliers) {
      if (multiplier == 0) continue;
      const double value = std::abs(static_cast<double>(multiplier)) * by;
      if (value < 0x1p-9 * 0.99 || value > 448 * 1.01) return false;
      const double code = kernels::E4m3ToFloat(kernels::E4m3FromFloat(static_cast<float>(value), true));
      if (std::abs(value / code - 1) > 1e-3) return false;
    }
    return true;
  };
  if (are_e4m3(factor)) return {"scale.global-dropped", "times " + FormatNumber("%.6g", factor), factor};
  if (are_e4m3(std::sqrt(factor))) return {"scale.global-inverted", "times " + FormatNumber("%.6g", factor), factor};
  return {};
}

}  // namespace mimo
