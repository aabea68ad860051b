// Row norms of fused attention that lies under no block grid, from a bounded sample of its rows.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/base/status.h"
#include "lib/layout/row_order.h"
#include "lib/model/inventory.h"

namespace mimo {

struct RowSample {
  size_t layers_of_a_kind = 4;  // at most, evenly spread
  int threads = 0;              // 0: one per CPU that the process may use
};

// Profiles of a few layers of each kind of attention, and what their rows decide. Norms are those
// of values (BF16, FP16, FP32), or what scales of rows and of groups within rows tell of them. At most 64 KiB are read
// of each tile and four pieces of 4 KiB of one that is larger: some MB a layer. Empty where no fused attention is
// stored without a block grid.
Result<RowOrder> LookAtRows(FileSystem& fs, const Catalogue& catalogue, const Inventory& inventory,
                            const RowSample& sample = {});

}  // namespace mimo
