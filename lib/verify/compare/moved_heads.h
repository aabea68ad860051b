// Whole heads in each other's places, in rows of Q, K and V and in the vectors that go along with them.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "lib/verify/compare/cells.h"

namespace mimo {

// Rows, or elements of a vector, of a head of this tensor; 0: it is not by heads. A norm of one head that all share is
// no longer than this.
int64_t HeadSize(const ModelConfig& config, const TensorId& id);

// `from`: of every head of B that is not A's of its place, A's head that stands there; not empty. `share`: what else is
// to be said. The kinds heads.swapped, heads.permuted, heads.repeated.
PlaceFinding FindingOfHeads(const std::map<int64_t, int64_t>& from, const std::string& share);

// The same of vectors with `head` elements to a head, of one length; "" where whole heads do not explain it.
PlaceFinding FindVectorHeads(const std::vector<float>& x, const std::vector<float>& y, int64_t head);

}  // namespace mimo
