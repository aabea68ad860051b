// An encoding in words, for plans, manifests and people: "nvfp4 max", "mxfp4 rceil", "mxfp4 floor ties-to-zero",
// "fp8 128x128 ue8m0", "fp8 1x4096 neuron", each with " via-bf16" where values pass through BF16.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "kernels/encode.h"

namespace mimo {

std::string EncodingText(const kernels::Encoding& encoding);
// nullopt for what EncodingText never says.
std::optional<kernels::Encoding> EncodingFromText(std::string_view text);

}  // namespace mimo
