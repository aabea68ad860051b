// The files of each rank of an engine, arrays cut and fused as it holds them: what its sharded-state loader reads.
#pragma once

#include "lib/forms/engine/engine_form.h"

namespace mimo {

class ShardedStateForm : public EngineForm {
 public:
  FormKind kind() const override { return FormKind::kShardedState; }
  FormTraits traits() const override { return {.plain = false, .index = false, .quantization = false}; }
  bool Recognises(const Catalogue& stored) const override;
  Status Open(FileSystem& fs, const std::string& root, const OpenOptions& options,
              OpenedCheckpoint* opened) const override;

  bool IsAskedFor(const PlanOptions& options) const override;
  Status Check(const Planning& p) const override;
  Status Aim(const Choice& attention, Planning* p) const override;
  Status Arrange(Planning* p) const override;
  void Amend(const Planning& p, HfDescription* description) const override;
};

}  // namespace mimo
