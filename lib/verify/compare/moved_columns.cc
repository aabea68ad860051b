#include "lib/verify/compare/moved_columns.h"

#include <algorithm>
#include <map>

#include "lib/verify/compare/sketch.h"

namespace mimo {
namespace {

constexpr int64_t kFewestRows = 32;      // columns of fewer have too little to be known by
constexpr int64_t kMostColumns = 65536;  // of a sketch of all
constexpr size_t kColumnsLookedFor = 128;
constexpr int64_t kColumnProbes = 16;
constexpr double kColumnCoherence = 0.95;  // squared cosine: less where blocks of rows have factors of their own

// Rows that are columns, under a shape that says nothing of it: values of A column after column.
Result<PlaceFinding> FindTransposed(const LogicalCheckpoint& a, const LogicalCheckpoint& b, const TensorPair& pair) {
  const int64_t rows = pair.a->rows.rows(), cols = pair.a->rows.cols(), probes = std::min(cols, kColumnProbes);
  const auto column = [&](int64_t probe) { return (2 * probe + 1) * cols / (2 * probes); };
  std::vector<float> in_a(static_cast<size_t>(probes * rows)), in_b(in_a.size());
  MIMO_RETURN_IF_ERROR(VisitRows(a, *pair.a, [&](int64_t row, int64_t count, const float* values) {
    for (int64_t r = 0; r < count; ++r)
      for (int64_t p = 0; p < probes; ++p) in_a[static_cast<size_t>(p * rows + row + r)] = values[r * cols + column(p)];
  }));
  MIMO_RETURN_IF_ERROR(VisitRows(b, *pair.b, [&](int64_t row, int64_t count, const float* values) {
    const int64_t begin = row * cols, end = begin + count * cols;
    for (int64_t p = 0; p < probes; ++p) {
      const int64_t first = std::max(begin, column(p) * rows), last = std::min(end, (column(p) + 1) * rows);
      for (int64_t i = first; i < last; ++i)
        in_b[static_cast<size_t>(p * rows + i - column(p) * rows)] = values[i - begin];
    }
  }));
  int64_t same = 0;
  for (int64_t p = 0; p < probes; ++p) {
    CellSums sums;
    for (int64_t i = p * rows; i < (p + 1) * rows; ++i)
      sums.Add(in_a[static_cast<size_t>(i)], in_b[static_cast<size_t>(i)]);
    const CellKind kind = sums.Kind();
    same += kind == CellKind::kSame || kind == CellKind::kMultiple;
  }
  if (same * 10 < probes * 7) return PlaceFinding();
  return PlaceFinding{"tensor.transposed",
                      "rows are columns: " + std::to_string(same) + " of " + std::to_string(probes) + " looked at", 0};
}

struct ColumnMatch {
  int64_t here = 0, from = 0;
};

PlaceFinding DescribeColumns(const std::vector<ColumnMatch>& matches, size_t looked, int64_t head) {
  std::map<int64_t, size_t> shifts;
  size_t whole = 0;
  for (const ColumnMatch& match : matches) {
    ++shifts[match.here - match.from];
    whole += head > 0 && match.here % head == match.from % head;
  }
  const auto most =
      std::max_element(shifts.begin(), shifts.end(), [](const auto& x, const auto& y) { return x.second < y.second; });
  const std::string share = std::to_string(matches.size()) + " of " + std::to_string(looked) + " columns looked for";
  if (most->second * 10 >= matches.size() * 8)
    return {"columns.shifted", "by " + std::to_string(most->first) + " columns; " + share, 0};
  if (whole * 10 >= matches.size() * 9)
    return {"heads.columns-permuted",
            "the columns of head " + std::to_string(matches[0].here / head) + " are those of head " +
                std::to_string(matches[0].from / head) + "; " + share,
            0};
  return {"columns.permuted",
          "column " + std::to_string(matches[0].here) + " is " + std::to_string(matches[0].from) + "; " + share, 0};
}

Result<PlaceFinding> FindMovedColumns(const LogicalCheckpoint& a, const LogicalCheckpoint& b, const TensorPair& pair,
                                      int64_t head) {
  const int64_t rows = pair.a->rows.rows();
  std::vector<RowSketch> in_a, in_b;
  MIMO_RETURN_IF_ERROR(SketchRows(a, *pair.a, /*turned=*/true, &in_a));
  MIMO_RETURN_IF_ERROR(SketchRows(b, *pair.b, /*turned=*/true, &in_b));
  std::vector<int64_t> foreign;
  for (size_t c = 0; c < in_b.size(); ++c)
    if (!in_b[c].empty() && !IsSameRow(in_b[c], in_a[c], rows)) foreign.push_back(static_cast<int64_t>(c));
  std::vector<ColumnMatch> matches;
  const size_t looked = std::min(foreign.size(), kColumnsLookedFor);
  for (size_t i = 0; i < looked; ++i) {
    const int64_t here = foreign[i * foreign.size() / looked];
    const int64_t from = FindRow(in_b[static_cast<size_t>(here)], in_a, rows);
    if (from >= 0) matches.push_back({here, from});
  }
  if (matches.empty() || matches.size() * 2 < looked) return PlaceFinding();
  return DescribeColumns(matches, looked, head);
}

}  // namespace

Result<PlaceFinding> FindColumnFactors(const LogicalCheckpoint& a, const LogicalCheckpoint& b, const TensorPair& pair) {
  const int64_t cols = pair.a->rows.cols();
  std::vector<CellSums> sums(static_cast<size_t>(cols));
  MIMO_RETURN_IF_ERROR(
      VisitRowPairs(a, *pair.a, b, *pair.b, [&](int64_t, int64_t rows, const float* x, const float* y) {
        for (int64_t r = 0; r < rows; ++r)
          for (CellSums& of_column : sums) of_column.Add(*x++, *y++);
      }));
  uint64_t told = 0, coherent = 0, changed = 0;
  for (const CellSums& of_column : sums) {
    const bool empty = of_column.aa == 0 && of_column.bb == 0;
    // Factors may be negative.
    const bool same =
        of_column.dot * of_column.dot >= kColumnCoherence * of_column.aa * of_column.bb && of_column.bb > 0;
    told += !empty;
    coherent += !empty && same;
    changed += !empty && same && of_column.Kind() != CellKind::kSame;
  }
  if (coherent * 10 < told * 9 || changed * 4 < told) return PlaceFinding();
  return PlaceFinding{"columns.scaled",
                      "each column by a factor of its own: " + std::to_string(changed) + " of " + std::to_string(told),
                      0};
}

Result<PlaceFinding> FindColumns(const LogicalCheckpoint& a, const LogicalCheckpoint& b, const TensorPair& pair,
                                 int64_t head_columns) {
  const int64_t rows = pair.a->rows.rows(), cols = pair.a->rows.cols();
  if (rows < kFewestRows || cols < 2) return PlaceFinding();
  MIMO_ASSIGN_OR_RETURN(PlaceFinding finding, FindTransposed(a, b, pair));
  if (!finding.kind.empty() || cols > kMostColumns) return finding;
  return FindMovedColumns(a, b, pair, head_columns);
}

}  // namespace mimo
