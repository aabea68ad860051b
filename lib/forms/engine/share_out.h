// Whether the ranks of an engine can share out a model.
#pragma once

#include "lib/forms/form.h"

namespace mimo {

// Checks that --tp and --ep share out the model of the target, each weight in whole blocks, padding it first where
// --pad asks for it. `pads_vocab`: the engine pads the vocabulary to what its ranks need, so that files need not.
// kUsage names the nearest number that can.
Status ShareOut(bool pads_vocab, Planning* p);

}  // namespace mimo
