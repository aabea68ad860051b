// The small files of a Megatron torch_dist root: trackers, the two state files, and the run_config.yaml that
// Megatron-Bridge builds its model from (reference target-layouts.md 2.2 and 2.3).
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "lib/base/status.h"
#include "lib/model/config.h"
#include "lib/model/family.h"
#include "lib/plan/plan.h"

namespace mimo {

struct MegatronFilesRequest {
  const ModelConfig& config;
  int64_t mtp_layers = 0;  // distinct model.mtp.layers.N that the checkpoint holds
  int64_t vocab_rows = 0;  // of the stored embedding and output layer, padding included
  // Iteration and dtype; tp, pp, ep and etp are informative: torch_dist is loaded at any of them.
  const PlanOptions& options;
};

// What a family's description says of its Megatron checkpoints besides run_config.
struct MegatronTraits {
  // TP may exceed the KV heads, which ranks then share (Megatron cuts linear_qkv by rows there).
  bool tp_beyond_kv_heads = false;
  // Entries of content_metadata in common.pt besides the usual ones; loaders ask for keys as they say.
  std::vector<std::pair<std::string, bool>> content;
};
// kBadInput for a description that is none; a family that Megatron-Bridge does not know has no traits.
Result<MegatronTraits> MegatronTraitsOf(const Family& family);

// iter_0000042, of an iteration.
std::string MegatronIterationDirectory(int64_t iteration);

// Ordered by name, which is relative to the root. kBadInput: config.json lacks a number that the run configuration has
// to state, or has an activation function other than SiLU. kUsage: kKeep, which is no dtype.
Result<std::vector<TextFile>> MegatronFiles(const MegatronFilesRequest& request);

}  // namespace mimo
