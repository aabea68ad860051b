// What quantization_config of others says, after their modules were renamed or decoded.
#include "lib/forms/hf/kept_quant.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace mimo::kept_quant_test {
namespace {

using Json = nlohmann::ordered_json;

HfQuantization Of(std::vector<std::string> quantized, std::vector<std::string> unquantized) {
  HfQuantization q;
  q.dialect = Dialect::kCompressedTensors;
  q.keeps = true;
  for (std::string& name : quantized) {
    QuantizedModule module;
    module.name = std::move(name);
    module.span = ScaleSpan::kRow;
    q.quantized.push_back(std::move(module));
  }
  q.unquantized = std::move(unquantized);
  return q;
}

Json Kept(const HfQuantization& q, const std::string& source) {
  const auto kept = KeptCompressedTensors(q, source);
  EXPECT_TRUE(kept.ok());
  return kept.ok() ? Json::parse(kept.value()) : Json();
}

TEST(KeptQuant, WhatIsNotAboutModulesStays) {
  const Json kept = Kept(Of({"a.self_attn.q_proj"}, {"lm_head"}),
                         R"({"quant_method":"compressed-tensors","theirs":[1],"ignore":["lm_head"],
                             "config_groups":{"g":{"targets":["Linear"],"weights":{"strategy":"channel"}}}})");
  EXPECT_EQ(kept["theirs"], Json::parse("[1]"));
  EXPECT_EQ(kept["ignore"], Json::parse(R"(["lm_head"])"));
  EXPECT_EQ(kept["config_groups"]["g"]["targets"], Json::parse(R"(["Linear"])"));
}

TEST(KeptQuant, IgnoredProjectionsFollowTheirNames) {
  const HfQuantization q = Of({"m.1.self_attn.q_proj", "m.1.self_attn.k_proj"},
                              {"lm_head", "m.0.self_attn.q_proj", "m.0.self_attn.k_proj", "m.0.self_attn.o_proj"});
  const Json kept = Kept(q, R"({"ignore":["lm_head","m.0.self_attn.qkv_proj","re:.*o_proj$","elsewhere"]})");
  EXPECT_EQ(kept["ignore"], Json::parse(R"(["lm_head","re:.*o_proj$","elsewhere","m.0.self_attn.q_proj",
                                            "m.0.self_attn.k_proj"])"));
}

TEST(KeptQuant, APatternThatWouldIgnoreWhatIsQuantizedIsWrittenOut) {
  const HfQuantization q = Of({"m.1.self_attn.v_proj"}, {"m.0.self_attn.v_proj", "m.0.mlp.gate"});
  const Json kept = Kept(q, R"j({"ignore":["re:.*v_proj","re:.*gate$","re:(?=lookahead)"]})j");
  EXPECT_EQ(kept["ignore"], Json::parse(R"j(["re:.*gate$","re:(?=lookahead)","m.0.self_attn.v_proj"])j"));
}

TEST(KeptQuant, PatternsAreAnchoredAtTheBeginningAlone) {
  const HfQuantization q = Of({}, {"model.lm_head", "lm_head.x"});
  const Json kept = Kept(q, R"({"ignore":["re:lm_head"]})");
  EXPECT_EQ(kept["ignore"], Json::parse(R"(["re:lm_head","model.lm_head"])"));
}

TEST(KeptQuant, TargetsFollowTheirNames) {
  const HfQuantization q = Of({"m.0.self_attn.qkv_proj", "m.0.mlp.up_proj", "m.1.self_attn.qkv_proj"}, {});
  const Json kept =
      Kept(q, R"({"config_groups":{"a":{"targets":["m.0.self_attn.q_proj","m.0.self_attn.k_proj","m.0.mlp.up_proj"],
                                        "weights":{"strategy":"channel"}},
                                   "b":{"targets":["re:m\\.1\\.self_attn\\.[qkv]_proj"],"weights":{"strategy":"block",
                                        "block_structure":[128,128]}}}})");
  EXPECT_EQ(kept["config_groups"]["a"]["targets"], Json::parse(R"(["m.0.mlp.up_proj","m.0.self_attn.qkv_proj"])"));
  EXPECT_EQ(kept["config_groups"]["b"]["targets"],
            Json::parse(R"(["re:m\\.1\\.self_attn\\.[qkv]_proj","m.1.self_attn.qkv_proj"])"));
}

TEST(KeptQuant, BlocksOfAnotherHeight) {
  HfQuantization q = Of({"m.0.mlp.up_proj"}, {});
  q.fp8_block_rows = 64;
  const Json kept = Kept(
      q,
      R"({"config_groups":{"a":{"targets":["Linear"],"weights":{"strategy":"block","block_structure":[128,128]}}}})");
  EXPECT_EQ(kept["config_groups"]["a"]["weights"]["block_structure"], Json::parse("[64,128]"));
}

TEST(KeptQuant, NoObject) {
  EXPECT_FALSE(KeptCompressedTensors(Of({}, {}), "[]").ok());
  EXPECT_FALSE(KeptCompressedTensors(Of({}, {}), "{").ok());
}

}  // namespace
}  // namespace mimo::kept_quant_test
