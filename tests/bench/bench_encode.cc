// Encoders against the copy bandwidth of the same machine, measured in the same run.
//   bench_encode [--mib SIZE] [--repeat N] [--threads N] [--only TEXT] [--json]
// GB/s of source are source bytes (codes or values, 10^9) per second; the percentage compares bytes read plus bytes
// written with the best copy of as many threads. EncodeRows is single-threaded: each thread encodes matrices of its
// own, as workers do.
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/codec/bf16.h"
#include "kernels/codec/block_scale.h"
#include "kernels/encode.h"
#include "tests/bench/bench_data.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace mimo::kernels {
namespace {

struct Options {
  uint64_t mib = 128;  // of source per run
  int repeat = 5;
  int threads = omp_get_max_threads();
  std::string only;
  bool json = false;
};

struct Result {
  std::string operation;
  std::string isa;
  int threads = 0;
  double source = 0;   // GB/s
  double total = 0;    // GB/s, read and written
  double percent = 0;  // of the copy
};

// ---- sources

constexpr uint64_t kCols = 4096;
constexpr uint64_t kBandRows = 128;

// Rows of Gaussian weights in bands of 128, made once for a small matrix and repeated.
struct Matrix {
  Codec codec;
  uint64_t rows;
  uint64_t source_bytes = 0;  // with scales
  Buffer data{nullptr, &std::free}, scales{nullptr, &std::free};
  std::vector<SourceRows> bands;

  Matrix(Codec from, uint64_t bytes, bool powers) : codec(from) {
    const double per_element = from == Codec::kBf16 ? 2 : from == Codec::kMxfp4 ? 0.5 : 1;
    const uint64_t row_bytes = static_cast<uint64_t>(kCols * per_element);
    rows = std::max<uint64_t>(bytes / row_bytes / kBandRows, 1) * kBandRows;
    const uint64_t scale_row = from == Codec::kFp8Block ? kCols / 128 * 4 : from == Codec::kMxfp4 ? kCols / 32 : 0;
    const uint64_t scale_rows = from == Codec::kFp8Block ? rows / kBandRows : rows;
    data = Allocate(rows * row_bytes);
    scales = Allocate(scale_rows * scale_row + 1);
    source_bytes = rows * row_bytes + scale_rows * scale_row;
    Random random(7);
    std::vector<float> values(kBandRows * kCols);
    for (float& value : values) value = 0.02f * random.Gaussian();
    for (uint64_t band = 0; band < rows / kBandRows; ++band) {
      SourceRows one;
      one.rows = kBandRows;
      uint8_t* at = data.get() + band * kBandRows * row_bytes;
      one.source = {.codec = from, .data = at, .row_bytes = row_bytes};
      if (from == Codec::kFp8Block) {
        one.source.scales = scales.get() + band * scale_row;
        FillFp8(values, at, scales.get() + band * scale_row, band == 0, powers);
      } else if (from == Codec::kMxfp4) {
        one.source.scales = scales.get() + band * kBandRows * scale_row;
        one.source.scale_row_bytes = scale_row;
        for (uint64_t i = 0; i < kBandRows * row_bytes; ++i) at[i] = static_cast<uint8_t>(random.Next());
        uint8_t* bytes_at = scales.get() + band * kBandRows * scale_row;
        for (uint64_t i = 0; i < kBandRows * scale_row; ++i)
          bytes_at[i] = static_cast<uint8_t>(116 + random.Next() % 6);
      } else {
        for (uint64_t i = 0; i < values.size(); ++i) {
          const uint16_t bits = Bf16FromFloat(values[i]);
          std::memcpy(at + 2 * i, &bits, 2);
        }
      }
      bands.push_back(one);
    }
  }

  void FillFp8(const std::vector<float>& values, uint8_t* codes, uint8_t* scale_at, bool first, bool powers) {
    if (!first) {  // the same codes under other scales
      std::memcpy(codes, data.get(), values.size());
    }
    Random random(reinterpret_cast<uintptr_t>(codes));
    for (uint64_t block = 0; block < kCols / 128; ++block) {
      float scale = powers ? 0x1p-12f : 0.0002f * (1.0f + static_cast<float>(random.Next() % 1000) / 1000.0f);
      std::memcpy(scale_at + 4 * block, &scale, 4);
      if (!first) continue;
      float amax = 0;
      for (uint64_t row = 0; row < kBandRows; ++row) {
        for (uint64_t i = 0; i < 128; ++i) amax = std::max(amax, std::fabs(values[row * kCols + block * 128 + i]));
      }
      for (uint64_t row = 0; row < kBandRows; ++row) {
        for (uint64_t i = 0; i < 128; ++i) {
          const uint64_t k = row * kCols + block * 128 + i;
          codes[k] = Fp8Code(values[k], Fp8FreshScale(amax));
        }
      }
    }
  }
};

// ---- timing

double BestSeconds(int repeat, const std::function<void()>& run) {
  run();  // pages, clocks, threads
  double best = 1e30;
  for (int i = 0; i < repeat; ++i) {
    const auto start = std::chrono::steady_clock::now();
    run();
    const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - start;
    best = std::min(best, wall.count());
  }
  return best;
}

// GB/s read and written, the better of plain and streaming stores.
double CopyRate(uint64_t bytes, int threads, int repeat) {
  double best = 0;
  std::vector<Buffer> from, to;
  for (int t = 0; t < threads; ++t) {
    from.push_back(Allocate(bytes));
    to.push_back(Allocate(bytes));
  }
  for (const bool stream : {false, true}) {
    const double seconds = BestSeconds(repeat, [&] {
#pragma omp parallel num_threads(threads) if (threads > 1)
      {
        const size_t mine = static_cast<size_t>(omp_get_thread_num());
        uint8_t* out = to[mine].get();
        const uint8_t* in = from[mine].get();
        bool done = false;
#if defined(__SSE2__)
        if (stream) {
          for (uint64_t i = 0; i < bytes / 16 * 16; i += 16) {
            _mm_stream_si128(reinterpret_cast<__m128i*>(out + i),
                             _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i)));
          }
          _mm_sfence();
          done = true;
        }
#endif
        if (!done) std::memcpy(out, in, bytes);
      }
    });
    best = std::max(best, 2.0 * static_cast<double>(bytes) * threads / 1e9 / seconds);
  }
  return best;
}

struct Case {
  const char* name;
  Codec from;
  Encoding encoding;
  bool errors = false;
  bool powers = false;   // the FP8 scales are powers of two
  uint64_t divisor = 1;  // slow ones get less to do
};

std::vector<Case> Cases() {
  const auto nvfp4 = [](ScaleRule rule, bool via_bf16 = false) {
    Encoding encoding{.codec = Codec::kNvfp4, .rule = rule};
    encoding.via_bf16 = via_bf16;
    return encoding;
  };
  const Encoding mxfp4{.codec = Codec::kMxfp4, .rule = ScaleRule::kRceil};
  const Encoding mxfp8{.codec = Codec::kMxfp8, .rule = ScaleRule::kRceil};
  const Encoding fp8{.codec = Codec::kFp8Block};
  Encoding ue8m0 = fp8;
  ue8m0.power_of_two = true;
  constexpr Codec kFp8 = Codec::kFp8Block, kBf = Codec::kBf16, kMx = Codec::kMxfp4;
  return {
      {"fp8 -> nvfp4 max", kFp8, nvfp4(ScaleRule::kMax)},
      {"fp8 -> nvfp4 max via bf16", kFp8, nvfp4(ScaleRule::kMax, true)},
      {"fp8 -> nvfp4 max + errors", kFp8, nvfp4(ScaleRule::kMax), true, false, 4},
      {"fp8 -> nvfp4 four-over-six", kFp8, nvfp4(ScaleRule::kFourOverSix), false, false, 8},
      {"fp8 -> nvfp4 sweep", kFp8, nvfp4(ScaleRule::kSweep), false, false, 64},
      {"fp8 -> nvfp4 mse", kFp8, nvfp4(ScaleRule::kMse), false, false, 64},
      {"bf16 -> nvfp4 max", kBf, nvfp4(ScaleRule::kMax), false, false, 2},
      {"bf16 -> nvfp4 four-over-six", kBf, nvfp4(ScaleRule::kFourOverSix), false, false, 8},
      {"bf16 -> nvfp4 sweep", kBf, nvfp4(ScaleRule::kSweep), false, false, 64},
      {"mxfp4 -> nvfp4 exact", kMx, nvfp4(ScaleRule::kMax)},
      {"fp8 -> mxfp4 rceil", kFp8, mxfp4, false, false, 2},
      {"bf16 -> mxfp4 rceil", kBf, mxfp4, false, false, 2},
      {"fp8 -> mxfp8 rceil", kFp8, mxfp8, false, false, 2},
      {"fp8 2^k -> mxfp8 exact", kFp8, mxfp8, false, true},
      {"bf16 -> mxfp8 rceil", kBf, mxfp8, false, false, 2},
      {"bf16 -> fp8 128x128", kBf, fp8, false, false, 2},
      {"bf16 -> fp8 128x128 ue8m0", kBf, ue8m0, false, false, 2},
      {"mxfp4 -> fp8 128x128 exact", kMx, fp8, false, false, 2},
  };
}

// Encodes all bands of a matrix, a band per job.
struct Output {
  Buffer codes{nullptr, &std::free}, scales{nullptr, &std::free};
  uint64_t code_row = 0, scale_row = 0;
  uint64_t bytes = 0;
  Output(const Encoding& encoding, uint64_t rows) {
    code_row = encoding.codec == Codec::kNvfp4 || encoding.codec == Codec::kMxfp4 ? kCols / 2 : kCols;
    scale_row = kCols / GroupColumns(encoding) * (encoding.codec == Codec::kFp8Block ? 4 : 1);
    codes = Allocate(rows * code_row);
    scales = Allocate(rows * scale_row);
    const uint64_t scale_rows = encoding.codec == Codec::kFp8Block ? rows / kBandRows : rows;
    bytes = rows * code_row + scale_rows * scale_row;
  }
};

void EncodeAll(const Matrix& matrix, const Case& one, const Nvfp4Global& global, Output* out, Isa isa) {
  uint64_t row = 0;
  for (const SourceRows& band : matrix.bands) {
    ErrorSums errors[1];
    EncodeJob job;
    job.from = {&band, 1};
    job.rows = band.rows;
    job.cols = kCols;
    job.encoding = one.encoding;
    job.global = global;
    job.codes = out->codes.get() + row * out->code_row;
    job.code_row_bytes = out->code_row;
    const uint64_t scale_row = one.encoding.codec == Codec::kFp8Block ? row / kBandRows : row;
    job.scales = out->scales.get() + scale_row * out->scale_row;
    job.scale_row_bytes = out->scale_row;
    job.errors = one.errors ? errors : nullptr;
    EncodeRows(job, isa);
    row += band.rows;
  }
}

Result Rate(std::string name, Isa isa, int threads, double source_bytes, double all_bytes, double seconds,
            double copy) {
  Result result;
  result.operation = std::move(name);
  result.isa = IsaName(isa);
  result.threads = threads;
  result.source = source_bytes * threads / 1e9 / seconds;
  result.total = all_bytes * threads / 1e9 / seconds;
  result.percent = 100 * result.total / copy;
  return result;
}

std::vector<Result> Bench(const Options& options) {
  std::vector<Result> results;
  const std::vector<int> thread_counts =
      options.threads > 1 ? std::vector<int>{1, options.threads} : std::vector<int>{1};
  std::vector<double> copy;
  for (const int threads : thread_counts) {
    copy.push_back(CopyRate((options.mib << 20) / 2, threads, options.repeat));
    results.push_back({"copy", "", threads, copy.back() / 2, copy.back(), 100});
  }
  for (const Case& one : Cases()) {
    if (std::string(one.name).find(options.only) == std::string::npos) continue;
    for (const Isa isa : {Isa::kPortable, Isa::kAvx2}) {
      if (!IsaAvailable(isa)) continue;
      const bool search = one.encoding.rule == ScaleRule::kSweep || one.encoding.rule == ScaleRule::kMse;
      const uint64_t divisor = one.divisor * (isa == Isa::kPortable ? (search ? 32 : 8) : 1);
      const Matrix matrix(one.from, (options.mib << 20) / divisor, one.powers);
      Output shared(one.encoding, matrix.rows);
      const Nvfp4Global global =
          ChooseNvfp4Global(MeasureRows(matrix.bands, kCols, one.encoding.via_bf16, isa), one.encoding.rule);
      const double source = static_cast<double>(matrix.source_bytes);
      for (size_t t = 0; t < thread_counts.size(); ++t) {
        std::vector<Output> outputs;
        for (int i = 0; i < thread_counts[t]; ++i) outputs.emplace_back(one.encoding, matrix.rows);
        const double seconds = BestSeconds(options.repeat, [&] {
#pragma omp parallel num_threads(thread_counts[t]) if (thread_counts[t] > 1)
          EncodeAll(matrix, one, global, &outputs[static_cast<size_t>(omp_get_thread_num())], isa);
        });
        results.push_back(Rate(one.name, isa, thread_counts[t], source, source + static_cast<double>(shared.bytes),
                               seconds, copy[t]));
      }
      if (one.encoding.codec != Codec::kNvfp4 || one.encoding.rule != ScaleRule::kMax || one.errors) continue;
      const double seconds =
          BestSeconds(options.repeat, [&] { MeasureRows(matrix.bands, kCols, one.encoding.via_bf16, isa); });
      results.push_back(Rate(std::string("  measure for it"), isa, 1, source, source, seconds, copy[0]));
    }
  }
  return results;
}

void Print(const std::vector<Result>& results, bool json) {
  if (!json) {
    std::printf("%-28s %-9s %7s %14s %14s %8s\n", "operation", "isa", "threads", "source GB/s", "read+write",
                "of copy");
  } else {
    std::printf("[\n");
  }
  for (size_t i = 0; i < results.size(); ++i) {
    const Result& r = results[i];
    if (json) {
      std::printf(
          "  {\"operation\": \"%s\", \"isa\": \"%s\", \"threads\": %d, \"source_gb_per_s\": %.3f, "
          "\"total_gb_per_s\": %.3f, \"percent_of_copy\": %.1f}%s\n",
          r.operation.c_str(), r.isa.c_str(), r.threads, r.source, r.total, r.percent,
          i + 1 < results.size() ? "," : "");
    } else {
      std::printf("%-28s %-9s %7d %14.3f %14.3f %7.1f%%\n", r.operation.c_str(), r.isa.c_str(), r.threads, r.source,
                  r.total, r.percent);
    }
  }
  if (json) std::printf("]\n");
}

int Usage() {
  std::fprintf(stderr, "usage: bench_encode [--mib SIZE] [--repeat N] [--threads N] [--only TEXT] [--json]\n");
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
    if (flag == "--only") {
      options.only = value;
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
  Print(Bench(options), options.json);
  return 0;
}
