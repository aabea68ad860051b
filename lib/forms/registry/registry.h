// Every form there is. A new one is a room and a line in registry.cc.
#pragma once

#include <vector>

#include "lib/forms/form.h"

namespace mimo {

// In the order in which they are asked; that of Hugging Face, which takes what no other does, is the last.
const std::vector<const Form*>& Forms();

// The form of a directory whose catalogue is open: by its marker where there is one, else by names.
const Form& FormOfStored(const Catalogue& stored);

// The form of an opened checkpoint.
const Form& FormOf(const Checkpoint& checkpoint);

// The form that these options ask for, which completes them; `merged`: the source is a checkpoint merged with the one
// that it is to be like.
const Form& FormOfOutput(bool merged, PlanOptions* options);

}  // namespace mimo
