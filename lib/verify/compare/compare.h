// Whether two checkpoints are the same model, tensor by tensor, in whatever form and codec each is stored: mimo-verify
// compare.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "lib/base/progress.h"
#include "lib/results/errors.h"
#include "lib/verify/compare/unit.h"
#include "lib/verify/logical/logical.h"

namespace mimo {

struct CompareOptions {
  bool within_codec = false;                  // half a step of the coarser side apart is near enough
  std::vector<Threshold> thresholds;          // and so is this SQNR, of tensors of these roles
  std::vector<std::string> include, exclude;  // patterns on tensor names, and "carried/NAME" of what travels along
  size_t explained = 256;                     // how many differing tensors are looked at again, to say how they differ
  std::string state = {};                     // a file to go on from, and to note in what was found; "" none
  int threads = 0;                            // 0: one per CPU that this process may use
  uint64_t memory_bytes = 0;                  // of rows in flight; 0: the default of a run
  ProgressObserver* progress = nullptr;
};

// A tensor that both have.
struct TensorComparison {
  std::string name;
  TensorId id;
  uint64_t elements = 0;
  std::string stored_a, stored_b;  // "F8_E4M3 block 128x128"; what each is stored as, for people
  Equality equality = Equality::kBytes;
  bool accepted = true;  // equal, or near enough by the options
  bool measured = false;
  Figures figures;  // of all elements, when measured
  kernels::Anomalies odd_a, odd_b;
};

// One thing that is not the same.
struct CompareDifference {
  std::string kind;              // "tensor.missing", "rows.heads-permuted"; docs/comparing.md lists them
  std::string place;             // tensor, config key or file
  std::string evidence;          // what was seen, with numbers
  std::optional<size_t> tensor;  // into CompareReport::tensors
};

struct CompareReport {
  std::string a, b;                       // the directories
  std::vector<TensorComparison> tensors;  // by name
  std::vector<CompareDifference> differences;
  std::vector<std::string> notes;  // true and worth knowing, and no difference
  uint64_t bytes_read = 0;         // of these tensors
  uint64_t CountOf(Equality equality) const;
  bool Same() const { return differences.empty(); }
};

// Both checkpoints outlive the call. kUsage: a pattern or threshold that means nothing, too little memory; kIo. What
// differs is in the report.
// kBadInput: models of other dimensions.
Result<CompareReport> Compare(FileSystem& fs, const LogicalCheckpoint& a, const LogicalCheckpoint& b,
                              const CompareOptions& options);

}  // namespace mimo
