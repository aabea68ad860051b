// The golden bytes of reference target-layouts.md, appendix A: files with these bytes were loaded by torch 2.6 and
// 2.14.
#include <gtest/gtest.h>

#include "lib/base/crc32.h"
#include "lib/io/torch/dcp_metadata.h"
#include "lib/io/torch/item.h"
#include "tests/unit/io/torch/item_bytes.h"
#include "tests/unit/io/torch/native.h"

namespace mimo::golden_test {
namespace {

constexpr std::string_view kBf16Pickle =
    "800263746f7263682e5f7574696c730a5f72656275696c645f74656e736f725f76320a71002828580700000073746f7261676571"
    "0163746f7263680a42466c6f6174313653746f726167650a71025801000000307103580300000063707571044b0674514b004b02"
    "4b03864b034b01868963636f6c6c656374696f6e730a4f726465726564446963740a7105295274522e";

constexpr std::string_view kFp8Pickle =
    "800263746f7263682e5f7574696c730a5f72656275696c645f74656e736f725f76330a71002828580700000073746f7261676571"
    "0163746f7263682e73746f726167650a556e747970656453746f726167650a71025801000000307103580300000063707571044b"
    "0674514b004b024b03864b034b01868963636f6c6c656374696f6e730a4f726465726564446963740a7105295263746f7263680a"
    "666c6f6174385f65346d33666e0a710674522e";

constexpr std::string_view kEmptyStatePickle =
    "80025d2863746f7263682e5f7574696c730a5f72656275696c645f74656e736f725f76320a71002828580700000073746f726167"
    "65710163746f7263680a4279746553746f726167650a71025801000000307103580300000063707571044b0074514b004b00854b"
    "01858963636f6c6c656374696f6e730a4f726465726564446963740a710529527452652e";

constexpr std::string_view kMetadata =
    "800263746f7263682e64697374726962757465642e636865636b706f696e742e6d657461646174610a4d657461646174610a7100"
    "29817d28581300000073746174655f646963745f6d6574616461746171017d285808000000612e776569676874710263746f7263"
    "682e64697374726962757465642e636865636b706f696e742e6d657461646174610a54656e736f7253746f726167654d65746164"
    "6174610a710329817d28580a00000070726f70657274696573710463746f7263682e64697374726962757465642e636865636b70"
    "6f696e742e6d657461646174610a54656e736f7250726f706572746965730a710529812863746f7263680a62666c6f617431360a"
    "710663746f7263682e73657269616c697a6174696f6e0a5f6765745f6c61796f75740a7107580d000000746f7263682e73747269"
    "646564710885528963746f7263682e64697374726962757465642e636865636b706f696e742e6d657461646174610a5f4d454d5f"
    "464f524d41545f454e434f44494e470a71094b008552897462580400000073697a65710a63746f7263680a53697a650a710b4b02"
    "4b0386855258060000006368756e6b73710c5d2863746f7263682e64697374726962757465642e636865636b706f696e742e6d65"
    "7461646174610a4368756e6b53746f726167654d657461646174610a710d29817d2858070000006f666673657473710e680b4b00"
    "4b00868552580500000073697a6573710f680b4b024b0386855275626575625818000000612e5f65787472615f73746174652f73"
    "686172645f305f31711063746f7263682e64697374726962757465642e636865636b706f696e742e6d657461646174610a427974"
    "657353746f726167654d657461646174610a7111298175580c000000706c616e6e65725f6461746171127d580c00000073746f72"
    "6167655f6461746171137d2863746f7263682e64697374726962757465642e636865636b706f696e742e6d657461646174610a4d"
    "65746164617461496e6465780a711429817d28580300000066716e711568025805000000696e64657871164e58060000006f6666"
    "7365747117680b4b004b00868552756263746f7263682e64697374726962757465642e636865636b706f696e742e66696c657379"
    "7374656d0a5f53746f72616765496e666f0a711829817d28580d00000072656c61746976655f706174687119580c0000005f5f30"
    "5f302e646973746370711a68174b0058060000006c656e677468711b4dce027562681429817d286815681068164e756268182981"
    "7d286819681a68174dce02681b4d8e02756275580c00000073746f726167655f6d657461711c4e75622e";

constexpr std::string_view kCommonPickle =
    "80027d285812000000636865636b706f696e745f76657273696f6e71004740080000000000005809000000697465726174696f6e"
    "71014b0058240000006e756d5f666c6f6174696e675f706f696e745f6f7065726174696f6e735f736f5f66617271024b00581000"
    "0000636f6e74656e745f6d6574616461746171037d28581600000073696e676c65746f6e5f6c6f63616c5f736861726473710489"
    "581a000000636861696e65645f6f7074696d5f61766f69645f70726566697871058875752e";

const std::string kBf16Data = FromHex("803f004040408040a040c040");

std::string Bf16Item() {
  const TorchItemFrame frame = FrameOfTorchItem(DType::kBF16, {2, 3}, Crc32(std::as_bytes(std::span(kBf16Data))));
  return frame.head + kBf16Data + frame.tail;
}

TorchValue Value(auto data) {
  TorchValue value;
  value.data = std::move(data);
  return value;
}
TorchValue Text(const char* text) {
  return Value(std::string(text));
}

// A.1 and A.4.
TEST(TorchGolden, Bf16Tensor) {
  const std::string item = Bf16Item();
  EXPECT_EQ(ToHex(item.substr(64, kBf16Pickle.size() / 2)), kBf16Pickle);
  EXPECT_EQ(item.size(), 718u);
  EXPECT_EQ(item.substr(320, 6), "little");
  EXPECT_EQ(item.substr(384, 12), kBf16Data);
  EXPECT_EQ(item.substr(448, 2), "3\n");
  EXPECT_EQ(item.substr(450, 4), "PK\1\2");
  EXPECT_EQ(Sha256(item), "0170a317af40a04d63b4bc6bd57f0bf5e34721343c584ff16e779fdf1d21d551");
}

// A.2.
TEST(TorchGolden, Fp8TensorPickle) {
  const TorchItemFrame frame = FrameOfTorchItem(DType::kF8E4M3, {2, 3}, 0);
  EXPECT_EQ(ToHex(frame.head.substr(64, kFp8Pickle.size() / 2)), kFp8Pickle);
}

// A.3 and A.4.
TEST(TorchGolden, EmptyExtraState) {
  const std::string item = EmptyExtraStateItem();
  EXPECT_EQ(ToHex(item.substr(64, kEmptyStatePickle.size() / 2)), kEmptyStatePickle);
  EXPECT_EQ(item.size(), 654u);
  EXPECT_EQ(Sha256(item), "e187e397057021d8443756f926694a10ce3e0c3ba5f5f30279cf235fb5c24aff");
  EXPECT_EQ(Sha256(Bf16Item() + item), "731a97a81facec1fe7562741a8247c9555279661db8176302f96735c5dfbc5d5");
}

// A.5.
TEST(TorchGolden, Metadata) {
  DcpMetadata metadata;
  metadata.tensors = {{"a.weight", DType::kBF16, {2, 3}, {{{0, 0}, {2, 3}, {"__0_0.distcp", 0, 718}}}}};
  metadata.bytes = {{"a._extra_state/shard_0_1", {"__0_0.distcp", 718, 654}}};
  const std::string pickle = WriteDcpMetadata(metadata);
  EXPECT_EQ(ToHex(pickle), kMetadata);
  EXPECT_EQ(Sha256(pickle), "c9ff9861ba081268c405c9dd7b9c65323bdff0cbb9476830611b28f86d065b3c");
}

// A.6.
TEST(TorchGolden, CommonState) {
  using Dict = TorchValue::Dict;
  const TorchValue content =
      Value(Dict{{Text("singleton_local_shards"), Value(false)}, {Text("chained_optim_avoid_prefix"), Value(true)}});
  const TorchValue common = Value(Dict{{Text("checkpoint_version"), Value(3.0)},
                                       {Text("iteration"), Value(int64_t{0})},
                                       {Text("num_floating_point_operations_so_far"), Value(int64_t{0})},
                                       {Text("content_metadata"), content}});
  const std::string file = TorchSaveFile(common, "common");
  EXPECT_EQ(ToHex(file.substr(64, kCommonPickle.size() / 2)), kCommonPickle);
  EXPECT_EQ(file.size(), 591u);
  EXPECT_EQ(Sha256(file), "a06cea96a4fdcf9b73e46f667b8f619a5da0bc7585f9c23a94e186664e5ae87f");
}

// What the executor places: lengths from dtype and shape alone, data on a multiple of 64.
TEST(TorchGolden, LengthsDoNotDependOnTheData) {
  for (const DType dtype : {DType::kBF16, DType::kF32, DType::kI64, DType::kBool, DType::kF8E4M3, DType::kU16}) {
    for (const std::vector<int64_t>& shape : std::vector<std::vector<int64_t>>{{}, {0}, {7}, {1, 300, 70000}}) {
      const TorchItemSize size = SizeOfTorchItem(dtype, shape);
      const TorchItemFrame frame = FrameOfTorchItem(dtype, shape, 0xdeadbeef);
      EXPECT_EQ(size.head, frame.head.size());
      EXPECT_EQ(size.tail, frame.tail.size());
      EXPECT_EQ(size.head % 64, 0u);
    }
  }
}

// Of an item that we wrote and of one that torch did: refused, or the same tensor in the same place, whose bytes are
// the same or differ from their CRC-32.
TEST(TorchGolden, EveryFlippedBitIsFoundOrChangesNothing) {
  for (const std::string& item : {Bf16Item(), FromHex(kNativeItem)}) {
    MemoryFile whole(item);
    const auto expected = ReadTorchItem(whole, 0, item.size(), "x");
    ASSERT_TRUE(expected.ok()) << expected.error().Message();
    const TensorPlace& e = expected.value();
    const std::string original = item.substr(e.begin, e.bytes);
    ASSERT_EQ(original.size(), kBf16Data.size());
    ASSERT_EQ(e.storage.crc, Crc32(std::as_bytes(std::span(original))));
    size_t refused = 0, differ = 0;
    for (size_t bit = 0; bit < 8 * item.size(); ++bit) {
      std::string flipped = item;
      flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ 1 << bit % 8);
      MemoryFile file(flipped);
      const auto place = ReadTorchItem(file, 0, flipped.size(), "x");
      if (!place.ok()) {
        ++refused;
        continue;
      }
      const TensorPlace& p = place.value();
      const std::string data = flipped.substr(p.begin, p.bytes);
      const std::string storage = flipped.substr(p.storage.begin, p.storage.bytes);
      const bool differs = p.storage.crc != Crc32(std::as_bytes(std::span(storage)));
      differ += differs ? 1 : 0;
      EXPECT_TRUE(differs || (p.dtype == e.dtype && p.shape == e.shape && data == original)) << bit;
    }
    EXPECT_GE(differ, 8 * original.size());
    EXPECT_GT(refused, 8 * item.size() / 3);
  }
}

}  // namespace
}  // namespace mimo::golden_test
