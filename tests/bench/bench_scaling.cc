// How a run on many cores would scale, on a machine with few: the real plan, units, lanes and cutter, while reading,
// writing, hashing and computing are sleeps of what they would take, all stretched alike.
//   bench_scaling CKPT [--to hf|vllm] [--dtype bf16] [--workers 64] [--storage 26,50] [--stretch 400] [--gib 24]
// CKPT may be headers alone (mimo-synth PRESET CKPT --sparse). The storage serves one byte after the other at its rate
// (GB/s, read and written together); a worker computes at --core GB/s. Reported: the share of the modelled storage that
// is reached over the first --gib of output, and what is serial: cutting units before the start, and handing out steps.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "lib/forms/registry/open_checkpoint.h"
#include "lib/planner/planner.h"
#include "lib/run/lanes.h"
#include "lib/run/run_state.h"
#include "lib/run/step_work.h"

namespace mimo {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kStepBytes = 4 << 20;
constexpr double kLatency = 200e-6;  // of a request

struct Options {
  std::string checkpoint;
  std::string to = "hf", dtype = "keep";
  int workers = 64;
  std::vector<double> storage = {26, 50};  // GB/s
  double core = 4;                         // GB/s that one core moves, hashes and converts, read and written together
  double stretch = 400;
  double gib = 24;
};

double Since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Serves bytes at a rate, those who came first first.
class Storage {
 public:
  explicit Storage(double bytes_per_second) : rate_(bytes_per_second) {}
  // Returns when `bytes` have been moved.
  void Move(uint64_t bytes, double latency) {
    Clock::time_point end;
    {
      const std::lock_guard lock(mutex_);
      const Clock::time_point begin = std::max(next_, Clock::now());
      next_ = begin + std::chrono::duration_cast<Clock::duration>(
                          std::chrono::duration<double>(static_cast<double>(bytes) / rate_));
      end = next_ + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(latency));
    }
    std::this_thread::sleep_until(end);
  }

 private:
  const double rate_;
  std::mutex mutex_;
  Clock::time_point next_{};
};

struct Outcome {
  double seconds = 0;  // of the stretched time
  uint64_t bytes = 0;
  double handing_out = 0;  // seconds of all workers, as they were
  uint64_t steps = 0;
};

Outcome Simulate(const Job& job, const std::vector<Unit>& units, const std::vector<uint32_t>& numbers, const Options& o,
                 double rate) {
  PartLoader loader(job, kUnitBytes);
  // Three in flight for each core, as past the page cache.
  const int workers = 3 * o.workers;
  Lanes lanes(job, loader, units, numbers, kStepBytes, uint64_t{1} << 40, workers, o.workers);
  Storage storage(rate * 1e9 / o.stretch);
  std::atomic<uint64_t> bytes = 0, steps = 0;
  std::atomic<double> handing = 0;
  std::mutex mutex;
  int computing = 0;
  std::condition_variable free;
  const Clock::time_point start = Clock::now();
  std::vector<std::thread> threads;
  for (int i = 0; i < workers; ++i)
    threads.emplace_back([&, i] {
      double mine = 0;
      while (true) {
        const Clock::time_point asked = Clock::now();
        auto work = lanes.Take(i);
        mine += Since(asked);
        if (!work) break;
        const StepWork step(job, work->step, kStepBytes);
        uint64_t read = 0;
        for (const Extent& extent : step.reads()) read += extent.bytes;
        const uint64_t written = work->step.progress_bytes - std::min(read, work->step.progress_bytes);
        storage.Move(read, kLatency * o.stretch);
        {
          std::unique_lock lock(mutex);
          free.wait(lock, [&] { return computing < o.workers; });
          ++computing;
        }
        std::this_thread::sleep_for(
            std::chrono::duration<double>(static_cast<double>(read + written) / (o.core * 1e9) * o.stretch));
        {
          const std::lock_guard lock(mutex);
          --computing;
          free.notify_one();
        }
        storage.Move(written, kLatency * o.stretch);
        uint64_t progress = 0;
        work->unit->Add(work->step, {}, {}, &progress);
        bytes += read + written;
        ++steps;
      }
      handing += mine;
    });
  for (std::thread& thread : threads) thread.join();
  return {Since(start), bytes, handing, steps};
}

int Run(const Options& o) {
  FileSystem& fs = PosixFileSystem();
  auto checkpoint = OpenCheckpoint(fs, o.checkpoint, {});
  if (!checkpoint.ok()) return std::fprintf(stderr, "%s\n", checkpoint.error().Message().c_str()), 1;
  PlanOptions options;
  if (o.dtype == "bf16") {
    options.dtype = DTypeChoice::kBf16;
  }
  if (o.to == "vllm") {
    options.to = TargetKind::kVllm;
    options.format = FormKind::kShardedState;
    options.tp = 8;
  }
  auto plan = MakePlan(*checkpoint, options);
  if (!plan.ok()) return std::fprintf(stderr, "%s\n", plan.error().Message().c_str()), 1;
  const Job job{checkpoint->stored, *plan, std::vector<OutputMode>(plan->outputs.size(), OutputMode::kWrite)};
  const Clock::time_point began = Clock::now();
  const Units units = CutUnits(job, kUnitBytes);
  const double cutting = Since(began);
  std::vector<uint32_t> numbers;
  uint64_t output = 0, all = 0;
  for (uint32_t u = 0; u < units.list.size(); ++u) {
    all += units.list[u].cost;
    if (static_cast<double>(output) >= o.gib * (1 << 30)) continue;
    numbers.push_back(u);
    output += units.list[u].output_bytes;
  }
  std::printf(
      "%s: %zu units, cut in %.2f s; %zu of them (%.1f GB of output) simulated, %d cores of %.1f GB/s, time x %.0f\n",
      o.checkpoint.c_str(), units.list.size(), cutting, numbers.size(), static_cast<double>(output) / 1e9, o.workers,
      o.core, o.stretch);
  for (const double rate : o.storage) {
    const Outcome outcome = Simulate(job, units.list, numbers, o, rate);
    const double reached = static_cast<double>(outcome.bytes) / 1e9 / (outcome.seconds / o.stretch);
    // What the whole conversion takes on that storage, and what is serial beside it.
    const double whole = static_cast<double>(all) / 1e9 / rate;
    std::printf(
        "  storage %5.1f GB/s: %5.1f GB/s reached, %3.0f %%; %llu steps; serial: units %.1f %% of the whole run, "
        "handing out %.2f %% of a core\n",
        rate, reached, 100 * reached / rate, static_cast<unsigned long long>(outcome.steps), 100 * cutting / whole,
        100 * outcome.handing_out / (outcome.seconds / o.stretch) / o.workers);
  }
  return 0;
}

}  // namespace
}  // namespace mimo

int main(int argc, char** argv) {
  mimo::Options o;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const auto value = [&] { return i + 1 < argc ? std::string(argv[++i]) : std::string(); };
    if (word == "--to") {
      o.to = value();
    } else if (word == "--dtype") {
      o.dtype = value();
    } else if (word == "--workers") {
      o.workers = std::atoi(value().c_str());
    } else if (word == "--core") {
      o.core = std::atof(value().c_str());
    } else if (word == "--stretch") {
      o.stretch = std::atof(value().c_str());
    } else if (word == "--gib") {
      o.gib = std::atof(value().c_str());
    } else if (word == "--storage") {
      o.storage.clear();
      const std::string list = value();
      for (size_t at = 0; at < list.size();
           at = list.find(',', at) == std::string::npos ? list.size() : list.find(',', at) + 1)
        o.storage.push_back(std::atof(list.c_str() + at));
    } else {
      o.checkpoint = word;
    }
  }
  return mimo::Run(o);
}
