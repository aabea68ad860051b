// The planner on a two-layer model made in memory: what moves, what straddles, where outputs go, and what the promises
// refuse.
#include "lib/planner/planner.h"

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "lib/draft/draft.h"
#include "lib/io/dtype.h"
#include "lib/plan/plan_json.h"

namespace mimo::planner_test {
namespace {

using nlohmann::json;

constexpr int64_t kHidden = 256;

// Layer 0: global, dense. Layer 1: sliding window, 2 experts. No MTP. Released Flash head counts.
Catalogue MakeCatalogue(int64_t chunks, bool split) {
  Catalogue c;
  c.root = "/checkpoint";
  json config = {{"model_type", "mimo_v2"},
                 {"hidden_size", kHidden},
                 {"num_hidden_layers", 2},
                 {"vocab_size", 512},
                 {"intermediate_size", 256},
                 {"moe_intermediate_size", 256},
                 {"n_routed_experts", 2},
                 {"num_attention_heads", 64},
                 {"num_key_value_heads", 4},
                 {"swa_num_attention_heads", 64},
                 {"swa_num_key_value_heads", 8},
                 {"head_dim", 192},
                 {"v_head_dim", 128},
                 {"swa_head_dim", 192},
                 {"swa_v_head_dim", 128},
                 {"hybrid_layer_pattern", {0, 1}},
                 {"moe_layer_freq", {0, 1}},
                 {"add_swa_attention_sink_bias", true},
                 {"torch_dtype", "bfloat16"},
                 {"quantization_config",
                  {{"quant_method", "fp8"},
                   {"weight_block_size", {128, 128}},
                   {"ignored_layers", {"model.layers.0.self_attn.o_proj", "model.layers.1.self_attn.o_proj"}}}}};
  if (!split) config["attention_projection_layout"] = "fused_qkv";
  auto parsed = ParseModelConfig(config.dump(), "/checkpoint/config.json");
  EXPECT_TRUE(parsed.ok()) << parsed.error().Message();
  c.config = std::move(parsed).value();
  c.table = ModelTable::Get("mimo_v2").value();
  c.files = {{"a.safetensors", 0, 0, {}, {}}, {"b.safetensors", 0, 0, {}, {}}};
  if (!split) c.index.tp_size = chunks;
  auto expected = ExpectedTensors(*c.table, c.config, !split, 0);
  EXPECT_TRUE(expected.ok());
  const auto add = [&](const std::string& name, DType dtype, std::vector<int64_t> shape) {
    StoredArray a;
    a.name = name;
    a.dtype = dtype;
    a.shape = std::move(shape);
    a.file = name.find(".experts.") != std::string::npos ? 1 : 0;
    a.bytes = ArrayBytes(dtype, a.shape);
    a.begin = c.files[a.file].bytes;
    c.files[a.file].bytes += a.bytes;
    a.id = c.table->Identify(name);
    c.arrays.push_back(std::move(a));
  };
  for (const ExpectedTensor& t : *expected) {
    const std::string& kind = t.rule->storage;
    const bool quantized = kind == "linear" || kind == "expert";
    add(t.name, quantized ? DType::kF8E4M3 : kind == "f32" || kind == "router" ? DType::kF32 : DType::kBF16, t.shape);
    if (!quantized) continue;
    int64_t scale_rows = (t.shape[0] + 127) / 128;
    const AttentionShape& s = c.config.attention(t.id.layer == 1);
    const QkvMap map = split ? BuildQkvMap({QkvKind::kSplit, chunks}, s) : BuildQkvMap({QkvKind::kFused, chunks}, s);
    if (t.id.role == Role::kAttnQkv || t.id.role == Role::kAttnQ) scale_rows = map.scale_rows[0];
    if (t.id.role == Role::kAttnK) scale_rows = map.scale_rows[1];
    if (t.id.role == Role::kAttnV) scale_rows = map.scale_rows[2];
    add(t.name + "_scale_inv", DType::kF32, {scale_rows, (t.shape[1] + 127) / 128});
  }
  std::sort(c.arrays.begin(), c.arrays.end(), [](const auto& x, const auto& y) { return x.name < y.name; });
  for (uint32_t i = 0; i < c.arrays.size(); ++i) c.by_name.emplace(c.arrays[i].name, i);
  return c;
}

struct Planned {
  Catalogue catalogue;
  Result<Plan> plan = Error{};
};

Planned PlanIt(const PlanOptions& options, int64_t chunks = 4, bool split = false) {
  Planned p{MakeCatalogue(chunks, split)};
  auto inventory = TakeInventory(p.catalogue);
  EXPECT_TRUE(inventory.ok()) << inventory.error().Message();
  auto verdict = DecideLayout(p.catalogue, *inventory, {}, std::nullopt);
  EXPECT_TRUE(verdict.ok()) << verdict.error().Message();
  p.plan = MakePlan(p.catalogue, *inventory, *verdict, options);
  return p;
}

PlanOptions Qkv(const std::string& qkv, DTypeChoice dtype = DTypeChoice::kKeep) {
  PlanOptions o;
  o.qkv = QkvWish(qkv);
  o.dtype = dtype;
  return o;
}

json TextOf(const Plan& plan, const std::string& name) {
  for (const TextFile& t : plan.texts)
    if (t.name == name) return json::parse(t.content);
  ADD_FAILURE() << name;
  return {};
}

TEST(Planner, KeepingEverythingLinksEverything) {
  const Planned p = PlanIt({});
  ASSERT_TRUE(p.plan.ok()) << p.plan.error().Message();
  const Plan& plan = p.plan.value();
  EXPECT_TRUE(plan.lossless);
  for (const PlanFile& f : plan.files) EXPECT_TRUE(f.unchanged) << f.name;
  EXPECT_EQ(plan.outputs.size(), p.catalogue.arrays.size());
  EXPECT_EQ(plan.texts[0].content, p.catalogue.config.text);
}

TEST(Planner, SplittingTheReleasedChunksLosesNothing) {
  for (const char* qkv : {"split", "fused:4", "split:4"}) {
    const Planned p = PlanIt(Qkv(qkv));
    ASSERT_TRUE(p.plan.ok()) << p.plan.error().Message();
    EXPECT_TRUE(p.plan.value().lossless) << qkv;
    EXPECT_EQ(p.plan.value().straddling_blocks, 0u) << qkv;
  }
}

TEST(Planner, OnlyFilesWithAttentionChange) {
  const Planned p = PlanIt(Qkv("split"));
  ASSERT_TRUE(p.plan.ok());
  for (const PlanFile& f : p.plan.value().files) EXPECT_EQ(f.unchanged, f.name == "b.safetensors");
}

// Straddles counted by hand from the algebra (reference mimo-checkpoints.md section 3.4): 2 column blocks.
TEST(Planner, StraddlesAreExactlyThoseOfTheReference) {
  const auto blocks = [](const char* qkv) {
    const Planned p = PlanIt(Qkv(qkv));
    EXPECT_TRUE(p.plan.ok());
    return p.plan.value().straddling_blocks;
  };
  // fused(1) of the global layer merges 4 x 192 K rows into 6 blocks and 4 x 128 V rows into 4. K head h starts at row
  // 192h: heads 0 and 2 are block-aligned. K blocks 1 (128-191 of head 0 + 0-63 of head 1), 2 (64-191 of head 1, whose
  // scale changes at 128), 4, 5 straddle; every V block holds rows under two scales. 4 + 4 rows of scales, 2 columns.
  // The windowed layer moves whole blocks.
  EXPECT_EQ(blocks("fused:1"), 2u * 8u);
  EXPECT_EQ(blocks("fused:2"), 2u * 8u);
  // fused(8): global chunks are copies, exact. Windowed chunks part two KV heads that share block 25: the first head's
  // block 25 then holds K rows under scale 25 and V rows, the second head's blocks 24 and 25 likewise. The first head's
  // first block moves.
  EXPECT_EQ(blocks("fused:8"), 2u * 4u * 3u);
}

TEST(Planner, LosslessRefusesAndNamesTheLayer) {
  PlanOptions o = Qkv("fused:8");
  o.lossless = true;
  const Planned p = PlanIt(o);
  ASSERT_FALSE(p.plan.ok());
  EXPECT_EQ(p.plan.error().code, ErrorCode::kCheckFailed);
  EXPECT_NE(p.plan.error().found.find("layers 1"), std::string::npos) << p.plan.error().found;
  o = Qkv("split", DTypeChoice::kBf16);
  o.lossless = true;
  EXPECT_FALSE(PlanIt(o).plan.ok());
  o.dtype = DTypeChoice::kKeep;
  EXPECT_TRUE(PlanIt(o).plan.ok());
}

TEST(Planner, PromisesSpeakOfWhatFiltersLeave) {
  PlanOptions o = Qkv("fused:8");  // straddles in layer 1
  o.exclude = {"layers\\.1\\."};
  o.lossless = true;
  Planned without = PlanIt(o);
  ASSERT_TRUE(without.plan.ok()) << without.plan.error().Message();
  EXPECT_TRUE(without.plan->lossless);
  o.exclude = {"layers\\.0\\."};
  EXPECT_EQ(PlanIt(o).plan.error().code, ErrorCode::kCheckFailed);
  o.lossless = false;
  EXPECT_FALSE(PlanIt(o).plan->lossless);
  o = Qkv("split", DTypeChoice::kBf16);  // rounds what is quantized, and nothing else
  o.include = {"norm", "embed"};
  o.lossless = true;
  EXPECT_TRUE(PlanIt(o).plan.ok());
  o.include = {"norm", "v_proj"};
  EXPECT_NE(PlanIt(o, 4, true).plan.error().found.find("2 weights"), std::string::npos);
  o = Qkv("fused:8");
  o.on_straddle = StraddlePolicy::kBf16;
  const auto notes = [](const Plan& plan) { return json(plan.notes).dump(); };
  EXPECT_NE(notes(PlanIt(o).plan.value()).find("attention of 1 layers becomes BF16"), std::string::npos);
  o.exclude = {"layers\\.1\\."};
  EXPECT_EQ(notes(PlanIt(o).plan.value()).find("becomes BF16"), std::string::npos);
}

TEST(Planner, StraddlingLayersMayBecomeBf16AlongWithTheirIgnoreList) {
  PlanOptions o = Qkv("fused:8");
  o.on_straddle = StraddlePolicy::kBf16;
  const Planned p = PlanIt(o);
  ASSERT_TRUE(p.plan.ok()) << p.plan.error().Message();
  const Plan& plan = p.plan.value();
  EXPECT_EQ(plan.straddling_blocks, 0u);
  EXPECT_FALSE(plan.lossless);
  for (const OutputArray& out : plan.outputs)
    if (out.id.role == Role::kAttnQkv && out.id.part == Part::kWeight) {
      EXPECT_EQ(out.dtype, out.id.layer == 1 ? DType::kBF16 : DType::kF8E4M3);
    }
  const json q = TextOf(plan, "config.json")["quantization_config"];
  std::set<std::string> ignored = q["ignored_layers"];
  EXPECT_EQ(q["ignored_layers"], q["modules_to_not_convert"]);
  EXPECT_TRUE(ignored.contains("model.layers.1.self_attn.qkv_proj"));
  EXPECT_TRUE(ignored.contains("model.layers.1.self_attn.k_proj"));
  EXPECT_FALSE(ignored.contains("model.layers.0.self_attn.qkv_proj"));
  EXPECT_TRUE(ignored.contains("model.layers.1.self_attn.o_proj"));
}

TEST(Planner, ConfigOfReplicatedHeads) {
  const Planned p = PlanIt(Qkv("fused:16"));
  ASSERT_TRUE(p.plan.ok());
  const json config = TextOf(p.plan.value(), "config.json");
  EXPECT_EQ(config["num_key_value_heads"], 16);
  EXPECT_EQ(config["swa_num_key_value_heads"], 16);
  EXPECT_EQ(config["mimo_layout"]["kv_heads"], 4);
  EXPECT_EQ(config["mimo_layout"]["swa_kv_heads"], 8);
  EXPECT_EQ(TextOf(p.plan.value(), "model.safetensors.index.json")["metadata"]["tp_size"], 16);
}

TEST(Planner, Bf16SplitDropsQuantizationAndLayoutKeys) {
  const Planned p = PlanIt(Qkv("split", DTypeChoice::kBf16));
  ASSERT_TRUE(p.plan.ok());
  const Plan& plan = p.plan.value();
  const json config = TextOf(plan, "config.json"), index = TextOf(plan, "model.safetensors.index.json");
  EXPECT_FALSE(config.contains("quantization_config"));
  EXPECT_FALSE(config.contains("attention_projection_layout"));
  EXPECT_FALSE(index["metadata"].contains("tp_size"));
  uint64_t sum = 0;
  for (const OutputArray& out : plan.outputs) {
    sum += out.end - out.begin;
    EXPECT_EQ(index["weight_map"][out.name], plan.files[out.file].name);
    EXPECT_EQ(out.id.part, Part::kWeight);
    EXPECT_EQ(out.dtype, out.id.role == Role::kRouter || out.id.role == Role::kRouterBias ? DType::kF32 : DType::kBF16)
        << out.name;
  }
  EXPECT_EQ(index["metadata"]["total_size"], sum);
  EXPECT_EQ(index["weight_map"].size(), plan.outputs.size());
}

TEST(Planner, EveryOutputRowIsCoveredOnce) {
  for (const char* qkv : {"keep", "split", "split:independent", "fused:1", "fused:8", "fused:32"}) {
    for (DTypeChoice dtype : {DTypeChoice::kKeep, DTypeChoice::kFp16}) {
      const Planned p = PlanIt(Qkv(qkv, dtype));
      ASSERT_TRUE(p.plan.ok()) << p.plan.error().Message();
      const Plan& plan = p.plan.value();
      std::vector<int64_t> covered(plan.outputs.size(), 0);
      for (size_t i = 0; i < plan.outputs.size(); ++i)
        for (const Piece& piece : plan.outputs[i].pieces) {
          EXPECT_EQ(piece.target_row, covered[i]) << plan.outputs[i].name;
          covered[i] += piece.rows;
        }
      for (const FuseGroup& g : plan.groups)
        for (const CellRow& cell : g.cells) {
          ++covered[cell.scale_output];
          for (const CellSegment& s : cell.segments) covered[s.output] += s.rows;
        }
      for (size_t i = 0; i < covered.size(); ++i)
        EXPECT_EQ(covered[i], plan.outputs[i].rows()) << plan.outputs[i].name << " " << qkv;
    }
  }
}

TEST(Planner, JointSplitSourceReadsVsFirstHalfUnderKsScales) {
  const Planned p = PlanIt(Qkv("keep", DTypeChoice::kBf16), 4, true);
  ASSERT_TRUE(p.plan.ok()) << p.plan.error().Message();
  const Plan& plan = p.plan.value();
  const uint32_t v = p.catalogue.by_name.at("model.layers.0.self_attn.v_proj.weight");
  const uint32_t k_scale = p.catalogue.by_name.at("model.layers.0.self_attn.k_proj.weight_scale_inv");
  bool seen = false;
  for (const SourceArray& source : plan.sources) {
    if (source.array != v) continue;
    seen = true;
    ASSERT_EQ(source.bands.size(), 8u);
    EXPECT_EQ(plan.sources[source.bands[0].scale].array, k_scale);
    EXPECT_EQ(source.bands[0].scale_row, 1);
    EXPECT_EQ(source.bands[0].row_end, 64);
    EXPECT_NE(plan.sources[source.bands[1].scale].array, k_scale);
  }
  EXPECT_TRUE(seen);
}

TEST(Planner, IncludeAndExclude) {
  PlanOptions o;
  o.include = {"self_attn"};
  o.exclude = {"o_proj"};
  Planned p = PlanIt(o);
  ASSERT_TRUE(p.plan.ok()) << p.plan.error().Message();
  std::set<std::string> names;
  for (const OutputArray& out : p.plan.value().outputs) names.insert(out.name);
  EXPECT_EQ(names, (std::set<std::string>{
                       "model.layers.0.self_attn.qkv_proj.weight", "model.layers.0.self_attn.qkv_proj.weight_scale_inv",
                       "model.layers.1.self_attn.qkv_proj.weight", "model.layers.1.self_attn.qkv_proj.weight_scale_inv",
                       "model.layers.1.self_attn.attention_sink_bias"}));
  size_t dropped = 0;
  for (const SourceFate& f : p.plan.value().fates) {
    dropped += f.fate == Fate::kDropped;
    if (f.fate == Fate::kDropped) {
      EXPECT_FALSE(f.reason.empty());
    }
  }
  EXPECT_EQ(dropped, p.catalogue.arrays.size() - names.size());
  o.include = {"no_such_tensor"};
  p = PlanIt(o);
  ASSERT_FALSE(p.plan.ok());
  EXPECT_EQ(p.plan.error().code, ErrorCode::kUsage);
  o.include = {"v_proj"};
  o.qkv = QkvWish("split");
  EXPECT_FALSE(PlanIt(o).plan.ok());  // its scales are in k_proj's
  o.include = {"("};
  EXPECT_FALSE(PlanIt(o).plan.ok());
}

TEST(Planner, ShardsKeepWeightsWithTheirScales) {
  PlanOptions o;
  o.max_shard_bytes = 1 << 20;
  const Planned p = PlanIt(o);
  ASSERT_TRUE(p.plan.ok()) << p.plan.error().Message();
  const Plan& plan = p.plan.value();
  EXPECT_GT(plan.files.size(), 3u);
  std::map<std::string, uint32_t> file_of;
  for (const OutputArray& out : plan.outputs) file_of[out.name] = out.file;
  for (const auto& [name, file] : file_of)
    if (name.ends_with("_scale_inv")) {
      EXPECT_EQ(file, file_of.at(name.substr(0, name.size() - 10)));
    }
  for (const PlanFile& f : plan.files) {
    uint64_t payload = 0;
    for (uint32_t i : f.outputs) payload += plan.outputs[i].end - plan.outputs[i].begin;
    EXPECT_TRUE(payload <= o.max_shard_bytes || f.outputs.size() <= 2) << f.name;
    EXPECT_EQ(f.bytes, f.header.size() + payload);
  }
}

TEST(Planner, DigestIsAFunctionOfTheOptions) {
  const auto digest = [](const PlanOptions& o) { return PlanIt(o).plan.value().digest; };
  EXPECT_EQ(digest(Qkv("split")), digest(Qkv("split")));
  EXPECT_NE(digest(Qkv("split")), digest(Qkv("keep")));
  EXPECT_NE(digest(Qkv("keep", DTypeChoice::kBf16)), digest(Qkv("keep", DTypeChoice::kFp16)));
}

Result<Recipe> RecipeOf(const std::string& rules, const std::string& more = "") {
  return ParseRecipe("{\"name\": \"test\", \"rules\": [" + rules + "]" + more + "}", "the recipe");
}

PlanOptions WithRecipe(const std::string& rules, const std::string& more = "") {
  PlanOptions options;
  options.recipe = RecipeOf(rules, more).value();
  return options;
}

const OutputArray* Find(const Plan& plan, const std::string& name) {
  for (const OutputArray& output : plan.outputs)
    if (output.name == name) return &output;
  return nullptr;
}

TEST(Planner, WhatEnginesRunAsOneSharesAGlobalScale) {
  const Planned p = PlanIt(WithRecipe(R"({"roles": ["expert.gate", "expert.up", "expert.down"], "to": "nvfp4"},
                                                         {"roles": ["attn.qkv"], "to": "nvfp4"})",
                                      R"(, "qkv": "split")"));
  ASSERT_TRUE(p.plan.ok()) << p.plan.error().Message();
  const Plan& plan = p.plan.value();
  std::map<std::string, std::set<std::string>> shared;
  for (const FuseGroup& group : plan.groups)
    for (const EncodedWeight& e : group.encoded) shared[group.label].insert(plan.outputs[e.codes].name);
  const std::string expert = "model.layers.1.mlp.experts.0";
  EXPECT_EQ(shared[expert], (std::set<std::string>{expert + ".gate_proj.weight", expert + ".up_proj.weight"}));
  EXPECT_EQ(shared[expert + ".down_proj.weight"], (std::set<std::string>{expert + ".down_proj.weight"}));
  EXPECT_EQ(shared["model.layers.0.self_attn"].size(), 3u);
  const OutputArray* codes = Find(plan, expert + ".up_proj.weight");
  ASSERT_NE(codes, nullptr);
  EXPECT_EQ(codes->dtype, DType::kU8);
  EXPECT_EQ(codes->shape, (std::vector<int64_t>{256, kHidden / 2}));
  EXPECT_EQ(Find(plan, expert + ".up_proj.weight_scale")->shape, (std::vector<int64_t>{256, kHidden / 16}));
  EXPECT_EQ(Find(plan, expert + ".up_proj.weight_scale_2")->shape, std::vector<int64_t>{});
  EXPECT_EQ(Find(plan, expert + ".up_proj.weight_scale_inv"), nullptr);
  EXPECT_EQ(Find(plan, expert + ".up_proj.input_scale"), nullptr);
  // The dense MLP is kept.
  EXPECT_TRUE(Find(plan, "model.layers.0.mlp.up_proj.weight_scale_inv")->unchanged);
  // As text and back, and checked in every index.
  std::string text;
  const auto sink = [&](std::string_view piece) {
    text += piece;
    return Status();
  };
  ASSERT_TRUE(WritePlanJson(p.catalogue, plan, sink).ok());
  const auto read = ParsePlanJson(p.catalogue, text, "plan.json");
  ASSERT_TRUE(read.ok()) << read.error().Message();
  const std::string first = text;
  text.clear();
  ASSERT_TRUE(WritePlanJson(p.catalogue, read.value(), sink).ok());
  EXPECT_EQ(text, first);
}

TEST(Planner, EncodedWeightsThatDoNotFitTogetherAreRefused) {
  const Planned p = PlanIt(WithRecipe(R"({"roles": ["expert.up", "expert.gate"], "to": "nvfp4"})"));
  ASSERT_TRUE(p.plan.ok()) << p.plan.error().Message();
  ASSERT_TRUE(ValidatePlan(p.catalogue, p.plan.value()).ok());
  const std::function<void(EncodedWeight&, Plan&)> defects[] = {
      [](EncodedWeight& e, Plan&) { e.scales = e.codes; },
      [](EncodedWeight& e, Plan&) { e.global = kNone; },
      [](EncodedWeight& e, Plan& plan) { e.codes = static_cast<uint32_t>(plan.outputs.size()); },
      [](EncodedWeight& e, Plan&) { e.encoding.codec = Codec::kMxfp4; },
      [](EncodedWeight& e, Plan&) { e.input = e.global; },
      [](EncodedWeight& e, Plan& plan) { e = plan.groups[plan.outputs[e.codes].group].encoded[1]; },
      [](EncodedWeight& e, Plan& plan) { plan.outputs[e.codes].transform = Transform::kMove; },
      [](EncodedWeight& e, Plan& plan) {
        plan.outputs[e.scales].pieces.push_back({0, 0, 0, 1});
      },
      [](EncodedWeight& e, Plan& plan) { plan.outputs[e.codes].pieces[0].rows -= 1; },
  };
  size_t number = 0;
  for (const auto& defect : defects) {
    Plan plan = p.plan.value();
    for (FuseGroup& group : plan.groups) {
      if (group.encoded.size() != 2) continue;
      defect(group.encoded[0], plan);
      break;
    }
    EXPECT_FALSE(ValidatePlan(p.catalogue, plan).ok()) << number;
    ++number;
  }
}

TEST(Planner, RecipesThatCannotBeCarriedOutAreUsageErrors) {
  const auto code = [](const PlanOptions& options) {
    const Planned p = PlanIt(options);
    return p.plan.ok() ? ErrorCode::kIo : p.plan.error().code;
  };
  // One projection of three; a name that is not there; a dialect without the type; half of a pair.
  EXPECT_EQ(code(WithRecipe(R"({"names": "q_proj", "to": "nvfp4"})", R"(, "qkv": "split")")), ErrorCode::kUsage);
  EXPECT_EQ(code(WithRecipe(R"({"names": "no_such_tensor", "to": "nvfp4"})")), ErrorCode::kUsage);
  EXPECT_EQ(RecipeOf(R"({"roles": ["expert.up"], "to": "nvfp4"})", R"(, "dialect": "native")").error().code,
            ErrorCode::kUsage);
  PlanOptions half = WithRecipe(R"({"roles": ["expert.up", "expert.gate"], "to": "nvfp4"})");
  half.include = {"experts.0.up_proj"};
  EXPECT_EQ(code(half), ErrorCode::kUsage);
  PlanOptions both = WithRecipe(R"({"roles": ["expert.up"], "to": "nvfp4"})");
  both.dtype = DTypeChoice::kBf16;
  EXPECT_EQ(code(both), ErrorCode::kUsage);
  PlanOptions lossless = WithRecipe(R"({"roles": ["expert.up"], "to": "nvfp4"})");
  lossless.lossless = true;
  EXPECT_EQ(code(lossless), ErrorCode::kCheckFailed);
}

TEST(Planner, DialectsNameTheArrays) {
  const Planned p =
      PlanIt(WithRecipe(R"({"roles": ["expert.up", "expert.gate", "expert.down"], "to": "nvfp4"},
                    {"roles": ["attn.qkv"], "to": "bf16"})",
                        R"(, "dialect": "compressed-tensors", "w4a4": true, "input_scale": 0.25, "qkv": "split")"));
  ASSERT_TRUE(p.plan.ok()) << p.plan.error().Message();
  const std::string up = "model.layers.1.mlp.experts.1.up_proj.";
  EXPECT_NE(Find(p.plan.value(), up + "weight_packed"), nullptr);
  EXPECT_EQ(Find(p.plan.value(), up + "weight_global_scale")->shape, std::vector<int64_t>{1});
  EXPECT_NE(Find(p.plan.value(), up + "input_global_scale"), nullptr);
  // What is kept is called as the dialect calls it.
  EXPECT_NE(Find(p.plan.value(), "model.layers.0.mlp.up_proj.weight_scale"), nullptr);
  EXPECT_EQ(Find(p.plan.value(), "model.layers.0.mlp.up_proj.weight_scale_inv"), nullptr);
  for (const FuseGroup& group : p.plan.value().groups)
    for (const EncodedWeight& e : group.encoded) {
      EXPECT_TRUE(e.global_divides);
      EXPECT_EQ(e.input_value, 4.0f);
    }
}

TEST(Planner, ImpossibleLayoutsAreUsageErrors) {
  for (const char* qkv : {"fused:3", "fused:0", "fused:128", "fuse", "split:x"}) {
    const Planned p = PlanIt(Qkv(qkv));
    ASSERT_FALSE(p.plan.ok()) << qkv;
    EXPECT_EQ(p.plan.error().code, ErrorCode::kUsage) << qkv;
  }
}

}  // namespace
}  // namespace mimo::planner_test
