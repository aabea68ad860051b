// What people should know of a plan beyond its figures.
#pragma once

#include "lib/forms/form.h"

namespace mimo {

// Adds those that every form shares to Planning::notes.
void AddNotes(Planning* p);

}  // namespace mimo
