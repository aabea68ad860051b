// A plan as JSON (schemas/plan.schema.json), and its digest. Written as a stream: 160 000 tensors cost no DOM.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "lib/base/status.h"
#include "lib/base/text_sink.h"
#include "lib/plan/plan.h"

namespace mimo {

std::string PlanOptionsJson(const PlanOptions& options);  // one object, deterministic
Result<PlanOptions> ParsePlanOptionsJson(const std::string& text);

// kBadInput for the first tensor file of the catalogue, or carried file, whose name is not UTF-8: neither plans,
// indices nor manifests can name it. The name is escaped.
Status CheckFileNames(const Catalogue& catalogue, const std::vector<std::string>& carried);

// The whole plan; errors of CheckFileNames. Source arrays are named, so the document stands alone with the checkpoint.
Status WritePlanJson(const Catalogue& catalogue, const Plan& plan, const TextSink& sink);

// Reads a document of WritePlanJson for this catalogue and returns the very same plan; kBadInput when the checkpoint is
// not the one it was made from (fingerprint), when a name does not resolve, a range is wrong (every index, row and byte
// range is checked: the executor trusts a plan) or the digest does not match the content.
Result<Plan> ParsePlanJson(const Catalogue& catalogue, const std::string& text, const std::string& path);

// XXH3-128 of the document without "digest" and "tool_version".
Hash128 PlanDigest(const Catalogue& catalogue, const Plan& plan);

// Every index and range of the plan is consistent: what the executor relies on. kBadInput says which is not.
Status ValidatePlan(const Catalogue& catalogue, const Plan& plan);

}  // namespace mimo
