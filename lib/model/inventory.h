// Stored arrays paired into weights (codes with their scales) and checked against the config: the model as it is
// stored.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/base/status.h"
#include "lib/model/catalogue.h"

namespace mimo {

inline constexpr uint32_t kNone = 0xFFFFFFFFu;

enum class Storage : uint8_t { kPlain, kFp8Block, kMxfp4 };

// A weight: one stored array and, when it is quantized, the array of its scales (for split FP8 K/V the grid may need
// the scales of a neighbour too: lib/layout/block_grid.h).
struct Weight {
  TensorId id;
  uint32_t array = kNone;  // into Catalogue::arrays
  uint32_t scale = kNone;  // likewise
  Storage storage = Storage::kPlain;
  int64_t rows = 0;  // logical elements
  int64_t cols = 0;
};

// The attention projections of one layer, as indices into Inventory::weights; kNone where absent.
struct AttentionWeights {
  int32_t layer = 0;
  bool mtp = false;
  uint32_t qkv = kNone;
  uint32_t q = kNone, k = kNone, v = kNone;
  bool fused() const { return qkv != kNone; }
};

struct Inventory {
  std::vector<Weight> weights;              // in catalogue order
  std::vector<AttentionWeights> attention;  // decoder layers ascending, then MTP layers
  std::vector<uint32_t> unknown;            // arrays that no rule knows
  int mtp_layers = 0;
  bool fused = false;                // attention is stored fused (all layers alike)
  bool quantized_attention = false;  // any attention projection is block FP8
};

// Checks: every expected tensor is there with the shape the config says (rows of fused or split attention included);
// FP8 codes have scales and MXFP4 codes E8M0 scales of the right shape (rows of attention scales are left to the layout
// decision); no scale without codes; MTP layers complete and numbered from 0. kBadInput names the tensor, what was
// expected and found.
Result<Inventory> TakeInventory(const Catalogue& catalogue);

}  // namespace mimo
