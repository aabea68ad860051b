// Heads of vectors by hand, and which words they get.
#include "lib/verify/compare/moved_heads.h"

#include <gtest/gtest.h>

#include <random>

#include "lib/model/config.h"
#include "lib/model/family.h"
#include "lib/model/names.h"

namespace mimo::moved_heads_test {
namespace {

constexpr int64_t kHead = 64;
using Values = std::vector<float>;

Values RandomHeads(int64_t heads) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal(1, 0.2f);
  Values values(static_cast<size_t>(heads * kHead));
  for (float& value : values) value = normal(random);
  return values;
}

// Where each head is that of `order`.
Values Taken(const Values& values, const std::vector<int64_t>& order) {
  Values taken;
  for (const int64_t head : order) {
    const auto begin = values.begin() + static_cast<ptrdiff_t>(head * kHead);
    taken.insert(taken.end(), begin, begin + kHead);
  }
  return taken;
}

TEST(FindVectorHeads, NamesWhatBecameOfThem) {
  const Values x = RandomHeads(6);
  const auto kind = [&](const std::vector<int64_t>& order) { return FindVectorHeads(x, Taken(x, order), kHead).kind; };
  EXPECT_EQ(kind({0, 1, 2, 3, 4, 5}), "");
  EXPECT_EQ(kind({0, 4, 2, 3, 1, 5}), "heads.swapped");
  EXPECT_EQ(kind({5, 0, 1, 2, 3, 4}), "heads.permuted");
  EXPECT_EQ(kind({1, 2, 0, 3, 4, 5}), "heads.permuted");
  EXPECT_EQ(kind({0, 0, 0, 0, 0, 0}), "heads.repeated");
  EXPECT_EQ(kind({0, 1, 2, 3, 4, 0}), "heads.repeated");
  EXPECT_EQ(FindVectorHeads(x, Taken(x, {0, 4, 2, 3, 1, 5}), kHead).evidence,
            "head 1 is 4, 4 is 1; 2 of 6 heads of 64 elements");
}

TEST(FindVectorHeads, ValuesOfNoHeadAreNone) {
  const Values x = RandomHeads(6);
  Values y = Taken(x, {0, 4, 2, 3, 1, 5});
  for (int64_t i = 0; i < kHead; ++i) y[static_cast<size_t>(2 * kHead + i)] = 9.0f + static_cast<float>(i);
  EXPECT_EQ(FindVectorHeads(x, y, kHead).kind, "");  // two heads have moved, and a third is nobody's
  EXPECT_EQ(FindVectorHeads(x, Values(x.size(), 1.0f), kHead).kind, "");
  EXPECT_EQ(FindVectorHeads(x, x, 0).kind, "");
  EXPECT_EQ(FindVectorHeads(x, x, 6 * kHead).kind, "");  // one head that all share
  EXPECT_EQ(FindVectorHeads(x, x, 100).kind, "");
}

TEST(HeadSize, IsOfWhatLiesByHeads) {
  ModelConfig config;
  config.family = Family::Get("mimo_v2").value();
  config.layers = 1;
  config.windowed = config.moe = {0};
  config.global.head_dim = 192;
  config.global.v_head_dim = 128;
  TensorId id;
  id.layer = 0;
  const auto size = [&](Role role) {
    id.role = role;
    return HeadSize(config, id);
  };
  for (const Role role :
       {Role::kAttnQ, Role::kAttnK, Role::kAttnQNorm, Role::kAttnKNorm, Role::kAttnQBias, Role::kAttnKBias})
    EXPECT_EQ(size(role), 192) << RoleName(role);
  for (const Role role : {Role::kAttnV, Role::kAttnVBias}) EXPECT_EQ(size(role), 128) << RoleName(role);
  for (const Role role : {Role::kAttnO, Role::kInputNorm, Role::kAttnSink, Role::kRouterBias}) EXPECT_EQ(size(role), 0);
}

}  // namespace
}  // namespace mimo::moved_heads_test
