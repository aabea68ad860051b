// A checkpoint dealt out to the ranks of an engine: each holds what tests/unit/forms/ranks/rank_model.h says, and
// nothing else.
#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "lib/forms/ranks/rank_form.h"
#include "lib/forms/ranks/sharded_state_form.h"
#include "lib/plan/plan_json.h"
#include "tests/unit/forms/ranks/rank_model.h"

namespace mimo::distribute_test {
namespace {

using made::ForManyRanks;
using made::Model;
using made::Models;
using made::PlanOf;
using made::RankName;
using made::Ranks;
using made::Wide;

// The plan is consistent in itself, and holds what the engine's ranks do, and nothing else.
void ExpectRanks(const Model& model, const made::Understood& u, const Plan& plan, const PlanOptions& options,
                 const std::vector<int64_t>& ranks) {
  const Status valid = ValidatePlan(u.catalogue, plan);
  ASSERT_TRUE(valid.ok()) << valid.error().Message();
  const made::PlanOrigins origins(u.catalogue, plan);
  std::map<std::string, uint32_t> made;
  for (uint32_t i = 0; i < plan.outputs.size(); ++i)
    EXPECT_TRUE(made.emplace(plan.outputs[i].name, i).second) << plan.outputs[i].name;
  made::Engine engine(model, u.catalogue, options.tp, options.ep);
  size_t expected = 0;
  for (const int64_t rank : ranks) {
    for (const auto& [name, want] : engine.Rank(rank)) {
      ++expected;
      const auto found = made.find(RankName(rank, name));
      ASSERT_NE(found, made.end()) << RankName(rank, name);
      const OutputArray& output = plan.outputs[found->second];
      EXPECT_EQ(output.dtype, want.dtype) << output.name;
      EXPECT_EQ(output.shape, want.shape) << output.name;
      EXPECT_EQ(plan.files[output.file].name, want.file) << output.name;
      EXPECT_EQ(output.end - output.begin, want.ids.size() * BitsPerElement(want.dtype) / 8) << output.name;
      EXPECT_TRUE(origins.ids()[found->second] == want.ids) << output.name;
    }
  }
  const size_t rest = model.tower && ranks.front() == 0 ? 1 : 0;
  EXPECT_EQ(made.size(), expected + rest);
  EXPECT_EQ(plan.straddling_blocks, static_cast<uint64_t>(engine.straddling()));
  EXPECT_EQ(plan.lossless, engine.straddling() == 0);
}

std::vector<int64_t> AllOf(int64_t tp) {
  std::vector<int64_t> ranks;
  for (int64_t r = 0; r < tp; ++r) ranks.push_back(r);
  return ranks;
}

TEST(Distribute, EveryRankHoldsWhatTheEngineDealsIt) {
  for (const auto& [what, model] : Models()) {
    const made::Understood u = made::Understand(model);
    for (const int64_t tp : {1, 2, 4, 8}) {
      for (const int64_t ep : std::set<int64_t>{1, tp}) {
        SCOPED_TRACE(what + ", TP " + std::to_string(tp) + ", EP " + std::to_string(ep));
        const auto plan = PlanOf(u, Ranks(tp, ep));
        ASSERT_TRUE(plan.ok()) << plan.error().Message();
        ExpectRanks(model, u, plan.value(), Ranks(tp, ep), AllOf(tp));
      }
    }
  }
}

TEST(Distribute, ManyRanks) {
  const Model model = ForManyRanks();
  const made::Understood u = made::Understand(model);
  for (const int64_t tp : {16, 32}) {
    SCOPED_TRACE(tp);
    const auto plan = PlanOf(u, Ranks(tp));
    ASSERT_TRUE(plan.ok()) << plan.error().Message();
    ExpectRanks(model, u, plan.value(), Ranks(tp), AllOf(tp));
  }
}

TEST(Distribute, RealHeadsStraddleWhereTheReferenceSays) {
  Model model;  // of 192 and 128 rows under blocks of 128
  model.hidden = 128;
  model.experts = 2;
  model.expert_storage = Storage::kMxfp4;
  const made::Understood u = made::Understand(model);
  const auto straddling = [&](int64_t tp) {
    const auto plan = PlanOf(u, Ranks(tp));
    EXPECT_TRUE(plan.ok());
    return plan.value().straddling_blocks;
  };
  EXPECT_EQ(straddling(4), 0u);
  // fused(8): as counted in planner_test, three blocks of half of the windowed chunks.
  EXPECT_EQ(straddling(8), 4u * 3u);
}

TEST(Distribute, TheTowersTravelBesideTheRanks) {
  const Model model = Wide();
  const made::Understood u = made::Understand(model);
  const Plan plan = PlanOf(u, Ranks(2)).value();
  for (const OutputArray& output : plan.outputs) {
    if (output.name != "visual.patch_embed.weight") continue;
    EXPECT_EQ(plan.files[output.file].name, "hf-rest.safetensors");
    EXPECT_FALSE(output.unchanged);
  }
  for (const PlanFile& file : plan.files) EXPECT_FALSE(file.unchanged) << file.name;
}

TEST(Distribute, OnlyTheRanksOfANodeAndOnlyWhatTheyRead) {
  const Model model = Wide();
  const made::Understood u = made::Understand(model);
  PlanOptions options = Ranks(8, 8);
  options.ranks = {2, 5};
  const auto made = PlanOf(u, options);
  ASSERT_TRUE(made.ok()) << made.error().Message();
  const Plan& plan = made.value();
  ExpectRanks(model, u, plan, options, options.ranks);
  // Experts 2 and 5 are theirs; nothing reads the others, nor the towers, which rank 0 writes.
  std::set<uint32_t> read;
  for (const SourceArray& source : plan.sources) read.insert(source.array);
  for (const SourceFate& fate : plan.fates) {
    const StoredArray& array = u.catalogue.arrays[fate.array];
    const bool other = array.id.expert >= 0 && array.id.expert != 2 && array.id.expert != 5;
    const bool tower = array.id.role == Role::kVision;
    EXPECT_EQ(fate.fate == Fate::kDropped, other || tower) << array.name;
    EXPECT_EQ(read.count(fate.array) == 0, other || tower) << array.name;
    if (fate.fate == Fate::kDropped) {
      EXPECT_NE(fate.reason.find("--ranks"), std::string::npos) << array.name << ": " << fate.reason;
    }
  }
}

TEST(Distribute, ConstantsHoldTheBytesThatTheEngineStartsWith) {
  Model fp8 = Wide(), plain = Wide();
  plain.fp8 = false;
  plain.expert_storage = Storage::kPlain;
  plain.layout = {QkvKind::kSplitIndependent, 1};
  PlanOptions decoded = Ranks(2);
  decoded.dtype = DTypeChoice::kBf16;
  const auto constants = [](const Model& model, const PlanOptions& options) {
    const Plan plan = PlanOf(made::Understand(model), options).value();
    std::map<std::string, std::string> found;
    for (const OutputArray& output : plan.outputs)
      if (output.transform == Transform::kConstant) found[output.name] = output.constant;
    return found;
  };
  const std::string one("\x00\x00\x80\x3f", 4), minus_one("\x80\xbf", 2);
  auto found = constants(fp8, Ranks(2));
  std::map<std::string, std::string> expected;
  for (const std::string rank : {"rank0/", "rank1/"})
    for (const std::string layer : {"model.layers.0", "model.layers.1", "model.mtp.layers.0"})
      for (const std::string what : {"k", "v", "q", "prob"}) {
        expected[rank + layer + ".self_attn.attn._" + what + "_scale"] = one;
        expected[rank + layer + ".self_attn.attn." + what + "_scale"] = minus_one;
      }
  EXPECT_EQ(found, expected);
  // Without an FP8 config, be it decoded here, there are no scales of the KV cache to be set.
  for (const auto& [model, options] : {std::pair{plain, Ranks(2)}, std::pair{fp8, decoded}}) {
    found = constants(model, options);
    std::erase_if(expected, [&](const auto& row) { return row.second == minus_one; });
    EXPECT_EQ(found, expected);
  }
}

// The engine wants its router in the type that config.json names, whatever the checkpoint stores.
TEST(Distribute, RoutersTakeTheTypeOfTheEngine) {
  Model widened = Wide(), rounded = Wide();
  widened.router = DType::kBF16;  // F32 when config.json says nothing
  rounded.router_dtype = "bfloat16";
  for (const auto& [model, dtype] : {std::pair{widened, DType::kF32}, std::pair{rounded, DType::kBF16}}) {
    const made::Understood u = made::Understand(model);
    const auto plan = PlanOf(u, Ranks(2));
    ASSERT_TRUE(plan.ok()) << plan.error().Message();
    const Status valid = ValidatePlan(u.catalogue, plan.value());
    ASSERT_TRUE(valid.ok()) << valid.error().Message();
    size_t seen = 0;
    for (const OutputArray& output : plan.value().outputs) {
      if (output.id.role != Role::kRouter) continue;
      ++seen;
      EXPECT_EQ(output.dtype, dtype);
      EXPECT_EQ(output.transform, Transform::kConvert);
      EXPECT_EQ(plan.value().sources[output.pieces[0].source].codec,
                dtype == DType::kF32 ? Codec::kBf16 : Codec::kFp32);
    }
    EXPECT_EQ(seen, 2u);
  }
}

TEST(Distribute, LosslessSpeaksOfTheRanksThatAreWritten) {
  Model model = Wide();  // fused(4); padded to three chunks, of which the last is all zeros or one whole chunk of four
  const made::Understood u = made::Understand(model);
  PlanOptions options = Ranks(3);
  options.pad = true;
  auto whole = PlanOf(u, options);
  ASSERT_TRUE(whole.ok()) << whole.error().Message();
  EXPECT_FALSE(whole->lossless);
  std::set<bool> answers;
  for (int64_t rank = 0; rank < 3; ++rank) {
    options.lossless = false;
    options.ranks = {rank};
    auto part = PlanOf(u, options);
    ASSERT_TRUE(part.ok()) << part.error().Message();
    EXPECT_EQ(part->lossless, part->straddling_blocks == 0) << rank;
    answers.insert(part->lossless);
    options.lossless = true;
    EXPECT_EQ(PlanOf(u, options).ok(), part->lossless) << rank;
  }
  EXPECT_EQ(answers, (std::set<bool>{false, true}));
}

TEST(Distribute, ARouterThatIsRoundedIsNotLossless) {
  Model rounded = Wide();
  rounded.router_dtype = "bfloat16";
  const made::Understood u = made::Understand(rounded);
  PlanOptions options = Ranks(4);
  EXPECT_FALSE(PlanOf(u, options).value().lossless);
  options.lossless = true;
  const auto plan = PlanOf(u, options);
  ASSERT_FALSE(plan.ok());
  EXPECT_EQ(plan.error().code, ErrorCode::kCheckFailed);
}

// ---- templates

nlohmann::json TemplateOf(const Plan& plan) {
  nlohmann::json dump = {{"engine", "vllm"}, {"version", "0.34.0"}, {"tensors", nlohmann::json::array()}};
  for (const OutputArray& output : plan.outputs) {
    if (!output.name.starts_with("rank0/")) continue;
    dump["tensors"].push_back(
        {{"name", output.name.substr(6)}, {"dtype", DTypeName(output.dtype)}, {"shape", output.shape}});
  }
  return dump;
}

TEST(DistributeTemplate, NamesOfAnotherBuildAreTakenOver) {
  Model model = Wide();
  model.mtp = 0;
  const made::Understood u = made::Understand(model);
  PlanOptions options = Ranks(2);
  const Plan before = PlanOf(u, options).value();
  nlohmann::json dump = TemplateOf(before);
  for (auto& row : dump["tensors"]) {
    std::string name = row["name"];
    if (const size_t at = name.find("experts.routed_experts.e_"); at != std::string::npos)
      name.replace(at, 23, "gate.");
    if (const size_t at = name.find("routed_experts."); at != std::string::npos) name.erase(at, 15);
    row["name"] = "language_model." + name;
  }
  options.form_template = CanonicalTemplate(dump.dump(), "t").value();
  const auto after = PlanOf(u, options);
  ASSERT_TRUE(after.ok()) << after.error().Message();
  std::set<std::string> names;
  for (const OutputArray& output : after.value().outputs) names.insert(output.name);
  EXPECT_EQ(names.size(), before.outputs.size());
  for (const auto& row : dump["tensors"])
    for (const int64_t rank : {0, 1}) EXPECT_EQ(names.count(RankName(rank, row["name"])), 1u) << row["name"];
  EXPECT_EQ(names.count("rank0/language_model.model.layers.1.mlp.gate.e_score_correction_bias"), 1u);
  const auto config = nlohmann::json::parse(after.value().texts[0].content);
  EXPECT_EQ(config["mimo_layout"]["table"], "vllm-0.34.0");
}

TEST(DistributeTemplate, ShapesAndNamesMustFit) {
  Model model = Wide();
  model.mtp = 0;
  const made::Understood u = made::Understand(model);
  const nlohmann::json fitting = TemplateOf(PlanOf(u, Ranks(2)).value());
  const auto refused = [&](const nlohmann::json& dump, const std::string& says) {
    PlanOptions options = Ranks(2);
    options.form_template = CanonicalTemplate(dump.dump(), "t").value();
    const auto plan = PlanOf(u, options);
    ASSERT_FALSE(plan.ok()) << says;
    EXPECT_EQ(plan.error().code, ErrorCode::kUsage);
    EXPECT_NE(plan.error().Message().find(says), std::string::npos) << plan.error().Message();
  };
  const std::string w2 = "model.layers.1.mlp.experts.routed_experts.w2_weight";
  nlohmann::json other = fitting, missing = fitting, more = fitting, constantless = fitting;
  missing["tensors"].clear();
  constantless["tensors"].clear();
  for (size_t i = 0; i < fitting["tensors"].size(); ++i) {
    const auto& row = fitting["tensors"][i];
    if (row["name"] == w2) other["tensors"][i]["shape"][2] = 64;  // that of TP 4
    if (row["name"] != w2) missing["tensors"].push_back(row);
    if (!row["name"].get<std::string>().ends_with("prob_scale")) constantless["tensors"].push_back(row);
  }
  more["tensors"].push_back({{"name", "model.layers.0.self_attn.rotary.cache"}, {"dtype", "F32"}, {"shape", {3}}});
  refused(other, w2);
  refused(missing, w2);
  refused(more, "model.layers.0.self_attn.rotary.cache");
  // One array of each kind, under every type but its own: codes, scales, values, re-laid attention, constants.
  for (const char* name :
       {"model.layers.1.mlp.experts.routed_experts.w2_weight_scale_inv", "model.layers.0.self_attn.qkv_proj.weight",
        "model.layers.0.self_attn.qkv_proj.weight_scale_inv", "model.norm.weight", "model.layers.1.mlp.gate.weight",
        "model.layers.0.self_attn.attn._k_scale"}) {
    size_t seen = 0;
    for (size_t i = 0; i < fitting["tensors"].size(); ++i) {
      if (fitting["tensors"][i]["name"] != name) continue;
      ++seen;
      for (const char* dtype : {"F8_E4M3", "BF16", "F32", "U8"}) {
        nlohmann::json typed = fitting;
        typed["tensors"][i]["dtype"] = dtype;
        if (fitting["tensors"][i]["dtype"] == dtype) continue;
        refused(typed, std::string(name) + ": the template asks for another type: expected " + dtype + ", found " +
                           fitting["tensors"][i]["dtype"].get<std::string>());
      }
    }
    EXPECT_EQ(seen, 1u) << name;
  }
  // A build without one of the constants is no error.
  PlanOptions options = Ranks(2);
  options.form_template = CanonicalTemplate(constantless.dump(), "t").value();
  EXPECT_TRUE(PlanOf(u, options).ok());
}

constexpr char kExpertsAs[] = R"("rules": [{"roles": ["expert.gate", "expert.up", "expert.down"], "to": ")";

PlanOptions Quantized(int64_t tp, const std::string& dialect, const std::string& to) {
  const std::string attention = R"("}, {"roles": ["attn.q", "attn.k", "attn.v", "attn.qkv"], "to": "bf16"}]})";
  PlanOptions options = Ranks(tp);
  options.recipe =
      ParseRecipe(R"({"name": "x", "dialect": ")" + dialect + R"(", )" + kExpertsAs + to + attention, "the recipe")
          .value();
  return options;
}

TEST(Distribute, WhatRankFilesCannotHoldIsRefused) {
  const made::Understood u = made::Understand(Wide());
  const auto refused = [&](const PlanOptions& options, const std::string& found) {
    const auto plan = PlanOf(u, options);
    ASSERT_FALSE(plan.ok());
    EXPECT_EQ(plan.error().code, ErrorCode::kUsage);
    EXPECT_NE(plan.error().Message().find(found), std::string::npos) << plan.error().Message();
  };
  refused(Quantized(2, "compressed-tensors", "mxfp8"), "the dialect native or modelopt");
  PlanOptions one_rank = Quantized(2, "modelopt", "nvfp4");
  one_rank.ranks = {1};
  refused(one_rank, "two runs");  // its global would not be that of the other rank
}

// Every row of an expert is encoded once, in the place that the rank has for it, under the global of its group.
TEST(Distribute, ExpertsOfARankAreEncodedWeightsOfTheirOwn) {
  const made::Understood u = made::Understand(Wide());
  const int64_t experts = u.catalogue.config.experts;
  for (const int64_t ep : {int64_t{1}, int64_t{2}}) {
    PlanOptions options = Quantized(2, "modelopt", "nvfp4");
    options.ep = ep;
    const Plan plan = PlanOf(u, options).value();
    size_t groups = 0;
    for (const FuseGroup& group : plan.groups) {
      if (group.encoded.empty()) continue;
      ++groups;
      std::map<uint32_t, std::set<uint32_t>> globals;  // by share: the experts under it, as arrays that are read
      std::map<uint32_t, int64_t> next;                // by output of codes
      for (const EncodedWeight& weight : group.encoded) {
        const OutputArray& codes = plan.outputs[weight.codes];
        EXPECT_EQ(weight.row, next[weight.codes]) << codes.name;
        next[weight.codes] += weight.rows;
        const int64_t matrices = codes.name.find("w13") != std::string::npos ? 2 : 1;
        EXPECT_EQ(weight.row, weight.scale_row);
        EXPECT_EQ(weight.scalar, weight.row / weight.rows);
        EXPECT_EQ(weight.rows * matrices * experts / ep, codes.rows());
        for (const Piece& piece : codes.pieces)
          if (piece.target_row >= weight.row && piece.target_row < weight.row + weight.rows)
            globals[weight.share].insert(
                static_cast<uint32_t>(u.catalogue.arrays[plan.sources[piece.source].array].id.expert));
      }
      for (const auto& [codes, rows] : next) EXPECT_EQ(rows, plan.outputs[codes].rows());
      EXPECT_EQ(globals.size(), static_cast<size_t>(experts));
      for (const auto& [share, of] : globals) EXPECT_EQ(of.size(), 1u) << share;
    }
    EXPECT_GT(groups, 0u);
  }
}

}  // namespace
}  // namespace mimo::distribute_test
