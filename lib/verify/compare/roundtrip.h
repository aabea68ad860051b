// A conversion there and back without writing it: proof that nothing is lost, or how much.
#pragma once

#include <optional>
#include <string>

#include "lib/forms/checkpoint.h"
#include "lib/plan/plan.h"
#include "lib/verify/compare/compare.h"

namespace mimo {

struct RoundtripReport {
  bool lossless = false;  // by the plan: nothing that is made rounds
  CompareReport there;    // the source against what the plan makes
  // What comes back as a Hugging Face checkpoint: against the source where nothing rounds, else against what it is made
  // from.
  std::optional<CompareReport> back;
  kernels::Anomalies anomalies;         // of values that were made there
  std::vector<std::string> violations;  // what is not as the plan promises
  bool Holds() const { return violations.empty() && there.Same() && (!back || back->Same()); }
};

// Plans the conversion of `root` that `plan_options` ask for, makes its output in memory as it is read, opens that as
// any checkpoint and compares it with `root`; then the same of the way back (--to hf). Values may be half a step of a
// codec apart where the plan says that it rounds, and nowhere else; `options` say how near is near enough beyond that.
// Errors of opening, planning and comparing; kUsage for a part of a checkpoint (--ranks, --include, --exclude).
Result<RoundtripReport> Roundtrip(FileSystem& fs, const std::string& root, const PlanOptions& plan_options,
                                  const CompareOptions& options);

}  // namespace mimo
