// Megatron's checkpoints: torch_dist is written, its other formats are read as well (reference target-layouts.md 2).
#pragma once

#include "lib/forms/form.h"

namespace mimo {

class TorchDistForm : public Form {
 public:
  FormKind kind() const override { return FormKind::kTorchDist; }
  FormTraits traits() const override {
    return {.plain = false,
            .index = false,
            .quantization = false,
            .declares = false,
            .cache_scales = false,
            .towers = false,
            .companions = false};
  }
  Result<bool> RecognisesDirectory(FileSystem& fs, const std::string& root) const override;
  Status Open(FileSystem& fs, const std::string& root, const OpenOptions& options,
              OpenedCheckpoint* opened) const override;

  bool IsAskedFor(const PlanOptions& options) const override { return options.to == TargetKind::kMegatron; }
  void Complete(PlanOptions* options) const override;  // Megatron means BF16
  // Parallel sizes say how finely tensors are cut, and what run_config.yaml names; any other loads the same directory.
  Status Check(const Planning& p) const override;
  Status Aim(const Choice&, Planning* p) const override {
    p->target.qkv = kOwnGrids;
    return {};
  }
  std::string WhyDropped(const Planning& p, const TensorId& id) const override;
  // kUsage for what Megatron cannot hold, and for --tp or --etp that do not divide.
  Status Arrange(Planning* p) const override;
  PlacementOptions Place(Planning* p) const override;
  // And the small files: .metadata, the extra states, common state and what Megatron-Bridge needs besides.
  Status Describe(const Planning& p, Plan* plan) const override;
  void Amend(const Planning& p, HfDescription* description) const override;
};

}  // namespace mimo
