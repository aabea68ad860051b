// What a conversion does with tensor files that the index does not name (lib/model/stray_files.h).
#pragma once

#include <string>

#include "lib/base/status.h"
#include "lib/model/catalogue.h"
#include "lib/plan/options.h"

namespace mimo {

// kBadInput for a file that nothing can be made of, and for unknown content unless --unknown says what becomes of it.
Status CheckStrays(const Catalogue& stored, UnknownPolicy policy);

// Whether a file that might travel along is left out because --unknown says so.
bool IsDroppedStray(const Catalogue& stored, const std::string& file, UnknownPolicy policy);

// "2 of 7 tensors are in model-00001.safetensors too, such as NAME", for whoever names the file.
std::string StrayEvidence(const StrayFile& stray);

}  // namespace mimo
