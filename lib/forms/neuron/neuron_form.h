// The preprocessed Neuron directory (reference target-layouts.md 7.1).
#pragma once

#include "lib/forms/form.h"

namespace mimo {

class NeuronForm : public Form {
 public:
  FormKind kind() const override { return FormKind::kNxdi; }
  FormTraits traits() const override {
    return {
        .plain = false, .declares = false, .cache_scales = false, .towers = false, .mtp = false, .companions = false};
  }
  bool Recognises(const Catalogue& stored) const override;
  Status Open(FileSystem& fs, const std::string& root, const OpenOptions& options,
              OpenedCheckpoint* opened) const override;

  bool IsAskedFor(const PlanOptions& options) const override { return options.to == TargetKind::kNxdi; }
  Status Check(const Planning& p) const override;
  Status Aim(const Choice&, Planning* p) const override {
    p->target.qkv = kOwnGrids;
    return {};
  }
  std::string WhyDropped(const Planning& p, const TensorId& id) const override;
  Result<std::optional<Choice>> Store(const Planning& p, const Weight& weight, const TensorId& id,
                                      const std::string& name) const override;
  // Attention and dense weights are as they are to be stored: experts are transposed and stacked, block FP8 codes
  // halved and their scales doubled (kHalve), or divided by 448/240 and multiplied by it (kRescale). kUsage for experts
  // in another codec.
  Status Arrange(Planning* p) const override;
  void Note(Planning* p) const override;
  void Amend(const Planning& p, HfDescription* description) const override;
};

}  // namespace mimo
