// The parts that the JSON files in OUT/.mimo-partial have in common (docs/formats.md).
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/base/hash.h"
#include "lib/base/status.h"
#include "lib/json/members.h"
#include "lib/json/text.h"
#include "lib/plan/plan.h"
#include "lib/results/manifest.h"
#include "lib/run/written_file.h"

namespace mimo {

// The object in `path` without its format and version; null when it is missing, damaged or of another format: then it
// counts as not written. kIo.
Result<std::unique_ptr<nlohmann::json>> ReadRecordFile(FileSystem& fs, const std::string& path, const char* format);
// Durably puts `object`, the text of a whole JSON object, with a hash of itself as its last member: ReadRecordFile
// takes nothing for written in which a bit has turned over.
Status WriteRecordFile(FileSystem& fs, const std::string& path, std::string object);
// `object` with that hash; the hash that it may have is replaced. What WriteRecordFile writes.
std::string SealedRecord(std::string object);
void AddRecordFormat(JsonObject& object, const char* format, const Hash128& digest);

std::optional<Hash128> HashOfHex(const std::string& text);

// A name or the text of a link, whose bytes need not be UTF-8; and back, nothing where there is none.
void AddBytes(JsonObject& entry, const std::string& key, const std::string& bytes);
std::optional<std::string> TakeBytes(JsonMembers& entry, JsonProblems& problems, const std::string& key);

void AddWritten(JsonObject& entry, const WrittenFile& file);
WrittenFile TakeWritten(JsonMembers& entry, JsonProblems& problems);

// What a record must hold to be of use to a run.
struct RecordNeeds {
  bool hash_linked = false;  // a hash for every tensor
  bool errors = false;       // of every encoded weight
};

// What a record says of some outputs and groups: all of them, or what one unit added.
struct RecordedResults {
  std::vector<uint32_t> outputs;          // into Plan::outputs
  std::vector<TensorResult> tensors;      // one per output
  std::map<uint32_t, BlockCounts> grids;  // per group with cells
};
// Members `hashes`, `anomalies`, `adjusted`, `encoded` and `relayouts`, by position in `outputs`.
void AddResults(JsonObject& object, const Plan& plan, const RecordedResults& results);
// Fills tensors and grids for `results->outputs`; false when something is missing, strange or too much. Those outputs
// that are encoded and the `groups`, which have cells, must all be there, and errors where they are needed.
bool TakeResults(const Plan& plan, const std::vector<uint32_t>& groups, bool errors, JsonMembers& record,
                 JsonProblems& problems, RecordedResults* results);

}  // namespace mimo
