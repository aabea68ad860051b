// Files of torch.save items are checked to the last byte: data by its hash, everything around it by what dtype and
// shape say.
#include <gtest/gtest.h>

#include "lib/base/crc32.h"
#include "lib/io/torch/container.h"
#include "lib/io/torch/item.h"
#include "lib/results/manifest.h"
#include "lib/verify/check.h"
#include "tests/unit/run/lab.h"

namespace mimo::check_items_test {
namespace {

constexpr char kItems[] = "iter_0000000/__0_1.distcp";

class CheckItems : public ::testing::Test {
 protected:
  void SetUp() override {
    lab::Random random(4);
    plan_.tool_version = "test";
    plan_.form = "torch_dist";
    plan_.files.resize(1);
    plan_.groups.resize(1);
    plan_.file_groups = 1;
    plan_.files[0].name = kItems;
    plan_.files[0].container = &TorchItemsContainer();
    const std::vector<std::pair<DType, std::vector<int64_t>>> kinds = {
        {DType::kBF16, {3, 4}}, {DType::kF32, {1}}, {DType::kBF16, {2, 0}}, {DType::kF32, {2, 3, 2}}};
    for (const auto& [dtype, shape] : kinds) {
      OutputArray output;
      output.name = "t[" + std::to_string(plan_.outputs.size()) + "]";
      output.dtype = dtype;
      output.shape = shape;
      const lab::Bytes data = random.Any(*TensorBytes(dtype, shape));
      const TorchItemFrame frame = FrameOfTorchItem(dtype, shape, Crc32(std::as_bytes(std::span(data))));
      output.begin = content_.size() + frame.head.size();
      output.end = output.begin + data.size();
      for (const std::string& part : {frame.head, std::string(data.begin(), data.end()), frame.tail})
        content_.insert(content_.end(), part.begin(), part.end());
      // By the definition: the sum of the rows' hashes, each seeded with its number.
      Hash128 hash;
      for (int64_t r = 0; r < output.rows() && output.row_bytes() > 0; ++r)
        hash += HashBytes(
            std::as_bytes(std::span(data)).subspan(static_cast<size_t>(r) * output.row_bytes(), output.row_bytes()),
            static_cast<uint64_t>(r));
      results_.tensors.push_back({hash, {}});
      plan_.files[0].outputs.push_back(static_cast<uint32_t>(plan_.outputs.size()));
      plan_.groups[0].outputs.push_back(static_cast<uint32_t>(plan_.outputs.size()));
      plan_.outputs.push_back(std::move(output));
    }
    plan_.files[0].bytes = content_.size();
    results_.groups.resize(1);
    results_.linked = {0};
    catalogue_.root = directory_.path();
    lab::WriteFile(Path(kItems), content_);
    WriteManifestFile();
  }

  std::string Path(const std::string& name) const { return directory_.File(name); }
  void WriteManifestFile() {
    std::string text;
    ASSERT_TRUE(WriteManifest(catalogue_, plan_, results_, [&](std::string_view part) {
                  text += part;
                  return Status();
                }).ok());
    lab::WriteFile(Path(kManifestName), lab::Bytes(text.begin(), text.end()));
  }
  CheckReport Check() const {
    auto report = CheckDirectory(PosixFileSystem(), directory_.path(), {.threads = 1});
    EXPECT_TRUE(report.ok()) << report.error().Message();
    return report.ok() ? *report : CheckReport();
  }

  const bool in_memory_ = lab::PreferMemory();
  ScratchDirectory directory_;
  Catalogue catalogue_;
  Plan plan_;
  RunResults results_;
  lab::Bytes content_;
};

TEST_F(CheckItems, IntactFilesHaveNoDifference) {
  const CheckReport report = Check();
  EXPECT_TRUE(report.ToStatus().ok()) << report.ToStatus().error().Message();
  EXPECT_EQ(report.files, 1u);
  EXPECT_EQ(report.tensors, 4u);
  EXPECT_EQ(report.unhashed_tensors, 0u);
}

TEST_F(CheckItems, EveryFlippedByteIsFoundAndNamed) {
  for (size_t i = 0; i < content_.size(); i += i % 64 == 0 ? 1 : 5) {
    lab::Bytes damaged = content_;
    damaged[i] ^= static_cast<uint8_t>(1u << (i % 8));
    lab::WriteFile(Path(kItems), damaged);
    const CheckReport report = Check();
    ASSERT_EQ(report.differences.size(), 1u) << i;
    const Difference& found = report.differences[0];
    EXPECT_EQ(found.file, kItems);
    // The item it lies in.
    const OutputArray* of = nullptr;
    for (const OutputArray& output : plan_.outputs) {
      const TorchItemSize size = SizeOfTorchItem(output.dtype, output.shape);
      if (i >= output.begin - size.head && i < output.end + size.tail) of = &output;
    }
    ASSERT_NE(of, nullptr);
    EXPECT_EQ(found.tensor, of->name) << i;
    EXPECT_EQ(found.what == "hash", i >= of->begin && i < of->end) << i << " " << found.what;
  }
}

TEST_F(CheckItems, LengthsAreChecked) {
  for (const int64_t change : {-1, 1, -100}) {
    lab::Bytes other = content_;
    other.resize(static_cast<size_t>(static_cast<int64_t>(other.size()) + change), 0);
    lab::WriteFile(Path(kItems), other);
    const CheckReport report = Check();
    ASSERT_EQ(report.differences.size(), 1u);
    EXPECT_EQ(report.differences[0].what, "length");
  }
  // A manifest whose length is that of the file, which holds more or less than its tensors.
  for (const int64_t change : {-1, 1}) {
    lab::Bytes other = content_;
    other.resize(static_cast<size_t>(static_cast<int64_t>(other.size()) + change), 0);
    lab::WriteFile(Path(kItems), other);
    plan_.files[0].bytes = other.size();
    WriteManifestFile();
    EXPECT_FALSE(Check().ToStatus().ok()) << change;
  }
}

TEST_F(CheckItems, ItemsInAnotherOrderAreFound) {
  const OutputArray &first = plan_.outputs[0], &second = plan_.outputs[1];
  const size_t end_of_first = first.end + SizeOfTorchItem(first.dtype, first.shape).tail;
  const size_t end = second.end + SizeOfTorchItem(second.dtype, second.shape).tail;
  lab::Bytes swapped = content_;
  std::rotate(swapped.begin(), swapped.begin() + static_cast<ptrdiff_t>(end_of_first),
              swapped.begin() + static_cast<ptrdiff_t>(end));
  lab::WriteFile(Path(kItems), swapped);
  EXPECT_GE(Check().differences.size(), 2u);
}

TEST_F(CheckItems, FilesThatAreMissingOrToo) {
  std::filesystem::remove(Path(kItems));
  EXPECT_EQ(Check().differences.size(), 1u);
  lab::WriteFile(Path(kItems), content_);
  lab::WriteFile(Path("iter_0000000/__0_2.distcp"), content_);
  const CheckReport report = Check();
  ASSERT_EQ(report.differences.size(), 1u);
  EXPECT_EQ(report.differences[0].file, "iter_0000000/__0_2.distcp");
}

}  // namespace
}  // namespace mimo::check_items_test
