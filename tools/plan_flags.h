// The options that say what is written: those of a plan, shared by whatever makes one.
#pragma once

#include <CLI/CLI.hpp>
#include <set>
#include <string>

#include "lib/plan/plan.h"
#include "tools/recipe_flags.h"
#include "tools/target_flags.h"

namespace mimo {

struct PlanFlags {
  PlanOptions plan;
  std::string recipe;  // --recipe: a name or a file
  RecipeFlags flags;
  TargetFlags target;
  std::set<std::string> typed;  // long options of the command line, whatever variables say
  const CLI::Option* qkv_option = nullptr;
  std::string dtype = "keep", shard_size = "keep";
};

// Adds them, and returns the group "output" for what belongs there too. `flags` outlives the parsing.
CLI::App* AddPlanFlags(CLI::App& app, PlanFlags& flags);

// What is left to be done once the command line is parsed: PlanFlags::plan is complete. kUsage for what does not parse
// and what contradicts; errors of reading the files that are named.
Status ReadPlanFlags(PlanFlags& flags);

}  // namespace mimo
