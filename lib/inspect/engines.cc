#include "lib/inspect/engines.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "lib/json/parse.h"
#include "lib/model/role_groups.h"
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

// FP8 wins over what else occurs: one quantized tensor brings in the grids.
std::string StorageOf(const Catalogue& catalogue, bool (*wanted)(Role)) {
  std::string storage = "none";
  for (const StoredArray& array : catalogue.arrays) {
    if (!HoldsElements(array.id.part) || !wanted(array.id.role)) continue;
    const std::string name = StorageName(catalogue, array);
    if (storage == "none" || name == "fp8" || (IsMicroscaled(name) && storage != "fp8")) storage = name;
  }
  return storage;
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

std::vector<std::string> StringsOf(const Json& list) {
  return list.get<std::vector<std::string>>();
}

Result<EngineReport> Judge(const Json& entry, const std::vector<Facts>& facts) {
  EngineReport report;
  report.id = entry.at("id");
  report.engine = entry.at("engine");
  report.version = entry.at("version");
  report.sources = StringsOf(entry.at("sources"));
  for (const Facts& at_tp : facts) {
    EngineOutcome outcome{std::get<int64_t>(at_tp.at("tp")), "unknown", ""};
    for (const Json& rule : entry.at("rules")) {
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

}  // namespace

std::string StorageName(const Catalogue& catalogue, const StoredArray& array) {
  const auto scaled_by = [&](DType dtype) {
    for (Part part : {Part::kScale, Part::kScaleInv}) {
      const StoredArray* scale = catalogue.Find(NameOfPart(array.name, part));
      if (scale != nullptr && scale->dtype == dtype) return true;
    }
    return false;
  };
  if (array.dtype == DType::kF8E4M3) return scaled_by(DType::kU8) || scaled_by(DType::kF8E8M0) ? "mxfp8" : "fp8";
  if (array.dtype == DType::kU8) {
    if (scaled_by(DType::kF8E4M3)) return "nvfp4";
    if (IsExpert(array.id.role) || scaled_by(DType::kU8) || scaled_by(DType::kF8E8M0)) return "mxfp4";
  }
  const std::optional<Codec> values = ValueCodecOf(array.dtype);
  return std::string(values ? WordOf(kCodecs, *values) : DTypeName(array.dtype));
}

Facts EngineFacts(const Catalogue& catalogue, const Inventory& inventory, const QkvLayout& layout, int64_t tp) {
  const ModelConfig& config = catalogue.config;
  const std::string attention = StorageOf(catalogue, IsAttentionProjection), experts = StorageOf(catalogue, IsExpert);
  const bool microscaled = IsMicroscaled(attention) || (IsMicroscaled(experts) && experts != "mxfp4");
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
          {"mtp", inventory.mtp_layers},
          {"qkv", layout.fused() ? "fused" : "split"},
          {"attention", attention},
          {"experts", experts},
          {"router", StorageOf(catalogue, [](Role role) { return role == Role::kRouter; })},
          {"quant_method", config.quant_method.empty() ? "none" : config.quant_method},
          {"model_type", config.model_type},
          {"microscaled", microscaled ? "yes" : "no"},
          {"tp_fits", TpFits(config.global, tp) && TpFits(config.window, tp) ? "yes" : "no"},
          {"expert_blocks", config.moe_intermediate % (tp * config.block_rows) == 0 ? "whole" : "cut"},
          {"rank_grid", rank_grid},
          {"split_grid", shared ? "shared" : "own"}};
}

Result<std::vector<EngineReport>> JudgeEngines(const Catalogue& catalogue, const Inventory& inventory,
                                               const QkvLayout& layout, const std::vector<int64_t>& tps) {
  std::vector<EngineReport> reports;
  std::vector<Facts> facts;
  for (int64_t tp : tps) facts.push_back(EngineFacts(catalogue, inventory, layout, tp));
  if (facts.empty()) return reports;
  try {
    MIMO_ASSIGN_OR_RETURN(const Json table, ParseJson<Json>(EmbeddedText(kEngineTable), kEngineTable));
    for (const Json& entry : table.at("engines")) {
      MIMO_ASSIGN_OR_RETURN(EngineReport report, Judge(entry, facts));
      reports.push_back(std::move(report));
    }
  } catch (const Json::exception& problem) {
    return BadInput(std::string("malformed table: ") + problem.what()).File(kEngineTable);
  }
  return reports;
}

}  // namespace mimo
