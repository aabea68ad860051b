// What the table of engines says of MTP layers: every rule can be asked, and those that matter say what is known.
#include "lib/verify/mtp_engines.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

namespace mimo::mtp_engines_test {
namespace {

// Every fact that a rule may ask for (docs/adding-a-model.md), of V2.5 as released.
Facts Released() {
  return {{"layers", 3},        {"whole", 3},          {"announced", -1},  {"first", "complete"},
          {"gaps", "no"},       {"names", "released"}, {"indexed", "yes"}, {"quantized", "no"},
          {"o_proj", "values"}, {"eh_proj", "values"}, {"qkv", "fused"},   {"attention", "fp8"},
          {"chunks", 4},        {"kv_heads", 4},       {"swa_kv_heads", 8}};
}

std::string Outcome(const Facts& facts, const std::string& id) {
  auto engines = JudgeMtpEngines("mimo_v2", facts);
  if (!engines.ok()) return engines.error().Message();
  for (const MtpEngine& engine : *engines)
    if (engine.id == id) return engine.outcome;
  return "no such engine";
}

Facts With(const std::string& fact, const Fact& value) {
  Facts facts = Released();
  facts[fact] = value;
  return facts;
}

TEST(MtpEngines, Releases) {
  EXPECT_EQ(Outcome(Released(), "vllm-0.33.0"), "first");
  EXPECT_EQ(Outcome(Released(), "sglang-0.5.23"), "all");
  EXPECT_EQ(Outcome(Released(), "transformers"), "drops");
  EXPECT_EQ(Outcome(Released(), "nxdi"), "drops");
  EXPECT_EQ(Outcome(Released(), "mlx-lm"), "drops");
  EXPECT_EQ(Outcome(Released(), "llama-cpp"), "all");
  EXPECT_EQ(Outcome(With("qkv", "split"), "llama-cpp"), "unfit");
  EXPECT_EQ(Outcome(Released(), "megatron-bridge"), "refuses");
  EXPECT_EQ(Outcome(Released(), "lmdeploy"), "unknown");
}

TEST(MtpEngines, Faults) {
  EXPECT_EQ(Outcome(With("layers", 0), "vllm-0.33.0"), "none");
  EXPECT_EQ(Outcome(With("names", "other"), "vllm-0.33.0"), "drops");
  EXPECT_EQ(Outcome(With("indexed", "no"), "sglang-0.5.23"), "drops");
  EXPECT_EQ(Outcome(With("first", "absent"), "vllm-0.33.0"), "unfit");
  EXPECT_EQ(Outcome(With("gaps", "yes"), "vllm-0.33.0"), "first");
  EXPECT_EQ(Outcome(With("gaps", "yes"), "sglang-0.5.23"), "unfit");
  EXPECT_EQ(Outcome(With("eh_proj", "codes"), "sglang-0.5.23"), "unfit");
  EXPECT_EQ(Outcome(With("whole", 2), "atom"), "unfit");
  EXPECT_EQ(Outcome(With("whole", 2), "llama-cpp"), "unfit");
}

TEST(MtpEngines, EveryRuleSpeaksOfKnownFactsAndOutcomes) {
  const nlohmann::json table = nlohmann::json::parse(EmbeddedText("engines.json"));
  std::set<std::string> outcomes;
  for (const auto& [word, meaning] : table["mtp_outcomes"].items()) outcomes.insert(word);
  const auto check = [&](const nlohmann::json& rules, const std::string& id) {
    for (const auto& rule : rules) {
      EXPECT_TRUE(outcomes.contains(rule["outcome"])) << id << rule.dump();
      EXPECT_FALSE(rule["note"].get<std::string>().empty()) << id;
      for (const auto& condition : rule["when"]) {
        const Result<bool> holds = Holds(condition, Released());
        EXPECT_TRUE(holds.ok()) << id << ": " << condition;
        // A word on the right is a word: the name of a fact there would be its value.
        const std::string text = condition;
        const std::string right = text.substr(text.rfind(' ') + 1);
        EXPECT_TRUE(!Released().contains(right)) << id << ": " << text;
      }
    }
  };
  check(table["mtp_first"], "mtp_first");
  for (const char* list : {"engines", "mtp_others"})
    for (const auto& engine : table[list]) {
      if (!engine.contains("mtp")) continue;
      EXPECT_FALSE(engine["mtp"]["sources"].empty()) << engine["id"];
      check(engine["mtp"]["rules"], engine["id"]);
    }
}

}  // namespace
}  // namespace mimo::mtp_engines_test
