#include "lib/judge/travel.h"

#include <map>
#include <set>
#include <tuple>

#include "lib/forms/strays.h"

namespace mimo {
namespace {

std::string_view IdOf(StrayKind kind) {
  switch (kind) {
    case StrayKind::kForgotten:
      return "travel.forgotten_file";
    case StrayKind::kStale:
      return "travel.stale_file";
    case StrayKind::kPartly:
      return "travel.partly_listed_file";
    case StrayKind::kMixed:
      return "travel.partly_unknown_file";
    case StrayKind::kUnknown:
      break;
  }
  return "travel.unknown_file";
}

void JudgeStrays(const Catalogue& stored, Verdict* verdict) {
  for (const StrayFile& stray : stored.strays)
    verdict->Add(IdOf(stray.kind), stray.root.empty() ? stray.file : JoinPath(stray.root, stray.file),
                 StrayEvidence(stray), stray.tensors);
}

// Decoder layers without a scale of keys or of values.
void JudgeGaps(const Catalogue& stored, const std::set<int32_t>& keys, const std::set<int32_t>& values,
               Verdict* verdict) {
  std::vector<std::string> without;
  for (int32_t layer = 0; layer < stored.config.layers; ++layer)
    if (!keys.contains(layer) || !values.contains(layer)) without.push_back(std::to_string(layer));
  if (without.empty()) return;
  verdict->Add("travel.cache_scale_gaps", "layers " + Examples(without),
               "no scales of keys and values, of " + Counted(static_cast<uint64_t>(stored.config.layers), "layer"),
               without.size());
}

void JudgeCacheScales(const Catalogue& stored, const Inventory& inventory, Verdict* verdict) {
  const KvCacheScheme& scheme = stored.kv_cache;
  if (inventory.cache_scales.empty()) {
    if (scheme.declared() && !scheme.dynamic)
      verdict->Add("travel.no_cache_scales", scheme.place, scheme.scheme + ", and no k_scale or v_scale in any layer");
    return;
  }
  if (!scheme.declared())
    verdict->Add("travel.undeclared_cache_scales", "config.json: quantization_config",
                 Counted(inventory.cache_scales.size(), "scale") + ", and no kv_cache_scheme",
                 inventory.cache_scales.size());
  std::set<int32_t> keys, values;
  std::map<std::tuple<bool, int32_t, Role>, std::string> seen;
  std::vector<std::string> twice;
  for (const CacheScale& scale : inventory.cache_scales) {
    const std::string& name = stored.arrays[scale.array].name;
    const auto [first, fresh] = seen.try_emplace({scale.id.mtp, scale.id.layer, scale.id.role}, name);
    if (!fresh) twice.push_back(first->second + " beside " + name);
    if (scale.id.mtp) continue;
    if (scale.id.role == Role::kCacheK || scale.id.role == Role::kCacheKv) keys.insert(scale.id.layer);
    if (scale.id.role == Role::kCacheV || scale.id.role == Role::kCacheKv) values.insert(scale.id.layer);
  }
  if (!twice.empty())
    verdict->Add("travel.two_cache_scales", Examples(twice),
                 "two scales of the KV cache of one layer and kind, under different names", twice.size());
  JudgeGaps(stored, keys, values, verdict);
}

void JudgeCutRows(const std::vector<CutRows>& cut, Verdict* verdict) {
  std::map<std::string, std::pair<int64_t, int64_t>> rows;  // by tensor: all of them, those that are not zero
  for (const CutRows& part : cut) {
    rows[part.tensor].first += part.rows;
    rows[part.tensor].second += part.nonzero;
  }
  for (const auto& [tensor, count] : rows)
    if (count.second > 0)
      verdict->Add("travel.vocabulary_rows", tensor,
                   std::to_string(count.second) + " of " + std::to_string(count.first) +
                       " rows beyond the vocabulary are not zero",
                   static_cast<uint64_t>(count.second));
}

}  // namespace

Verdict JudgeTravel(const Catalogue& stored, const Inventory* inventory, const std::vector<CutRows>& cut) {
  Verdict verdict;
  JudgeStrays(stored, &verdict);
  if (inventory != nullptr) JudgeCacheScales(stored, *inventory, &verdict);
  JudgeCutRows(cut, &verdict);
  return verdict;
}

}  // namespace mimo
