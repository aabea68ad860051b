// A checkpoint of any form and codec as the model's parameters: names, shapes and row order of Hugging Face's split
// form. A plan of values is made of it, and never run: what compares or hashes reads rows through the plan's pieces.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/base/status.h"
#include "lib/forms/checkpoint.h"
#include "lib/forms/form.h"
#include "lib/run/handles.h"
#include "lib/run/job.h"
#include "lib/run/planned_files.h"
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
  // Opens `root`. Where values cannot be decoded as they lie (experts of ranks with global scales of their own), a
  // Hugging Face checkpoint is made of them in memory first. kBadInput: not readable as a checkpoint, or its layout is
  // undecided.
  static Result<std::unique_ptr<LogicalCheckpoint>> Open(FileSystem& fs, const std::string& root,
                                                         const OpenOptions& options);

  const std::string& root() const { return root_; }
  const Checkpoint& checkpoint() const { return checkpoint_; }
  // What lies there, whose values checkpoint() may have been made from: to plan conversions of.
  const Checkpoint& stored() const { return before_ ? before_->checkpoint : checkpoint_; }
  const FormTraits& traits() const { return traits_; }  // of the form that is stored
  // Where checkpoint() lies: what was opened, or a checkpoint that was made of it in memory.
  FileSystem& files() const { return stage_->fs; }
  const Job& job() const { return job_; }
  const std::vector<LogicalTensor>& tensors() const { return tensors_; }  // by name
  const LogicalTensor* Find(const std::string& name) const;               // null where there is none

  // Reads what a layout asks for into `buffer`, where it belongs. From any thread.
  Status Read(const StepLayout& layout, std::byte* buffer) const;
  // Rows of an array of checkpoint().stored, as many as `out` holds. kIo.
  Status ReadRows(const StoredArray& array, int64_t row, std::span<std::byte> out) const {
    return stage_->ReadRows(array, row, out);
  }

  // The input scale of every weight that has one, by the name of the tensor, F32; fused attention has it for each of Q,
  // K and V. kIo.
  Result<std::map<std::string, float>> InputScales() const;

  // Calls visit(first, second) for every two stored arrays of which one is a replica and not what the other holds: only
  // one of them is read. kIo.
  using ReplicaVisit = std::function<void(const std::string& first, const std::string& second)>;
  Status VisitBrokenReplicas(const ReplicaVisit& visit) const;

 private:
  // What is stored, and the plan that shows it.
  struct Stage {
    Stage(FileSystem& files, Checkpoint opened);
    Status Make(const PlanOptions& options);
    Status VisitBrokenReplicas(const ReplicaVisit& visit) const;
    Status ReadRows(const StoredArray& array, int64_t row, std::span<std::byte> out) const;

    FileSystem& fs;
    Checkpoint checkpoint;
    Plan plan;
    Job job;
    mutable HandleCache<ReadableFile> readers;
  };

  explicit LogicalCheckpoint(std::string root, std::unique_ptr<Stage> before, std::unique_ptr<PlannedFiles> planned,
                             std::unique_ptr<Stage> stage, FormTraits traits);
  Status FindTensors();

  const std::string root_;
  const std::unique_ptr<Stage> before_;          // of what is stored, where it takes two
  const std::unique_ptr<PlannedFiles> planned_;  // made of it
  const std::unique_ptr<Stage> stage_;
  const FormTraits traits_;
  const Checkpoint& checkpoint_;
  const Job& job_;
  std::vector<LogicalTensor> tensors_;
};

}  // namespace mimo
