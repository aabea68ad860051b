// Every storage that a weight may have, and everything that may be wrong with one.
#include "lib/model/stored_weight.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

namespace mimo::stored_weight_test {
namespace {

// One dense layer with MTP, so small that every expected shape is written out: hidden 128, 1 expert layer of 2 experts.
constexpr char kConfig[] =
    R"({"model_type": "mimo_v2", "hidden_size": 128, "num_hidden_layers": 2, "vocab_size": 4, "intermediate_size": 192,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 192, "v_head_dim": 128,
        "hybrid_layer_pattern": [0, 0], "moe_layer_freq": [0, 1], "n_routed_experts": 2, "moe_intermediate_size": 64})";

struct Stored {
  std::string name;
  DType dtype;
  std::vector<int64_t> shape;
};
using Arrays = std::vector<Stored>;

constexpr DType kU8 = DType::kU8, kE4M3 = DType::kF8E4M3, kF32 = DType::kF32, kBf16 = DType::kBF16;

Catalogue MakeCatalogue(Arrays arrays, const std::string& config) {
  Catalogue catalogue;
  catalogue.root = "ckpt";
  auto parsed = ParseModelConfig(config, "ckpt/config.json");
  EXPECT_TRUE(parsed.ok()) << parsed.error().Message();
  catalogue.config = std::move(parsed).value();
  catalogue.table = ModelTable::Get("mimo_v2").value();
  catalogue.files.push_back({"model.safetensors", 0, 0, {}, {}});
  std::sort(arrays.begin(), arrays.end(), [](const Stored& a, const Stored& b) { return a.name < b.name; });
  for (const Stored& array : arrays) {
    StoredArray stored;
    stored.name = array.name;
    stored.dtype = array.dtype;
    stored.shape = array.shape;
    stored.id = catalogue.table->Identify(array.name);
    if (array.name.ends_with(".scale")) {  // Neuron's, which no Hugging Face name is
      stored.id = catalogue.table->Identify(NameOfPart(array.name, Part::kWeight));
      stored.id.part = Part::kRowScale;
    }
    catalogue.by_name.emplace(array.name, static_cast<uint32_t>(catalogue.arrays.size()));
    catalogue.arrays.push_back(std::move(stored));
  }
  return catalogue;
}

// The whole model of kConfig in BF16, split or fused.
Arrays Model(bool fused = false) {
  Arrays arrays;
  const ModelConfig config = ParseModelConfig(kConfig, "c").value();
  const std::vector<ExpectedTensor> expected =
      ExpectedTensors(*ModelTable::Get("mimo_v2").value(), config, fused, 1).value();
  for (const ExpectedTensor& tensor : expected) arrays.push_back({tensor.name, kBf16, tensor.shape});
  return arrays;
}

Stored* Find(Arrays& arrays, const std::string& name) {
  const auto it = std::find_if(arrays.begin(), arrays.end(), [&](const Stored& a) { return a.name == name; });
  return it == arrays.end() ? nullptr : &*it;
}

// Stores module X as these arrays instead of X.weight.
void Store(Arrays& arrays, const std::string& module, const std::vector<Stored>& parts) {
  std::erase_if(arrays, [&](const Stored& a) { return a.name == module + ".weight"; });
  for (const Stored& part : parts) arrays.push_back({module + "." + part.name, part.dtype, part.shape});
}

// All storages of a matrix of `rows` x `cols`, as the formats define them (reference quantization-formats.md 3.1, 4.3).
struct Form {
  const char* label;
  Storage storage;
  bool divides;
  std::vector<Stored> parts;
};
std::vector<Form> Forms(int64_t rows, int64_t cols) {
  const std::vector<int64_t> whole = {rows, cols}, half = {rows, cols / 2}, by16 = {rows, cols / 16},
                             by32 = {rows, cols / 32}, blocks = {(rows + 127) / 128, (cols + 127) / 128};
  return {
      {"plain", Storage::kPlain, false, {{"weight", kBf16, whole}}},
      {"block FP8", Storage::kFp8Block, false, {{"weight", kE4M3, whole}, {"weight_scale_inv", kF32, blocks}}},
      {"FP8_BLOCK", Storage::kFp8Block, false, {{"weight", kE4M3, whole}, {"weight_scale", kF32, blocks}}},
      {"MXFP4", Storage::kMxfp4, false, {{"weight", kU8, half}, {"weight_scale", kU8, by32}}},
      {"MXFP4 E8M0", Storage::kMxfp4, false, {{"weight", kU8, half}, {"weight_scale", DType::kF8E8M0, by32}}},
      {"MXFP4 packed", Storage::kMxfp4, false, {{"weight_packed", kU8, half}, {"weight_scale", kU8, by32}}},
      {"MXFP8", Storage::kMxfp8, false, {{"weight", kE4M3, whole}, {"weight_scale", kU8, by32}}},
      {"MXFP8 vendor", Storage::kMxfp8, false, {{"weight", kE4M3, whole}, {"weight_scale_inv", kU8, by32}}},
      {"MXFP8 E8M0", Storage::kMxfp8, false, {{"weight", kE4M3, whole}, {"weight_scale_inv", DType::kF8E8M0, by32}}},
      {"NVFP4",
       Storage::kNvfp4,
       false,
       {{"weight", kU8, half}, {"weight_scale", kE4M3, by16}, {"weight_scale_2", kF32, {}}}},
      {"NVFP4 W4A4",
       Storage::kNvfp4,
       false,
       {{"weight", kU8, half},
        {"weight_scale", kE4M3, by16},
        {"weight_scale_2", kF32, {1}},
        {"input_scale", kF32, {}}}},
      {"NVFP4 packed",
       Storage::kNvfp4,
       true,
       {{"weight_packed", kU8, half}, {"weight_scale", kE4M3, by16}, {"weight_global_scale", kF32, {1}}}},
      {"NVFP4 packed W4A4",
       Storage::kNvfp4,
       true,
       {{"weight_packed", kU8, half},
        {"weight_scale", kE4M3, by16},
        {"weight_global_scale", kF32, {1}},
        {"input_global_scale", kF32, {1}}}},
  };
}

// Every projection of the model, by module and shape.
const std::vector<std::tuple<std::string, int64_t, int64_t, bool>> kModules = {
    {"model.layers.0.self_attn.qkv_proj", 704, 128, true},    {"model.layers.0.self_attn.q_proj", 384, 128, false},
    {"model.layers.1.self_attn.k_proj", 192, 128, false},     {"model.layers.0.self_attn.v_proj", 128, 128, false},
    {"model.layers.0.self_attn.o_proj", 128, 256, false},     {"lm_head", 4, 128, false},
    {"model.layers.0.mlp.up_proj", 192, 128, false},          {"model.layers.0.mlp.down_proj", 128, 192, false},
    {"model.layers.1.mlp.experts.1.up_proj", 64, 128, false}, {"model.mtp.layers.0.mlp.gate_proj", 192, 128, false},
    {"model.mtp.layers.0.eh_proj", 128, 256, false},          {"model.mtp.layers.0.self_attn.qkv_proj", 704, 128, true},
};

TEST(StoredWeight, EveryStorageOfEveryProjectionIsRead) {
  for (const auto& [module, rows, cols, fused] : kModules) {
    for (const Form& form : Forms(rows, cols)) {
      Arrays arrays = Model(fused);
      ASSERT_NE(Find(arrays, module + ".weight"), nullptr) << module;
      Store(arrays, module, form.parts);
      const Catalogue catalogue = MakeCatalogue(arrays, kConfig);
      const auto inventory = TakeInventory(catalogue);
      ASSERT_TRUE(inventory.ok()) << module << ", " << form.label << ": " << inventory.error().Message();
      EXPECT_EQ(inventory.value().unknown.size(), 0u);
      const TensorId id = catalogue.table->Identify(module + ".weight");
      size_t found = 0;
      for (const Weight& weight : inventory.value().weights) {
        if (weight.id != id) {
          EXPECT_EQ(weight.storage, Storage::kPlain);
          continue;
        }
        ++found;
        const size_t part = module.size() + 1;  // clang before 16 captures no structured binding
        const auto name = [&](uint32_t array) {
          return array == kNone ? std::string() : catalogue.arrays[array].name.substr(part);
        };
        const bool w4a4 = form.parts.size() == 4;
        EXPECT_EQ(weight.storage, form.storage) << form.label;
        EXPECT_EQ(weight.rows, rows) << form.label;
        EXPECT_EQ(weight.cols, cols) << form.label;
        EXPECT_EQ(name(weight.array), form.parts[0].name);
        EXPECT_EQ(name(weight.scale), form.parts.size() > 1 ? form.parts[1].name : "");
        EXPECT_EQ(name(weight.global), form.parts.size() > 2 ? form.parts[2].name : "");
        EXPECT_EQ(name(weight.input), w4a4 ? form.parts[3].name : "");
        EXPECT_EQ(weight.global_divides, form.divides);
      }
      EXPECT_EQ(found, 1u) << module;
      const bool attention = module.find("self_attn") != std::string::npos && !module.ends_with("o_proj");
      EXPECT_EQ(inventory.value().quantized_attention, attention && form.storage == Storage::kFp8Block) << form.label;
    }
  }
}

TEST(StoredWeight, NoCompanionMayBeMissingOrOfAnotherTypeOrShape) {
  const std::string module = "model.layers.1.mlp.experts.0.down_proj";  // [128, 64]
  for (const Form& form : Forms(128, 64)) {
    if (form.storage == Storage::kPlain) continue;
    for (size_t i = 0; i < form.parts.size(); ++i) {
      const std::string part = module + "." + form.parts[i].name;
      const bool input = form.parts[i].name.starts_with("input_");
      const auto take = [&](const std::function<void(std::vector<Stored>&)>& edit) {
        Arrays arrays = Model();
        std::vector<Stored> parts = form.parts;
        edit(parts);
        Store(arrays, module, parts);
        return TakeInventory(MakeCatalogue(arrays, kConfig));
      };
      const auto refused = [&](const std::string& tensor, const std::function<void(std::vector<Stored>&)>& edit) {
        const auto inventory = take(edit);
        ASSERT_FALSE(inventory.ok()) << form.label << " " << part;
        EXPECT_EQ(inventory.error().code, ErrorCode::kBadInput);
        EXPECT_FALSE(inventory.error().expected.empty() || inventory.error().found.empty() ||
                     inventory.error().advice.empty())
            << inventory.error().Message();
        if (!tensor.empty()) {
          EXPECT_EQ(inventory.error().tensor, tensor) << form.label << ": " << inventory.error().Message();
        }
      };
      if (input) {
        EXPECT_TRUE(take([&](auto& parts) { parts.erase(parts.begin() + static_cast<long>(i)); }).ok());
      } else {
        // Named is the codes' array, or the orphan when the codes are gone.
        refused(i > 0 ? module + "." + form.parts[0].name : "",
                [&](auto& parts) { parts.erase(parts.begin() + static_cast<long>(i)); });
      }
      if (i == 0) continue;
      refused(part, [&](auto& parts) { parts[i].dtype = DType::kI32; });
      refused(part, [&](auto& parts) { parts[i].shape.push_back(2); });
      refused(part, [&](auto& parts) { parts[i].shape = {3, 5}; });
    }
  }
}

TEST(StoredWeight, NothingMayStandBesideAWeightThatItsStorageDoesNotHave) {
  const std::string module = "model.layers.0.mlp.up_proj";  // [192, 128]
  for (const Form& form : Forms(192, 128)) {
    for (const char* extra : {"weight_scale_inv", "weight_scale", "weight_scale_2", "input_scale", "weight_packed",
                              "weight_global_scale", "input_global_scale"}) {
      const auto same = [&](const Stored& part) { return part.name == extra; };
      if (std::any_of(form.parts.begin(), form.parts.end(), same)) continue;
      const bool may = form.storage == Storage::kNvfp4 || form.storage == Storage::kFp8Block;
      const bool input = std::string(extra) == (form.divides ? "input_global_scale" : "input_scale");
      Arrays arrays = Model();
      Store(arrays, module, form.parts);
      arrays.push_back({module + "." + extra, kF32, {}});
      const auto inventory = TakeInventory(MakeCatalogue(arrays, kConfig));
      EXPECT_EQ(inventory.ok(), may && input) << form.label << " with " << extra;
      if (inventory.ok()) continue;
      EXPECT_EQ(inventory.error().code, ErrorCode::kBadInput);
      EXPECT_TRUE(inventory.error().tensor.starts_with(module)) << inventory.error().Message();
    }
  }
}

TEST(StoredWeight, ErrorsSayWhatWentWrong) {
  const std::string module = "model.layers.0.mlp.up_proj";  // [192, 128]
  const auto message = [&](const std::vector<Stored>& parts) {
    Arrays arrays = Model();
    Store(arrays, module, parts);
    const auto inventory = TakeInventory(MakeCatalogue(arrays, kConfig));
    EXPECT_FALSE(inventory.ok());
    return inventory.ok() ? "" : inventory.error().Message();
  };
  const auto has = [](const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
  };
  const Stored codes = {"weight", kU8, {192, 64}}, global = {"weight_scale_2", kF32, {}};
  std::string text = message({codes, {"weight_scale", kE4M3, {8, 192}}, global});
  EXPECT_TRUE(has(text, "transposed") && has(text, "[192, 8]") && has(text, "[8, 192]")) << text;
  text = message({codes, {"weight_scale", kE4M3, {256, 8}}, global});  // rows padded to 128
  EXPECT_TRUE(has(text, "swizzled")) << text;
  text = message({codes, {"weight_scale", kE4M3, {2, 2, 32, 4, 4}}, global});
  EXPECT_TRUE(has(text, "swizzled")) << text;
  text = message({{"weight", kE4M3, {192, 128}}, {"weight_scale", kU8, {1024}}});
  EXPECT_TRUE(has(text, "swizzled")) << text;
  text = message({codes, {"weight_scale", kE4M3, {192, 4}}, global});
  EXPECT_TRUE(has(text, "groups of 32")) << text;
  text = message({{"weight", kE4M3, {192, 128}}, {"weight_scale", kF32, {2, 1, 1, 1}}});
  EXPECT_TRUE(has(text, "FP8_PB_WO")) << text;
  text = message({codes, {"weight_scale", kE4M3, {192, 8}}});
  EXPECT_TRUE(has(text, "without their global scale") && has(text, "weight_scale_2")) << text;
  text = message({{"weight_packed", kU8, {192, 64}}, {"weight_scale", kE4M3, {192, 8}}});
  EXPECT_TRUE(has(text, "weight_global_scale")) << text;
  text = message({codes, {"weight_scale", kU8, {192, 4}}, global});
  EXPECT_TRUE(has(text, "an MXFP4 weight does not have")) << text;
  text = message({{"weight", kE4M3, {192, 128}}, {"weight_scale", kF32, {192, 2}}});
  EXPECT_TRUE(has(text, "[2, 1]")) << text;
  text = message({{"weight", kU8, {192, 60}}, {"weight_scale", kE4M3, {192, 7}}, global});
  EXPECT_TRUE(has(text, "whole groups of 16")) << text;
  text = message({codes});
  EXPECT_TRUE(has(text, "4-bit codes without their scales")) << text;
  // Shapes that fit each other and not the config.
  text = message({{"weight", kU8, {192, 128}}, {"weight_scale", kE4M3, {192, 16}}, global});
  EXPECT_TRUE(has(text, "contradicts config.json") && has(text, "[192, 256]")) << text;
}

// kConfig with a quantization_config of these blocks.
std::string WithBlocks(int64_t rows, int64_t cols) {
  return std::string(kConfig, sizeof(kConfig) - 2) + R"(, "quantization_config": {"quant_method": "fp8",
      "weight_block_size": [)" +
         std::to_string(rows) + ", " + std::to_string(cols) + "]}}";
}

// The weight that module X is stored as.
Result<Weight> WeightOf(const std::string& module, const std::vector<Stored>& parts, const std::string& config) {
  Arrays arrays = Model();
  Store(arrays, module, parts);
  const Catalogue catalogue = MakeCatalogue(arrays, config);
  auto inventory = TakeInventory(catalogue);
  if (!inventory.ok()) return inventory.TakeError();
  for (const Weight& weight : inventory.value().weights) {
    if (NameOfPart(catalogue.arrays[weight.array].name, Part::kWeight) == module + ".weight") return weight;
  }
  return Error{};
}

TEST(StoredWeight, BlocksOfFp8AreThoseOfTheConfig) {
  const std::string module = "model.layers.0.mlp.up_proj";  // [192, 128]
  struct Case {
    int64_t rows, cols;
    std::vector<int64_t> scales;
  };
  for (const Case& c : std::vector<Case>{{128, 128, {2, 1}},
                                         {64, 128, {3, 1}},
                                         {64, 32, {3, 4}},
                                         {128, 96, {2, 2}},
                                         {7, 64, {28, 2}},
                                         {1, 32, {192, 4}},
                                         {1000, 1024, {1, 1}}}) {
    const std::string config = WithBlocks(c.rows, c.cols);
    for (const char* part : {"weight_scale_inv", "weight_scale", "scale"}) {
      const auto weight = WeightOf(module, {{"weight", kE4M3, {192, 128}}, {part, kF32, c.scales}}, config);
      ASSERT_TRUE(weight.ok()) << c.rows << "x" << c.cols << ": " << weight.error().Message();
      EXPECT_EQ(weight.value().storage, Storage::kFp8Block);
      EXPECT_EQ(weight.value().block_rows, c.rows);
      EXPECT_EQ(weight.value().block_cols, c.cols);
      EXPECT_FALSE(weight.value().per_row());
      std::vector<int64_t> wrong = c.scales;
      ++wrong[0];
      EXPECT_FALSE(WeightOf(module, {{"weight", kE4M3, {192, 128}}, {part, kF32, wrong}}, config).ok());
    }
  }
  const auto odd =
      WeightOf(module, {{"weight", kE4M3, {192, 128}}, {"weight_scale_inv", kF32, {2, 3}}}, WithBlocks(128, 48));
  ASSERT_FALSE(odd.ok());
  EXPECT_NE(odd.error().Message().find("multiples of 32"), std::string::npos) << odd.error().Message();
}

TEST(StoredWeight, OneScalePerRowIsKnownByItsShape) {
  const std::string down = "model.layers.0.mlp.down_proj";  // [128, 192]: a row is wider than a block
  const std::string up = "model.layers.0.mlp.up_proj";      // [192, 128]: as wide as a block
  for (const DType type : {kF32, kBf16, DType::kF16, DType::kF8E8M0}) {
    for (const char* part : {"weight_scale_inv", "weight_scale", "scale"}) {
      for (const bool vector : {false, true}) {
        const auto shape = [&](int64_t rows) {
          return vector ? std::vector<int64_t>{rows} : std::vector<int64_t>{rows, 1};
        };
        const auto weight = WeightOf(down, {{"weight", kE4M3, {128, 192}}, {part, type, shape(128)}}, kConfig);
        ASSERT_TRUE(weight.ok()) << weight.error().Message();
        EXPECT_EQ(weight.value().storage, Storage::kFp8Block);
        EXPECT_EQ(weight.value().block_rows, 1);
        EXPECT_EQ(weight.value().block_cols, 192);
        EXPECT_TRUE(weight.value().per_row());
        EXPECT_FALSE(WeightOf(down, {{"weight", kE4M3, {128, 192}}, {part, type, shape(127)}}, kConfig).ok());
        EXPECT_FALSE(WeightOf(down, {{"weight", kE4M3, {128, 192}}, {part, DType::kI32, shape(128)}}, kConfig).ok());
        EXPECT_TRUE(WeightOf(up, {{"weight", kE4M3, {192, 128}}, {part, type, shape(192)}}, kConfig).value().per_row());
      }
    }
  }
  const std::vector<Stored> codes = {{"weight", kE4M3, {192, 128}}};
  std::vector<Stored> both = {codes[0], {"scale", kF32, {192, 1}}, {"weight_scale_inv", kF32, {2, 1}}};
  const auto refused = WeightOf(up, both, kConfig);
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.error().what.find("two arrays of scales"), std::string::npos);
  EXPECT_FALSE(WeightOf(up, {codes[0], {"scale", kU8, {192, 4}}}, kConfig).ok());  // no MXFP8 under this name
}

TEST(StoredWeight, OneScaleForAWholeTensor) {
  const std::string up = "model.layers.0.mlp.up_proj";
  for (const DType type : {kF32, kBf16, DType::kF16}) {
    for (const std::vector<int64_t>& shape : std::vector<std::vector<int64_t>>{{}, {1}}) {
      const std::vector<Stored> parts = {{"weight", kE4M3, {192, 128}}, {"weight_scale", type, shape}};
      const auto weight = WeightOf(up, parts, kConfig);
      ASSERT_TRUE(weight.ok()) << weight.error().Message();
      EXPECT_TRUE(weight.value().per_tensor());
      EXPECT_EQ(weight.value().block_rows, 192);
      EXPECT_EQ(weight.value().block_cols, 128);
      std::vector<Stored> fixed = parts;
      fixed.push_back({"input_scale", type, {}});
      EXPECT_NE(WeightOf(up, fixed, kConfig).value().input, kNone);
      fixed.back().shape = {2};
      EXPECT_FALSE(WeightOf(up, fixed, kConfig).ok());
    }
  }
  // A weight no larger than a block: blocks, as the config says.
  const auto small = WeightOf("model.layers.1.mlp.experts.0.up_proj",
                              {{"weight", kE4M3, {64, 128}}, {"weight_scale", kF32, {1, 1}}}, kConfig);
  ASSERT_TRUE(small.ok()) << small.error().Message();
  EXPECT_TRUE(small.value().in_blocks());
}

TEST(StoredWeight, ExponentsAreOfBlocksOrOfGroupsByTheirShape) {
  const std::string up = "model.layers.0.mlp.up_proj";
  for (const DType type : {DType::kF8E8M0, kU8}) {
    const auto blocks = WeightOf(up, {{"weight", kE4M3, {192, 128}}, {"weight_scale_inv", type, {2, 1}}}, kConfig);
    ASSERT_TRUE(blocks.ok()) << blocks.error().Message();
    EXPECT_TRUE(blocks.value().in_blocks());
    const auto groups = WeightOf(up, {{"weight", kE4M3, {192, 128}}, {"weight_scale_inv", type, {192, 4}}}, kConfig);
    ASSERT_TRUE(groups.ok());
    EXPECT_EQ(groups.value().storage, Storage::kMxfp8);
  }
}

TEST(StoredWeight, BytesAreFp8WhereScalesLeaveNoDoubt) {
  const std::string up = "model.layers.0.mlp.up_proj";
  const auto with = [&](const char* part, DType type, std::vector<int64_t> shape) {
    return WeightOf(up, {{"weight", kU8, {192, 128}}, {part, type, std::move(shape)}}, kConfig);
  };
  EXPECT_TRUE(with("weight_scale_inv", kF32, {2, 1}).value().in_blocks());
  EXPECT_TRUE(with("weight_scale", kBf16, {2, 1}).value().in_blocks());
  EXPECT_TRUE(with("weight_scale", kBf16, {192}).value().per_row());
  EXPECT_FALSE(with("weight_scale", kF32, {}).ok());         // may be any integers
  EXPECT_FALSE(with("weight_scale_inv", kU8, {2, 1}).ok());  // bytes under bytes
  EXPECT_FALSE(with("weight_scale_inv", kF32, {192, 4}).ok());
}

TEST(StoredWeight, F4CountsCodes) {
  const std::string up = "model.layers.0.mlp.up_proj";
  const auto mxfp4 = WeightOf(up, {{"weight", DType::kF4, {192, 128}}, {"weight_scale", kU8, {192, 4}}}, kConfig);
  ASSERT_TRUE(mxfp4.ok()) << mxfp4.error().Message();
  EXPECT_EQ(mxfp4.value().storage, Storage::kMxfp4);
  EXPECT_EQ(mxfp4.value().cols, 128);
  const auto nvfp4 = WeightOf(up,
                              {{"weight_packed", DType::kF4, {192, 128}},
                               {"weight_scale", kE4M3, {192, 8}},
                               {"weight_global_scale", kF32, {1}}},
                              kConfig);
  ASSERT_TRUE(nvfp4.ok()) << nvfp4.error().Message();
  EXPECT_EQ(nvfp4.value().storage, Storage::kNvfp4);
  EXPECT_FALSE(WeightOf(up, {{"weight", DType::kF4, {192, 64}}, {"weight_scale", kU8, {192, 4}}}, kConfig).ok());
}

// Rows that carry their own scales ask nothing of the layout: attention of this kind has no grid.
TEST(StoredWeight, AttentionWithOneScalePerRowHasNoGrid) {
  const std::string module = "model.layers.0.self_attn.k_proj";  // [192, 128]
  for (const bool per_row : {false, true}) {
    Arrays arrays = Model();
    Store(arrays, module, {{"weight", kE4M3, {192, 128}}, {"scale", kF32, {per_row ? 192 : 2, 1}}});
    const auto inventory = TakeInventory(MakeCatalogue(arrays, kConfig));
    ASSERT_TRUE(inventory.ok()) << inventory.error().Message();
    EXPECT_EQ(inventory.value().quantized_attention, !per_row);
  }
}

TEST(StoredWeight, TheConfigDecidesNothingButTheBlockOfBlockFp8) {
  const std::string base(kConfig, sizeof(kConfig) - 2);
  const auto config = [&](const std::string& quantization) {
    return base + ", \"quantization_config\": " + quantization + "}";
  };
  const auto take = [&](const Form& form, const std::string& text) {
    Arrays arrays = Model();
    Store(arrays, "model.layers.0.mlp.up_proj", form.parts);
    return TakeInventory(MakeCatalogue(arrays, text));
  };
  for (const Form& form : Forms(192, 128)) {
    for (const char* quantization :
         {R"({"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"],
              "config_groups": {"group_0": {"weights": {"num_bits": 4}, "targets": ["Linear"]}}})",
          R"({"quant_method": "compressed-tensors", "format": "mixed-precision", "kv_cache_scheme": null,
              "config_groups": {}, "weight_block_size": null})",
          R"({"quant_method": "fp8", "weight_block_size": [128, 128], "store_dtype": "mxfp4"})"}) {
      const auto inventory = take(form, config(quantization));
      EXPECT_TRUE(inventory.ok()) << form.label << ": " << inventory.error().Message();
    }
    const bool fp8 = form.storage == Storage::kFp8Block;
    EXPECT_EQ(take(form, config(R"({"quant_method": "mxfp8", "weight_block_size": [1, 32]})")).ok(), !fp8)
        << form.label;
  }
}

}  // namespace
}  // namespace mimo::stored_weight_test
