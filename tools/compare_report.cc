#include "tools/compare_report.h"

#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "lib/base/checked.h"
#include "lib/model/names.h"
#include "tools/print.h"

namespace mimo::cli {

using nlohmann::ordered_json;

namespace {

constexpr size_t kShown = 20;  // differences; all are in the JSON

ordered_json Number(double value) {
  return std::isfinite(value) ? ordered_json(value) : ordered_json(nullptr);
}

ordered_json FiguresJson(const Figures& f) {
  return {{"differing", f.differing},
          {"sqnr_db", Number(SqnrDb(f.sums))},
          {"relative_rms", Number(RelativeRms(f.sums))},
          {"cosine", Number(Cosine(f.sums))},
          {"max_error", Number(f.sums.max_error)},
          {"beyond_half_step", f.beyond},
          {"clipped", f.clipped},
          {"non_finite", f.non_finite},
          {"first", {f.first_row, f.first_col}}};
}

ordered_json DifferenceJson(const CompareReport& report, const CompareDifference& d) {
  ordered_json object = {{"kind", d.kind}, {"place", d.place}, {"evidence", d.evidence}};
  if (!d.tensor) return object;
  const TensorComparison& t = report.tensors[*d.tensor];
  object["role"] = std::string(RoleName(t.id.role));
  object["stored"] = {t.stored_a, t.stored_b};
  object["equality"] = std::string(WordOf(kEqualities, t.equality));
  object["elements"] = t.elements;
  if (t.measured) object["figures"] = FiguresJson(t.figures);
  return object;
}

std::string FiguresText(const TensorComparison& t) {
  if (!t.measured) return "";
  char text[160];
  std::snprintf(text, sizeof text, " (%" PRIu64 " of %" PRIu64 " elements, SQNR %.2f dB, cosine %.6f)",
                t.figures.differing, t.elements, SqnrDb(t.figures.sums), Cosine(t.figures.sums));
  return text;
}

}  // namespace

ordered_json CompareReportJson(const CompareReport& report) {
  ordered_json counts;
  for (const auto& [equality, word] : kEqualities) counts[std::string(word)] = report.CountOf(equality);
  ordered_json differences = ordered_json::array(), measured = ordered_json::array();
  for (const CompareDifference& d : report.differences) differences.push_back(DifferenceJson(report, d));
  for (const TensorComparison& t : report.tensors)
    if (t.accepted && t.measured)
      measured.push_back({{"tensor", t.name},
                          {"stored", {t.stored_a, t.stored_b}},
                          {"equality", std::string(WordOf(kEqualities, t.equality))},
                          {"elements", t.elements},
                          {"figures", FiguresJson(t.figures)}});
  return {{"a", report.a},         {"b", report.b},
          {"same", report.Same()}, {"tensors", report.tensors.size()},
          {"counts", counts},      {"bytes_read", report.bytes_read},
          {"notes", report.notes}, {"differences", differences},
          {"measured", measured}};
}

void PrintCompareReport(const CompareReport& report, const CommonOptions& common) {
  for (size_t i = 0; i < report.differences.size() && i < kShown; ++i) {
    const CompareDifference& d = report.differences[i];
    Print(stdout, "%s: %s%s%s%s\n", d.kind, d.place, d.evidence.empty() ? "" : ": ", d.evidence,
          d.tensor ? FiguresText(report.tensors[*d.tensor]) : "");
  }
  if (report.differences.size() > kShown)
    Print(stdout, "and %zu more; --json has all\n", report.differences.size() - kShown);
  if (common.quiet) return;
  if (common.verbose)
    for (const std::string& note : report.notes) Print(stdout, "note: %s\n", note);
  std::string counts;
  for (const auto& [equality, word] : kEqualities)
    if (const uint64_t count = report.CountOf(equality); count > 0)
      counts += (counts.empty() ? "" : ", ") + std::to_string(count) + " " + std::string(word);
  Print(stdout, "%s: %zu tensors: %s; read %s\n", report.Same() ? "the same model" : "not the same",
        report.tensors.size(), counts, FormatBytes(report.bytes_read));
}

Status ReadThresholds(const std::vector<std::string>& texts, CompareOptions* options) {
  for (const std::string& text : texts) {
    MIMO_ASSIGN_OR_RETURN(Threshold threshold, ParseThreshold(text));
    options->thresholds.push_back(std::move(threshold));
  }
  return {};
}

}  // namespace mimo::cli
