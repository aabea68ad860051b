// A Hugging Face directory for one engine at one tensor-parallel size: attention lies as its loader takes it
// (schemas/targets.json).
#pragma once

#include "lib/forms/engine/engine_targets.h"
#include "lib/forms/form.h"

namespace mimo {

class EngineForm : public Form {
 public:
  FormTraits traits() const override { return {.plain = false}; }
  bool IsAskedFor(const PlanOptions& options) const override {
    return options.to == TargetKind::kVllm || options.to == TargetKind::kSglang;
  }
  Status Check(const Planning& p) const override;
  Status Aim(const Choice& attention, Planning* p) const override;

 protected:
  // What the engine wants at this size. kUsage for an unknown version, or blocks that it does not take.
  static Result<EngineTarget> TargetOf(const Planning& p);
  // Whether the engine pads the vocabulary to what its ranks need.
  static bool PadsVocabulary(const PlanOptions& options) { return options.to == TargetKind::kSglang; }
};

}  // namespace mimo
