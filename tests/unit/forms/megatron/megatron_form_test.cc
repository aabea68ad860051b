// Names of Megatron's formats (reference target-layouts.md 1.1, 2.2, 2.4), and its rows, head by head from the formulas
// of 1.2 and 1.3.
#include "lib/forms/megatron/megatron_form.h"

#include <gtest/gtest.h>

#include <set>

namespace mimo::megatron_form_test {
namespace {

const MegatronForm& FormOf(const char* family) {
  const auto form = MegatronForm::Get(*Family::Get(family).value());
  EXPECT_TRUE(form.ok());
  return *form.value();
}
const MegatronForm& Form() {
  return FormOf("mimo_v2");
}

struct Spelling {
  const char* key;
  const char* pattern;  // "" when it is no tensor of the model
  int32_t layer = -1;
  int32_t expert = -1;
  char half = 0;
  bool stacked = false;
};

void Check(const Spelling& want) {
  SCOPED_TRACE(want.key);
  const auto found = Form().Identify(want.key);
  ASSERT_EQ(found.has_value(), *want.pattern != '\0');
  if (!found) return;
  EXPECT_EQ(Form().tensors()[found->tensor].pattern, want.pattern);
  EXPECT_EQ(found->layer, want.layer);
  EXPECT_EQ(found->expert, want.expert);
  EXPECT_EQ(found->half, want.half);
  EXPECT_EQ(found->stacked_layers, want.stacked);
}

constexpr char kQkv[] = "decoder.layers.{layer}.self_attention.linear_qkv.weight";
constexpr char kFc1[] = "decoder.layers.{layer}.mlp.linear_fc1.weight";
constexpr char kExpertFc1[] = "decoder.layers.{layer}.mlp.experts.experts.linear_fc1.weight";
constexpr char kExpertFc2[] = "decoder.layers.{layer}.mlp.experts.experts.linear_fc2.weight";
constexpr char kMtpQkv[] = "mtp.layers.{layer}.transformer_layer.self_attention.linear_qkv.weight";
constexpr char kMtpFc1[] = "mtp.layers.{layer}.transformer_layer.mlp.linear_fc1.weight";

TEST(MegatronForm, EverySpellingOfAName) {
  const std::vector<Spelling> spellings = {
      {"embedding.word_embeddings.weight", "embedding.word_embeddings.weight"},
      {"output_layer.weight", "output_layer.weight"},
      {"model.module.output_layer.weight", "output_layer.weight"},
      {"decoder.final_layernorm.weight", "decoder.final_layernorm.weight"},
      // torch_dist, torch_dcp and fsdp_dtensor.
      {"decoder.layers.17.self_attention.linear_qkv.weight", kQkv, 17},
      {"model.decoder.layers.17.self_attention.linear_qkv.weight", kQkv, 17},
      {"model0.decoder.layers.17.self_attention.linear_qkv.weight", kQkv, 17},
      {"model12.module.decoder.layers.17.self_attention.linear_qkv.weight", kQkv, 17},
      {"model.module.decoder.layers.17.self_attention.linear_qkv.weight", kQkv, 17},
      {"module.decoder.layers.0.self_attention.linear_qkv.layer_norm_weight",
       "decoder.layers.{layer}.self_attention.linear_qkv.layer_norm_weight", 0},
      {"decoder.layers.1.self_attention.core_attention.softmax_offset",
       "decoder.layers.{layer}.self_attention.core_attention.softmax_offset", 1},
      {"decoder.layers.1.mlp.router.expert_bias", "decoder.layers.{layer}.mlp.router.expert_bias", 1},
      // Gate and up apart.
      {"decoder.layers.0.mlp.linear_fc1.weight", kFc1, 0},
      {"model.module.decoder.layers.0.mlp.linear_fc1.weight_w", kFc1, 0, -1, 'w'},
      {"decoder.layers.0.mlp.linear_fc1.weight_v", kFc1, 0, -1, 'v'},
      {"mtp.layers.2.mtp_model_layer.mlp.linear_fc1.weight_v", kMtpFc1, 2, -1, 'v'},
      // Experts: all in one, singletons, grouped, sequential.
      {"decoder.layers.3.mlp.experts.experts.linear_fc1.weight", kExpertFc1, 3},
      {"decoder.layers.3.mlp.experts.experts.12.linear_fc1.weight", kExpertFc1, 3, 12},
      {"decoder.layers.3.mlp.experts.experts.12.linear_fc1.weight_w", kExpertFc1, 3, 12, 'w'},
      {"decoder.layers.3.mlp.experts.12.linear_fc2.weight", kExpertFc2, 3, 12},
      {"decoder.layers.3.mlp.experts.local_experts.12.linear_fc1.weight", kExpertFc1, 3, 12},
      {"decoder.layers.3.mlp.experts.local_experts.0.linear_fc2.weight", kExpertFc2, 3, 0},
      {"decoder.layers.3.mlp.experts.linear_fc1.weight31", kExpertFc1, 3, 31},
      {"decoder.layers.3.mlp.experts.linear_fc2.weight0", kExpertFc2, 3, 0},
      {"model.module.decoder.layers.3.mlp.experts.linear_fc1.weight255_w", kExpertFc1, 3, 255, 'w'},
      {"model.module.decoder.layers.3.mlp.experts.linear_fc1.weight255_v", kExpertFc1, 3, 255, 'v'},
      // Homogeneous models.
      {"decoder.layers.self_attention.linear_qkv.weight", kQkv, -1, -1, 0, true},
      {"decoder.layers.mlp.experts.experts.linear_fc1.weight", kExpertFc1, -1, -1, 0, true},
      {"decoder.layers.mlp.experts.experts.4.linear_fc2.weight", kExpertFc2, -1, 4, 0, true},
      // MTP under both names of its layer.
      {"mtp.layers.0.transformer_layer.self_attention.linear_qkv.weight", kMtpQkv, 0},
      {"mtp.layers.2.mtp_model_layer.self_attention.linear_qkv.weight", kMtpQkv, 2},
      {"model.module.mtp.layers.2.mtp_model_layer.self_attention.linear_qkv.weight", kMtpQkv, 2},
      {"mtp.layers.1.eh_proj.weight", "mtp.layers.{layer}.eh_proj.weight", 1},
      {"mtp.layers.1.final_layernorm.weight", "mtp.layers.{layer}.final_layernorm.weight", 1},
  };
  for (const Spelling& spelling : spellings) Check(spelling);
}

TEST(MegatronForm, WhatIsNoTensorOfTheModel) {
  for (const char* key :
       {"", ".", "model", "model.", "weight", "decoder", "decoder.layers", "decoder.layers.", "decoder.layers.3",
        "decoder.layers.3.", "decoder.layers.-1.self_attention.linear_qkv.weight",
        "decoder.layers.1.2.self_attention.linear_qkv.weight", "decoder.layers.99999999999.mlp.linear_fc1.weight",
        "decoder.layers.3x.self_attention.linear_qkv.weight", "decoder.layers.3.self_attention.linear_qkv.weight0",
        "decoder.layers.3.self_attention.linear_qkv.bias", "decoder.layers.3.self_attention.linear_qkv.weight_w",
        "decoder.layers.3.self_attention.linear_qkv.weight.extra", "decoder.layers.0.mlp.linear_fc2.weight_w",
        "decoder.layers.0.mlp.linear_fc1.weight7", "decoder.layers.0.mlp.linear_fc1.weight_x",
        "decoder.layers.0.mlp.linear_fc1.layer_norm_weight_w", "decoder.layers.3.mlp.experts.linear_fc1.weight_7",
        "decoder.layers.3.mlp.experts.linear_fc2.weight7_w", "decoder.layers.3.mlp.experts.linear_fc1.weight7w",
        "decoder.layers.3.mlp.experts.4.linear_fc1.weight7", "decoder.layers.3.mlp.experts.experts",
        "decoder.layers.3.mlp.experts.weight1", "decoder.layers.3.mlp.shared_experts.linear_fc1.weight",
        "embedding.word_embeddings.weight1", "output_layer.weight_w", "output_layer",
        // What only a homogeneous decoder has.
        "mtp.layers.eh_proj.weight", "mtp.layers.transformer_layer.self_attention.linear_qkv.weight",
        // Optimizers hold tensors of the same names, further down.
        "optimizer.state.exp_avg.decoder.layers.0.self_attention.linear_qkv.weight",
        // No parts of a model.
        "model_0.decoder.final_layernorm.weight", "model-1.decoder.final_layernorm.weight",
        "model1x.decoder.final_layernorm.weight", "model0.model1.decoder.final_layernorm.weight",
        "decoder.layers.0.self_attention.linear_qkv._extra_state", "vision_model.decoder.final_layernorm.weight"})
    Check({key, ""});
}

TEST(MegatronForm, TrainingState) {
  for (const char* key :
       {"optimizer.state.exp_avg.decoder.layers.0.self_attention.linear_qkv.weight", "optimizer.param_state_sharding",
        "chained_0.optimizer.state.fp32_param.output_layer.weight", "rng_state/shard_0.0_1.1",
        "rerun_state_machine_state", "opt_param_scheduler.max_lr", "iteration", "checkpoint_version", "args",
        "decoder.layers.0.self_attention.linear_qkv._extra_state/shard_0_1",
        "decoder.layers.1.mlp.experts.experts.linear_fc1._extra_state/shard_7_256"})
    EXPECT_TRUE(IsTrainingState(key)) << key;
  for (const MegatronTensor& tensor : Form().tensors()) EXPECT_FALSE(IsTrainingState(tensor.pattern)) << tensor.pattern;
  EXPECT_FALSE(IsTrainingState("model.module.decoder.final_layernorm.weight"));
}

// The tensor of a weight of layer 0, which is of experts or not.
std::optional<size_t> Place(Role role, bool mtp, bool moe) {
  ModelConfig model;
  model.moe = {static_cast<uint8_t>(moe)};
  TensorId id;
  id.role = role;
  id.mtp = mtp;
  id.layer = 0;
  return Form().Find(id, model);
}

// Every weight of a layer has one place, and every tensor holds what it says.
TEST(MegatronForm, EveryWeightHasOneTensor) {
  const auto name = [](Role role, bool mtp, bool moe) {
    const auto found = Place(role, mtp, moe);
    return found ? Form().tensors()[*found].pattern : std::string();
  };
  EXPECT_EQ(name(Role::kEmbed, false, false), "embedding.word_embeddings.weight");
  EXPECT_EQ(name(Role::kPostAttentionNorm, false, true), "decoder.layers.{layer}.pre_mlp_layernorm.weight");
  EXPECT_EQ(name(Role::kPostAttentionNorm, false, false), "decoder.layers.{layer}.mlp.linear_fc1.layer_norm_weight");
  EXPECT_EQ(name(Role::kMtpPreMlpNorm, true, false),
            "mtp.layers.{layer}.transformer_layer.mlp.linear_fc1.layer_norm_weight");
  for (const Role role : {Role::kAttnQ, Role::kAttnK, Role::kAttnV}) {
    EXPECT_EQ(name(role, false, true), kQkv);
    EXPECT_EQ(name(role, true, false), kMtpQkv);
  }
  EXPECT_EQ(name(Role::kExpertUp, false, true), kExpertFc1);
  EXPECT_EQ(name(Role::kExpertDown, false, true), kExpertFc2);
  EXPECT_EQ(name(Role::kRouter, true, false), "");
  EXPECT_EQ(name(Role::kVision, false, false), "");
  EXPECT_EQ(name(Role::kUnknown, false, true), "");
  std::set<std::string> patterns;
  for (const MegatronTensor& tensor : Form().tensors()) {
    EXPECT_TRUE(patterns.insert(tensor.pattern).second) << tensor.pattern;
    EXPECT_EQ(tensor.f32, tensor.pattern.find(".router.") != std::string::npos) << tensor.pattern;
    EXPECT_EQ(tensor.experts(), tensor.pattern.find(".experts.experts.") != std::string::npos) << tensor.pattern;
    EXPECT_EQ(tensor.mtp, tensor.pattern.starts_with("mtp.")) << tensor.pattern;
  }
  EXPECT_EQ(patterns.size(), 26u);  // 3 global, 12 in decoder layers, 11 in MTP layers
}

// A family's form has the rows of its own roles, MTP layers and kinds of layers, and no others.
TEST(MegatronForm, OfAFamily) {
  const MegatronForm& form = FormOf("minimax_m2");
  std::set<std::string> patterns;
  for (const MegatronTensor& tensor : form.tensors()) patterns.insert(tensor.pattern);
  const std::string layer = "decoder.layers.{layer}.";
  EXPECT_EQ(patterns,
            (std::set<std::string>{
                "embedding.word_embeddings.weight", "output_layer.weight", "decoder.final_layernorm.weight",
                layer + "self_attention.linear_qkv.layer_norm_weight", layer + "self_attention.linear_qkv.weight",
                layer + "self_attention.linear_proj.weight", layer + "self_attention.q_layernorm.weight",
                layer + "self_attention.k_layernorm.weight", layer + "pre_mlp_layernorm.weight",
                layer + "mlp.router.weight", layer + "mlp.router.expert_bias", kExpertFc1, kExpertFc2}));
  const char kNorm[] = "decoder.layers.5.self_attention.q_layernorm.weight";
  const auto found = form.Identify(kNorm);
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(form.tensors()[found->tensor].of, std::vector<Role>{Role::kAttnQNorm});
  EXPECT_EQ(form.tensors()[found->tensor].cut, Cut::kQHeads);
  EXPECT_EQ(found->layer, 5);
  EXPECT_FALSE(Form().Identify(kNorm).has_value());
  for (const char* other : {"decoder.layers.0.mlp.linear_fc1.weight", "mtp.layers.0.enorm.weight",
                            "decoder.layers.0.mlp.linear_fc1.layer_norm_weight",
                            "decoder.layers.0.self_attention.core_attention.softmax_offset"}) {
    EXPECT_FALSE(form.Identify(other).has_value()) << other;
    EXPECT_TRUE(Form().Identify(other).has_value()) << other;
  }
  ModelConfig model;
  model.moe = {1};
  TensorId id;
  id.layer = 0;
  for (const auto& [role, there] : {std::pair(Role::kAttnKNorm, true), std::pair(Role::kAttnSink, false),
                                    std::pair(Role::kMlpUp, false), std::pair(Role::kExpertUp, true)}) {
    id.role = role;
    EXPECT_EQ(form.Find(id, model).has_value(), there) << RoleName(role);
  }
}

// Row of the Megatron tensor by row of the weight; -1 where no run says.
std::vector<int64_t> Places(Role role, const AttentionShape& shape, int64_t rows) {
  std::vector<int64_t> places(static_cast<size_t>(rows), -1);
  for (const MegatronRun& run : RunsOf(role, shape, rows)) {
    for (int64_t i = 0; i < run.rows; ++i) {
      if (run.row + i >= rows) {
        ADD_FAILURE() << "beyond the weight";
        return places;
      }
      int64_t& place = places[static_cast<size_t>(run.row + i)];
      EXPECT_EQ(place, -1) << "twice: " << run.row + i;
      place = run.megatron_row + i;
    }
  }
  return places;
}

struct Heads {
  int64_t a, g, d, v;  // the symbols of the reference
};

TEST(MegatronForm, RowsOfLinearQkvAreInGroups) {
  const MegatronTensor& qkv = Form().tensors()[*Form().Find({.role = Role::kAttnQ}, ModelConfig())];
  for (const Heads& m : {Heads{64, 4, 192, 128}, Heads{64, 8, 192, 128}, Heads{128, 8, 192, 128}, Heads{6, 3, 5, 2},
                         Heads{4, 4, 3, 7}, Heads{7, 1, 2, 2}}) {
    const AttentionShape shape{m.a, m.g, m.d, m.v};
    const int64_t h = m.a / m.g, s = h * m.d + m.d + m.v;
    EXPECT_EQ(MegatronRows(qkv, shape, shape.q_rows()), m.g * s);
    const auto q = Places(Role::kAttnQ, shape, m.a * m.d);
    const auto k = Places(Role::kAttnK, shape, m.g * m.d);
    const auto v = Places(Role::kAttnV, shape, m.g * m.v);
    for (int64_t head = 0; head < m.a; ++head)
      for (int64_t d = 0; d < m.d; ++d)
        ASSERT_EQ(q[static_cast<size_t>(head * m.d + d)], (head / h) * s + (head % h) * m.d + d);
    std::set<int64_t> taken(q.begin(), q.end());
    for (int64_t head = 0; head < m.g; ++head) {
      for (int64_t d = 0; d < m.d; ++d) ASSERT_EQ(k[static_cast<size_t>(head * m.d + d)], head * s + h * m.d + d);
      for (int64_t d = 0; d < m.v; ++d) ASSERT_EQ(v[static_cast<size_t>(head * m.v + d)], head * s + h * m.d + m.d + d);
    }
    taken.insert(k.begin(), k.end());
    taken.insert(v.begin(), v.end());
    EXPECT_EQ(static_cast<int64_t>(taken.size()), m.g * s);
  }
}

TEST(MegatronForm, GateLiesBeforeUpAndAllElseAsItIs) {
  const AttentionShape shape{6, 3, 5, 2};
  for (const Role role : {Role::kMlpUp, Role::kExpertUp})
    for (int64_t i = 0; i < 9; ++i) EXPECT_EQ(Places(role, shape, 9)[static_cast<size_t>(i)], 9 + i);
  for (const Role role : {Role::kMlpGate, Role::kExpertGate, Role::kMlpDown, Role::kExpertDown, Role::kEmbed,
                          Role::kAttnO, Role::kAttnSink, Role::kMtpEhProj, Role::kRouter, Role::kInputNorm})
    for (int64_t i = 0; i < 9; ++i) EXPECT_EQ(Places(role, shape, 9)[static_cast<size_t>(i)], i);
  const auto rows = [&](Role role) { return MegatronRows(Form().tensors()[*Place(role, false, true)], shape, 9); };
  EXPECT_EQ(rows(Role::kExpertGate), 18);
  EXPECT_EQ(rows(Role::kMlpUp), 18);
  EXPECT_EQ(rows(Role::kExpertDown), 9);
  EXPECT_EQ(rows(Role::kAttnO), 9);
}

TEST(MegatronForm, NamesOfChunks) {
  EXPECT_EQ(ChunkName("a.weight", {0, 128, 7}), "a.weight[0,128,7]");
  EXPECT_EQ(ChunkName("a", {5}), "a[5]");
  using Parsed = std::pair<std::string, std::vector<int64_t>>;
  EXPECT_EQ(ParseChunkName("a.weight[0,128,7]"), Parsed("a.weight", {0, 128, 7}));
  EXPECT_EQ(ParseChunkName("a[5]"), Parsed("a", {5}));
  EXPECT_EQ(ChunkName("a", {}), "a[]");
}

TEST(MegatronForm, TablesWithMistakesAreRefused) {
  const std::string good = R"({"tensors": [{"name": "x", "of": ["embed"], "cut": "vocab"}], "extra_state": []})";
  EXPECT_TRUE(ParseMegatronForm(good).ok());
  for (const char* bad : {"", "[]", R"({"tensors": []})",
                          R"({"tensors": [{"name": "x", "of": ["embed"], "cut": "slices"}], "extra_state": []})",
                          R"({"tensors": [{"name": "x", "of": ["embedding"], "cut": "rows"}], "extra_state": []})",
                          R"({"tensors": [{"name": "x", "of": [], "cut": "rows"}], "extra_state": []})",
                          R"({"tensors": [{"of": ["embed"], "cut": "rows"}], "extra_state": []})",
                          R"({"tensors": [{"name": "x", "of": ["embed"], "cut": "rows"}], "extra_state": [{}]})"})
    EXPECT_FALSE(ParseMegatronForm(bad).ok()) << bad;
}

}  // namespace
}  // namespace mimo::megatron_form_test
