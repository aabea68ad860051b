// Signs and names: the table that is embedded, patterns, and what each kind of condition sees.
#include "lib/foreign/recognise.h"

#include <gtest/gtest.h>

#include <set>

namespace mimo::recognise_test {
namespace {

TEST(MatchesGlob, StarsAndAlternatives) {
  EXPECT_TRUE(MatchesGlob("*.qweight", "model.layers.#.mlp.up_proj.qweight"));
  EXPECT_FALSE(MatchesGlob("*.qweight", "model.qweights"));
  EXPECT_TRUE(MatchesGlob("*", ""));
  EXPECT_TRUE(MatchesGlob("a*b*c", "a-b-b-c"));
  EXPECT_FALSE(MatchesGlob("a*b*c", "a-c-b"));
  EXPECT_TRUE(MatchesGlob("x|*.gguf", "model.gguf"));
  EXPECT_FALSE(MatchesGlob("x|y", "xy"));
  EXPECT_TRUE(MatchesGlob("", ""));
}

TEST(MatchesGlob, StaysWithinADirectory) {
  EXPECT_FALSE(MatchesGlob("*.json", "dflash/config.json", true));
  EXPECT_TRUE(MatchesGlob("*/*.json", "dflash/config.json", true));
  EXPECT_TRUE(MatchesGlob("*.json", "dflash/config.json", false));
}

TEST(MatchesGlob, TakesNoExponentialTime) {
  std::string pattern, text(2000, 'a');
  for (int i = 0; i < 200; ++i) pattern += "a*";
  EXPECT_FALSE(MatchesGlob(pattern + "b", text));
}

TEST(ForeignTable, IsWellFormed) {
  ASSERT_GT(ForeignKinds().size(), 40u);
  std::set<std::string> ids;
  for (const ForeignKind& kind : ForeignKinds()) {
    EXPECT_TRUE(kind.id.starts_with("foreign.")) << kind.id;
    EXPECT_TRUE(ids.insert(kind.id).second) << kind.id;
    EXPECT_FALSE(kind.name.empty() || kind.means.empty() || kind.advice.empty()) << kind.id;
  }
}

TEST(ForeignTable, RefusesWhatItDoesNotKnow) {
  const auto parse = [](const std::string& sign) {
    return ParseForeignKinds(R"({"findings": [{"id": "a", "name": "b", "means": "c", "advice": "d", "signs": )" + sign +
                             "}]}");
  };
  EXPECT_TRUE(parse(R"([[{"arrays": "*.x", "any": ["I8"], "rank": 2}]])").ok());
  EXPECT_FALSE(parse("[]").ok());
  EXPECT_FALSE(parse("[[]]").ok());
  EXPECT_FALSE(parse(R"([[{"array": "*.x"}]])").ok());
  EXPECT_FALSE(parse(R"([[{"arrays": "*.x", "file": "y"}]])").ok());
  EXPECT_FALSE(parse(R"([[{"arrays": "*.x", "ranks": 2}]])").ok());
  EXPECT_FALSE(parse(R"([[{"arrays": "*.x", "any": "I8"}]])").ok());
  EXPECT_FALSE(ParseForeignKinds("[").ok());
}

class RecogniseTest : public ::testing::Test {
 protected:
  std::string Id(bool opened = false) {
    const auto known = RecogniseForeign(PosixFileSystem(), evidence_, opened);
    if (known) name_ = known->name, said_ = known->evidence;
    return known ? known->kind->id : "";
  }
  void Add(const std::string& name, const std::string& dtype, size_t rank = 2, uint64_t count = 4) {
    std::string example = name;
    for (char& c : example) c = c == '#' ? '3' : c;
    evidence_.arrays.push_back({name, dtype, rank, count, example});
  }
  ForeignEvidence evidence_{.root = "/nowhere"};
  std::string name_, said_;
};

TEST_F(RecogniseTest, NothingIsNothing) {
  EXPECT_EQ(Id(), "");
}

TEST_F(RecogniseTest, ArraysWithCountsAndExamples) {
  Add("model.layers.#.mlp.up_proj.qweight", "I32");
  EXPECT_EQ(Id(), "foreign.packed_integers");
  Add("model.layers.#.mlp.up_proj.g_idx", "I32", 1);
  EXPECT_EQ(Id(), "foreign.gptq");
  EXPECT_NE(said_.find("4 tensors *.qweight (I32), such as model.layers.3.mlp.up_proj.qweight"), std::string::npos);
}

TEST_F(RecogniseTest, TypesAndRanksCount) {
  Add("model.layers.#.mlp.up_proj.weight_packed", "U8");
  EXPECT_EQ(Id(), "");  // NVFP4 of compressed-tensors is ours
  Add("model.layers.#.mlp.down_proj.weight_packed", "I32");
  EXPECT_EQ(Id(), "foreign.compressed_int");
  evidence_.arrays.clear();
  Add("model.layers.#.mlp.experts.gate_up_proj", "BF16", 2);
  EXPECT_EQ(Id(), "");
  Add("model.layers.#.mlp.experts.gate_up_proj", "BF16", 3);
  EXPECT_EQ(Id(), "foreign.stacked_experts");
}

TEST_F(RecogniseTest, ConfigKeysInAnyCase) {
  evidence_.config = R"({"model_type": "mimo_v2", "quantization_config": {"quant_method": "AWQ"}})";
  EXPECT_EQ(Id(), "foreign.awq");
  evidence_.config = R"({"model_type": "mimo_v2", "quantization_config": {"quant_method": "fp8"}})";
  EXPECT_EQ(Id(), "");
  evidence_.config = R"({"model_type": "mimo_v2", "quantization_config": ["awq"]})";
  EXPECT_EQ(Id(), "");
  evidence_.config = "no JSON";
  EXPECT_EQ(Id(), "");
}

TEST_F(RecogniseTest, OtherModelsAreAskedWhereTheCheckpointOpens) {
  evidence_.config = R"({"model_type": "ernie", "architectures": ["ErnieForCausalLM"]})";
  EXPECT_EQ(Id(/*opened=*/true), "foreign.model");
  EXPECT_EQ(name_, "a model of the type ernie");
  evidence_.config = R"({"model_type": "ernie", "hybrid_layer_pattern": [0]})";
  EXPECT_EQ(Id(/*opened=*/true), "");
  evidence_.config = R"({"model_type": "mimo_v2", "quantization_config": {"quant_method": "awq"}})";
  EXPECT_EQ(Id(/*opened=*/true), "");
}

TEST_F(RecogniseTest, HeadsOfFiles) {
  evidence_.files = {{"assets/logo.png", 130, false, "version https://git-lfs.github.com/spec/v1\n"}};
  EXPECT_EQ(Id(), "");
  evidence_.files.push_back({"dflash/model.safetensors", 130, false, "version https://git-lfs.github.com/spec/v1\n"});
  EXPECT_EQ(Id(/*opened=*/true), "foreign.lfs_pointer");
  EXPECT_NE(said_.find("dflash/model.safetensors"), std::string::npos);
  evidence_.files = {{"config.json", 50, false, "\xEF\xBB\xBF \n<!DOCTYPE HTML>"}};
  EXPECT_EQ(Id(), "foreign.error_page");
}

TEST_F(RecogniseTest, PrefixesThatAreNotRead) {
  Add("thinker.model.layers.#.input_layernorm.weight", "BF16", 1);
  Add("thinker.lm_head.weight", "BF16");
  EXPECT_EQ(Id(), "foreign.prefix");
  EXPECT_EQ(name_, "names under the prefix \"thinker.\"");
  evidence_.arrays.clear();
  Add("language_model.model.layers.#.input_layernorm.weight", "BF16", 1);
  EXPECT_EQ(Id(), "");  // read
}

TEST_F(RecogniseTest, RefusalHoldsWhatWasStumbledOver) {
  Add("model.layers.#.mlp.up_proj.trellis", "I16", 3);
  const auto known = RecogniseForeign(PosixFileSystem(), evidence_, false);
  ASSERT_TRUE(known);
  const Error first = BadInput("a tensor is missing").Tensor("lm_head.weight");
  const Error error = RefuseByName(*known, &first);
  EXPECT_EQ(error.code, ErrorCode::kBadInput);
  EXPECT_EQ(error.id, "foreign.exl3");
  EXPECT_EQ(error.file, "/nowhere");
  EXPECT_NE(error.found.find("lm_head.weight: a tensor is missing"), std::string::npos);
}

}  // namespace
}  // namespace mimo::recognise_test
