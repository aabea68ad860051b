#include "lib/base/this_process.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <ctime>

#include "lib/base/posix_file.h"

namespace mimo {
namespace {

// The first line of a file of the kernel's, whose length is not known before it is read.
std::string FirstLine(const char* path) {
  const Descriptor fd(OpenDescriptor({AT_FDCWD, path, path, true}, O_RDONLY));
  char buffer[256];
  const ssize_t n = fd.get() < 0 ? -1 : Uninterrupted([&] { return ::read(fd.get(), buffer, sizeof buffer); });
  if (n <= 0) return "";
  const std::string text(buffer, static_cast<size_t>(n));
  return text.substr(0, text.find('\n'));
}

}  // namespace

ProcessName ThisProcess() {
  ProcessName name;
  char host[256] = {};
  if (::gethostname(host, sizeof host - 1) == 0) name.host = host;
  name.boot = FirstLine("/proc/sys/kernel/random/boot_id");
  char space[PATH_MAX] = {};
  if (::readlink("/proc/self/ns/pid", space, sizeof space - 1) > 0) name.space = space;
  name.id = ::getpid();
  return name;
}

bool ProcessExists(int64_t id) {
  if (id <= 0 || id > INT_MAX) return false;
  return ::kill(static_cast<pid_t>(id), 0) == 0 || errno != ESRCH;
}

BootClock::time_point BootClock::now() noexcept {
  struct timespec now = {};
  if (::clock_gettime(CLOCK_BOOTTIME, &now) != 0) ::clock_gettime(CLOCK_MONOTONIC, &now);
  return time_point(std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec));
}

}  // namespace mimo
