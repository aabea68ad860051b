// Files of torch.save items as a container: what is completed is what a reader of items finds, and what is damaged
// around the data is found.
#include "lib/io/torch/container.h"

#include <gtest/gtest.h>

#include "lib/base/crc32.h"
#include "lib/base/durable_file.h"
#include "lib/io/torch/item.h"
#include "tests/faults/scratch_directory.h"

namespace mimo::torch_container_test {
namespace {

const Container& C() {
  return TorchItemsContainer();
}

class TorchItemsFile : public ::testing::Test {
 protected:
  void SetUp() override {
    layout_ = C().LayOut(arrays_, {});
    EXPECT_EQ(layout_.header, "");
    auto out = PosixFileSystem().OpenForWrite(path_, OpenMode::kCreateNew);
    ASSERT_TRUE(out.ok());
    std::vector<uint32_t> crcs;
    for (const TensorInfo& array : arrays_) {
      const std::string data(array.bytes(), '\x5A');
      crcs.push_back(Crc32(std::as_bytes(std::span(data))));
      ASSERT_TRUE((*out)->WriteAt(array.begin, std::as_bytes(std::span(data))).ok());
    }
    ASSERT_TRUE(C().Complete(arrays_, crcs, **out).ok());
    ASSERT_TRUE((*out)->Close().ok());
  }

  std::string Content() { return ReadWholeFile(PosixFileSystem(), path_, 1 << 20).value(); }
  FoundArrays Find() {
    auto found = C().Find(PosixFileSystem(), path_, arrays_);
    EXPECT_TRUE(found.ok()) << found.error().Message();
    return found.ok() ? std::move(found).value() : FoundArrays();
  }

  ScratchDirectory scratch_;
  const std::string path_ = scratch_.File("__0_0.distcp");
  std::vector<TensorInfo> arrays_ = {
      {"z", DType::kBF16, {2, 3}}, {"a", DType::kF32, {0, 4}}, {"m", DType::kF32, {}}, {"b", DType::kU8, {3, 500}}};
  FileLayout layout_;
};

TEST_F(TorchItemsFile, ItemsFollowEachOther) {
  uint64_t next = 0;
  for (const TensorInfo& array : arrays_) {
    const FrameSize frame = C().FrameOf(array.dtype, array.shape);
    EXPECT_GT(frame.head, 0u);
    EXPECT_GT(frame.tail, 0u);
    EXPECT_EQ(array.begin, next + frame.head);
    next = array.end + frame.tail;
  }
  EXPECT_EQ(next, layout_.bytes);
  EXPECT_EQ(Content().size(), layout_.bytes);
  EXPECT_FALSE(C().HasHeader());
  EXPECT_FALSE(C().SortsByName());
  EXPECT_TRUE(C().HoldsChecksums());
}

TEST_F(TorchItemsFile, EveryItemReadsBack) {
  auto in = PosixFileSystem().OpenForRead(path_);
  ASSERT_TRUE(in.ok());
  for (const TensorInfo& array : arrays_) {
    const TorchItemSize size = SizeOfTorchItem(array.dtype, array.shape);
    const auto place = ReadTorchItem(**in, array.begin - size.head, size.total(), path_);
    ASSERT_TRUE(place.ok()) << place.error().Message();
    EXPECT_EQ(place.value().begin, array.begin);
    EXPECT_EQ(place.value().shape, array.shape);
  }
}

TEST_F(TorchItemsFile, WhatIsCompletedIsFound) {
  const FoundArrays found = Find();
  EXPECT_TRUE(found.problems.empty());
  uint64_t data = 0;
  for (size_t i = 0; i < arrays_.size(); ++i) {
    EXPECT_EQ(found.begins[i], arrays_[i].begin);
    data += arrays_[i].bytes();
  }
  EXPECT_EQ(found.bytes_read, layout_.bytes - data);
  EXPECT_EQ(found.header_bytes, 0u);
}

TEST_F(TorchItemsFile, EveryDamagedByteAroundTheDataIsAProblemOfItsArray) {
  const std::string content = Content();
  for (size_t i = 0; i < content.size(); i += 7) {
    std::string damaged = content;
    damaged[i] = static_cast<char>(damaged[i] ^ 1);
    ASSERT_TRUE(WriteNewFile(PosixFileSystem(), path_, damaged).ok());
    const FoundArrays found = Find();
    size_t of = 0;
    bool data = false;
    for (size_t k = 0; k < arrays_.size(); ++k) {
      if (i >= arrays_[k].begin - C().FrameOf(arrays_[k].dtype, arrays_[k].shape).head) of = k;
      data |= i >= arrays_[k].begin && i < arrays_[k].end;
    }
    ASSERT_EQ(found.problems.size(), data ? 0u : 1u) << i;
    EXPECT_TRUE(data || found.problems[0].array == of) << i;
    for (const auto& begin : found.begins) EXPECT_TRUE(begin);  // the data is compared all the same
  }
}

TEST_F(TorchItemsFile, ShortAndLongFilesAreProblems) {
  const std::string content = Content();
  ASSERT_TRUE(WriteNewFile(PosixFileSystem(), path_, content + "x").ok());
  ASSERT_EQ(Find().problems.size(), 1u);
  EXPECT_EQ(Find().problems[0].what, "length");
  ASSERT_TRUE(WriteNewFile(PosixFileSystem(), path_, content.substr(0, content.size() - 1)).ok());
  ASSERT_EQ(Find().problems.size(), 1u);
  EXPECT_EQ(Find().problems[0].array, 3u);
  EXPECT_FALSE(Find().begins[3]);
}

TEST_F(TorchItemsFile, HasNoHeaderAndIsNeverLinked) {
  EXPECT_TRUE(C().CheckHeader({"f", "", false, false}).ok());
  EXPECT_FALSE(C().CheckHeader({"f", "x", false, false}).ok());
  EXPECT_FALSE(C().CheckHeader({"f", "", true, true}).ok());
}

}  // namespace
}  // namespace mimo::torch_container_test
