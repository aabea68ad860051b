// --like: a run, merged with its reference, planned, and held to descend from it.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/base/status.h"
#include "lib/forms/checkpoint.h"
#include "lib/plan/plan.h"

namespace mimo {

struct LikeArguments {
  std::string run, reference;       // directories
  OpenOptions source;               // of the run
  std::vector<std::string> orders;  // --source-gate-up
  bool allow_divergence = false;
  int threads = 0;
};

// --source-gate-up as options of opening. kUsage for words that it has not.
Status TakeOrders(const std::vector<std::string>& orders, OpenOptions* source);
// kUsage where an order was given for a checkpoint that is none of Megatron's.
Status CheckOrders(const std::vector<std::string>& orders, const Checkpoint& checkpoint);

// Makes the plan of the merged checkpoint, and compares the run with its reference; `figures` says how alike they are,
// for people. Where the arguments of the run contradict how its experts lie, and the other order descends, that one is
// taken, with a note in the plan. kBadInput [descent.*]: the run does not descend from the reference; with
// allow_divergence a note of the plan for each cause.
Result<Plan> PlanLike(FileSystem& fs, const LikeArguments& arguments,
                      const std::function<Result<Plan>(const Checkpoint&)>& make, Checkpoint* merged,
                      std::string* figures);

}  // namespace mimo
