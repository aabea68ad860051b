#include "lib/judge/judge.h"

#include "lib/forms/registry/registry.h"
#include "lib/judge/oddities.h"
#include "lib/judge/travel.h"

namespace mimo {
namespace {

ScaleFacts FactsOf(const SurveyFacts& facts) {
  return {facts.attention_scales - facts.zero_scales, facts.power_of_two_scales};
}

void JudgeLayout(const LayoutVerdict& layout, Verdict* verdict) {
  if (layout.assumed) verdict->Add("layout.assumed", "attention", layout.layout.ToString() + ", by " + layout.basis);
}

}  // namespace

Verdict JudgeCheckpoint(const Checkpoint& checkpoint, Subject subject) {
  Verdict verdict = JudgeTravel(checkpoint.stored, &checkpoint.inventory, checkpoint.cut_rows);
  if (checkpoint.like) return verdict;  // a run under the config of its reference
  if (checkpoint.view) {
    if (FormOfStored(checkpoint.stored).traits().declares)
      verdict.Append(JudgeDeclaredModules(checkpoint.catalogue(), checkpoint.inventory, subject));
    return verdict;
  }
  verdict.Append(FindOddities(checkpoint.stored));
  verdict.Append(JudgeDeclared(checkpoint.catalogue(), checkpoint.inventory, FactsOf(checkpoint.facts), subject));
  JudgeLayout(checkpoint.layout, &verdict);
  return verdict;
}

Verdict JudgeOpened(const OpenedCheckpoint& opened, Subject subject) {
  using Reached = OpenedCheckpoint::Reached;
  const Checkpoint& checkpoint = opened.checkpoint;
  Verdict verdict;
  if (!opened.status.ok()) verdict.Add(FindingOf(opened.status.error()));
  if (opened.reached == Reached::kLayout) {
    verdict.Append(JudgeCheckpoint(checkpoint, subject));
  } else if (opened.reached != Reached::kNothing) {
    verdict.Append(JudgeTravel(checkpoint.stored, nullptr, {}));
    verdict.Append(FindOddities(checkpoint.stored));
    if (opened.reached == Reached::kInventory)
      verdict.Append(JudgeDeclared(checkpoint.stored, checkpoint.inventory, FactsOf(checkpoint.facts), subject));
  }
  return verdict;
}

}  // namespace mimo
