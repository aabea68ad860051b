// Refusals of options that several forms share. Each is kUsage, or ok where the option was not given.
#pragma once

#include "lib/forms/form.h"

namespace mimo {

// --format, where the target has one form.
Status RefuseFormat(const PlanOptions& options);
// --iteration, which training counts.
Status RefuseIteration(const PlanOptions& options);
// --template, which names the arrays of rank files.
Status RefuseTemplate(const PlanOptions& options);
// --tp, --ep, --pad, --engine-version, and --attention unless it is `attention`.
Status RefuseEngineOptions(const PlanOptions& options, AttentionStorage attention = AttentionStorage::kAuto);
// --pp and --etp, which only training saves name.
Status RefuseTrainingTopology(const PlanOptions& options);
// --max-shard-size, where files are cut by layer.
Status RefuseShardSize(const PlanOptions& options);
// --expert-codes.
Status RefuseExpertCodes(const PlanOptions& options);
// --ranks.
Status RefuseRanks(const PlanOptions& options);
// --qkv, where the target decides the layout.
Status RefuseQkv(const PlanOptions& options);
// --fold-value-scale where there is none, or where it cannot be folded exactly.
Status CheckFold(const Planning& p);

// "vllm".
std::string TargetWord(const PlanOptions& options);

}  // namespace mimo
