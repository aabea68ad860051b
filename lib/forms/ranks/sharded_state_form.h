// The files of each rank of an engine, arrays cut and fused as it holds them: what its sharded-state loader reads.
#pragma once

#include "lib/forms/engine/engine_form.h"

namespace mimo {

class ShardedStateForm : public EngineForm {
 public:
  FormKind kind() const override { return FormKind::kShardedState; }
  FormTraits traits() const override {
    return {.plain = false, .index = false, .quantization = false, .companions = false};
  }
  bool Recognises(const Catalogue& stored) const override;
  Result<std::optional<View>> Show(const Catalogue& stored) const override;
  Status Open(FileSystem& fs, const std::string& root, const OpenOptions& options,
              OpenedCheckpoint* opened) const override;

  bool IsAskedFor(const PlanOptions& options) const override { return options.format == kind(); }
  Status Check(const Planning& p) const override;
  Status Aim(const Choice& attention, Planning* p) const override;
  // Attention is fused(tp), chunk r is rank r. What the form has no place for (towers) goes to hf-rest.safetensors
  // under its own names, MTP layers to files of their own. Names of rank arrays are "rankR/NAME" in plans, manifests
  // and catalogues, NAME in their files. kUsage for what the form cannot hold.
  Status Arrange(Planning* p) const override;
  void Amend(const Planning& p, HfDescription* description) const override;
  std::string InsteadOfStraddling(const Planning& p) const override;
};

}  // namespace mimo
