// From a planned Hugging Face form (split attention, plain values) to the parts of Megatron's tensors, as torch_dist
// stores them: reference target-layouts.md 2.2.
#pragma once

#include "lib/draft/draft.h"
#include "lib/forms/megatron/megatron_form.h"

namespace mimo {

// Replaces the outputs of the draft. `model`: the source's, with its heads before replication. kUsage for what Megatron
// cannot hold, and for --tp or --etp that do not divide.
Status ToTorchDist(Draft& draft, const ModelConfig& model, const PlanOptions& options);

// The small files, for a plan whose outputs have their places: .metadata, the extra states, common state and what
// Megatron-Bridge needs besides.
Status DescribeTorchDist(const ModelConfig& model, Plan* plan);

}  // namespace mimo
