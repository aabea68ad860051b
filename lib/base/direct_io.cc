#include "lib/base/direct_io.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <utility>

#include "lib/base/machine.h"
#include "lib/base/os_error.h"
#include "lib/base/request_queue.h"

namespace mimo {
namespace {

constexpr uint64_t kPieceBytes = 1 << 20;     // of a request that is cut, so that its parts are under way together
constexpr uint64_t kBounceBytes = 512 << 10;  // stays in the cache between the two copies
constexpr size_t kBounces = 2;                // of each thread: one is filled while the other is written
constexpr size_t kUnderWay = 16;

struct Freer {
  void operator()(void* memory) const { std::free(memory); }
};
using Bounce = std::unique_ptr<std::byte, Freer>;

// Aligned memory of this thread, through which unaligned data goes.
std::byte* BounceMemory(size_t index) {
  thread_local std::array<Bounce, kBounces> bounces;
  Bounce& memory = bounces[index];
  if (memory == nullptr) {
    memory.reset(static_cast<std::byte*>(std::aligned_alloc(DirectBlock(), kBounceBytes)));
    if (memory == nullptr) throw std::bad_alloc();
  }
  return memory.get();
}

bool IsAligned(const void* address) {
  return reinterpret_cast<uintptr_t>(address) % DirectBlock() == 0;
}

// What a request returns that its file system, or the queue, does not do.
bool IsNotDirect(ssize_t result) {
  return result == -EINVAL || result == -EOPNOTSUPP;
}

// A piece under way.
class Transfer {
 public:
  Transfer(const DirectBatch::Piece& piece, std::optional<size_t> bounce)
      : piece_(piece), bounce_(bounce), memory_(bounce ? BounceMemory(*bounce) : piece.memory) {
    if (bounce_ && piece_.writing) std::memcpy(memory_, piece_.data, piece_.bytes);
  }

  std::optional<size_t> bounce() const { return bounce_; }
  // What is left of it, as one system call.
  FileRequest Rest() const {
    return {piece_.file->fd(), piece_.writing, piece_.begin + done_, memory_ + done_,
            static_cast<size_t>(piece_.bytes - done_)};
  }

  // What the call has returned, -errno on failure: whether all is done.
  Result<bool> Take(ssize_t n) {
    if (IsNotDirect(n)) return ByCache();
    if (n < 0) return Refused(n);
    if (n == 0) return Ended();
    done_ += static_cast<uint64_t>(n);
    if (done_ >= piece_.needed) return Whole();
    return done_ % DirectBlock() == 0 ? Result<bool>(false) : ByCache();
  }

 private:
  bool Whole() const {
    if (bounce_ && !piece_.writing) std::memcpy(piece_.data, memory_ + piece_.skipped, piece_.needed - piece_.skipped);
    return true;
  }

  // The rest of it, from wherever it stands.
  Result<bool> ByCache() {
    while (done_ < piece_.needed) {
      FileRequest rest = Rest();
      rest.fd = piece_.file->cached_fd();
      const ssize_t n = RunRequest(rest);
      if (n < 0) return Refused(n);
      if (n == 0) return Ended();
      done_ += static_cast<uint64_t>(n);
    }
    return Whole();
  }

  Error Refused(ssize_t n) const {
    return OsError(piece_.writing ? "cannot write" : "cannot read", piece_.file->path(), static_cast<int>(-n));
  }

  Error Ended() const { return piece_.writing ? OsError("cannot write", piece_.file->path(), ENOSPC) : Truncated(); }

  Error Truncated() const {
    return BadInput("truncated")
        .File(piece_.file->path())
        .Expected(std::to_string(piece_.needed - piece_.skipped) + " bytes at offset " +
                  std::to_string(piece_.begin + piece_.skipped))
        .Found(std::to_string(done_ - std::min(done_, piece_.skipped)) + " bytes")
        .Advice("see whether something still writes to the file, or its download ended early");
  }

  const DirectBatch::Piece& piece_;
  const std::optional<size_t> bounce_;
  std::byte* const memory_;
  uint64_t done_ = 0;
};

Status RunNow(Transfer& transfer) {
  while (true) {
    MIMO_ASSIGN_OR_RETURN(const bool done, transfer.Take(RunRequest(transfer.Rest())));
    if (done) return {};
  }
}

// Keeps requests of a batch under way. Whatever happens, none is when it is done.
class QueuedRun {
 public:
  QueuedRun(RequestQueue& queue, std::span<const DirectBatch::Piece> pieces) : queue_(queue), waiting_(pieces) {
    for (size_t i = kUnderWay; i-- > 0;) free_slots_.push_back(i);
    for (size_t i = kBounces; i-- > 0;) free_bounces_.push_back(i);
    // First: nothing may fail for want of memory while requests are under way.
    if (std::any_of(pieces.begin(), pieces.end(), [](const auto& piece) { return piece.memory == nullptr; }))
      for (const size_t bounce : free_bounces_) BounceMemory(bounce);
  }

  Status Run() {
    while (true) {
      while (failed_.ok() && MayBegin()) Begin();
      if (free_slots_.size() == kUnderWay) break;
      if (const auto completed = queue_.Wait())
        Complete(completed->tag, completed->result);
      else
        RunLostOnes();
    }
    return std::move(failed_);
  }

 private:
  bool MayBegin() const {
    return !waiting_.empty() && !free_slots_.empty() && (waiting_.front().memory != nullptr || !free_bounces_.empty());
  }

  void Begin() {
    const DirectBatch::Piece& piece = waiting_.front();
    waiting_ = waiting_.subspan(1);
    std::optional<size_t> bounce;
    if (piece.memory == nullptr) {
      bounce = free_bounces_.back();
      free_bounces_.pop_back();
    }
    const size_t slot = free_slots_.back();
    free_slots_.pop_back();
    under_way_[slot].emplace(piece, bounce);
    Ask(slot);
  }

  void Ask(size_t slot) {
    if (!queue_.Add(under_way_[slot]->Rest(), slot)) End(slot, RunNow(*under_way_[slot]));
  }

  void Complete(size_t slot, ssize_t result) {
    // The queue would have had to wait for something, or does not know how: this thread may, and does.
    if (result == -EAGAIN || result == -EINTR || IsNotDirect(result)) return End(slot, RunNow(*under_way_[slot]));
    Result<bool> done = under_way_[slot]->Take(result);
    if (!done.ok()) return End(slot, done.TakeError());
    if (*done) return End(slot, {});
    Ask(slot);
  }

  // The queue takes no requests any more, and has none under way.
  void RunLostOnes() {
    for (size_t slot = 0; slot < kUnderWay; ++slot)
      if (under_way_[slot]) End(slot, failed_.ok() ? RunNow(*under_way_[slot]) : Status());
  }

  void End(size_t slot, Status status) {
    if (failed_.ok()) failed_ = std::move(status);
    if (const auto bounce = under_way_[slot]->bounce()) free_bounces_.push_back(*bounce);
    under_way_[slot].reset();
    free_slots_.push_back(slot);
  }

  RequestQueue& queue_;
  std::span<const DirectBatch::Piece> waiting_;
  std::array<std::optional<Transfer>, kUnderWay> under_way_;
  std::vector<size_t> free_slots_, free_bounces_;
  Status failed_;
};

}  // namespace

uint64_t DirectBlock() {
  static const uint64_t bytes = PageBytes();
  return bytes;
}

Result<DirectFile> DirectFile::Of(int fd, bool writing, const std::string& path, DirectMode mode) {
  const std::string self = "/proc/self/fd/" + std::to_string(fd);
  // Without O_NONBLOCK, with which io_uring gives up where it would wait; it is a regular file.
  const int flags = (writing ? O_WRONLY : O_RDONLY) | O_DIRECT | O_CLOEXEC | O_NOCTTY;
  Descriptor direct(Uninterrupted([&] { return ::open(self.c_str(), flags); }));
  if (direct.get() < 0)
    return OsError("cannot open for direct I/O", path, errno).Advice("use --io auto or --io buffered");
  return DirectFile(path, std::move(direct), fd, mode);
}

void DirectBatch::Read(const DirectFile& file, uint64_t offset, std::span<std::byte> out, bool whole_blocks) {
  const uint64_t most = whole_blocks ? kPieceBytes : kBounceBytes;
  for (uint64_t at = offset, end = offset + out.size(); at < end;) {
    Piece piece;
    piece.file = &file;
    piece.skipped = at % DirectBlock();
    piece.begin = at - piece.skipped;
    piece.bytes = std::min(most, UpToBlock(end - piece.begin));
    piece.needed = std::min(piece.bytes, end - piece.begin);
    piece.data = out.data() + (at - offset);
    if (whole_blocks) piece.memory = piece.data - piece.skipped;
    at = piece.begin + piece.needed;
    pieces_.push_back(piece);
  }
}

void DirectBatch::Write(const DirectFile& file, uint64_t offset, std::span<const std::byte> data) {
  const bool aligned = IsAligned(data.data());
  for (uint64_t done = 0; done < data.size();) {
    Piece piece;
    piece.file = &file;
    piece.writing = true;
    piece.begin = offset + done;
    piece.bytes = piece.needed = std::min(aligned ? kPieceBytes : kBounceBytes, data.size() - done);
    piece.data = const_cast<std::byte*>(data.data() + done);
    if (aligned) piece.memory = piece.data;
    done += piece.bytes;
    pieces_.push_back(piece);
  }
}

Status DirectBatch::Run() {
  const std::vector<Piece> pieces = std::exchange(pieces_, {});
  const bool queued = std::any_of(pieces.begin(), pieces.end(),
                                  [](const Piece& piece) { return piece.file->mode() == DirectMode::kQueued; });
  RequestQueue* const queue = queued && pieces.size() > 1 ? RequestQueue::OfThread() : nullptr;
  if (queue != nullptr) return QueuedRun(*queue, pieces).Run();
  for (const Piece& piece : pieces) {
    Transfer transfer(piece, piece.memory == nullptr ? std::optional<size_t>(0) : std::nullopt);
    MIMO_RETURN_IF_ERROR(RunNow(transfer));
  }
  return {};
}

bool HasRequestQueue() {
  return RequestQueue::OfThread() != nullptr;
}

}  // namespace mimo
