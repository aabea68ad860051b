// What is odd about the files of a checkpoint: things that loaders stumble over.
#pragma once

#include "lib/judge/finding.h"
#include "lib/model/catalogue.h"

namespace mimo {

// The catalogue's own oddities first.
Verdict FindOddities(const Catalogue& catalogue);

}  // namespace mimo
