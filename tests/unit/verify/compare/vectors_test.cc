// Vectors and single cells by hand: the rule that made one of the other.
#include "lib/verify/compare/vectors.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>

#include "kernels/codec/bf16.h"
#include "lib/verify/compare/elements.h"

namespace mimo::vectors_test {
namespace {

using Values = std::vector<float>;

Values RandomValues(size_t count, float mean, float deviation, uint32_t seed = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(mean, deviation);
  Values values(count);
  for (float& value : values) value = normal(random);
  return values;
}

Values Made(Values values, const std::function<float(float)>& by) {
  for (float& value : values) value = by(value);
  return values;
}

float Bf16(float value) {
  return kernels::Bf16ToFloat(kernels::Bf16FromFloat(value));
}

std::string KindOf(const Values& x, const Values& y) {
  const PlaceFinding rule = FindVectorRule(x, y);
  return rule.kind.empty() ? FindVectorOrder(x, y).kind : rule.kind;
}

// The kind, with and without 1 % of the elements damaged.
void ExpectKind(const std::string& kind, const Values& x, Values y) {
  EXPECT_EQ(KindOf(x, y), kind);
  if (x.size() < 100) return;
  for (size_t i = 0; i < x.size() / 100; ++i) y[i * 97 + 5] = x[(i * 31 + 2) % x.size()] * 1.7f + 0.3f;
  EXPECT_EQ(KindOf(x, y), kind) << "damaged";
}

TEST(Vectors, RulesAreNamed) {
  const Values bias = RandomValues(256, 70.9f, 3e-4f), norm = RandomValues(512, 1, 0.3f);
  ExpectKind("values.f32-bits-lost", bias, Made(bias, Bf16));
  ExpectKind("values.constant", bias, Values(256, 70.0f));
  ExpectKind("values.offset", bias, Made(bias, [](float v) { return v - 70.9f; }));
  ExpectKind("values.offset", norm, Made(norm, [](float v) { return v + 1; }));
  ExpectKind("values.offset", Made(norm, Bf16), Made(Made(norm, Bf16), [](float v) { return Bf16(v - 1); }));
  ExpectKind("values.scaled", norm, Made(norm, [](float v) { return v * 0.707f; }));
  ExpectKind("values.negated", norm, Made(norm, [](float v) { return -v; }));
  ExpectKind("values.other", norm, RandomValues(512, 1, 0.3f, 2));
}

TEST(Vectors, OrderIsSeen) {
  Values norm = RandomValues(256, 1, 0.3f), turned = norm;
  std::reverse(turned.begin(), turned.end());
  ExpectKind("values.permuted", norm, turned);
  Values sinks = RandomValues(16, 0, 1), swapped = sinks;
  std::swap(swapped[3], swapped[9]);
  EXPECT_EQ(KindOf(sinks, swapped), "values.permuted");
}

TEST(Vectors, OneElementAndAFew) {
  const Values norm = RandomValues(256, 1, 0.3f);
  Values y = norm;
  y[9] = 5;
  EXPECT_EQ(KindOf(norm, y), "values.single");
  for (size_t i = 0; i < 10; ++i) y[i * 20] = static_cast<float>(i) + 7;
  EXPECT_EQ(KindOf(norm, y), "values.damaged");
  y.assign(256, NAN);
  EXPECT_EQ(KindOf(norm, y), "values.non-finite");
  EXPECT_EQ(KindOf({1}, {2}), "values.scaled");
}

TEST(Elements, EveryRuleIsCounted) {
  const Values x = RandomValues(128, 0, 1);
  const auto votes = [&](const Values& y, Codec rounded_to = Codec::kFp32) {
    return CountElements(x.data(), y.data(), 128, 0, rounded_to);
  };
  EXPECT_EQ(votes(x).differing, 0u);
  const ElementVotes rounded = votes(Made(x, Bf16));
  EXPECT_EQ(rounded.rounded, rounded.differing);
  EXPECT_GT(rounded.differing, 100u);
  EXPECT_EQ(votes(Made(x, Bf16), Codec::kBf16).differing, 0u);
  const ElementVotes negated = votes(Made(x, [](float v) { return -v; }));
  EXPECT_EQ(negated.negated, 128u);
  const ElementVotes clipped = votes(Made(x, [](float v) { return std::clamp(v, -1.0f, 1.0f); }));
  EXPECT_GT(clipped.differing, 10u);
  EXPECT_EQ(clipped.clipped, clipped.differing);
  Values pairs = x;
  for (size_t i = 0; i < pairs.size(); i += 2) std::swap(pairs[i], pairs[i + 1]);
  EXPECT_EQ(votes(pairs).exchanged, 128u);
  EXPECT_EQ(votes(pairs).first, 0);
}

}  // namespace
}  // namespace mimo::vectors_test
