// The encoders on a GPU, from and to device memory, as a fraction of device copy bandwidth measured in the same run.
//   bench_encode_cuda [--mib SIZE] [--repeat N] [--json]
// Exit 0 also where there is no device: it says so.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/cuda/convert_cuda.h"
#include "kernels/cuda/device_memory.h"

namespace mimo::kernels {
namespace {

constexpr uint64_t kCols = 4096;
constexpr uint64_t kBandRows = 128;

struct Options {
  uint64_t mib = 2048;  // of source and target together: beyond the L2 of any device
  int repeat = 9;
  bool json = false;
};

struct Operation {
  const char* name;
  Codec from;
  Encoding to;
  bool measure = false;   // only what must be known before
  bool to_bf16 = false;   // the conversion, to compare with
  uint64_t fraction = 1;  // of the size: slow ones need less
};

const Operation kOperations[] = {
    {"fp8 -> bf16", Codec::kFp8Block, {}, false, true},
    {"fp8 -> nvfp4 max", Codec::kFp8Block, {.codec = Codec::kNvfp4}},
    {"fp8 -> nvfp4 max via bf16", Codec::kFp8Block, {.codec = Codec::kNvfp4, .via_bf16 = true}},
    {"bf16 -> nvfp4 max", Codec::kBf16, {.codec = Codec::kNvfp4}},
    {"fp8 -> nvfp4 four-over-six", Codec::kFp8Block, {.codec = Codec::kNvfp4, .rule = ScaleRule::kFourOverSix}},
    {"fp8 -> nvfp4 sweep", Codec::kFp8Block, {.codec = Codec::kNvfp4, .rule = ScaleRule::kSweep}, false, false, 16},
    {"fp8 -> nvfp4 mse", Codec::kFp8Block, {.codec = Codec::kNvfp4, .rule = ScaleRule::kMse}, false, false, 16},
    {"fp8 -> mxfp4", Codec::kFp8Block, {.codec = Codec::kMxfp4, .rule = ScaleRule::kRceil}},
    {"bf16 -> mxfp4", Codec::kBf16, {.codec = Codec::kMxfp4, .rule = ScaleRule::kRceil}},
    {"fp8 -> mxfp8", Codec::kFp8Block, {.codec = Codec::kMxfp8, .rule = ScaleRule::kRceil}},
    {"bf16 -> mxfp8", Codec::kBf16, {.codec = Codec::kMxfp8, .rule = ScaleRule::kRceil}},
    {"bf16 -> fp8 blocks", Codec::kBf16, {.codec = Codec::kFp8Block}},
    {"measure fp8", Codec::kFp8Block, {}, true},
    {"measure bf16", Codec::kBf16, {}, true},
};

struct Result {
  std::string name;
  double median = 0, best = 0;  // GB/s of all bytes read and written
  double percent = 0;           // of the best copy
};

// `run` returns seconds, negative on failure.
bool Time(const std::string& name, uint64_t bytes, int repeat, double copy, const std::function<double()>& run,
          std::vector<Result>* results) {
  std::vector<double> seconds;
  for (int i = -1; i < repeat; ++i) {
    const double one = run();
    if (one < 0) return false;
    if (i >= 0) seconds.push_back(std::max(one, 1e-9));
  }
  std::sort(seconds.begin(), seconds.end());
  const double gigabytes = static_cast<double>(bytes) / 1e9;
  Result result{name, gigabytes / seconds[seconds.size() / 2], gigabytes / seconds.front(), 100};
  if (copy > 0) result.percent = 100 * result.best / copy;
  results->push_back(result);
  return true;
}

uint64_t CodeRowBytes(const Operation& operation) {
  if (operation.measure) return 0;
  if (operation.to_bf16) return 2 * kCols;
  return operation.to.codec == Codec::kMxfp8 || operation.to.codec == Codec::kFp8Block ? kCols : kCols / 2;
}

uint64_t ScaleRowBytes(const Operation& operation) {
  if (operation.measure || operation.to_bf16) return 0;
  const uint64_t groups = kCols / GroupColumns(operation.to);
  return operation.to.codec == Codec::kFp8Block ? 4 * groups : groups;
}

// Rows of weights: normal values; FP8 codes as a block of them has, near the top of the range.
std::vector<uint8_t> Weights(Codec codec, uint64_t elements) {
  std::mt19937_64 random(11);
  std::vector<uint8_t> pattern(codec == Codec::kBf16 ? 2 << 20 : 1 << 20);
  std::normal_distribution<float> normal(0.0f, 0.02f);
  for (size_t i = 0; i < pattern.size(); i += codec == Codec::kBf16 ? 2 : 1) {
    const float x = normal(random);
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    if (codec == Codec::kBf16) {
      pattern[i] = static_cast<uint8_t>(bits >> 16);
      pattern[i + 1] = static_cast<uint8_t>(bits >> 24);
    } else {  // x * 448 / 4.3 sigma, truncated to E4M3
      const float scaled = std::min(std::max(x * (448.0f / 0.086f), -440.0f), 440.0f);
      std::memcpy(&bits, &scaled, 4);
      const int code = static_cast<int>(bits >> 20 & 0x7FF) - (120 << 3);
      pattern[i] = static_cast<uint8_t>((bits >> 31 << 7) | static_cast<uint32_t>(std::max(code, 0)));
    }
  }
  std::vector<uint8_t> bytes(elements * (codec == Codec::kBf16 ? 2 : 1));
  for (size_t at = 0; at < bytes.size(); at += pattern.size()) {
    std::memcpy(bytes.data() + at, pattern.data(), std::min(pattern.size(), bytes.size() - at));
  }
  return bytes;
}

bool Bench(const Operation& operation, const Options& options, CudaConverter* converter, double copy,
           std::vector<Result>* results, std::string* error) {
  const uint64_t element = operation.from == Codec::kBf16 ? 2 : 1;
  const bool fp8 = operation.from == Codec::kFp8Block;
  const uint64_t scale_rows_per_band = operation.to.codec == Codec::kFp8Block ? 1 : kBandRows;
  const uint64_t band_bytes =
      kBandRows * (kCols * element + CodeRowBytes(operation)) + scale_rows_per_band * ScaleRowBytes(operation);
  const uint64_t bands = std::max<uint64_t>((options.mib << 20) / operation.fraction / band_bytes, 1);
  const uint64_t rows = bands * kBandRows;
  const std::vector<uint8_t> host = Weights(operation.from, rows * kCols);
  std::mt19937_64 random(12);
  std::vector<float> host_scales(bands * kCols / 128);
  for (float& scale : host_scales) scale = 1.9e-4f * (1.0f + static_cast<float>(random() % 4096) / 8192.0f);
  const auto source = DeviceBuffer::Create(0, host.size(), error);
  const auto source_scales = DeviceBuffer::Create(0, 4 * host_scales.size(), error);
  const auto codes = DeviceBuffer::Create(0, rows * CodeRowBytes(operation) + 1, error);
  const auto scales = DeviceBuffer::Create(0, bands * scale_rows_per_band * ScaleRowBytes(operation) + 1, error);
  if (!source || !source_scales || !codes || !scales) return false;
  if (!source->Upload(host.data(), host.size(), error)) return false;
  if (!source_scales->Upload(host_scales.data(), 4 * host_scales.size(), error)) return false;
  std::vector<SourceRows> from;
  std::vector<Band> to_bf16;
  for (uint64_t band = 0; band < bands; ++band) {
    SourceRows one;
    one.source.codec = operation.from;
    one.source.row_bytes = kCols * element;
    one.source.data = source->data() + band * kBandRows * one.source.row_bytes;
    one.source.scales = source_scales->data() + band * (kCols / 128) * 4;
    one.rows = kBandRows;
    from.push_back(one);
    Band converted;
    converted.source = one.source;
    converted.target = {Codec::kBf16, codes->data() + band * kBandRows * kCols * 2, 2 * kCols};
    converted.rows = kBandRows;
    converted.cols = kCols;
    if (operation.to_bf16) to_bf16.push_back(converted);
  }
  Measured measured;
  double seconds = 0;
  if (!converter->MeasureOnDevice(from, kCols, operation.to.via_bf16, &measured, &seconds, error)) return false;
  EncodeJob job;
  job.from = from;
  job.rows = rows;
  job.cols = kCols;
  job.encoding = operation.to;
  job.global = ChooseNvfp4Global(measured, operation.to.rule);
  job.codes = codes->data();
  job.code_row_bytes = CodeRowBytes(operation);
  job.scales = scales->data();
  job.scale_row_bytes = ScaleRowBytes(operation);
  const uint64_t bytes = bands * band_bytes + (fp8 ? 4 * host_scales.size() : 0);
  return Time(
      operation.name, bytes, options.repeat, copy,
      [&] {
        Anomalies anomalies;
        EncodeCounts counts;
        bool ok;
        if (operation.measure) {
          ok = converter->MeasureOnDevice(from, kCols, false, &measured, &seconds, error);
        } else if (operation.to_bf16) {
          ok = converter->ConvertOnDevice(to_bf16, &anomalies, &seconds, error);
        } else {
          ok = converter->EncodeOnDevice(job, &counts, &seconds, error);
        }
        return ok ? seconds : -1.0;
      },
      results);
}

bool BenchCopy(const Options& options, std::vector<Result>* results, std::string* error) {
  const uint64_t half = (options.mib << 20) / 2;
  const auto from = DeviceBuffer::Create(0, half, error);
  const auto to = DeviceBuffer::Create(0, half, error);
  if (!from || !to) return false;
  return Time(
      "copy (device)", 2 * half, options.repeat, 0,
      [&] {
        double seconds = 0;
        return to->CopyFrom(*from, half, &seconds, error) ? seconds : -1.0;
      },
      results);
}

void Print(const std::vector<Result>& results, const std::string& device, bool json) {
  if (!json)
    std::printf("%-28s %12s %12s %8s   %s\n", "operation", "GB/s median", "GB/s best", "of copy", device.c_str());
  if (json) std::printf("[\n");
  for (size_t i = 0; i < results.size(); ++i) {
    const Result& r = results[i];
    if (json) {
      std::printf(
          "  {\"operation\": \"%s\", \"device\": \"%s\", \"median_gb_per_s\": %.2f, \"best_gb_per_s\": %.2f, "
          "\"percent_of_copy\": %.1f}%s\n",
          r.name.c_str(), device.c_str(), r.median, r.best, r.percent, i + 1 < results.size() ? "," : "");
    } else {
      std::printf("%-28s %12.2f %12.2f %7.1f%%\n", r.name.c_str(), r.median, r.best, r.percent);
    }
  }
  if (json) std::printf("]\n");
}

int Run(const Options& options) {
  if (CudaDeviceCount() == 0) {
    std::fprintf(stderr, "bench_encode_cuda: no CUDA device\n");
    return 0;
  }
  std::string error;
  const std::unique_ptr<CudaConverter> converter = CudaConverter::Create(0, uint64_t{1} << 20, &error);
  std::vector<Result> results;
  bool ok = converter != nullptr && BenchCopy(options, &results, &error);
  for (const Operation& operation : kOperations) {
    ok = ok && Bench(operation, options, converter.get(), results.front().best, &results, &error);
  }
  if (!ok) {
    std::fprintf(stderr, "bench_encode_cuda: %s\n", error.c_str());
    return 5;
  }
  Print(results, converter->name(), options.json);
  return 0;
}

}  // namespace
}  // namespace mimo::kernels

int main(int argc, char** argv) {
  mimo::kernels::Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    const long number = i + 1 < argc ? std::strtol(argv[i + 1], nullptr, 10) : 0;
    if (flag == "--json") {
      options.json = true;
    } else if (flag == "--mib" && number >= 1 && number <= 1 << 20) {
      options.mib = static_cast<uint64_t>(number);
      ++i;
    } else if (flag == "--repeat" && number >= 1 && number <= 10000) {
      options.repeat = static_cast<int>(number);
      ++i;
    } else {
      std::fprintf(stderr, "usage: bench_encode_cuda [--mib SIZE] [--repeat N] [--json]\n");
      return 2;
    }
  }
  return mimo::kernels::Run(options);
}
