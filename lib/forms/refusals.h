// Refusals of options that several forms share. Each is kUsage, or ok where the option was not given.
#pragma once

#include <initializer_list>

#include "lib/forms/form.h"

namespace mimo {

// The first of these that does not hold, in their order.
Status CheckEach(const Planning& p, std::initializer_list<Status (*)(const Planning&)> checks);

// --format, where the target has one form.
Status RefuseFormat(const Planning& p);
// --iteration, which training counts.
Status RefuseIteration(const Planning& p);
// --template, which names the arrays of rank files.
Status RefuseTemplate(const Planning& p);
// --tp, --ep, --pad, --engine-version, and --attention unless it is `taken`.
Status RefuseEngineOptions(const Planning& p, AttentionStorage taken);
inline Status RefuseEngineOptions(const Planning& p) {
  return RefuseEngineOptions(p, AttentionStorage::kAuto);
}
// An engine without --tp.
Status RequireRanks(const Planning& p);
// --pp and --etp, which only training saves name.
Status RefuseTrainingTopology(const Planning& p);
// --max-shard-size, where files are cut by layer.
Status RefuseShardSize(const Planning& p);
// --expert-codes and --router-bias.
Status RefuseExpertCodes(const Planning& p);
// --ranks.
Status RefuseRanks(const Planning& p);
// --qkv, where the target decides the layout.
Status RefuseQkv(const Planning& p);
// --fold-value-scale where there is none, or where it cannot be folded exactly.
Status CheckFold(const Planning& p);

// "vllm".
std::string TargetWord(const PlanOptions& options);

}  // namespace mimo
