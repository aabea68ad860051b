#include "lib/base/machine.h"

#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <memory>
#include <string_view>
#include <thread>

namespace mimo {
namespace {

constexpr int kMostProcessors = 1 << 16;  // of a mask that the kernel could have

// CPUs that this process may run on; 0 when the system does not say.
int ProcessorsOfMask() {
  for (int most = CPU_SETSIZE; most <= kMostProcessors; most *= 2) {  // the kernel refuses a mask that is too short
    const std::unique_ptr<cpu_set_t, void (*)(cpu_set_t*)> mask(CPU_ALLOC(static_cast<size_t>(most)),
                                                                [](cpu_set_t* set) { CPU_FREE(set); });
    const size_t bytes = CPU_ALLOC_SIZE(static_cast<size_t>(most));
    if (mask == nullptr) return 0;
    if (sched_getaffinity(0, bytes, mask.get()) == 0) return CPU_COUNT_S(bytes, mask.get());
    if (errno != EINVAL) return 0;
  }
  return 0;
}

void Limit(uint64_t value, uint64_t* least) {
  if (value > 0 && (*least == 0 || value < *least)) *least = value;
}

// The next number of a file; 0 for "max" and -1, which limit nothing, and where there is none.
uint64_t NumberOf(std::ifstream& file) {
  int64_t number = 0;
  return file >> number && number > 0 ? static_cast<uint64_t>(number) : 0;
}
uint64_t NumberIn(const std::string& path) {
  std::ifstream file(path);
  return NumberOf(file);
}

// CPUs of a quota in a period, both in microseconds, rounded up.
void LimitProcessors(uint64_t quota, uint64_t period, ControlGroupLimits* limits) {
  if (quota == 0 || period == 0) return;
  uint64_t least = static_cast<uint64_t>(limits->processors);
  Limit(std::min<uint64_t>((quota - 1) / period + 1, kMostProcessors), &least);
  limits->processors = static_cast<int>(least);
}

void ReadGroup(const std::string& directory, ControlGroupLimits* limits) {
  {
    std::ifstream file(directory + "/cpu.max");  // v2: "QUOTA PERIOD", or "max PERIOD"
    const uint64_t quota = NumberOf(file);
    LimitProcessors(quota, NumberOf(file), limits);
  }
  LimitProcessors(NumberIn(directory + "/cpu.cfs_quota_us"), NumberIn(directory + "/cpu.cfs_period_us"), limits);
  for (const char* name : {"/memory.max", "/memory.high", "/memory.limit_in_bytes"})
    Limit(NumberIn(directory + name), &limits->memory_bytes);
}

// A group and all above it, up to where the hierarchy is mounted. In a container the path may be that of the host,
// which is not there: then it is the mount that is the container's.
void ReadGroups(const std::string& mount, std::string group, ControlGroupLimits* limits) {
  if (group.find("..") != std::string::npos) group.clear();  // outside of what is mounted
  while (true) {
    while (group.ends_with('/')) group.pop_back();
    ReadGroup(mount + group, limits);
    if (group.empty()) return;
    group.resize(group.rfind('/') == std::string::npos ? 0 : group.rfind('/'));
  }
}

}  // namespace

ControlGroupLimits LimitsOfControlGroups(const std::string& root) {
  ControlGroupLimits limits;
  const std::string mounts = root + "/sys/fs/cgroup";
  std::ifstream list(root + "/proc/self/cgroup");
  for (std::string line; std::getline(list, line);) {  // ID:CONTROLLERS:PATH, of v2 "0::PATH"
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1), group = line.substr(second + 1);
    if (controllers.empty()) {
      ReadGroups(mounts, group, &limits);
      ReadGroups(mounts + "/unified", group, &limits);
      continue;
    }
    for (const char* controller : {"cpu", "memory"}) {
      if (("," + controllers + ",").find("," + std::string(controller) + ",") == std::string::npos) continue;
      ReadGroups(mounts + "/" + controller, group, &limits);
      if (controllers != controller) ReadGroups(mounts + "/" + controllers, group, &limits);
    }
  }
  return limits;
}

int UsableProcessors() {
  int count = ProcessorsOfMask();
  if (count == 0) count = static_cast<int>(std::thread::hardware_concurrency());
  const int quota = LimitsOfControlGroups("").processors;
  if (quota > 0) count = std::min(count, quota);
  return std::max(count, 1);
}

uint64_t UsableMemory() {
  const long pages = ::sysconf(_SC_PHYS_PAGES);
  const long page = ::sysconf(_SC_PAGE_SIZE);
  uint64_t bytes = pages > 0 && page > 0 ? static_cast<uint64_t>(pages) * static_cast<uint64_t>(page) : 0;
  Limit(LimitsOfControlGroups("").memory_bytes, &bytes);
  return bytes;
}

uint64_t MostOpenFiles() {
  rlimit limit = {};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return 1024;
  return limit.rlim_cur;  // RLIM_INFINITY is the largest number
}

void RaiseOpenFiles() {
  rlimit limit = {};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  const int ignored = ::setrlimit(RLIMIT_NOFILE, &limit);  // what it has then is what it goes by
  static_cast<void>(ignored);
}

uint64_t PageBytes() {
  const long bytes = ::sysconf(_SC_PAGESIZE);
  return std::max<uint64_t>(4096, bytes > 0 ? static_cast<uint64_t>(bytes) : 0);
}

}  // namespace mimo
