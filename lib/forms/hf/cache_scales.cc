#include "lib/forms/hf/cache_scales.h"

#include <algorithm>
#include <set>

#include "lib/model/file_names.h"
#include "lib/model/role_groups.h"
#include "lib/plan/words.h"

namespace mimo {
namespace {

std::string CountOfScales(size_t count) {
  return std::to_string(count) + (count == 1 ? " scale" : " scales") + " of the KV cache";
}

class CacheScalePlanner {
 public:
  explicit CacheScalePlanner(Planning* p) : p_(*p), table_(*p->catalogue.table) {}

  Status Plan() {
    for (const CacheScale& scale : p_.inventory.cache_scales) {
      const StoredArray& stored = p_.catalogue.arrays[scale.array];
      if (const std::string why = p_.form.WhyDropped(p_, stored.id); !why.empty()) {
        p_.draft.SetReason(scale.array, why);
      } else if (p_.form.traits().cache_scales) {
        MIMO_RETURN_IF_ERROR(Add(scale, stored));
      } else if (p_.options.unknown == UnknownPolicy::kDrop) {
        p_.draft.SetReason(scale.array, "a scale of the KV cache, which form " +
                                            std::string(WordOf(kForms, p_.form.kind())) +
                                            " has no place for, --unknown drop");
      } else {
        return NoPlace(stored);
      }
    }
    return {};
  }

 private:
  Error NoPlace(const StoredArray& stored) const {
    return BadInput("scales of the KV cache, for which the output has no place")
        .Id("travel.no_place_for_cache_scales")
        .File(p_.catalogue.root)
        .Tensor(stored.name)
        .Expected("a form that has them: --to hf, or --to vllm or sglang")
        .Found(CountOfScales(p_.inventory.cache_scales.size()) + ", form " +
               std::string(WordOf(kForms, p_.form.kind())))
        .Advice("--unknown drop leaves them out: what loads the output then runs its cache at scale 1.0");
  }

  // What the scale is called beside the attention of the target. One that fused attention has for keys and values alike
  // becomes the same number for each of them.
  std::vector<TensorId> IdsAt(const TensorId& id, CachePlacement placement) const {
    if (!table_.CacheScaleAt(id, placement).empty()) return {id};
    std::vector<TensorId> ids = {id, id};
    ids[0].role = Role::kCacheK;
    ids[1].role = Role::kCacheV;
    return ids;
  }

  Status Add(const CacheScale& scale, const StoredArray& stored) {
    // Where attention stays fused or split, names stay: ModelOpt's stand beside fused attention too.
    const CachePlacement target = PlacementIn(p_.target.qkv);
    if (scale.placement == CachePlacement::kAttention || scale.placement == target ||
        target == PlacementIn(p_.layout.layout)) {
      MIMO_RETURN_IF_ERROR(Claim(stored.name, stored));
      p_.draft.BeginGroup(stored.name);
      p_.draft.AddUnchanged(scale.array);
      return {};
    }
    for (const TensorId& id : IdsAt(stored.id, target)) {
      OutputArray output = OutputLike(stored);
      output.id = id;
      output.name = table_.CacheScaleAt(id, target);
      output.pieces.push_back({p_.draft.Source(scale.array), 0, 0, stored.rows()});
      MIMO_RETURN_IF_ERROR(Claim(output.name, stored));
      p_.draft.BeginGroup(output.name);
      p_.draft.AddOutput(std::move(output), scale.array);
    }
    return {};
  }

  static CachePlacement PlacementIn(const QkvLayout& layout) {
    return layout.fused() ? CachePlacement::kFused : CachePlacement::kSplit;
  }

  Status Claim(const std::string& name, const StoredArray& stored) {
    if (names_.insert(name).second) return {};
    return BadInput("two scales of the KV cache for one place")
        .Id("travel.cache_scale_twice")
        .File(p_.catalogue.root)
        .Tensor(stored.name)
        .Expected("one of each kind in a layer")
        .Found("another that is called " + name + " in the output too")
        .Advice("--exclude cannot tell them apart: keep the layout (--qkv keep), or export the checkpoint again");
  }

  Planning& p_;
  const ModelTable& table_;
  std::set<std::string> names_;
};

size_t ScalesIn(const Plan& plan) {
  return static_cast<size_t>(std::count_if(plan.outputs.begin(), plan.outputs.end(),
                                           [](const OutputArray& output) { return IsCacheScale(output.id.role); }));
}

}  // namespace

Status PlanCacheScales(Planning* p) {
  return CacheScalePlanner(p).Plan();
}

std::string CacheSchemeOf(const Planning& p, const Plan& plan) {
  const bool gone = !p.inventory.cache_scales.empty() && ScalesIn(plan) == 0;
  return gone ? "" : p.catalogue.kv_cache.scheme;
}

void NoteCacheScales(Planning* p, const Plan& plan) {
  const size_t stored = p->inventory.cache_scales.size(), kept = ScalesIn(plan);
  const KvCacheScheme& scheme = p->catalogue.kv_cache;
  const std::string said = scheme.declared() ? ", and with them what " + scheme.place + " says" : "";
  if (stored > 0 && kept == 0)
    p->notes.push_back(CountOfScales(stored) + " are left out" + said);
  else if (stored > 0 && !p->chooser.keeps())
    p->notes.push_back(CountOfScales(stored) + " are kept as they are: they are of the cache, not of weights");
  if (scheme.declared() && (stored == 0 || kept > 0) && !p->chooser.keeps() &&
      std::none_of(plan.texts.begin(), plan.texts.end(), [](const TextFile& text) {
        return text.name == kConfigName && text.content.find("\"quantization_config\"") != std::string::npos;
      }))
    p->notes.push_back(
        "kv_cache_scheme is kept at the top of config.json: nothing else is quantized, and engines read it in "
        "quantization_config only; ask for an FP8 cache when serving (vLLM: --kv-cache-dtype fp8)");
}

}  // namespace mimo
