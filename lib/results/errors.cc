#include "lib/results/errors.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <map>

#include "lib/model/role_groups.h"
#include "lib/recipe/encoding_text.h"
#include "lib/results/result_json.h"

namespace mimo {
namespace {

using kernels::ErrorSums;

constexpr char kRoleWords[] = "a role (expert.down, attn.q ...), or experts, attention, dense, mtp, all";

// Sums of several tensors, and the spread of their SQNR.
struct Aggregate {
  ErrorSums sums;
  std::vector<double> sqnr;
  void Add(const ErrorSums& tensor) {
    sums += tensor;
    sqnr.push_back(SqnrDb(tensor));
  }
};

using Named = std::pair<const std::string, Aggregate>;

void AppendAggregate(std::string& out, const char* key, const Named& named) {
  std::vector<double> sqnr = named.second.sqnr;
  std::sort(sqnr.begin(), sqnr.end());
  JsonObject object(out);
  object.String(key, named.first);
  object.Number("tensors", sqnr.size());
  AppendDouble(object.Key("min_sqnr_db"), sqnr.front());
  AppendDouble(object.Key("median_sqnr_db"), sqnr[(sqnr.size() - 1) / 2]);
  AddError(object, named.second.sums);
}

std::string LayerOf(const TensorId& id) {
  if (id.layer < 0) return "";
  return std::string(id.mtp ? "model.mtp.layers." : "model.layers.") + std::to_string(id.layer);
}

}  // namespace

double SqnrDb(const ErrorSums& sums) {
  if (sums.error == 0) return std::numeric_limits<double>::infinity();
  return 10 * std::log10(sums.source / sums.error);
}

double RelativeRms(const ErrorSums& sums) {
  return sums.error == 0 ? 0 : std::sqrt(sums.error / sums.source);
}

double MaxErrorByAmax(const ErrorSums& sums) {
  return sums.max_error == 0 ? 0 : sums.max_error / sums.amax;
}

double Cosine(const ErrorSums& sums) {
  if (sums.error == 0) return 1;
  return sums.product / (std::sqrt(sums.source) * std::sqrt(sums.target));
}

Result<Threshold> ParseThreshold(const std::string& text) {
  const size_t equals = text.find('=');
  Threshold threshold;
  const char* number = text.c_str() + (equals == std::string::npos ? text.size() : equals + 1);
  char* end = nullptr;
  threshold.min_sqnr_db = std::strtod(number, &end);
  threshold.role = text.substr(0, equals);
  const bool known = RoleFromName(threshold.role).has_value() || threshold.role == "experts" ||
                     threshold.role == "attention" || threshold.role == "dense" || threshold.role == "mtp" ||
                     threshold.role == "all";
  if (end == number || *end != '\0' || !std::isfinite(threshold.min_sqnr_db) || !known)
    return UsageError("--min-sqnr is not ROLE=dB").Expected(kRoleWords).Found(text);
  return threshold;
}

bool InRole(const TensorId& id, std::string_view role) {
  if (role == "all") return true;
  if (role == "mtp") return id.mtp;
  if (role == "experts") return IsExpert(id.role);
  if (role == "attention") return IsAttentionProjection(id.role);
  if (role == "dense") return IsDenseMlp(id.role);
  return RoleName(id.role) == role;
}

Status CheckThresholds(const Plan& plan, const std::vector<Threshold>& thresholds) {
  for (const Threshold& threshold : thresholds) {
    const bool speaks = std::any_of(plan.outputs.begin(), plan.outputs.end(), [&](const OutputArray& output) {
      return output.transform == Transform::kEncode && InRole(output.id, threshold.role);
    });
    if (!speaks)
      return UsageError("--min-sqnr speaks of no weight that this conversion quantizes")
          .Expected(kRoleWords)
          .Found(threshold.role);
  }
  return {};
}

std::vector<std::string> Rejections(const Plan& plan, const RunResults& results,
                                    const std::vector<Threshold>& thresholds) {
  std::vector<std::string> rejections;
  for (size_t i = 0; i < plan.outputs.size(); ++i) {
    const OutputArray& output = plan.outputs[i];
    if (output.transform != Transform::kEncode || !results.tensors[i].error) continue;
    const double sqnr = SqnrDb(*results.tensors[i].error);
    for (const Threshold& threshold : thresholds) {
      // Written so that a NaN fails.
      if (!InRole(output.id, threshold.role) || sqnr >= threshold.min_sqnr_db) continue;
      char text[96];
      std::snprintf(text, sizeof text, ": SQNR %.2f dB, below %s=%g dB", sqnr, threshold.role.c_str(),
                    threshold.min_sqnr_db);
      rejections.push_back(output.name + text);
    }
  }
  return rejections;
}

std::string ErrorReportJson(const Plan& plan, const RunResults& results) {
  std::map<std::string, Aggregate> roles, layers;
  std::map<uint32_t, const kernels::Encoding*> encodings;
  for (const FuseGroup& group : plan.groups)
    for (const EncodedWeight& weight : group.encoded) encodings[weight.codes] = &weight.encoding;
  std::string text = "{\n\"format\":\"mimo-error-report\",\n\"version\":1,\n\"accepted\":";
  text += results.rejections.empty() ? "true" : "false";
  const auto add = [&](const char* key, const auto& values, auto append, const char* line = "\n") {
    JsonList list(text += std::string(",\n\"") + key + "\":", line);
    for (const auto& value : values) append(list.Next(), value);
  };
  add("thresholds", results.thresholds, AppendThreshold, "");
  add("rejections", results.rejections, AppendJsonString);
  JsonList tensors(text += ",\n\"tensors\":", "\n");
  for (uint32_t i = 0; i < plan.outputs.size(); ++i) {
    const OutputArray& output = plan.outputs[i];
    const TensorResult& result = results.tensors[i];
    if (output.transform != Transform::kEncode || !result.error) continue;
    roles[std::string(output.id.mtp ? "mtp " : "") + std::string(RoleName(output.id.role))].Add(*result.error);
    if (const std::string layer = LayerOf(output.id); !layer.empty()) layers[layer].Add(*result.error);
    JsonObject object(tensors.Next());
    object.String("name", output.name);
    object.String("role", RoleName(output.id.role));
    object.String("encoding", EncodingText(*encodings.at(i)));
    object.Number("blocks", result.counts.encoded_blocks);
    object.Number("exact_blocks", result.counts.exact_blocks);
    object.Number("kept_blocks", result.counts.kept_blocks);
    AddError(object, *result.error);
  }
  tensors.Close();
  add("roles", roles, [](std::string& out, const auto& role) { AppendAggregate(out, "role", role); });
  add("layers", layers, [](std::string& out, const auto& layer) { AppendAggregate(out, "layer", layer); });
  return text + "\n}\n";
}

}  // namespace mimo
