#include "lib/verify/compare/fused_replicas.h"

#include <map>
#include <optional>
#include <utility>

#include "lib/decode/row_bytes.h"
#include "lib/layout/decide.h"
#include "lib/layout/row_map.h"
#include "lib/model/names.h"
#include "lib/verify/compare/share_out.h"

namespace mimo {
namespace {

struct CopyOfRows {
  Projection projection;
  int64_t head_row = 0;
  bool operator<(const CopyOfRows& other) const {
    return std::pair(projection, head_row) < std::pair(other.projection, other.head_row);
  }
};

// Rows [first, first + rows) and [second, ...) of one array.
Result<bool> HasEqualRows(const LogicalCheckpoint& side, const StoredArray& array, int64_t first, int64_t second,
                          int64_t rows) {
  std::vector<std::byte> x(Rows(rows, array.row_bytes())), y(x.size());
  MIMO_RETURN_IF_ERROR(side.ReadRows(array, first, x));
  MIMO_RETURN_IF_ERROR(side.ReadRows(array, second, y));
  return x == y;
}

// The row of scales that a row of the array lies under; -1: none.
int64_t ScaleRowOf(const QkvMap& map, int64_t row) {
  for (const ScaleBand& band : map.bands)
    if (row >= band.row_begin && row < band.row_end) return band.scale_row;
  return -1;
}

// Whether run `second` holds what `first` does, of an array or of scales that lie in its rows.
Result<bool> IsCopy(const LogicalCheckpoint& side, const StoredArray& array, const QkvMap& map, const RowRun& first,
                    const RowRun& second) {
  if (array.rows() == map.rows[0]) return HasEqualRows(side, array, first.array_row, second.array_row, first.rows);
  // Scales of blocks: one ends somewhere within a head.
  int64_t last_a = -1, last_b = -1;
  for (int64_t i = 0; i < first.rows; ++i) {
    const int64_t here = ScaleRowOf(map, first.array_row + i), there = ScaleRowOf(map, second.array_row + i);
    if (here == last_a && there == last_b) continue;
    last_a = here;
    last_b = there;
    MIMO_ASSIGN_OR_RETURN(const bool equal, HasEqualRows(side, array, here, there, 1));
    if (!equal) return false;
  }
  return true;
}

// The first run of `array` that is no copy of an earlier one of its head, with that one; null where all are.
Result<std::pair<const RowRun*, const RowRun*>> FindStranger(const LogicalCheckpoint& side, const StoredArray& array,
                                                             const QkvMap& map) {
  std::map<CopyOfRows, const RowRun*> first_of;
  for (const RowRun& run : map.runs) {
    const auto [first, fresh] = first_of.try_emplace(CopyOfRows{run.projection, run.logical_row}, &run);
    if (fresh || first->second->rows != run.rows) continue;
    MIMO_ASSIGN_OR_RETURN(const bool equal, IsCopy(side, array, map, *first->second, run));
    if (!equal) return std::pair(first->second, &run);
  }
  return std::pair<const RowRun*, const RowRun*>();
}

}  // namespace

Status CompareFusedReplicas(const LogicalCheckpoint& side, const CompareOptions& options,
                            std::vector<CompareDifference>* differences) {
  const Checkpoint& checkpoint = side.checkpoint();
  const Catalogue& stored = checkpoint.stored;
  const QkvLayout& layout = checkpoint.layout.layout;
  if (checkpoint.view || checkpoint.like || !layout.fused()) return {};
  std::vector<const StoredArray*> arrays;  // weights, and scales of blocks or of rows
  for (const StoredArray& array : stored.arrays)
    if (array.id.role == Role::kAttnQkv) arrays.push_back(&array);
  std::vector<std::optional<CompareDifference>> found(arrays.size());
  MIMO_RETURN_IF_ERROR(ShareOut(options, arrays.size(), [&](int, size_t i) -> Status {
    const StoredArray& array = *arrays[i];
    const AttentionShape shape = LogicalShape(stored.config, stored.config.windowed_at(array.id.layer, array.id.mtp));
    if (layout.chunks <= shape.kv_heads || !LayoutFits(layout, shape)) return {};
    const QkvMap map = BuildQkvMap(layout, shape);
    if (array.rows() != map.rows[0] && (HoldsElements(array.id.part) || array.rows() != map.scale_rows[0])) return {};
    MIMO_ASSIGN_OR_RETURN(const auto stranger, FindStranger(side, array, map));
    if (stranger.second == nullptr) return {};
    found[i] = {"replica.differs", array.name,
                "in " + side.root() + ": rows from " + std::to_string(stranger.second->array_row) +
                    " are a copy of those from " + std::to_string(stranger.first->array_row) +
                    ", and hold something else",
                std::nullopt};
    return {};
  }));
  for (std::optional<CompareDifference>& difference : found)
    if (difference) differences->push_back(std::move(*difference));
  return {};
}

}  // namespace mimo
