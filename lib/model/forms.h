// The forms in which checkpoints lie on disk, and what a form did to the values: their words in markers, plans, options
// and messages.
#pragma once

#include <cstdint>

#include "lib/base/words.h"

namespace mimo {

enum class FormKind : uint8_t {
  kHf,            // a Hugging Face directory
  kShardedState,  // vLLM: files of each rank
  kNxdi,          // a preprocessed Neuron directory
  kTorchDist,     // Megatron's distributed checkpoints
  kDcp,           // other distributed checkpoints of PyTorch
  kTorch,         // Megatron's legacy mp_rank_* directories
};
inline constexpr Words<FormKind, 6> kForms{{{FormKind::kHf, "hf"},
                                            {FormKind::kShardedState, "sharded-state"},
                                            {FormKind::kNxdi, "nxdi"},
                                            {FormKind::kTorchDist, "torch_dist"},
                                            {FormKind::kDcp, "dcp"},
                                            {FormKind::kTorch, "torch"}}};
// The kind of the form that reads one: whatever training wrote is read by one.
constexpr FormKind ReaderOf(FormKind kind) {
  return kind == FormKind::kDcp || kind == FormKind::kTorch ? FormKind::kTorchDist : kind;
}

// Those that are written, and so stand in markers.
inline constexpr auto kWrittenForms =
    Only(kForms, {FormKind::kHf, FormKind::kShardedState, FormKind::kNxdi, FormKind::kTorchDist});
// Whether a form is made of the files of ranks, whose number its marker must say.
constexpr bool IsOfRanks(FormKind form) {
  return form == FormKind::kShardedState;
}

// How FP8 codes of experts come into the range of Neuron's FP8.
enum class ExpertCodes : uint8_t { kHalve, kRescale };
inline constexpr Words<ExpertCodes, 2> kExpertCodes{
    {{ExpertCodes::kHalve, "halve"}, {ExpertCodes::kRescale, "rescale"}}};

// Whether the mean of a router's biases is taken out of them for Neuron, which rounds them to BF16.
enum class RouterBias : uint8_t { kKeep, kCentred };
inline constexpr Words<RouterBias, 2> kRouterBiases{{{RouterBias::kKeep, "keep"}, {RouterBias::kCentred, "centred"}}};

// The weights that attention_value_scale is multiplied into.
enum class FoldInto : uint8_t { kV, kO };
inline constexpr Words<FoldInto, 2> kFoldIntos{{{FoldInto::kV, "v"}, {FoldInto::kO, "o"}}};

}  // namespace mimo
