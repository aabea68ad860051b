#include "lib/layout/partition.h"

#include <algorithm>
#include <functional>
#include <numeric>

#include "lib/model/family.h"

namespace mimo {
namespace {

constexpr int64_t kLargestDegree = 4096;  // how far the search for a topology that would do goes

// "use TP 4, the nearest that does": the number nearest to `wanted` that fits, the smaller of two.
std::string UseNearest(const std::string& name, int64_t wanted, const std::function<bool(int64_t)>& fits) {
  for (int64_t distance = 0; distance < kLargestDegree; ++distance)
    for (const int64_t degree : {wanted - distance, wanted + distance})
      if (degree >= 1 && degree <= kLargestDegree && fits(degree))
        return "use " + name + " " + std::to_string(degree) + ", the nearest that does";
  return "choose another " + name;
}

// KV heads are cut, or replicated where ranks outnumber them.
bool KvHeadsFit(int64_t kv_heads, int64_t tp) {
  return kv_heads % tp == 0 || (kv_heads > 0 && tp % kv_heads == 0);
}

// Configs name a width of dense layers that no layer may have.
bool HasDenseLayers(const ModelConfig& config) {
  const bool mtp = config.family != nullptr && config.family->mtp.released_layers > 0 && !config.mtp_moe;
  return mtp || config.moe.empty() || std::find(config.moe.begin(), config.moe.end(), 0) != config.moe.end();
}

// What is wrong with cutting heads and dense layers over tp ranks; "" when nothing is.
std::string DenseTrouble(const ModelConfig& config, int64_t tp) {
  const auto undivided = [tp](const std::string& what, int64_t n) {
    return std::to_string(n) + " " + what + " do not divide by TP " + std::to_string(tp);
  };
  for (const bool windowed : {false, true}) {
    const AttentionShape& shape = config.attention(windowed);
    const std::string of = windowed ? " heads of sliding-window attention" : " heads of full attention";
    if (shape.heads % tp != 0) return undivided("query" + of, shape.heads);
    if (!KvHeadsFit(shape.kv_heads, tp)) return undivided("KV" + of, shape.kv_heads) + ", nor the other way round";
  }
  if (HasDenseLayers(config) && config.intermediate % tp != 0)
    return undivided("rows of the dense intermediate", config.intermediate);
  return "";
}

}  // namespace

Range EvenPart(int64_t n, int64_t parts, int64_t i) {
  const int64_t size = n / parts;
  return {i * size, (i + 1) * size};
}

int64_t RoundUp(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

Status CheckTensorParallel(const ModelConfig& config, int64_t tp, int64_t etp) {
  if (const std::string trouble = DenseTrouble(config, tp); !trouble.empty())
    return UsageError("the model cannot be cut over TP " + std::to_string(tp))
        .Expected("heads and intermediate rows that divide")
        .Found(trouble)
        .Advice(UseNearest("TP", tp, [&](int64_t n) { return DenseTrouble(config, n).empty(); }));
  const bool moe = std::find(config.moe.begin(), config.moe.end(), 1) != config.moe.end();
  if (moe && config.moe_intermediate % etp != 0)
    return UsageError("the experts cannot be cut over ETP " + std::to_string(etp))
        .Expected("an expert intermediate that divides by ETP")
        .Found(std::to_string(config.moe_intermediate) + " rows of the expert intermediate")
        .Advice(UseNearest("ETP", etp, [&](int64_t n) { return config.moe_intermediate % n == 0; }));
  return {};
}

ModelConfig PaddedConfig(const ModelConfig& config, int64_t tp, int64_t dense_group, int64_t expert_group) {
  ModelConfig padded = config;
  AttentionShape& global = padded.global;
  AttentionShape& window = padded.window;
  const auto fits = [tp](const AttentionShape& shape) {
    return shape.heads % tp == 0 && KvHeadsFit(shape.kv_heads, tp);
  };
  // Q heads for which tp divides the KV heads.
  const auto unit = [tp](const AttentionShape& shape) { return shape.heads / shape.kv_heads * tp; };
  if (global.kv_heads > 0 && window.kv_heads > 0 && !(fits(global) && fits(window))) {
    const bool alike = global.heads == window.heads;
    const int64_t common = std::lcm(unit(global), unit(window));
    for (AttentionShape* shape : {&global, &window}) {
      const int64_t heads = RoundUp(shape->heads, alike ? common : unit(*shape));
      shape->kv_heads = heads / (shape->heads / shape->kv_heads);
      shape->heads = heads;
    }
  }
  padded.intermediate = RoundUp(config.intermediate, tp * dense_group);
  padded.moe_intermediate = RoundUp(config.moe_intermediate, tp * expert_group);
  return padded;
}

}  // namespace mimo
