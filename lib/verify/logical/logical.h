// A checkpoint of any form and codec as the model's parameters: names, shapes and row order of Hugging Face's split
// form. A plan of values is made of it, and never run: what compares or hashes reads rows through the plan's pieces.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/base/status.h"
#include "lib/forms/checkpoint.h"
#include "lib/run/handles.h"
#include "lib/run/job.h"
#include "lib/verify/logical/value_rows.h"

namespace mimo {

struct LogicalTensor {
  std::string name;  // "model.layers.3.self_attn.q_proj.weight"
  ValueRows rows;
};

// The options of a plan of values.
PlanOptions LogicalOptions();

class LogicalCheckpoint {
 public:
  // Opens `root`. `like_root`: whose config is that of a training checkpoint without one; "" none. kBadInput: not
  // readable as a checkpoint, or its layout is undecided; kUsage: what is stored cannot be decoded where it lies.
  static Result<std::unique_ptr<LogicalCheckpoint>> Open(FileSystem& fs, const std::string& root,
                                                         const OpenOptions& options);

  const Checkpoint& checkpoint() const { return checkpoint_; }
  const Job& job() const { return job_; }
  const std::vector<LogicalTensor>& tensors() const { return tensors_; }  // by name
  const LogicalTensor* Find(const std::string& name) const;               // null where there is none
  // Reads what a layout asks for into `buffer`, where it belongs. From any thread.
  Status Read(const StepLayout& layout, std::byte* buffer) const;
  // Rows of a stored array, as many as `out` holds.
  Status ReadRows(const StoredArray& array, int64_t row, std::span<std::byte> out) const;
  const std::string& root() const { return checkpoint_.stored.root; }

 private:
  LogicalCheckpoint(FileSystem& fs, Checkpoint checkpoint);
  Status PlanValues();

  FileSystem& fs_;
  Checkpoint checkpoint_;
  Plan plan_;
  Job job_;
  std::vector<LogicalTensor> tensors_;
  mutable HandleCache<ReadableFile> files_;
};

}  // namespace mimo
