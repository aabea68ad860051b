#include "lib/verify/compare/fused_replicas.h"

#include <map>

#include "lib/decode/row_bytes.h"
#include "lib/layout/decide.h"
#include "lib/layout/row_map.h"
#include "lib/model/names.h"

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

// Whether run `second` holds what `first` does; a block of scales ends somewhere within a head.
Result<bool> IsCopy(const LogicalCheckpoint& side, const StoredArray& array, const StoredArray* scales,
                    const QkvMap& map, const RowRun& first, const RowRun& second) {
  MIMO_ASSIGN_OR_RETURN(bool equal, HasEqualRows(side, array, first.array_row, second.array_row, first.rows));
  if (!equal || scales == nullptr) return equal;
  int64_t last_a = -1, last_b = -1;
  for (int64_t i = 0; i < first.rows; ++i) {
    const int64_t here = ScaleRowOf(map, first.array_row + i), there = ScaleRowOf(map, second.array_row + i);
    if (here == last_a && there == last_b) continue;
    last_a = here;
    last_b = there;
    if (here < 0 || there < 0 || std::max(here, there) >= scales->rows()) continue;
    MIMO_ASSIGN_OR_RETURN(equal, HasEqualRows(side, *scales, here, there, 1));
    if (!equal) return false;
  }
  return true;
}

}  // namespace

Status CompareFusedReplicas(const LogicalCheckpoint& side, std::vector<CompareDifference>* differences) {
  const Checkpoint& checkpoint = side.checkpoint();
  const Catalogue& stored = checkpoint.stored;
  const QkvLayout& layout = checkpoint.layout.layout;
  if (checkpoint.view || checkpoint.like || !layout.fused()) return {};
  for (const StoredArray& array : stored.arrays) {
    if (array.id.role != Role::kAttnQkv || array.id.part != Part::kWeight) continue;
    const AttentionShape shape = LogicalShape(stored.config, stored.config.windowed_at(array.id.layer, array.id.mtp));
    if (layout.chunks <= shape.kv_heads || !LayoutFits(layout, shape)) continue;
    const QkvMap map = BuildQkvMap(layout, shape);
    if (map.rows[0] != array.rows()) continue;
    const StoredArray* scales = stored.Find(NameOfPart(array.name, Part::kScaleInv));
    // Scales of groups lie in rows of their own: they are codes' neighbours, and rows of the array.
    if (scales != nullptr && scales->rows() != map.scale_rows[0]) scales = nullptr;
    std::map<CopyOfRows, const RowRun*> first_of;
    for (const RowRun& run : map.runs) {
      const auto [first, fresh] = first_of.try_emplace(CopyOfRows{run.projection, run.logical_row}, &run);
      if (fresh || first->second->rows != run.rows) continue;
      MIMO_ASSIGN_OR_RETURN(const bool equal, IsCopy(side, array, scales, map, *first->second, run));
      if (equal) continue;
      differences->push_back({"replica.differs", array.name,
                              "in " + side.root() + ": rows from " + std::to_string(run.array_row) +
                                  " are a copy of those from " + std::to_string(first->second->array_row) +
                                  ", and hold something else",
                              std::nullopt});
      break;
    }
  }
  return {};
}

}  // namespace mimo
