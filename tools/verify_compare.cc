// mimo-verify compare A B: whether two checkpoints are the same model, whatever form and codec each is in.
#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "lib/base/checked.h"
#include "lib/model/names.h"
#include "lib/verify/compare/compare.h"
#include "tools/cli.h"
#include "tools/print.h"
#include "tools/verify_command.h"

namespace mimo {
namespace {

using nlohmann::ordered_json;

constexpr size_t kShown = 20;  // differences; all are in the JSON
constexpr char kExamples[] =
    "Examples:\n"
    "  mimo-verify compare MiMo-V2.5 MiMo-V2.5-BF16               decoded, split, resharded: the same model?\n"
    "  mimo-verify compare MiMo-V2.5 OUT-NVFP4 --within-codec     every value is what rounding may make of it\n"
    "  mimo-verify compare A B --min-sqnr experts=19 --json       in CI\n"
    "Exit codes: 0 equal or within what was asked, 1 different, 2 usage, 3 not readable as checkpoints, 4 I/O.";

struct Arguments {
  cli::CommonOptions& common;
  std::string a = {}, b = {};
  std::optional<QkvWish> source_a = {}, source_b = {};
  std::vector<std::string> min_sqnr = {};
  CompareOptions options = {};
};

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

ordered_json ReportJson(const CompareReport& report) {
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

std::string FiguresText(const TensorComparison& t) {
  if (!t.measured) return "";
  char text[160];
  std::snprintf(text, sizeof text, " (%" PRIu64 " of %" PRIu64 " elements, SQNR %.2f dB, cosine %.6f)",
                t.figures.differing, t.elements, SqnrDb(t.figures.sums), Cosine(t.figures.sums));
  return text;
}

void PrintReport(const CompareReport& report, const cli::CommonOptions& common) {
  for (size_t i = 0; i < report.differences.size() && i < kShown; ++i) {
    const CompareDifference& d = report.differences[i];
    cli::Print(stdout, "%s: %s%s%s%s\n", d.kind, d.place, d.evidence.empty() ? "" : ": ", d.evidence,
               d.tensor ? FiguresText(report.tensors[*d.tensor]) : "");
  }
  if (report.differences.size() > kShown)
    cli::Print(stdout, "and %zu more; --json has all\n", report.differences.size() - kShown);
  if (common.quiet) return;
  if (common.verbose)
    for (const std::string& note : report.notes) cli::Print(stdout, "note: %s\n", note);
  std::string counts;
  for (const auto& [equality, word] : kEqualities)
    if (const uint64_t count = report.CountOf(equality); count > 0)
      counts += (counts.empty() ? "" : ", ") + std::to_string(count) + " " + std::string(word);
  cli::Print(stdout, "%s: %zu tensors: %s; read %s\n", report.Same() ? "the same model" : "not the same",
             report.tensors.size(), counts, FormatBytes(report.bytes_read));
}

int Compare(Arguments& a) {
  for (const std::string& text : a.min_sqnr) {
    Result<Threshold> threshold = ParseThreshold(text);
    if (!threshold.ok()) return cli::PrintError(kVerifyName, threshold.error(), a.common.json);
    a.options.thresholds.push_back(std::move(threshold).value());
  }
  FileSystem& fs = PosixFileSystem();
  // Of a training checkpoint without a config that of the other is taken.
  const auto of_a = LogicalCheckpoint::Open(
      fs, a.a, {.source_qkv = a.source_a, .gate_up = {}, .allow_anomalies = true, .like = nullptr, .like_root = a.b});
  if (!of_a.ok()) return cli::PrintError(kVerifyName, of_a.error(), a.common.json);
  const auto of_b = LogicalCheckpoint::Open(
      fs, a.b, {.source_qkv = a.source_b, .gate_up = {}, .allow_anomalies = true, .like = nullptr, .like_root = a.a});
  if (!of_b.ok()) return cli::PrintError(kVerifyName, of_b.error(), a.common.json);
  const std::unique_ptr<ProgressObserver> progress = cli::MakeProgress(a.common);
  a.options.progress = progress.get();
  const Result<CompareReport> report = Compare(*of_a.value(), *of_b.value(), a.options);
  if (!report.ok()) return cli::PrintError(kVerifyName, report.error(), a.common.json);
  if (a.common.json)
    cli::PrintJson(cli::JsonText(ReportJson(report.value())));
  else
    PrintReport(report.value(), a.common);
  return report.value().Same() ? 0 : cli::ExitCode(ErrorCode::kCheckFailed);
}

class CompareCommand final : public VerifyCommand {
 public:
  explicit CompareCommand(cli::CommonOptions& common) : arguments_{common} {}

  CLI::App* Add(CLI::App& app) override {
    Arguments& a = arguments_;
    CLI::App* compare =
        app.add_subcommand("compare", "whether two checkpoints are the same model, in whatever form and codec");
    compare->add_option("A", a.a, "a checkpoint of any form")->required();
    compare->add_option("B", a.b, "the one to be held against it")->required();
    compare->add_flag("--within-codec", a.options.within_codec,
                      "values may be half a step of the coarser side's codec apart");
    compare->add_option("--min-sqnr", a.min_sqnr,
                        "ROLE=dB: tensors of this role may differ with this SQNR or more; again for others");
    compare->add_option("--include", a.options.include, "only tensors whose name has this (RE2)");
    compare->add_option("--exclude", a.options.exclude, "but these (RE2)");
    compare->add_option("--threads", a.options.threads, "threads (default: one per CPU that it may use)")
        ->check(CLI::Range(0, 4096));
    cli::AddSize(*compare, "--memory", a.options.memory_bytes, "rows in flight (default: min(8 GiB, a quarter))");
    cli::AddCommonOptions(*compare, a.common, kExamples);
    return compare;
  }
  int Run() override { return Compare(arguments_); }

 private:
  Arguments arguments_;
};

}  // namespace

std::unique_ptr<VerifyCommand> MakeCompareCommand(cli::CommonOptions& common) {
  return std::make_unique<CompareCommand>(common);
}

}  // namespace mimo
