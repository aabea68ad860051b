// What --like writes: the files of the reference, each array in its place, under its layout and codecs.
#pragma once

#include "lib/forms/form.h"

namespace mimo {

class MergeForm : public Form {
 public:
  // kUsage: options that would make something else of it.
  Status Check(const Planning& p) const override;
  Status Aim(const Choice& attention, Planning* p) const override;
  Status Fill(Planning* p) const override;
  PlacementOptions Place(Planning* p) const override;
  Status Describe(const Planning& p, Plan* plan) const override;
  void Note(Planning* p) const override;
  std::string WhyUnread(const Planning& p, uint32_t array) const override;
};

}  // namespace mimo
