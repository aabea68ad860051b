// mimo-verify mtp CKPT: whether the MTP layers of a checkpoint are whole and as announced, what engines do with them,
// and how to repair them.
#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "lib/base/checked.h"
#include "lib/verify/mtp.h"
#include "tools/cli.h"
#include "tools/finding_report.h"
#include "tools/print.h"
#include "tools/verify_command.h"

namespace mimo {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kMtpExamples[] =
    "Reads headers, config.json and the index, also where the checkpoint does not open: seconds, whatever the size.\n"
    "Examples:\n"
    "  mimo-verify mtp CKPT                         before speculative decoding, after an export\n"
    "  mimo-verify mtp EXPORT --like CKPT           the repair command with its reference\n"
    "  mimo-verify mtp RUN --like CKPT              what Megatron saved, without a config.json\n"
    "  mimo-verify mtp OUT --json --quiet           in CI\n"
    "Exit codes: 0 complete and as announced (where config.json is silent: as in the releases), 1 not, 2 usage,\n"
    "3 not readable as a checkpoint, 4 I/O.";

struct MtpArguments {
  cli::CommonOptions& common;
  std::string checkpoint = {};
  MtpOptions options = {};
};

std::string AttentionText(const MtpLayerReport& layer) {
  static constexpr Words<Storage, 5> kStorages{{{Storage::kPlain, "unquantized"},
                                                {Storage::kFp8Block, "fp8"},
                                                {Storage::kMxfp4, "mxfp4"},
                                                {Storage::kMxfp8, "mxfp8"},
                                                {Storage::kNvfp4, "nvfp4"}}};
  return std::string(WordOf(kStorages, layer.attention));
}

Json LayerJson(const MtpLayerReport& layer) {
  Json problems = Json::array();
  for (const MtpProblem& problem : layer.problems)
    problems.push_back({{"kind", WordOf(kMtpProblems, problem.kind)},
                        {"tensor", problem.tensor},
                        {"expected", problem.expected},
                        {"found", problem.found}});
  return {{"number", layer.number},
          {"name", layer.name},
          {"convention", layer.convention},
          {"whole", layer.whole},
          {"tensors", layer.tensors},
          {"bytes", layer.bytes},
          {"files", layer.files},
          {"listed", WordOf(kMtpListed, layer.listed)},
          {"qkv", layer.fused ? "fused" : "split"},
          {"attention", AttentionText(layer)},
          {"quantized", layer.quantized},
          {"unknown", layer.unknown},
          {"problems", problems}};
}

Json DocumentOf(const MtpReport& report) {
  Json layers = Json::array(), engines = Json::array(), repairs = Json::array();
  for (const MtpLayerReport& layer : report.layers) layers.push_back(LayerJson(layer));
  for (const MtpEngine& engine : report.engines)
    engines.push_back({{"id", engine.id},
                       {"engine", engine.engine},
                       {"version", engine.version},
                       {"outcome", engine.outcome},
                       {"note", engine.note},
                       {"sources", engine.sources}});
  for (const MtpRepair& repair : report.repairs)
    repairs.push_back({{"command", repair.command}, {"does", repair.does}});
  return {{"complete", report.ok()},
          {"form", WordOf(kForms, report.form)},
          {"announced", report.announced ? Json(*report.announced) : Json()},
          {"released", report.released},
          {"wanted", report.wanted},
          {"whole", report.whole},
          {"layers", layers},
          {"engines", engines},
          {"findings", cli::FindingsJson(report.findings)},
          {"repairs", repairs}};
}

// "complete: 3 of 3 layers whole; config.json announces 3".
std::string VerdictText(const MtpReport& report) {
  std::string text = report.ok() ? "complete: " : "not complete: ";
  text += std::to_string(report.whole) + " of " + std::to_string(report.wanted) + " MTP layers whole; config.json ";
  text += report.announced ? "announces " + std::to_string(*report.announced)
                           : "is silent, releases have " + std::to_string(report.released);
  return report.form == FormKind::kHf ? text : text + "; form " + std::string(WordOf(kForms, report.form));
}

std::string ListedText(MtpListed listed) {
  switch (listed) {
    case MtpListed::kAll:
      return ", in the index";
    case MtpListed::kSome:
      return ", in part in the index";
    case MtpListed::kUnnamed:
      return ", NOT in the index";
    case MtpListed::kNoIndex:
      return "";
  }
  return "";
}

std::string LayerText(const MtpLayerReport& layer) {
  std::string text = layer.name + ": " + (layer.whole ? "whole" : "BROKEN") + ", " + std::to_string(layer.tensors) +
                     " tensors, " + FormatBytes(layer.bytes) + ", " + (layer.fused ? "fused" : "split") + " QKV " +
                     AttentionText(layer) + ", o_proj and eh_proj " +
                     (layer.quantized.empty() ? "unquantized" : "QUANTIZED");
  if (!layer.files.empty()) text += ", in " + Examples(layer.files);
  return text + ListedText(layer.listed);
}

void PrintReport(const MtpArguments& a, const MtpReport& report) {
  std::string text = a.checkpoint + ": " + VerdictText(report) + "\n";
  const auto row = [&](std::string_view label, const std::string& line) {
    text += std::string(label) + std::string(label.size() < 10 ? 10 - label.size() : 1, ' ') + line + "\n";
  };
  for (const MtpLayerReport& layer : report.layers) row("layer", LayerText(layer));
  size_t widest = 0;
  for (const MtpEngine& engine : report.engines)
    widest = std::max(widest, engine.engine.size() + engine.version.size() + 1);
  for (const MtpEngine& engine : report.engines) {
    const std::string name = engine.engine + " " + engine.version;
    row("engine", name + std::string(widest - name.size() + 2, ' ') + engine.outcome +
                      (engine.note.empty() ? "" : ": " + engine.note));
  }
  for (const Finding& finding : report.findings.findings())
    if (finding.severity != Severity::kNote || a.common.verbose)
      row(WordOf(kSeverities, finding.severity), finding.id + ": " + finding.place + ": " + finding.evidence);
  for (const MtpRepair& repair : report.repairs) {
    row("repair", repair.command);
    row("", repair.does);
  }
  cli::PrintLines(text);
}

int VerifyMtpCommand(MtpArguments& a) {
  const Result<MtpReport> result = VerifyMtp(PosixFileSystem(), a.checkpoint, a.options);
  if (!result.ok()) return cli::PrintError(kVerifyName, result.error(), a.common.json);
  const MtpReport& report = result.value();
  if (a.common.json) {
    cli::PrintJson(cli::JsonText(DocumentOf(report)));
  } else if (!a.common.quiet) {
    PrintReport(a, report);
  }
  return report.ok() ? 0 : cli::ExitCode(ErrorCode::kCheckFailed);
}

class MtpCommand final : public VerifyCommand {
 public:
  explicit MtpCommand(cli::CommonOptions& common) : arguments_{common} {}

  CLI::App* Add(CLI::App& app) override {
    CLI::App* mtp = app.add_subcommand(
        "mtp", "MTP layers: which there are, whole or not, as announced or not, for which engines; how to repair them");
    mtp->add_option("CKPT", arguments_.checkpoint, "a checkpoint of any form, whole or not")->required();
    mtp->add_option("--like", arguments_.options.reference,
                    "REF: a checkpoint that has the layers; stands in the repair command, and lends a training "
                    "checkpoint without config.json its own");
    cli::AddCommonOptions(*mtp, arguments_.common, kMtpExamples);
    return mtp;
  }
  int Run() override { return VerifyMtpCommand(arguments_); }

 private:
  MtpArguments arguments_;
};

}  // namespace

std::unique_ptr<VerifyCommand> MakeMtpCommand(cli::CommonOptions& common) {
  return std::make_unique<MtpCommand>(common);
}

}  // namespace mimo
