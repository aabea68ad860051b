// The words of recipes, in their JSON, on the command line and in messages.
#pragma once

#include <string_view>

#include "lib/base/words.h"
#include "lib/recipe/recipe.h"

namespace mimo {

inline constexpr Words<Dialect, 3> kDialects{{{Dialect::kNative, "native"},
                                              {Dialect::kModelOpt, "modelopt"},
                                              {Dialect::kCompressedTensors, "compressed-tensors"}}};
inline constexpr Words<StoredAs, 8> kStoredAs{{{StoredAs::kKeep, "keep"},
                                               {StoredAs::kBf16, "bf16"},
                                               {StoredAs::kFp16, "fp16"},
                                               {StoredAs::kFp32, "fp32"},
                                               {StoredAs::kFp8, "fp8"},
                                               {StoredAs::kNvfp4, "nvfp4"},
                                               {StoredAs::kMxfp4, "mxfp4"},
                                               {StoredAs::kMxfp8, "mxfp8"}}};
inline constexpr Words<kernels::ScaleRule, 8> kScaleRules{{{kernels::ScaleRule::kMax, "max"},
                                                           {kernels::ScaleRule::kFourOverSix, "four-over-six"},
                                                           {kernels::ScaleRule::kSweep, "sweep"},
                                                           {kernels::ScaleRule::kMse, "mse"},
                                                           {kernels::ScaleRule::kRceil, "rceil"},
                                                           {kernels::ScaleRule::kFloor, "floor"},
                                                           {kernels::ScaleRule::kEven, "even"},
                                                           {kernels::ScaleRule::kCeil, "ceil"}}};
inline constexpr auto kNvfp4Rules = Only(kScaleRules, {kernels::ScaleRule::kMax, kernels::ScaleRule::kFourOverSix,
                                                       kernels::ScaleRule::kSweep, kernels::ScaleRule::kMse});
inline constexpr auto kMxRules =  // of MXFP4 and MXFP8
    Only(kScaleRules, {kernels::ScaleRule::kRceil, kernels::ScaleRule::kFloor, kernels::ScaleRule::kEven,
                       kernels::ScaleRule::kCeil});
inline constexpr Words<kernels::Ties, 2> kTies{
    {{kernels::Ties::kEven, "even"}, {kernels::Ties::kTowardZero, "toward-zero"}}};
// What --mx-ties takes: "zero" is short for "toward-zero".
inline constexpr Words<kernels::Ties, 3> kTiesAndAlias{{kTies[0], kTies[1], {kernels::Ties::kTowardZero, "zero"}}};
// Recipe::fp8_power_of_two on the command line.
inline constexpr Words<bool, 2> kFp8Scales{{{false, "f32"}, {true, "ue8m0"}}};
static_assert(NamesEach(kDialects) && NamesEach(kStoredAs) && NamesEach(kScaleRules) && NamesEach(kTies));
// The recipe that --dtype means where it names a block codec.
inline constexpr Words<std::string_view, 4> kRecipesOfDTypes{
    {{"fp8-all", "fp8"}, {"nvfp4", "nvfp4"}, {"mxfp4-experts", "mxfp4"}, {"mxfp8", "mxfp8"}}};

}  // namespace mimo
