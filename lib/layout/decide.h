// Which QKV layout a checkpoint has (docs/layouts.md). Candidates are what producers emit; shapes and scale rows of all
// layers leave the feasible ones; the marker we write, a re-exporter's quant_method, index tp_size and config rank what
// is left; the data may contradict (an error), never overrule silently. Proven is what --source-qkv, the marker, shapes
// or the data say; what tp_size, quant_method or the rule say alone is assumed.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "lib/base/certainty.h"
#include "lib/base/status.h"
#include "lib/layout/qkv_wish.h"
#include "lib/layout/row_map.h"
#include "lib/layout/survey.h"
#include "lib/model/inventory.h"

namespace mimo {

struct LayoutVerdict {
  QkvLayout layout;
  // "--source-qkv", "shapes", "marker", "quant_method", "index tp_size", "config", "row norms", "no attention"
  std::string basis;
  bool assumed = false;  // more than one layout fits, and what chose is a name or a rule that no data bears out
  std::vector<std::string> evidence;  // one line each, for people
  // A layout that is contradicted is an error, "layout.contradicted".
  Certainty certainty() const { return assumed ? Certainty::kAssumed : Certainty::kProven; }
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

// kBadInput when nothing fits (names the tensor whose rows no layout explains), when the data contradicts
// (layout.contradicted), or when undecided (layout.undecided; both name --source-qkv). `flag` is --source-qkv, nullopt
// when absent.
Result<LayoutVerdict> DecideLayout(const Catalogue& catalogue, const Inventory& inventory, const SurveyFacts& facts,
                                   const std::optional<QkvWish>& flag);

}  // namespace mimo
