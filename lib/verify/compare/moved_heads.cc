#include "lib/verify/compare/moved_heads.h"

#include <set>

#include "kernels/codec/bf16.h"
#include "lib/model/config.h"
#include "lib/model/names.h"

namespace mimo {
namespace {

constexpr int64_t kShown = 4;

// How many of `head` elements are the same once rounded to BF16, which one side may be stored in.
int64_t SameIn(const float* x, const float* y, int64_t head) {
  int64_t same = 0;
  for (int64_t i = 0; i < head; ++i) same += kernels::Bf16FromFloat(x[i]) == kernels::Bf16FromFloat(y[i]);
  return same;
}

}  // namespace

int64_t HeadSize(const ModelConfig& config, const TensorId& id) {
  const Role role = id.role;
  if (role == Role::kAttnV || role == Role::kAttnVBias) return config.attention_of(id.layer, id.mtp).v_head_dim;
  const bool of_q_or_k = role == Role::kAttnQ || role == Role::kAttnK || role == Role::kAttnQBias ||
                         role == Role::kAttnKBias || role == Role::kAttnQNorm || role == Role::kAttnKNorm;
  return of_q_or_k ? config.attention_of(id.layer, id.mtp).head_dim : 0;
}

PlaceFinding FindingOfHeads(const std::map<int64_t, int64_t>& from, const std::string& share) {
  std::string moves;
  int64_t shown = 0;
  std::set<int64_t> gone_on;  // heads of A that stand elsewhere, and whose own place another has
  for (const auto& [here, there] : from) {
    if (++shown <= kShown) moves += (moves.empty() ? "" : ", ") + std::to_string(here) + " is " + std::to_string(there);
    if (from.count(there) > 0) gone_on.insert(there);
  }
  const std::string evidence = "head " + moves + (shown > kShown ? ", ..." : "") + "; " + share;
  if (gone_on.size() * 2 <= from.size()) return {"heads.repeated", evidence, 0};
  const bool two =
      from.size() == 2 && from.begin()->first == from.rbegin()->second && from.begin()->second == from.rbegin()->first;
  return {two ? "heads.swapped" : "heads.permuted", evidence, 0};
}

PlaceFinding FindVectorHeads(const std::vector<float>& x, const std::vector<float>& y, int64_t head) {
  const auto size = static_cast<int64_t>(x.size());
  if (head < 2 || size % head != 0 || size / head < 2) return {};
  const auto is = [&](int64_t in_y, int64_t in_x) {
    return SameIn(x.data() + in_x * head, y.data() + in_y * head, head) * 10 >= head * 9;
  };
  std::map<int64_t, int64_t> from;
  size_t foreign = 0;
  for (int64_t h = 0; h < size / head; ++h) {
    if (is(h, h)) continue;
    ++foreign;
    for (int64_t other = 0; other < size / head; ++other)
      if (other != h && is(h, other)) {
        from[h] = other;
        break;
      }
  }
  if (from.empty() || from.size() * 10 < foreign * 9) return {};
  return FindingOfHeads(from, std::to_string(from.size()) + " of " + std::to_string(size / head) + " heads of " +
                                  std::to_string(head) + " elements");
}

}  // namespace mimo
