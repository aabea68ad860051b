// Every kind of file has a word of its own and is found by it.
#include "lib/plan/containers.h"

#include <gtest/gtest.h>

#include <set>

#include "lib/plan/plan.h"

namespace mimo::containers_test {
namespace {

TEST(Containers, AreFoundByTheirWords) {
  std::set<std::string_view> words;
  for (const Container* container : Containers()) {
    EXPECT_EQ(FindContainer(container->word()), container);
    EXPECT_TRUE(words.insert(container->word()).second) << container->word();
  }
  EXPECT_EQ(FindContainer("zip"), nullptr);
  EXPECT_EQ(FindContainer(""), nullptr);
}

TEST(Containers, TheFirstIsTheUsualOne) {
  EXPECT_EQ(Containers()[0], PlanFile().container);
  EXPECT_TRUE(PlanFile().HasHeaderOfSource());
}

}  // namespace
}  // namespace mimo::containers_test
