// Descriptions of catalogues made by hand: families, totals. No tensor data is needed for any of it.
#include "lib/inspect/describe.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "lib/model/family.h"

namespace mimo::describe_test {
namespace {

struct Stored {
  std::string name;
  DType dtype;
  std::vector<int64_t> shape;
  TensorId id;
};

Catalogue MakeCatalogue(std::vector<Stored> arrays) {
  Catalogue catalogue;
  catalogue.config.family = Family::Get("mimo_v2").value();
  catalogue.root = "/x";
  std::sort(arrays.begin(), arrays.end(), [](const Stored& a, const Stored& b) { return a.name < b.name; });
  CatalogueFile file;
  file.name = "model.safetensors";
  file.bytes = file.data_begin = 80;
  for (const Stored& stored : arrays) {
    StoredArray array;
    array.name = stored.name;
    array.dtype = stored.dtype;
    array.shape = stored.shape;
    array.id = stored.id;
    array.bytes = BitsPerElement(stored.dtype) / 8;
    for (int64_t n : stored.shape) array.bytes *= static_cast<uint64_t>(n);
    file.bytes += array.bytes;
    catalogue.by_name.emplace(array.name, static_cast<uint32_t>(catalogue.arrays.size()));
    catalogue.arrays.push_back(std::move(array));
  }
  catalogue.files.push_back(file);
  return catalogue;
}

ModelConfig Geometry(int64_t hidden, int64_t layers, int64_t heads, int64_t kv_heads, int64_t experts) {
  ModelConfig config;
  config.text = "{}";
  config.family = Family::Get("mimo_v2").value();
  config.model_type = "mimo_v2";
  config.hidden = hidden;
  config.layers = layers;
  config.experts = experts;
  config.global = {heads, kv_heads, 192, 128};
  config.window = {heads, 8, 192, 128};
  config.windowed.assign(static_cast<size_t>(layers), 1);
  config.windowed[0] = 0;
  config.mtp_windowed = true;
  config.moe.assign(static_cast<size_t>(layers), 1);
  config.moe[0] = 0;
  return config;
}

TensorId Id(Role role, int layer, Part part = Part::kWeight, int expert = -1) {
  return {role, part, false, layer, expert};
}
TensorId MtpId(Role role, int layer, Part part = Part::kWeight) {
  return {role, part, true, layer, -1};
}

// Two decoder layers (one full and dense, one windowed with two experts) and one MTP layer's attention.
Catalogue SmallFused() {
  Catalogue catalogue = MakeCatalogue({
      {"model.embed_tokens.weight", DType::kBF16, {10, 4}, Id(Role::kEmbed, -1)},
      {"model.layers.0.self_attn.qkv_proj.weight", DType::kF8E4M3, {13568, 4}, Id(Role::kAttnQkv, 0)},
      {"model.layers.0.self_attn.qkv_proj.weight_scale_inv",
       DType::kF32,
       {108, 1},
       Id(Role::kAttnQkv, 0, Part::kScaleInv)},
      {"model.layers.0.self_attn.o_proj.weight", DType::kBF16, {4, 8}, Id(Role::kAttnO, 0)},
      {"model.layers.0.mlp.gate_proj.weight", DType::kBF16, {4, 4}, Id(Role::kMlpGate, 0)},
      {"model.layers.1.self_attn.qkv_proj.weight", DType::kF8E4M3, {14848, 4}, Id(Role::kAttnQkv, 1)},
      {"model.layers.1.self_attn.qkv_proj.weight_scale_inv",
       DType::kF32,
       {116, 1},
       Id(Role::kAttnQkv, 1, Part::kScaleInv)},
      {"model.layers.1.mlp.experts.0.down_proj.weight",
       DType::kU8,
       {4, 16},
       Id(Role::kExpertDown, 1, Part::kWeight, 0)},
      {"model.layers.1.mlp.experts.0.down_proj.weight_scale",
       DType::kU8,
       {4, 1},
       Id(Role::kExpertDown, 1, Part::kScale, 0)},
      {"model.layers.1.mlp.experts.1.down_proj.weight",
       DType::kU8,
       {4, 16},
       Id(Role::kExpertDown, 1, Part::kWeight, 1)},
      {"model.layers.1.mlp.experts.1.down_proj.weight_scale",
       DType::kU8,
       {4, 1},
       Id(Role::kExpertDown, 1, Part::kScale, 1)},
      {"model.mtp.layers.0.eh_proj.weight", DType::kBF16, {4, 8}, MtpId(Role::kMtpEhProj, 0)},
      {"model.mtp.layers.0.self_attn.o_proj.weight", DType::kBF16, {4, 8}, MtpId(Role::kAttnO, 0)},
  });
  catalogue.config = Geometry(4096, 2, 64, 4, 256);
  catalogue.config.quant_method = "fp8";
  return catalogue;
}

TEST(Describe, TellsStoragesApartByTheScalesBesideThem) {
  const auto storage = [](const char* codes, DType dtype, const char* scales, DType scale_dtype) {
    const std::string module = "model.layers.1.mlp.experts.0.down_proj.";
    const Catalogue catalogue =
        MakeCatalogue({{module + codes, dtype, {4, 16}, Id(Role::kExpertDown, 1, Part::kWeight, 0)},
                       {module + scales, scale_dtype, {4, 1}, Id(Role::kExpertDown, 1, Part::kScale, 0)}});
    return StorageName(catalogue, *catalogue.Find(module + codes));
  };
  EXPECT_EQ(storage("weight", DType::kF8E4M3, "weight_scale_inv", DType::kF32), "fp8");
  EXPECT_EQ(storage("weight", DType::kF8E4M3, "weight_scale", DType::kF32), "fp8");
  EXPECT_EQ(storage("weight", DType::kF8E4M3, "weight_scale", DType::kU8), "mxfp8");
  EXPECT_EQ(storage("weight", DType::kF8E4M3, "weight_scale_inv", DType::kU8), "mxfp8");
  EXPECT_EQ(storage("weight", DType::kU8, "weight_scale", DType::kU8), "mxfp4");
  EXPECT_EQ(storage("weight_packed", DType::kU8, "weight_scale", DType::kU8), "mxfp4");
  EXPECT_EQ(storage("weight", DType::kU8, "weight_scale", DType::kF8E4M3), "nvfp4");
  EXPECT_EQ(storage("weight_packed", DType::kU8, "weight_scale", DType::kF8E4M3), "nvfp4");
}

TEST(Describe, CountsTensorsBytesRolesAndLayers) {
  Catalogue catalogue = SmallFused();
  catalogue.carried = {{"dflash/config.json", 5}, {"dflash/w.safetensors", 7}, {"tokenizer.json", 3}};
  Result<Description> d = Describe(catalogue, nullptr, nullptr, {1});
  ASSERT_TRUE(d.ok()) << d.error().Message();
  EXPECT_EQ(d->tensor_count, 13u);
  EXPECT_EQ(d->payload_bytes,
            10u * 4 * 2 + 13568 * 4 + 108 * 4 + 64 + 32 + 14848 * 4 + 116 * 4 + 2 * (64 + 4) + 64 + 64);
  EXPECT_EQ(d->file_bytes, d->payload_bytes + 80);
  EXPECT_EQ(d->mtp_layers, 1);
  EXPECT_EQ(d->qkv_layout, "fused");
  EXPECT_FALSE(d->verdict.has_value());
  EXPECT_TRUE(d->engines.empty());
  EXPECT_EQ(d->attention_by_layer, (std::vector<std::string>{"full", "window"}));
  ASSERT_EQ(d->attention.size(), 2u);
  EXPECT_EQ(d->attention[0].stored.kv_heads, 4);
  EXPECT_EQ(d->attention[1].layers, std::vector<int>{1});
  ASSERT_EQ(d->layer_rows.size(), 3u);
  EXPECT_EQ(d->layer_rows[0].qkv_scale_rows, 108);
  EXPECT_EQ(d->layer_rows[0].mlp, "dense");
  EXPECT_EQ(d->layer_rows[1].experts, 2);
  EXPECT_EQ(d->layer_rows[1].mlp_storage, "mxfp4");
  EXPECT_EQ(d->layer_rows[1].bytes, 14848u * 4 + 116 * 4 + 2 * 68);
  EXPECT_TRUE(d->layer_rows[2].mtp);
  EXPECT_EQ(d->layer_rows[2].attention, "window");
  ASSERT_EQ(d->subdirectories.size(), 1u);
  EXPECT_EQ(d->subdirectories[0].files, 2u);
  EXPECT_EQ(d->subdirectories[0].bytes, 12u);
  ASSERT_EQ(d->carried.size(), 1u);
  const auto down =
      std::find_if(d->roles.begin(), d->roles.end(), [](const RoleTotal& r) { return r.role == Role::kExpertDown; });
  ASSERT_NE(down, d->roles.end());
  EXPECT_EQ(down->storage, "mxfp4");
  EXPECT_EQ(down->weights, 2u);
  EXPECT_EQ(down->bytes, 136u);
  uint64_t by_dtype = 0;
  for (const DTypeTotal& total : d->dtypes) by_dtype += total.bytes;
  EXPECT_EQ(by_dtype, d->payload_bytes);
}

TEST(Describe, ReplicatedKvHeadsAreToldFromTheModelsOwn) {
  Catalogue catalogue = SmallFused();
  catalogue.config.global.kv_heads = 8;
  catalogue.config.marker = LayoutMarker{.fused = true, .chunks = 8, .kv_heads = 4, .swa_kv_heads = 8};
  Result<Description> d = Describe(catalogue, nullptr, nullptr, {1});
  ASSERT_TRUE(d.ok());
  EXPECT_EQ(d->attention[0].stored.kv_heads, 8);
  EXPECT_EQ(d->attention[0].logical_kv_heads, 4);
}

std::string FamilyOf(const ModelConfig& config, DType experts, DType router, bool towers) {
  std::vector<Stored> arrays = {
      {"model.layers.1.mlp.experts.0.down_proj.weight", experts, {4, 4}, Id(Role::kExpertDown, 1, Part::kWeight, 0)},
      {"model.layers.1.mlp.gate.weight", router, {4, 4}, Id(Role::kRouter, 1)}};
  if (towers) arrays.push_back({"visual.x", DType::kBF16, {2}, {Role::kVision, Part::kWeight, false, -1, -1}});
  Catalogue catalogue = MakeCatalogue(std::move(arrays));
  catalogue.config = config;
  std::vector<std::string> evidence;
  Result<std::string> family = IdentifyFamily(catalogue, &evidence);
  EXPECT_TRUE(family.ok());
  EXPECT_FALSE(evidence.empty());
  return family.ok() ? *family : "";
}

TEST(Family, FollowsFromGeometryAndStorage) {
  const ModelConfig flash = Geometry(4096, 48, 64, 4, 256);
  const ModelConfig pro = Geometry(6144, 70, 128, 8, 384);
  EXPECT_EQ(FamilyOf(flash, DType::kF8E4M3, DType::kF32, true), "MiMo-V2.5");
  EXPECT_EQ(FamilyOf(flash, DType::kU8, DType::kF32, true), "MiMo-V2.5-FP4");
  EXPECT_EQ(FamilyOf(flash, DType::kU8, DType::kBF16, true), "MiMo-V2.6-Flash");
  EXPECT_EQ(FamilyOf(pro, DType::kF8E4M3, DType::kF32, false), "MiMo-V2.5-Pro");
  EXPECT_EQ(FamilyOf(pro, DType::kU8, DType::kF32, false), "MiMo-V2.5-Pro-FP4");
  EXPECT_EQ(FamilyOf(pro, DType::kU8, DType::kBF16, true), "MiMo-V2.6-Pro");
  ModelConfig v2 = flash;
  v2.model_type = "mimo_v2_flash";
  EXPECT_EQ(FamilyOf(v2, DType::kF8E4M3, DType::kF32, false), "MiMo-V2-Flash");
  ModelConfig v26 = flash;
  v26.router_dtype = "bfloat16";
  EXPECT_EQ(FamilyOf(v26, DType::kBF16, DType::kBF16, false), "MiMo-V2.6-Flash");
  ModelConfig cut = flash;
  cut.layers = 47;
  EXPECT_EQ(FamilyOf(cut, DType::kF8E4M3, DType::kF32, true), "MiMo-V2.5");
  ModelConfig other = flash;
  other.global.head_dim = 128;
  other.hidden = 2048;
  EXPECT_EQ(FamilyOf(other, DType::kF8E4M3, DType::kF32, true), "mimo-v2");
  ModelConfig replicated = flash;
  replicated.global.kv_heads = 8;
  replicated.marker = LayoutMarker{.fused = true, .chunks = 8, .kv_heads = 4, .swa_kv_heads = 8};
  EXPECT_EQ(FamilyOf(replicated, DType::kF8E4M3, DType::kF32, true), "MiMo-V2.5");
}

}  // namespace
}  // namespace mimo::describe_test
