// A plan for people and as JSON (schemas/convert.schema.json).
#pragma once

#include <string>
#include <vector>

#include "lib/plan/operations.h"
#include "lib/plan/plan.h"
#include "lib/plan/summary.h"

namespace mimo {

struct PlanReport {
  const Catalogue& catalogue;
  const Plan& plan;
  const PlanSummary& summary;
  const std::vector<Operations>& operations;  // by output
  std::string stored_as;                      // "dtype bf16", "recipe nvfp4"
  uint64_t memory_bytes = 0;                  // of the run; 0: the default
  bool verbose = false;                       // every tensor
};

std::string PlanReportJson(const PlanReport& report);
void PrintPlanReport(const PlanReport& report);

}  // namespace mimo
