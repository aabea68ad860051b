// Plans the attention projections of one layer: from one fused or split layout into another.
#pragma once

#include <array>
#include <optional>

#include "lib/draft/draft.h"

namespace mimo {

// Plan of the attention projections of one layer.
struct AttentionRequest {
  const AttentionWeights* weights = nullptr;
  QkvMap source;
  QkvMap target;                // heads beyond the source's are padding
  std::optional<Codec> decode;  // to plain values of this type; otherwise codes (or plain values) are moved
  struct Encode {
    kernels::Encoding encoding;
    WeightArrays arrays;
    std::array<std::optional<float>, 3> input_scales;      // by array of the target, as is
    std::array<uint32_t, 3> keep = {kNone, kNone, kNone};  // EncodedRequest::keep
  };
  std::optional<Encode> encode;  // to this; then `decode` is not set
  // Values become block FP8 on the target's grid, whatever arrays its blocks span. `keep`: by array of the target, the
  // plan source of its scales that are kept while values fit; kNone: all are made anew.
  std::optional<std::array<uint32_t, 3>> quantize;
  int64_t block_cols = 0;     // columns of the blocks that `quantize` makes; their rows are those of the target's grid
  std::optional<float> fold;  // V becomes V times this (attention_value_scale)
  // FP8 codes that were stored as bytes get their own type; and scales of blocks are called this and become F32.
  bool as_fp8 = false;
  std::optional<Part> as_released = {};
  // FP8: the scales per tensor of q, k and v have the same bits, so that one stands for all
  // (SurveyFacts::equal_scales). They are compared again before anything is published.
  bool equal_scales = false;
};

// Adds the group and its outputs. Rows of NVFP4 attention may only be moved where each target array takes rows of one
// source array: each has one global scale. FP8 under scales of rows moves as its rows do; under one scale per tensor it
// is moved where one scale of the source stands for each target array, and else is one block, which is re-quantized.
// All arrays of the source are stored alike where codes are moved. With `refuse_straddles`, adds nothing and answers
// false when a block would be re-quantized.
bool PlanAttention(Draft& draft, const AttentionRequest& request, bool refuse_straddles);

}  // namespace mimo
