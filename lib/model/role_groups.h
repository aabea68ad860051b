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
constexpr bool IsDenseMlp(Role role) {
  return role == Role::kMlpGate || role == Role::kMlpUp || role == Role::kMlpDown;
}
// The linear modules inside a layer, the router aside.
constexpr bool IsLayerLinear(Role role) {
  return IsAttentionProjection(role) || role == Role::kAttnO || IsDenseMlp(role) || IsExpert(role) ||
         role == Role::kMtpEhProj;
}
constexpr bool IsNorm(Role role) {
  return role == Role::kFinalNorm || role == Role::kInputNorm || role == Role::kPostAttentionNorm ||
         role == Role::kMtpENorm || role == Role::kMtpHNorm || role == Role::kMtpPreMlpNorm ||
         role == Role::kMtpFinalNorm;
}

// Scales of the KV cache: of no weight, and kept whatever becomes of weights.
constexpr bool IsCacheScale(Role role) {
  return role == Role::kCacheK || role == Role::kCacheV || role == Role::kCacheQ || role == Role::kCacheKv;
}

}  // namespace mimo
