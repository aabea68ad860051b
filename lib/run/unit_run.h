// A unit that workers have begun: its steps, and what they add up to.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "lib/run/step_result.h"
#include "lib/run/steps.h"
#include "lib/run/unit_outcome.h"
#include "lib/run/units.h"

namespace mimo {

// Thread-safe. Sums are taken in the order of cells and rows, whatever the order in which steps come.
class UnitRun {
 public:
  // Per output of global or input scales: all of its elements.
  using Scalars = std::map<uint32_t, std::vector<float>>;

  // References outlive it; `limit` and `shared_limit` as for StepCutter.
  UnitRun(const Job& job, PartLoader& loader, uint32_t number, const Unit& unit, uint64_t limit, uint64_t shared_limit);

  uint32_t number() const { return number_; }
  const Unit& unit() const { return unit_; }

  // A step that nobody else has; nullopt when there is none left.
  std::optional<Step> Take();
  // `step` is done, and what it made is written; `files` of the catalogue were read. True when it was the last one.
  // `progress`: bytes of Unit::output_bytes that count as made with it; those of all steps are all.
  bool Add(const Step& step, const StepResult& result, const std::vector<uint32_t>& files, uint64_t* progress);

  // What bytes that are written add to the CRC-32 of an output.
  void AddCrc(uint32_t output, uint32_t crc);

  // Bytes that are not for this process to write.
  void AddEdge(uint32_t file, uint64_t offset, std::span<const std::byte> bytes);

  // For a step whose pass is kMeasured: what its measuring steps came to, all of which were taken before it, so someone
  // is at work on each. False once Cancel was called.
  bool WaitForMeasure(const Step& step, kernels::Measured* measured);
  void Cancel();
  // Fuse groups that were read twice, because their weights do not fit in memory at once.
  uint64_t read_twice() const;

  // The steps are all done:
  Scalars TakeScalars();
  void AddScalars(const StepResult& written);
  const std::set<uint32_t>& files_read() const { return files_read_; }
  // What it came to, but for UnitOutcome::items.
  UnitOutcome Fold();

 private:
  using Share = std::pair<uint32_t, uint32_t>;  // fuse group, share
  // What shares a global scale and is read twice: its measuring steps, all taken before the first that encodes.
  struct Measure {
    uint32_t running = 0;
    kernels::Measured sum;
  };

  Share ShareIn(const Step& step) const;
  void AddOutputs(const StepResult& result);

  const Job& job_;
  const uint32_t number_;
  const Unit& unit_;

  mutable std::mutex mutex_;  // guards all below
  StepCutter cutter_;
  bool begun_ = false;
  std::optional<Step> next_;  // cut in advance, so that the last step is known to be it
  uint32_t running_ = 0;
  uint64_t told_ = 0;  // of Unit::output_bytes
  bool cancelled_ = false;
  std::map<Share, Measure> measures_;
  std::condition_variable measured_;
  std::set<uint32_t> files_read_;
  std::map<uint32_t, TensorResult> outputs_;
  std::map<uint32_t, uint32_t> crcs_;                                 // by output
  std::map<std::pair<uint32_t, uint64_t>, std::string> edges_;        // by (file, offset)
  std::map<uint32_t, std::vector<BlockCounts>> cells_;                // by fuse group
  std::map<uint32_t, std::map<int64_t, kernels::ErrorSums>> errors_;  // by output of codes, by row
  Scalars scalars_;
};

}  // namespace mimo
