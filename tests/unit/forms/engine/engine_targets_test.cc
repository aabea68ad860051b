// What each engine is given at each T, against the table of docs/engines.md ("What --to writes").
#include "lib/forms/engine/engine_targets.h"

#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>

namespace mimo::engine_targets_test {
namespace {

struct Heads {
  int64_t heads, kv, swa_kv;
};
const Heads kFlash{64, 4, 8}, kPro{128, 8, 8};
const Heads kPadded{96, 6, 12};  // Flash for TP 3 and 6

Facts FactsOf(const Heads& h, int64_t tp) {
  Facts facts;
  facts["tp"] = tp;
  facts["heads"] = h.heads;
  facts["kv_heads"] = h.kv;
  facts["swa_kv_heads"] = h.swa_kv;
  facts["kv_rows_per_rank_blocks"] = std::string("whole");  // asked of families whose heads may be cut within
  facts["q_rows_per_rank_blocks"] = std::string(h.heads * 192 / tp % 128 == 0 ? "whole" : "cut");
  return facts;
}

EngineTarget Choose(const std::string& engine, const std::string& version, const Heads& heads, int64_t tp) {
  const auto target = ChooseEngineTarget(engine, version, "mimo_v2", FactsOf(heads, tp));
  EXPECT_TRUE(target.ok()) << target.error().Message();
  return target.ok() ? target.value() : EngineTarget();
}

std::string AttentionOf(const EngineTarget& target) {
  return std::string(WordOf(kEngineAttentions, target.attention));
}

using ByTp = std::map<int64_t, std::string>;
ByTp Chosen(const std::string& engine, const std::string& version, const Heads& heads, const ByTp& like) {
  ByTp chosen;
  for (const auto& [tp, attention] : like) chosen[tp] = AttentionOf(Choose(engine, version, heads, tp));
  return chosen;
}

TEST(EngineTargets, NewestVllm) {
  const ByTp flash = {{1, "fused:G"},  {2, "fused:G"},  {4, "fused:G"}, {8, "fused:T"},
                      {16, "fused:T"}, {32, "fused:T"}, {64, "bf16"}};
  EXPECT_EQ(Chosen("vllm", "", kFlash, flash), flash);
  EXPECT_EQ(Chosen("vllm", "0.33.0", kFlash, flash), flash);
  EXPECT_EQ(Chosen("vllm", "vllm-0.33.0", kFlash, flash), flash);
  const ByTp pro = {{1, "fused:G"},  {2, "fused:G"},  {4, "fused:G"},  {8, "fused:G"},
                    {16, "fused:T"}, {32, "fused:T"}, {64, "fused:T"}, {128, "bf16"}};
  EXPECT_EQ(Chosen("vllm", "", kPro, pro), pro);
  const ByTp padded = {{3, "fused:G"}, {6, "fused:G"}, {12, "fused:T"}, {4, "bf16"}};
  EXPECT_EQ(Chosen("vllm", "", kPadded, padded), padded);
}

TEST(EngineTargets, NewestSglang) {
  const ByTp flash = {{1, "split"},    {2, "split"},    {4, "fused:G"}, {8, "fused:T"},
                      {16, "fused:T"}, {32, "fused:T"}, {64, "bf16"}};
  EXPECT_EQ(Chosen("sglang", "", kFlash, flash), flash);
  const ByTp pro = {{1, "split"},    {2, "split"},    {4, "split"},    {8, "fused:G"},
                    {16, "fused:T"}, {32, "fused:T"}, {64, "fused:T"}, {128, "bf16"}};
  EXPECT_EQ(Chosen("sglang", "", kPro, pro), pro);
  const ByTp padded = {{3, "split"}, {6, "fused:G"}, {12, "fused:T"}};
  EXPECT_EQ(Chosen("sglang", "", kPadded, padded), padded);
}

// "Older versions" of the same page: below C they decode the fused form, so it is split for them.
TEST(EngineTargets, OlderVersions) {
  for (const char* version : {"57508", "45200", "40967"}) {
    EXPECT_EQ(AttentionOf(Choose("vllm", version, kPro, 2)), "split") << version;
    EXPECT_EQ(AttentionOf(Choose("vllm", version, kPro, 16)), "fused:T") << version;
    EXPECT_EQ(AttentionOf(Choose("vllm", version, kFlash, 64)), "bf16") << version;
    EXPECT_EQ(AttentionOf(Choose("vllm", version, kFlash, 8)), "fused:T") << version;
  }
  EXPECT_EQ(AttentionOf(Choose("vllm", "57508", kFlash, 4)), "fused:G");
  // One chunk per KV head of each layer: no fused file of Flash has that at T = 4.
  EXPECT_EQ(AttentionOf(Choose("vllm", "45200", kFlash, 4)), "split");
  EXPECT_EQ(AttentionOf(Choose("vllm", "40967", kFlash, 4)), "fused:T");
  EXPECT_EQ(AttentionOf(Choose("sglang", "23808", kFlash, 2)), "split");
  EXPECT_EQ(AttentionOf(Choose("sglang", "23808", kFlash, 4)), "fused:G");
}

TEST(EngineTargets, SaysWhatTheEngineWillDoAndWhichBlocksItTakes) {
  using Blocks = std::vector<std::pair<int64_t, int64_t>>;
  const EngineTarget vllm = Choose("vllm", "", kFlash, 8);
  EXPECT_EQ(vllm.engine, "vllm");
  EXPECT_EQ(vllm.version, "vllm-0.33.0");
  EXPECT_EQ(vllm.text, "vllm 0.33.0");
  EXPECT_EQ(vllm.load, "verbatim");
  EXPECT_NE(vllm.note.find("repeated"), std::string::npos);
  EXPECT_EQ(vllm.fp8_blocks, (Blocks{{128, 128}}));
  EXPECT_EQ(Choose("sglang", "", kFlash, 8).fp8_blocks, (Blocks{{128, 128}, {64, 128}}));
  // The MTP layer is decoded where both kinds of layers have the same KV heads, and only there.
  EXPECT_NE(Choose("vllm", "", kPro, 2).note.find("MTP"), std::string::npos);
  EXPECT_EQ(Choose("vllm", "", kFlash, 2).note.find("MTP"), std::string::npos);
}

TEST(EngineTargets, AnUnknownVersionNamesThoseThatThereAre) {
  const auto target = ChooseEngineTarget("vllm", "0.1", "mimo_v2", FactsOf(kFlash, 4));
  ASSERT_FALSE(target.ok());
  EXPECT_EQ(target.error().code, ErrorCode::kUsage);
  EXPECT_EQ(target.error().found, "0.1");
  for (const char* known : {"vllm-0.33.0", "vllm-57508", "vllm-45200", "vllm-40967"})
    EXPECT_NE(target.error().expected.find(known), std::string::npos) << known;
  EXPECT_EQ(target.error().expected.find("sglang"), std::string::npos);
  EXPECT_FALSE(ChooseEngineTarget("trt", "", "mimo_v2", FactsOf(kFlash, 4)).ok());
}

// Every rule of every version speaks of facts that there are, and the last of each applies to anything.
TEST(EngineTargets, EveryVersionDecidesEveryCase) {
  const nlohmann::json table = nlohmann::json::parse(EmbeddedText("targets.json"));
  for (const auto& [engine, versions] : table["engines"].items()) {
    for (const auto& version : versions) {
      const std::string id = version["id"];
      EXPECT_TRUE(version["attention"].back()["when"].empty()) << id;
      for (const auto& rule : version["attention"])
        for (const auto& condition : rule["when"])
          EXPECT_TRUE(Holds(condition.get<std::string>(), FactsOf(kFlash, 4)).ok()) << id << " " << condition;
      for (const Heads& heads : {kFlash, kPro, kPadded}) {
        for (const int64_t tp : {1, 2, 3, 4, 5, 6, 8, 12, 16, 32, 48, 64, 96, 128}) {
          const EngineTarget target = Choose(engine, id, heads, tp);
          EXPECT_TRUE(FromWord(kEngineAttentions, AttentionOf(target)).has_value()) << id << " " << tp;
          // Where Q of a rank is no whole blocks, only its own grid or none at all can say where K begins.
          if (heads.heads % tp == 0 && heads.heads * 192 / tp % 128 != 0 && tp > heads.swa_kv) {
            EXPECT_EQ(AttentionOf(target), "bf16") << id << " " << tp;
          }
        }
      }
    }
  }
}

TEST(EngineTargets, TheTableNamesTheEngines) {
  EXPECT_TRUE(IsEngine("vllm"));
  EXPECT_TRUE(IsEngine("sglang"));
  for (const char* none : {"hf", "nxdi", "megatron", ""}) EXPECT_FALSE(IsEngine(none)) << none;
  EXPECT_TRUE(PadsVocabulary("sglang"));
  EXPECT_FALSE(PadsVocabulary("vllm"));
}

}  // namespace
}  // namespace mimo::engine_targets_test
