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
// Matrices with a row per token, of the model and of MTP layers.
constexpr bool IsOutputLayer(Role role) {
  return role == Role::kLmHead || role == Role::kMtpHead;
}
constexpr bool IsVocabulary(Role role) {
  return IsOutputLayer(role) || role == Role::kEmbed || role == Role::kMtpEmbed;
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
// Gate or up of an MLP, whoever takes it; engines run both as one.
constexpr bool IsGate(Role role) {
  return role == Role::kMlpGate || role == Role::kExpertGate || role == Role::kSharedGate;
}
constexpr bool IsUp(Role role) {
  return role == Role::kMlpUp || role == Role::kExpertUp || role == Role::kSharedUp;
}
// Up of the MLP that `gate` is of, and gate of the one that `up` is of.
constexpr Role PartnerOf(Role gate_or_up) {
  constexpr Role kPairs[][2] = {
      {Role::kMlpGate, Role::kMlpUp}, {Role::kExpertGate, Role::kExpertUp}, {Role::kSharedGate, Role::kSharedUp}};
  for (const auto& [gate, up] : kPairs) {
    if (gate_or_up == gate) return up;
    if (gate_or_up == up) return gate;
  }
  return gate_or_up;
}
// What the dense MLP calls a part of the shared experts, which are one for every token as it is; else the role itself.
constexpr Role DenseOf(Role role) {
  if (role == Role::kSharedGate) return Role::kMlpGate;
  if (role == Role::kSharedUp) return Role::kMlpUp;
  return role == Role::kSharedDown ? Role::kMlpDown : role;
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
