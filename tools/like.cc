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

Result<Attempt> Try(FileSystem& fs, const LikeArguments& arguments, OpenOptions source,
                    const std::function<Result<Plan>(const Checkpoint&)>& make) {
  Attempt attempt;
  MIMO_ASSIGN_OR_RETURN(Checkpoint reference,
                        OpenCheckpoint(fs, arguments.reference, {.allow_anomalies = source.allow_anomalies}));
  source.like = &reference.stored;
  MIMO_ASSIGN_OR_RETURN(Checkpoint run, OpenCheckpoint(fs, arguments.run, source));
  MIMO_RETURN_IF_ERROR(CheckOrders(arguments.orders, run));
  MIMO_ASSIGN_OR_RETURN(attempt.merged, MergeLike(std::move(run), std::move(reference)));
  MIMO_ASSIGN_OR_RETURN(attempt.plan, make(attempt.merged));
  MIMO_ASSIGN_OR_RETURN(attempt.descent, CompareDescent(fs, attempt.merged, arguments.threads));
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

Status TakeOrders(const std::vector<std::string>& orders, OpenOptions* source) {
  for (const std::string& order : orders) MIMO_RETURN_IF_ERROR(source->gate_up.Take(order));
  return {};
}

Status CheckOrders(const std::vector<std::string>& orders, const Checkpoint& checkpoint) {
  const FormKind form = checkpoint.view ? checkpoint.view->form : FormKind::kHf;
  if (orders.empty() || form == FormKind::kTorchDist || form == FormKind::kDcp || form == FormKind::kTorch) return {};
  return UsageError("--source-gate-up is of what Megatron saved")
      .File(checkpoint.stored.root)
      .Expected("a torch_dist, torch_dcp or torch checkpoint")
      .Found("form " + std::string(WordOf(kForms, form)));
}

Result<Plan> PlanLike(FileSystem& fs, const LikeArguments& arguments,
                      const std::function<Result<Plan>(const Checkpoint&)>& make, Checkpoint* merged,
                      std::string* figures) {
  OpenOptions source = arguments.source;
  MIMO_RETURN_IF_ERROR(TakeOrders(arguments.orders, &source));
  MIMO_ASSIGN_OR_RETURN(Attempt attempt, Try(fs, arguments, source, make));
  const View& view = *attempt.merged.view;
  if (!Descends(attempt) && view.said_gate_up && !source.gate_up.experts) {
    const GateUpOrder other = view.took_gate_up ? GateUpOrder{} : *view.said_gate_up;
    source.gate_up.experts = other;
    MIMO_ASSIGN_OR_RETURN(Attempt second, Try(fs, arguments, source, make));
    if (Descends(second)) {
      attempt = std::move(second);
      AddNote(&attempt.plan, "gate and up of experts lie as " + other.ToString() +
                                 ": so they descend from the reference, whatever the saved arguments say");
    }
  }
  *merged = std::move(attempt.merged);
  *figures = FiguresOf(attempt.descent);
  for (const std::string& order : arguments.orders) AddNote(&attempt.plan, "gate and up are read as " + order);
  if (!arguments.allow_divergence) MIMO_RETURN_IF_ERROR(attempt.verdict.ToStatus());
  for (const Finding& finding : attempt.verdict.findings())
    AddNote(&attempt.plan,
            "--allow-divergence let through " + finding.id + ": " + finding.place + ": " + finding.evidence);
  return std::move(attempt.plan);
}

}  // namespace mimo
