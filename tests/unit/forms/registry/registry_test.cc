// Which form a directory is of, and which form options ask for.
#include "lib/forms/registry/registry.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "lib/forms/registry/open_checkpoint.h"
#include "lib/model/family.h"
#include "tests/unit/planner/made_checkpoint.h"

namespace mimo::registry_test {
namespace {

StoredArray Named(const char* name) {
  StoredArray array;
  array.name = name;
  return array;
}

TEST(Registry, AMarkerSaysTheForm) {
  for (const FormKind kind : {FormKind::kHf, FormKind::kShardedState, FormKind::kNxdi, FormKind::kTorchDist}) {
    Catalogue stored;
    stored.config.family = Family::Get("mimo_v2").value();
    stored.arrays = {Named("layers.1.mlp.expert_mlps.mlp_op.gate_up_proj.weight"), Named("rank0/model.norm.weight")};
    stored.config.marker = LayoutMarker();
    stored.config.marker->form = kind;
    EXPECT_EQ(FormOfStored(stored).kind(), kind);
  }
}

TEST(Registry, WithoutAMarkerNamesSayTheForm) {
  Catalogue stored;
  stored.config.family = Family::Get("mimo_v2").value();
  EXPECT_EQ(FormOfStored(stored).kind(), FormKind::kHf);
  stored.arrays = {Named("model.layers.1.mlp.experts.0.gate_proj.weight")};
  EXPECT_EQ(FormOfStored(stored).kind(), FormKind::kHf);
  stored.arrays.push_back(Named("layers.1.mlp.expert_mlps.mlp_op.gate_up_proj.weight"));
  EXPECT_EQ(FormOfStored(stored).kind(), FormKind::kNxdi);
  stored.arrays = {Named("rank0/model.norm.weight")};
  EXPECT_EQ(FormOfStored(stored).kind(), FormKind::kShardedState);
}

TEST(Registry, OptionsAskForOneForm) {
  const auto asked = [](TargetKind to, std::optional<FormKind> format, bool merged = false) -> const Form& {
    PlanOptions options;
    options.to = to;
    options.format = format;
    return FormOfOutput(merged, &options);
  };
  EXPECT_TRUE(asked(TargetKind::kHf, {}).traits().plain);
  for (const TargetKind engine : {TargetKind::kVllm, TargetKind::kSglang}) {
    EXPECT_EQ(asked(engine, {}).kind(), FormKind::kHf);
    EXPECT_FALSE(asked(engine, {}).traits().plain);
    EXPECT_EQ(asked(engine, FormKind::kShardedState).kind(), FormKind::kShardedState);
  }
  EXPECT_EQ(asked(TargetKind::kNxdi, {}).kind(), FormKind::kNxdi);
  EXPECT_EQ(asked(TargetKind::kMegatron, {}).kind(), FormKind::kTorchDist);
  EXPECT_EQ(asked(TargetKind::kMegatron, FormKind::kShardedState).kind(), FormKind::kTorchDist);  // which refuses it
  EXPECT_NE(&asked(TargetKind::kHf, {}, true), &asked(TargetKind::kHf, {}));
  EXPECT_EQ(&asked(TargetKind::kMegatron, {}, true), &asked(TargetKind::kMegatron, {}));  // BF16: not the files again
  PlanOptions converted;
  converted.dtype = DTypeChoice::kBf16;
  EXPECT_EQ(&FormOfOutput(true, &converted), &asked(TargetKind::kHf, {}));
}

// Markers that do not hold: a form that is none, and one whose files are not there.
TEST(Registry, MarkersThatCannotBeAreRefused) {
  const std::string root = ::testing::TempDir() + "/mimo-registry";
  std::filesystem::remove_all(root);
  std::filesystem::create_directories(root);
  const auto open = [&](const std::string& form) {
    nlohmann::json config = made::ConfigOf(made::Quarter());
    config["mimo_layout"] = {{"version", 1},  {"qkv", "split"},    {"chunks", 1},
                             {"kv_heads", 4}, {"swa_kv_heads", 8}, {"form", form}};
    std::ofstream(root + "/config.json") << config.dump();
    std::ofstream file(root + "/model.safetensors", std::ios::binary);
    file << std::string("\x02\0\0\0\0\0\0\0{}", 10);
    file.close();
    return OpenCheckpoint(PosixFileSystem(), root);
  };
  const auto unknown = open("gguf");
  ASSERT_FALSE(unknown.ok());
  EXPECT_EQ(unknown.error().code, ErrorCode::kBadInput);
  for (const char* known : {"hf", "sharded-state", "nxdi", "torch_dist"})
    EXPECT_NE(unknown.error().expected.find(known), std::string::npos) << unknown.error().Message();
  const auto absent = open("torch_dist");
  ASSERT_FALSE(absent.ok());
  EXPECT_EQ(absent.error().code, ErrorCode::kBadInput);
  EXPECT_NE(absent.error().what.find("Megatron"), std::string::npos) << absent.error().Message();
}

}  // namespace
}  // namespace mimo::registry_test
