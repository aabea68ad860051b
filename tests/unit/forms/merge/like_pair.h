// A run of plain values and the quantized checkpoint that it came from, in memory.
#pragma once

#include "lib/forms/merge/merge.h"
#include "tests/unit/planner/made_checkpoint.h"

namespace mimo::made {

// Real blocks of 128, few of them.
inline Model ReferenceModel() {
  Model m;
  m.heads = 16;
  m.hidden = 256;
  m.vocab = 64;
  m.intermediate = 256;
  m.moe_intermediate = 256;
  m.experts = 2;
  m.mtp = 1;
  m.tower = true;
  return m;
}

inline Checkpoint CheckpointOf(const Model& m, const std::string& root) {
  Understood u = Understand(m);
  Checkpoint c;
  c.stored = std::move(u.catalogue);
  c.stored.root = root;
  c.inventory = std::move(u.inventory);
  c.layout = u.verdict;
  return c;
}

// Split values of the same model, without MTP and towers.
inline Model RunModel(const Model& reference) {
  Model m = reference;
  m.fp8 = false;
  m.expert_storage = Storage::kPlain;
  m.layout = {QkvKind::kSplitIndependent, 1};
  m.mtp = 0;
  m.tower = false;
  return m;
}

inline Result<Checkpoint> Merged(const Model& run, const Model& reference) {
  return MergeLike(CheckpointOf(run, "/run"), CheckpointOf(reference, "/reference"));
}

}  // namespace mimo::made
