// A Hugging Face directory for one engine at one tensor-parallel size: attention lies as its loader takes it
// (schemas/targets.json).
#pragma once

#include "lib/forms/engine/engine_targets.h"
#include "lib/forms/form.h"

namespace mimo {

class EngineForm : public Form {
 public:
  FormTraits traits() const override { return {.plain = false}; }
  bool IsAskedFor(const PlanOptions& options) const override;
  Status Check(const Planning& p) const override;
  Status Aim(const Choice& attention, Planning* p) const override;
  // Also what cutting for ranks re-quantizes, and what to do instead.
  void Note(Planning* p) const override;
  std::string InsteadOfStraddling(const Planning& p) const override;

 protected:
  // What the engine wants at this size. kUsage for an unknown version, or blocks that it does not take.
  static Result<EngineTarget> TargetOf(const Planning& p);
};

}  // namespace mimo
