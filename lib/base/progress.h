// Progress as an interface: the library reports, a tool prints.
#pragma once

#include <cstdint>

namespace mimo {

class ProgressObserver {
 public:
  virtual ~ProgressObserver() = default;
  virtual void Start(uint64_t total_bytes) = 0;  // bytes that will be read and written
  virtual void Advance(uint64_t bytes) = 0;      // from any thread
  virtual void Step(const char* what) = 0;       // "syncing", "publishing"
  virtual void Finish() = 0;
};

}  // namespace mimo
