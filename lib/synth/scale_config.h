// config.json of a preset, cut down to what was asked for.
#pragma once

#include <string>

#include "lib/base/status.h"
#include "lib/synth/synth.h"

namespace mimo {

// Lists are cut with --layers, ignored_layers is generated, tower configs follow the width or vanish with the towers.
Result<std::string> ScaledConfig(const Preset& preset, const SynthOptions& options);

}  // namespace mimo
