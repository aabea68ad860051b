#include "lib/base/request_queue.h"

#include <unistd.h>

#include <cerrno>
#include <utility>

#include "lib/base/posix_file.h"

#ifdef MIMO_HAVE_LIBURING
#include <liburing.h>
#endif

namespace mimo {

ssize_t RunRequest(const FileRequest& request) {
  const auto offset = static_cast<off_t>(request.offset);
  const ssize_t n = Uninterrupted([&] {
    return request.writing ? ::pwrite(request.fd, request.memory, request.bytes, offset)
                           : ::pread(request.fd, request.memory, request.bytes, offset);
  });
  return n < 0 ? -errno : n;
}

#ifdef MIMO_HAVE_LIBURING

// Kernels had the queue before they had these requests.
bool ReadsAndWrites(io_uring* ring) {
  io_uring_probe* const probe = io_uring_get_probe_ring(ring);
  if (probe == nullptr) return false;
  const bool does =
      io_uring_opcode_supported(probe, IORING_OP_READ) != 0 && io_uring_opcode_supported(probe, IORING_OP_WRITE) != 0;
  io_uring_free_probe(probe);
  return does;
}

struct RequestQueue::Ring {
  io_uring ring = {};
  const bool made = io_uring_queue_init(kDepth, &ring, 0) == 0;
  const bool usable = made && ReadsAndWrites(&ring);
  unsigned added = 0;      // and not handed to the kernel
  unsigned under_way = 0;  // in the kernel
  bool broken = false;     // takes nothing any more

  Ring() = default;
  ~Ring() {
    if (made) io_uring_queue_exit(&ring);
  }
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;
};

RequestQueue* RequestQueue::OfThread() {
  thread_local const std::unique_ptr<RequestQueue> queue = [] {
    auto ring = std::make_unique<Ring>();
    return std::unique_ptr<RequestQueue>(ring->usable ? new RequestQueue(std::move(ring)) : nullptr);
  }();
  return queue == nullptr || queue->ring_->broken ? nullptr : queue.get();
}

bool RequestQueue::Add(const FileRequest& request, size_t tag) {
  Ring& r = *ring_;
  if (r.broken || r.added + r.under_way >= kDepth) return false;
  io_uring_sqe* const entry = io_uring_get_sqe(&r.ring);
  if (entry == nullptr) return false;
  const auto bytes = static_cast<unsigned>(request.bytes);
  if (request.writing)
    io_uring_prep_write(entry, request.fd, request.memory, bytes, request.offset);
  else
    io_uring_prep_read(entry, request.fd, request.memory, bytes, request.offset);
  io_uring_sqe_set_data(entry, reinterpret_cast<void*>(tag));
  ++r.added;
  return true;
}

std::optional<RequestQueue::Completion> RequestQueue::Wait() {
  Ring& r = *ring_;
  while (true) {
    io_uring_cqe* entry = nullptr;
    if (r.added == 0 && r.under_way == 0) return std::nullopt;
    if (r.added > 0 && !r.broken) {
      const int handed = io_uring_submit(&r.ring);
      if (handed > 0) {
        r.added -= static_cast<unsigned>(handed);
        r.under_way += static_cast<unsigned>(handed);
      } else if (handed != -EINTR && (r.under_way == 0 || (handed != -EAGAIN && handed != -EBUSY))) {
        r.broken = true;  // what it holds is never handed over; what is under way is waited for
      }
    }
    if (r.under_way == 0) {
      if (!r.broken) continue;
      r.added = 0;
      return std::nullopt;
    }
    const int waited = io_uring_wait_cqe(&r.ring, &entry);
    if (waited != 0) continue;  // interrupted: while something is under way there is no other way out
    const Completion completion{reinterpret_cast<size_t>(io_uring_cqe_get_data(entry)), entry->res};
    io_uring_cqe_seen(&r.ring, entry);
    --r.under_way;
    return completion;
  }
}

#else

struct RequestQueue::Ring {};

RequestQueue* RequestQueue::OfThread() {
  return nullptr;
}

bool RequestQueue::Add(const FileRequest&, size_t) {
  return false;
}

std::optional<RequestQueue::Completion> RequestQueue::Wait() {
  return std::nullopt;
}

#endif

RequestQueue::RequestQueue(std::unique_ptr<Ring> ring) : ring_(std::move(ring)) {}
RequestQueue::~RequestQueue() = default;

}  // namespace mimo
