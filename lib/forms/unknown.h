// Tensors that no model table knows: what is said where --unknown does not say what becomes of them.
#pragma once

#include <string>
#include <vector>

#include "lib/base/status.h"

namespace mimo {

// kBadInput for tensors of these names, of which there is at least one, by the kinds of things that they are: the id is
// that of the first kind. `title`: of the family. `place`: the file or directory where they lie.
Error RefuseUnknown(const std::string& title, const std::vector<std::string>& names, const std::string& place);

}  // namespace mimo
