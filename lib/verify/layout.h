// Proves the layout of the attention projections from the data: every layout that fits is tried, and the answer is held
// against what config.json, the index, our marker and the user say.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/base/status.h"
#include "lib/layout/qkv_wish.h"
#include "lib/layout/trial.h"

namespace mimo {

struct LayoutOptions {
  bool all = false;  // read every attention layer, not only some of each kind
  int threads = 0;   // 0: one per CPU that the process may use
  std::optional<QkvWish> source_qkv = {};
};

struct LayoutStatement {
  std::string by;              // "config attention_projection_layout", "index tp_size", "marker", "--source-qkv"
  std::string layout;          // "fused(4)"; "fused" or "split" of config.json
  std::optional<bool> agrees;  // with the data; nullopt: the data does not tell
};

struct LayoutReport {
  Standing verdict = Standing::kUndecided;  // kContradicted: something that is stated is not what the data shows
  std::string layout;                       // the one that is proven; "" where none is
  bool by_form = false;                     // the form has one layout, whatever the data: nothing was read or tried
  std::string reason;                       // of the verdict, one clause for people
  std::vector<LayoutStatement> stated;
  std::vector<Tried> tried;       // empty where the form says it
  std::vector<std::string> read;  // arrays whose codes or rows were looked at
  size_t attention_layers = 0;
};

// Opens a checkpoint of any form. What is stated may be wrong, and may be what stops others from opening it. Reads the
// attention of the first and the last layer of each kind (full, sliding window, MTP; values under no block grid: some
// rows of up to four), or of all, as it does where that is little (128 MiB). kBadInput: no checkpoint, or one whose
// tensors are not understood, or without attention; kUsage: --source-qkv names no layout; kIo: the system refused.
Result<LayoutReport> ProveLayout(FileSystem& fs, const std::string& root, const LayoutOptions& options);

}  // namespace mimo
