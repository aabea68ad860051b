// --to and what belongs to it: ranks, engine versions, forms, padding.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "lib/base/file_system.h"
#include "lib/plan/plan.h"

namespace mimo {

struct TargetFlags {
  FormKind format = FormKind::kHf;  // the target's usual one
  std::string ranks, template_path;
  const CLI::Option* to_option = nullptr;
};

void AddTargetFlags(CLI::App& app, TargetFlags& flags, PlanOptions& options);

// What is left to be done once `options` has its words; `qkv_given`: --qkv is on the command line. kUsage for what does
// not parse, errors of reading the template.
Status FinishTarget(FileSystem& fs, const TargetFlags& flags, bool qkv_given, PlanOptions* options);

}  // namespace mimo
