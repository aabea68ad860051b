// Tensors that are another one of A: of another layer, expert or name.
#pragma once

#include <vector>

#include "lib/verify/compare/cells.h"
#include "lib/verify/compare/units.h"

namespace mimo {

// Which tensor of A the B of `pair` is: layers.exchanged, layers.repeated, experts.permuted, experts.repeated,
// tensor.exchanged, tensor.repeated; "repeated" where the other is in its own place too. Kind "" where it is none that
// has its shape. kIo.
Result<PlaceFinding> FindCounterpart(const LogicalCheckpoint& a, const LogicalCheckpoint& b, const TensorPair& pair);

}  // namespace mimo
