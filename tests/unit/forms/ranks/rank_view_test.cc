// Rank files shown as a checkpoint, element by element: where each one lies is written out here from the engine's
// sharding (reference target-layouts.md 1.6, 4.1, 6), on a model small enough to be counted.
#include "lib/forms/ranks/rank_view.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <tuple>

#include "lib/forms/registry/registry.h"
#include "lib/model/family.h"
#include "lib/model/inventory.h"

namespace mimo::rank_view_test {
namespace {

using nlohmann::json;

constexpr int64_t kHidden = 32, kVocab = 100, kIntermediate = 128, kMoe = 256, kExperts = 4;
constexpr int64_t kBlock = 4, kBlockCols = 32;
constexpr int64_t kHeads = 8, kKv = 2, kSwaKv = 4, kVDim = 4;

struct Ranks {
  int64_t tp = 2;
  int64_t ep = 1;
  int64_t head_dim = 8;  // 8: Q of a rank is whole blocks of 4 rows up to T = 8; 2: not at T = 4 and 8
  bool fp8 = true;
  bool marker = true;
};

int64_t KvPerRank(int64_t kv, int64_t tp) {
  return std::max<int64_t>(1, kv / tp);
}
int64_t Up(int64_t n, int64_t d) {
  return (n + d - 1) / d;
}

json ConfigOf(const Ranks& m) {
  json config = {{"model_type", "mimo_v2"},
                 {"hidden_size", kHidden},
                 {"num_hidden_layers", 2},
                 {"vocab_size", kVocab},
                 {"intermediate_size", kIntermediate},
                 {"moe_intermediate_size", kMoe},
                 {"n_routed_experts", kExperts},
                 {"num_attention_heads", kHeads},
                 {"num_key_value_heads", kKv},
                 {"swa_num_key_value_heads", kSwaKv},
                 {"head_dim", m.head_dim},
                 {"v_head_dim", kVDim},
                 {"hybrid_layer_pattern", {0, 1}},
                 {"moe_layer_freq", {0, 1}},
                 {"add_swa_attention_sink_bias", true}};
  if (m.fp8) config["quantization_config"] = {{"quant_method", "fp8"}, {"weight_block_size", {kBlock, kBlockCols}}};
  if (m.marker)
    config["mimo_layout"] = {{"version", 1},           {"qkv", "fused"},          {"chunks", m.tp}, {"kv_heads", kKv},
                             {"swa_kv_heads", kSwaKv}, {"form", "sharded-state"}, {"tp", m.tp},     {"ep", m.ep}};
  return config;
}

// One array of a rank: its name in the file and its shape. Layer 0 is global and dense, layer 1 windowed with experts,
// MTP layer 0 windowed and dense.
std::map<std::string, std::pair<DType, std::vector<int64_t>>> ArraysOfARank(const Ranks& m) {
  std::map<std::string, std::pair<DType, std::vector<int64_t>>> arrays;
  const DType codes = m.fp8 ? DType::kF8E4M3 : DType::kBF16;
  const int64_t t = m.tp, et = m.ep > 1 ? 1 : t;
  const auto add = [&](const std::string& name, DType dtype, std::vector<int64_t> shape) {
    arrays[name] = {dtype, std::move(shape)};
  };
  const auto linear = [&](const std::string& name, std::vector<int64_t> shape,
                          const std::string& scale = "_scale_inv") {
    add(name, codes, shape);
    if (!m.fp8) return;
    shape[shape.size() - 1] = Up(shape[shape.size() - 1], kBlockCols);
    shape[shape.size() - 2] = Up(shape[shape.size() - 2], kBlock);
    add(name + scale, DType::kF32, shape);
  };
  const int64_t vocab = (kVocab + 63) / 64 * 64 / t;
  add("model.embed_tokens.weight", DType::kBF16, {vocab, kHidden});
  add("lm_head.weight", DType::kBF16, {vocab, kHidden});
  add("model.norm.weight", DType::kBF16, {kHidden});
  for (const char* layer : {"model.layers.0.", "model.layers.1.", "model.mtp.layers.0."}) {
    const std::string p(layer);
    const bool mtp = p.find("mtp") != std::string::npos, window = p != "model.layers.0.";
    const int64_t kv = KvPerRank(window ? kSwaKv : kKv, t);
    add(p + "input_layernorm.weight", DType::kBF16, {kHidden});
    add(p + (mtp ? "pre_mlp_layernorm.weight" : "post_attention_layernorm.weight"), DType::kBF16, {kHidden});
    linear(p + "self_attn.qkv_proj.weight", {kHeads / t * m.head_dim + kv * (m.head_dim + kVDim), kHidden});
    add(p + "self_attn.o_proj.weight", DType::kBF16, {kHidden, kHeads * kVDim / t});
    if (window) add(p + "self_attn.attention_sink_bias", DType::kBF16, {kHeads / t});
    if (mtp) {
      for (const char* norm : {"enorm", "hnorm", "final_layernorm"}) add(p + norm + ".weight", DType::kBF16, {kHidden});
      add(p + "eh_proj.weight", DType::kBF16, {kHidden, 2 * kHidden});
    }
    if (p == "model.layers.1.") {
      const std::string e = p + "mlp.experts.routed_experts.";
      linear(e + "w13_weight", {kExperts / m.ep, 2 * kMoe / et, kHidden});
      linear(e + "w2_weight", {kExperts / m.ep, kHidden, kMoe / et});
      add(e + "e_score_correction_bias", DType::kF32, {kExperts});
      add(p + "mlp.gate.weight", DType::kF32, {kExperts, kHidden});
    } else {
      linear(p + "mlp.gate_up_proj.weight", {2 * kIntermediate / t, kHidden});
      linear(p + "mlp.down_proj.weight", {kHidden, kIntermediate / t});
    }
    add(p + "self_attn.attn._k_scale", DType::kF32, {});
  }
  return arrays;
}

std::string RankName(int64_t rank, const std::string& name) {
  return "rank" + std::to_string(rank) + "/" + name;
}

void Sort(Catalogue* c) {
  std::sort(c->arrays.begin(), c->arrays.end(), [](const auto& x, const auto& y) { return x.name < y.name; });
  c->by_name.clear();
  for (uint32_t i = 0; i < c->arrays.size(); ++i) c->by_name.emplace(c->arrays[i].name, i);
}

Catalogue MakeRanks(const Ranks& m) {
  Catalogue c;
  c.config.family = Family::Get("mimo_v2").value();
  c.root = "/ranks";
  auto config = ParseModelConfig(ConfigOf(m).dump(), "/ranks/config.json");
  EXPECT_TRUE(config.ok()) << config.error().Message();
  c.config = std::move(config).value();
  c.table = ModelTable::Get("mimo_v2").value();
  for (int64_t r = 0; r < m.tp; ++r) {
    CatalogueFile file;
    file.name = "model-rank-" + std::to_string(r) + "-part-0.safetensors";
    c.files.push_back(file);
    for (const auto& [name, array] : ArraysOfARank(m)) {
      StoredArray a;
      a.name = RankName(r, name);
      a.dtype = array.first;
      a.shape = array.second;
      a.file = static_cast<uint32_t>(r);
      a.bytes = BitsPerElement(a.dtype) / 8;
      for (const int64_t n : a.shape) a.bytes *= static_cast<uint64_t>(n);
      c.arrays.push_back(std::move(a));
    }
  }
  Sort(&c);
  return c;
}

// Where element (row, col) of a shown array lies: rank, array, row, column.
using Home = std::tuple<int64_t, std::string, int64_t, int64_t>;

// `name` and its layer prefix come from the shown checkpoint; `rows` and `cols` are those of the whole array.
Home HomeOf(const Ranks& m, const std::string& name, int64_t rows, int64_t cols, int64_t row, int64_t col) {
  const int64_t t = m.tp;
  const auto ends = [&](const std::string& tail) { return name.ends_with(tail); };
  const bool scale = ends("_scale_inv");
  const std::string tail = scale ? "weight_scale_inv" : "weight";
  if (name == "model.embed_tokens.weight" || name == "lm_head.weight")
    return {row / (128 / t), name, row % (128 / t), col};
  if (ends("self_attn.qkv_proj." + tail)) return {row / (rows / t), name, row % (rows / t), col};
  if (ends("o_proj.weight") || ends("attention_sink_bias")) return {col / (cols / t), name, row, col % (cols / t)};
  if (const size_t at = name.find(".experts."); at != std::string::npos) {
    const std::string stack = name.substr(0, at) + ".experts.routed_experts.";
    const int64_t expert = std::stoll(name.substr(at + 9)), et = m.ep > 1 ? 1 : t;
    const int64_t local = expert % (kExperts / m.ep);
    if (ends("down_proj." + tail)) {
      const int64_t each = cols / et, rank = m.ep > 1 ? expert / (kExperts / m.ep) : col / each;
      return {rank, stack + "w2_" + tail, local * rows + row, col % each};
    }
    const int64_t each = rows / et, rank = m.ep > 1 ? expert / (kExperts / m.ep) : row / each;
    const int64_t up = ends("up_proj." + tail) ? 1 : 0;
    return {rank, stack + "w13_" + tail, local * 2 * each + up * each + row % each, col};
  }
  if (const size_t at = name.find("gate_proj."); at != std::string::npos)
    return {row / (rows / t), name.substr(0, at) + "gate_up_proj." + tail, row % (rows / t), col};
  if (const size_t at = name.find("up_proj."); at != std::string::npos)
    return {row / (rows / t), name.substr(0, at) + "gate_up_proj." + tail, rows / t + row % (rows / t), col};
  if (ends("mlp.down_proj." + tail)) return {col / (cols / t), name, row, col % (cols / t)};
  if (ends("mlp.gate.e_score_correction_bias"))
    return {0, name.substr(0, name.find("gate.")) + "experts.routed_experts.e_score_correction_bias", row, col};
  return {0, name, row, col};  // replicated
}

int64_t Cols(const std::vector<int64_t>& shape) {
  return shape.empty() ? 1 : shape.back();
}

void ExpectTiles(const Ranks& m, const Catalogue& stored, const View& view) {
  ASSERT_EQ(view.fragments.size(), view.catalogue.arrays.size());
  for (size_t i = 0; i < view.catalogue.arrays.size(); ++i) {
    const StoredArray& shown = view.catalogue.arrays[i];
    const int64_t rows = shown.rows(), cols = Cols(shown.shape);
    std::vector<int> seen(static_cast<size_t>(rows * cols), 0);
    EXPECT_EQ(view.transposed[i], 0);
    for (const Fragment& f : view.fragments[i]) {
      const StoredArray& array = stored.arrays[f.array];
      EXPECT_EQ(array.dtype, shown.dtype) << shown.name;
      for (int64_t r = 0; r < f.rows; ++r) {
        for (int64_t c = 0; c < f.cols; ++c) {
          const int64_t row = f.row + r, col = f.col + c;
          ASSERT_TRUE(row < rows && col < cols) << shown.name;
          ++seen[static_cast<size_t>(row * cols + col)];
          const auto [rank, name, home_row, home_col] = HomeOf(m, shown.name, rows, cols, row, col);
          ASSERT_EQ(array.name, RankName(rank, name)) << shown.name << " " << row << "," << col;
          ASSERT_EQ(f.stored_row + r, home_row) << shown.name << " " << row << "," << col;
          ASSERT_EQ(f.stored_col + c, home_col) << shown.name << " " << row << "," << col;
          ASSERT_LT(home_row, array.rows());
          ASSERT_LT(home_col, Cols(array.shape));
        }
      }
    }
    for (const int times : seen) ASSERT_EQ(times, 1) << shown.name;
  }
}

Result<View> Show(const Catalogue& stored) {
  return ViewOfRanks(stored);
}

TEST(RankView, EveryElementOfTheModelIsWhereTheEngineHasIt) {
  for (const bool fp8 : {true, false}) {
    for (const int64_t tp : {1, 2, 4}) {
      for (const int64_t ep : {int64_t{1}, tp}) {
        for (const int64_t head_dim : {2, 8}) {
          const Ranks m{tp, ep, head_dim, fp8};
          const Catalogue stored = MakeRanks(m);
          const auto view = Show(stored);
          ASSERT_TRUE(view.ok()) << view.error().Message();
          EXPECT_EQ(view.value().form, FormKind::kShardedState);
          EXPECT_EQ(view.value().chunks, tp);
          ExpectTiles(m, stored, view.value());
          // What is shown is complete: everything that the config asks for, with its shape.
          const auto inventory = TakeInventory(view.value().catalogue);
          ASSERT_TRUE(inventory.ok()) << inventory.error().Message() << " T " << tp << " EP " << ep;
          EXPECT_TRUE(inventory.value().unknown.empty());
          EXPECT_EQ(inventory.value().mtp_layers, 1);
          EXPECT_TRUE(inventory.value().fused);
        }
      }
    }
  }
}

TEST(RankView, ConstantsOfTheEngineAreNoneOfTheModel) {
  const Ranks m;
  const Catalogue stored = MakeRanks(m);
  const View view = Show(stored).value();
  std::set<uint32_t> used;
  for (const auto& fragments : view.fragments)
    for (const Fragment& f : fragments) used.insert(f.array);
  for (uint32_t i = 0; i < stored.arrays.size(); ++i) {
    EXPECT_EQ(view.constants[i] != 0, stored.arrays[i].name.ends_with("_k_scale")) << stored.arrays[i].name;
    if (view.constants[i] != 0) {
      EXPECT_EQ(used.count(i), 0u);
    }
  }
}

TEST(RankView, CodesKnowTheScalesOfTheirRank) {
  const Ranks m{4};
  const Catalogue stored = MakeRanks(m);
  const View view = Show(stored).value();
  size_t pairs = 0;
  for (uint32_t i = 0; i < stored.arrays.size(); ++i) {
    if (stored.arrays[i].dtype != DType::kF8E4M3) continue;
    ++pairs;
    EXPECT_EQ(view.scale_of[i], stored.by_name.at(stored.arrays[i].name + "_scale_inv")) << stored.arrays[i].name;
  }
  EXPECT_EQ(pairs, 4u * 9);  // QKV of three layers, gate_up and down of two, w13 and w2
}

using Replicas = std::set<std::tuple<std::string, std::string, int64_t, int64_t, int64_t>>;
Replicas ReplicasOf(const Catalogue& stored, const View& view) {
  Replicas replicas;
  for (const Replica& r : view.replicas)
    EXPECT_TRUE(
        replicas.emplace(stored.arrays[r.first].name, stored.arrays[r.second].name, r.first_row, r.second_row, r.rows)
            .second);
  return replicas;
}

Replicas WithoutHeads(const Replicas& all, Replicas* heads) {
  Replicas others;
  for (const auto& r : all) (std::get<0>(r).find("qkv_proj") != std::string::npos ? *heads : others).insert(r);
  return others;
}

const std::vector<std::pair<std::string, int64_t>> kReplicated = {  // name, rows
    {"model.norm.weight", 1},
    {"model.layers.0.input_layernorm.weight", 1},
    {"model.layers.0.post_attention_layernorm.weight", 1},
    {"model.layers.1.input_layernorm.weight", 1},
    {"model.layers.1.post_attention_layernorm.weight", 1},
    {"model.layers.1.mlp.gate.weight", kExperts},
    {"model.layers.1.mlp.experts.routed_experts.e_score_correction_bias", 1},
    {"model.mtp.layers.0.enorm.weight", 1},
    {"model.mtp.layers.0.hnorm.weight", 1},
    {"model.mtp.layers.0.eh_proj.weight", kHidden},
    {"model.mtp.layers.0.input_layernorm.weight", 1},
    {"model.mtp.layers.0.pre_mlp_layernorm.weight", 1},
    {"model.mtp.layers.0.final_layernorm.weight", 1}};

TEST(RankView, WhatEveryRankHoldsIsComparedWithRankZero) {
  for (const int64_t tp : {1, 2, 4}) {
    const Ranks m{tp};
    const Catalogue stored = MakeRanks(m);
    Replicas expected, heads;
    for (int64_t r = 1; r < tp; ++r)
      for (const auto& [name, rows] : kReplicated) expected.emplace(RankName(0, name), RankName(r, name), 0, 0, rows);
    EXPECT_EQ(WithoutHeads(ReplicasOf(stored, Show(stored).value()), &heads), expected) << tp;
  }
}

TEST(RankView, SharedKvHeadsAreComparedWhereTheyBeginABlock) {
  const std::string w = "model.layers.0.self_attn.qkv_proj.weight", s = w + "_scale_inv";
  const auto heads = [](const Ranks& m) {
    const Catalogue stored = MakeRanks(m);
    Replicas found;
    WithoutHeads(ReplicasOf(stored, Show(stored).value()), &found);
    return found;
  };
  // T = 4: 2 Q heads of 8 rows, then K (8) and V (4) of head 0 on ranks 0 and 1, of head 1 on ranks 2 and 3. Windowed
  // and MTP layers have a KV head for each rank.
  const auto pair = [](const std::string& name, int64_t a, int64_t b, int64_t begin, int64_t rows) {
    return std::tuple(RankName(a, name), RankName(b, name), begin, begin, rows);
  };
  EXPECT_EQ(heads({4, 1, 8, true}),
            (Replicas{pair(w, 0, 1, 16, 12), pair(w, 2, 3, 16, 12), pair(s, 0, 1, 4, 3), pair(s, 2, 3, 4, 3)}));
  EXPECT_EQ(heads({4, 1, 8, false}), (Replicas{pair(w, 0, 1, 16, 12), pair(w, 2, 3, 16, 12)}));
  // 8 ranks have 1 Q head of 2 rows: K shares a block with Q, whose values differ. Unquantized it is compared still.
  EXPECT_EQ(heads({8, 1, 2, true}), Replicas{});
  const Replicas values = heads({8, 1, 2, false});
  EXPECT_EQ(values.size(), 6u + 4 + 4);  // 2 heads of 4 ranks; 4 heads of 2 ranks in two layers
  EXPECT_EQ(values.count(pair(w, 0, 3, 2, 6)), 1u);
  EXPECT_EQ(values.count(pair(w, 4, 7, 2, 6)), 1u);
  EXPECT_EQ(values.count(pair("model.layers.1.self_attn.qkv_proj.weight", 6, 7, 2, 6)), 1u);
  // At T <= G nothing is shared.
  EXPECT_EQ(heads({2}), Replicas{});
}

TEST(RankView, NamesOfOtherBuildsAndTensorsOutsideOfRanks) {
  Ranks m;
  Catalogue stored = MakeRanks(m);
  for (StoredArray& array : stored.arrays) {
    std::string name = array.name.substr(6);
    if (const size_t at = name.find("routed_experts.e_score"); at != std::string::npos)
      name.replace(at - 8, 23, "gate.");
    if (const size_t at = name.find("routed_experts."); at != std::string::npos) name.erase(at, 15);
    array.name = array.name.substr(0, 6) + "language_model." + name;
  }
  StoredArray tower;
  tower.name = "visual.patch_embed.weight";
  tower.dtype = DType::kBF16;
  tower.shape = {3, 5};
  tower.id = stored.table->Identify(tower.name);
  tower.file = static_cast<uint32_t>(stored.files.size());
  CatalogueFile rest;
  rest.name = "hf-rest.safetensors";
  stored.files.push_back(rest);
  stored.arrays.push_back(tower);
  Sort(&stored);
  const auto view = Show(stored);
  ASSERT_TRUE(view.ok()) << view.error().Message();
  EXPECT_TRUE(TakeInventory(view.value().catalogue).ok());
  const uint32_t at = view.value().catalogue.by_name.at("visual.patch_embed.weight");
  ASSERT_EQ(view.value().fragments[at].size(), 1u);
  EXPECT_EQ(view.value().fragments[at][0].rows, 3);
  EXPECT_EQ(view.value().fragments[at][0].cols, 5);
  EXPECT_EQ(view.value().catalogue.files[view.value().catalogue.arrays[at].file].name, "hf-rest.safetensors");
}

TEST(RankView, WithoutAMarkerShapesTellExpertsThatWerePlacedWhole) {
  for (const int64_t ep : {1, 2}) {
    Ranks m{2, ep};
    m.marker = false;
    const Catalogue stored = MakeRanks(m);
    EXPECT_EQ(FormOfStored(stored).kind(), FormKind::kShardedState);
    const auto view = Show(stored);
    ASSERT_TRUE(view.ok()) << view.error().Message();
    ExpectTiles(m, stored, view.value());
  }
  EXPECT_EQ(FormOfStored(MakeRanks({})).kind(), FormKind::kShardedState);
  Catalogue none;
  none.config.family = Family::Get("mimo_v2").value();
  EXPECT_EQ(FormOfStored(none).kind(), FormKind::kHf);
}

// The files of what is shown are those that the source had, where it is known.
TEST(RankView, ArraysReturnToTheFilesThatTheSourceNamed) {
  Catalogue stored = MakeRanks({});
  CatalogueOrigin& origin = stored.origin.emplace();
  origin.config = ConfigOf({}).dump();
  origin.index = ParseIndex(R"({"metadata": {"tp_size": 2},
    "weight_map": {"model.norm.weight": "z.safetensors", "model.layers.0.mlp.up_proj.weight": "a.safetensors"}})",
                            "i")
                     .value();
  const View view = Show(stored).value();
  const auto file = [&](const std::string& name) {
    return view.catalogue.files[view.catalogue.arrays[view.catalogue.by_name.at(name)].file].name;
  };
  EXPECT_EQ(file("model.norm.weight"), "z.safetensors");
  EXPECT_EQ(file("model.layers.0.mlp.up_proj.weight"), "a.safetensors");
  EXPECT_EQ(file("model.layers.0.mlp.gate_proj.weight"), "model_layer0.safetensors");
  EXPECT_EQ(file("lm_head.weight"), "model_extras.safetensors");
  EXPECT_EQ(file("model.mtp.layers.0.enorm.weight"), "model_mtp.safetensors");
  EXPECT_TRUE(std::is_sorted(view.catalogue.files.begin(), view.catalogue.files.end(),
                             [](const auto& a, const auto& b) { return a.name < b.name; }));
}

void Erase(Catalogue* c, const std::string& prefix) {
  std::erase_if(c->arrays, [&](const StoredArray& a) { return a.name.starts_with(prefix); });
  Sort(c);
}

Error Refused(const Catalogue& stored) {
  const auto view = Show(stored);
  EXPECT_FALSE(view.ok());
  if (view.ok()) return {};
  EXPECT_EQ(view.error().code, ErrorCode::kBadInput);
  EXPECT_FALSE(view.error().advice.empty());
  return view.error();
}

TEST(RankView, AMissingRankIsNamed) {
  for (const char* rank : {"0", "2", "3"}) {  // the last is known from the marker alone
    Catalogue stored = MakeRanks({4});
    Erase(&stored, std::string("rank") + rank + "/");
    const Error error = Refused(stored);
    EXPECT_TRUE(error.found.ends_with(std::string("rank ") + rank)) << error.Message();
    EXPECT_NE(error.expected.find("0 to 3"), std::string::npos) << error.Message();
  }
  Catalogue stored = MakeRanks({4});
  Erase(&stored, "rank1/");
  Erase(&stored, "rank3/");
  EXPECT_TRUE(Refused(stored).found.ends_with("1, 3"));
}

TEST(RankView, AGapInTheFilesOfARankIsNamed) {
  Catalogue stored = MakeRanks({4});
  Erase(&stored, "rank2/model.layers.1.mlp.experts.routed_experts.w2_weight");
  Error error = Refused(stored);
  EXPECT_EQ(error.tensor, "model.layers.1.mlp.experts.routed_experts.w2_weight");
  EXPECT_TRUE(error.found.ends_with("rank 2")) << error.Message();
  stored = MakeRanks({4});
  Erase(&stored, "rank3/model.mtp.layers.0.enorm.weight");
  EXPECT_TRUE(Refused(stored).found.ends_with("rank 3"));
}

TEST(RankView, RanksThatDisagreeAndArraysOfAnotherModelAreRefused) {
  const auto with = [](const std::string& name, auto change) {
    Catalogue stored = MakeRanks({2});
    change(stored.arrays[stored.by_name.at(name)]);
    Sort(&stored);
    return stored;
  };
  const std::string norm = "model.norm.weight", w13 = "model.layers.1.mlp.experts.routed_experts.w13_weight";
  Error error = Refused(with("rank1/" + norm, [](StoredArray& a) { a.shape = {16}; }));
  EXPECT_EQ(error.tensor, norm);
  EXPECT_NE(error.file.find("model-rank-1-part-0"), std::string::npos);
  error = Refused(with("rank1/" + norm, [](StoredArray& a) { a.dtype = DType::kF32; }));
  EXPECT_EQ(error.tensor, norm);
  error =
      Refused(with("rank0/" + norm, [](StoredArray& a) { a.name = "rank0/model.layers.0.self_attn.q_norm.weight"; }));
  EXPECT_EQ(error.tensor, "model.layers.0.self_attn.q_norm.weight");
  // Both ranks agree on what the config does not say: half of the experts, an odd stack, a matrix where a stack is.
  for (const std::vector<int64_t>& shape :
       {std::vector<int64_t>{kExperts / 2, kMoe, kHidden}, {kExperts, kMoe - 1, kHidden}, {kExperts * kMoe, kHidden}}) {
    Catalogue stored = MakeRanks({2});
    for (const char* rank : {"rank0/", "rank1/"}) stored.arrays[stored.by_name.at(rank + w13)].shape = shape;
    EXPECT_EQ(Refused(stored).tensor, w13);
  }
}

}  // namespace
}  // namespace mimo::rank_view_test
