// safetensors files as a container: a header, then the arrays by name, without frames
// (lib/io/safetensors/safetensors.h).
#pragma once

#include "lib/io/container.h"

namespace mimo {

const Container& SafetensorsContainer();

}  // namespace mimo
