// safetensors as a container: places, headers, and what is found in files that are not what they should be.
#include "lib/io/safetensors/container.h"

#include <gtest/gtest.h>

#include "lib/base/durable_file.h"
#include "lib/io/safetensors/safetensors.h"
#include "tests/faults/scratch_directory.h"

namespace mimo::safetensors_container_test {
namespace {

const Container& C() {
  return SafetensorsContainer();
}

std::vector<TensorInfo> Arrays() {
  return {{"a", DType::kBF16, {2, 3}}, {"b", DType::kF32, {0}}, {"c", DType::kU8, {5}}};
}

struct File {
  std::string content;
  std::vector<TensorInfo> arrays;
};
File Made() {
  File file{"", Arrays()};
  const FileLayout layout = C().LayOut(file.arrays, std::vector<std::pair<std::string, std::string>>{{"k", "v"}});
  file.content = layout.header;
  file.content.resize(layout.bytes, '\x5A');
  return file;
}

FoundArrays Find(const std::string& content, const std::vector<TensorInfo>& arrays) {
  const ScratchDirectory scratch;
  const std::string path = scratch.File("f.safetensors");
  EXPECT_TRUE(WriteNewFile(PosixFileSystem(), path, content).ok());
  auto found = C().Find(PosixFileSystem(), path, arrays);
  EXPECT_TRUE(found.ok()) << found.error().Message();
  return found.ok() ? std::move(found).value() : FoundArrays();
}

TEST(SafetensorsContainer, ArraysFollowTheHeaderWithoutFrames) {
  const File file = Made();
  uint64_t next = file.content.size() - 2 * 3 * 2 - 5;
  for (const TensorInfo& array : file.arrays) {
    const FrameSize frame = C().FrameOf(array.dtype, array.shape);
    EXPECT_EQ(frame.head + frame.tail, 0u);
    EXPECT_EQ(array.begin, next);
    next = array.end;
  }
  EXPECT_EQ(next, file.content.size());
  EXPECT_TRUE(C().HasHeader());
  EXPECT_TRUE(C().SortsByName());
  EXPECT_FALSE(C().HoldsChecksums());
  EXPECT_EQ(C().LayOut({}, {}).bytes, C().LayOut({}, {}).header.size());
}

TEST(SafetensorsContainer, WhatIsLaidOutIsFound) {
  const File file = Made();
  const FoundArrays found = Find(file.content, Arrays());
  EXPECT_TRUE(found.problems.empty());
  EXPECT_EQ(found.header_bytes, file.arrays[0].begin);
  for (size_t i = 0; i < file.arrays.size(); ++i) EXPECT_EQ(found.begins[i], file.arrays[i].begin);
}

TEST(SafetensorsContainer, WhatIsNotAsItShouldBeIsNamed) {
  const File file = Made();
  std::vector<TensorInfo> wanted = Arrays();
  wanted[0].shape = {3, 2};
  wanted[2].name = "d";
  const FoundArrays found = Find(file.content, wanted);
  ASSERT_EQ(found.problems.size(), 3u);
  EXPECT_EQ(found.problems[0].array, 0u);
  EXPECT_EQ(found.problems[0].what, "dtype or shape");
  EXPECT_EQ(found.problems[1].array, 2u);
  EXPECT_EQ(found.problems[1].what, "the tensor is missing");
  EXPECT_EQ(found.problems[2].array, FileProblem::kNoArray);
  EXPECT_EQ(found.problems[2].tensor, "c");
  EXPECT_FALSE(found.begins[0]);
  EXPECT_TRUE(found.begins[1]);
  EXPECT_FALSE(found.begins[2]);
}

TEST(SafetensorsContainer, AHeaderThatCannotBeReadIsAProblemAndAMissingFileAnError) {
  const FoundArrays found = Find("not a header at all", Arrays());
  ASSERT_EQ(found.problems.size(), 1u);
  EXPECT_EQ(found.header_bytes, 0u);
  const auto missing = C().Find(PosixFileSystem(), "/nowhere/f", Arrays());
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.error().code, ErrorCode::kIo);
}

TEST(SafetensorsContainer, AHeaderOfItsOwnOrThatOfTheSource) {
  const std::string header = C().LayOut({}, {}).header;
  EXPECT_TRUE(C().CheckHeader({"f", header, false, false}).ok());
  EXPECT_TRUE(C().CheckHeader({"f", header, false, true}).ok());
  EXPECT_TRUE(C().CheckHeader({"f", "", true, true}).ok());
  EXPECT_TRUE(C().CheckHeader({"f", "", false, true}).ok());
  EXPECT_FALSE(C().CheckHeader({"f", "", false, false}).ok());
  EXPECT_FALSE(C().CheckHeader({"f", header, true, true}).ok());
  EXPECT_FALSE(C().CheckHeader({"f", header + " ", false, false}).ok());
  const Status cut = C().CheckHeader({"f", "\1", false, false});
  ASSERT_FALSE(cut.ok());
  EXPECT_EQ(cut.error().what, "header of f");
}

}  // namespace
}  // namespace mimo::safetensors_container_test
