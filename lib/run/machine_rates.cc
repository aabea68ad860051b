#include "lib/run/machine_rates.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <new>

#include "kernels/convert.h"
#include "kernels/encode.h"
#include "lib/base/direct_io.h"
#include "lib/base/hash.h"
#include "lib/base/transfers.h"
#include "lib/base/workers.h"

namespace mimo {
namespace {

constexpr uint64_t kRequest = 4 << 20;
constexpr double kLeastSeconds = 0.3;  // of a kernel

using Clock = std::chrono::steady_clock;

double Since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

class Measurement {
 public:
  Measurement(FileSystem& fs, const Catalogue& catalogue, std::string directory, const MeasureOptions& options)
      : fs_(fs),
        catalogue_(catalogue),
        directory_(std::move(directory)),
        threads_(options.threads > 0 ? options.threads : ThreadsOfMachine()),
        bytes_(options.bytes) {}

  Result<MachineRates> Make() {
    MachineRates rates;
    MIMO_ASSIGN_OR_RETURN(rates.read_direct, Read(true));
    MIMO_ASSIGN_OR_RETURN(rates.read_buffered, Read(false));
    MIMO_ASSIGN_OR_RETURN(rates.write_buffered, Write(false));
    MIMO_ASSIGN_OR_RETURN(rates.write_direct, Write(true));
    MIMO_RETURN_IF_ERROR(MeasureMemory(&rates));
    return rates;
  }

 private:
  // Bytes per second of all threads, each of which calls `body` once and returns what it has moved.
  Result<double> Together(const std::function<Result<uint64_t>(int)>& body) {
    std::atomic<uint64_t> total = 0;
    Workers workers(threads_, "");
    const Clock::time_point start = Clock::now();
    MIMO_RETURN_IF_ERROR(workers.Run([&](int index) -> Status {
      MIMO_ASSIGN_OR_RETURN(const uint64_t moved, body(index));
      total += moved;
      return {};
    }));
    return static_cast<double>(total) / std::max(Since(start), 1e-6);
  }

  struct Freer {
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  // Whole blocks, of which `bytes` are filled.
  static std::unique_ptr<std::byte, Freer> Memory(uint64_t bytes) {
    std::unique_ptr<std::byte, Freer> memory(
        static_cast<std::byte*>(std::aligned_alloc(DirectBlock(), UpToBlock(bytes))));
    if (memory == nullptr) throw std::bad_alloc();
    for (uint64_t i = 0; i < bytes; ++i) memory.get()[i] = static_cast<std::byte>((i * 2654435761u) >> 11 & 0x7B);
    return memory;
  }

  // Requests go over the files round about, so that they are of all of them.
  Result<double> Read(bool direct) {
    struct Place {
      uint32_t file;
      uint64_t at, bytes;
    };
    std::vector<Place> places;
    uint64_t total = 0;
    for (uint64_t at = 0; total < bytes_; at += kRequest) {
      const size_t before = places.size();
      for (uint32_t f = 0; f < catalogue_.files.size() && total < bytes_; ++f) {
        const uint64_t length = catalogue_.files[f].bytes;
        if (at >= length) continue;
        places.push_back({f, at, std::min(kRequest, length - at)});
        total += places.back().bytes;
      }
      if (places.size() == before) break;
    }
    std::vector<std::unique_ptr<ReadableFile>> files;
    for (const CatalogueFile& file : catalogue_.files) {
      MIMO_ASSIGN_OR_RETURN(auto opened, fs_.OpenForRead(catalogue_.PathOf(file)));
      if (direct && !opened->UseDirect(DirectMode::kQueued).ok()) return 0.0;
      files.push_back(std::move(opened));
    }
    std::atomic<size_t> next = 0;
    return Together([&](int) -> Result<uint64_t> {
      const auto buffer = Memory(kRequest);
      uint64_t read = 0;
      for (size_t i = next++; i < places.size(); i = next++) {
        const auto& [file, at, bytes] = places[i];
        const ReadRequest request{files[file].get(), at, {buffer.get(), bytes}, true};
        MIMO_RETURN_IF_ERROR(ReadAll({&request, 1}));
        read += bytes;
      }
      return read;
    });
  }

  Result<double> Write(bool direct) {
    std::vector<std::string> names;
    for (int i = 0; i < threads_; ++i) names.push_back(JoinPath(directory_, ".mimo-bench-" + std::to_string(i)));
    std::atomic<bool> possible = true;
    const uint64_t share = bytes_ / static_cast<uint64_t>(threads_) / kRequest * kRequest + kRequest;
    Result<double> rate = Together([&](int index) -> Result<uint64_t> {
      const auto buffer = Memory(kRequest);
      MIMO_ASSIGN_OR_RETURN(const auto file, fs_.OpenForWrite(names[static_cast<size_t>(index)], OpenMode::kTruncate));
      MIMO_RETURN_IF_ERROR(file->Truncate(share));
      if (direct && !(file->Allocate().ok() && file->UseDirect(DirectMode::kQueued).ok())) {
        possible = false;
        return uint64_t{0};
      }
      for (uint64_t at = 0; at < share; at += kRequest) {
        const WriteRequest request{file.get(), at, {buffer.get(), kRequest}};
        MIMO_RETURN_IF_ERROR(WriteAll({&request, 1}));
      }
      MIMO_RETURN_IF_ERROR(file->Sync());
      MIMO_RETURN_IF_ERROR(file->Close());
      return share;
    });
    for (const std::string& name : names) MIMO_RETURN_IF_ERROR(fs_.Remove(name));
    return !rate.ok() || possible ? std::move(rate) : Result<double>(0.0);
  }

  // Runs `body` on every thread until some time has passed; it returns the bytes of one round.
  Result<double> Repeat(const std::function<uint64_t()>& body) {
    return Together([&](int) -> Result<uint64_t> {
      uint64_t bytes = 0;
      for (const Clock::time_point start = Clock::now(); Since(start) < kLeastSeconds;) bytes += body();
      return bytes;
    });
  }

  Status MeasureMemory(MachineRates* rates) {
    constexpr uint64_t kRows = 512, kCols = 4096;
    const auto codes = Memory(kRows * kCols), other = Memory(kRows * kCols);
    const std::vector<float> scales(kCols / 128, 0.01f);
    kernels::Source source;
    source.codec = kernels::Codec::kFp8Block;
    source.data = codes.get();
    source.row_bytes = kCols;
    source.scales = reinterpret_cast<const std::byte*>(scales.data());
    MIMO_ASSIGN_OR_RETURN(rates->copy, Repeat([&] {
                            thread_local const auto copy = std::make_unique_for_overwrite<std::byte[]>(kRows * kCols);
                            std::memcpy(copy.get(), other.get(), kRows * kCols);
                            return 2 * kRows * kCols;
                          }));
    MIMO_ASSIGN_OR_RETURN(rates->hash, Repeat([&] {
                            const Hash128 hash = HashRows({codes.get(), kRows * kCols}, kCols, 0);
                            return hash.low == 1 ? 0 : kRows * kCols;
                          }));
    MIMO_ASSIGN_OR_RETURN(
        rates->fp8_to_bf16, Repeat([&] {
          thread_local const auto values = std::make_unique_for_overwrite<std::byte[]>(2 * kRows * kCols);
          kernels::Band band{source, {kernels::Codec::kBf16, values.get(), 2 * kCols}, kRows, kCols, nullptr, 0, 128};
          kernels::ConvertBands({&band, 1});
          return 3 * kRows * kCols;
        }));
    MIMO_ASSIGN_OR_RETURN(rates->fp8_to_nvfp4, Repeat([&] {
                            thread_local std::vector<uint8_t> made(kRows * kCols / 2), groups(kRows * kCols / 16);
                            const kernels::SourceRows rows{source, kRows, nullptr, 0, 128, false};
                            kernels::EncodeJob job;
                            job.from = {&rows, 1};
                            job.rows = kRows;
                            job.cols = kCols;
                            job.encoding.codec = kernels::Codec::kNvfp4;
                            job.global.multiplier = 0.001f;
                            job.codes = made.data();
                            job.code_row_bytes = kCols / 2;
                            job.scales = groups.data();
                            job.scale_row_bytes = kCols / 16;
                            kernels::EncodeRows(job);
                            return kRows * kCols + made.size() + groups.size();
                          }));
    return {};
  }

  FileSystem& fs_;
  const Catalogue& catalogue_;
  const std::string directory_;
  const int threads_;
  const uint64_t bytes_;
};

}  // namespace

Result<MachineRates> MeasureMachine(FileSystem& fs, const Catalogue& catalogue, const std::string& directory,
                                    const MeasureOptions& options) {
  return Measurement(fs, catalogue, directory, options).Make();
}

}  // namespace mimo
