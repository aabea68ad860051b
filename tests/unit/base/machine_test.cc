// How much of a machine is ours, from made-up trees of control groups and from a real affinity mask.
#include "lib/base/machine.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "lib/base/workers.h"
#include "tests/faults/scratch_directory.h"

namespace mimo::machine_test {
namespace {

class Groups : public ::testing::Test {
 protected:
  void Write(const std::string& name, const std::string& content) {
    const std::filesystem::path path = directory_.File(name);
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << content;
  }
  ControlGroupLimits Limits() const { return LimitsOfControlGroups(directory_.path()); }
  void Expect(int processors, uint64_t memory) const {
    const ControlGroupLimits limits = Limits();
    EXPECT_EQ(limits.processors, processors);
    EXPECT_EQ(limits.memory_bytes, memory);
  }

 private:
  ScratchDirectory directory_;
};

TEST_F(Groups, WithoutAnyNothingIsLimited) {
  Expect(0, 0);
  Write("proc/self/cgroup", "0::/\n");
  Expect(0, 0);
  Write("sys/fs/cgroup/cpu.max", "max 100000\n");
  Write("sys/fs/cgroup/memory.max", "max\n");
  Write("sys/fs/cgroup/memory.high", "max\n");
  Expect(0, 0);
}

TEST_F(Groups, TheSmallestOfAllAncestorsCounts) {
  Write("proc/self/cgroup", "0::/kubepods.slice/pod7/container\n");
  Write("sys/fs/cgroup/kubepods.slice/pod7/container/cpu.max", "800000 100000\n");
  Write("sys/fs/cgroup/kubepods.slice/pod7/container/memory.max", "4096000\n");
  Expect(8, 4096000);
  Write("sys/fs/cgroup/kubepods.slice/cpu.max", "250000 100000\n");
  Expect(3, 4096000);  // rounded up
  Write("sys/fs/cgroup/kubepods.slice/pod7/cpu.max", "1000 100000\n");
  Write("sys/fs/cgroup/kubepods.slice/pod7/memory.high", "1024000\n");
  Expect(1, 1024000);
  Write("sys/fs/cgroup/memory.max", "512000\n");  // of a container that sees its group as the root
  Expect(1, 512000);
}

TEST_F(Groups, APathOfTheHostLeavesTheMount) {
  Write("proc/self/cgroup", "0::/system.slice/docker-0123.scope\n");
  Write("sys/fs/cgroup/cpu.max", "200000 100000\n");
  Write("sys/fs/cgroup/memory.max", "1000000\n");
  Expect(2, 1000000);
  Write("proc/self/cgroup", "0::/../../elsewhere\n");
  Write("elsewhere/cpu.max", "100000 100000\n");
  Expect(2, 1000000);
}

TEST_F(Groups, TheFirstVersion) {
  Write("proc/self/cgroup", "4:memory:/job\n3:cpu,cpuacct:/job/step\n2:cpuset:/job\n1:name=systemd:/\n");
  Write("sys/fs/cgroup/cpu,cpuacct/job/step/cpu.cfs_quota_us", "-1\n");
  Write("sys/fs/cgroup/cpu,cpuacct/job/step/cpu.cfs_period_us", "100000\n");
  Write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  Expect(0, 9223372036854771712u);
  Write("sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", "350000\n");
  Write("sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us", "100000\n");
  Write("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "2000000\n");
  Expect(4, 2000000);
  Write("proc/self/cgroup", "3:cpu,cpuacct:/job/step\n0::/job\n");
  Write("sys/fs/cgroup/unified/job/cpu.max", "100000 100000\n");
  Expect(1, 0);
}

TEST_F(Groups, NonsenseLimitsNothing) {
  Write("proc/self/cgroup", "0::/a\nno colons\n5:memory\n:::\n");
  for (const char* text : {"", "x y", "0 100000", "100000 0", "-5 100000", "99999999999999999999999 1"}) {
    Write("sys/fs/cgroup/a/cpu.max", text);
    EXPECT_EQ(Limits().processors, 0) << text;
  }
  for (const char* text : {"", "lots", "0", "-1", "99999999999999999999999"}) {
    Write("sys/fs/cgroup/a/memory.max", text);
    EXPECT_EQ(Limits().memory_bytes, 0u) << text;
  }
}

// On a thread of its own, which the mask goes away with.
TEST(Machine, TheAffinityMaskIsHeeded) {
  std::thread([] {
    cpu_set_t before, one;
    ASSERT_EQ(sched_getaffinity(0, sizeof before, &before), 0);
    EXPECT_LE(UsableProcessors(), CPU_COUNT(&before));
    int cpu = 0;
    while (!CPU_ISSET(cpu, &before)) ++cpu;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
    EXPECT_EQ(UsableProcessors(), 1);
    EXPECT_EQ(ThreadsOfMachine(), 1);
  }).join();
}

TEST(Machine, MemoryIsAtMostThatOfTheMachine) {
  EXPECT_GT(UsableMemory(), 0u);
  EXPECT_LE(UsableMemory(),
            static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<uint64_t>(sysconf(_SC_PAGE_SIZE)));
}

}  // namespace
}  // namespace mimo::machine_test
