// Compares the CRC-32s that the source holds (Catalogue::items) with what a run reads, in whatever parts and order it
// is read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/base/status.h"
#include "lib/results/checksums.h"
#include "lib/run/job.h"
#include "lib/run/unit_outcome.h"

namespace mimo {

// An item is compared when its file group finishes, before that is recorded: a record stands for items that were
// compared. What the plan leaves of an item is read then, where that is at most half of it or 1 MiB (the padding of a
// vocabulary, most of all); an item of which less is needed is not compared, but counted. Thread-safe.
class SourceChecks {
 public:
  // `job` outlives it; outputs that it skips read nothing.
  explicit SourceChecks(const Job& job);

  // Takes note of bytes of a file of the catalogue, from `begin` on, that a step of a unit of `file_group` has read.
  // Bytes that come again are left out. kBadInput when they complete an item that has another CRC-32.
  Status Add(uint32_t file_group, uint32_t unit, uint32_t file, uint64_t begin, std::span<const std::byte> data);
  // What a unit, all of whose steps are done, has added; it is forgotten here.
  std::vector<ItemRead> TakeReads(uint32_t unit);
  // Takes the word of a record for what a unit has read in an earlier run or another part. What others have read as
  // well is left for Finish to read. kBadInput as above.
  Status Restore(const ItemRead& read);

  using Open = std::function<Result<std::shared_ptr<ReadableFile>>(uint32_t file)>;
  // All steps of `file_group` are done: reads what is left of its items, and adds the bytes to `read`. kBadInput as
  // above.
  Status Finish(uint32_t file_group, const Open& open, uint64_t* read);

  const ChecksumCounts& counts() const { return counts_; }
  // Names of the arrays in items that are not compared.
  std::vector<std::string> Unverified() const;

 private:
  enum class Care : uint8_t {
    kUnneeded,  // not needed, or too little of it
    kCompare,   // by a file group
    kReplica,   // all its rows are compared with those of an item that is compared
    kWithout,   // there is nothing to compare with
    kCompared,  // done
  };
  // Of an item that is being read.
  struct Progress {
    std::map<uint64_t, uint64_t> taken;  // disjoint [begin, end) from the start of the file
    uint64_t added = 0;                  // bytes that are in `crc`
    uint32_t crc = 0;
  };
  using Range = std::pair<uint64_t, uint64_t>;

  void ChooseItems();
  void FindReplicas();
  const StoredItem& item(uint32_t index) const { return job_.catalogue.items[index]; }
  bool IsOpen(uint32_t index) const;
  std::vector<Range> Take(uint32_t index, Range wanted);
  Status Put(uint32_t index, uint32_t unit, const std::vector<Range>& ranges, uint64_t begin,
             std::span<const std::byte> data);
  Status AddCrc(uint32_t index, uint32_t crc, uint64_t bytes);
  Error Damaged(uint32_t index, uint32_t found) const;

  const Job& job_;
  std::vector<uint32_t> group_;                         // by item: the file group that compares it
  std::map<uint32_t, std::vector<uint32_t>> items_of_;  // by file group, ascending
  ChecksumCounts counts_;

  mutable std::mutex mutex_;  // guards all below
  std::vector<Care> care_;    // by item
  std::unordered_map<uint32_t, Progress> progress_;
  std::map<uint32_t, std::map<uint32_t, ItemRead>> reads_;  // by unit, then by item
};

}  // namespace mimo
