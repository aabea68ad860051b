// From a planned Hugging Face form to the arrays of ranks: every planned output is cut into the rectangles that ranks
// hold, and these are put together as the form's table says (lib/forms/ranks/rank_form.h).
#pragma once

#include <string>

#include "lib/forms/form.h"
#include "lib/forms/ranks/rank_form.h"

namespace mimo {

// Replaces the outputs of the draft; attention is fused(tp), chunk r is rank r. Tensors that the form has no place for
// (towers) go to hf-rest.safetensors under their own names, MTP layers to files of their own. kUsage for what the form
// cannot hold.
Status Distribute(const RankForm& form, Planning* p);

// Names of rank arrays are "rankR/NAME" in plans, manifests and catalogues, NAME in their files.
std::string RankFile(bool mtp, int64_t rank, int32_t layer);

}  // namespace mimo
