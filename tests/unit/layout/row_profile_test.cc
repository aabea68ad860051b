// Fused weights without a block grid, written here in every storage: their rows are read, and tell their order.
#include "lib/layout/row_profile.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <random>

#include "lib/base/durable_file.h"
#include "lib/io/safetensors/safetensors.h"
#include "tests/faults/scratch_directory.h"

namespace mimo::row_profile_test {
namespace {

const AttentionShape kShape{8, 4, 192, 128};
constexpr int64_t kRows = 8 * 192 + 4 * 192 + 4 * 128;

// What of a weight tells its norms, and how an element of it is made from a value or a norm.
struct Kind {
  Storage storage;
  DType dtype;
  int64_t cols;
  int64_t block_rows;
  std::string (*element)(double);
};

template <class T>
std::string Bytes(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof(T)};
}
std::string Bf16(double x) {
  return Bytes(static_cast<uint16_t>(std::bit_cast<uint32_t>(static_cast<float>(x)) >> 16));
}
std::string F32(double x) {
  return Bytes(static_cast<float>(x));
}
std::string Scale(double x) {
  return Bytes(static_cast<float>(std::abs(x)));
}
std::string Exponent(double x) {
  return Bytes(static_cast<uint8_t>(127 + std::lround(std::log2(std::abs(x) + 1e-9))));
}

class RowProfileTest : public ::testing::Test {
 protected:
  // Plain [Q; K; V] of one layer; rows of K are `contrast` times as large as others, those of V a third of them.
  void Write(const Kind& kind, double contrast) {
    std::mt19937 random(3);
    std::normal_distribution<double> normal;
    std::vector<TensorInfo> tensors(1);
    tensors[0] = {};
    tensors[0].name = "model.layers.0.self_attn.qkv_proj.weight";
    tensors[0].dtype = kind.dtype;
    tensors[0].shape = {kRows, kind.cols};
    std::string file = LayOutSafetensors(tensors, {});
    for (int64_t row = 0; row < kRows; ++row)
      for (int64_t c = 0; c < kind.cols; ++c)
        file += kind.element((row < 8 * 192    ? 1
                              : row < 12 * 192 ? contrast
                                               : contrast / 3) *
                             (kind.cols == 1 ? std::exp(normal(random) / 10) : normal(random)));
    ASSERT_EQ(file.size(), tensors[0].end);
    ASSERT_TRUE(WriteNewFile(PosixFileSystem(), scratch_.File("a.safetensors"), file).ok());
    catalogue_ = {};
    catalogue_.root = scratch_.path();
    catalogue_.config.layers = 1;
    catalogue_.config.windowed = {0};
    catalogue_.config.global = catalogue_.config.window = kShape;
    catalogue_.files = {{"a.safetensors", file.size(), tensors[0].begin, {}, {}}};
    StoredArray array;
    array.name = tensors[0].name;
    array.dtype = kind.dtype;
    array.shape = tensors[0].shape;
    array.begin = tensors[0].begin;
    array.bytes = tensors[0].end - tensors[0].begin;
    catalogue_.arrays = {array};
    Weight weight;  // the array is its scale where that is what tells norms
    weight.array = weight.scale = 0;
    weight.storage = kind.storage;
    weight.rows = kRows;
    weight.cols = 4096;
    weight.block_rows = kind.block_rows;
    weight.block_cols = 4096;
    AttentionWeights attention;
    attention.qkv = 0;
    inventory_ = {};
    inventory_.weights = {weight};
    inventory_.attention = {attention};
    inventory_.fused = true;
  }
  RowOrder Look() {
    Result<RowOrder> order = LookAtRows(PosixFileSystem(), catalogue_, inventory_);
    EXPECT_TRUE(order.ok());
    return order.ok() ? order.value() : RowOrder();
  }

  ScratchDirectory scratch_;
  Catalogue catalogue_;
  Inventory inventory_;
};

TEST_F(RowProfileTest, EveryStorageWithoutABlockGridTellsItsOrder) {
  for (const Kind& kind : {Kind{Storage::kPlain, DType::kBF16, 128, 1, Bf16},
                           {Storage::kPlain, DType::kF32, 64, 1, F32},
                           {Storage::kPlain, DType::kBF16, 4096, 1, Bf16},  // of which parts are read
                           {Storage::kFp8Block, DType::kF32, 1, 1, Scale},
                           {Storage::kMxfp8, DType::kU8, 16, 1, Exponent}}) {
    Write(kind, 1.5);
    const RowOrder order = Look();
    EXPECT_EQ(order.sampled.size(), 1u);
    EXPECT_EQ(order.chunks, (std::vector<int64_t>{1, 2, 4}));
    EXPECT_EQ(order.Proven(), 1) << static_cast<int>(kind.storage) << " " << kind.cols;
  }
}

TEST_F(RowProfileTest, BlockGridsAndMarkedShapesAreNotLookedAt) {
  Write({Storage::kPlain, DType::kBF16, 128, 1, Bf16}, 1.5);
  inventory_.weights[0].rows = kRows - 64;
  EXPECT_TRUE(Look().sampled.empty());
  Write({Storage::kPlain, DType::kBF16, 128, 1, Bf16}, 1.5);
  inventory_.weights[0].storage = Storage::kFp8Block;  // an array of many scales that are not one per row
  inventory_.weights[0].block_rows = 128;
  EXPECT_TRUE(Look().sampled.empty());
  inventory_.attention[0] = {};
  EXPECT_TRUE(Look().sampled.empty());
}

TEST_F(RowProfileTest, ZerosAndNansTellNothing) {
  Write({Storage::kPlain, DType::kBF16, 8, 1, [](double) { return Bf16(0); }}, 1.5);
  EXPECT_TRUE(Look().duels.empty());
  Write({Storage::kPlain, DType::kF32, 8, 1, [](double) { return F32(NAN); }}, 1.5);
  EXPECT_TRUE(Look().duels.empty());
}

}  // namespace
}  // namespace mimo::row_profile_test
