#include "lib/inspect/engines.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "lib/json/parse.h"
#include "lib/model/family.h"
#include "lib/model/role_groups.h"
#include "lib/model/scale_values.h"
#include "lib/recipe/codec_types.h"
#include "lib/recipe/codec_words.h"

namespace mimo {
namespace {

using Json = nlohmann::json;

constexpr char kEngineTable[] = "engines.json";

// Of few columns of one row per scale.
bool IsMicroscaled(const std::string& storage) {
  return storage == "mxfp4" || storage == "mxfp8" || storage == "nvfp4";
}

const StoredArray* ScaleOf(const Catalogue& catalogue, const StoredArray& array) {
  // Arrays are sorted by name, so that it mostly is the next one.
  const StoredArray* const next = &array + 1;
  if (!catalogue.arrays.empty() && &array >= catalogue.arrays.data() && next <= &catalogue.arrays.back() &&
      array.id.part == Part::kWeight && (next->id.part == Part::kScale || next->id.part == Part::kScaleInv) &&
      next->name.size() > array.name.size() && next->name.starts_with(array.name) &&
      next->name[array.name.size()] == '_')
    return next;
  for (const Part part : {Part::kScale, Part::kScaleInv, Part::kRowScale})
    if (const StoredArray* scale = catalogue.Find(NameOfPart(array.name, part))) return scale;
  return nullptr;
}

// FP8 codes that are not under an exponent for every 32 columns (MXFP8), whatever type they are stored as.
bool IsFp8(const Catalogue& catalogue, const StoredArray& array) {
  if (array.dtype != DType::kF8E4M3 && array.dtype != DType::kU8) return false;
  const bool codes = array.dtype == DType::kF8E4M3;
  const StoredArray* scale = ScaleOf(catalogue, array);
  if (scale == nullptr || !IsScaleType(scale->dtype)) return codes;
  if (!IsExponentType(scale->dtype)) return true;
  if (!codes || array.shape.size() != 2) return false;
  return scale->shape != std::vector<int64_t>{array.shape[0], (array.shape[1] + 31) / 32};
}

// What is stored in the layers, each storage once; FP8 first, then what is microscaled.
// FP8 whose scales are of rows or tensors has a word of its own, since rules speak of blocks.
std::vector<std::string> StoragesOf(const Catalogue& catalogue, const Inventory& inventory, bool (*wanted)(Role)) {
  std::vector<std::string> storages;
  for (const StoredArray& array : catalogue.arrays) {
    if (!HoldsElements(array.id.part) || !wanted(array.id.role)) continue;
    const std::string name = StorageName(catalogue, array);
    if (std::find(storages.begin(), storages.end(), name) == storages.end()) storages.push_back(name);
  }
  const auto rank = [](const std::string& name) { return name == "fp8" ? 0 : IsMicroscaled(name) ? 1 : 2; };
  std::stable_sort(storages.begin(), storages.end(),
                   [&](const std::string& a, const std::string& b) { return rank(a) < rank(b); });
  bool blocks = false, others = false;
  for (const Weight& weight : inventory.weights) {
    if (!wanted(weight.id.role) || !HasBlockGrid(weight.storage)) continue;
    (weight.in_blocks() ? blocks : others) = true;
  }
  if (others && !blocks) std::erase(storages, "fp8");
  if (others) storages.insert(storages.begin() + (blocks ? 1 : 0), "fp8_rows");
  if (storages.empty()) storages.emplace_back("none");
  return storages;
}

// From best to worst: what is true of one layer is true of the checkpoint.
int BadnessOf(const std::string& outcome) {
  constexpr std::array<std::string_view, 6> kOutcomes = {"loads",   "requantizes", "dequantizes",
                                                         "unknown", "refuses",     "wrong"};
  return static_cast<int>(std::find(kOutcomes.begin(), kOutcomes.end(), outcome) - kOutcomes.begin());
}

bool TpFits(const AttentionShape& shape, int64_t tp) {
  return shape.heads % tp == 0 && (shape.kv_heads % tp == 0 || tp % shape.kv_heads == 0);
}

// Split FP8 files under an engine that lays Q, K and V of a rank end to end and counts scale rows from the rank's first
// row: the file must be cut from chunks of one rank, or of one KV head where ranks share heads.
std::string RankGrid(const QkvLayout& layout, const AttentionShape& shape, int64_t tp, int64_t block_rows) {
  const QkvLayout wanted{QkvKind::kSplit, std::min(tp, shape.kv_heads)};
  if (!LayoutFits(layout, shape) || !LayoutFits(wanted, shape) || !TpFits(shape, tp)) return "other";
  if (shape.heads / tp * shape.head_dim % block_rows != 0) return "other";
  const QkvMap stored = BuildQkvMap(layout, shape, block_rows);
  const QkvMap ranks = BuildQkvMap(wanted, shape, block_rows);
  if (stored.bands == ranks.bands && stored.scale_rows == ranks.scale_rows) return "same";
  for (size_t i = 0; i < 3; ++i) {
    if (stored.scale_rows[i] < ranks.scale_rows[i]) return "short";
  }
  return "other";
}

// Whether some rows of a split file take scales of another array, or of a row that is not theirs by counting.
bool SharesScales(const QkvMap& map, int64_t block_rows) {
  return std::any_of(map.bands.begin(), map.bands.end(), [&](const ScaleBand& band) {
    return band.array != band.scale_array || band.row_begin != band.scale_row * block_rows;
  });
}

struct Storages {
  std::string attention, experts, router;
};

Facts FactsOf(const Catalogue& catalogue, const Inventory& inventory, const QkvLayout& layout, int64_t tp,
              const Storages& storages) {
  const ModelConfig& config = catalogue.config;
  const bool microscaled =
      IsMicroscaled(storages.attention) || (IsMicroscaled(storages.experts) && storages.experts != "mxfp4");
  std::string rank_grid = "same";
  bool shared = false;
  for (const AttentionShape& shape : {config.global, config.window}) {
    if (layout.fused()) break;
    const std::string grid = RankGrid(layout, shape, tp, config.block_rows);
    if (grid == "short" || (grid == "other" && rank_grid == "same")) rank_grid = grid;
    shared |=
        LayoutFits(layout, shape) && SharesScales(BuildQkvMap(layout, shape, config.block_rows), config.block_rows);
  }
  return {{"tp", tp},
          {"chunks", layout.chunks},
          {"index_tp_size", catalogue.index.tp_size.value_or(0)},
          {"heads", config.global.heads},
          {"kv_heads", config.global.kv_heads},
          {"swa_kv_heads", config.window.kv_heads},
          {"routed_experts", config.experts},
          {"mtp", inventory.mtp_layers},
          {"qkv", layout.fused() ? "fused" : "split"},
          {"attention", storages.attention},
          {"experts", storages.experts},
          {"router", storages.router},
          {"quant_method", config.quant_method.empty() ? "none" : config.quant_method},
          {"model_type", config.model_type},
          {"microscaled", microscaled ? "yes" : "no"},
          {"tp_fits", TpFits(config.global, tp) && TpFits(config.window, tp) ? "yes" : "no"},
          {"expert_blocks", config.moe_intermediate % (tp * config.block_rows) == 0 ? "whole" : "cut"},
          {"rank_grid", rank_grid},
          {"split_grid", shared ? "shared" : "own"}};
}

std::vector<std::string> StringsOf(const Json& list) {
  return list.get<std::vector<std::string>>();
}

Result<EngineReport> JudgeOne(const Json& entry, const std::vector<Facts>& facts) {
  EngineReport report;
  report.id = entry.at("id");
  report.engine = entry.at("engine");
  report.version = entry.at("version");
  report.sources = StringsOf(entry.at("sources"));
  for (const Facts& at_tp : facts) {
    EngineOutcome outcome{std::get<int64_t>(at_tp.at("tp")), "unknown", ""};
    const bool untried = at_tp.at("attention") == Fact("fp8_rows") && at_tp.at("qkv") == Fact("fused");
    if (untried) outcome.note = "nobody is known to load fused FP8 attention with scales of rows or tensors";
    for (const Json& rule : entry.at("rules")) {
      if (untried) break;
      MIMO_ASSIGN_OR_RETURN(const bool holds, AllHold(StringsOf(rule.at("when")), at_tp));
      if (!holds) continue;
      outcome.outcome = rule.at("outcome");
      outcome.note = rule.at("note");
      break;
    }
    report.outcomes.push_back(std::move(outcome));
  }
  for (const Json& note : entry.at("notes")) {
    MIMO_ASSIGN_OR_RETURN(const bool holds, AllHold(StringsOf(note.at("when")), facts.front()));
    if (holds) report.notes.push_back(note.at("note"));
  }
  return report;
}

// `facts`: of each combination of storages that layers have, at all sizes. The verdict is that of the worst.
Result<EngineReport> Judge(const Json& entry, const std::vector<std::vector<Facts>>& facts) {
  MIMO_ASSIGN_OR_RETURN(EngineReport report, JudgeOne(entry, facts.front()));
  for (size_t i = 1; i < facts.size(); ++i) {
    MIMO_ASSIGN_OR_RETURN(const EngineReport other, JudgeOne(entry, facts[i]));
    for (size_t tp = 0; tp < report.outcomes.size(); ++tp) {
      if (BadnessOf(other.outcomes[tp].outcome) <= BadnessOf(report.outcomes[tp].outcome)) continue;
      report.outcomes[tp] = other.outcomes[tp];
      report.outcomes[tp].note += " (layers with attention in " +
                                  std::get<std::string>(facts[i].front().at("attention")) + ", experts in " +
                                  std::get<std::string>(facts[i].front().at("experts")) + ")";
    }
  }
  return report;
}

}  // namespace

std::string StorageName(const Catalogue& catalogue, const StoredArray& array) {
  const auto scaled_by = [&](DType dtype) {
    const StoredArray* scale = ScaleOf(catalogue, array);
    return scale != nullptr && scale->dtype == dtype;
  };
  if (IsFp8(catalogue, array)) return "fp8";
  if (array.dtype == DType::kF8E4M3) return "mxfp8";
  if (array.dtype == DType::kU8 || array.dtype == DType::kF4) {
    if (scaled_by(DType::kF8E4M3)) return "nvfp4";
    if (IsExpert(array.id.role) || scaled_by(DType::kU8) || scaled_by(DType::kF8E8M0)) return "mxfp4";
  }
  const std::optional<Codec> values = ValueCodecOf(array.dtype);
  return std::string(values ? WordOf(kCodecs, *values) : DTypeName(array.dtype));
}

Facts EngineFacts(const Catalogue& catalogue, const Inventory& inventory, const QkvLayout& layout, int64_t tp) {
  return FactsOf(catalogue, inventory, layout, tp,
                 {StoragesOf(catalogue, inventory, IsAttentionProjection).front(),
                  StoragesOf(catalogue, inventory, IsExpert).front(),
                  StoragesOf(catalogue, inventory, [](Role role) { return role == Role::kRouter; }).front()});
}

Result<std::vector<EngineReport>> JudgeEngines(const Catalogue& catalogue, const Inventory& inventory,
                                               const QkvLayout& layout, const std::vector<int64_t>& tps) {
  std::vector<EngineReport> reports;
  if (tps.empty()) return reports;
  const std::string router = StoragesOf(catalogue, inventory, [](Role role) { return role == Role::kRouter; }).front();
  std::vector<std::vector<Facts>> facts;
  for (const std::string& attention : StoragesOf(catalogue, inventory, IsAttentionProjection))
    for (const std::string& experts : StoragesOf(catalogue, inventory, IsExpert)) {
      facts.emplace_back();
      for (const int64_t tp : tps)
        facts.back().push_back(FactsOf(catalogue, inventory, layout, tp, {attention, experts, router}));
    }
  try {
    MIMO_ASSIGN_OR_RETURN(const Json table, ParseJson<Json>(EmbeddedText(kEngineTable), kEngineTable));
    for (const Json& entry : table.at("engines")) {
      const Json& models = entry.at("models");
      if (std::find(models.begin(), models.end(), catalogue.config.family->name) == models.end()) continue;
      MIMO_ASSIGN_OR_RETURN(EngineReport report, Judge(entry, facts));
      reports.push_back(std::move(report));
    }
  } catch (const Json::exception& problem) {
    return BadInput(std::string("malformed table: ") + problem.what()).File(kEngineTable);
  }
  return reports;
}

}  // namespace mimo
