// The kinds of files that plans speak of (lib/io/container.h).
#pragma once

#include <span>
#include <string_view>

#include "lib/io/container.h"

namespace mimo {

std::span<const Container* const> Containers();  // the usual one first
// The one of that name in plans and manifests; null: there is none.
const Container* FindContainer(std::string_view word);

}  // namespace mimo
