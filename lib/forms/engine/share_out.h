// Whether the ranks of an engine can share out a model.
#pragma once

#include "lib/forms/form.h"

namespace mimo {

// Checks that --tp and --ep share out the model of the target, each weight in whole blocks, padding it first where
// --pad asks for it. kUsage names the nearest number that can.
Status ShareOut(Planning* p);

}  // namespace mimo
