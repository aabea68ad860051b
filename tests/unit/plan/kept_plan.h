// A plan that makes codes from values under scales that are there already, with a file of torch items and a small file
// that is not text.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "lib/io/torch/container.h"
#include "lib/io/torch/item.h"
#include "lib/plan/plan_json.h"

namespace mimo::kept_plan {

struct Stored {
  const char* name;
  DType dtype;
  std::vector<int64_t> shape;
};

enum Sources : uint32_t { kO0, kO1, kOKeep, kX, kXKeep, kK, kV, kKvKeep, kCodes, kCodesScale };
enum Outputs : uint32_t { kO, kOScale, kXCodes, kXScale, kOutK, kOutS, kOutV, kItem0, kItem1 };

inline Catalogue MakeCatalogue() {
  const std::vector<Stored> stored = {
      {"o0", DType::kBF16, {130, 40}},      {"o1", DType::kF32, {130, 60}},   {"o_keep", DType::kF32, {2, 1}},
      {"x", DType::kF16, {6, 64}},          {"x_keep", DType::kU8, {6, 2}},   {"k", DType::kBF16, {100, 200}},
      {"v", DType::kBF16, {28, 200}},       {"kv_keep", DType::kF32, {3, 2}}, {"codes", DType::kF8E4M3, {28, 200}},
      {"codes_scale", DType::kF32, {1, 2}},
  };
  Catalogue catalogue;
  catalogue.root = "/models/x";
  CatalogueFile file;
  file.name = "a.safetensors";
  file.bytes = file.data_begin = 64;
  catalogue.files.push_back(file);
  for (const Stored& s : stored) {
    StoredArray array{s.name, s.dtype, s.shape, 0, catalogue.files[0].bytes, *TensorBytes(s.dtype, s.shape), {}};
    catalogue.files[0].bytes += array.bytes;
    catalogue.by_name.emplace(s.name, static_cast<uint32_t>(catalogue.arrays.size()));
    catalogue.arrays.push_back(std::move(array));
  }
  return catalogue;
}

inline void Add(Plan& plan, uint32_t file, const char* name, DType dtype, std::vector<int64_t> shape,
                Transform transform, Codec codec, std::vector<Piece> pieces) {
  OutputArray output;
  output.name = name;
  output.dtype = dtype;
  output.shape = std::move(shape);
  output.transform = transform;
  output.target_codec = codec;
  output.pieces = std::move(pieces);
  output.file = file;
  output.group = file;
  const bool item = plan.files[file].container == &TorchItemsContainer();
  const TorchItemSize size = item ? SizeOfTorchItem(dtype, output.shape) : TorchItemSize{};
  output.begin = plan.files[file].bytes + size.head;
  output.end = output.begin + *TensorBytes(dtype, output.shape);
  plan.files[file].bytes = output.end + size.tail;
  plan.payload_bytes += output.end - output.begin;
  const auto index = static_cast<uint32_t>(plan.outputs.size());
  plan.files[file].outputs.push_back(index);
  plan.groups[file].outputs.push_back(index);
  plan.outputs.push_back(std::move(output));
}

inline Plan MakePlan(const Catalogue& catalogue) {
  Plan plan;
  plan.tool_version = "test";
  plan.source_fingerprint = catalogue.Fingerprint();
  plan.options.like = true;
  plan.options.iteration = 12;
  plan.options.to = TargetKind::kMegatron;
  plan.source_layout.layout = plan.target_layout = QkvLayout{QkvKind::kSplit, 1};
  for (uint32_t i = 0; i < catalogue.arrays.size(); ++i) {
    SourceArray source;
    source.array = i;
    const DType dtype = catalogue.arrays[i].dtype;
    source.codec = dtype == DType::kF32 ? Codec::kFp32 : dtype == DType::kF16 ? Codec::kFp16 : Codec::kBf16;
    plan.sources.push_back(source);
    plan.fates.push_back({i, Fate::kUsed, ""});
  }
  plan.files.resize(2);
  plan.groups.resize(2);
  plan.file_groups = 2;
  plan.files[0].name = "a.safetensors";
  const std::string json = "{}";
  plan.files[0].header = std::string("\2\0\0\0\0\0\0\0", 8) + json;
  plan.files[0].bytes = 10;
  plan.files[1].name = "iter_0000000/__0_1.distcp";
  plan.files[1].container = &TorchItemsContainer();
  plan.files[1].file_group = plan.groups[1].file_group = 1;
  plan.texts = {{"iter_0000000/.metadata", std::string("\x80\x02\0}q\0.", 7)},
                {"config.json", "{\"a\": \"\xC3\xA9\"}"}};

  Add(plan, 0, "o", DType::kF8E4M3, {130, 100}, Transform::kEncode, Codec::kFp8Block,
      {{kO0, 0, 0, 130, 0, 0, 40}, {kO1, 0, 0, 130, 0, 40, 60}});
  Add(plan, 0, "o_scale_inv", DType::kF32, {2, 1}, Transform::kBeside, Codec::kFp8Block, {});
  Add(plan, 0, "x", DType::kU8, {6, 32}, Transform::kEncode, Codec::kMxfp4, {{kX, 0, 0, 6}});
  Add(plan, 0, "x_scale", DType::kU8, {6, 2}, Transform::kBeside, Codec::kMxfp4, {});
  Add(plan, 0, "k", DType::kF8E4M3, {100, 200}, Transform::kRelayout, Codec::kBf16, {});
  Add(plan, 0, "kv_scale_inv", DType::kF32, {1, 2}, Transform::kScales, Codec::kBf16, {});
  Add(plan, 0, "v", DType::kF8E4M3, {28, 200}, Transform::kRelayout, Codec::kBf16, {});
  Add(plan, 1, "t[0,0]", DType::kF8E4M3, {28, 200}, Transform::kMove, Codec::kBf16, {{kCodes, 0, 0, 28}});
  Add(plan, 1, "t[28,0]", DType::kF32, {1, 2}, Transform::kMove, Codec::kBf16, {{kCodesScale, 0, 0, 1}});
  EncodedWeight o;
  o.encoding = {.codec = Codec::kFp8Block};
  o.codes = kO;
  o.scales = kOScale;
  o.keep = kOKeep;
  EncodedWeight x;
  x.encoding = {.codec = Codec::kMxfp4, .rule = kernels::ScaleRule::kRceil};
  x.codes = kXCodes;
  x.scales = kXScale;
  x.keep = kXKeep;
  plan.groups[0].encoded = {o, x};
  plan.groups[0].cells = {{kOutS, 0, false, {{kK, 0, kOutK, 0, 100}, {kV, 0, kOutV, 0, 28}}, kKvKeep, 2}};
  plan.digest = PlanDigest(catalogue, plan);
  return plan;
}

inline std::string Json(const Catalogue& catalogue, const Plan& plan) {
  std::string text;
  EXPECT_TRUE(WritePlanJson(catalogue, plan, [&](std::string_view part) {
                text += part;
                return Status();
              }).ok());
  return text;
}

}  // namespace mimo::kept_plan
