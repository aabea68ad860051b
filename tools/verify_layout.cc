// mimo-verify layout CKPT: which layout the attention projections have, from the data, and whether what is declared is
// that.
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "lib/verify/layout.h"
#include "tools/cli.h"
#include "tools/print.h"
#include "tools/verify_command.h"

namespace mimo {
namespace {

constexpr char kLayoutExamples[] =
    "Examples:\n"
    "  mimo-verify layout CKPT                                 the layout, proven from some layers of each kind\n"
    "  mimo-verify layout DOWNLOAD --all --json                every attention layer, for a script\n"
    "  mimo-verify layout DOWNLOAD --source-qkv fused:4        is it that?\n"
    "Exit codes: 0 proven, 1 contradicted (by config.json, the index, our marker or --source-qkv), 2 usage,\n"
    "3 undecided or no checkpoint, 4 I/O.";

struct LayoutArguments {
  cli::CommonOptions& common;
  std::string directory = {};
  LayoutOptions options = {};
};

int ExitOf(const LayoutReport& report) {
  switch (report.verdict) {
    case Standing::kProven:
      return 0;
    case Standing::kContradicted:
      return cli::ExitCode(ErrorCode::kCheckFailed);
    case Standing::kUndecided:
      break;
  }
  return cli::ExitCode(ErrorCode::kBadInput);
}

nlohmann::ordered_json LayoutJson(const LayoutReport& report) {
  using nlohmann::ordered_json;
  ordered_json stated = ordered_json::array(), candidates = ordered_json::array();
  for (const LayoutStatement& s : report.stated)
    stated.push_back(
        {{"by", s.by}, {"layout", s.layout}, {"agrees", s.agrees ? ordered_json(*s.agrees) : ordered_json(nullptr)}});
  for (const Tried& tried : report.tried) {
    ordered_json same = ordered_json::array(), evidence = ordered_json::array();
    for (const TestedLayout& other : tried.candidate.same) same.push_back(other.ToString());
    for (const TrialEvidence& e : tried.evidence)
      evidence.push_back({{"test", WordOf(kTrialTests, e.test)}, {"says", WordOf(kSays, e.says)}, {"text", e.text}});
    candidates.push_back({{"layout", tried.candidate.tested.ToString()},
                          {"same_as", same},
                          {"verdict", WordOf(kStandings, tried.standing)},
                          {"evidence", evidence}});
  }
  return {{"verdict", WordOf(kStandings, report.verdict)},
          {"layout", report.layout.empty() ? ordered_json(nullptr) : ordered_json(report.layout)},
          {"basis", report.by_form ? "form" : "data"},
          {"reason", report.reason},
          {"declared", stated},
          {"candidates", candidates},
          {"attention_layers", report.attention_layers},
          {"layers_read", report.read}};
}

// The verdict, what is declared, then a line of each candidate with its evidence below.
std::string Text(const LayoutArguments& a, const LayoutReport& report) {
  const std::string verdict(WordOf(kStandings, report.verdict));
  std::string text = a.directory + ": " + verdict + (report.verdict == Standing::kProven ? ": " + report.layout : "") +
                     ": " + report.reason + "\n";
  for (const LayoutStatement& s : report.stated)
    text += "  " + s.by + ": " + s.layout + ": " +
            (!s.agrees   ? "the data does not tell"
             : *s.agrees ? "agrees"
                         : "contradicted") +
            "\n";
  if (report.by_form) return text;
  text += "  looked at " + std::to_string(report.read.size()) + " of " + std::to_string(report.attention_layers) +
          " attention layers\n";
  size_t width = 0;
  std::vector<std::string> names;
  for (const Tried& tried : report.tried) {
    std::string name = tried.candidate.tested.ToString();
    for (const TestedLayout& other : tried.candidate.same) name += " = " + other.ToString();
    width = std::max(width, name.size());
    names.push_back(std::move(name));
  }
  for (size_t i = 0; i < names.size(); ++i) {
    const Tried& tried = report.tried[i];
    std::string lead = "  " + names[i] + std::string(width - names[i].size() + 2, ' ');
    std::string standing(WordOf(kStandings, tried.standing));
    standing.resize(14, ' ');
    lead += standing;
    for (const TrialEvidence& e : tried.evidence) {
      text += lead + std::string(WordOf(kTrialTests, e.test)) +
              (e.says == Says::kNothing ? "" : " (" + std::string(WordOf(kSays, e.says)) + ")") + ": " + e.text + "\n";
      lead.assign(lead.size(), ' ');
    }
  }
  return text;
}

int Layout(const LayoutArguments& a) {
  const Result<LayoutReport> report = ProveLayout(PosixFileSystem(), a.directory, a.options);
  if (!report.ok()) return cli::PrintError(kVerifyName, report.error(), a.common.json);
  if (a.common.json)
    cli::PrintJson(cli::JsonText(LayoutJson(report.value())));
  else if (!a.common.quiet)
    cli::PrintLines(Text(a, report.value()));
  return ExitOf(report.value());
}

class LayoutCommand final : public VerifyCommand {
 public:
  explicit LayoutCommand(cli::CommonOptions& common) : arguments_{common} {}

  CLI::App* Add(CLI::App& app) override {
    CLI::App* layout = app.add_subcommand(
        "layout", "which layout the attention projections have, from the data, against what is declared");
    layout->add_option("CKPT", arguments_.directory, "a checkpoint of any form")->required();
    cli::AddSourceQkv(*layout, arguments_.options.source_qkv, "layout")
        ->description("split|independent|fused:C: a layout to hold against the data, as if it were declared");
    layout->add_flag("--all", arguments_.options.all,
                     "read every attention layer; else the first and the last of each kind");
    layout->add_option("--threads", arguments_.options.threads, "threads (default: one per CPU that it may use)")
        ->check(CLI::Range(0, 4096));
    cli::AddCommonOptions(*layout, arguments_.common, kLayoutExamples);
    return layout;
  }
  int Run() override { return Layout(arguments_); }

 private:
  LayoutArguments arguments_;
};

}  // namespace

std::unique_ptr<VerifyCommand> MakeLayoutCommand(cli::CommonOptions& common) {
  return std::make_unique<LayoutCommand>(common);
}

}  // namespace mimo
