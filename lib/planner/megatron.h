// From a planned Hugging Face form (split attention, plain values) to the parts of Megatron's tensors, as torch_dist
// stores them: reference target-layouts.md 2.2.
#pragma once

#include <string>
#include <vector>

#include "lib/draft/draft.h"
#include "lib/form/megatron_form.h"
#include "lib/planner/target.h"

namespace mimo {

// A tensor of torch_dist and its parts, in the order of their outputs.
struct PlannedTensor {
  std::string key;
  DType dtype = DType::kBF16;
  std::vector<int64_t> shape;
  struct Part {
    std::string output;  // its name, ChunkName(key, offsets)
    std::vector<int64_t> offsets, sizes;
  };
  std::vector<Part> parts;
};

// Replaces the outputs of the draft's plan; they are not placed yet. `model`: the source's, with its heads before
// replication. kUsage for what Megatron cannot hold, and for --tp or --etp that do not divide.
Status ToMegatron(Draft& draft, const ModelConfig& model, const PlanOptions& options,
                  std::vector<PlannedTensor>* tensors);

// The small files, for a plan whose outputs have their places: .metadata, the extra states, common state and what
// Megatron-Bridge needs besides.
Status DescribeMegatron(const std::vector<PlannedTensor>& tensors, const ModelConfig& model, Plan* plan);

}  // namespace mimo
