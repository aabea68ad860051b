// Roles that go together. One place, so that a new role is sorted in once.
#pragma once

#include "lib/model/names.h"

namespace mimo {

constexpr bool IsTower(Role role) {
  return role == Role::kVision || role == Role::kAudio || role == Role::kSpeech;
}
// Q, K and V, split or fused; not the output projection.
constexpr bool IsAttentionProjection(Role role) {
  return role == Role::kAttnQkv || role == Role::kAttnQ || role == Role::kAttnK || role == Role::kAttnV;
}
constexpr bool IsExpert(Role role) {
  return role == Role::kExpertGate || role == Role::kExpertUp || role == Role::kExpertDown;
}
// Of experts that every token takes.
constexpr bool IsSharedExpert(Role role) {
  return role == Role::kSharedGate || role == Role::kSharedUp || role == Role::kSharedDown;
}
constexpr bool IsDenseMlp(Role role) {
  return role == Role::kMlpGate || role == Role::kMlpUp || role == Role::kMlpDown;
}
// The bias vectors of Q, K and V.
constexpr bool IsAttentionBias(Role role) {
  return role == Role::kAttnQBias || role == Role::kAttnKBias || role == Role::kAttnVBias;
}
// The linear modules inside a layer, the router aside.
constexpr bool IsLayerLinear(Role role) {
  return IsAttentionProjection(role) || role == Role::kAttnO || IsDenseMlp(role) || IsExpert(role) ||
         IsSharedExpert(role) || role == Role::kMtpEhProj;
}
constexpr bool IsNorm(Role role) {
  return role == Role::kFinalNorm || role == Role::kInputNorm || role == Role::kPostAttentionNorm ||
         role == Role::kMtpENorm || role == Role::kMtpHNorm || role == Role::kMtpPreMlpNorm ||
         role == Role::kMtpFinalNorm || role == Role::kAttnQNorm || role == Role::kAttnKNorm;
}

// Scales of the KV cache: of no weight, and kept whatever becomes of weights.
constexpr bool IsCacheScale(Role role) {
  return role == Role::kCacheK || role == Role::kCacheV || role == Role::kCacheQ || role == Role::kCacheKv;
}

}  // namespace mimo
