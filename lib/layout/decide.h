// Which QKV layout a checkpoint has (docs/layouts.md). Candidates are what producers emit; shapes and scale rows of all
// layers leave the feasible ones; the marker we write, a re-exporter's quant_method, index tp_size and config rank what
// is left; the data may contradict (an error), never overrule silently.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "lib/base/status.h"
#include "lib/layout/qkv_wish.h"
#include "lib/layout/row_map.h"
#include "lib/layout/survey.h"
#include "lib/model/inventory.h"

namespace mimo {

struct LayoutVerdict {
  QkvLayout layout;
  std::string basis;  // "--source-qkv", "shapes", "marker", "quant_method", "index tp_size", "config", "no attention"
  bool assumed = false;               // more than one layout fits and only the documented rule chose
  std::vector<std::string> evidence;  // one line each, for people
};

// Attention of a layer before replication: the marker's KV heads where the checkpoint carries our marker, else
// config.json's.
AttentionShape LogicalShape(const ModelConfig& config, bool windowed);

// Layouts that shapes and scale rows of every layer allow, best ranked first; each with the reason for its rank.
// Layouts that cannot be told apart because they mean the same rows and scales are listed once.
struct LayoutCandidate {
  QkvLayout layout;
  std::string basis;
  bool evidence = false;  // something names it: marker, quant_method or tp_size (the config rule alone is no evidence)
};
std::vector<LayoutCandidate> FeasibleLayouts(const Catalogue& catalogue, const Inventory& inventory);

// kBadInput when nothing fits (names the tensor whose rows no layout explains), when the data contradicts, or when
// undecided (names --source-qkv). `flag` is --source-qkv, nullopt when absent.
Result<LayoutVerdict> DecideLayout(const Catalogue& catalogue, const Inventory& inventory, const SurveyFacts& facts,
                                   const std::optional<QkvWish>& flag);

}  // namespace mimo
