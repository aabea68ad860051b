// The frames of torch.save items: written around data that came in any order, from several threads, they are those of
// items that were put together in one piece.
#include "lib/run/completion.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <thread>

#include "lib/io/torch/container.h"
#include "lib/io/torch/item.h"
#include "tests/unit/run/lab.h"

namespace mimo::completion_test {
namespace {

// CRC-32 (IEEE 802.3), a bit at a time.
uint32_t BitwiseCrc(const lab::Bytes& bytes) {
  uint32_t crc = 0xFFFFFFFFu;
  for (const uint8_t byte : bytes) {
    crc ^= byte;
    for (int i = 0; i < 8; ++i) crc = crc >> 1 ^ ((crc & 1) != 0 ? 0xEDB88320u : 0);
  }
  return ~crc;
}

struct Item {
  DType dtype;
  std::vector<int64_t> shape;
  lab::Bytes bytes;
};

// A file of items before a file of safetensors, whose outputs come first.
class Frames : public ::testing::Test {
 protected:
  void SetUp() override {
    lab::Random random(3);
    const std::vector<std::pair<DType, std::vector<int64_t>>> kinds = {
        {DType::kBF16, {6, 5}},     {DType::kF32, {1}}, {DType::kBF16, {0, 4}},
        {DType::kF16, {2, 3, 700}}, {DType::kF32, {}},  {DType::kU8, {1}}};
    plan_.files.resize(3);
    plan_.files[0].name = "a.safetensors";
    Add(0, {DType::kU8, {100}, random.Any(100)});
    for (const uint32_t file : {1u, 2u}) {
      plan_.files[file].name = "__0_" + std::to_string(file) + ".distcp";
      plan_.files[file].container = &TorchItemsContainer();
      for (const auto& [dtype, shape] : kinds) Add(file, {dtype, shape, random.Any(*TensorBytes(dtype, shape))});
    }
  }

  void Add(uint32_t f, const Item& item) {
    PlanFile& file = plan_.files[f];
    OutputArray output;
    output.dtype = item.dtype;
    output.shape = item.shape;
    output.file = f;
    const TorchItemSize size =
        file.container == &TorchItemsContainer() ? SizeOfTorchItem(item.dtype, item.shape) : TorchItemSize{};
    output.begin = file.bytes + size.head;
    output.end = output.begin + item.bytes.size();
    file.bytes = output.end + size.tail;
    file.outputs.push_back(static_cast<uint32_t>(plan_.outputs.size()));
    plan_.outputs.push_back(output);
    items_.push_back(item);
  }

  std::string Expected(uint32_t f) const {
    std::string bytes;
    for (const uint32_t o : plan_.files[f].outputs) {
      const Item& item = items_[o];
      const TorchItemFrame frame = FrameOfTorchItem(item.dtype, item.shape, BitwiseCrc(item.bytes));
      bytes += frame.head + std::string(item.bytes.begin(), item.bytes.end()) + frame.tail;
    }
    return bytes;
  }

  // All data, in parts of at most `most` bytes, shuffled.
  std::vector<WriteJob> Writes(size_t most, uint32_t seed) {
    std::mt19937 engine(seed);
    std::vector<WriteJob> writes;
    for (size_t o = 0; o < items_.size(); ++o) {
      const auto data = std::as_bytes(std::span(items_[o].bytes));
      if (data.empty()) writes.push_back({plan_.outputs[o].file, plan_.outputs[o].begin, data});
      for (size_t at = 0; at < data.size();) {
        const size_t n = std::min(data.size() - at, 1 + engine() % most);
        writes.push_back({plan_.outputs[o].file, plan_.outputs[o].begin + at, data.subspan(at, n)});
        at += n;
      }
    }
    std::shuffle(writes.begin(), writes.end(), engine);
    return writes;
  }

  static void Add(Completion& frames, const WriteJob& write) {
    if (const auto part = frames.PartOf(write)) frames.Add(*part);
  }

  std::string Path(uint32_t f) const { return directory_.File(plan_.files[f].name); }

  // What lies on disk after data and frames were written.
  std::string Written(Completion& frames, uint32_t f) {
    auto file = PosixFileSystem().OpenForWrite(Path(f), OpenMode::kTruncate);
    EXPECT_TRUE(file.ok());
    for (const WriteJob& write : Writes(1 << 20, 0)) {
      if (write.file != f) continue;
      EXPECT_TRUE((*file)->WriteAt(write.offset, write.data).ok());
    }
    EXPECT_TRUE(frames.Complete(plan_.files[f], **file).ok());
    EXPECT_TRUE((*file)->Close().ok());
    const lab::Bytes bytes = lab::ReadFile(Path(f));
    return std::string(bytes.begin(), bytes.end());
  }

  const bool in_memory_ = lab::PreferMemory();
  ScratchDirectory directory_;
  Plan plan_;
  std::vector<Item> items_;
};

TEST_F(Frames, AnyOrderOfAnyPartsGivesTheItemsOfOnePiece) {
  uint32_t seed = 0;
  for (const size_t most : {1u, 7u, 64u, 100000u}) {
    Completion frames(plan_);
    for (const WriteJob& write : Writes(most, ++seed)) Add(frames, write);
    for (const uint32_t f : {1u, 2u}) EXPECT_EQ(Written(frames, f), Expected(f)) << most;
  }
}

TEST_F(Frames, SeveralThreads) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    Completion frames(plan_);
    const std::vector<WriteJob> writes = Writes(40, seed);
    std::vector<std::thread> threads;
    for (size_t t = 0; t < 4; ++t)
      threads.emplace_back([&, t] {
        for (size_t i = t; i < writes.size(); i += 4) Add(frames, writes[i]);
      });
    for (std::thread& thread : threads) thread.join();
    for (const uint32_t f : {1u, 2u}) ASSERT_EQ(Written(frames, f), Expected(f)) << seed;
  }
}

TEST_F(Frames, ItemsCanBeReadBack) {
  Completion frames(plan_);
  for (const WriteJob& write : Writes(50, 1)) Add(frames, write);
  Written(frames, 1);
  auto file = PosixFileSystem().OpenForRead(Path(1));
  ASSERT_TRUE(file.ok());
  for (const uint32_t o : plan_.files[1].outputs) {
    const OutputArray& output = plan_.outputs[o];
    const TorchItemSize size = SizeOfTorchItem(output.dtype, output.shape);
    auto place = ReadTorchItem(**file, output.begin - size.head, size.total(), "x");
    ASSERT_TRUE(place.ok()) << place.error().Message();
    EXPECT_EQ(place->begin, output.begin);
    EXPECT_EQ(place->bytes, output.end - output.begin);
    EXPECT_EQ(place->shape, output.shape);
  }
}

TEST_F(Frames, OtherContainersAreLeftAlone) {
  Completion frames(plan_);
  for (const WriteJob& write : Writes(50, 1))
    if (write.file == 0) Add(frames, write);
  EXPECT_EQ(Written(frames, 0), std::string(items_[0].bytes.begin(), items_[0].bytes.end()));
}

TEST_F(Frames, AFileWithoutItemsIsEmpty) {
  PlanFile file;
  file.container = &TorchItemsContainer();
  auto out = PosixFileSystem().OpenForWrite(directory_.File("none"), OpenMode::kTruncate);
  ASSERT_TRUE(out.ok());
  ASSERT_TRUE(Completion(plan_).Complete(file, **out).ok());
  EXPECT_TRUE((*out)->Close().ok());
  EXPECT_TRUE(lab::ReadFile(directory_.File("none")).empty());
}

}  // namespace
}  // namespace mimo::completion_test
