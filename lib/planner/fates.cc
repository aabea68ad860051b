#include "lib/planner/fates.h"

#include <vector>

#include "lib/plan/plan_json.h"

namespace mimo {

void FinishPlan(const Catalogue& stored, const std::function<std::string(uint32_t array)>& reason, Plan* plan) {
  plan->source_fingerprint = stored.Fingerprint();
  std::vector<uint8_t> used(stored.arrays.size(), 0);
  for (const SourceArray& source : plan->sources) used[source.array] = 1;
  for (uint32_t i = 0; i < stored.arrays.size(); ++i) {
    SourceFate fate{i, Fate::kUsed, ""};
    if (used[i] == 0) {
      fate.fate = Fate::kDropped;
      fate.reason = reason(i);
      if (fate.reason.empty()) fate.reason = "not needed";
    }
    plan->fates.push_back(std::move(fate));
  }
  plan->digest = PlanDigest(stored, *plan);
}

}  // namespace mimo
