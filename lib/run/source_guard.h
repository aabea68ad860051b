// What is to hold of the source beyond what the plan says: above this room, which has it looked at before a unit is
// made, and shares it out among parts.
#pragma once

#include <cstddef>
#include <vector>

#include "lib/base/status.h"

namespace mimo {

class SourceGuard {
 public:
  virtual ~SourceGuard() = default;
  // How much there is to look at, in entries of about the same cost; the same in every process that works on the
  // output.
  virtual size_t entries() const = 0;
  // Whether these entries, ascending, are as they have to be. kBadInput says what is not.
  virtual Status Check(const std::vector<size_t>& entries) = 0;
};

}  // namespace mimo
