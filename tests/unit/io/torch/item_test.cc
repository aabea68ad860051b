// Items and files of torch.save: what torch wrote itself, and what is refused.
#include "lib/io/torch/item.h"

#include <gtest/gtest.h>

#include "lib/base/crc32.h"
#include "lib/io/torch/pickle_writer.h"
#include "lib/io/torch/zip.h"
#include "tests/unit/io/torch/item_bytes.h"
#include "tests/unit/io/torch/native.h"

namespace mimo::item_test {
namespace {

std::string TensorPickle(DType dtype, const std::vector<int64_t>& shape) {
  PickleWriter pickle;
  pickle.Tensor(dtype, shape, "0");
  return pickle.Finish();
}
std::string Refusal(const std::string& bytes) {
  MemoryFile file(bytes);
  const auto place = ReadTorchItem(file, 0, bytes.size(), "x.distcp");
  return place.ok() ? "accepted" : place.error().Message();
}
std::string Archive(const std::vector<std::pair<std::string, std::string>>& entries) {
  ZipFrame zip;
  for (const auto& [name, content] : entries) zip.Add(name, content);
  return zip.Finish().head;
}
#define EXPECT_REFUSED(refusal, why) EXPECT_PRED_FORMAT2(testing::IsSubstring, why, refusal)

TEST(TorchItem, NativeItem) {
  const std::string item = FromHex(kNativeItem);
  MemoryFile file("0123456" + item + "89");
  const auto place = ReadTorchItem(file, 7, item.size(), "x.distcp");
  ASSERT_TRUE(place.ok()) << place.error().Message();
  EXPECT_EQ(place.value().dtype, DType::kBF16);
  EXPECT_EQ(place.value().shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(place.value().bytes, 12u);
  EXPECT_EQ(("0123456" + item).substr(place.value().begin, 12), FromHex("0000803f004040408040a040"));
  for (size_t i = 0; i < item.size(); ++i) EXPECT_NE(Refusal(item.substr(0, i)), "accepted") << i;
}

TEST(TorchItem, OwnItemsInTwoReads) {
  for (const DType dtype : {DType::kBF16, DType::kF32, DType::kF8E4M3, DType::kI64, DType::kU8}) {
    for (const std::vector<int64_t>& shape : std::vector<std::vector<int64_t>>{{}, {0}, {5}, {1, 70, 300}}) {
      const TorchItemSize size = SizeOfTorchItem(dtype, shape);
      const TorchItemFrame frame = FrameOfTorchItem(dtype, shape, 0);
      const std::string other = EmptyExtraStateItem();
      MemoryFile file(other + frame.head + std::string(size.data, 'd') + frame.tail + other);
      const auto place = ReadTorchItem(file, other.size(), size.total(), "x.distcp");
      ASSERT_TRUE(place.ok()) << place.error().Message();
      EXPECT_EQ(place.value().dtype, dtype);
      EXPECT_EQ(place.value().shape, shape);
      EXPECT_EQ(place.value().begin, other.size() + size.head);
      EXPECT_EQ(place.value().bytes, size.data);
      EXPECT_LE(file.reads, 2);
    }
  }
}

TEST(TorchItem, RefusesWhatIsNotOneTensor) {
  EXPECT_REFUSED(Refusal(EmptyExtraStateItem()), "not a tensor");
  const std::string pickle = TensorPickle(DType::kBF16, {2, 3});
  const std::string data(12, 'd');
  EXPECT_EQ(Refusal(Archive({{"a/data.pkl", pickle}, {"a/data/0", data}, {"a/version", "3\n"}})), "accepted");
  EXPECT_REFUSED(Refusal(Archive({{"a/data.pkl", pickle}, {"a/data/1", data}, {"a/version", "3\n"}})), "no storage 0");
  EXPECT_REFUSED(Refusal(Archive({{"a/data.pkl", pickle}, {"b/data/0", data}, {"a/version", "3\n"}})), "two names");
  EXPECT_REFUSED(Refusal(Archive({{"a/x.pkl", pickle}, {"a/data/0", data}, {"a/version", "3\n"}})), "no pickle");
  EXPECT_REFUSED(Refusal(Archive({{"a/data.pkl", pickle}, {"a/data/0", data}})), "no version");
  EXPECT_REFUSED(Refusal(Archive({{"a/data.pkl", pickle}, {"a/data/0", data}, {"a/version", "4\n"}})),
                 "unknown version");
  EXPECT_REFUSED(
      Refusal(Archive({{"a/data.pkl", pickle}, {"a/byteorder", "big"}, {"a/data/0", data}, {"a/version", "3\n"}})),
      "byte order");
  for (const size_t bytes : {0, 11, 13}) {
    EXPECT_NE(Refusal(Archive({{"a/data.pkl", pickle}, {"a/data/0", std::string(bytes, 'd')}, {"a/version", "3\n"}})),
              "accepted");
  }
  EXPECT_REFUSED(Refusal(Archive({{"a/data.pkl",
                                   "\x80\x02"
                                   "cos\nsystem\n."},
                                  {"a/version", "3\n"}})),
                 "names os.system");
  EXPECT_REFUSED(Refusal(Archive({})), "empty");
}

// A tensor [2, 3] of F32 with these strides and this offset, in a storage of 8 elements.
std::string Strided(const std::vector<int64_t>& strides, int64_t offset) {
  PickleWriter pickle;
  pickle.Global(TorchGlobalId::kRebuildTensorV2);
  pickle.Op(PickleOp::kMark);
  pickle.Op(PickleOp::kMark);
  pickle.String("storage");
  pickle.Global(*StorageGlobalOf(DType::kF32));
  pickle.String("0");
  pickle.String("cuda:0");
  pickle.Int(8);
  pickle.Op(PickleOp::kTuple);
  pickle.Op(PickleOp::kBinPersId);
  pickle.Int(offset);
  pickle.IntTuple({2, 3});
  pickle.IntTuple(strides);
  pickle.Bool(false);
  pickle.Op(PickleOp::kEmptyDict);
  pickle.Op(PickleOp::kTuple);
  pickle.Op(PickleOp::kReduce);
  return Refusal(Archive({{"a/data.pkl", pickle.Finish()}, {"a/data/0", std::string(32, 'd')}, {"a/version", "3\n"}}));
}

TEST(TorchItem, TensorsStayInTheirStorage) {
  EXPECT_EQ(Strided({3, 1}, 0), "accepted");
  EXPECT_EQ(Strided({3, 1}, 2), "accepted");
  EXPECT_REFUSED(Strided({3, 1}, 3), "beyond its storage");
  EXPECT_REFUSED(Strided({3, 1}, std::numeric_limits<int64_t>::max()), "beyond its storage");
  EXPECT_REFUSED(Strided({1, 2}, 0), "not contiguous");
  EXPECT_REFUSED(Strided({0, 0}, 0), "not contiguous");
}

TEST(TorchItem, ContiguousIsCOrder) {
  const auto contiguous = [](std::vector<int64_t> shape, std::vector<int64_t> strides) {
    TorchTensor tensor;
    tensor.shape = std::move(shape);
    tensor.strides = std::move(strides);
    return tensor.contiguous();
  };
  EXPECT_TRUE(contiguous({}, {}));
  EXPECT_TRUE(contiguous({4, 1, 3}, {3, 99, 1}));
  EXPECT_TRUE(contiguous({0, 7}, {1, 1}));
  EXPECT_FALSE(contiguous({4, 3}, {4, 1}));
  EXPECT_FALSE(contiguous({4, 3}, {1, 4}));
  EXPECT_FALSE(contiguous({4}, {}));
}

// The state that trainers keep: scalars as tensors of no dimension.
TEST(TorchFile, SmallFilesComeBack) {
  TorchValue::Dict dict;
  TorchTensor step;
  step.dtype = DType::kI64;
  step.storage = "0";
  TorchTensor flag;
  flag.dtype = DType::kBool;
  flag.storage = "1";
  dict.emplace_back(TorchValue{std::string("step")}, TorchValue{step});
  dict.emplace_back(TorchValue{std::string("flag")}, TorchValue{flag});
  dict.emplace_back(TorchValue{std::string("tuple")}, TorchValue{TorchValue::Tuple{{TorchValue{int64_t{-3}}}}});
  dict.emplace_back(TorchValue{std::string("list")},
                    TorchValue{TorchValue::List{TorchValue{1.25}, TorchValue{}, TorchValue{true}}});
  const std::string bytes = TorchSaveFile(TorchValue{dict}, "train_state", {std::string("\7\0\0\0\0\0\0\0", 8), "\1"});
  MemoryFile file(bytes);
  const auto read = ReadTorchFile(file, "train_state.pt");
  ASSERT_TRUE(read.ok()) << read.error().Message();
  const TorchValue& value = read.value().value;
  const auto place = PlaceOf(read.value(), std::get<TorchTensor>(value.Find("step")->data), "train_state.pt");
  ASSERT_TRUE(place.ok()) << place.error().Message();
  EXPECT_EQ(bytes.substr(place.value().begin, 8), std::string("\7\0\0\0\0\0\0\0", 8));
  EXPECT_EQ(PlaceOf(read.value(), std::get<TorchTensor>(value.Find("flag")->data), "").value().bytes, 1u);
  EXPECT_EQ(std::get<int64_t>(std::get<TorchValue::Tuple>(value.Find("tuple")->data).items[0].data), -3);
  EXPECT_EQ(std::get<double>(std::get<TorchValue::List>(value.Find("list")->data)[0].data), 1.25);
  EXPECT_EQ(value.Find("nothing"), nullptr);
  EXPECT_EQ(ReadSmallTensor(file, place.value(), "").value(), std::string("\7\0\0\0\0\0\0\0", 8));
  for (int bit = 0; bit < 64; ++bit) {
    std::string damaged = bytes;
    damaged[place.value().begin + static_cast<uint64_t>(bit / 8)] ^= static_cast<char>(1 << bit % 8);
    EXPECT_FALSE(ReadSmallTensor(MemoryFile(damaged), place.value(), "").ok()) << bit;
  }
  TorchTensor lost;
  lost.storage = "7";
  EXPECT_FALSE(PlaceOf(read.value(), lost, "").ok());
}

TEST(TorchFile, OnlyTheClosedSetIsWritten) {
  TorchRecord record;
  record.module = "os";
  record.name = "system";
  EXPECT_EQ(TorchSaveFile(TorchValue{record}, "x"), "");
  TorchTensor tensor;
  tensor.storage = "0";
  EXPECT_EQ(TorchSaveFile(TorchValue{tensor}, "x"), "");
  tensor.shape = {1};
  EXPECT_EQ(TorchSaveFile(TorchValue{tensor}, "x", {"1"}), "");
}

}  // namespace
}  // namespace mimo::item_test
