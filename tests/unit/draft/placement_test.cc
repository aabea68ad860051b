#include "lib/draft/placement.h"

#include <gtest/gtest.h>

namespace mimo::placement_test {
namespace {

TEST(FileMetadata, KeepsTheSourcesKeysAndStatesTheLayout) {
  using Pairs = std::vector<std::pair<std::string, std::string>>;
  const Pairs source = {{"format", "np"}, {"who", "me"}, {"mimo_layout", "old"}};
  EXPECT_EQ(FileMetadata(source, "fused(8)"), (Pairs{{"format", "pt"}, {"who", "me"}, {"mimo_layout", "fused(8)"}}));
  EXPECT_EQ(FileMetadata(source, ""), (Pairs{{"format", "pt"}, {"who", "me"}}));  // nor an old one
}

}  // namespace
}  // namespace mimo::placement_test
