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

bool Descends(const Attempt& attempt) {
  return attempt.verdict.CountOf(Severity::kError) == 0;
}

void AddNote(Plan* plan, std::string note) {  // a plan that was read may have it
  if (std::find(plan->notes.begin(), plan->notes.end(), note) == plan->notes.end())
    plan->notes.push_back(std::move(note));
}

// How much of a run is compared before its plan is used.
enum class HeldTo : uint8_t { kAll, kOrderOfGateUp };

class Attempts {
 public:
  Attempts(FileSystem& fs, const std::string& root, const LikeFlags& flags, int threads, const MakesPlan& make,
           HeldTo held_to)
      : fs_(fs), root_(root), flags_(flags), threads_(threads), make_(make), held_to_(held_to) {}

  // The run as its arguments say, or under the other order of gate and up where only that descends.
  Result<Attempt> Make(OpenOptions source) const {
    MIMO_ASSIGN_OR_RETURN(Attempt attempt, Try(source));
    const View& view = *attempt.merged.view;
    if (Descends(attempt) || !view.said_gate_up || source.gate_up.experts) return attempt;
    const GateUpOrder other = view.experts_order == *view.said_gate_up ? GateUpOrder{} : *view.said_gate_up;
    source.gate_up.experts = other;
    MIMO_ASSIGN_OR_RETURN(Attempt second, Try(source));
    if (!Descends(second)) return attempt;
    AddNote(&second.plan, "gate and up of experts lie as " + other.ToString() +
                              ": so they descend from the reference, whatever the saved arguments say");
    return second;
  }

 private:
  Result<Attempt> Try(OpenOptions source) const {
    Attempt attempt;
    MIMO_ASSIGN_OR_RETURN(Checkpoint reference,
                          OpenCheckpoint(fs_, flags_.reference, {.allow_anomalies = source.allow_anomalies}));
    source.like = &reference.stored;
    source.without_broken_mtp = true;  // the reference has them whole
    MIMO_ASSIGN_OR_RETURN(Checkpoint run, OpenCheckpoint(fs_, root_, source));
    MIMO_RETURN_IF_ERROR(CheckOrders(flags_, run));
    MIMO_ASSIGN_OR_RETURN(attempt.merged, MergeLike(std::move(run), std::move(reference)));
    MIMO_ASSIGN_OR_RETURN(attempt.plan, make_(attempt.merged));
    if (held_to_ == HeldTo::kAll) {
      MIMO_ASSIGN_OR_RETURN(attempt.descent, CompareDescent(fs_, attempt.merged, threads_));
    } else {
      attempt.descent = PairsOfDescent(attempt.merged);
      const bool asks = attempt.merged.view->said_gate_up.has_value();
      const std::vector<size_t> pairs = asks ? PairsOfGateUp(attempt.descent) : std::vector<size_t>();
      MIMO_RETURN_IF_ERROR(CompareDescent(fs_, attempt.merged, pairs, threads_, &attempt.descent));
    }
    MIMO_ASSIGN_OR_RETURN(attempt.verdict, JudgeDescent(fs_, attempt.merged, attempt.descent));
    return attempt;
  }

  FileSystem& fs_;
  const std::string& root_;
  const LikeFlags& flags_;
  const int threads_;
  const MakesPlan& make_;
  const HeldTo held_to_;
};

class DescentGuard final : public SourceGuard {
 public:
  DescentGuard(FileSystem& fs, const Checkpoint& merged, Descent pairs, int threads)
      : fs_(fs), merged_(merged), pairs_(std::move(pairs)), threads_(threads) {}

  size_t entries() const override { return pairs_.pairs.size(); }
  Status Check(const std::vector<size_t>& entries) override {
    Descent descent = pairs_;
    MIMO_RETURN_IF_ERROR(CompareDescent(fs_, merged_, entries, threads_, &descent));
    MIMO_ASSIGN_OR_RETURN(const Verdict verdict, JudgeDescent(fs_, merged_, descent));
    return verdict.ToStatus();
  }

 private:
  FileSystem& fs_;
  const Checkpoint& merged_;
  const Descent pairs_;  // none compared
  const int threads_;
};

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
                      const MakesPlan& make, Checkpoint* merged, std::string* figures,
                      std::unique_ptr<SourceGuard>* guard) {
  const bool all = guard == nullptr || flags.allow_divergence;
  MIMO_RETURN_IF_ERROR(TakeOrders(flags, &source));
  MIMO_ASSIGN_OR_RETURN(
      Attempt attempt,
      Attempts(fs, run, flags, threads, make, all ? HeldTo::kAll : HeldTo::kOrderOfGateUp).Make(source));
  *merged = std::move(attempt.merged);
  if (all)
    *figures = FiguresOf(attempt.descent);
  else
    *guard = std::make_unique<DescentGuard>(fs, *merged, PairsOfDescent(*merged), threads);
  for (const std::string& order : flags.orders) AddNote(&attempt.plan, "gate and up are read as " + order);
  if (!flags.allow_divergence) MIMO_RETURN_IF_ERROR(attempt.verdict.ToStatus());
  for (const Finding& finding : attempt.verdict.findings())
    AddNote(&attempt.plan,
            "--allow-divergence let through " + finding.id + ": " + finding.place + ": " + finding.evidence);
  return std::move(attempt.plan);
}

}  // namespace mimo
