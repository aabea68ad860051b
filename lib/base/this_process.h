// What tells this process from all others.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace mimo {

struct ProcessName {
  std::string host = {};   // the name of the system
  std::string boot = {};   // drawn by the kernel when it started; "" where it does not tell
  std::string space = {};  // the name space that `id` is a number of (containers have their own); "" likewise
  int64_t id = 0;
};
ProcessName ThisProcess();

// Whether a process of this number is in this name space. Numbers are used again: a yes may be another process.
bool ProcessExists(int64_t id);

// Goes on while the system sleeps, unlike std::chrono::steady_clock.
struct BootClock {
  using duration = std::chrono::nanoseconds;
  using rep = duration::rep;
  using period = duration::period;
  using time_point = std::chrono::time_point<BootClock>;
  static constexpr bool is_steady = true;
  static time_point now() noexcept;
};

}  // namespace mimo
