// OUT/.mimo-partial/units/NNNNNN.json: one per unit whose data are on disk (docs/formats.md), until the file group that
// it is a part of has its record.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "lib/run/partial.h"
#include "lib/run/unit_outcome.h"
#include "lib/run/units.h"

namespace mimo {

// A unit as it was recorded.
struct UnitRecord {
  UnitOutcome result;
  // The files of its outputs, into Plan::files; of those that are not linked, what each is known by: its inode, birth
  // and length.
  std::vector<std::pair<uint32_t, WrittenFile>> files;
};

class UnitRecords {
 public:
  // References outlive it. `unit_bytes`: what units were cut at; records of others are of no use.
  UnitRecords(const PartialDirectory& partial, const Plan& plan, const Units& units, uint64_t unit_bytes)
      : partial_(partial), plan_(plan), units_(units), unit_bytes_(unit_bytes) {}

  // The numbers under which anything is stored, ascending. kIo.
  Result<std::vector<uint32_t>> Numbers() const;
  // nullopt when it is damaged, of another plan, lacks what is needed, or `linked` (per plan file) does not match.
  Result<std::optional<UnitRecord>> Load(uint32_t unit, const RecordNeeds& needs,
                                         const std::vector<uint8_t>& linked) const;
  // Durably. Needs notes of the files of its outputs (PartialDirectory::NoteOf).
  Status Write(uint32_t unit, const UnitOutcome& result, const std::vector<uint8_t>& linked) const;
  // units/equal-BEGIN-END.json and units/guard-BEGIN-END.json: entries [begin, end) that a part has looked at, of `of`.
  using Entries = std::pair<size_t, size_t>;
  enum class Looked : uint8_t {
    kEqual,  // Plan::equal
    kGuard,  // RunOptions::guard
  };
  Result<std::vector<Entries>> LoadLooked(Looked at, size_t of) const;
  Status WriteLooked(Looked at, const Entries& entries, size_t of) const;
  // Removes what is stored under these numbers, durably: before files that they vouch for are touched.
  Status Drop(const std::vector<uint32_t>& units) const;

 private:
  std::string Name(uint32_t unit) const;  // in OUT

  const PartialDirectory& partial_;
  const Plan& plan_;
  const Units& units_;
  const uint64_t unit_bytes_;
};

}  // namespace mimo
