// Hashes of a model that survive whatever is done to hold it: resharding, another layout, dequantization, an import
// into Megatron (docs/formats.md, "Hashes").
#pragma once

#include <string>
#include <vector>

#include "lib/base/hash.h"
#include "lib/base/progress.h"
#include "lib/verify/logical/logical.h"

namespace mimo {

// Of one tensor, under its Hugging Face name in the split form: the sum over its rows, in logical order, of the hash of
// the row's decoded values, seeded with its number (HashRows, lib/base/hash.h).
struct LogicalHash {
  std::string name;
  std::vector<int64_t> shape;
  bool f32 = false;    // the model has it in F32: rounded to BF16 it is another
  bool values = true;  // false: elements that do not decode; `fp32` is of their bytes
  Hash128 fp32;        // of the values as FP32
  Hash128 bf16;        // of the values rounded to BF16
  bool operator==(const LogicalHash&) const = default;
};

struct LogicalHashOptions {
  int threads = 0;            // 0: one per CPU that this process may use
  uint64_t memory_bytes = 0;  // of rows in flight; 0: the default of a run
  ProgressObserver* progress = nullptr;
};

// Of every tensor, by name. The same on any number of threads. kIo; kUsage: too little memory.
Result<std::vector<LogicalHash>> HashLogical(const LogicalCheckpoint& checkpoint, const LogicalHashOptions& options);

// The document that holds them (schemas/logical_manifest.schema.json), and the way back. kBadInput: it is another.
std::string LogicalManifestJson(const std::vector<LogicalHash>& hashes);
Result<std::vector<LogicalHash>> ReadLogicalManifest(FileSystem& fs, const std::string& path);

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
