// What --like writes: the files of the reference, each array in its place, under its layout and codecs.
#pragma once

#include "lib/forms/form.h"

namespace mimo {

// Where tensors of the run go that --unknown carries.
inline constexpr char kRunUnknownFile[] = "run-unknown.safetensors";

class MergeForm : public Form {
 public:
  // kUsage: options that would make something else of it.
  Status Check(const Planning& p) const override;
  Status Aim(const Choice&, Planning* p) const override {
    p->target.qkv = p->like->layout;
    return {};
  }
  // From a merged checkpoint (Planning::like): each output lies near the reference's array of its name. Scales of the
  // reference are kept where values fit unless options.fresh_scales. kUsage: codecs that cannot be made from values.
  Status Fill(Planning* p) const override;
  PlacementOptions Place(Planning*) const override { return {.as_near = true}; }
  Status Describe(const Planning& p, Plan* plan) const override;
  void Note(Planning* p) const override;
  std::string WhyUnread(const Planning& p, uint32_t array) const override;
};

}  // namespace mimo
