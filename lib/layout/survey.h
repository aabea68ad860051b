// What only the data tells, from a cheap look at it: attention scales of every layer, and the codes of one layer of
// each kind.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/base/hash.h"
#include "lib/base/status.h"
#include "lib/layout/row_map.h"
#include "lib/layout/row_order.h"
#include "lib/model/inventory.h"

namespace mimo {

// An amax-quantized block holds at least one code of magnitude 0x7E. Cells (scale row x column block) of the sampled
// layers under one candidate layout, those whose scale is zero or that hold Q rows left out.
struct SaturationCount {
  QkvLayout layout;
  uint64_t cells = 0;
  uint64_t unsaturated = 0;
};

struct SurveyFacts {
  std::vector<SaturationCount> saturation;  // one per candidate asked for
  std::vector<std::string> sampled;         // tensors whose codes were read
  uint64_t attention_scales = 0;
  uint64_t power_of_two_scales = 0;
  uint64_t zero_scales = 0;
  RowOrder rows;  // of fused attention under no block grid (LookAtRows); empty where nothing was looked at
  // Layers (into Inventory::attention) of split FP8 attention whose q, k and v have one and the same scale per tensor,
  // or input_scale, bit for bit: one can stand for all when they are fused.
  std::vector<uint32_t> equal_scales, equal_inputs;
  Hash128 Digest() const;
};

// Reads attention scales and samples codes. kBadInput for a NaN, infinite or negative attention scale (names the tensor
// and the element) unless `allow_anomalies`.
Result<SurveyFacts> Survey(FileSystem& fs, const Catalogue& catalogue, const Inventory& inventory,
                           const std::vector<QkvLayout>& candidates, bool allow_anomalies);

}  // namespace mimo
