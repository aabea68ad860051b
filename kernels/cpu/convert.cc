// Which implementation runs, and how bands are shared among threads.
#include "kernels/convert.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "kernels/cpu/kernel_table.h"

#ifdef MIMO_X86
#include <cpuid.h>
#endif

namespace mimo::kernels {
namespace {

// Rows of a band per unit of work: enough elements to outweigh slots and scheduling, few enough to balance the threads.
uint64_t RowsPerPart(const Band& band, uint64_t part_elements) {
  if (band.cols == 0) return std::max<uint64_t>(band.rows, 1);
  return std::max<uint64_t>(part_elements / band.cols, 1);
}

uint64_t PartCount(const Band& band, uint64_t part_elements) {
  const uint64_t rows = RowsPerPart(band, part_elements);
  return band.rows / rows + (band.rows % rows != 0 ? 1 : 0);
}

}  // namespace

const Kernels& KernelsFor(Isa isa) {
#ifdef MIMO_X86
  if (isa == Isa::kAvx512 && IsaAvailable(isa)) return Avx512Kernels();
  if (isa != Isa::kPortable && IsaAvailable(Isa::kAvx2)) return Avx2Kernels();
#endif
  (void)isa;
  return PortableKernels();
}

Anomalies& Anomalies::operator+=(const Anomalies& o) {
  nan_codes += o.nan_codes;
  infinities += o.infinities;
  zero_scale_codes += o.zero_scale_codes;
  bad_scales += o.bad_scales;
  overflows += o.overflows;
  return *this;
}

const char* IsaName(Isa isa) {
  switch (isa) {
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kPortable:
      break;
  }
  return "portable";
}

bool IsaAvailable(Isa isa) {
  if (isa == Isa::kPortable) return true;
#ifdef MIMO_X86
  static const bool avx2 = [] {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;  // F16C by cpuid: not every compiler knows its name
    const bool f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & 1u << 29) != 0;
    return f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2");
  }();
  static const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                             __builtin_cpu_supports("avx512vbmi");
  return isa == Isa::kAvx512 ? avx512 : avx2;
#else
  return false;
#endif
}

Isa BestIsa() {
  if (IsaAvailable(Isa::kAvx512)) return Isa::kAvx512;
  return IsaAvailable(Isa::kAvx2) ? Isa::kAvx2 : Isa::kPortable;
}

Anomalies ConvertBandsWith(const Kernels& kernels, std::span<const Band> bands, int threads, uint64_t stream_bytes) {
  uint64_t elements = 0;
  uint64_t out_bytes = 0;
  for (const Band& band : bands) {
    elements += band.rows * band.cols;
    out_bytes += band.rows * band.cols * ElementBytes(band.target.codec);
  }
  const bool stream = out_bytes >= stream_bytes;
  Anomalies total;
  if (threads <= 1) {
    for (const Band& band : bands) total += ConvertRows(kernels, band, 0, band.rows, stream);
    return total;
  }
  const uint64_t part_elements =
      std::clamp(elements / (static_cast<uint64_t>(threads) * 8), uint64_t{1} << 15, uint64_t{1} << 19);
  uint64_t parts = 0;
  for (const Band& band : bands) parts += PartCount(band, part_elements);
  std::atomic<uint64_t> next = 0;
  std::mutex mutex;  // guards the total
  const auto work = [&] {
    Anomalies mine;
    size_t band = 0;     // of the part below; parts come to a thread in ascending order
    uint64_t first = 0;  // the first part of `band`
    for (uint64_t part = next++; part < parts; part = next++) {
      while (part - first >= PartCount(bands[band], part_elements)) first += PartCount(bands[band++], part_elements);
      const uint64_t rows = RowsPerPart(bands[band], part_elements);
      const uint64_t row = (part - first) * rows;
      mine += ConvertRows(kernels, bands[band], row, std::min(rows, bands[band].rows - row), stream);
    }
    const std::lock_guard lock(mutex);
    total += mine;
  };
  std::vector<std::thread> started;
  try {
    started.reserve(static_cast<size_t>(threads) - 1);
    for (int i = 1; i < threads; ++i) started.emplace_back(work);
  } catch (const std::exception&) {  // the system gives no more: those that there are do it all
  }
  work();
  for (std::thread& thread : started) thread.join();
  return total;
}

Anomalies ConvertBands(std::span<const Band> bands, int threads, Isa isa) {
  return ConvertBandsWith(KernelsFor(isa), bands, threads);
}

}  // namespace mimo::kernels
