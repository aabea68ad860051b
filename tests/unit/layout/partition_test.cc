// The algebra of ranks against the reference's own numbers (target-layouts.md 1.3, 1.5, 1.6, 4.1, 10) and against
// counting: what the ranks hold together is the model, once, but for the replicas that a closed formula gives.
#include "lib/layout/partition.h"

#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>
#include <tuple>

#include "lib/io/dtype.h"
#include "schemas/embedded.h"
#include "tests/unit/layout/rank_contents.h"

namespace mimo::partition_test {
namespace {

const ModelTable& Table() {
  return *ModelTable::Get("mimo_v2").value();
}

ModelConfig Preset(std::string_view name) {
  for (const EmbeddedFile* file = kEmbeddedFiles; file->path != nullptr; ++file) {
    if (file->path != "presets/" + std::string(name) + ".json") continue;
    return ParseModelConfig(nlohmann::ordered_json::parse(file->content)["config"].dump(), "config.json").value();
  }
  ADD_FAILURE() << name;
  return {};
}

// Flash's heads on a model small enough to be counted element by element along every axis.
ModelConfig Small() {
  ModelConfig config;
  config.hidden = 64;
  config.vocab = 1000;
  config.intermediate = 96;
  config.moe_intermediate = 48;
  config.experts = 12;
  config.layers = 6;
  config.windowed = {0, 1, 1, 0, 1, 1};
  config.mtp_windowed = true;
  config.moe = {0, 1, 1, 1, 1, 1};
  config.global = {64, 4, 6, 4};
  config.window = {64, 8, 6, 4};
  config.window_sinks = true;
  return config;
}

std::vector<TensorSlice> Contents(const ModelConfig& config, const Topology& t, int64_t rank,
                                  const PartitionOptions& options = {}, int mtp = 2) {
  Result<std::vector<TensorSlice>> contents = RankContents(Table(), config, mtp, t, PlaceOf(t, rank), options);
  EXPECT_TRUE(contents.ok()) << contents.error().Message();
  return contents.ok() ? std::move(contents).value() : std::vector<TensorSlice>();
}

TEST(Partition, RanksOfTheReferenceTable) {
  // Section 1.6: TP, EP, ETP, S and what (tp, ep, etp) are at g.
  const Topology bridge{.tp = 2, .dp = 8, .ep = 8, .etp = 2};
  ASSERT_EQ(bridge.stage_ranks(), 16);
  const Topology unsplit{.tp = 2, .dp = 4, .ep = 8, .etp = 1};
  ASSERT_EQ(unsplit.stage_ranks(), 8);
  const Topology inference{.tp = 1, .dp = 16, .ep = 16, .etp = 1};
  for (int64_t g = 0; g < 16; ++g) {
    EXPECT_EQ(PlaceOf(bridge, g), (RankPlace{.tp = g % 2, .dp = g / 2, .etp = g % 2, .ep = g / 2}));
    EXPECT_EQ(PlaceOf(inference, g), (RankPlace{.dp = g, .ep = g}));
  }
  for (int64_t g = 0; g < 8; ++g) EXPECT_EQ(PlaceOf(unsplit, g), (RankPlace{.tp = g % 2, .dp = g / 2, .ep = g}));
  // By hand: TP 2 CP 3 DP 4 PP 2, ETP 2 EP 4 EDP 3; rank 24 + 17: tp 1, cp 8 % 3 = 2, dp 17 / 6 = 2.
  const Topology all{.tp = 2, .cp = 3, .dp = 4, .ep = 4, .etp = 2, .pp = 2};
  EXPECT_EQ(PlaceOf(all, 41), (RankPlace{.tp = 1, .cp = 2, .dp = 2, .etp = 1, .ep = 0, .edp = 2, .pp = 1}));
}

TEST(Partition, KvHeadOfARankIsFloorRGOverTAndServesItsQueries) {
  for (const auto& [heads, kv] : std::vector<std::pair<int64_t, int64_t>>{{64, 4}, {64, 8}, {128, 8}}) {
    for (const int64_t tp : {1, 2, 4, 8, 16, 32, 64}) {
      for (int64_t r = 0; r < tp; ++r) {
        const Range held = KvHeadsOf(kv, tp, r);
        EXPECT_EQ(held.begin, r * kv / tp);
        EXPECT_EQ(held.size(), std::max<int64_t>(1, kv / tp));
        const Range queries = EvenPart(heads, tp, r);
        for (int64_t q = queries.begin; q < queries.end; ++q) {
          const int64_t kv_head = q / (heads / kv);
          EXPECT_TRUE(held.begin <= kv_head && kv_head < held.end) << "TP " << tp << " rank " << r << " head " << q;
        }
      }
    }
  }
}

TEST(Partition, ExpertsAreDealtOutLinearly) {
  // Section 4.1: base + (p < rem) experts from p * base + min(p, rem).
  EXPECT_EQ(ExpertsOf(10, 0, 4, 0), (std::vector<int64_t>{0, 1, 2}));
  EXPECT_EQ(ExpertsOf(10, 0, 4, 1), (std::vector<int64_t>{3, 4, 5}));
  EXPECT_EQ(ExpertsOf(10, 0, 4, 2), (std::vector<int64_t>{6, 7}));
  EXPECT_EQ(ExpertsOf(10, 0, 4, 3), (std::vector<int64_t>{8, 9}));
  // Six experts and two redundant: eight slots, the last two hold experts 0 and 1 again.
  EXPECT_EQ(ExpertsOf(6, 2, 4, 2), (std::vector<int64_t>{4, 5}));
  EXPECT_EQ(ExpertsOf(6, 2, 4, 3), (std::vector<int64_t>{0, 1}));
  EXPECT_EQ(ExpertsOf(2, 4, 1, 0), (std::vector<int64_t>{0, 1, 0, 1, 0, 1}));
}

// Layers of every entry, chunk by chunk, stage by stage.
std::vector<std::pair<int64_t, int64_t>> Pipeline(int64_t layers, int64_t stages, const StageOptions& options) {
  std::vector<std::pair<int64_t, int64_t>> entries;
  for (int64_t v = 0; v < options.virtual_chunks; ++v) {
    for (int64_t p = 0; p < stages; ++p) {
      const Result<Range> range = StageLayers(layers, stages, p, options, v);
      EXPECT_TRUE(range.ok()) << range.error().Message();
      if (range.ok()) entries.emplace_back(range.value().begin, range.value().end);
    }
  }
  return entries;
}

TEST(Partition, PipelineStagesByHand) {
  using Entries = std::vector<std::pair<int64_t, int64_t>>;
  EXPECT_EQ(Pipeline(48, 4, {}), (Entries{{0, 12}, {12, 24}, {24, 36}, {36, 48}}));
  // f = 10, l = 8, the rest share 30 equally.
  EXPECT_EQ(Pipeline(48, 4, {.first_stage_layers = 10, .last_stage_layers = 8}),
            (Entries{{0, 10}, {10, 25}, {25, 40}, {40, 48}}));
  EXPECT_EQ(Pipeline(70, 4, {.first_stage_layers = 16}), (Entries{{0, 16}, {16, 34}, {34, 52}, {52, 70}}));
  EXPECT_EQ(Pipeline(70, 3, {.last_stage_layers = 10}), (Entries{{0, 30}, {30, 60}, {60, 70}}));
  EXPECT_EQ(Pipeline(30, 2, {.first_stage_layers = 10, .last_stage_layers = 20}), (Entries{{0, 10}, {10, 30}}));
  // 70 + 2 = 72 items, 18 per stage: the first has 17 layers, the last 17, those between begin one earlier.
  EXPECT_EQ(Pipeline(70, 4, {.embedding_counts = true, .loss_counts = true}),
            (Entries{{0, 17}, {17, 35}, {35, 53}, {53, 70}}));
  EXPECT_EQ(Pipeline(47, 4, {.embedding_counts = true}), (Entries{{0, 11}, {11, 23}, {23, 35}, {35, 47}}));
  EXPECT_EQ(Pipeline(47, 4, {.loss_counts = true}), (Entries{{0, 12}, {12, 24}, {24, 36}, {36, 47}}));
  // Virtual chunks: chunk v of stage p starts at v * (L / vp) + p * (L / PP / vp).
  EXPECT_EQ(Pipeline(48, 4, {.virtual_chunks = 3}), (Entries{{0, 4},
                                                             {4, 8},
                                                             {8, 12},
                                                             {12, 16},
                                                             {16, 20},
                                                             {20, 24},
                                                             {24, 28},
                                                             {28, 32},
                                                             {32, 36},
                                                             {36, 40},
                                                             {40, 44},
                                                             {44, 48}}));
  // With the embedding counted only the very first chunk is shorter; with the loss, the very last.
  EXPECT_EQ(Pipeline(14, 2, {.embedding_counts = true, .loss_counts = true, .virtual_chunks = 2}),
            (Entries{{0, 3}, {3, 7}, {7, 11}, {11, 14}}));
  // f = 4, l = 2, middle 6, two chunks each: 2 + 3 + 1 layers in every round.
  EXPECT_EQ(Pipeline(12, 3, {.first_stage_layers = 4, .last_stage_layers = 2, .virtual_chunks = 2}),
            (Entries{{0, 2}, {2, 5}, {5, 6}, {6, 8}, {8, 11}, {11, 12}}));
}

void ExpectAdvice(const Status& status, const std::vector<std::string>& mentions) {
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kUsage);
  for (const std::string& mention : mentions)
    EXPECT_NE(status.error().Message().find(mention), std::string::npos)
        << mention << " in " << status.error().Message();
}

TEST(Partition, StagesThatCannotBeFilledNameTheNearestNumberThatCan) {
  Result<Range> uneven = StageLayers(48, 5, 0);
  ASSERT_FALSE(uneven.ok());
  ExpectAdvice(uneven.TakeError(), {"48 layers", "5 pipeline stages", "PP 4"});
  Result<Range> odd = StageLayers(70, 4, 0);
  ASSERT_FALSE(odd.ok());
  ExpectAdvice(odd.TakeError(), {"70 layers", "PP 5"});
  Result<Range> twice = StageLayers(70, 4, 0, {.first_stage_layers = 10, .loss_counts = true});
  EXPECT_FALSE(twice.ok());
  Result<Range> chunks = StageLayers(48, 4, 0, {.virtual_chunks = 5});
  ASSERT_FALSE(chunks.ok());
  ExpectAdvice(chunks.TakeError(), {"12 layers", "5 virtual chunks"});
  EXPECT_FALSE(StageLayers(48, 4, 4).ok());
  EXPECT_FALSE(StageLayers(48, 4, 0, {}, 1).ok());
}

TEST(Partition, ImpossibleTopologiesNameTheDimensionAndTheNearestThatWouldDo) {
  const ModelConfig flash = Preset("mimo-v2-flash"), pro = Preset("mimo-v2.5-pro");
  ExpectAdvice(CheckTopology(flash, {.tp = 3}), {"TP 3", "64 query heads", "use TP 2"});
  ExpectAdvice(CheckTopology(pro, {.tp = 12}), {"TP 12", "128 query heads", "use TP 8"});
  ExpectAdvice(CheckTopology(pro, {.tp = 100}), {"use TP 128"});
  ExpectAdvice(CheckTopology(flash, {.tp = 8}, {.trainer = true}), {"TP 8", "4 KV heads", "use TP 4"});
  ExpectAdvice(CheckTopology(pro, {.dp = 7, .ep = 7}), {"EP 7", "384 experts", "use EP 6"});
  ExpectAdvice(CheckTopology(pro, {.dp = 5, .ep = 5, .redundant_experts = 2}),
               {"384 experts and 2 redundant", "use EP 2"});
  ExpectAdvice(CheckTopology(pro, {.dp = 6, .etp = 6}), {"ETP 6", "2048 rows", "use ETP 4"});
  ExpectAdvice(CheckTopology(pro, {.tp = 2, .ep = 8}), {"TP * CP * DP = 2", "ETP * EP = 8", "use DP 4"});
  ExpectAdvice(CheckTopology(pro, {.pp = 3}), {"70 layers", "use PP 2"});
  ExpectAdvice(CheckTopology(pro, {.tp = 0}), {"TP 0"});
  for (const int64_t tp : {1, 2, 4, 8, 16, 32, 64}) {
    const Topology engine{.tp = tp, .etp = tp};
    EXPECT_TRUE(CheckTopology(flash, engine).ok()) << tp;
    EXPECT_TRUE(CheckTopology(pro, engine).ok()) << tp;
  }
  const Topology redundant{.tp = 16, .dp = 2, .ep = 32, .redundant_experts = 32};
  EXPECT_TRUE(CheckTopology(pro, redundant).ok());
}

// How often every element of every tensor is held, along both axes: key (tensor) -> (row, col) -> ranks.
using Key = std::tuple<Role, bool, int32_t, int32_t>;
std::map<Key, std::map<std::pair<int64_t, int64_t>, int64_t>> CountBlocks(const ModelConfig& config, const Topology& t,
                                                                          const PartitionOptions& options) {
  std::map<Key, std::map<std::pair<int64_t, int64_t>, int64_t>> counts;
  for (int64_t rank = 0; rank < t.stage_ranks() * t.pp; ++rank) {
    for (const TensorSlice& slice : Contents(config, t, rank, options)) {
      auto& held = counts[{slice.id.role, slice.id.mtp, slice.id.layer, slice.id.expert}];
      // Every second column will do: cuts are at even places here.
      for (int64_t row = slice.rows.begin; row < slice.rows.end; ++row)
        for (int64_t col = slice.cols.begin; col < slice.cols.end; col += 2) ++held[{row, col}];
    }
  }
  return counts;
}

// How many ranks hold one element, from the reference alone.
int64_t Holders(Role role, const AttentionShape& shape, const Topology& t, bool trainer) {
  const int64_t replicas = t.cp * t.dp, expert_replicas = t.stage_ranks() / (t.etp * t.ep);
  const std::set<Role> cut = {Role::kEmbed,   Role::kLmHead, Role::kAttnQ,   Role::kAttnO,
                              Role::kMlpGate, Role::kMlpUp,  Role::kMlpDown, Role::kAttnSink};
  if (role == Role::kAttnK || role == Role::kAttnV) return replicas * std::max<int64_t>(1, t.tp / shape.kv_heads);
  if (role == Role::kExpertGate || role == Role::kExpertUp || role == Role::kExpertDown) return expert_replicas;
  if (cut.contains(role) || (role == Role::kMtpEhProj && trainer)) return replicas;
  return replicas * t.tp;
}

TEST(Partition, RanksTileEveryTensorOnceButForTheReplicas) {
  const ModelConfig config = Small();
  struct Case {
    Topology topology;
    PartitionOptions options;
  };
  const std::vector<Case> cases = {
      {{}, {}},
      {{.tp = 2, .etp = 2}, {}},
      {{.tp = 8, .etp = 8}, {}},
      {{.tp = 16, .etp = 2}, {}},
      {{.tp = 4, .dp = 3, .ep = 12}, {}},
      {{.tp = 4, .cp = 2, .dp = 3, .ep = 4, .etp = 3, .pp = 3}, {}},
      {{.tp = 2, .dp = 2, .ep = 2, .etp = 2, .pp = 2}, {.trainer = true, .stages = {.virtual_chunks = 3}}},
      {{.tp = 4, .pp = 2}, {.trainer = true, .vocab_multiple = 24, .stages = {.first_stage_layers = 4}}},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE("TP " + std::to_string(c.topology.tp) + " EP " + std::to_string(c.topology.ep) + " PP " +
                 std::to_string(c.topology.pp));
    const auto counts = CountBlocks(config, c.topology, c.options);
    const std::vector<ExpectedTensor> expected = ExpectedTensors(Table(), config, false, 2).value();
    for (const ExpectedTensor& tensor : expected) {
      const TensorId& id = tensor.id;
      const auto held = counts.find({id.role, id.mtp, id.layer, id.expert});
      ASSERT_NE(held, counts.end()) << tensor.name;
      int64_t rows = MatrixRows(tensor.shape);
      const int64_t cols = tensor.shape.back();
      const bool vocab = id.role == Role::kEmbed || id.role == Role::kLmHead;
      if (vocab && c.options.vocab_multiple == 24)
        rows = 1008;  // 1000 rounded up to 24
      else if (vocab && c.topology.tp == 16)
        rows = 1008;  // and to 16
      ASSERT_EQ(static_cast<int64_t>(held->second.size()), rows * ((cols + 1) / 2)) << tensor.name;
      const AttentionShape& shape = config.attention_of(id.layer < 0 ? 0 : id.layer, id.mtp);
      int64_t holders = Holders(id.role, shape, c.topology, c.options.trainer);
      if (id.role == Role::kEmbed && c.topology.pp > 1) holders *= 2;  // the stage of the MTP layers keeps a copy
      for (const auto& [place, ranks] : held->second) ASSERT_EQ(ranks, holders) << tensor.name;
    }
    EXPECT_EQ(counts.size(), expected.size());
  }
}

TEST(Partition, PiecesFollowTheReferenceRowByRow) {
  const ModelConfig config = Small();
  const Topology t{.tp = 16, .dp = 2, .ep = 4, .etp = 2};
  for (int64_t rank = 0; rank < 32; ++rank) {
    const int64_t r = rank % 16, ep = rank / 2 % 4, etp = rank % 2;
    std::vector<int32_t> experts;
    for (const TensorSlice& slice : Contents(config, t, rank)) {
      const TensorId& id = slice.id;
      const bool windowed = id.mtp || (id.layer >= 0 && config.windowed[static_cast<size_t>(id.layer)] != 0);
      const int64_t kv = r * (windowed ? 8 : 4) / 16;
      if (id.role == Role::kAttnQ) {
        EXPECT_EQ(slice.rows, (Range{r * 4 * 6, (r + 1) * 4 * 6}));
      } else if (id.role == Role::kAttnK) {
        EXPECT_EQ(slice.rows, (Range{kv * 6, (kv + 1) * 6}));
      } else if (id.role == Role::kAttnV) {
        EXPECT_EQ(slice.rows, (Range{kv * 4, (kv + 1) * 4}));
      } else if (id.role == Role::kAttnO) {
        EXPECT_EQ(slice.cols, (Range{r * 4 * 4, (r + 1) * 4 * 4}));
      } else if (id.role == Role::kAttnSink) {
        EXPECT_EQ(slice.rows, (Range{0, 1}));
        EXPECT_EQ(slice.cols, (Range{r * 4, (r + 1) * 4}));
      } else if (id.role == Role::kMlpUp) {
        EXPECT_EQ(slice.rows, (Range{r * 6, (r + 1) * 6}));
      } else if (id.role == Role::kMlpDown) {
        EXPECT_EQ(slice.cols, (Range{r * 6, (r + 1) * 6}));
      } else if (id.role == Role::kExpertGate) {
        EXPECT_EQ(slice.rows, (Range{etp * 24, etp * 24 + 24}));
        if (id.layer == 1) experts.push_back(id.expert);
      } else if (id.role == Role::kExpertDown) {
        EXPECT_EQ(slice.rows, (Range{0, 64}));
        EXPECT_EQ(slice.cols, (Range{etp * 24, etp * 24 + 24}));
      } else if (id.role == Role::kMtpEhProj) {
        EXPECT_EQ(slice.rows, (Range{0, 64}));
        EXPECT_EQ(slice.cols, (Range{0, 128}));
      }
    }
    const auto first = static_cast<int32_t>(ep * 3);
    EXPECT_EQ(experts, (std::vector<int32_t>{first, first + 1, first + 2}));
  }
}

TEST(Partition, VocabularyIsPaddedToBothMultiples) {
  ModelConfig config = Preset("mimo-v2-flash");
  const auto rows_at = [&config](int64_t tp, int64_t multiple) {
    const ModelConfig padded = PaddedConfig(config, tp, 32, 32);
    Topology t{.tp = tp, .etp = tp};
    const auto contents = Contents(padded, t, tp - 1, {.vocab_multiple = multiple}, 0);
    EXPECT_EQ(contents.front().id.role, Role::kEmbed);
    return contents.front().rows;
  };
  EXPECT_EQ(rows_at(3, 1), (Range{2 * 50859, 3 * 50859}));       // section 10
  EXPECT_EQ(rows_at(8, 8 * 128), (Range{7 * 19072, 152576}));    // section 1.5: no padding for TP 1, 2, 4, 8
  EXPECT_EQ(rows_at(16, 16 * 128), (Range{15 * 9600, 153600}));  // ceil(152576 / 2048) = 75
}

TEST(Partition, PaddingFollowsTheTpThreeRecipe) {
  const ModelConfig flash = Preset("mimo-v2-flash");
  const ModelConfig padded = PaddedConfig(flash, 3, 32, 32);
  EXPECT_EQ(padded.global.heads, 96);
  EXPECT_EQ(padded.window.heads, 96);
  EXPECT_EQ(padded.global.kv_heads, 6);
  EXPECT_EQ(padded.window.kv_heads, 12);
  EXPECT_EQ(padded.intermediate, 16416);
  EXPECT_EQ(padded.moe_intermediate, 2112);
  const ModelConfig blocks = PaddedConfig(flash, 3, 128, 128);
  EXPECT_EQ(blocks.intermediate, 16512);
  EXPECT_EQ(blocks.moe_intermediate, 2304);
  EXPECT_TRUE(CheckTopology(padded, {.tp = 3, .etp = 3}).ok());
  // Head dimensions, hidden and vocabulary are not heads' tails.
  EXPECT_EQ(padded.hidden, flash.hidden);
  EXPECT_EQ(padded.vocab, flash.vocab);
  EXPECT_EQ(padded.global.head_dim, 192);
  EXPECT_EQ(padded.window.v_head_dim, 128);
  // TP 6: 8 KV heads become 12 under 6 * 2, and 4 become 6.
  const ModelConfig six = PaddedConfig(flash, 6, 32, 32);
  EXPECT_EQ(six.global, (AttentionShape{96, 6, 192, 128}));
  EXPECT_EQ(six.window, (AttentionShape{96, 12, 192, 128}));
  EXPECT_TRUE(CheckTopology(six, {.tp = 6, .etp = 6}).ok());
  // Heads that can be cut, or replicated, stay.
  EXPECT_EQ(PaddedConfig(flash, 16, 128, 128).global, flash.global);
}

// Bytes in BF16 that all ranks of a topology hold.
uint64_t BytesOf(const ModelConfig& config, const Topology& t, int mtp) {
  uint64_t elements = 0;
  for (int64_t rank = 0; rank < t.stage_ranks() * t.pp; ++rank)
    for (const TensorSlice& slice : Contents(config, t, rank, {}, mtp))
      elements += static_cast<uint64_t>(slice.rows.size()) * static_cast<uint64_t>(slice.cols.size());
  return 2 * elements;
}

TEST(Partition, TrillionParameterModelAddsUp) {
  const ModelConfig config = Preset("mimo-v2.5-pro");
  // From the published shapes: 70 layers of which 10 see everything, layer 0 dense, 3 MTP layers.
  constexpr uint64_t kHidden = 6144, kLayers = 70, kMtp = 3;
  uint64_t windowed = 0;
  for (const uint8_t w : config.windowed) windowed += w;
  const uint64_t vocab = 2 * 152576 * kHidden;
  const uint64_t kv = (kLayers + kMtp) * 8 * (192 + 128) * kHidden;
  const uint64_t qo = (kLayers + kMtp) * 128 * (192 + 128) * kHidden;
  const uint64_t sinks = (windowed + kMtp) * 128;
  const uint64_t dense = (1 + kMtp) * 3 * 16384 * kHidden;
  const uint64_t experts = (kLayers - 1) * 384 * 3 * 2048 * kHidden;
  const uint64_t routers = (kLayers - 1) * (384 * kHidden + 384);
  const uint64_t norms = (2 * kLayers + 1 + 5 * kMtp) * kHidden;  // enorm, hnorm, input, pre_mlp, final of each MTP
  const uint64_t eh_proj = kMtp * 2 * kHidden * kHidden;
  const uint64_t parameters = vocab + kv + qo + sinks + dense + experts + routers + norms + eh_proj;
  EXPECT_EQ(BytesOf(config, {}, kMtp), 2 * parameters);
  // TP 16: two ranks share a KV head, every rank has the routers, norms and eh_proj.
  const uint64_t replicated = routers + norms + eh_proj;
  EXPECT_EQ(BytesOf(config, {.tp = 16, .etp = 16}, kMtp), 2 * (parameters + kv + 15 * replicated));
  // Two of those, the experts whole on 32 ranks.
  EXPECT_EQ(BytesOf(config, {.tp = 16, .dp = 2, .ep = 32, .etp = 1}, kMtp),
            2 * (2 * (parameters - experts + kv + 15 * replicated) + experts));
}

}  // namespace
}  // namespace mimo::partition_test
