// What a conversion aims at: the layout of attention and the dimensions of the output, from --to, --tp, --qkv and what
// the source says about itself.
#pragma once

#include <string>
#include <vector>

#include "lib/planner/choice.h"

namespace mimo {

struct Target {
  QkvLayout qkv;
  bool keeps_fp8 = false;          // attention is block FP8, in and out
  bool decodes = false;            // an engine's attention becomes BF16, whatever it is stored as
  bool restores = false;           // the layout that the checkpoint says it was made from
  ModelConfig model;               // dimensions of the output, padding included; KV heads before replication
  int64_t block_rows = 128;        // of block FP8 weights that are kept
  std::string table;               // sharded-state: the form table or template that names its arrays
  std::vector<std::string> notes;  // what the engine will do with it

  bool resizes(const ModelConfig& source) const;  // the dimensions differ from those of the source
};

// Whether the layer's attention is sliding-window: MTP layers always are.
inline bool IsWindowed(const ModelConfig& config, const AttentionWeights& a) {
  return a.mtp || config.windowed[static_cast<size_t>(a.layer)] != 0;
}

// kUsage: the layout does not fit the model, the ranks cannot share it out (with the nearest number that can), or
// options contradict each other.
// `viewed`: the catalogue is what a view shows (lib/form/view.h), which goes back to its source unless told otherwise.
Result<Target> ChooseTarget(const Catalogue& catalogue, const Inventory& inventory, const LayoutVerdict& verdict,
                            const PlanOptions& options, StorageChooser& chooser, bool viewed = false);

}  // namespace mimo
