// Files stay open while they are used, and no more of them than allowed otherwise.
#include "lib/run/handles.h"

#include <gtest/gtest.h>

#include <vector>

namespace mimo::handles_test {
namespace {

struct Fake {
  uint32_t index = 0;
};

class Handles : public ::testing::Test {
 protected:
  std::shared_ptr<Fake> Get(uint32_t index) {
    auto got = cache_.Get(index);
    return got.ok() ? std::move(got).value() : nullptr;
  }

  std::vector<uint32_t> opened_, closed_;
  Status close_status_;
  HandleCache<Fake> cache_{2,
                           [this](uint32_t index) -> Result<std::unique_ptr<Fake>> {
                             if (index == 99) return IoError("no such file");
                             opened_.push_back(index);
                             return std::make_unique<Fake>(Fake{index});
                           },
                           [this](Fake& file) {
                             closed_.push_back(file.index);
                             return std::move(close_status_);
                           }};
};

TEST_F(Handles, TheLeastRecentlyUsedIsClosedFirst) {
  Get(1);
  Get(2);
  Get(1);
  Get(3);
  EXPECT_EQ(opened_, (std::vector<uint32_t>{1, 2, 3}));
  EXPECT_EQ(closed_, (std::vector<uint32_t>{2}));
  EXPECT_EQ(Get(1)->index, 1u);
  EXPECT_EQ(opened_.size(), 3u);
}

TEST_F(Handles, WhatIsHeldStaysOpen) {
  const auto one = Get(1), two = Get(2);
  Get(3);  // above the limit: both others are held
  EXPECT_TRUE(closed_.empty());
  Get(4);
  EXPECT_EQ(closed_, (std::vector<uint32_t>{3}));
  EXPECT_EQ(one->index, 1u);
}

TEST_F(Handles, DroppingClosesAndTellsWhatClosingSaid) {
  Get(1);
  EXPECT_TRUE(cache_.Drop(7).ok());
  close_status_ = IoError("the disk is full");
  EXPECT_EQ(cache_.Drop(1).error().what, "the disk is full");
  EXPECT_EQ(closed_, (std::vector<uint32_t>{1}));
  Get(1);
  EXPECT_EQ(opened_.size(), 2u);
}

TEST_F(Handles, ErrorsOfOpeningAndOfMakingRoomAreReturned) {
  EXPECT_FALSE(cache_.Get(99).ok());
  Get(1);
  Get(2);
  close_status_ = IoError("the disk is full");
  EXPECT_EQ(cache_.Get(3).error().what, "the disk is full");
}

}  // namespace
}  // namespace mimo::handles_test
