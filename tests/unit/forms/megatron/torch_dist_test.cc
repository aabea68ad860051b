// Plans of torch_dist directories: where every element of every chunk comes from, by the formulas of reference
// target-layouts.md 1.2 and 1.3, and what .metadata says of them.
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "lib/forms/megatron/megatron_form.h"
#include "lib/forms/megatron/torch_dist_form.h"
#include "lib/io/torch/container.h"
#include "lib/io/torch/dcp_metadata.h"
#include "lib/io/torch/item.h"
#include "lib/planner/planner.h"
#include "tests/unit/planner/made_checkpoint.h"
#include "tests/unit/planner/plan_origins.h"

namespace mimo::torch_dist_test {
namespace {

using made::Model;

Model Small() {
  Model m = made::Quarter();
  m.heads = 16;  // groups of 4 and 2
  m.moe_intermediate = 128;
  m.windowed = {0, 1, 1};
  m.moe = {0, 1, 1};
  m.layout = {QkvKind::kSplitIndependent, 1};
  return m;
}

// run_config.yaml needs more of config.json than conversions do.
made::Understood Understood(const Model& m) {
  made::Understood u = made::Understand(m);
  nlohmann::json config = made::ConfigOf(m);
  config.update(nlohmann::json::parse(R"({
         "max_position_embeddings": 4096, "rope_theta": 5000000, "swa_rope_theta": 10000, "partial_rotary_factor": 0.334,
         "sliding_window": 128, "sliding_window_size": 128, "num_experts_per_tok": 2, "scoring_func": "sigmoid",
         "n_group": 1, "topk_group": 1, "hidden_act": "silu", "layernorm_epsilon": 1e-05, "attention_dropout": 0.0,
         "attention_bias": false, "attention_value_scale": 0.707, "routed_scaling_factor": null,
         "tie_word_embeddings": false})"));
  auto parsed = ParseModelConfig(config.dump(), "/checkpoint/config.json");
  EXPECT_TRUE(parsed.ok()) << parsed.error().Message();
  u.catalogue.config = std::move(parsed).value();
  return u;
}

PlanOptions Options(int64_t tp = 0, int64_t etp = 0) {
  PlanOptions options;
  options.to = TargetKind::kMegatron;
  options.dtype = DTypeChoice::kBf16;
  options.tp = tp;
  options.etp = etp;
  return options;
}

Result<Plan> PlanOf(const made::Understood& u, const PlanOptions& options) {
  return MakePlan(u.catalogue, u.inventory, u.verdict, options);
}

// The model as Megatron has it, of a split checkpoint.
class Truth {
 public:
  Truth(const Model& m, const Catalogue& c) : m_(m), c_(c) {}

  // Shape of every tensor.
  std::map<std::string, std::vector<int64_t>> Shapes(int64_t vocab) const {
    std::map<std::string, std::vector<int64_t>> all = {{"embedding.word_embeddings.weight", {vocab, m_.hidden}},
                                                       {"output_layer.weight", {vocab, m_.hidden}},
                                                       {"decoder.final_layernorm.weight", {m_.hidden}}};
    const auto layer = [&](const std::string& p, bool window, bool moe, bool mtp) {
      const std::string q = mtp ? p + "transformer_layer." : p;
      const int64_t g = window ? m_.swa_kv : m_.kv;
      all[q + "self_attention.linear_qkv.layer_norm_weight"] = {m_.hidden};
      all[q + "self_attention.linear_qkv.weight"] = {g * Group(g), m_.hidden};
      all[q + "self_attention.linear_proj.weight"] = {m_.hidden, m_.heads * m_.v_head_dim};
      if (window) all[q + "self_attention.core_attention.softmax_offset"] = {m_.heads};
      all[q + (moe ? "pre_mlp_layernorm.weight" : "mlp.linear_fc1.layer_norm_weight")] = {m_.hidden};
      if (moe) {
        all[q + "mlp.router.weight"] = {m_.experts, m_.hidden};
        all[q + "mlp.router.expert_bias"] = {m_.experts};
        all[q + "mlp.experts.experts.linear_fc1.weight"] = {m_.experts, 2 * m_.moe_intermediate, m_.hidden};
        all[q + "mlp.experts.experts.linear_fc2.weight"] = {m_.experts, m_.hidden, m_.moe_intermediate};
      } else {
        all[q + "mlp.linear_fc1.weight"] = {2 * m_.intermediate, m_.hidden};
        all[q + "mlp.linear_fc2.weight"] = {m_.hidden, m_.intermediate};
      }
      if (!mtp) return;
      for (const char* norm : {"enorm", "hnorm", "final_layernorm"}) all[p + norm + ".weight"] = {m_.hidden};
      all[p + "eh_proj.weight"] = {m_.hidden, 2 * m_.hidden};
    };
    for (size_t l = 0; l < m_.windowed.size(); ++l)
      layer("decoder.layers." + std::to_string(l) + ".", m_.windowed[l] != 0, m_.moe[l] != 0, false);
    for (int l = 0; l < m_.mtp; ++l) layer("mtp.layers." + std::to_string(l) + ".", true, false, true);
    return all;
  }

  // The element of the source that is at `index` of a tensor.
  int64_t At(const std::string& key, const std::vector<int64_t>& index) const {
    const int64_t row = index.size() > 1 ? index[index.size() - 2] : 0, col = index.back();
    if (key == "embedding.word_embeddings.weight" || key == "output_layer.weight")
      return row < m_.vocab ? Id(key[0] == 'e' ? "model.embed_tokens.weight" : "lm_head.weight", row, col)
                            : made::kPadding;
    if (key == "decoder.final_layernorm.weight") return Id("model.norm.weight", 0, col);
    const bool mtp = key[0] == 'm';
    const size_t number = mtp ? 11 : 15, dot = key.find('.', number);
    const auto layer = static_cast<size_t>(std::stoi(key.substr(number, dot - number)));
    const std::string hf = (mtp ? "model.mtp.layers." : "model.layers.") + std::to_string(layer) + ".";
    std::string rest = key.substr(dot + 1);
    if (rest.starts_with("transformer_layer.")) rest = rest.substr(18);
    const int64_t g = mtp || m_.windowed[layer] != 0 ? m_.swa_kv : m_.kv, h = m_.heads / g, d = m_.head_dim;
    if (rest == "self_attention.linear_qkv.weight") {
      const int64_t group = row / Group(g), in = row % Group(g);
      if (in < h * d) return Id(hf + "self_attn.q_proj.weight", group * h * d + in, col);
      if (in < (h + 1) * d) return Id(hf + "self_attn.k_proj.weight", group * d + in - h * d, col);
      return Id(hf + "self_attn.v_proj.weight", group * m_.v_head_dim + in - (h + 1) * d, col);
    }
    static const std::map<std::string, std::string> kSame = {
        {"self_attention.linear_qkv.layer_norm_weight", "input_layernorm.weight"},
        {"self_attention.linear_proj.weight", "self_attn.o_proj.weight"},
        {"self_attention.core_attention.softmax_offset", "self_attn.attention_sink_bias"},
        {"pre_mlp_layernorm.weight", "post_attention_layernorm.weight"},
        {"mlp.linear_fc1.layer_norm_weight", "post_attention_layernorm.weight"},
        {"mlp.linear_fc2.weight", "mlp.down_proj.weight"},
        {"mlp.router.weight", "mlp.gate.weight"},
        {"mlp.router.expert_bias", "mlp.gate.e_score_correction_bias"},
        {"enorm.weight", "enorm.weight"},
        {"hnorm.weight", "hnorm.weight"},
        {"final_layernorm.weight", "final_layernorm.weight"},
        {"eh_proj.weight", "eh_proj.weight"}};
    if (mtp && rest == "mlp.linear_fc1.layer_norm_weight") return Id(hf + "pre_mlp_layernorm.weight", row, col);
    if (kSame.contains(rest)) return Id(hf + kSame.at(rest), row, col);
    const bool expert = index.size() == 3;
    const std::string mlp = hf + (expert ? "mlp.experts." + std::to_string(index[0]) + "." : "mlp.");
    if (rest.ends_with("linear_fc2.weight")) return Id(mlp + "down_proj.weight", row, col);
    const int64_t half = expert ? m_.moe_intermediate : m_.intermediate;
    return row < half ? Id(mlp + "gate_proj.weight", row, col) : Id(mlp + "up_proj.weight", row - half, col);
  }

  int64_t Group(int64_t g) const { return m_.heads / g * m_.head_dim + m_.head_dim + m_.v_head_dim; }

 private:
  int64_t Id(const std::string& name, int64_t row, int64_t col) const {
    const uint32_t array = c_.by_name.at(name);
    return made::ElementId(array, row * made::Cols(c_.arrays[array].shape) + col);
  }
  const Model& m_;
  const Catalogue& c_;
};

struct Chunk {
  std::string key;
  std::vector<int64_t> offsets;
};
Chunk Parsed(const std::string& name) {
  const size_t open = name.find('[');
  Chunk chunk{name.substr(0, open), {}};
  size_t at = open + 1;
  while (at < name.size()) {
    size_t read = 0;
    chunk.offsets.push_back(std::stoll(name.substr(at), &read));
    at += read + 1;
  }
  return chunk;
}

// Every element of every chunk, and that the chunks tile their tensors.
void ExpectModel(const Model& m, const made::Understood& u, const Plan& plan, int64_t vocab) {
  const Truth truth(m, u.catalogue);
  const auto shapes = truth.Shapes(vocab);
  std::map<std::string, int64_t> elements;
  const made::PlanOrigins origins(u.catalogue, plan);
  for (size_t o = 0; o < plan.outputs.size(); ++o) {
    const OutputArray& output = plan.outputs[o];
    const Chunk chunk = Parsed(output.name);
    ASSERT_TRUE(shapes.contains(chunk.key)) << output.name;
    const std::vector<int64_t>& whole = shapes.at(chunk.key);
    ASSERT_EQ(output.shape.size(), whole.size()) << output.name;
    ASSERT_EQ(chunk.offsets.size(), whole.size()) << output.name;
    const bool f32 = chunk.key.find(".router.") != std::string::npos;
    EXPECT_EQ(output.dtype, f32 ? DType::kF32 : DType::kBF16) << output.name;
    for (size_t d = 0; d < whole.size(); ++d) ASSERT_LE(chunk.offsets[d] + output.shape[d], whole[d]) << output.name;
    // Columns of a row follow each other in the source.
    const made::Ids& ids = origins.ids()[o];
    const int64_t cols = output.shape.back();
    std::vector<int64_t> at(whole.size(), 0);
    for (size_t i = 0; i < ids.size(); i += static_cast<size_t>(cols)) {
      std::vector<int64_t> index = at;
      for (size_t d = 0; d < at.size(); ++d) index[d] += chunk.offsets[d];
      const int64_t first = truth.At(chunk.key, index);
      for (int64_t c = 0; c < cols; ++c)
        ASSERT_EQ(ids[i + static_cast<size_t>(c)], first < 0 ? first : first + c) << output.name;
      for (size_t d = at.size() - 1; d-- > 0;) {
        if (++at[d] < output.shape[d]) break;
        at[d] = 0;
      }
    }
    elements[chunk.key] += static_cast<int64_t>(origins.ids()[o].size());
  }
  EXPECT_EQ(elements.size(), shapes.size());
  for (const auto& [key, shape] : shapes) {
    int64_t n = 1;
    for (const int64_t d : shape) n *= d;
    EXPECT_EQ(elements[key], n) << key;
  }
}

TEST(PlanMegatron, EveryElementOfEveryChunk) {
  const Model m = Small();
  const auto u = Understood(m);
  for (const auto& [tp, etp] : {std::pair(0, 0), std::pair(1, 2), std::pair(2, 4), std::pair(4, 2)}) {
    SCOPED_TRACE(testing::Message() << tp << " " << etp);
    auto plan = PlanOf(u, Options(tp, etp));
    ASSERT_TRUE(plan.ok()) << plan.error().Message();
    ExpectModel(m, u, plan.value(), m.vocab);
  }
}

TEST(PlanMegatron, OtherModels) {
  for (const int variant : {0, 1, 2}) {
    Model m = Small();
    if (variant == 0) m.fp8 = false;
    if (variant == 1) m.router = DType::kBF16;
    if (variant == 2) m.windowed = {1, 0}, m.moe = {1, 0}, m.mtp = 0;
    const auto u = Understood(m);
    auto plan = PlanOf(u, Options());
    ASSERT_TRUE(plan.ok()) << plan.error().Message();
    ExpectModel(m, u, plan.value(), m.vocab);
  }
}

TEST(PlanMegatron, PaddedVocabulary) {
  Model m = Small();
  for (const auto& [vocab, tp, padded] :
       std::vector<std::tuple<int64_t, int64_t, int64_t>>{{100, 2, 256}, {256, 2, 256}, {260, 4, 512}, {100, 0, 128}}) {
    m.vocab = vocab;
    const auto u = Understood(m);
    PlanOptions options = Options(tp);
    options.pad = true;
    auto plan = PlanOf(u, options);
    ASSERT_TRUE(plan.ok()) << plan.error().Message();
    ExpectModel(m, u, plan.value(), padded);
  }
}

// Offsets as native savers have them.
TEST(PlanMegatron, ChunksLieAtTheCutsOfRanks) {
  const Model m = Small();
  const auto u = Understood(m);
  auto plan = PlanOf(u, Options(2, 2));
  ASSERT_TRUE(plan.ok()) << plan.error().Message();
  std::map<std::string, std::set<std::vector<int64_t>>> offsets;
  for (const OutputArray& output : plan->outputs) {
    const Chunk chunk = Parsed(output.name);
    EXPECT_TRUE(offsets[chunk.key].insert(chunk.offsets).second) << output.name;
  }
  std::set<std::vector<int64_t>> fc1, fc2;
  for (int64_t e = 0; e < m.experts; ++e)
    for (int64_t r = 0; r < 2; ++r) {
      fc1.insert({e, r * m.moe_intermediate / 2, 0});
      fc1.insert({e, m.moe_intermediate + r * m.moe_intermediate / 2, 0});
      fc2.insert({e, 0, r * m.moe_intermediate / 2});
    }
  EXPECT_EQ(offsets.at("decoder.layers.1.mlp.experts.experts.linear_fc1.weight"), fc1);
  EXPECT_EQ(offsets.at("decoder.layers.1.mlp.experts.experts.linear_fc2.weight"), fc2);
  const int64_t group = Truth(m, u.catalogue).Group(m.swa_kv);
  for (const auto& at : offsets.at("decoder.layers.1.self_attention.linear_qkv.weight")) EXPECT_EQ(at[0] % group, 0);
  for (const char* key : {"decoder.layers.0.mlp.linear_fc1.weight"}) {
    EXPECT_TRUE(offsets.at(key).contains({m.intermediate / 2, 0}));
    EXPECT_TRUE(offsets.at(key).contains({m.intermediate, 0}));
    EXPECT_TRUE(offsets.at(key).contains({m.intermediate / 2 * 3, 0}));
  }
  EXPECT_TRUE(offsets.at("decoder.layers.0.mlp.linear_fc2.weight").contains({0, m.intermediate / 2}));
  EXPECT_TRUE(offsets.at("mtp.layers.0.eh_proj.weight").contains({m.hidden / 2, 0}));
  for (const char* key : {"decoder.layers.1.self_attention.core_attention.softmax_offset",
                          "decoder.layers.1.mlp.router.expert_bias", "decoder.final_layernorm.weight"})
    EXPECT_EQ(offsets.at(key), (std::set<std::vector<int64_t>>{{0}}));
  EXPECT_EQ(offsets.at("decoder.layers.1.mlp.router.weight"), (std::set<std::vector<int64_t>>{{0, 0}}));
}

TEST(PlanMegatron, MetadataSaysWhereEachChunkLies) {
  const Model m = Small();
  const auto u = Understood(m);
  PlanOptions options = Options(2, 2);
  options.iteration = 12;
  auto plan = PlanOf(u, options);
  ASSERT_TRUE(plan.ok()) << plan.error().Message();
  std::map<std::string, std::string> texts;
  for (const TextFile& text : plan->texts) texts[text.name] = text.content;
  auto metadata = ReadDcpMetadata(texts.at("iter_0000012/.metadata"), ".metadata");
  ASSERT_TRUE(metadata.ok()) << metadata.error().Message();
  std::map<std::string, const OutputArray*> outputs;
  for (const OutputArray& output : plan->outputs) outputs[output.name] = &output;
  const auto shapes = Truth(m, u.catalogue).Shapes(m.vocab);
  EXPECT_EQ(metadata->tensors.size(), shapes.size());
  size_t chunks = 0;
  for (const DcpTensor& tensor : metadata->tensors) {
    EXPECT_EQ(tensor.shape, shapes.at(tensor.key)) << tensor.key;
    for (const DcpChunk& chunk : tensor.chunks) {
      ++chunks;
      const OutputArray& output = *outputs.at(ChunkName(tensor.key, chunk.offsets));
      EXPECT_EQ(output.shape, chunk.sizes);
      EXPECT_EQ(output.dtype, tensor.dtype);
      EXPECT_EQ(plan->files[output.file].name, "iter_0000012/" + chunk.range.file);
      EXPECT_EQ(plan->files[output.file].container, &TorchItemsContainer());
      const TorchItemSize size = SizeOfTorchItem(tensor.dtype, chunk.sizes);
      EXPECT_EQ(chunk.range.offset + size.head, output.begin);
      EXPECT_EQ(chunk.range.bytes, size.total());
    }
  }
  EXPECT_EQ(chunks, plan->outputs.size());
  // Files by layer: embedding, output layer and final norm, then decoder layers, then MTP.
  for (const auto& [name, file] :
       std::map<std::string, std::string>{{"output_layer.weight[0,0]", "__0_1"},
                                          {"decoder.final_layernorm.weight[0]", "__0_1"},
                                          {"decoder.layers.2.mlp.router.weight[0,0]", "__0_4"},
                                          {"mtp.layers.0.enorm.weight[0]", "__0_5"}})
    EXPECT_EQ(plan->files[outputs.at(name)->file].name, "iter_0000012/" + file + ".distcp");
  // Nothing else is written into the iteration than what it consists of; trackers come last.
  EXPECT_EQ(texts.at("latest_checkpointed_iteration.txt"), "12");
  bool trackers = false;
  for (const TextFile& text : plan->texts) {
    const bool tracker = text.name.starts_with("latest_");
    EXPECT_TRUE(tracker || !trackers || !text.name.starts_with("iter_")) << text.name;
    trackers |= tracker;
  }

  // The superset of target-layouts.md 2.2.
  std::set<std::string> wanted;
  const auto want = [&](const std::string& module, int64_t n = 1) {
    for (int64_t e = 0; e < n; ++e)
      wanted.insert(module + "._extra_state/shard_" + std::to_string(e) + "_" + std::to_string(n));
  };
  want("decoder.final_layernorm");
  for (const auto& [p, sinks, moe] :
       std::vector<std::tuple<std::string, bool, bool>>{{"decoder.layers.0.", false, false},
                                                        {"decoder.layers.1.", true, true},
                                                        {"decoder.layers.2.", true, true},
                                                        {"mtp.layers.0.transformer_layer.", true, false}}) {
    want(p + "self_attention.linear_qkv");
    want(p + "self_attention.linear_proj");
    if (sinks) want(p + "self_attention.core_attention");
    if (moe) want(p + "pre_mlp_layernorm");
    for (const char* fc : {"linear_fc1", "linear_fc2"})
      moe ? want(p + "mlp.experts.experts." + fc, m.experts) : want(p + "mlp." + fc);
  }
  for (const char* module : {"enorm", "hnorm", "eh_proj", "final_layernorm"})
    want(std::string("mtp.layers.0.") + module);
  std::set<std::string> found;
  for (const DcpBytes& bytes : metadata->bytes) {
    found.insert(bytes.key);
    EXPECT_EQ(bytes.range.file, "__0_0.distcp");
    EXPECT_EQ(bytes.range.offset, 0u);
    EXPECT_EQ(bytes.range.bytes, texts.at("iter_0000012/__0_0.distcp").size());
  }
  EXPECT_EQ(found, wanted);
  EXPECT_EQ(texts.at("iter_0000012/__0_0.distcp"), EmptyExtraStateItem());
}

TEST(PlanMegatron, WhatCannotBeCutOrHeldIsRefused) {
  const Model m = Small();
  const auto u = Understood(m);
  const auto refused = [&](const PlanOptions& options) {
    auto plan = PlanOf(u, options);
    ASSERT_FALSE(plan.ok());
    EXPECT_EQ(plan.error().code, ErrorCode::kUsage) << plan.error().Message();
  };
  refused(Options(3));
  refused(Options(8));  // more than the groups of full attention
  refused(Options(0, 3));
  PlanOptions some = Options();
  some.exclude = {"layers\\.1\\.mlp\\.experts\\.3\\."};
  refused(some);
  Model odd = m;
  odd.tower = true;
  const auto with_tower = Understood(odd);
  auto plan = PlanOf(with_tower, Options());
  ASSERT_TRUE(plan.ok()) << plan.error().Message();
  ExpectModel(odd, with_tower, plan.value(), odd.vocab);
  EXPECT_EQ(plan->fates[with_tower.catalogue.by_name.at("visual.patch_embed.weight")].fate, Fate::kDropped);
}

TEST(PlanMegatron, Fp32AndFp16) {
  const Model m = Small();
  const auto u = Understood(m);
  for (const auto& [choice, dtype] :
       {std::pair(DTypeChoice::kFp32, DType::kF32), std::pair(DTypeChoice::kFp16, DType::kF16)}) {
    PlanOptions options = Options();
    options.dtype = choice;
    auto plan = PlanOf(u, options);
    ASSERT_TRUE(plan.ok()) << plan.error().Message();
    for (const OutputArray& output : plan->outputs)
      EXPECT_EQ(output.dtype, output.name.find(".router.") != std::string::npos ? DType::kF32 : dtype) << output.name;
  }
}

// "Megatron means BF16" is the form's own, for users of the library too.
TEST(PlanMegatron, MeansBf16WhereNoTypeIsGiven) {
  const made::Understood u = Understood(Small());
  PlanOptions plain = Options();
  plain.dtype = DTypeChoice::kKeep;
  plain.format = FormKind::kTorchDist;  // the usual one
  const auto plan = PlanOf(u, plain);
  ASSERT_TRUE(plan.ok()) << plan.error().Message();
  EXPECT_EQ(plan.value().options, Options());
  EXPECT_EQ(plan.value().digest, PlanOf(u, Options()).value().digest);
  plain.recipe = Recipe();
  EXPECT_EQ(PlanOf(u, plain).error().code, ErrorCode::kUsage);
  plain = Options();
  plain.format = FormKind::kShardedState;
  EXPECT_EQ(PlanOf(u, plain).error().code, ErrorCode::kUsage);
}

}  // namespace
}  // namespace mimo::torch_dist_test
