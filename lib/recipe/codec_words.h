// The words of codecs in plans, recipes, manifests and messages.
#pragma once

#include "kernels/codec.h"
#include "lib/base/words.h"

namespace mimo {

using kernels::Codec;

inline constexpr Words<Codec, 7> kCodecs{{{Codec::kFp32, "fp32"},
                                          {Codec::kFp16, "fp16"},
                                          {Codec::kBf16, "bf16"},
                                          {Codec::kFp8Block, "fp8"},
                                          {Codec::kMxfp4, "mxfp4"},
                                          {Codec::kMxfp8, "mxfp8"},
                                          {Codec::kNvfp4, "nvfp4"}}};
static_assert(NamesEach(kCodecs));

}  // namespace mimo
