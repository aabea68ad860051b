// The small files of a torch_dist root: golden bytes of reference target-layouts.md appendix A.6, and every value of
// the table in 2.3 for the published configs.
#include "lib/forms/megatron/megatron_files.h"

#include <gtest/gtest.h>

#include <map>
#include <sstream>

namespace mimo::megatron_files_test {
namespace {

// The published V2-Flash numbers at two layers; what a test wants changed is replaced in this text.
constexpr char kFlash[] = R"({
  "architectures": ["MiMoV2FlashForCausalLM"], "model_type": "mimo_v2_flash", "num_hidden_layers": 2,
  "hidden_size": 4096, "num_attention_heads": 64, "num_key_value_heads": 4, "head_dim": 192, "v_head_dim": 128,
  "intermediate_size": 16384, "vocab_size": 152576, "max_position_embeddings": 262144, "rope_theta": 5000000,
  "swa_rope_theta": 10000, "partial_rotary_factor": 0.334, "sliding_window": 128, "sliding_window_size": 128,
  "swa_num_attention_heads": 64, "swa_num_key_value_heads": 8, "hybrid_layer_pattern": [0, 1],
  "moe_layer_freq": [0, 1], "moe_intermediate_size": 2048, "n_routed_experts": 256, "num_experts_per_tok": 8,
  "scoring_func": "sigmoid", "n_group": 1, "topk_group": 1, "routed_scaling_factor": null, "hidden_act": "silu",
  "layernorm_epsilon": 1e-05, "attention_dropout": 0.0, "attention_bias": false, "attention_value_scale": 0.707,
  "add_swa_attention_sink_bias": true, "tie_word_embeddings": false})";

std::string Replaced(std::string text, const std::string& what, const std::string& with) {
  const size_t at = text.find(what);
  EXPECT_NE(at, std::string::npos) << what;
  return text.replace(at, what.size(), with);
}

using Files = std::map<std::string, std::string>;

struct Asked {
  int64_t vocab_rows = 152576;
  int64_t iteration = 0;
  int64_t tp = 1;
  DTypeChoice dtype = DTypeChoice::kBf16;
};

Result<Files> Make(const std::string& text, const Asked& asked = {}) {
  const auto config = ParseModelConfig(text, "config.json");
  EXPECT_TRUE(config.ok()) << config.error().Message();
  PlanOptions options;
  options.iteration = asked.iteration;
  options.tp = asked.tp;
  options.dtype = asked.dtype;
  auto made = MegatronFiles({config.value(), 3, asked.vocab_rows, options});
  if (!made.ok()) return made.TakeError();
  Files files;
  for (const TextFile& file : *made) files[file.name] = file.content;
  EXPECT_EQ(files.size(), made->size());
  return files;
}

// The text after each key of a section: {"kv_channels": "192", "params_dtype._target_": ...}.
std::map<std::string, std::string> Section(const std::string& yaml, const std::string& name) {
  std::map<std::string, std::string> values;
  std::istringstream lines(yaml);
  std::string line, section, parent;
  while (std::getline(lines, line)) {
    const size_t indent = line.find_first_not_of(' ');
    const size_t colon = line.find(':');
    const std::string key = line.substr(indent, colon - indent);
    if (indent == 0) section = key;
    if (section != name || indent == 0) continue;
    if (indent == 2) parent = key;
    const std::string full = indent == 4 ? parent + "." + key : key;
    EXPECT_EQ(values.count(full), 0u) << full;
    values[full] = colon + 2 <= line.size() ? line.substr(colon + 2) : "";
  }
  return values;
}

std::map<std::string, std::string> Model(const std::string& text, const Asked& asked = {}) {
  const auto files = Make(text, asked);
  EXPECT_TRUE(files.ok()) << files.error().Message();
  return files.ok() ? Section(files.value().at("iter_0000000/run_config.yaml"), "model")
                    : std::map<std::string, std::string>();
}

std::string FromHex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return bytes;
}

TEST(MegatronFiles, NamesAndTrackersFollowTheIteration) {
  const auto files = Make(kFlash, {.iteration = 42});
  ASSERT_TRUE(files.ok()) << files.error().Message();
  std::vector<std::string> names;
  for (const auto& [name, content] : files.value()) names.push_back(name);
  EXPECT_EQ(names, (std::vector<std::string>{"iter_0000042/common.pt", "iter_0000042/metadata.json",
                                             "iter_0000042/run_config.yaml", "iter_0000042/train_state.pt",
                                             "latest_checkpointed_iteration.txt", "latest_train_state.pt"}));
  EXPECT_EQ(files.value().at("latest_checkpointed_iteration.txt"), "42");
  EXPECT_EQ(files.value().at("iter_0000042/metadata.json"),
            "{\"sharded_backend\": \"torch_dist\", \"sharded_backend_version\": 1, \"common_backend\": \"torch\", "
            "\"common_backend_version\": 1}");
  EXPECT_EQ(files.value().at("latest_train_state.pt"), files.value().at("iter_0000042/train_state.pt"));
}

TEST(MegatronFiles, CommonStateIsTheGoldenFile) {
  const auto files = Make(kFlash);
  ASSERT_TRUE(files.ok());
  const std::string& common = files.value().at("iter_0000000/common.pt");
  ASSERT_EQ(common.size(), 591u);
  const std::string pickle = FromHex(
      "80027d285812000000636865636b706f696e745f76657273696f6e71004740080000000000005809000000697465726174696f6e"
      "71014b0058240000006e756d5f666c6f6174696e675f706f696e745f6f7065726174696f6e735f736f5f66617271024b00581000"
      "0000636f6e74656e745f6d6574616461746171037d28581600000073696e676c65746f6e5f6c6f63616c5f736861726473710489"
      "581a000000636861696e65645f6f7074696d5f61766f69645f70726566697871058875752e");
  ASSERT_EQ(pickle.size(), 193u);
  EXPECT_EQ(common.substr(64, pickle.size()), pickle);
  EXPECT_EQ(common.substr(30, 15), "common/data.pkl");
}

TEST(MegatronFiles, TrainStateHoldsTheStepAndZeros) {
  const auto files = Make(kFlash, {.iteration = 0x010203});
  ASSERT_TRUE(files.ok());
  const std::string& state = files.value().at("iter_0066051/train_state.pt");
  const size_t step = state.find(std::string("\3\2\1\0\0\0\0\0", 8));
  ASSERT_NE(step, std::string::npos);
  EXPECT_EQ(step % 64, 0u);
  for (const char* key : {"step", "consumed_train_samples", "skipped_train_samples", "consumed_valid_samples",
                          "floating_point_operations_so_far", "do_train", "do_valid", "do_test"}) {
    EXPECT_NE(state.find(key), std::string::npos) << key;
  }
}

TEST(MegatronFiles, RunConfigOfFlash) {
  const std::map<std::string, std::string> expected = {
      {"_target_", "\"megatron.bridge.models.mimo_v2_flash.mimo_v2_flash_provider.MiMoV2FlashModelProvider\""},
      {"num_layers", "2"},
      {"hidden_size", "4096"},
      {"ffn_hidden_size", "16384"},
      {"num_attention_heads", "64"},
      {"num_query_groups", "4"},
      {"full_attn_num_query_groups", "4"},
      {"swa_num_query_groups", "8"},
      {"kv_channels", "192"},
      {"v_head_dim", "128"},
      {"attention_value_scale", "0.707"},
      {"hybrid_attention_pattern", "[0, 1]"},
      {"window_size", "128"},
      {"position_embedding_type", "\"rope\""},
      {"rotary_base", "[10000, 5000000]"},
      {"rotary_percent", "0.334"},
      {"add_qkv_bias", "false"},
      {"attention_dropout", "0.0"},
      {"hidden_dropout", "0.0"},
      {"moe_layer_freq", "[0, 1]"},
      {"num_moe_experts", "256"},
      {"moe_router_topk", "8"},
      {"moe_ffn_hidden_size", "2048"},
      {"moe_router_score_function", "\"sigmoid\""},
      {"moe_router_enable_expert_bias", "true"},
      {"moe_router_pre_softmax", "true"},
      {"moe_router_load_balancing_type", "\"none\""},
      {"moe_router_num_groups", "1"},
      {"moe_router_group_topk", "1"},
      {"moe_router_topk_scaling_factor", "null"},
      {"moe_grouped_gemm", "true"},
      {"moe_token_dispatcher_type", "\"alltoall\""},
      {"mtp_num_layers", "3"},
      {"vocab_size", "152576"},
      {"make_vocab_size_divisible_by", "128"},
      {"should_pad_vocab", "false"},
      {"seq_length", "262144"},
      {"normalization", "\"RMSNorm\""},
      {"layernorm_epsilon", "1.0e-05"},
      {"activation_func", ""},
      {"activation_func._target_", "\"torch.nn.functional.silu\""},
      {"activation_func._call_", "false"},
      {"gated_linear_unit", "true"},
      {"add_bias_linear", "false"},
      {"share_embeddings_and_output_weights", "false"},
      {"bf16", "true"},
      {"fp16", "false"},
      {"params_dtype", ""},
      {"params_dtype._target_", "\"torch.bfloat16\""},
      {"params_dtype._call_", "false"},
      {"tensor_model_parallel_size", "1"},
      {"pipeline_model_parallel_size", "1"},
      {"expert_model_parallel_size", "1"},
      {"expert_tensor_parallel_size", "1"},
  };
  EXPECT_EQ(Model(kFlash), expected);
  const auto files = Make(kFlash);
  const std::map<std::string, std::string> checkpoint = {
      {"save_rng", "false"}, {"save_optim", "false"}, {"fully_parallel_save", "true"}};
  EXPECT_EQ(Section(files.value().at("iter_0000000/run_config.yaml"), "checkpoint"), checkpoint);
}

TEST(MegatronFiles, LaterConfigsKeepRotaryNumbersElsewhereAndAsFloats) {
  std::string text = Replaced(kFlash, R"("rope_theta": 5000000,)",
                              R"("rope_parameters": {"rope_theta": 10000000.0, "partial_rotary_factor": 0.5},)");
  text = Replaced(text, R"("partial_rotary_factor": 0.334,)", "");
  text = Replaced(text, R"("swa_rope_theta": 10000)", R"("swa_rope_theta": 10000.0)");
  text =
      Replaced(text, R"("tie_word_embeddings": false)", R"("tie_word_embeddings": false, "initializer_range": 0.02)");
  auto model = Model(text);
  EXPECT_EQ(model["rotary_base"], "[10000.0, 10000000.0]");
  EXPECT_EQ(model["rotary_percent"], "0.5");
  EXPECT_EQ(model["init_method_std"], "0.02");
}

TEST(MegatronFiles, GroupsAreThoseOfTheModelNotOfReplicas) {
  std::string text = Replaced(kFlash, R"("num_key_value_heads": 4)", R"("num_key_value_heads": 16)");
  text = Replaced(text, R"("swa_num_key_value_heads": 8)",
                  R"("swa_num_key_value_heads": 16, "mimo_layout": {"version": 1, "qkv": "fused", "chunks": 16,
                     "kv_heads": 4, "swa_kv_heads": 8})");
  auto model = Model(text);
  EXPECT_EQ(model["num_query_groups"], "4");
  EXPECT_EQ(model["swa_num_query_groups"], "8");
}

TEST(MegatronFiles, PaddedVocabularyIsWhatTheProviderComputesAgain) {
  const std::string text = Replaced(kFlash, R"("vocab_size": 152576)", R"("vocab_size": 1000)");
  auto bare = Model(text, {.vocab_rows = 1000, .tp = 2});
  EXPECT_EQ(bare["vocab_size"], "1000");
  EXPECT_EQ(bare["make_vocab_size_divisible_by"], "8");
  EXPECT_EQ(bare["should_pad_vocab"], "false");
  auto padded = Model(text, {.vocab_rows = 1024, .tp = 2});
  EXPECT_EQ(padded["vocab_size"], "1000");
  EXPECT_EQ(padded["make_vocab_size_divisible_by"], "128");
  EXPECT_EQ(padded["should_pad_vocab"], "true");
  EXPECT_EQ(padded["tensor_model_parallel_size"], "2");
}

TEST(MegatronFiles, OtherDtypes) {
  auto half = Model(kFlash, {.dtype = DTypeChoice::kFp16});
  EXPECT_EQ(half["bf16"] + half["fp16"] + half["params_dtype._target_"], "falsetrue\"torch.float16\"");
  auto full = Model(kFlash, {.dtype = DTypeChoice::kFp32});
  EXPECT_EQ(full["bf16"] + full["fp16"] + full["params_dtype._target_"], "falsefalse\"torch.float32\"");
  const auto other = Make(kFlash, {.dtype = DTypeChoice::kKeep});
  ASSERT_FALSE(other.ok());
  EXPECT_EQ(other.error().code, ErrorCode::kUsage);
}

TEST(MegatronFiles, RefusesWhatTheRunConfigurationCannotState) {
  const auto refused = [](const std::string& text, const std::string& key) {
    const auto files = Make(text);
    ASSERT_FALSE(files.ok()) << key;
    EXPECT_EQ(files.error().code, ErrorCode::kBadInput);
    EXPECT_NE(files.error().Message().find(key), std::string::npos) << files.error().Message();
  };
  refused(Replaced(kFlash, R"("rope_theta": 5000000,)", ""), "rope_theta");
  refused(Replaced(kFlash, R"("num_experts_per_tok": 8)", R"("num_experts_per_tok": null)"), "num_experts_per_tok");
  refused(Replaced(kFlash, R"("layernorm_epsilon": 1e-05)", R"("layernorm_epsilon": [1])"), "layernorm_epsilon");
  refused(Replaced(kFlash, R"("hidden_act": "silu")", R"("hidden_act": "gelu")"), "hidden_act");
}

}  // namespace
}  // namespace mimo::megatron_files_test
