// Files of torch.save items (lib/io/torch/item.h) as a container: one item after another, one array each, in the order
// in which they are planned. The frame of an array is its item, which holds the CRC-32 of the data twice.
#pragma once

#include "lib/io/container.h"

namespace mimo {

const Container& TorchItemsContainer();

}  // namespace mimo
