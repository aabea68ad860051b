// How sure a statement is that others build on (the layout of attention, a dialect).
#pragma once

#include <cstdint>

#include "lib/base/words.h"

namespace mimo {

enum class Certainty : uint8_t { kProven, kAssumed, kContradicted };
inline constexpr Words<Certainty, 3> kCertainties{
    {{Certainty::kProven, "proven"}, {Certainty::kAssumed, "assumed"}, {Certainty::kContradicted, "contradicted"}}};
static_assert(NamesEach(kCertainties));

}  // namespace mimo
