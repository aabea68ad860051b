// A layout of the attention projections as people ask for one: --qkv, --source-qkv and "qkv" of a recipe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "lib/base/status.h"
#include "lib/layout/row_map.h"
#include "lib/model/catalogue.h"

namespace mimo {

struct QkvWish {
  enum class Kind : uint8_t {
    kKeep,
    kAuto,         // split where fused attention becomes values and nothing else was asked for, else keep
    kRestore,      // that of the checkpoint which this one was made from
    kSplit,        // split, split:C
    kIndependent,  // independent, split:independent
    kFused,        // fused, fused:C
    kUnknown,      // no wish: refused by whoever needs its layout (LayoutOfWish)
  };
  Kind kind = Kind::kKeep;
  std::optional<int64_t> chunks;  // C of split:C and fused:C, 1 to 4096
  std::string text = "keep";      // as it was written: what plans record and messages say

  QkvWish() = default;
  explicit QkvWish(std::string written);
  bool operator==(const QkvWish&) const = default;
};

// The layout that a wish names; without C the chunks are the index's tp_size, else the KV heads. kUsage for a wish that
// names none: kKeep, kRestore, kUnknown.
Result<QkvLayout> LayoutOfWish(const QkvWish& wish, const Catalogue& catalogue);

}  // namespace mimo
