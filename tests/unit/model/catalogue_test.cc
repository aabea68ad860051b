// Catalogues of small directories written here: what is read, what the index may get wrong, and what is refused.
#include "lib/model/catalogue.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <functional>

#include "lib/base/durable_file.h"
#include "lib/io/safetensors/safetensors.h"
#include "lib/model/inventory.h"
#include "tests/faults/scratch_directory.h"

namespace mimo::catalogue_test {
namespace {

constexpr char kConfig[] =
    R"({"model_type": "mimo_v2", "hidden_size": 128, "num_hidden_layers": 1, "vocab_size": 4, "intermediate_size": 128,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 192, "v_head_dim": 128, "hybrid_layer_pattern": [0],
        "moe_layer_freq": [0], "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}})";

using Tensors = std::vector<TensorInfo>;

TensorInfo Tensor(const std::string& name, DType dtype, std::vector<int64_t> shape) {
  TensorInfo t;
  t.name = name;
  t.dtype = dtype;
  t.shape = std::move(shape);
  return t;
}

class CatalogueTest : public ::testing::Test {
 protected:
  void SetUp() override { Write("config.json", kConfig); }

  void Write(const std::string& name, const std::string& content) {
    std::filesystem::create_directories(std::filesystem::path(Path(name)).parent_path());
    ASSERT_TRUE(WriteNewFile(PosixFileSystem(), Path(name), content).ok());
  }
  void WriteShard(const std::string& name, Tensors tensors) {
    std::sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
    std::string file = LayOutSafetensors(tensors, {});
    if (!tensors.empty()) file.resize(tensors.back().end, '\0');
    Write(name, file);
  }
  std::string Path(const std::string& name) const { return JoinPath(scratch_.path(), name); }
  Result<Catalogue> Open() { return OpenCatalogue(PosixFileSystem(), scratch_.path()); }

  // The one dense layer that the config describes, split attention, gate_proj in FP8.
  static Tensors Model() {
    return {Tensor("model.embed_tokens.weight", DType::kBF16, {4, 128}),
            Tensor("lm_head.weight", DType::kBF16, {4, 128}),
            Tensor("model.norm.weight", DType::kBF16, {128}),
            Tensor("model.layers.0.input_layernorm.weight", DType::kBF16, {128}),
            Tensor("model.layers.0.post_attention_layernorm.weight", DType::kBF16, {128}),
            Tensor("model.layers.0.self_attn.q_proj.weight", DType::kBF16, {384, 128}),
            Tensor("model.layers.0.self_attn.k_proj.weight", DType::kBF16, {192, 128}),
            Tensor("model.layers.0.self_attn.v_proj.weight", DType::kBF16, {128, 128}),
            Tensor("model.layers.0.self_attn.o_proj.weight", DType::kBF16, {128, 256}),
            Tensor("model.layers.0.mlp.gate_proj.weight", DType::kF8E4M3, {128, 128}),
            Tensor("model.layers.0.mlp.gate_proj.weight_scale_inv", DType::kF32, {1, 1}),
            Tensor("model.layers.0.mlp.up_proj.weight", DType::kBF16, {128, 128}),
            Tensor("model.layers.0.mlp.down_proj.weight", DType::kBF16, {128, 128})};
  }
  // The inventory of Model() after `edit`.
  Result<Inventory> Take(const std::function<void(Tensors&)>& edit) {
    Tensors tensors = Model();
    edit(tensors);
    WriteShard("model.safetensors", tensors);
    catalogue_ = Open();
    EXPECT_TRUE(catalogue_.ok()) << catalogue_.error().Message();
    return TakeInventory(catalogue_.value());
  }

  ScratchDirectory scratch_;
  Result<Catalogue> catalogue_ = Error{};
};

TEST_F(CatalogueTest, ReadsShardsWithoutAnIndex) {
  WriteShard("b.safetensors", {Tensor("model.norm.weight", DType::kBF16, {128})});
  WriteShard("a.safetensors", {Tensor("lm_head.weight", DType::kBF16, {4, 128})});
  Write("tokenizer.json", "{}");
  Write("dflash/config.json", "{\"trailing\": 1,}");
  const auto c = Open();
  ASSERT_TRUE(c.ok()) << c.error().Message();
  ASSERT_EQ(c.value().arrays.size(), 2u);
  EXPECT_EQ(c.value().arrays[0].name, "lm_head.weight");
  EXPECT_EQ(c.value().arrays[0].id.role, Role::kLmHead);
  EXPECT_EQ(c.value().payload_bytes(), 4u * 128 * 2 + 256);
  ASSERT_EQ(c.value().carried.size(), 2u);
  EXPECT_EQ(c.value().carried[0].name, "dflash/config.json");
}

TEST_F(CatalogueTest, HeadersWinOverAnIndexThatNamesMissingFiles) {
  WriteShard("a.safetensors", {Tensor("model.norm.weight", DType::kBF16, {128})});
  Write(
      "model.safetensors.index.json",
      R"({"metadata": {"total_size": "256", "tp_size": 4, "note": "x"}, "weight_map": {"q": "model_0-00001-of-00002.safetensors"}})");
  const auto c = Open();
  ASSERT_TRUE(c.ok()) << c.error().Message();
  EXPECT_EQ(c.value().arrays.size(), 1u);
  EXPECT_EQ(c.value().index.missing_files, std::vector<std::string>{"model_0-00001-of-00002.safetensors"});
  EXPECT_EQ(c.value().index.tp_size, 4);
  EXPECT_EQ(c.value().index.total_size, 256u);
  EXPECT_EQ(c.value().oddities.size(), 1u);
}

TEST_F(CatalogueTest, OnlyFilesOfAGoodIndexAreTheModel) {
  WriteShard("a.safetensors", {Tensor("model.norm.weight", DType::kBF16, {128})});
  WriteShard("consolidated.safetensors", {Tensor("model.norm.weight", DType::kBF16, {128})});
  Write("model.safetensors.index.json", R"({"metadata": {}, "weight_map": {"model.norm.weight": "a.safetensors"}})");
  const auto c = Open();
  ASSERT_TRUE(c.ok()) << c.error().Message();
  EXPECT_EQ(c.value().files.size(), 1u);
  EXPECT_TRUE(c.value().carried.empty());
  ASSERT_EQ(c.value().strays.size(), 1u);
  EXPECT_EQ(c.value().strays[0].file, "consolidated.safetensors");
  EXPECT_EQ(c.value().strays[0].kind, StrayKind::kStale);
  EXPECT_EQ(c.value().strays[0].holder, "a.safetensors");
}

TEST_F(CatalogueTest, FilesBesideThoseOfTheIndexAreWhatTheirTensorsAre) {
  const TensorInfo norm = Tensor("model.norm.weight", DType::kBF16, {128});
  const TensorInfo head = Tensor("lm_head.weight", DType::kBF16, {4, 128});
  const TensorInfo odd = Tensor("odd", DType::kBF16, {2});
  struct Case {
    Tensors tensors;
    StrayKind kind;
    bool carried, read;
  };
  for (const Case& c :
       {Case{{norm}, StrayKind::kStale, false, false}, Case{{}, StrayKind::kStale, false, false},
        Case{{head}, StrayKind::kForgotten, false, true}, Case{{head, odd}, StrayKind::kForgotten, false, true},
        Case{{odd}, StrayKind::kUnknown, true, false}, Case{{norm, odd}, StrayKind::kMixed, false, false},
        Case{{norm, head}, StrayKind::kPartly, false, false},
        Case{{norm, head, odd}, StrayKind::kPartly, false, false}}) {
    for (const char* file : {"0.safetensors", "z.safetensors"}) {
      SCOPED_TRACE(testing::Message() << file << " " << c.tensors.size());
      WriteShard("a.safetensors", {norm});
      Write("model.safetensors.index.json",
            R"({"metadata": {"total_size": 256}, "weight_map": {"model.norm.weight": "a.safetensors"}})");
      WriteShard(file, c.tensors);
      auto opened = Open();
      ASSERT_TRUE(opened.ok()) << opened.error().Message();
      ASSERT_EQ(opened->strays.size(), 1u);
      EXPECT_EQ(opened->strays[0].kind, c.kind);
      EXPECT_EQ(opened->strays[0].tensors, c.tensors.size());
      EXPECT_EQ(opened->carried.size(), c.carried ? 1u : 0u);
      EXPECT_EQ(opened->files.size(), c.read ? 2u : 1u);
      EXPECT_TRUE(std::is_sorted(opened->files.begin(), opened->files.end(),
                                 [](const auto& a, const auto& b) { return a.name < b.name; }));
      EXPECT_EQ(opened->files[opened->Find("model.norm.weight")->file].name, "a.safetensors");
      if (c.read) {
        EXPECT_EQ(opened->files[opened->Find("lm_head.weight")->file].name, file);
      }
      EXPECT_TRUE(opened->oddities.empty());  // the strays say it all
      std::filesystem::remove(Path(file));
    }
  }
}

TEST_F(CatalogueTest, FilesOfOtherFormatsAndOfSubdirectories) {
  const TensorInfo norm = Tensor("model.norm.weight", DType::kBF16, {128});
  WriteShard("a.safetensors", {norm});
  WriteShard("original/x.safetensors", {norm});
  WriteShard("draft/x.safetensors", {norm});
  Write("draft/config.json", "{}");
  WriteShard("other/x.safetensors", {Tensor("lm_head.weight", DType::kBF16, {4, 128})});
  for (const char* name :
       {"pytorch_model-00001-of-2.bin", "consolidated.00.pth", "x.gguf", "training_args.bin", "x.pt"})
    Write(name, "x");
  auto c = Open();
  ASSERT_TRUE(c.ok()) << c.error().Message();
  std::vector<std::pair<std::string, StrayKind>> strays;
  for (const StrayFile& stray : c->strays) strays.emplace_back(stray.file, stray.kind);
  EXPECT_EQ(strays,
            (std::vector<std::pair<std::string, StrayKind>>{{"consolidated.00.pth", StrayKind::kUnknown},
                                                            {"original/x.safetensors", StrayKind::kStale},
                                                            {"pytorch_model-00001-of-2.bin", StrayKind::kUnknown},
                                                            {"x.gguf", StrayKind::kUnknown}}));
  EXPECT_EQ(c->carried.size(), 8u);
}

TEST_F(CatalogueTest, ATensorInTwoFilesIsAnError) {
  WriteShard("a.safetensors", {Tensor("model.norm.weight", DType::kBF16, {128})});
  WriteShard("b.safetensors", {Tensor("model.norm.weight", DType::kBF16, {128})});
  const auto c = Open();
  ASSERT_FALSE(c.ok());
  EXPECT_EQ(c.error().tensor, "model.norm.weight");
  EXPECT_EQ(c.error().code, ErrorCode::kBadInput);
}

TEST_F(CatalogueTest, AnIndexedTensorThatNoFileHoldsIsAnError) {
  WriteShard("a.safetensors", {Tensor("model.norm.weight", DType::kBF16, {128})});
  Write("model.safetensors.index.json",
        R"({"weight_map": {"model.norm.weight": "a.safetensors", "lm_head.weight": "a.safetensors"}})");
  const auto c = Open();
  ASSERT_FALSE(c.ok());
  EXPECT_EQ(c.error().tensor, "lm_head.weight");
}

TEST_F(CatalogueTest, AnIndexMayNotLeaveTheDirectory) {
  WriteShard("a.safetensors", {Tensor("model.norm.weight", DType::kBF16, {128})});
  Write("model.safetensors.index.json", R"({"weight_map": {"model.norm.weight": "../a.safetensors"}})");
  EXPECT_FALSE(Open().ok());
}

TEST_F(CatalogueTest, FollowsTheSymbolicLinksOfAHubCache) {
  Write("blobs/0123", "x");
  std::filesystem::remove_all(Path("blobs"));
  ScratchDirectory blobs;
  std::filesystem::rename(Path("config.json"), JoinPath(blobs.path(), "c0ffee"));
  std::filesystem::create_symlink(JoinPath(blobs.path(), "c0ffee"), Path("config.json"));
  WriteShard("a.safetensors", {Tensor("model.norm.weight", DType::kBF16, {128})});
  std::filesystem::rename(Path("a.safetensors"), JoinPath(blobs.path(), "beef"));
  std::filesystem::create_symlink(JoinPath(blobs.path(), "beef"), Path("a.safetensors"));
  const auto c = Open();
  ASSERT_TRUE(c.ok()) << c.error().Message();
  EXPECT_EQ(c.value().arrays.size(), 1u);
  std::filesystem::remove(JoinPath(blobs.path(), "beef"));
  EXPECT_FALSE(Open().ok());  // a dangling link is an incomplete download
}

// Every rank has arrays of one name: they are told apart by the file that they are in, and have no place in the model
// until the form gives them one.
TEST_F(CatalogueTest, ArraysOfRankFilesAreNamedByTheirRank) {
  const Tensors norm = {Tensor("model.norm.weight", DType::kBF16, {128})};
  const Tensors mtp = {Tensor("model.mtp.layers.0.enorm.weight", DType::kBF16, {128})};
  WriteShard("model-rank-0-part-0.safetensors", norm);
  WriteShard("model-rank-12-part-0.safetensors", norm);
  WriteShard("mtp-rank-3-part-0.safetensors", mtp);
  WriteShard("hf-rest.safetensors", {Tensor("visual.x", DType::kBF16, {2})});
  WriteShard("other-rank-1-part-0.safetensors", {Tensor("visual.other", DType::kBF16, {2})});
  WriteShard("model-rank-x-part-0.safetensors", {Tensor("visual.letter", DType::kBF16, {2})});
  WriteShard("model-rank-1.safetensors", {Tensor("visual.short", DType::kBF16, {2})});
  const auto c = Open();
  ASSERT_TRUE(c.ok()) << c.error().Message();
  std::vector<std::string> names;
  for (const StoredArray& array : c.value().arrays) names.push_back(array.name);
  EXPECT_EQ(names, (std::vector<std::string>{"rank0/model.norm.weight", "rank12/model.norm.weight",
                                             "rank3/model.mtp.layers.0.enorm.weight", "visual.letter", "visual.other",
                                             "visual.short", "visual.x"}));
  EXPECT_EQ(HeaderName(names[1]), "model.norm.weight");
  EXPECT_EQ(HeaderName("rank/model.norm.weight"), "rank/model.norm.weight");
  EXPECT_EQ(HeaderName("ranked"), "ranked");
  ASSERT_NE(c.value().Find("rank12/model.norm.weight"), nullptr);
  EXPECT_EQ(c.value().Find("rank12/model.norm.weight")->id.role, Role::kUnknown);
  EXPECT_EQ(c.value().Find("visual.x")->id.role, Role::kVision);
  // Twice in one rank is still twice.
  WriteShard("model-rank-0-part-1.safetensors", norm);
  ASSERT_FALSE(Open().ok());
  EXPECT_EQ(Open().error().tensor, "rank0/model.norm.weight");
}

TEST_F(CatalogueTest, WhatTheSourceSaidIsReadAndNotCarried) {
  WriteShard("a.safetensors", {Tensor("model.norm.weight", DType::kBF16, {128})});
  EXPECT_FALSE(Open().value().origin.has_value());
  const Hash128 without = Open().value().Fingerprint();
  std::string other = kConfig;
  other.replace(other.find("\"hidden_size\": 128"), 18, "\"hidden_size\": 256");
  Write("mimo-source/config.json", other);
  Write("mimo-source/notes.txt", "x");
  auto c = Open();
  ASSERT_TRUE(c.ok()) << c.error().Message();
  ASSERT_TRUE(c.value().origin.has_value());
  EXPECT_EQ(c.value().origin->config, other);
  EXPECT_FALSE(c.value().origin->index.has_value());
  EXPECT_EQ(c.value().config.hidden, 128);
  ASSERT_EQ(c.value().carried.size(), 1u);
  EXPECT_EQ(c.value().carried[0].name, "mimo-source/notes.txt");
  const Hash128 with_config = c.value().Fingerprint();
  EXPECT_NE(with_config, without);
  Write("mimo-source/model.safetensors.index.json",
        R"({"metadata": {"tp_size": 4}, "weight_map": {"q": "model_layer0.safetensors"}})");
  c = Open();
  ASSERT_TRUE(c.ok()) << c.error().Message();
  ASSERT_TRUE(c.value().origin->index.has_value());
  EXPECT_EQ(c.value().origin->index->info.tp_size, 4);
  ASSERT_EQ(c.value().origin->index->weight_map.size(), 1u);
  EXPECT_TRUE(c.value().index.missing_files.empty());  // it is not the index of these files
  EXPECT_TRUE(c.value().oddities.empty());
  EXPECT_EQ(c.value().carried.size(), 1u);
  EXPECT_NE(c.value().Fingerprint(), with_config);
  Write("mimo-source/config.json", "{}");
  ASSERT_FALSE(Open().ok());
  EXPECT_NE(Open().error().file.find("mimo-source/config.json"), std::string::npos);
}

TEST_F(CatalogueTest, FingerprintFollowsHeadersAndConfig) {
  WriteShard("a.safetensors", {Tensor("model.norm.weight", DType::kBF16, {128})});
  const Hash128 first = Open().value().Fingerprint();
  EXPECT_EQ(Open().value().Fingerprint(), first);
  Write("config.json", std::string(kConfig) + "\n");
  const Hash128 second = Open().value().Fingerprint();
  EXPECT_NE(second, first);
  WriteShard("a.safetensors", {Tensor("model.norm.weight", DType::kF16, {128})});
  EXPECT_NE(Open().value().Fingerprint(), second);
}

TEST_F(CatalogueTest, InventoryPairsCodesWithScales) {
  const auto inventory = Take([](Tensors&) {});
  ASSERT_TRUE(inventory.ok()) << inventory.error().Message();
  EXPECT_EQ(inventory.value().weights.size(), 12u);
  EXPECT_FALSE(inventory.value().fused);
  EXPECT_FALSE(inventory.value().quantized_attention);
  size_t fp8 = 0;
  for (const Weight& w : inventory.value().weights) fp8 += w.storage == Storage::kFp8Block;
  EXPECT_EQ(fp8, 1u);
}

// Each edit makes one thing wrong; the error must name the tensor.
TEST_F(CatalogueTest, InventoryRefusesWhatContradicts) {
  const auto find = [](Tensors& t, const std::string& name) {
    return std::find_if(t.begin(), t.end(), [&](const TensorInfo& x) { return x.name == name; });
  };
  const std::string gate = "model.layers.0.mlp.gate_proj.weight";
  const std::vector<std::pair<std::string, std::function<void(Tensors&)>>> cases = {
      {gate, [&](Tensors& t) { t.erase(find(t, gate + "_scale_inv")); }},
      {gate + "_scale_inv", [&](Tensors& t) { t.erase(find(t, gate)); }},
      {gate + "_scale_inv",
       [&](Tensors& t) {
         find(t, gate + "_scale_inv")->shape = {2, 1};
       }},
      {gate + "_scale_inv", [&](Tensors& t) { find(t, gate + "_scale_inv")->dtype = DType::kI32; }},
      {"model.norm.weight", [&](Tensors& t) { t.erase(find(t, "model.norm.weight")); }},
      {"model.norm.weight", [&](Tensors& t) { find(t, "model.norm.weight")->shape = {64}; }},
      {"model.norm.weight", [&](Tensors& t) { find(t, "model.norm.weight")->dtype = DType::kI64; }},
      {"model.layers.0.self_attn.k_proj.weight",
       [&](Tensors& t) {
         find(t, "model.layers.0.self_attn.k_proj.weight")->shape = {384, 128};
       }},
      {"model.layers.1.input_layernorm.weight",
       [](Tensors& t) { t.push_back(Tensor("model.layers.1.input_layernorm.weight", DType::kBF16, {128})); }},
      {"model.layers.0.mlp.experts.0.up_proj.weight",
       [](Tensors& t) {
         t.push_back(Tensor("model.layers.0.mlp.experts.0.up_proj.weight", DType::kBF16, {8, 128}));
       }},
  };
  for (const auto& [tensor, edit] : cases) {
    const auto inventory = Take(edit);
    ASSERT_FALSE(inventory.ok()) << tensor;
    EXPECT_EQ(inventory.error().code, ErrorCode::kBadInput);
    EXPECT_EQ(inventory.error().tensor, tensor) << inventory.error().Message();
  }
}

TEST_F(CatalogueTest, InventoryListsUnknownTensorsAndGapsInMtp) {
  const auto inventory =
      Take([](Tensors& t) { t.push_back(Tensor("model.layers.0.self_attn.q_norm.weight", DType::kBF16, {192})); });
  ASSERT_TRUE(inventory.ok()) << inventory.error().Message();
  EXPECT_EQ(inventory.value().unknown.size(), 1u);
  EXPECT_FALSE(
      Take([](Tensors& t) { t.push_back(Tensor("model.mtp.layers.1.enorm.weight", DType::kBF16, {128})); }).ok());
}

}  // namespace
}  // namespace mimo::catalogue_test
