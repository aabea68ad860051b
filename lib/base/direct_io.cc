#include "lib/base/direct_io.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <utility>

#include "lib/base/os_error.h"

namespace mimo {
namespace {

constexpr size_t kBounceBytes = 512 << 10;  // of each thread; stays in the cache between the two copies

struct Freer {
  void operator()(void* memory) const { std::free(memory); }
};

// Aligned memory of this thread, through which unaligned data goes.
std::byte* Bounce() {
  thread_local std::unique_ptr<std::byte, Freer> memory(
      static_cast<std::byte*>(std::aligned_alloc(kDirectBlock, kBounceBytes)));
  if (memory == nullptr) throw std::bad_alloc();
  return memory.get();
}

bool IsAligned(const void* address) {
  return reinterpret_cast<uintptr_t>(address) % kDirectBlock == 0;
}

}  // namespace

Result<DirectFile> DirectFile::Of(int fd, bool writing, const std::string& path) {
  const std::string self = "/proc/self/fd/" + std::to_string(fd);
  const int flags = (writing ? O_WRONLY : O_RDONLY) | O_DIRECT | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
  Descriptor direct(Uninterrupted([&] { return ::open(self.c_str(), flags); }));
  if (direct.get() < 0)
    return OsError("cannot open for direct I/O", path, errno).Advice("use --io auto or --io buffered");
  return DirectFile(path, std::move(direct));
}

Status DirectFile::Read(uint64_t offset, std::span<std::byte> out) const {
  std::byte* const bounce = Bounce();
  size_t done = 0;
  while (done < out.size()) {
    const uint64_t position = offset + done;
    const uint64_t skipped = position % kDirectBlock;
    const uint64_t wanted = std::min<uint64_t>(
        kBounceBytes, (skipped + (out.size() - done) + kDirectBlock - 1) / kDirectBlock * kDirectBlock);
    const ssize_t n =
        Uninterrupted([&] { return ::pread(fd_.get(), bounce, wanted, static_cast<off_t>(position - skipped)); });
    if (n < 0) return OsError("cannot read", path_, errno);
    if (static_cast<uint64_t>(n) <= skipped)
      return BadInput("truncated")
          .File(path_)
          .Expected(std::to_string(out.size()) + " bytes at offset " + std::to_string(offset))
          .Found(std::to_string(done) + " bytes")
          .Advice("see whether something still writes to the file, or its download ended early");
    const size_t got = std::min(static_cast<size_t>(n) - skipped, out.size() - done);
    std::memcpy(out.data() + done, bounce + skipped, got);
    done += got;
  }
  return {};
}

Status DirectFile::Write(uint64_t offset, std::span<const std::byte> data) const {
  size_t done = 0;
  while (done < data.size()) {
    const std::byte* from = data.data() + done;
    size_t bytes = data.size() - done;
    if (!IsAligned(from)) {
      bytes = std::min(bytes, kBounceBytes);
      std::memcpy(Bounce(), from, bytes);
      from = Bounce();
    }
    const ssize_t n =
        Uninterrupted([&] { return ::pwrite(fd_.get(), from, bytes, static_cast<off_t>(offset + done)); });
    if (n < 0) return OsError("cannot write", path_, errno);
    if (n == 0) return OsError("cannot write", path_, ENOSPC);
    done += static_cast<size_t>(n);
    // What was written in part goes on at a block, or not at all.
    if (done % kDirectBlock != 0) return OsError("cannot write", path_, EIO);
  }
  return {};
}

}  // namespace mimo
