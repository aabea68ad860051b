// --like: a run, merged with its reference, planned, and held to descend from it.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/base/status.h"
#include "lib/forms/checkpoint.h"
#include "lib/plan/plan.h"
#include "lib/run/source_guard.h"
#include "tools/cli.h"

namespace mimo {

struct LikeFlags {
  std::string reference;  // --like; "" without
  bool allow_divergence = false;
  std::vector<std::string> orders;  // --source-gate-up
};
void AddLikeFlags(CLI::App& group, LikeFlags& flags);
// kUsage for flags without what they are about.
Status CheckLikeFlags(const LikeFlags& flags);

// --source-gate-up as options of opening. kUsage for words that it has not.
Status TakeOrders(const LikeFlags& flags, OpenOptions* source);
// kUsage where an order was given for a checkpoint that is none of Megatron's.
Status CheckOrders(const LikeFlags& flags, const Checkpoint& checkpoint);

// Opens a run (`source`: its options) and merges it with its reference, makes the plan, and compares the two; `figures`
// says how alike they are, for people. Where the arguments of the run contradict how its experts lie, and the other
// order descends, that one is taken, with a note in the plan. kBadInput [descent.*]: the run does not descend from the
// reference; with allow_divergence a note of the plan for each cause.
//
// With `guard`, of a part or a join, which share out what is to be compared: here only what decides in which order
// experts lie, and the rest is for the guard, which refers to `merged`. With allow_divergence all is compared here, and
// it stays null.
using MakesPlan = std::function<Result<Plan>(const Checkpoint&)>;
Result<Plan> PlanLike(FileSystem& fs, const std::string& run, OpenOptions source, const LikeFlags& flags, int threads,
                      const MakesPlan& make, Checkpoint* merged, std::string* figures,
                      std::unique_ptr<SourceGuard>* guard);

}  // namespace mimo
