// Requests to open files that are under way while the thread goes on: io_uring. Where the build or the system has none,
// there is no queue, and callers make their requests one after the other.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

namespace mimo {

struct FileRequest {
  int fd = -1;
  bool writing = false;
  uint64_t offset = 0;
  std::byte* memory = nullptr;  // not written to by a write
  size_t bytes = 0;             // at most 1 GiB
};

// Carries it out and waits: the bytes that were moved, or -errno. Repeated when interrupted.
ssize_t RunRequest(const FileRequest& request);

// Of one thread.
class RequestQueue {
 public:
  static constexpr unsigned kDepth = 32;

  // This thread's, made when it is asked for first; null where there is none, or it has broken.
  static RequestQueue* OfThread();

  struct Completion {
    size_t tag = 0;
    ssize_t result = 0;  // bytes, or -errno
  };
  // Takes a request, whose memory stays until it has completed. False when it cannot: it holds kDepth, or is broken.
  bool Add(const FileRequest& request, size_t tag);
  // The next that completes, in whatever order; waits for it. nullopt when none is under way: those that were added and
  // did not complete never began, and none is taken any more.
  std::optional<Completion> Wait();

  ~RequestQueue();
  RequestQueue(const RequestQueue&) = delete;
  RequestQueue& operator=(const RequestQueue&) = delete;

 private:
  struct Ring;

  explicit RequestQueue(std::unique_ptr<Ring> ring);

  std::unique_ptr<Ring> ring_;
};

}  // namespace mimo
