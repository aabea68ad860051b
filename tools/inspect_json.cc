#include <nlohmann/json.hpp>

#include "lib/json/parse.h"
#include "lib/model/role_groups.h"
#include "lib/plan/words.h"
#include "tools/cli.h"
#include "tools/finding_report.h"
#include "tools/inspect_report.h"

namespace mimo {

using Json = nlohmann::ordered_json;

// The elements of lists: the JSON library finds these by the namespace of their types.
static void to_json(Json& json, const LayoutCandidate& candidate) {
  json = {{"qkv", WordOf(kQkvKinds, candidate.layout.kind)},
          {"chunks", candidate.layout.chunks},
          {"basis", candidate.basis},
          {"evidence", candidate.evidence}};
}

static void to_json(Json& json, const AttentionKind& kind) {
  json = {{"kind", kind.name},
          {"layers", kind.layers},
          {"heads", kind.stored.heads},
          {"kv_heads", kind.stored.kv_heads},
          {"logical_kv_heads", kind.logical_kv_heads},
          {"head_dim", kind.stored.head_dim},
          {"v_head_dim", kind.stored.v_head_dim},
          {"sinks", kind.sinks}};
}

static void to_json(Json& json, const DTypeTotal& total) {
  json = {{"dtype", DTypeName(total.dtype)}, {"tensors", total.tensors}, {"bytes", total.bytes}};
}

static void to_json(Json& json, const RoleTotal& total) {
  json = {{"role", RoleName(total.role)},
          {"mtp", total.mtp},
          {"storage", total.storage},
          {"weights", total.weights},
          {"bytes", total.bytes}};
  if (!total.scales.empty()) json["scales"] = total.scales;
}

static void to_json(Json& json, const LayerRow& row) {
  json = {{"layer", row.layer},
          {"mtp", row.mtp},
          {"attention", row.attention},
          {"mlp", row.mlp},
          {"qkv_storage", row.qkv_storage},
          {"qkv_rows", row.qkv_rows},
          {"qkv_scale_rows", row.qkv_scale_rows},
          {"mlp_storage", row.mlp_storage},
          {"experts", row.experts},
          {"tensors", row.tensors},
          {"bytes", row.bytes}};
}

static void to_json(Json& json, const CarriedFile& file) {
  json = {{"name", file.name}, {"bytes", file.bytes}};
}

static void to_json(Json& json, const EngineOutcome& at) {
  json = {{"tp", at.tp}, {"outcome", at.outcome}, {"note", at.note}};
}

static void to_json(Json& json, const EngineReport& report) {
  json = {{"id", report.id},           {"engine", report.engine},
          {"version", report.version}, {"outcomes", report.outcomes},
          {"notes", report.notes},     {"sources", report.sources}};
}

namespace cli {
namespace {

// Null where the checkpoint says nothing.
Json OrNull(const std::string& text) {
  return text.empty() ? Json(nullptr) : Json(text);
}
template <class Number>
Json OrNull(const std::optional<Number>& number) {
  return number ? Json(*number) : Json(nullptr);
}

Json Named(const std::vector<NamedBytes>& list, const char* counted) {
  Json rows = Json::array();
  for (const NamedBytes& one : list) rows.push_back({{"name", one.name}, {counted, one.files}, {"bytes", one.bytes}});
  return rows;
}

Json LayoutJson(const Description& d, const Error* error) {
  const LayoutVerdict verdict = d.verdict.value_or(LayoutVerdict());
  const bool known = d.verdict && d.qkv_layout != "none";
  const bool independent = verdict.layout.kind == QkvKind::kSplitIndependent;
  const bool contradicted = error != nullptr && error->id == "layout.contradicted";
  return {{"qkv_layout", d.qkv_layout},
          {"qkv_chunks", known ? Json(verdict.layout.chunks) : Json(nullptr)},
          {"qkv_grid", known ? Json(independent ? "independent" : "chunk") : Json(nullptr)},
          {"qkv_basis", d.verdict ? Json(verdict.basis) : Json(nullptr)},
          {"qkv_assumed", verdict.assumed},
          {"qkv_certainty", d.verdict      ? Json(WordOf(kCertainties, verdict.certainty()))
                            : contradicted ? Json(WordOf(kCertainties, Certainty::kContradicted))
                                           : Json(nullptr)},
          {"qkv_evidence", verdict.evidence},
          {"qkv_candidates", d.candidates}};
}

Json TowersJson(const Description& d) {
  Json towers = Json::array();
  for (const RoleTotal& total : d.roles)
    if (IsTower(total.role))
      towers.push_back({{"role", RoleName(total.role)}, {"tensors", total.weights}, {"bytes", total.bytes}});
  return towers;
}

}  // namespace

std::string InspectJson(const std::string& checkpoint, const Description& d, const Error* error) {
  Json out = {{"version", 1},
              {"checkpoint", checkpoint},
              {"form", FormText(d)},
              {"family", d.family},
              {"family_evidence", d.family_evidence},
              {"model_type", d.model_type},
              {"architectures", d.architectures},
              {"layers", d.layers},
              {"mtp_layers", d.mtp_layers},
              {"hidden", d.hidden},
              {"vocab", d.vocab},
              {"experts", d.experts},
              {"tensor_count", d.tensor_count},
              {"payload_bytes", d.payload_bytes},
              {"file_bytes", d.file_bytes},
              {"files", d.files.size()}};
  out.update(LayoutJson(d, error));
  out["attention"] = d.attention;
  out["attention_by_layer"] = d.attention_by_layer;
  out["quantization"] = {{"quant_method", OrNull(d.quant_method)},
                         {"store_dtype", OrNull(d.store_dtype)},
                         {"block", {d.block_rows, d.block_cols}},
                         {"dtypes", d.dtypes},
                         {"roles", d.roles}};
  out["towers"] = TowersJson(d);
  out["index"] = {{"present", d.index.present},
                  {"total_size", OrNull(d.index.total_size)},
                  {"tp_size", OrNull(d.index.tp_size)},
                  {"save_format", OrNull(d.index.save_format)},
                  {"missing_files", d.index.missing_files}};
  out["subdirectories"] = Named(d.subdirectories, "files");
  out["carried"] = d.carried;
  out["file_list"] = Named(d.files, "tensors");
  out["layer_table"] = d.layer_rows;
  out["findings"] = FindingsJson(d.findings);
  out["engines"] = d.engines;
  if (error != nullptr) {
    Result<Json> object = ParseJson<Json>(ErrorJson(*error), "the error", kLongDocument);
    if (object.ok()) out["error"] = std::move(*object);
  }
  return out.dump(2, ' ', false, Json::error_handler_t::replace);
}

}  // namespace cli
}  // namespace mimo
