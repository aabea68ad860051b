// Hashes of a model that survive whatever is done to hold it: resharding, another layout, dequantization, an import
// into Megatron (docs/formats.md, "Hashes").
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "lib/base/progress.h"
#include "lib/results/logical_hash_json.h"
#include "lib/verify/check.h"
#include "lib/verify/logical/logical.h"

namespace mimo {

struct LogicalHashOptions {
  int threads = 0;            // 0: one per CPU that this process may use
  uint64_t memory_bytes = 0;  // of rows in flight; 0: the default of a run
  ProgressObserver* progress = nullptr;
  std::function<Status()> go_on = {};  // asked before every unit, from any thread; its error ends it. None: go on
};

// Of every tensor, by name. The same on any number of threads. kIo; kUsage: too little memory.
Result<std::vector<LogicalHash>> HashLogical(const LogicalCheckpoint& checkpoint, const LogicalHashOptions& options);
// The kUsage that it would end in for want of memory. Reads nothing.
Status CheckHashMemory(const LogicalCheckpoint& checkpoint, const LogicalHashOptions& options);

// The document that holds them (schemas/logical_manifest.schema.json), and the way back. kBadInput: it is another.
std::string LogicalManifestJson(const std::vector<LogicalHash>& hashes);
// Takes a mimo-manifest.json that holds hashes of values too.
Result<std::vector<LogicalHash>> ReadLogicalManifest(FileSystem& fs, const std::string& path);

// What of an output is not, bit for bit, what its own manifest recorded of its values; by name.
std::vector<Difference> CompareRecorded(const std::vector<LogicalHash>& recorded,
                                        const std::vector<LogicalHash>& found);

// How the tensors of a checkpoint are those that a manifest names.
struct Recognition {
  uint64_t equal = 0;    // as FP32
  uint64_t rounded = 0;  // as BF16: dequantized, or an import
  struct Stranger {
    std::string tensor, what;
  };
  std::vector<Stranger> strangers;  // by name: of another shape or value, missing, or added
};
// `may_lack(id)` says which tensors the checkpoint need not have (FormTraits).
Recognition Recognise(const std::vector<LogicalHash>& expected, const std::vector<LogicalHash>& found,
                      const FormTraits& traits, const ModelTable* table);

}  // namespace mimo
