#include "tools/asked.h"

#include <algorithm>

#include "lib/inspect/describe.h"
#include "lib/model/role_groups.h"

namespace mimo {

bool AsksForSomething(const PlanOptions& options) {
  PlanOptions others = options;
  others.like = false;
  if (others.qkv.kind == QkvWish::Kind::kAuto) others.qkv = QkvWish();
  return others != PlanOptions{};
}

bool LeavesAllAsItIs(const Plan& plan) {
  return !plan.files.empty() &&
         std::all_of(plan.files.begin(), plan.files.end(), [](const PlanFile& file) { return file.unchanged; });
}

Status NothingAsked(const std::string& root, const Checkpoint& checkpoint) {
  MIMO_ASSIGN_OR_RETURN(const Description d,
                        Describe(checkpoint.stored, &checkpoint.inventory, &checkpoint.layout, {}));
  std::string storages;
  for (const RoleTotal& role : d.roles)
    if (!role.mtp && (role.role == Role::kExpertDown || IsAttentionProjection(role.role)))
      storages += (storages.empty() ? "" : ", ") + std::string(RoleName(role.role)) + " in " + role.storage;
  return UsageError("nothing was asked for: OUT would be a copy")
      .Id("usage.nothing_asked")
      .File(root)
      .Found(d.family + ", attention " + checkpoint.layout.layout.ToString() + "; " + storages)
      .Advice(
          "say what to make of it: --dtype bf16, --qkv split, --to vllm --tp N, --to megatron, --recipe NAME ...; "
          "--copy "
          "or --link hard writes it as it is");
}

}  // namespace mimo
