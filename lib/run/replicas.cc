#include "lib/run/replicas.h"

#include <algorithm>
#include <memory>
#include <mutex>
#include <optional>
#include <tuple>
#include <vector>

#include "lib/base/workers.h"
#include "lib/decode/row_bytes.h"
#include "lib/run/memory_budget.h"
#include "lib/run/sources.h"

namespace mimo {
namespace {

constexpr uint64_t kChunkBytes = 8 << 20;
constexpr uint64_t kLeastChunkBytes = 4 << 10;

// Bytes [at, at + bytes) of an entry of Plan::equal.
struct Chunk {
  size_t entry = 0;  // its place among those that are compared
  uint64_t at = 0;
  uint64_t bytes = 0;
};

class Comparison {
 public:
  Comparison(FileSystem& fs, const Catalogue& catalogue, const Plan& plan, const std::vector<size_t>& entries,
             const RunOptions& options, const OutputClaim& claim)
      : fs_(fs),
        catalogue_(catalogue),
        plan_(plan),
        entries_(entries),
        options_(options),
        claim_(claim),
        threads_(options.threads > 0 ? options.threads : ThreadsOfMachine()),
        workers_(threads_, kStoppedAdvice) {
    const uint64_t memory = options.memory_bytes != 0 ? options.memory_bytes : DefaultMemoryBytes();
    chunk_bytes_ = std::clamp(memory / static_cast<uint64_t>(2 * threads_), kLeastChunkBytes, kChunkBytes);
  }

  Status Run(RunReport& report) {
    uint64_t total = 0;
    for (const size_t entry : entries_) total += 2 * BytesOf(plan_.equal[entry]);
    if (options_.progress != nullptr) {
      options_.progress->Step("comparing replicas");
      options_.progress->Start(total);
    }
    Status run = workers_.Run([this](int) { return Work(); });
    if (options_.progress != nullptr) options_.progress->Finish();
    report.bytes_read += read_;
    MIMO_RETURN_IF_ERROR(std::move(run));
    return std::move(status_);
  }

 private:
  // One open file of a worker.
  struct Reader {
    std::unique_ptr<ReadableFile> file;
    uint32_t open = kNone;
  };

  const StoredArray& ArrayOf(uint32_t source) const { return catalogue_.arrays[plan_.sources[source].array]; }
  uint64_t BytesOf(const EqualRows& equal) const { return Rows(equal.rows, ArrayOf(equal.first).row_bytes()); }
  std::string PathOf(const StoredArray& array) const { return catalogue_.PathOf(catalogue_.files[array.file]); }

  // Chunks are handed out in order. After a failure none is; those before the failed one are all with a worker.
  std::optional<Chunk> Next() {
    const std::lock_guard lock(mutex_);
    if (workers_.stopped() || !status_.ok()) return std::nullopt;
    if (Status stop = claim_.CheckStop(); !stop.ok()) {
      Keep({}, stop.TakeError());
      return std::nullopt;
    }
    while (next_.entry < entries_.size()) {
      const uint64_t bytes = BytesOf(plan_.equal[entries_[next_.entry]]);
      if (next_.at == bytes) {
        next_ = {next_.entry + 1, 0, 0};
        continue;
      }
      Chunk chunk = next_;
      chunk.bytes = std::min(bytes - chunk.at, chunk_bytes_);
      next_.at += chunk.bytes;
      return chunk;
    }
    return std::nullopt;
  }

  // The error of the first chunk wins. With the lock held.
  void Keep(const Chunk& chunk, Error error) {
    if (!status_.ok() && std::tie(failed_.entry, failed_.at) <= std::tie(chunk.entry, chunk.at)) return;
    failed_ = chunk;
    status_ = std::move(error);
  }

  // Differences are kept, so that the first in the order of chunks is told, not the first in time.
  Status Work() {
    Reader first, second;
    std::vector<std::byte> a, b;
    while (const auto chunk = Next()) {
      Status compared = Compare(*chunk, first, second, a, b);
      const std::lock_guard lock(mutex_);
      read_ += 2 * chunk->bytes;
      if (!compared.ok()) Keep(*chunk, compared.TakeError());
      if (options_.progress != nullptr) options_.progress->Advance(2 * chunk->bytes);
    }
    return {};
  }

  Status Compare(const Chunk& chunk, Reader& first, Reader& second, std::vector<std::byte>& a,
                 std::vector<std::byte>& b) const {
    const EqualRows& equal = plan_.equal[entries_[chunk.entry]];
    a.resize(chunk.bytes);
    b.resize(chunk.bytes);
    MIMO_RETURN_IF_ERROR(Read(equal.first, equal.first_row, chunk.at, first, a));
    MIMO_RETURN_IF_ERROR(Read(equal.second, equal.second_row, chunk.at, second, b));
    const auto differs = std::mismatch(a.begin(), a.end(), b.begin()).first;
    if (differs == a.end()) return {};
    const StoredArray &x = ArrayOf(equal.first), &y = ArrayOf(equal.second);
    const auto row = static_cast<int64_t>((chunk.at + static_cast<uint64_t>(differs - a.begin())) / x.row_bytes());
    return BadInput("replicas differ")
        .File(PathOf(y))
        .Tensor(y.name)
        .Expected("in row " + std::to_string(equal.second_row + row) + " the bytes of row " +
                  std::to_string(equal.first_row + row) + " of " + x.name + " in " + PathOf(x))
        .Found("others")
        .Advice("the ranks are not of one checkpoint: copy them again");
  }

  Status Read(uint32_t source, int64_t row, uint64_t at, Reader& reader, std::vector<std::byte>& out) const {
    const StoredArray& array = ArrayOf(source);
    if (reader.open != array.file) {
      MIMO_ASSIGN_OR_RETURN(reader.file, OpenUnchanged(fs_, catalogue_, array.file));
      reader.open = array.file;
    }
    return reader.file->ReadAt(array.begin + Rows(row, array.row_bytes()) + at, out);
  }

  FileSystem& fs_;
  const Catalogue& catalogue_;
  const Plan& plan_;
  const std::vector<size_t>& entries_;
  const RunOptions& options_;
  const OutputClaim& claim_;
  const int threads_;
  Workers workers_;
  uint64_t chunk_bytes_ = kChunkBytes;

  std::mutex mutex_;  // guards all below
  Chunk next_;
  Chunk failed_;
  uint64_t read_ = 0;
  Status status_;
};

}  // namespace

Status CompareReplicas(FileSystem& fs, const Catalogue& catalogue, const Plan& plan, const std::vector<size_t>& entries,
                       const RunOptions& options, const OutputClaim& claim, RunReport& report) {
  if (entries.empty()) return {};
  return Comparison(fs, catalogue, plan, entries, options, claim).Run(report);
}

}  // namespace mimo
