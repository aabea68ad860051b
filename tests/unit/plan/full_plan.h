// A small checkpoint and a plan for it in which every field has another value than usual somewhere.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "lib/plan/plan_json.h"

namespace mimo::full_plan {

inline constexpr char kOddName[] = "od\"d\\na\nme \x01 \xC3\xA9";  // a quote, a backslash, control characters, UTF-8

inline uint32_t AddArray(Catalogue& catalogue, const std::string& name, DType dtype, std::vector<int64_t> shape,
                         uint32_t file) {
  StoredArray array;
  array.name = name;
  array.dtype = dtype;
  array.shape = std::move(shape);
  array.file = file;
  array.bytes = BitsPerElement(dtype) / 8;
  for (int64_t n : array.shape) array.bytes *= static_cast<uint64_t>(n);
  array.begin = catalogue.files[file].bytes;
  catalogue.files[file].bytes += array.bytes;
  const auto index = static_cast<uint32_t>(catalogue.arrays.size());
  catalogue.by_name.emplace(name, index);
  catalogue.arrays.push_back(std::move(array));
  return index;
}

enum Arrays : uint32_t { kCodes, kCodesScale, kGone, kMx, kMxScale, kNorm, kTile, kTileScale, kOdd };

inline Catalogue MakeCatalogue() {
  Catalogue catalogue;
  catalogue.root = "/models/x";
  catalogue.config.text = "{}";
  for (const char* name : {"a.safetensors", "b.safetensors"}) {
    CatalogueFile file;
    file.name = name;
    file.data_begin = file.bytes = 64;
    catalogue.files.push_back(file);
  }
  AddArray(catalogue, "codes", DType::kF8E4M3, {256, 256}, 0);
  AddArray(catalogue, "codes_scale_inv", DType::kF32, {3, 2}, 0);
  AddArray(catalogue, "gone", DType::kF32, {2}, 0);
  AddArray(catalogue, "mx", DType::kU8, {4, 16}, 0);
  AddArray(catalogue, "mx_scale", DType::kU8, {4, 1}, 0);
  AddArray(catalogue, "norm", DType::kBF16, {8}, 0);
  AddArray(catalogue, "tile", DType::kF8E4M3, {4, 8}, 0);
  AddArray(catalogue, "tile_scale_inv", DType::kF32, {2, 2}, 0);
  AddArray(catalogue, kOddName, DType::kBF16, {2, 3}, 1);
  catalogue.carried = {{"dflash/config.json", 3}, {"tokenizer.json", 9}};
  return catalogue;
}

inline std::string Header(const std::string& json) {
  std::string header;
  for (int i = 0; i < 8; ++i) header += static_cast<char>(json.size() >> (8 * i) & 0xFF);
  return header + json;
}

inline OutputArray Output(std::string name, DType dtype, std::vector<int64_t> shape, Transform transform, Codec codec) {
  OutputArray output;
  output.name = std::move(name);
  output.id = {Role::kExpertDown, Part::kWeight, false, 7, 255};
  output.dtype = dtype;
  output.shape = std::move(shape);
  output.transform = transform;
  output.target_codec = codec;
  return output;
}

// Enters the output at the end of its file and in its group.
inline void Add(Plan& plan, OutputArray output, uint32_t file, uint32_t group) {
  uint64_t bytes = BitsPerElement(output.dtype) / 8;
  for (int64_t n : output.shape) bytes *= static_cast<uint64_t>(n);
  output.file = file;
  output.begin = plan.files[file].bytes;
  output.end = plan.files[file].bytes = output.begin + bytes;
  output.group = group;
  const auto index = static_cast<uint32_t>(plan.outputs.size());
  plan.files[file].outputs.push_back(index);
  plan.groups[group].outputs.push_back(index);
  plan.payload_bytes += bytes;
  plan.outputs.push_back(std::move(output));
}

// Every field away from its default somewhere.
inline Plan MakePlan(const Catalogue& catalogue) {
  Plan plan;
  plan.tool_version = "9.9";
  plan.options.dtype = DTypeChoice::kFp16;
  plan.options.qkv = QkvWish("fused:8");
  plan.options.source_qkv = QkvWish("split");
  plan.options.on_straddle = StraddlePolicy::kBf16;
  plan.options.lossless = plan.options.fresh_scales = plan.options.text_only = true;
  plan.options.unknown = UnknownPolicy::kCarry;
  plan.options.include = {"a\\.b", "c\"d"};
  plan.options.exclude = {"^x"};
  plan.options.max_shard_bytes = 5'000'000'000;
  plan.source_fingerprint = catalogue.Fingerprint();
  plan.source_layout = {{QkvKind::kSplit, 4}, "index tp_size", true, {"line 1", "line \"2\""}};
  plan.target_layout = {QkvKind::kFused, 8};
  plan.notes = {"a note\nof two lines"};
  plan.carried = {"dflash/config.json", "tokenizer.json"};
  plan.texts = {{"config.json", "{\"a\": \"\\u00e9\"}\n"}, {"model.safetensors.index.json", ""}};
  plan.file_groups = 2;
  plan.lossless = false;

  auto source = [&](uint32_t array) -> SourceArray& {
    plan.sources.emplace_back().array = array;
    return plan.sources.back();
  };
  SourceArray& codes = source(kCodes);  // source 0
  codes.quantized = true;
  codes.codec = Codec::kFp8Block;
  codes.bands = {{0, 100, 1, 0}, {100, 128, 1, 1}, {128, 256, 1, 2}};
  source(kCodesScale);
  SourceArray& mx = source(kMx);  // source 2
  mx.quantized = true;
  mx.codec = Codec::kMxfp4;
  mx.scale = 3;
  source(kMxScale);
  source(kNorm).codec = Codec::kBf16;
  SourceArray& tile = source(kTile);  // source 5
  tile.quantized = true;
  tile.codec = Codec::kFp8Block;
  tile.scale = 6;
  tile.block_rows = 2;
  tile.block_cols = 4;
  source(kTileScale);
  source(kOdd);  // source 7

  plan.files.resize(2);
  plan.files[0].name = "a.safetensors";
  plan.files[0].header = Header("{\"quote\\\"\":1}");
  plan.files[0].bytes = plan.files[0].header.size();
  plan.files[0].source_file = 0;
  plan.files[0].file_group = 1;
  plan.files[1].name = "b.safetensors";
  plan.files[1].unchanged = true;
  plan.files[1].source_file = 1;
  plan.files[1].bytes = 64;
  plan.groups.resize(3);
  plan.groups[0].label = "layer \"0\"";
  plan.groups[0].file_group = plan.groups[1].file_group = 1;
  plan.groups[0].straddling_blocks = plan.straddling_blocks = 2;
  plan.groups[1].label = "rest";
  plan.groups[2].label = "odd";

  Add(plan, Output("codes", DType::kF8E4M3, {256, 256}, Transform::kRelayout, Codec::kFp8Block), 0, 0);
  Add(plan, Output("codes_scale_inv", DType::kF32, {2, 2}, Transform::kScales, Codec::kFp32), 0, 0);
  plan.outputs[1].id = {Role::kAttnQkv, Part::kScaleInv, true, 2, -1};
  plan.groups[0].cells = {{1, 0, false, {{0, 0, 0, 0, 100, 1, 0}, {0, 100, 0, 100, 28, 1, 1}}},
                          {1, 1, true, {{0, 128, 0, 128, 128, 1, 2}}}};
  OutputArray fp32 = Output("codes.fp32", DType::kF32, {256, 256}, Transform::kConvert, Codec::kFp32);
  fp32.pieces = {{0, 128, 0, 128}, {0, 0, 128, 128}};
  Add(plan, fp32, 0, 1);
  OutputArray mx16 = Output("mx.fp16", DType::kF16, {4, 32}, Transform::kConvert, Codec::kFp16);
  mx16.id = {Role::kEmbed, Part::kWeight, false, -1, -1};
  mx16.pieces = {{2, 0, 0, 4}};
  Add(plan, mx16, 0, 1);
  OutputArray norm = Output("norm", DType::kBF16, {8}, Transform::kMove, Codec::kBf16);
  norm.unchanged = true;
  norm.pieces = {{4, 0, 0, 1}};
  Add(plan, norm, 0, 1);
  OutputArray part = Output("tile.bf16", DType::kBF16, {1, 8}, Transform::kConvert, Codec::kBf16);
  part.pieces = {{5, 3, 0, 1}};
  Add(plan, part, 0, 1);
  OutputArray odd = Output(kOddName, DType::kBF16, {2, 3}, Transform::kMove, Codec::kBf16);
  odd.unchanged = true;
  odd.pieces = {{7, 0, 0, 2}};
  Add(plan, odd, 1, 2);

  for (uint32_t i = 0; i < catalogue.arrays.size(); ++i) plan.fates.push_back({i, Fate::kUsed, ""});
  plan.fates[kGone] = {kGone, Fate::kDropped, "because \"so\""};
  plan.digest = PlanDigest(catalogue, plan);
  return plan;
}

inline std::string Json(const Catalogue& catalogue, const Plan& plan) {
  std::string text;
  EXPECT_TRUE(WritePlanJson(catalogue, plan, [&](std::string_view piece) {
                text += piece;
                return Status();
              }).ok());
  return text;
}

inline void ExpectRefused(const Catalogue& catalogue, const std::string& text, const std::string& clue) {
  Result<Plan> read = ParsePlanJson(catalogue, text, "plan.json");
  ASSERT_FALSE(read.ok()) << clue;
  EXPECT_EQ(read.error().code, ErrorCode::kBadInput);
  EXPECT_EQ(read.error().file, "plan.json");
  EXPECT_NE(read.error().Message().find(clue), std::string::npos) << read.error().Message() << "\nwanted: " << clue;
}

}  // namespace mimo::full_plan
