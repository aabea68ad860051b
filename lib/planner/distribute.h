// From a planned Hugging Face form to the arrays of ranks: every planned output is cut into the rectangles that ranks
// hold, and these are put together as the form's table says (lib/form/rank_form.h).
#pragma once

#include <string>
#include <vector>

#include "lib/draft/builder.h"
#include "lib/form/rank_form.h"
#include "lib/planner/target.h"

namespace mimo {

struct DistributeRequest {
  const RankForm& form;
  const Target& target;  // qkv is fused(tp): chunk r is rank r
  const PlanOptions& options;
  bool quantized_fp8 = false;  // config.json keeps an FP8 quantization_config
  bool router_bf16 = false;    // config.json's moe_router_dtype
};

// Replaces the outputs of the builder's plan; they are not placed yet. Tensors that the form has no place for (towers)
// go to hf-rest.safetensors under their own names, MTP layers to files of their own. `dropped` (by catalogue array)
// gets the reasons of what is no longer read. kUsage for what the form cannot hold.
Status Distribute(PlanBuilder& builder, const DistributeRequest& request, std::vector<std::string>* dropped);

// Distribute with the form that the options name, which `target` gets as its table; `keeps`: every weight keeps what it
// is stored as. Errors of RankForm::Load too.
Status CutForRanks(PlanBuilder& builder, const PlanOptions& options, bool keeps, Target* target,
                   std::vector<std::string>* dropped);

// Names of rank arrays are "rankR/NAME" in plans, manifests and catalogues, NAME in their files.
std::string RankFile(bool mtp, int64_t rank, int32_t layer);

}  // namespace mimo
