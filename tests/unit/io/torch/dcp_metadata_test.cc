// .metadata: what torch wrote itself, what comes back from the writer, and what is refused.
#include "lib/io/torch/dcp_metadata.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "lib/io/torch/dcp_tiling.h"
#include "lib/io/torch/globals.h"
#include "tests/unit/io/torch/item_bytes.h"
#include "tests/unit/io/torch/native.h"

namespace mimo::dcp_metadata_test {
namespace {

DcpChunk Chunk(std::vector<int64_t> offsets, std::vector<int64_t> sizes, uint64_t at = 0) {
  return {std::move(offsets), std::move(sizes), {"__0_0.distcp", at, 10}};
}
DcpMetadata Two() {
  DcpMetadata metadata;
  metadata.tensors = {{"a", DType::kBF16, {4, 6}, {Chunk({0, 0}, {2, 6}, 10), Chunk({2, 0}, {2, 6}, 20)}},
                      {"b", DType::kF32, {}, {Chunk({}, {}, 30)}}};
  metadata.bytes = {{"c/shard_0_1", {"x/__0_0.distcp", 40, 10}}};
  return metadata;
}
std::string Refusal(const std::string& pickle) {
  const auto metadata = ReadDcpMetadata(pickle, ".metadata");
  if (metadata.ok()) return "accepted";
  EXPECT_EQ(metadata.error().code, ErrorCode::kBadInput);
  return metadata.error().Message();
}
std::string Refusal(const DcpMetadata& metadata) {
  return Refusal(WriteDcpMetadata(metadata));
}
#define EXPECT_REFUSED(refusal, why) EXPECT_PRED_FORMAT2(testing::IsSubstring, why, refusal)

// Replaces one occurrence of bytes of equal length, which keeps the pickle well formed.
std::string Replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos);
  EXPECT_EQ(from.size(), to.size());
  return text.replace(at, from.size(), to);
}

TEST(DcpMetadata, Native) {
  const auto metadata = ReadDcpMetadata(FromHex(kNativeMetadata), ".metadata");
  ASSERT_TRUE(metadata.ok()) << metadata.error().Message();
  const auto& tensors = metadata.value().tensors;
  ASSERT_EQ(tensors.size(), 3u);
  EXPECT_EQ(tensors[0].key, "a");
  EXPECT_EQ(tensors[0].dtype, DType::kF32);
  EXPECT_EQ(tensors[0].shape, (std::vector<int64_t>{4, 3}));
  ASSERT_EQ(tensors[0].chunks.size(), 1u);
  EXPECT_EQ(tensors[0].chunks[0].range.file, "__0_0.distcp");
  EXPECT_EQ(tensors[0].chunks[0].range.offset, 1261u);
  EXPECT_EQ(tensors[0].chunks[0].range.bytes, 1577u);
  EXPECT_EQ(tensors[1].key, "m.e");
  EXPECT_TRUE(tensors[1].chunks.empty());
  EXPECT_EQ(tensors[2].key, "sc");
  EXPECT_TRUE(tensors[2].shape.empty());
  EXPECT_EQ(tensors[2].chunks[0].range.offset, 4351u);
  ASSERT_EQ(metadata.value().bytes.size(), 1u);
  EXPECT_EQ(metadata.value().bytes[0].key, "m.s");
  EXPECT_EQ(metadata.value().bytes[0].range.bytes, 1261u);
}

TEST(DcpMetadata, ComesBackSorted) {
  DcpMetadata metadata = Two();
  std::swap(metadata.tensors[0], metadata.tensors[1]);
  std::swap(metadata.tensors[1].chunks[0], metadata.tensors[1].chunks[1]);
  const auto read = ReadDcpMetadata(WriteDcpMetadata(metadata), ".metadata");
  ASSERT_TRUE(read.ok()) << read.error().Message();
  EXPECT_EQ(WriteDcpMetadata(read.value()), WriteDcpMetadata(Two()));
}

TEST(DcpMetadata, EveryTruncationIsRefused) {
  for (const std::string& whole : {WriteDcpMetadata(Two()), FromHex(kNativeMetadata)}) {
    for (size_t i = 0; i < whole.size(); ++i) EXPECT_NE(Refusal(whole.substr(0, i)), "accepted") << i;
  }
}

TEST(DcpMetadata, ChunksMustTile) {
  const auto with = [](std::vector<DcpChunk> chunks) {
    DcpMetadata metadata = Two();
    for (size_t i = 0; i < chunks.size(); ++i) chunks[i].range.offset = i;
    metadata.tensors[0].chunks = std::move(chunks);
    return Refusal(metadata);
  };
  EXPECT_EQ(with({Chunk({0, 0}, {4, 1}), Chunk({0, 1}, {1, 5}), Chunk({1, 1}, {3, 5})}), "accepted");
  EXPECT_REFUSED(with({Chunk({0, 0}, {2, 6})}), "where the tensor has 24");
  EXPECT_REFUSED(with({}), "where the tensor has 24");
  EXPECT_REFUSED(with({Chunk({0, 0}, {3, 6}), Chunk({2, 0}, {1, 6})}), "overlap");
  EXPECT_REFUSED(with({Chunk({0, 0}, {2, 6}), Chunk({2, 0}, {3, 6})}), "leaves the tensor");
  EXPECT_REFUSED(with({Chunk({0, 0}, {2, 6}), Chunk({2, 1}, {2, 6})}), "leaves the tensor");
  EXPECT_REFUSED(with({Chunk({0, 0}, {4, 6}), Chunk({0}, {4})}), "dimensions");
  EXPECT_REFUSED(with({Chunk({0, 0}, {2, 6}), Chunk({0, 0}, {2, 6})}), "two places for one chunk");
  EXPECT_REFUSED(with({Chunk({-1, 0}, {2, 6}), Chunk({2, 0}, {2, 6})}), "a call of torch.Size");
  EXPECT_REFUSED(with({Chunk({std::numeric_limits<int64_t>::max(), 0}, {2, 6})}), "leaves the tensor");
  DcpMetadata huge = Two();
  huge.tensors[0].shape = {int64_t{1} << 40U, int64_t{1} << 40U};
  EXPECT_REFUSED(Refusal(huge), "no shape");
}

// One list of a pickle may be named by any number of chunks, so that its length is bounded.
TEST(DcpMetadata, NamesAndDimensionsAreBounded) {
  const auto with = [](size_t dimensions, size_t key) {
    DcpMetadata metadata;
    const std::vector<int64_t> offsets(dimensions, 0), sizes(dimensions, 1);
    metadata.tensors = {{std::string(key, 'k'), DType::kBF16, sizes, {Chunk(offsets, sizes, 10)}}};
    return metadata;
  };
  EXPECT_EQ(Refusal(with(64, 4096)), "accepted");
  EXPECT_REFUSED(Refusal(with(65, 8)), "its size is no shape");
  EXPECT_REFUSED(Refusal(with(2, 4097)), "a name is too long");
  DcpMetadata metadata = Two();
  metadata.bytes[0].range.file = std::string(4097, 'f');
  EXPECT_REFUSED(Refusal(metadata), "a name is too long");
}

TEST(DcpMetadata, EmptyChunksAreLeftOut) {
  DcpMetadata metadata = Two();
  metadata.tensors[0].chunks.push_back(Chunk({4, 0}, {0, 6}, 50));
  const auto read = ReadDcpMetadata(WriteDcpMetadata(metadata), ".metadata");
  ASSERT_TRUE(read.ok()) << read.error().Message();
  EXPECT_EQ(WriteDcpMetadata(read.value()), WriteDcpMetadata(Two()));
}

TEST(DcpMetadata, PlacesAndChunksMustMatch) {
  const std::string good = WriteDcpMetadata(Two());
  // Memoized names are written once, so single bytes and words can be bent in place.
  EXPECT_REFUSED(Refusal(Replaced(good, "x/__0_0.distcp", "../_0_0.distcp")), "leaves the directory");
  EXPECT_REFUSED(Refusal(Replaced(good, "x/__0_0.distcp", "/a__0_0.distcp")), "leaves the directory");
  EXPECT_REFUSED(Refusal(Replaced(good, "x/__0_0.distcp", "x\\__0_0.distcp")), "leaves the directory");
  EXPECT_REFUSED(Refusal(Replaced(good, "x/__0_0.distcp", std::string("x/__0_0.distc\0", 14))), "leaves the directory");
  EXPECT_REFUSED(Refusal(Replaced(good, "relative_path", "relative-path")), "place is not as known");
  EXPECT_REFUSED(Refusal(Replaced(good, "properties", "Properties")), "neither a tensor nor a byte item");
  EXPECT_REFUSED(Refusal(Replaced(good, "storage_data", "storage_date")), "no metadata");
  EXPECT_REFUSED(Refusal(Replaced(good, "_StorageInfo", "_StorageInfa")), "it names torch.distributed");
  EXPECT_REFUSED(Refusal(Replaced(good, "Metadata\n", "Metadato\n")), "it names torch.distributed");
  EXPECT_REFUSED(Refusal(Replaced(good, "bfloat16", "Bfloat16")), "it names torch.Bfloat16");
  DcpMetadata twice = Two();
  twice.bytes.push_back({"a", {"__0_0.distcp", 0, 1}});
  EXPECT_REFUSED(Refusal(twice), "appears twice");
  DcpMetadata same = Two();
  same.bytes.push_back(same.bytes[0]);
  EXPECT_NE(Refusal(same), "accepted");
  // A chunk's offset changed in storage_data alone: the last of its kind in the pickle.
  std::string moved = good;
  const size_t last = moved.rfind(std::string("K\2K\0\x86", 5));
  ASSERT_NE(last, std::string::npos);
  moved[last + 1] = 3;
  EXPECT_REFUSED(Refusal(moved), "without a");
}

// Of tensor a: [2] in two chunks, with places for `offsets` only.
std::string WithPlaces(const std::vector<int64_t>& offsets) {
  DcpMetadata metadata;
  metadata.tensors = {{"a", DType::kBF16, {2}, {Chunk({0}, {1}), Chunk({1}, {1})}}};
  const std::string listed = WriteDcpMetadata(metadata);
  metadata.tensors[0].chunks.clear();
  for (const int64_t offset : offsets) metadata.tensors[0].chunks.push_back(Chunk({offset}, {1}));
  std::string placed = WriteDcpMetadata(metadata);
  // Both write the same strings in the same order up to storage_data, so numbers in the memo agree.
  const auto split = [](const std::string& pickle) { return pickle.find("planner_data"); };
  return listed.substr(0, split(listed)) + placed.substr(split(placed));
}

TEST(DcpMetadata, EveryChunkNeedsItsPlace) {
  EXPECT_EQ(Refusal(WithPlaces({0, 1})), "accepted");
  EXPECT_REFUSED(Refusal(WithPlaces({0})), "a chunk has no place");
  EXPECT_REFUSED(Refusal(WithPlaces({1})), "a place without a chunk, or a chunk without a place");
  EXPECT_REFUSED(Refusal(WithPlaces({0, 1, 2})), "a place without a chunk");
}

// No dtype of ours: known, checked, and set apart.
TEST(DcpMetadata, ForeignDtypes) {
  DcpMetadata metadata = Two();
  metadata.tensors[1].dtype = DType::kC64;
  const std::string pickle = WriteDcpMetadata(metadata);
  const auto read = ReadDcpMetadata(Replaced(pickle, "complex64\n", "complex32\n"), ".metadata");
  ASSERT_TRUE(read.ok()) << read.error().Message();
  ASSERT_EQ(read.value().tensors.size(), 1u);
  ASSERT_EQ(read.value().foreign.size(), 1u);
  EXPECT_EQ(read.value().foreign[0].key, "b");
  EXPECT_EQ(read.value().foreign[0].dtype, "complex32");
}

// Against counting every element, for random cuts and random damage.
TEST(DcpTiling, AgreesWithCounting) {
  std::mt19937 random(7);
  const auto pick = [&](int64_t most) { return std::uniform_int_distribution<int64_t>(0, most)(random); };
  int tiled = 0;
  for (int round = 0; round < 3000; ++round) {
    const std::vector<int64_t> shape = {1 + pick(5), 1 + pick(5), 1 + pick(5)};
    std::vector<DcpChunk> chunks = {Chunk({0, 0, 0}, shape)};
    for (int64_t cut = pick(12); cut > 0; --cut) {
      const auto at = static_cast<size_t>(pick(static_cast<int64_t>(chunks.size()) - 1));
      const auto axis = static_cast<size_t>(pick(2));
      if (chunks[at].sizes[axis] < 2) continue;
      DcpChunk upper = chunks[at];
      const int64_t part = 1 + pick(upper.sizes[axis] - 2);
      chunks[at].sizes[axis] = part;
      upper.offsets[axis] += part;
      upper.sizes[axis] -= part;
      chunks.push_back(upper);
    }
    for (int64_t damage = pick(2); damage > 0; --damage) {
      DcpChunk& chunk = chunks[static_cast<size_t>(pick(static_cast<int64_t>(chunks.size()) - 1))];
      const auto axis = static_cast<size_t>(pick(2));
      if (pick(1) == 0) {
        chunk.offsets[axis] = pick(shape[axis] - chunk.sizes[axis]);
      } else {
        chunk.sizes[axis] = 1 + pick(shape[axis] - chunk.offsets[axis] - 1);
      }
    }
    std::vector<int> seen(static_cast<size_t>(shape[0] * shape[1] * shape[2]), 0);
    for (const DcpChunk& chunk : chunks) {
      for (int64_t x = chunk.offsets[0]; x < chunk.offsets[0] + chunk.sizes[0]; ++x) {
        for (int64_t y = chunk.offsets[1]; y < chunk.offsets[1] + chunk.sizes[1]; ++y) {
          for (int64_t z = chunk.offsets[2]; z < chunk.offsets[2] + chunk.sizes[2]; ++z) {
            ++seen[static_cast<size_t>((x * shape[1] + y) * shape[2] + z)];
          }
        }
      }
    }
    const bool once = std::all_of(seen.begin(), seen.end(), [](int times) { return times == 1; });
    tiled += once;
    EXPECT_EQ(WhyNotTiled(shape, chunks).empty(), once) << round;
  }
  EXPECT_GT(tiled, 500);
  EXPECT_LT(tiled, 2500);
}

// No plane goes through a pinwheel without cutting a chunk.
TEST(DcpTiling, Pinwheel) {
  std::vector<DcpChunk> chunks = {Chunk({0, 0}, {1, 2}), Chunk({0, 2}, {2, 1}), Chunk({2, 1}, {1, 2}),
                                  Chunk({1, 0}, {2, 1}), Chunk({1, 1}, {1, 1})};
  EXPECT_EQ(WhyNotTiled(std::vector<int64_t>{3, 3}, chunks), "");
  chunks[4] = Chunk({0, 0}, {1, 1});
  EXPECT_NE(WhyNotTiled(std::vector<int64_t>{3, 3}, chunks), "");
}

TEST(DcpTiling, ManyChunks) {
  std::vector<DcpChunk> chunks;
  for (int64_t e = 0; e < 256; ++e) {
    for (int64_t r = 0; r < 16; ++r) chunks.push_back(Chunk({e, r * 128, 0}, {1, 128, 4096}));
  }
  EXPECT_EQ(WhyNotTiled(std::vector<int64_t>{256, 2048, 4096}, chunks), "");
  ++chunks[1000].sizes[1];
  EXPECT_NE(WhyNotTiled(std::vector<int64_t>{256, 2048, 4096}, chunks), "");
}

}  // namespace
}  // namespace mimo::dcp_metadata_test
