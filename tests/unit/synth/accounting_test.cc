// Names, shapes, dtypes and block grids of every preset add up to the published totals of the real checkpoints, so none
// of them can be wrong unnoticed (reference mimo-checkpoints.md sections 2.6, 9.1 and 9.2).
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "lib/model/role_groups.h"
#include "lib/synth/synth.h"

namespace mimo::accounting_test {
namespace {

SynthPlan Plan(const std::string& preset) {
  SynthOptions options;
  options.preset = preset;
  Result<SynthPlan> plan = PlanSynthetic(options);
  EXPECT_TRUE(plan.ok()) << plan.error().Message();
  return plan.ok() ? std::move(plan).value() : SynthPlan();
}

uint64_t Bytes(const SynthTensor& tensor) {
  return *TensorBytes(tensor.info.dtype, tensor.info.shape);
}

TEST(Accounting, EveryPresetGivesThePublishedTotals) {
  struct Published {
    const char* preset;
    uint64_t tensors, bytes, files;
  };
  const Published all[] = {
      {"mimo-v2-flash", 72826, 313051659008, 145},  {"mimo-v2.5", 73081, 315031102208, 17},
      {"minimax-m2", 96103, 230121630720, 125},     {"minimax-m2.7", 96103, 230121630720, 125},
      {"qwen3-30b-a3b-fp8", 37491, 31170895872, 7}, {"qwen3-235b-a22b-fp8", 73417, 239034937344, 48},
      {"glm-4.5", 44691, 716675611392, 144},        {"glm-4.5-air", 18329, 220937661440, 45},
      {"mimo-v2.5-pro", 159581, 1033369538304, 34}, {"mimo-v2.5-pro-fp4", 159581, 564286050048, 34},
      {"mimo-v2.6-flash", 73081, 172923364096, 65}, {"mimo-v2.6-pro", 160040, 566027990784, 130}};
  EXPECT_EQ(PresetNames().size(), std::size(all));
  for (const Published& published : all) {
    const SynthPlan plan = Plan(published.preset);
    EXPECT_EQ(plan.tensors, published.tensors) << published.preset;
    EXPECT_EQ(plan.payload_bytes, published.bytes) << published.preset;
    EXPECT_EQ(plan.files.size(), published.files) << published.preset;
  }
}

TEST(Accounting, EveryDtypeGivesThePublishedTotals) {
  struct Published {
    const char* preset;
    uint64_t f8_bytes, u8_bytes, f32_elements, bf16_elements;
  };
  const Published all[] = {{"mimo-v2.5", 306655002624, 0, 68012416, 4052024960},
                           {"mimo-v2.6-flash", 3859808256, 160859947008, 248192, 4101308032},
                           {"mimo-v2.5-pro", 1013569290240, 0, 224695296, 9450733440},
                           {"mimo-v2.6-pro", 13378781184, 531351207936, 857088, 10647286656}};
  for (const Published& published : all) {
    std::map<DType, uint64_t> bytes;
    for (const SynthFile& file : Plan(published.preset).files) {
      for (const SynthTensor& tensor : file.tensors) bytes[tensor.info.dtype] += Bytes(tensor);
    }
    EXPECT_EQ(bytes[DType::kF8E4M3], published.f8_bytes) << published.preset;
    EXPECT_EQ(bytes[DType::kU8], published.u8_bytes) << published.preset;
    EXPECT_EQ(bytes[DType::kF32], 4 * published.f32_elements) << published.preset;
    EXPECT_EQ(bytes[DType::kBF16], 2 * published.bf16_elements) << published.preset;
  }
}

std::string Category(const TensorId& id) {
  if (id.mtp) return "mtp";
  if (IsExpert(id.role)) return "experts";
  if (IsDenseMlp(id.role)) return "dense";
  if (id.role == Role::kRouter) return "router";
  if (id.role == Role::kRouterBias) return "router bias";
  if (id.role == Role::kEmbed) return "embed";
  if (id.role == Role::kLmHead) return "head";
  if (id.role == Role::kVision) return "vision";
  if (id.role == Role::kAudio || id.role == Role::kSpeech) return "audio";
  return id.role == Role::kUnknown ? "unknown" : "attention and norms";
}

TEST(Accounting, EveryCategoryOfV25GivesThePublishedTotal) {
  std::map<std::string, uint64_t> bytes;
  std::map<Role, int> towers;
  for (const SynthFile& file : Plan("mimo-v2.5").files) {
    for (const SynthTensor& tensor : file.tensors) {
      bytes[Category(tensor.id)] += Bytes(tensor);
      ++towers[tensor.id.role];
    }
  }
  const std::map<std::string, uint64_t> published = {{"experts", 302869118976}, {"attention and norms", 6094778240},
                                                     {"router", 197132288},     {"router bias", 48128},
                                                     {"mtp", 1189400448},       {"dense", 201375744},
                                                     {"embed", 1249902592},     {"head", 1249902592},
                                                     {"vision", 1457188864},    {"audio", 522254336}};
  EXPECT_EQ(bytes, published);
  EXPECT_EQ(towers[Role::kVision], 364);
  EXPECT_EQ(towers[Role::kAudio], 75);
  EXPECT_EQ(towers[Role::kSpeech], 20);
}

std::vector<int64_t> ShapeOf(const SynthPlan& plan, const std::string& name) {
  for (const SynthFile& file : plan.files) {
    for (const SynthTensor& tensor : file.tensors) {
      if (tensor.info.name == name) return tensor.info.shape;
    }
  }
  return {};
}

TEST(Accounting, AttentionShapesAreThoseSeenInTheFiles) {
  using Shape = std::vector<int64_t>;
  const SynthPlan flash = Plan("mimo-v2-flash");
  EXPECT_EQ(ShapeOf(flash, "model.layers.0.self_attn.k_proj.weight"), (Shape{768, 4096}));
  EXPECT_EQ(ShapeOf(flash, "model.layers.0.self_attn.q_proj.weight_scale_inv"), (Shape{96, 32}));
  EXPECT_EQ(ShapeOf(flash, "model.layers.0.self_attn.k_proj.weight_scale_inv"), (Shape{8, 32}));
  EXPECT_EQ(ShapeOf(flash, "model.layers.0.self_attn.v_proj.weight_scale_inv"), (Shape{4, 32}));
  EXPECT_EQ(ShapeOf(flash, "model.layers.1.self_attn.k_proj.weight_scale_inv"), (Shape{12, 32}));
  EXPECT_EQ(ShapeOf(flash, "model.mtp.layers.0.self_attn.v_proj.weight_scale_inv"), (Shape{8, 32}));
  const SynthPlan v25 = Plan("mimo-v2.5");
  EXPECT_EQ(ShapeOf(v25, "model.layers.5.self_attn.qkv_proj.weight"), (Shape{13568, 4096}));
  EXPECT_EQ(ShapeOf(v25, "model.layers.5.self_attn.qkv_proj.weight_scale_inv"), (Shape{108, 32}));
  EXPECT_EQ(ShapeOf(v25, "model.mtp.layers.0.self_attn.qkv_proj.weight_scale_inv"), (Shape{116, 32}));
  EXPECT_EQ(ShapeOf(Plan("mimo-v2.5-pro"), "model.layers.1.self_attn.qkv_proj.weight_scale_inv"), (Shape{216, 48}));
  EXPECT_EQ(ShapeOf(Plan("mimo-v2.6-pro"), "model.layers.1.mlp.experts.0.down_proj.weight_scale"), (Shape{6144, 64}));
}

TEST(Accounting, V2FlashFilesHoldThePublishedNumbersOfTensors) {
  std::map<std::string, size_t> tensors;
  for (const SynthFile& file : Plan("mimo-v2-flash").files) tensors[file.name] = file.tensors.size();
  EXPECT_EQ(tensors["model_0.safetensors"], 15u);
  EXPECT_EQ(tensors["model_1.safetensors"], 12u);
  EXPECT_EQ(tensors["model_5.safetensors"], 11u);
  EXPECT_EQ(tensors["model_47.safetensors"], 11u);
  EXPECT_EQ(tensors["model_1_linear_fc1.safetensors"], 1024u);
  EXPECT_EQ(tensors["model_47_linear_fc2.safetensors"], 512u);
  EXPECT_EQ(tensors["model_embedding.safetensors"], 1u);
  EXPECT_EQ(tensors["model_final.safetensors"], 2u);
  EXPECT_EQ(tensors["model_mtp.safetensors"], 60u);
}

TEST(Accounting, ExpertRanksHoldThePublishedNumbersOfExperts) {
  const std::pair<const char*, size_t> all[] = {
      {"mimo-v2.5", 32}, {"mimo-v2.5-pro", 12}, {"mimo-v2.6-flash", 4}, {"mimo-v2.6-pro", 3}};
  for (const auto& [preset, published] : all) {
    for (const SynthFile& file : Plan(preset).files) {
      std::set<int> experts;
      for (const SynthTensor& tensor : file.tensors) {
        if (tensor.id.expert >= 0) experts.insert(tensor.id.expert);
      }
      if (!experts.empty()) {
        EXPECT_EQ(experts.size(), published) << preset << " " << file.name;
      }
    }
  }
}

}  // namespace
}  // namespace mimo::accounting_test
