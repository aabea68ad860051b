// What is said of engines, against reports about released models (reference mimo-checkpoints.md section 3.5,
// target-layouts.md section 4.2), one expectation per model and engine.
#include "lib/inspect/engines.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "lib/model/family.h"

namespace mimo::engines_test {
namespace {

const std::vector<int64_t> kTps{1, 2, 4, 8, 16};

struct Model {
  Catalogue catalogue;
  Inventory inventory;
};

void AddArray(Catalogue& catalogue, Role role, DType dtype) {
  StoredArray array;
  array.dtype = dtype;
  array.id.role = role;
  array.id.layer = 1;
  catalogue.arrays.push_back(array);
}

Model MakeModel(int64_t heads, int64_t kv_heads, Role attention, DType attention_dtype, DType experts) {
  Model model;
  ModelConfig& config = model.catalogue.config;
  config.family = Family::Get("mimo_v2").value();
  config.model_type = "mimo_v2";
  config.quant_method = "fp8";
  config.moe_intermediate = 2048;
  config.global = {heads, kv_heads, 192, 128};
  config.window = {heads, 8, 192, 128};
  config.windowed = {0, 1};
  AddArray(model.catalogue, attention, attention_dtype);
  AddArray(model.catalogue, Role::kExpertDown, experts);
  AddArray(model.catalogue, Role::kRouter, DType::kF32);
  model.catalogue.index.tp_size = kv_heads;
  model.inventory.mtp_layers = 3;
  return model;
}

Model V25() {
  return MakeModel(64, 4, Role::kAttnQkv, DType::kF8E4M3, DType::kF8E4M3);
}
Model Pro() {
  return MakeModel(128, 8, Role::kAttnQkv, DType::kF8E4M3, DType::kF8E4M3);
}
Model V2Flash(DType attention = DType::kF8E4M3) {
  return MakeModel(64, 4, Role::kAttnQ, attention, DType::kF8E4M3);
}

const QkvLayout kFused1{QkvKind::kFused, 1}, kFused4{QkvKind::kFused, 4}, kFused8{QkvKind::kFused, 8};
const QkvLayout kSplit4{QkvKind::kSplit, 4}, kSplit8{QkvKind::kSplit, 8};

// "wrong wrong loads refuses refuses": the outcomes at kTps.
std::string Outcomes(const Model& model, const QkvLayout& layout, const std::string& id) {
  Result<std::vector<EngineReport>> reports = JudgeEngines(model.catalogue, model.inventory, layout, kTps);
  EXPECT_TRUE(reports.ok()) << reports.error().Message();
  if (!reports.ok()) return "";
  for (const EngineReport& report : *reports) {
    if (report.id != id) continue;
    std::string text;
    for (const EngineOutcome& outcome : report.outcomes) text += (text.empty() ? "" : " ") + outcome.outcome;
    return text;
  }
  return "no engine " + id;
}

// One layer's attention was merged in BF16: what engines do with that layer is what they do.
TEST(Engines, TheWorstLayerDecides) {
  Model mixed = V25();
  AddArray(mixed.catalogue, Role::kAttnQkv, DType::kBF16);
  EXPECT_EQ(Outcomes(mixed, kFused4, "vllm-40967"), "wrong wrong loads wrong wrong");
  EXPECT_EQ(Outcomes(mixed, kFused4, "vllm-57508"), "wrong wrong unknown wrong wrong");
}

TEST(Engines, FlashSizeFusedAsReleased) {
  EXPECT_EQ(Outcomes(V25(), kFused4, "vllm-40967"), "wrong wrong loads refuses refuses");
  EXPECT_EQ(Outcomes(V25(), kFused4, "vllm-45200"), "refuses refuses refuses refuses refuses");
  EXPECT_EQ(Outcomes(V25(), kFused4, "vllm-57508"), "requantizes requantizes loads refuses refuses");
  EXPECT_EQ(Outcomes(V25(), kFused4, "sglang-23808"), "refuses refuses loads refuses refuses");
  EXPECT_EQ(Outcomes(V25(), kFused4, "sglang-main"), "requantizes requantizes loads refuses refuses");
  EXPECT_EQ(Outcomes(V25(), kFused4, "atom"), "refuses refuses loads refuses refuses");
  EXPECT_EQ(Outcomes(V25(), kFused4, "sglang-jax"), "dequantizes dequantizes dequantizes dequantizes dequantizes");
  EXPECT_EQ(Outcomes(V25(), kFused4, "megatron-bridge"), "refuses refuses refuses refuses refuses");
}

TEST(Engines, ProSizeFusedAsReleased) {
  EXPECT_EQ(Outcomes(Pro(), kFused8, "vllm-40967"), "wrong wrong wrong loads refuses");
  EXPECT_EQ(Outcomes(Pro(), kFused8, "vllm-45200"), "requantizes requantizes requantizes loads refuses");
  EXPECT_EQ(Outcomes(Pro(), kFused8, "vllm-57508"), "requantizes requantizes requantizes loads refuses");
  EXPECT_EQ(Outcomes(Pro(), kFused8, "atom"), "refuses refuses refuses loads refuses");
}

TEST(Engines, V2FlashSplitAsReleased) {
  // 4.2: TP 4 is what its grid was made for, TP 8 exceeds the scale rows of sliding-window K, TP 1 and 2 are silently
  // wrong.
  for (const char* engine : {"vllm-57508", "sglang-main", "vllm-40967"}) {
    EXPECT_EQ(Outcomes(V2Flash(), kSplit4, engine), "wrong wrong loads refuses refuses") << engine;
  }
  EXPECT_EQ(Outcomes(V2Flash(), kSplit4, "megatron-bridge"), "wrong wrong wrong refuses refuses");
  EXPECT_EQ(Outcomes(V2Flash(), kSplit4, "lmdeploy"), "dequantizes dequantizes dequantizes dequantizes dequantizes");
  EXPECT_EQ(Outcomes(V2Flash(), kSplit4, "llama-cpp"), "wrong wrong wrong wrong wrong");
}

TEST(Engines, WhatAConversionMakesOfThem) {
  EXPECT_EQ(Outcomes(V2Flash(), kOwnGrids, "vllm-57508"), "loads loads refuses refuses refuses");
  EXPECT_EQ(Outcomes(V2Flash(), kOwnGrids, "megatron-bridge"), "dequantizes dequantizes dequantizes refuses refuses");
  EXPECT_EQ(Outcomes(V2Flash(DType::kBF16), kOwnGrids, "vllm-57508"), "loads loads loads loads loads");
  EXPECT_EQ(Outcomes(V2Flash(DType::kBF16), kSplit4, "megatron-bridge"), "loads loads loads refuses refuses");
  // KV heads replicated to 8: a model of 8 KV heads, one chunk per rank at TP 8.
  Model replicated = MakeModel(64, 8, Role::kAttnQkv, DType::kF8E4M3, DType::kF8E4M3);
  EXPECT_EQ(Outcomes(replicated, kFused8, "vllm-57508"), "requantizes requantizes requantizes loads refuses");
  EXPECT_EQ(Outcomes(replicated, kFused8, "sglang-23808"), "refuses refuses refuses loads refuses");
  // One KV head per chunk everywhere: the split grid that TP 8 and above need.
  Model split8 = MakeModel(64, 8, Role::kAttnQ, DType::kF8E4M3, DType::kF8E4M3);
  EXPECT_EQ(Outcomes(split8, kSplit8, "vllm-57508"), "wrong wrong wrong loads loads");
}

// docs/engines.md, read in the engines' own source.
TEST(Engines, TheReleasesThatConversionsAimAt) {
  EXPECT_EQ(Outcomes(V25(), kFused4, "vllm-0.33.0"), "loads loads loads requantizes requantizes");
  EXPECT_EQ(Outcomes(V25(), kFused4, "sglang-0.5.23"), "requantizes requantizes loads refuses refuses");
  EXPECT_EQ(Outcomes(Pro(), kFused8, "vllm-0.33.0"), "loads loads loads loads requantizes");
  EXPECT_EQ(Outcomes(Pro(), kFused8, "sglang-0.5.23"), "requantizes requantizes requantizes loads refuses");
  for (const char* engine : {"vllm-0.33.0", "sglang-0.5.23"}) {
    // Split: right where the file has the grid of this T, an error where K has too few scale rows.
    EXPECT_EQ(Outcomes(V2Flash(), kSplit4, engine), "wrong wrong loads refuses refuses") << engine;
    EXPECT_EQ(Outcomes(V2Flash(), kOwnGrids, engine), "loads loads refuses refuses refuses") << engine;
    EXPECT_EQ(Outcomes(V2Flash(DType::kBF16), kOwnGrids, engine), "loads loads loads loads loads") << engine;
    // A chunk count that num_key_value_heads does not say.
    EXPECT_EQ(Outcomes(V25(), kFused1, engine), "wrong wrong wrong wrong wrong") << engine;
    // KV heads repeated: one chunk per rank at T = C.
    Model replicated = MakeModel(64, 16, Role::kAttnQkv, DType::kF8E4M3, DType::kF8E4M3);
    replicated.catalogue.config.window.kv_heads = 16;
    EXPECT_TRUE(Outcomes(replicated, {QkvKind::kFused, 16}, engine).ends_with(" loads")) << engine;
  }
  // Unquantized and fused: vLLM reads [Q, K, V] at any T, SGLang one chunk per rank.
  Model fused_bf16 = MakeModel(64, 4, Role::kAttnQkv, DType::kBF16, DType::kF8E4M3);
  EXPECT_EQ(Outcomes(fused_bf16, kFused1, "vllm-0.33.0"), "loads loads loads loads loads");
  EXPECT_EQ(Outcomes(fused_bf16, kFused4, "vllm-0.33.0"), "wrong wrong wrong wrong wrong");
  EXPECT_EQ(Outcomes(fused_bf16, kFused4, "sglang-0.5.23"), "wrong wrong loads refuses refuses");
}

// Experts of 2048 rows at TP 32 are 64 rows per rank: vLLM repeats scales, SGLang refuses.
TEST(Engines, ExpertsThatRanksCutInsideABlock) {
  for (const auto& [id, outcome] : std::vector<std::pair<std::string, std::string>>{
           {"vllm-0.33.0", "loads"}, {"sglang-0.5.23", "refuses"}, {"vllm-57508", "refuses"}}) {
    Model split = V2Flash(DType::kBF16);
    const auto reports = JudgeEngines(split.catalogue, split.inventory, kOwnGrids, {32});
    ASSERT_TRUE(reports.ok());
    for (const EngineReport& report : reports.value())
      if (report.id == id) {
        EXPECT_EQ(report.outcomes[0].outcome, outcome) << id;
      }
  }
}

TEST(Engines, PlainReExports) {
  EXPECT_EQ(Outcomes(V25(), kFused1, "vllm-57508"), "wrong wrong wrong wrong wrong");
  EXPECT_EQ(Outcomes(V25(), kFused1, "vllm-40967"), "loads wrong wrong refuses refuses");
}

TEST(Engines, Mxfp4Experts) {
  Model v26 = MakeModel(64, 4, Role::kAttnQkv, DType::kF8E4M3, DType::kU8);
  EXPECT_EQ(Outcomes(v26, kFused4, "vllm-40967"), "refuses refuses refuses refuses refuses");
  EXPECT_EQ(Outcomes(v26, kFused4, "vllm-57508"), "requantizes requantizes loads refuses refuses");
  EXPECT_EQ(Outcomes(v26, kFused4, "nxdi"), "refuses refuses refuses refuses refuses");
}

TEST(Engines, HeadsThatCannotBeDealtOut) {
  Result<std::vector<EngineReport>> reports = JudgeEngines(V25().catalogue, V25().inventory, kFused4, {3});
  ASSERT_TRUE(reports.ok());
  for (const EngineReport& report : *reports) {
    if (report.engine == "vLLM") {
      EXPECT_EQ(report.outcomes[0].outcome, "refuses") << report.id;
    }
  }
}

TEST(EngineTable, EveryRuleSpeaksOfKnownFactsAndOutcomes) {
  const nlohmann::json table = nlohmann::json::parse(EmbeddedText("engines.json"));
  std::set<std::string> outcomes, ids;
  for (const auto& [word, meaning] : table["outcomes"].items()) outcomes.insert(word);
  const Facts facts = EngineFacts(V25().catalogue, V25().inventory, kFused4, 4);
  for (const auto& engine : table["engines"]) {
    const std::string id = engine["id"];
    for (const auto& model : engine["models"])  // once for each family
      EXPECT_TRUE(ids.insert(id + " " + model.get<std::string>()).second) << id << " " << model;
    EXPECT_FALSE(engine["sources"].empty()) << id;
    for (const char* list : {"rules", "notes"}) {
      for (const auto& rule : engine[list]) {
        EXPECT_FALSE(rule["note"].get<std::string>().empty()) << id;
        EXPECT_TRUE(std::string(list) == "notes" || outcomes.count(rule["outcome"])) << id << rule.dump();
        for (const auto& condition : rule["when"]) {
          const Result<bool> holds = Holds(condition, facts);
          EXPECT_TRUE(holds.ok()) << id << ": " << condition;
        }
      }
    }
  }
}

}  // namespace
}  // namespace mimo::engines_test
