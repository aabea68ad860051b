// What this process may use of its machine: of CPUs those that it may run on, and of CPUs and memory what its control
// groups leave it (Linux cgroups: containers, systemd, Slurm, Kubernetes).
#pragma once

#include <cstdint>
#include <string>

namespace mimo {

// CPUs in the affinity mask of this process (taskset, Slurm's binding), and no more than the smallest quota of its
// control group and of those above it, rounded up. At least 1.
int UsableProcessors();

// Bytes of memory of the machine, or of the smallest limit of its control group and of those above it.
uint64_t UsableMemory();

// Bytes of a page of its memory, and of its caches of files: a power of two, at least 4096.
uint64_t PageBytes();

// How many files this process may have open at a time. RaiseOpenFiles asks for as many as the system lets it have,
// which is often more than it begins with; for the main function of a tool.
uint64_t MostOpenFiles();
void RaiseOpenFiles();

struct ControlGroupLimits {
  int processors = 0;         // 0: no quota
  uint64_t memory_bytes = 0;  // 0: no limit; memory.high counts as one, beyond it a group is slowed down
};
// Of the process, from ROOT/proc/self/cgroup and ROOT/sys/fs/cgroup: cgroup v2, v1, or both side by side. What cannot
// be read limits nothing.
ControlGroupLimits LimitsOfControlGroups(const std::string& root);

}  // namespace mimo
