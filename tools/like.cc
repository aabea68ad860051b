#include "tools/like.h"

#include <algorithm>
#include <cstdio>

#include "lib/forms/merge/merge.h"
#include "lib/forms/registry/open_checkpoint.h"
#include "lib/judge/descent.h"

namespace mimo {
namespace {

// A run under one order of gate and up.
struct Attempt {
  Checkpoint merged;
  Plan plan;
  Descent descent;
  Verdict verdict;
};

Result<Attempt> Try(FileSystem& fs, const std::string& root, OpenOptions source, const LikeFlags& flags, int threads,
                    const MakesPlan& make) {
  Attempt attempt;
  MIMO_ASSIGN_OR_RETURN(Checkpoint reference,
                        OpenCheckpoint(fs, flags.reference, {.allow_anomalies = source.allow_anomalies}));
  source.like = &reference.stored;
  source.without_broken_mtp = true;  // the reference has them whole
  MIMO_ASSIGN_OR_RETURN(Checkpoint run, OpenCheckpoint(fs, root, source));
  MIMO_RETURN_IF_ERROR(CheckOrders(flags, run));
  MIMO_ASSIGN_OR_RETURN(attempt.merged, MergeLike(std::move(run), std::move(reference)));
  MIMO_ASSIGN_OR_RETURN(attempt.plan, make(attempt.merged));
  MIMO_ASSIGN_OR_RETURN(attempt.descent, CompareDescent(fs, attempt.merged, threads));
  MIMO_ASSIGN_OR_RETURN(attempt.verdict, JudgeDescent(fs, attempt.merged, attempt.descent));
  return attempt;
}

bool Descends(const Attempt& attempt) {
  return attempt.verdict.CountOf(Severity::kError) == 0;
}

void AddNote(Plan* plan, std::string note) {  // a plan that was read may have it
  if (std::find(plan->notes.begin(), plan->notes.end(), note) == plan->notes.end())
    plan->notes.push_back(std::move(note));
}

std::string FiguresOf(const Descent& descent) {
  char least[32];
  std::snprintf(least, sizeof least, "%.4f", descent.least);
  std::string text = "descent: " + std::to_string(descent.units) + " heads, strips and vectors, " +
                     std::to_string(descent.elements) + " values compared, least cosine " + least;
  if (!descent.least_place.empty()) text += " (" + descent.least_place + ")";
  if (!descent.unread.empty()) text += "; not compared: " + Examples(descent.unread);
  return text;
}

}  // namespace

void AddLikeFlags(CLI::App& group, LikeFlags& flags) {
  group.add_option("--like", flags.reference,
                   "REF: give the weights of a run back to the checkpoint that it came from: config, code, tokenizer, "
                   "files, layout, codecs and what the run lacks are REF's");
  group.add_flag("--allow-divergence", flags.allow_divergence,
                 "with --like: take a run that does not descend from REF as it is; the manifest says what diverges");
  group
      .add_option("--source-gate-up", flags.orders,
                  "[experts=|dense=]plain|turns:N|halves:D: how gate and up lie in what Megatron saved (default: as "
                  "its arguments say; repeatable)")
      ->take_all();
}

Status CheckLikeFlags(const LikeFlags& flags) {
  if (flags.allow_divergence && flags.reference.empty())
    return UsageError("--allow-divergence without a reference").Expected("--like REF").Found("none");
  return {};
}

Status TakeOrders(const LikeFlags& flags, OpenOptions* source) {
  for (const std::string& order : flags.orders) MIMO_RETURN_IF_ERROR(source->gate_up.Take(order));
  return {};
}

Status CheckOrders(const LikeFlags& flags, const Checkpoint& checkpoint) {
  if (flags.orders.empty() || (checkpoint.view && checkpoint.view->trained)) return {};
  const FormKind form = checkpoint.view ? checkpoint.view->form : FormKind::kHf;
  return UsageError("--source-gate-up is of what Megatron saved")
      .File(checkpoint.stored.root)
      .Expected("a torch_dist, torch_dcp or torch checkpoint")
      .Found("form " + std::string(WordOf(kForms, form)));
}

Result<Plan> PlanLike(FileSystem& fs, const std::string& run, OpenOptions source, const LikeFlags& flags, int threads,
                      const MakesPlan& make, Checkpoint* merged, std::string* figures) {
  MIMO_RETURN_IF_ERROR(TakeOrders(flags, &source));
  MIMO_ASSIGN_OR_RETURN(Attempt attempt, Try(fs, run, source, flags, threads, make));
  const View& view = *attempt.merged.view;
  if (!Descends(attempt) && view.said_gate_up && !source.gate_up.experts) {
    const GateUpOrder other = view.experts_order == *view.said_gate_up ? GateUpOrder{} : *view.said_gate_up;
    source.gate_up.experts = other;
    MIMO_ASSIGN_OR_RETURN(Attempt second, Try(fs, run, source, flags, threads, make));
    if (Descends(second)) {
      attempt = std::move(second);
      AddNote(&attempt.plan, "gate and up of experts lie as " + other.ToString() +
                                 ": so they descend from the reference, whatever the saved arguments say");
    }
  }
  *merged = std::move(attempt.merged);
  *figures = FiguresOf(attempt.descent);
  for (const std::string& order : flags.orders) AddNote(&attempt.plan, "gate and up are read as " + order);
  if (!flags.allow_divergence) MIMO_RETURN_IF_ERROR(attempt.verdict.ToStatus());
  for (const Finding& finding : attempt.verdict.findings())
    AddNote(&attempt.plan,
            "--allow-divergence let through " + finding.id + ": " + finding.place + ": " + finding.evidence);
  return std::move(attempt.plan);
}

}  // namespace mimo
