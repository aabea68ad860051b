// What is odd about a checkpoint: things that loaders stumble over, one line each.
#pragma once

#include <string>
#include <vector>

#include "lib/model/inventory.h"

namespace mimo {

// The catalogue's own oddities first. `inventory` may be null (a checkpoint that TakeInventory refuses).
std::vector<std::string> FindOddities(const Catalogue& catalogue, const Inventory* inventory);

}  // namespace mimo
