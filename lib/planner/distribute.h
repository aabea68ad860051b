// From a planned Hugging Face form to the arrays of ranks: every planned output is cut into the rectangles that ranks
// hold, and these are put together as the form's table says (lib/form/rank_form.h).
#pragma once

#include <string>
#include <vector>

#include "lib/draft/draft.h"
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

// Replaces the outputs of the draft. Tensors that the form has no place for (towers) go to hf-rest.safetensors under
// their own names, MTP layers to files of their own. kUsage for what the form cannot hold.
Status Distribute(Draft& draft, const DistributeRequest& request);

// Distribute with the form that the options name, which `target` gets as its table; `keeps`: every weight keeps what it
// is stored as. Errors of RankForm::Load too.
Status CutForRanks(Draft& draft, const PlanOptions& options, bool keeps, Target* target);

// Names of rank arrays are "rankR/NAME" in plans, manifests and catalogues, NAME in their files.
std::string RankFile(bool mtp, int64_t rank, int32_t layer);

}  // namespace mimo
