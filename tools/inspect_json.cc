#include <nlohmann/json.hpp>

#include "lib/plan/words.h"
#include "tools/cli.h"
#include "tools/inspect_report.h"

namespace mimo::cli {
namespace {

using Json = nlohmann::ordered_json;

Json LayoutJson(const Description& d) {
  Json out;
  out["qkv_layout"] = d.qkv_layout;
  const LayoutVerdict* verdict = d.verdict ? &*d.verdict : nullptr;
  const bool known = verdict != nullptr && d.qkv_layout != "none";
  out["qkv_chunks"] = known ? Json(verdict->layout.chunks) : Json(nullptr);
  out["qkv_grid"] =
      known ? Json(verdict->layout.kind == QkvKind::kSplitIndependent ? "independent" : "chunk") : Json(nullptr);
  out["qkv_basis"] = verdict != nullptr ? Json(verdict->basis) : Json(nullptr);
  out["qkv_assumed"] = verdict != nullptr && verdict->assumed;
  out["qkv_evidence"] = verdict != nullptr ? Json(verdict->evidence) : Json::array();
  out["qkv_candidates"] = Json::array();
  for (const LayoutCandidate& candidate : d.candidates) {
    out["qkv_candidates"].push_back({{"qkv", WordOf(kQkvKinds, candidate.layout.kind)},
                                     {"chunks", candidate.layout.chunks},
                                     {"basis", candidate.basis},
                                     {"evidence", candidate.evidence}});
  }
  return out;
}

Json AttentionJson(const Description& d) {
  Json kinds = Json::array();
  for (const AttentionKind& kind : d.attention) {
    kinds.push_back({{"kind", kind.name},
                     {"layers", kind.layers},
                     {"heads", kind.stored.heads},
                     {"kv_heads", kind.stored.kv_heads},
                     {"logical_kv_heads", kind.logical_kv_heads},
                     {"head_dim", kind.stored.head_dim},
                     {"v_head_dim", kind.stored.v_head_dim},
                     {"sinks", kind.sinks}});
  }
  return kinds;
}

Json QuantizationJson(const Description& d) {
  Json out;
  out["quant_method"] = d.quant_method.empty() ? Json(nullptr) : Json(d.quant_method);
  out["store_dtype"] = d.store_dtype.empty() ? Json(nullptr) : Json(d.store_dtype);
  out["block"] = {d.block_rows, d.block_cols};
  out["dtypes"] = Json::array();
  for (const DTypeTotal& total : d.dtypes) {
    out["dtypes"].push_back({{"dtype", DTypeName(total.dtype)}, {"tensors", total.tensors}, {"bytes", total.bytes}});
  }
  out["roles"] = Json::array();
  for (const RoleTotal& total : d.roles) {
    out["roles"].push_back({{"role", RoleName(total.role)},
                            {"mtp", total.mtp},
                            {"storage", total.storage},
                            {"weights", total.weights},
                            {"bytes", total.bytes}});
  }
  return out;
}

Json LayersJson(const Description& d) {
  Json rows = Json::array();
  for (const LayerRow& row : d.layer_rows) {
    rows.push_back({{"layer", row.layer},
                    {"mtp", row.mtp},
                    {"attention", row.attention},
                    {"mlp", row.mlp},
                    {"qkv_storage", row.qkv_storage},
                    {"qkv_rows", row.qkv_rows},
                    {"qkv_scale_rows", row.qkv_scale_rows},
                    {"mlp_storage", row.mlp_storage},
                    {"experts", row.experts},
                    {"tensors", row.tensors},
                    {"bytes", row.bytes}});
  }
  return rows;
}

Json TowersJson(const Description& d) {
  Json towers = Json::array();
  for (const RoleTotal& total : d.roles) {
    if (total.role != Role::kVision && total.role != Role::kAudio && total.role != Role::kSpeech) continue;
    towers.push_back({{"role", RoleName(total.role)}, {"tensors", total.weights}, {"bytes", total.bytes}});
  }
  return towers;
}

Json IndexJson(const IndexInfo& index) {
  Json out;
  out["present"] = index.present;
  out["total_size"] = index.total_size ? Json(*index.total_size) : Json(nullptr);
  out["tp_size"] = index.tp_size ? Json(*index.tp_size) : Json(nullptr);
  out["save_format"] = index.save_format.empty() ? Json(nullptr) : Json(index.save_format);
  out["missing_files"] = index.missing_files;
  return out;
}

Json EnginesJson(const Description& d) {
  Json engines = Json::array();
  for (const EngineReport& report : d.engines) {
    Json outcomes = Json::array();
    for (const EngineOutcome& at : report.outcomes) {
      outcomes.push_back({{"tp", at.tp}, {"outcome", at.outcome}, {"note", at.note}});
    }
    engines.push_back({{"id", report.id},
                       {"engine", report.engine},
                       {"version", report.version},
                       {"outcomes", std::move(outcomes)},
                       {"notes", report.notes},
                       {"sources", report.sources}});
  }
  return engines;
}

}  // namespace

std::string InspectJson(const std::string& checkpoint, const Description& d, const Error* error) {
  Json out;
  out["version"] = 1;
  out["checkpoint"] = checkpoint;
  out["form"] = FormText(d);
  out["family"] = d.family;
  out["family_evidence"] = d.family_evidence;
  out["model_type"] = d.model_type;
  out["architectures"] = d.architectures;
  out["layers"] = d.layers;
  out["mtp_layers"] = d.mtp_layers;
  out["hidden"] = d.hidden;
  out["vocab"] = d.vocab;
  out["experts"] = d.experts;
  out["tensor_count"] = d.tensor_count;
  out["payload_bytes"] = d.payload_bytes;
  out["file_bytes"] = d.file_bytes;
  out["files"] = d.files.size();
  out.update(LayoutJson(d));
  out["attention"] = AttentionJson(d);
  out["attention_by_layer"] = d.attention_by_layer;
  out["quantization"] = QuantizationJson(d);
  out["towers"] = TowersJson(d);
  out["index"] = IndexJson(d.index);
  out["subdirectories"] = Json::array();
  for (const NamedBytes& directory : d.subdirectories) {
    out["subdirectories"].push_back({{"name", directory.name}, {"files", directory.files}, {"bytes", directory.bytes}});
  }
  out["carried"] = Json::array();
  for (const CarriedFile& file : d.carried) out["carried"].push_back({{"name", file.name}, {"bytes", file.bytes}});
  out["file_list"] = Json::array();
  for (const NamedBytes& file : d.files) {
    out["file_list"].push_back({{"name", file.name}, {"tensors", file.files}, {"bytes", file.bytes}});
  }
  out["layer_table"] = LayersJson(d);
  out["oddities"] = d.oddities;
  out["engines"] = EnginesJson(d);
  if (error != nullptr) out["error"] = Json::parse(ErrorJson(*error));
  return out.dump(2, ' ', false, Json::error_handler_t::replace);
}

}  // namespace mimo::cli
