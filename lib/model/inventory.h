// Stored arrays paired into weights (codes with their scales) and checked against the config: the model as it is
// stored.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "lib/base/status.h"
#include "lib/model/catalogue.h"

namespace mimo {

enum class Storage : uint8_t { kPlain, kFp8Block, kMxfp4, kMxfp8, kNvfp4 };

// What one scale of an FP8 weight stands for.
enum class ScaleSpan : uint8_t { kBlock, kRow, kTensor };

// Whether an element of the array is two codes.
constexpr bool IsPacked(Storage storage) {
  switch (storage) {
    case Storage::kMxfp4:
    case Storage::kNvfp4:
      return true;
    case Storage::kPlain:
    case Storage::kFp8Block:
    case Storage::kMxfp8:
      break;
  }
  return false;
}

// Whether codes lie under scales of rectangles (Weight::span says which): of blocks, whose cells a new layout of
// attention cuts (Weight::in_blocks), of rows, or of the whole. Others carry their scales row by row, or have none.
constexpr bool HasBlockGrid(Storage storage) {
  switch (storage) {
    case Storage::kFp8Block:
      return true;
    case Storage::kPlain:
    case Storage::kMxfp4:
    case Storage::kMxfp8:
    case Storage::kNvfp4:
      break;
  }
  return false;
}

// A weight: one stored array and, when it is quantized, the arrays beside it (for split FP8 K/V the grid may need the
// scales of a neighbour too: lib/layout/row_map.h). Reference quantization-formats.md 2.1, 3.1, 4.3.
struct Weight {
  TensorId id;             // part kWeight, whatever the name of the codes is
  uint32_t array = kNone;  // values or codes; into Catalogue::arrays, as are all below
  uint32_t scale = kNone;
  uint32_t global = kNone;      // kNvfp4: F32, one element
  bool global_divides = false;  // kNvfp4: weight_global_scale, not weight_scale_2
  uint32_t input = kNone;       // input_scale or input_global_scale: one element, F32 (of FP8 any type of scales)
  Storage storage = Storage::kPlain;
  int64_t rows = 0;  // logical elements
  int64_t cols = 0;
  ScaleSpan span = ScaleSpan::kBlock;  // kFp8Block
  int64_t block_rows = 128;            // kFp8Block: of one scale, whatever it stands for
  int64_t block_cols = 128;
  bool in_blocks() const { return HasBlockGrid(storage) && span == ScaleSpan::kBlock; }
  bool per_row() const { return HasBlockGrid(storage) && span == ScaleSpan::kRow; }
  bool per_tensor() const { return HasBlockGrid(storage) && span == ScaleSpan::kTensor; }
};

// Whether a weight is FP8 as the family's releases have it: F8_E4M3 codes in blocks under F32 scales. Forms whose
// readers know nothing else ask this.
bool IsReleasedFp8(const Catalogue& catalogue, const Weight& weight);
// "FP8 with a BF16 scale per row", for people.
std::string Fp8Text(const Catalogue& catalogue, const Weight& weight);

// The attention projections of one layer, as indices into Inventory::weights; kNone where absent.
struct AttentionWeights {
  int32_t layer = 0;
  bool mtp = false;
  uint32_t qkv = kNone;
  uint32_t q = kNone, k = kNone, v = kNone;
  bool fused() const { return qkv != kNone; }
  uint32_t first() const { return fused() ? qkv : q; }
  // Fused {qkv}, split {q, k, v}, as the arrays of lib/layout/row_map.h are numbered.
  std::array<uint32_t, 3> in_order() const { return fused() ? std::array{qkv, kNone, kNone} : std::array{q, k, v}; }
};

// A scale of the KV cache: of a layer's attention, of no weight. One element, F32, BF16 or F16, [] or [1].
struct CacheScale {
  uint32_t array = kNone;  // into Catalogue::arrays
  TensorId id;             // of what, and of which layer
  CachePlacement placement = CachePlacement::kAttention;
};

struct Inventory {
  std::vector<Weight> weights;              // in catalogue order
  std::vector<AttentionWeights> attention;  // decoder layers ascending, then MTP layers
  std::vector<uint32_t> unknown;            // arrays that no rule knows, or that are not what their name says
  std::vector<CacheScale> cache_scales;     // in catalogue order
  // Arrays of MTP layers that are not whole, or not under the names of the release (InventoryOptions::without_mtp);
  // in catalogue order.
  std::vector<uint32_t> left_out;
  int mtp_layers = 0;                // one more than the last, whole or not
  bool fused = false;                // attention is stored fused (all layers alike)
  bool quantized_attention = false;  // any attention projection is FP8 under a grid of blocks
};

struct InventoryOptions {
  // MTP layers that are not whole are left out, and so are those that are not there: another checkpoint has them.
  bool without_mtp = false;
};

// Checks: every expected tensor is there with the shape the config says (rows of fused or split attention included);
// every weight has the companions of its storage and no others, of the right types and shapes (stored_weight.h; rows of
// block FP8 attention scales are left to the layout decision); MTP layers complete and numbered from 0. kBadInput names
// the tensor, what was expected and found.
Result<Inventory> TakeInventory(const Catalogue& catalogue, const InventoryOptions& options = {});

}  // namespace mimo
