// Arrays of a plan, made a step at a time for whoever reads them.
#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/run/handles.h"
#include "lib/run/job.h"
#include "lib/run/step_result.h"
#include "lib/run/steps.h"

namespace mimo {

// Thread-safe: a step is made once while others wait for it, and is kept until `memory_bytes` are in use by later ones.
class StepsOfGroups {
 public:
  // All outlive it.
  StepsOfGroups(FileSystem& fs, const Catalogue& catalogue, const Plan& plan, uint64_t memory_bytes);
  ~StepsOfGroups();

  // Bytes of an output from `begin` of its file on, as many as `out` holds. kIo; kBadInput: the source has changed.
  Status Read(uint32_t output, uint64_t begin, std::span<std::byte> out);
  kernels::Anomalies anomalies() const;

 private:
  // Bytes of a file that a step makes.
  struct Place {
    uint32_t file = 0;
    uint64_t begin = 0, end = 0;
    uint32_t step = 0;
  };
  struct Group {
    std::vector<Step> steps;
    std::vector<Place> places;  // by (file, begin)
  };
  struct Made;
  struct Slot;
  using Key = std::pair<uint32_t, uint32_t>;  // group, step

  std::shared_ptr<const Group> GroupOf(uint32_t group);
  void AddPlaces(const Step& step, uint32_t number, Group* group) const;
  Result<std::shared_ptr<const Made>> StepOf(uint32_t group, uint32_t step, const Group& steps);
  Result<std::shared_ptr<const Made>> Make(const Step& step);
  void Forget();

  FileSystem& fs_;
  const Catalogue& catalogue_;
  const Plan& plan_;
  const uint64_t memory_bytes_;
  Job job_;
  HandleCache<ReadableFile> readers_;

  mutable std::mutex mutex_;  // guards all below
  std::map<uint32_t, std::shared_ptr<const Group>> groups_;
  std::map<Key, std::shared_ptr<Slot>> slots_;
  std::list<Key> order_;  // of slots that are made, the last used first
  uint64_t kept_bytes_ = 0;
  kernels::Anomalies anomalies_;
};

}  // namespace mimo
