// Conversions against the copy bandwidth of the same machine, measured in the same run.
//   bench_convert [--mib SIZE] [--repeat N] [--threads N] [--device cpu|cuda|all] [--json]
// GB/s count bytes read plus bytes written (10^9); percentages compare the best run with the best copy of as many
// threads.
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/codec/block_scale.h"
#include "kernels/convert.h"
#include "kernels/cuda/convert_cuda.h"
#include "kernels/cuda/device_memory.h"
#include "tests/bench/bench_data.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace mimo::kernels {
namespace {

struct Options {
  uint64_t mib = 256;  // read + written per run
  int repeat = 7;
  int threads = omp_get_max_threads();
  std::string device = "cpu";
  bool json = false;
};

struct Result {
  std::string operation;
  std::string device;
  int threads = 0;
  double median = 0;  // GB/s
  double best = 0;
  double percent = 0;  // of the copy, best against best: a busy machine disturbs medians
};

// ---- random data

// Values of ordinary weights: no NaN, no infinity.
void FillValues(Codec codec, uint8_t* out, uint64_t elements, uint64_t seed) {
  Random random(seed);
  for (uint64_t i = 0; i < elements; ++i) {
    const uint64_t bits = random.Next();
    const float value = FloatFromBits(static_cast<uint32_t>((bits & 0x807FFFFF) | (117 + (bits >> 40) % 8) << 23));
    switch (codec) {
      case Codec::kFp32:
        std::memcpy(out + 4 * i, &value, 4);
        break;
      case Codec::kFp16: {
        const uint16_t half = static_cast<uint16_t>((bits & 0x83FF) | (5 + (bits >> 40) % 8) << 10);
        std::memcpy(out + 2 * i, &half, 2);
        break;
      }
      case Codec::kBf16:
        std::memcpy(out + 2 * i, reinterpret_cast<const uint8_t*>(&value) + 2, 2);
        break;
      case Codec::kFp8Block:
      case Codec::kMxfp8:
        out[i] = static_cast<uint8_t>(E4m3IsNan(static_cast<uint8_t>(bits)) ? 0x38 : bits);
        break;
      case Codec::kMxfp4:
      case Codec::kNvfp4:
        if (i % 2 == 0) out[i / 2] = static_cast<uint8_t>(bits);
        break;
    }
  }
}

// ---- timing

// `run` returns seconds of its own clock, or a negative number to be timed here.
Result Measure(std::string operation, std::string device, int threads, uint64_t bytes, int repeat,
               const std::function<double()>& run) {
  run();  // pages, clocks, threads
  std::vector<double> seconds;
  for (int i = 0; i < repeat; ++i) {
    const auto start = std::chrono::steady_clock::now();
    const double own = run();
    const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - start;
    seconds.push_back(own >= 0 ? own : wall.count());
  }
  std::sort(seconds.begin(), seconds.end());
  const double scale = static_cast<double>(bytes) / 1e9;
  return {std::move(operation),
          std::move(device),
          threads,
          scale / seconds[seconds.size() / 2],
          scale / seconds.front(),
          0};
}

void Copy(uint8_t* to, const uint8_t* from, uint64_t bytes, int threads, bool stream) {
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    const uint64_t share = bytes / static_cast<uint64_t>(omp_get_num_threads()) / 4096 * 4096;
    const uint64_t start = share * static_cast<uint64_t>(omp_get_thread_num());
    const uint64_t size = omp_get_thread_num() + 1 == omp_get_num_threads() ? bytes - start : share;
#if defined(__SSE2__)
    if (stream) {
      for (uint64_t i = start; i < start + size / 16 * 16; i += 16) {
        _mm_stream_si128(reinterpret_cast<__m128i*>(to + i),
                         _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i)));
      }
      _mm_sfence();
    }
#endif
    if (!stream) std::memcpy(to + start, from + start, size);
  }
}

// ---- the operations

struct Pair {
  const char* name;
  Codec from;
  Codec to;
};
constexpr Pair kPairs[] = {
    {"fp8 -> bf16", Codec::kFp8Block, Codec::kBf16}, {"fp8 -> fp16", Codec::kFp8Block, Codec::kFp16},
    {"fp8 -> fp32", Codec::kFp8Block, Codec::kFp32}, {"mxfp4 -> bf16", Codec::kMxfp4, Codec::kBf16},
    {"mxfp4 -> fp32", Codec::kMxfp4, Codec::kFp32},  {"bf16 -> bf16", Codec::kBf16, Codec::kBf16},
    {"bf16 -> fp16", Codec::kBf16, Codec::kFp16},    {"bf16 -> fp32", Codec::kBf16, Codec::kFp32},
    {"fp32 -> bf16", Codec::kFp32, Codec::kBf16},    {"fp32 -> fp32", Codec::kFp32, Codec::kFp32},
};

double BytesPerElement(Codec codec) {
  return ElementBits(codec) / 8.0;
}

// A matrix of 4096 columns cut in bands of 128 rows, as a block grid cuts it.
struct Matrix {
  static constexpr uint64_t kCols = 4096;
  static constexpr uint64_t kBandRows = 128;
  uint64_t rows = 0;
  uint64_t source_bytes = 0, scale_bytes = 0, target_bytes = 0;

  Matrix(const Pair& pair, uint64_t budget) {
    const double per_element = BytesPerElement(pair.from) + BytesPerElement(pair.to);
    rows = std::max<uint64_t>(static_cast<uint64_t>(static_cast<double>(budget) / per_element) / kCols / kBandRows, 1) *
           kBandRows;
    source_bytes = static_cast<uint64_t>(static_cast<double>(rows * kCols) * BytesPerElement(pair.from));
    target_bytes = static_cast<uint64_t>(static_cast<double>(rows * kCols) * BytesPerElement(pair.to));
    if (pair.from == Codec::kFp8Block) scale_bytes = rows / kBandRows * (kCols / 128) * 4;
    if (pair.from == Codec::kMxfp4) scale_bytes = rows * (kCols / 32);
  }

  std::vector<Band> Bands(const Pair& pair, const uint8_t* source, const uint8_t* scales, uint8_t* target) const {
    std::vector<Band> bands;
    for (uint64_t row = 0; row < rows; row += kBandRows) {
      Band band;
      band.source.codec = pair.from;
      band.source.row_bytes = source_bytes / rows;
      band.source.data = source + row * band.source.row_bytes;
      if (pair.from == Codec::kFp8Block) band.source.scales = scales + row / kBandRows * (kCols / 128) * 4;
      if (pair.from == Codec::kMxfp4) {
        band.source.scale_row_bytes = kCols / 32;
        band.source.scales = scales + row * band.source.scale_row_bytes;
      }
      band.target.codec = pair.to;
      band.target.row_bytes = target_bytes / rows;
      band.target.data = target + row * band.target.row_bytes;
      band.rows = kBandRows;
      band.cols = kCols;
      bands.push_back(band);
    }
    return bands;
  }
};

void FillScales(Codec codec, uint8_t* scales, uint64_t bytes) {
  if (codec == Codec::kFp8Block) {
    FillValues(Codec::kFp32, scales, bytes / 4, 3);
    for (uint64_t i = 3; i < bytes; i += 4) scales[i] &= 0x7F;  // multipliers are positive
  } else {
    Random random(3);
    for (uint64_t i = 0; i < bytes; ++i) scales[i] = static_cast<uint8_t>(115 + random.Next() % 12);
  }
}

std::vector<int> ThreadCounts(const Options& options) {
  return options.threads > 1 ? std::vector<int>{1, options.threads} : std::vector<int>{1};
}

std::vector<Result> BenchCpu(const Options& options) {
  std::vector<Result> results;
  const uint64_t budget = options.mib << 20;
  std::vector<double> copy_of;  // by index of the thread count
  const std::vector<int> thread_counts = ThreadCounts(options);
  {
    Buffer from = Allocate(budget / 2);
    Buffer to = Allocate(budget / 2);
    FillValues(Codec::kFp32, from.get(), budget / 8, 1);
    std::memset(to.get(), 1, budget / 2);
    for (const int threads : thread_counts) {
      Result best;
      for (const bool stream : {false, true}) {
        Result copy =
            Measure(stream ? "copy (streaming)" : "copy (memcpy)", "cpu", threads, budget, options.repeat, [&] {
              Copy(to.get(), from.get(), budget / 2, threads, stream);
              return -1.0;
            });
        if (copy.best > best.best) best = copy;
      }
      best.percent = 100;
      copy_of.push_back(best.best);
      results.push_back(best);
    }
  }
  for (const Pair& pair : kPairs) {
    const Matrix matrix(pair, budget);
    Buffer source = Allocate(matrix.source_bytes);
    Buffer scales = Allocate(matrix.scale_bytes + 1);
    Buffer target = Allocate(matrix.target_bytes);
    FillValues(pair.from, source.get(), matrix.rows * Matrix::kCols, 2);
    FillScales(pair.from, scales.get(), matrix.scale_bytes);
    const std::vector<Band> bands = matrix.Bands(pair, source.get(), scales.get(), target.get());
    for (const Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512}) {
      if (!IsaAvailable(isa)) continue;
      for (size_t t = 0; t < thread_counts.size(); ++t) {
        const uint64_t bytes = matrix.source_bytes + matrix.scale_bytes + matrix.target_bytes;
        Result result = Measure(pair.name, IsaName(isa), thread_counts[t], bytes, options.repeat, [&] {
          ConvertBands(bands, thread_counts[t], isa);
          return -1.0;
        });
        result.percent = 100 * result.best / copy_of[t];
        results.push_back(result);
      }
    }
  }

  // Codes only: the survey reads, the re-quantization of straddling cells reads and writes. One thread: callers run
  // them per group.
  const uint64_t rows = std::max<uint64_t>((budget / 2) / Matrix::kCols / 128, 1) * 128;
  Buffer codes = Allocate(rows * Matrix::kCols);
  Buffer out = Allocate(rows * Matrix::kCols);
  FillValues(Codec::kFp8Block, codes.get(), rows * Matrix::kCols, 4);
  uint8_t largest[Matrix::kCols / 128];
  results.push_back(Measure("max codes", "cpu", 1, rows * Matrix::kCols, options.repeat, [&] {
    for (uint64_t row = 0; row < rows; row += 128) {
      MaxCodes(codes.get() + row * Matrix::kCols, Matrix::kCols, 128, Matrix::kCols, 128, largest);
    }
    return -1.0;
  }));
  results.back().percent = 100 * results.back().best / copy_of[0];
  results.push_back(Measure("re-quantize", "cpu", 1, 2 * rows * Matrix::kCols, options.repeat, [&] {
    for (uint64_t row = 0; row < rows; row += 128) {
      for (uint64_t col = 0; col < Matrix::kCols; col += 128) {
        const uint64_t at = row * Matrix::kCols + col;
        const uint64_t lower = at + 64 * Matrix::kCols;
        const CellPart parts[2] = {{codes.get() + at, Matrix::kCols, 0.0011f, out.get() + at, Matrix::kCols, 64},
                                   {codes.get() + lower, Matrix::kCols, 0.0013f, out.get() + lower, Matrix::kCols, 64}};
        RequantizeCell(parts, 128);
      }
    }
    return -1.0;
  }));
  results.back().percent = 100 * results.back().best / copy_of[0];
  return results;
}

// ---- GPU

bool BenchCuda(const Options& options, std::vector<Result>* results, std::string* error) {
  const std::unique_ptr<CudaConverter> converter = CudaConverter::Create(0, uint64_t{64} << 20, error);
  if (converter == nullptr) return false;
  const uint64_t budget = std::max<uint64_t>(options.mib, 2048) << 20;  // beyond the L2 of any device
  double copy_best = 0;
  bool ok = true;
  {
    const auto from = DeviceBuffer::Create(0, budget / 2, error);
    const auto to = DeviceBuffer::Create(0, budget / 2, error);
    if (from == nullptr || to == nullptr) return false;
    Buffer host = Allocate(budget / 2);
    FillValues(Codec::kFp32, host.get(), budget / 8, 1);
    if (!from->Upload(host.get(), budget / 2, error)) return false;
    Result copy = Measure("copy (device)", converter->name(), 0, budget, options.repeat, [&] {
      double seconds = 0;
      ok = ok && to->CopyFrom(*from, budget / 2, &seconds, error);
      return seconds;
    });
    copy.percent = 100;
    copy_best = copy.best;
    results->push_back(copy);
  }
  for (const Pair& pair : kPairs) {
    if (!ok) break;
    const Matrix matrix(pair, budget);
    Buffer host = Allocate(matrix.source_bytes);
    Buffer host_scales = Allocate(matrix.scale_bytes + 1);
    FillValues(pair.from, host.get(), matrix.rows * Matrix::kCols, 2);
    FillScales(pair.from, host_scales.get(), matrix.scale_bytes);
    const auto source = DeviceBuffer::Create(0, matrix.source_bytes, error);
    const auto scales = DeviceBuffer::Create(0, matrix.scale_bytes + 1, error);
    const auto target = DeviceBuffer::Create(0, matrix.target_bytes, error);
    if (source == nullptr || scales == nullptr || target == nullptr) return false;
    if (!source->Upload(host.get(), matrix.source_bytes, error)) return false;
    if (!scales->Upload(host_scales.get(), matrix.scale_bytes, error)) return false;
    const std::vector<Band> bands = matrix.Bands(pair, source->data(), scales->data(), target->data());
    const uint64_t bytes = matrix.source_bytes + matrix.scale_bytes + matrix.target_bytes;
    Result result = Measure(pair.name, converter->name(), 0, bytes, options.repeat, [&] {
      double seconds = 0;
      Anomalies anomalies;
      ok = ok && converter->ConvertOnDevice(bands, &anomalies, &seconds, error);
      return seconds;
    });
    result.percent = 100 * result.best / copy_best;
    results->push_back(result);
  }
  return ok;
}

void Print(const std::vector<Result>& results, bool json) {
  if (json) {
    std::printf("[\n");
    for (size_t i = 0; i < results.size(); ++i) {
      const Result& r = results[i];
      std::printf(
          "  {\"operation\": \"%s\", \"device\": \"%s\", \"threads\": %d, \"median_gb_per_s\": %.2f, "
          "\"best_gb_per_s\": %.2f, "
          "\"percent_of_copy\": %.1f}%s\n",
          r.operation.c_str(), r.device.c_str(), r.threads, r.median, r.best, r.percent,
          i + 1 < results.size() ? "," : "");
    }
    std::printf("]\n");
    return;
  }
  std::printf("%-18s %-12s %7s %12s %12s %8s\n", "operation", "device", "threads", "GB/s median", "GB/s best",
              "of copy");
  for (const Result& r : results) {
    std::printf("%-18s %-12s %7d %12.2f %12.2f %7.1f%%\n", r.operation.c_str(), r.device.c_str(), r.threads, r.median,
                r.best, r.percent);
  }
}

int Usage() {
  std::fprintf(stderr,
               "usage: bench_convert [--mib SIZE] [--repeat N] [--threads N] [--device cpu|cuda|all] [--json]\n");
  return 2;
}

}  // namespace
}  // namespace mimo::kernels

int main(int argc, char** argv) {
  using namespace mimo::kernels;
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "--json") {
      options.json = true;
      continue;
    }
    if (i + 1 >= argc) return Usage();
    const std::string value = argv[++i];
    if (flag == "--device") {
      options.device = value;
      if (value != "cpu" && value != "cuda" && value != "all") return Usage();
      continue;
    }
    const long number = std::strtol(value.c_str(), nullptr, 10);
    if (number < 1 || number > 1 << 20) return Usage();
    if (flag == "--mib") {
      options.mib = static_cast<uint64_t>(number);
    } else if (flag == "--repeat") {
      options.repeat = static_cast<int>(number);
    } else if (flag == "--threads") {
      options.threads = static_cast<int>(number);
    } else {
      return Usage();
    }
  }
  std::vector<Result> results;
  if (options.device != "cuda") results = BenchCpu(options);
  if (options.device == "cuda" || (options.device == "all" && CudaDeviceCount() > 0)) {
    std::string error;
    if (!BenchCuda(options, &results, &error)) {
      std::fprintf(stderr, "bench_convert: %s\n", error.c_str());
      return 5;
    }
  }
  Print(results, options.json);
  return 0;
}
