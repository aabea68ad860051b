// Names find the number that they were added with first, whatever lies beside them.
#include "lib/base/name_index.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <stdexcept>
#include <string>

namespace mimo::name_index_test {
namespace {

TEST(NameIndex, FindsWhatAMapFinds) {
  std::mt19937 random(3);
  std::map<std::string, uint32_t> want;
  NameIndex index;
  for (uint32_t i = 0; i < 20000; ++i) {
    const std::string name = "model.layers." + std::to_string(random() % 9000) + (random() % 2 != 0 ? ".weight" : "");
    const bool is_new = want.emplace(name, i).second;
    const NameIndex::Added added = index.emplace(name, i);
    EXPECT_EQ(added.is_new, is_new);
    EXPECT_EQ(added.number, want.at(name));
  }
  EXPECT_EQ(index.size(), want.size());
  for (const auto& [name, number] : want) EXPECT_EQ(index.at(name), number);
  for (uint32_t i = 0; i < 20000; ++i) {
    const std::string name = "model.layers." + std::to_string(i);
    EXPECT_EQ(index.contains(name), want.contains(name));
  }
}

TEST(NameIndex, IsEmptyUntilSomethingIsAdded) {
  NameIndex index;
  EXPECT_TRUE(index.empty());
  EXPECT_EQ(index.find(""), nullptr);
  EXPECT_THROW(index.at("a"), std::out_of_range);
  EXPECT_TRUE(index.emplace("", 7).is_new);
  EXPECT_EQ(index.at(""), 7u);
  index.clear();
  EXPECT_EQ(index.find(""), nullptr);
  EXPECT_TRUE(index.emplace("a", 1).is_new);
}

TEST(NameIndex, CopiesShareNothing) {
  NameIndex one;
  one.reserve(1000);
  one.emplace("a", 1);
  NameIndex other = one;
  other.emplace("b", 2);
  EXPECT_FALSE(one.contains("b"));
  EXPECT_EQ(other.at("a"), 1u);
  one = NameIndex();
  EXPECT_EQ(other.at("a"), 1u);
}

TEST(NameIndex, NamesWithinOneAnotherAreOthers) {
  NameIndex index;
  index.emplace("ab", 1);
  index.emplace("c", 2);
  EXPECT_FALSE(index.contains("a"));
  EXPECT_FALSE(index.contains("abc"));
  EXPECT_FALSE(index.contains("bc"));
}

}  // namespace
}  // namespace mimo::name_index_test
