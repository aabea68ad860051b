// mimo-convert CKPT OUT: plan and run a conversion.
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "lib/base/checked.h"
#include "lib/base/real_path.h"
#include "lib/base/requested_file.h"
#include "lib/forms/registry/open_checkpoint.h"
#include "lib/json/parse.h"
#include "lib/judge/copies.h"
#include "lib/judge/health.h"
#include "lib/judge/judge.h"
#include "lib/model/family.h"
#include "lib/model/file_names.h"
#include "lib/plan/plan_json.h"
#include "lib/plan/summary.h"
#include "lib/plan/words.h"
#include "lib/planner/planner.h"
#include "lib/run/executor.h"
#include "lib/run/source_guard.h"
#include "lib/verify/logical/output_hasher.h"
#include "tools/asked.h"
#include "tools/batch_job.h"
#include "tools/bench_command.h"
#include "tools/cli.h"
#include "tools/finding_report.h"
#include "tools/forecast_report.h"
#include "tools/like.h"
#include "tools/part_flags.h"
#include "tools/plan_flags.h"
#include "tools/plan_report.h"
#include "tools/print.h"
#include "tools/run_flags.h"
#include "tools/run_report.h"

namespace mimo {
namespace {

using nlohmann::ordered_json;

constexpr char kName[] = "mimo-convert";
constexpr uint64_t kMaxPlanBytes = 4ull << 30;

struct Arguments : PlanFlags {
  std::string checkpoint;
  RunOptions run;
  bool hash_values = false;
  std::optional<OutputHasher> hasher;  // where it was asked for
  bool dry_run = false;
  std::string plan_out, plan_in;
  LikeFlags like;
  bool copy = false;
  const CLI::Option* link_option = nullptr;
  const CLI::Option* restarts_option = nullptr;
  std::string part, rates;
  std::optional<Rates> rates_read;
  std::vector<std::string> min_sqnr;
  std::string report;
  std::optional<RequestedFile> plan_out_file, report_file;  // once checked
  std::string device = "auto";
  cli::CommonOptions common;
};

constexpr Words<LinkMode, 4> kLinkModes{
    {{LinkMode::kCopy, "none"}, {LinkMode::kHard, "hard"}, {LinkMode::kSym, "sym"}, {LinkMode::kReflink, "reflink"}}};

constexpr Words<IoMode, 4> kIoModes{{{IoMode::kAuto, "auto"},
                                     {IoMode::kDirect, "direct"},
                                     {IoMode::kDirectSingle, "direct-single"},
                                     {IoMode::kBuffered, "buffered"}}};

constexpr char kExamples[] =
    "Examples:\n"
    "  mimo-convert CKPT CKPT-BF16 --dtype bf16 --qkv split               what transformers, Megatron-Bridge and any "
    "engine load\n"
    "  mimo-convert CKPT OUT --to vllm --tp 8 --link hard                   FP8 for TP 8: KV heads replicated, experts "
    "linked\n"
    "  mimo-convert CKPT OUT --to vllm --format sharded-state --tp 16 --ep 16 --ranks 0-7        this node's ranks\n"
    "  mimo-convert RANKS OUT --to hf                                       back to the checkpoint it came from\n"
    "  mimo-convert CKPT ROOT --to megatron                                 torch_dist for Megatron-Core and "
    "Megatron-Bridge\n"
    "  mimo-convert RUN OUT --like CKPT                                     a training run back into the published FP8 "
    "form\n"
    "  mimo-convert CKPT OUT --dtype nvfp4                                  NVFP4 experts for Blackwell, the rest "
    "BF16\n"
    "  mimo-convert CKPT OUT --recipe nvfp4-experts --link hard --min-sqnr experts=19\n"
    "  mimo-convert CKPT OUT --qkv fused --dry-run                          what would happen, without writing a byte\n"
    "  srun -n 16 mimo-convert CKPT OUT --to vllm --tp 8 --part auto        on 16 nodes; then, once: mimo-convert "
    "--join OUT\n"
    "  mimo-convert bench CKPT OUT                                          what this machine reads, writes and "
    "computes\n"
    "Exit codes: 0 done, 1 a required property does not hold, 2 usage, 3 bad input, 4 I/O, 5 device, 130/143 "
    "interrupted.";

void AddOptions(CLI::App& app, Arguments& a) {
  app.add_option("CKPT", a.checkpoint,
                 "checkpoint directory (config.json and .safetensors files), rank files, or what Megatron saved")
      ->required();
  app.add_option("OUT", a.run.output, "output directory; absent or empty (not needed with --dry-run)");
  AddLikeFlags(*AddPlanFlags(app, a), a.like);
  auto* run = app.add_option_group("run", "how it is done (never changes a byte of the result)");
  a.link_option =
      cli::AddWord(*run, "--link", a.run.link, kLinkModes,
                   cli::WordsAnd(kLinkModes, "tensor files whose every tensor is unchanged; all else is copied"));
  run->add_flag("--copy", a.copy, "write the checkpoint as it is, where nothing else is asked for");
  run->add_flag("--hash-linked", a.run.hash_linked, "read linked files too, so that the manifest holds their hashes");
  run->add_flag(
      "--hash-values", a.hash_values,
      "hash the values of what was written too, into the manifest: what mimo-verify manifest OUT would print");
  run->add_option("--device", a.device, "auto|cpu|cuda[:i]")->capture_default_str();
  cli::AddWord(*run, "--io", a.run.io, kIoModes,
               cli::WordsAnd(kIoModes,
                             "auto goes past the page cache (O_DIRECT) where memory could not hold the files anyway; "
                             "direct-single does without io_uring"));
  run->add_option("--threads", a.run.threads, "worker threads (default: one per CPU that it may use)")
      ->check(CLI::Range(0, 4096));
  cli::AddSize(*run, "--memory", a.run.memory_bytes,
               "budget for data in flight (default: min(8 GiB, a quarter of the memory that it may use))");
  run->add_flag("--overwrite", a.run.overwrite, "replace what OUT holds once the new output is complete");
  run->add_flag("--force", a.run.force,
                "with --overwrite: replace even a directory that nothing shows to be an output of mimo-convert");
  run->add_flag("--resume", a.run.resume, "continue an interrupted conversion with the same options");
  run->add_flag("--allow-anomalies", a.run.allow_anomalies,
                "count NaN codes, bad scales and overflows instead of stopping");
  run->add_flag("--error-report", a.run.measure_errors,
                "measure the error of what is quantized, into the manifest (costs time)");
  run->add_option("--report", a.report, "write it to this file as JSON too");
  run->add_option("--min-sqnr", a.min_sqnr,
                  "ROLE=dB: exit 1, and a manifest that says so, when a tensor of that role or of experts, attention, "
                  "dense, mtp or all is below (repeatable)")
      ->take_all();
  run->add_option(
      "--part", a.part,
      "I/N: make share I (from 0) of N beside processes that make the others; auto: as Slurm, MPI, torchrun "
      "or an Indexed Job of Kubernetes (auto/N) says. Nothing is published until --join");
  run->add_flag("--join", a.run.join, "publish what parts have made in OUT, once all have ended; OUT alone will do");
  cli::AddSize(*run, "--unit-size", a.run.unit_bytes,
               "output that is recorded at a time, and that a stop may lose per worker (default: 256 MiB); all parts "
               "and --resume need the same");
  run->add_option("--job-id", a.run.job.id,
                  "batch job of this process (default: that of Slurm or torchrun): when it is requeued, its next start "
                  "takes OUT over from the one before");
  a.restarts_option =
      run->add_option("--restart-count", a.run.job.restarts, "how often the job was requeued (default: likewise)");
  run->add_flag("--dry-run", a.dry_run, "print the plan, and what a run would meet in OUT and make, and stop");
  run->add_option("--rates", a.rates,
                  "READ,WRITE in bytes per second (5GB,3GB): --dry-run says how long this process takes at least");
  run->add_option("--plan-out", a.plan_out, "write the plan as JSON");
  run->add_option("--plan", a.plan_in, "run exactly this plan (of --plan-out, for this checkpoint)");
  cli::AddCommonOptions(app, a.common, kExamples);
}

// Which share of the conversion is this process's.
Status ReadShare(Arguments& a) {
  if (!a.rates.empty()) {
    MIMO_ASSIGN_OR_RETURN(a.rates_read, ParseRates(a.rates));
  }
  if (a.part.empty() || (a.run.join && !a.typed.contains("--part"))) return {};
  if (a.dry_run && a.part.starts_with("auto")) return {};  // whichever it would be
  if (a.run.join) return UsageError("contradicting options").Expected("--part or --join").Found("both");
  if (!a.report.empty())
    return UsageError("--report is of the whole output, and this makes a part of it")
        .Advice("pass --error-report here, and --report to --join");
  MIMO_ASSIGN_OR_RETURN(const PartChoice choice, ReadPart(a.part, ProcessEnvironment()));
  a.run.part = choice.part;
  if (!choice.by.empty() && !a.common.quiet)
    cli::Print(stderr, "%s: part %s, by %s\n", kName, TextOf(choice.part), choice.by);
  return {};
}

Status ReadArguments(Arguments& a) {
  if (!a.run.overwrite && !a.typed.contains("--force")) a.run.force = false;  // a variable waits for --overwrite
  MIMO_RETURN_IF_ERROR(ReadPlanFlags(a));
  a.plan.like = !a.like.reference.empty();
  MIMO_RETURN_IF_ERROR(ReadDevice(a.device, &a.run));
  MIMO_RETURN_IF_ERROR(ReadThresholds(a.min_sqnr, &a.run));
  a.run.measure_errors |= !a.report.empty();
  if (a.run.output.empty() && !a.dry_run && a.plan_out.empty())
    return UsageError("no output directory")
        .Expected("mimo-convert CKPT OUT")
        .Found("CKPT alone")
        .Advice("name OUT, or pass --dry-run");
  MIMO_RETURN_IF_ERROR(ReadShare(a));
  MIMO_RETURN_IF_ERROR(CheckLikeFlags(a.like));
  if (a.run.overwrite && a.run.resume)
    return UsageError("contradicting options").Expected("--overwrite or --resume").Found("both");
  if (!a.plan_in.empty() && AsksForSomething(a.plan))
    return UsageError("--plan already says what is written")
        .Expected("no option of the output group beside --plan")
        .Found("at least one");
  return {};
}

// A checkpoint with the blobs of the cache that it may be a snapshot of.
Status ProtectCheckpoint(const std::string& root, const char* what, std::vector<Untouchable>* untouchable) {
  FileSystem& fs = PosixFileSystem();
  untouchable->push_back({what, root});
  MIMO_ASSIGN_OR_RETURN(const auto info, fs.Stat(root));
  if (!info || info->kind != FileKind::kDirectory) return {};
  MIMO_ASSIGN_OR_RETURN(const CheckpointBounds bounds, CheckpointBounds::Of(fs, root));
  for (const std::string& directory : bounds.directories()) untouchable->push_back({what, directory, true});
  return {};
}

// The files that --plan-out and --report name: never into what is read or made, never one another.
Status CheckRequestedFiles(Arguments& a) {
  if (a.plan_out.empty() && a.report.empty()) return {};
  std::vector<Untouchable> untouchable;
  MIMO_RETURN_IF_ERROR(ProtectCheckpoint(a.checkpoint, "the checkpoint", &untouchable));
  if (!a.like.reference.empty())
    MIMO_RETURN_IF_ERROR(ProtectCheckpoint(a.like.reference, "the checkpoint of --like", &untouchable));
  if (!a.run.output.empty()) untouchable.push_back({"the output", a.run.output});
  const std::pair<const char*, const std::string&> inputs[] = {{"the file of --plan", a.plan_in},
                                                               {"the file of --recipe", a.recipe},
                                                               {"the file of --input-scales", a.flags.input_scales},
                                                               {"the file of --template", a.target.template_path}};
  for (const auto& [what, path] : inputs)
    if (!path.empty()) untouchable.push_back({what, path});
  const auto check = [&](const char* option, const std::string& path, std::optional<RequestedFile>* file) -> Status {
    if (path.empty()) return {};
    MIMO_ASSIGN_OR_RETURN(*file, RequestedFile::Check(PosixFileSystem(), option, path, untouchable));
    untouchable.push_back({std::string("the file of ") + option, (*file)->path(), true});
    return {};
  };
  MIMO_RETURN_IF_ERROR(check("--plan-out", a.plan_out, &a.plan_out_file));
  return check("--report", a.report, &a.report_file);
}

// Tensor files of a checkpoint, its config and its index may be links to elsewhere: what they lead to is not to be
// replaced either.
Status CheckLinkedFiles(const Arguments& a, const Catalogue& catalogue) {
  if (!a.plan_out_file && !a.report_file) return {};
  FileSystem& fs = PosixFileSystem();
  std::vector<std::string> paths;
  for (const CatalogueFile& file : catalogue.files) paths.push_back(catalogue.PathOf(file));
  for (const char* name : {kConfigName, kIndexName, kOriginConfigName, kOriginIndexName}) {
    for (const std::string& root : {a.checkpoint, a.like.reference})
      if (!root.empty()) paths.push_back(JoinPath(root, name));
  }
  for (const std::string& path : paths) {
    MIMO_ASSIGN_OR_RETURN(const std::string real, FutureRealPath(fs, path));
    for (const auto& [option, requested] :
         {std::pair("--plan-out", &a.plan_out_file), std::pair("--report", &a.report_file)})
      if (*requested && (*requested)->path() == real)
        return UsageError(std::string(option) + " would replace a file of the checkpoint, by way of a link")
            .File(real)
            .Advice("name a file elsewhere");
  }
  return {};
}

Result<Plan> ObtainPlan(const Arguments& a, Checkpoint* checkpoint, std::unique_ptr<SourceGuard>* guard) {
  FileSystem& fs = PosixFileSystem();
  OpenOptions source{.source_qkv = a.plan.source_qkv, .allow_anomalies = a.run.allow_anomalies};
  const auto make = [&](const Checkpoint& opened) -> Result<Plan> {
    if (a.plan_in.empty()) return MakePlan(opened, a.plan);
    MIMO_ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(fs, a.plan_in, kMaxPlanBytes));
    return ParsePlanJson(opened.stored, text, a.plan_in);
  };
  if (!a.like.reference.empty()) {
    std::string figures;
    Result<Plan> plan = PlanLike(fs, a.checkpoint, source, a.like, a.run.threads, make, checkpoint, &figures,
                                 a.part.empty() && !a.run.join ? nullptr : guard);
    if (a.common.verbose && !figures.empty()) cli::Print(stderr, "%s: %s\n", kName, figures);
    return plan;
  }
  MIMO_RETURN_IF_ERROR(TakeOrders(a.like, &source));
  MIMO_ASSIGN_OR_RETURN(*checkpoint, OpenCheckpoint(fs, a.checkpoint, source));
  MIMO_RETURN_IF_ERROR(CheckOrders(a.like, *checkpoint));
  return make(*checkpoint);
}

// A copy is to be asked for.
Status RefuseNothing(const Arguments& a, const Checkpoint& checkpoint) {
  const bool asked = AsksForSomething(a.plan) || a.plan.like || !a.plan_in.empty() || a.copy ||
                     a.link_option->count() > 0 || a.target.to_option->count() > 0 || a.qkv_option->count() > 0 ||
                     a.typed.contains("--dtype") || checkpoint.view;
  return asked ? Status() : NothingAsked(a.checkpoint, checkpoint);
}

// What is to be said of the source, and of what the plan makes of it, before a byte is written. Printed here, so that
// it stands before the refusal of a plan.
Result<Verdict> JudgeConversion(const Arguments& a, const Checkpoint& checkpoint, const Result<Plan>& plan) {
  Verdict verdict;
  if (checkpoint.stored.table != nullptr) {
    verdict = JudgeCheckpoint(checkpoint);
    MIMO_ASSIGN_OR_RETURN(const Verdict health,
                          JudgeHealth(PosixFileSystem(), checkpoint, true,
                                      {.threads = a.run.threads, .allow_anomalies = a.run.allow_anomalies}));
    for (const Finding& finding : health.findings())  // what the run lost may be the reference's to give back
      if (!checkpoint.like || finding.severity == Severity::kError) verdict.Add(finding);
    MIMO_ASSIGN_OR_RETURN(Verdict copies,
                          JudgeCopies(PosixFileSystem(), checkpoint,
                                      {.threads = a.run.threads, .allow_anomalies = a.run.allow_anomalies}));
    verdict.Append(std::move(copies));
  }
  cli::PrintFindings(kName, verdict, a.common);
  if (!plan.ok()) return verdict;
  MIMO_ASSIGN_OR_RETURN(Verdict output, JudgePlan(checkpoint, plan.value()));
  Verdict made;  // by the conversion: the source has nothing of the kind
  for (const Finding& finding : output.findings()) {
    if (finding.severity == Severity::kWarning && !verdict.Has(finding.id)) made.Add(finding);
    if (finding.severity == Severity::kError) verdict.Add(finding);
  }
  cli::PrintFindings(kName, made, a.common);
  verdict.Append(std::move(made));
  return verdict;
}

// The manifest says which copies were left for the first.
void NoteUnequalCopies(const Verdict& verdict, Plan* plan) {
  for (const Finding& finding : verdict.findings()) {
    if (finding.id != "layout.unequal_copies") continue;
    std::string note = "--allow-anomalies let through " + finding.id + ": " + finding.place + ": " + finding.evidence;
    if (std::find(plan->notes.begin(), plan->notes.end(), note) == plan->notes.end())
      plan->notes.push_back(std::move(note));
  }
}

// What a threshold rejects is published, and says of itself that it is not to be used.
int Outcome(const Arguments& a, const RunReport& report) {
  if (report.rejections.empty()) return 0;
  Error error = CheckFailed(std::to_string(report.rejections.size()) +
                            " tensors are below --min-sqnr; the manifest rejects the output")
                    .File(a.run.output)
                    .Found(report.rejections.front())
                    .Advice("choose another recipe or scale rule; --report lists all of them");
  return cli::PrintError(kName, error, false);
}

void WarnOfReport(const Arguments& a, const RunReport& report) {
  if (a.report.empty() || !report.error_report.empty()) return;
  cli::PrintWarning(kName, "the output was complete before: no report is written; its manifest holds the errors",
                    a.common);
}

LogicalHashOptions HasherOptions(const RunOptions& run) {
  LogicalHashOptions options;
  options.threads = run.threads;
  options.memory_bytes = run.memory_bytes;
  options.progress = run.progress;
  return options;
}

// What a dry run says: the plan, and what would become of the run that was typed.
int ShowPlan(const Arguments& a, const Catalogue& catalogue, const Plan& plan, const PlanReport& report,
             ordered_json document) {
  std::optional<Forecast> forecast;
  if (!a.run.output.empty()) {
    Result<Forecast> made = ForecastRun(PosixFileSystem(), catalogue, plan, a.run);
    if (!made.ok()) return cli::PrintError(kName, made.error(), a.common.json);
    forecast = std::move(*made);
    document["forecast"] = ForecastJson(*forecast, a.rates_read);
  }
  if (a.common.json)
    cli::PrintJson(cli::JsonText(document));
  else if (!a.common.quiet)
    PrintPlanReport(report);
  if (!forecast) return 0;
  if (!a.common.json && !a.common.quiet) PrintForecast(a.run.output, *forecast, a.rates_read);
  if (!forecast->fits())
    cli::PrintWarning(kName, "the run would be refused now: not enough free space for the output", a.common);
  return forecast->refusal ? cli::PrintError(kName, *forecast->refusal, false) : 0;
}

int Convert(Arguments& a) {
  FileSystem& fs = PosixFileSystem();
  const auto fail = [&](const Error& error) { return cli::PrintError(kName, error, a.common.json); };
  if (Status s = ReadArguments(a); !s.ok()) return fail(s.error());
  if (Status s = FindJob(a.restarts_option->count() > 0, &a.run.job); !s.ok()) return fail(s.error());
  if (!a.run.output.empty() && !a.dry_run)
    if (Status s = CheckOutput(fs, a.checkpoint, a.run); !s.ok()) return fail(s.error());
  if (Status s = CheckRequestedFiles(a); !s.ok()) return fail(s.error());
  Checkpoint checkpoint;
  std::unique_ptr<SourceGuard> guard;
  Result<Plan> plan = ObtainPlan(a, &checkpoint, &guard);
  const Result<Verdict> verdict = JudgeConversion(a, checkpoint, plan);
  if (plan.ok())
    if (Status s = RefuseNothing(a, checkpoint); !s.ok()) {
      if (!a.dry_run && !a.run.output.empty()) return fail(s.error());
      cli::PrintWarning(kName, s.error().Message(), a.common);  // a plan alone does no harm
    }
  if (!plan.ok()) return fail(plan.error());
  if (!verdict.ok()) return fail(verdict.error());
  if (Status s = verdict.value().ToStatus(); !s.ok()) return fail(s.error());
  if (Status s = CheckLinkedFiles(a, checkpoint.stored); !s.ok()) return fail(s.error());
  if (Status s = CheckFlagsUsed(a.typed, *plan); !s.ok()) return fail(s.error());
  NoteUnequalCopies(verdict.value(), &*plan);
  plan->tool_version = MIMO_VERSION;
  if (Status s = CheckThresholds(*plan, a.run.thresholds); !s.ok()) return fail(s.error());
  if (a.plan_out_file)
    if (Status s =
            a.plan_out_file->Write([&](const TextSink& sink) { return WritePlanJson(checkpoint.stored, *plan, sink); });
        !s.ok())
      return fail(s.error());
  const PlanSummary summary = Summarize(checkpoint.stored, *plan);
  const std::vector<Operations> operations = OperationsOf(checkpoint.stored, *plan);
  const std::string dtype = a.plan.recipe ? a.dtype : std::string(WordOf(kDTypeChoices, plan->options.dtype));
  const std::string stored_as = !a.plan_in.empty()  ? "as planned"
                                : !a.recipe.empty() ? "recipe " + a.recipe
                                                    : "dtype " + dtype;
  const PlanReport plan_report{checkpoint.stored,  *plan,           summary, operations, stored_as,
                               a.run.memory_bytes, a.common.verbose};
  ordered_json document;
  if (a.common.json) {
    Result<ordered_json> plan_json = ParseJson<ordered_json>(PlanReportJson(plan_report), "the plan", kLongDocument);
    if (!plan_json.ok()) return fail(plan_json.error());
    document["plan"] = std::move(*plan_json);
    document["findings"] = cli::FindingsJson(verdict.value());
  }
  if (a.dry_run || a.run.output.empty()) return ShowPlan(a, checkpoint.stored, *plan, plan_report, std::move(document));
  if (!a.common.json && a.common.verbose) PrintPlanReport(plan_report);
  if (a.target.to_option->count() > 0 && LeavesAllAsItIs(*plan) && !a.common.quiet)
    cli::Print(stderr, "%s: note: the source is what --to asks for already: OUT is a copy of its tensors\n", kName);
  if (!a.common.quiet)
    for (const std::string& note : plan->notes) cli::Print(stderr, "%s: note: %s\n", kName, note);
  const std::unique_ptr<ProgressObserver> progress = cli::MakeProgress(a.common);
  a.run.progress = progress.get();
  if (a.hash_values) a.run.hash_values = &a.hasher.emplace(HasherOptions(a.run));
  a.run.guard = guard.get();
  a.run.stop = cli::CatchStopSignals();
  Result<RunReport> report = RunPlan(fs, checkpoint.stored, *plan, a.run);
  if (!report.ok()) return fail(report.error());
  document["run"] = RunReportJson(*report, a.common.verbose);
  WarnOfReport(a, *report);
  if (a.report_file && !report->error_report.empty())
    if (Status s = a.report_file->Write([&](const TextSink& sink) { return sink(report->error_report); }); !s.ok())
      return fail(s.error());
  if (a.common.json)
    cli::PrintJson(cli::JsonText(document));
  else if (!a.common.quiet)
    PrintRunReport(a.run.output, *report, a.common.verbose);
  return Outcome(a, *report);
}

// A join of what is complete: what its manifest says of it is the outcome again.
int JoinedBefore(Arguments& a) {
  a.run.output = a.checkpoint;
  a.run.allow_anomalies = true;  // as the parts were told, or they had made none of it
  if (a.hash_values) a.run.hash_values = &a.hasher.emplace(HasherOptions(a.run));
  const Status asked = ReadThresholds(a.min_sqnr, &a.run);
  Result<RunReport> report = asked.ok() ? CompleteBefore(PosixFileSystem(), a.run) : asked.error();
  if (!report.ok()) return cli::PrintError(kName, report.error(), a.common.json);
  WarnOfReport(a, *report);
  if (a.common.json)
    cli::PrintJson("{\"joined\": \"before\"}");
  else if (!a.common.quiet)
    cli::Print(stdout, "%s: complete already\n", a.run.output);
  return Outcome(a, *report);
}

}  // namespace
}  // namespace mimo

namespace {

int Run(const std::vector<std::string>& words);

// mimo-convert --join OUT: what the parts were asked is asked again.
int Join(mimo::Arguments& joined, const std::vector<std::string>& words) {
  if (mimo::IsCompleteOutput(joined.checkpoint)) return mimo::JoinedBefore(joined);
  const auto more =
      mimo::MoreThanOut(joined.checkpoint, {{"--report", joined.report}, {"--plan-out", joined.plan_out}}, words);
  const auto arguments = mimo::JoinArguments(mimo::PosixFileSystem(), joined.checkpoint, more);
  if (!arguments.ok()) return mimo::cli::PrintError(mimo::kName, arguments.error(), joined.common.json);
  std::vector<std::string> again{words[0]};
  again.insert(again.end(), arguments.value().begin(), arguments.value().end());
  return Run(again);
}

int Run(const std::vector<std::string>& words) {
  if (words.size() > 1 && words[1] == "bench") return mimo::RunBench(words);
  mimo::Arguments arguments;
  CLI::App app{"Converts checkpoints of " + mimo::KnownFamilies(false) +
                   ": dequantize, split or fuse QKV, re-shard files; exactly, in one pass.",
               mimo::kName};
  mimo::AddOptions(app, arguments);
  for (size_t i = 1; i < words.size(); ++i)
    if (const std::string_view word = words[i]; word.starts_with("--"))
      arguments.typed.emplace(word.substr(0, word.find('=')));
  if (const auto code = mimo::cli::Parse(app, words, arguments.common)) return *code;
  if (arguments.run.join && arguments.run.output.empty()) return Join(arguments, words);
  if (!arguments.part.empty() || arguments.run.join)
    arguments.run.command = mimo::CommandOf(app, arguments.typed, arguments.checkpoint);
  return mimo::cli::Guard(mimo::kName, arguments.common.json, [&] { return mimo::Convert(arguments); });
}

}  // namespace

int main(int argc, char** argv) {
  return mimo::cli::Main(mimo::kName, [&] { return Run({argv, argv + argc}); });
}
