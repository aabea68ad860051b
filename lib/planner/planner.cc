#include "lib/planner/planner.h"

#include <algorithm>
#include <utility>

#include "lib/decode/row_bytes.h"
#include "lib/draft/filter.h"
#include "lib/forms/hf/cache_scales.h"
#include "lib/forms/registry/registry.h"
#include "lib/forms/strays.h"
#include "lib/model/family.h"
#include "lib/plan/output_names.h"
#include "lib/plan/plan_json.h"
#include "lib/planner/resolve.h"

namespace mimo {
namespace {

// What is lost, of the outputs that filters and ranks have left.
Losses LossesOf(const Planning& p) {
  const Draft& draft = p.draft;
  Losses losses;
  std::vector<uint8_t> read(p.catalogue.arrays.size(), 0);
  for (const DraftGroup& group : draft.groups) {
    draft.VisitReads(group, [&](uint32_t source) { read[draft.sources[source].array] = 1; });
    if (group.straddling_blocks == 0) continue;
    const TensorId& id = group.outputs[0].id;
    Straddling layer{id.layer, id.mtp, group.straddling_blocks};
    for (const CellRow& cell : group.cells)
      layer.of += static_cast<uint64_t>(RowElements(group.outputs[cell.scale_output].shape));
    losses.straddling.push_back(layer);
  }
  const auto left_of = [&](const std::vector<uint32_t>& arrays) {
    std::vector<uint8_t> left = read;
    uint64_t count = 0;
    for (const uint32_t array : arrays) count += std::exchange(left[array], uint8_t{0});
    return count;
  };
  losses.rounded = left_of(p.tally.rounded);
  losses.maybe_exact = left_of(p.tally.maybe_exact);
  losses.decoded_layers = left_of(p.tally.decoded);
  return losses;
}

// What --lossless and --on-straddle promise.
Status CheckPromises(const Planning& p) {
  const Losses& losses = p.losses;
  const PlanOptions& options = p.options;
  std::string layers;
  for (const Straddling& s : losses.straddling)
    layers += (layers.empty() ? "" : ", ") + std::string(s.mtp ? "mtp " : "") + std::to_string(s.layer);
  if (!layers.empty() && (options.lossless || options.on_straddle == StraddlePolicy::kRefuse))
    return CheckFailed("scale blocks straddle: " + p.layout.layout.ToString() + " -> " + p.target.qkv.ToString() +
                       " would re-quantize them")
        .File(p.catalogue.root)
        .Expected(options.lossless ? "nothing that rounds (--lossless)" : "no straddling blocks (--on-straddle refuse)")
        .Found("straddling blocks in the attention of layers " + layers)
        .Advice(p.form.InsteadOfStraddling(p));
  if (options.lossless && losses.rounded > 0)
    return CheckFailed(options.recipe ? "the recipe rounds" : "the conversion rounds")
        .File(p.catalogue.root)
        .Expected("nothing that rounds (--lossless)")
        .Found(std::to_string(losses.rounded) + " weights whose values do not fit the target type exactly")
        .Advice("keep them (--dtype keep), or leave --lossless out");
  return {};
}

// What became of each array of the catalogue, whose plan it is, and its digest: nothing of the plan may change
// afterwards. `dropped`: reasons of a draft, by array of the catalogue; "": not needed.
void FinishPlan(const Planning& p, const std::vector<std::string>& dropped, Plan* plan) {
  plan->source_fingerprint = p.stored.Fingerprint();
  std::vector<uint8_t> used(p.stored.arrays.size(), 0);
  plan->fates.reserve(used.size());
  for (const SourceArray& source : plan->sources) used[source.array] = 1;
  for (uint32_t i = 0; i < used.size(); ++i) {
    SourceFate fate{i, Fate::kUsed, ""};
    if (used[i] == 0) {
      fate.fate = Fate::kDropped;
      fate.reason = p.view == nullptr ? dropped[i] : p.form.WhyUnread(p, i);
      if (fate.reason.empty()) fate.reason = "not needed";
    }
    plan->fates.push_back(std::move(fate));
  }
  plan->digest = PlanDigest(p.stored, *plan);
}

// One form is asked: what it aims at, the plan as Hugging Face has it, that plan arranged and placed, described, and at
// last in terms of what is stored.
Result<Plan> MakePlanOf(Planning p) {
  const Form& form = p.form;
  if (p.view != nullptr && p.view->trained) p.chooser.NarrowRuns();
  MIMO_RETURN_IF_ERROR(CheckFileNames(p.stored, {}));
  MIMO_RETURN_IF_ERROR(form.Check(p));
  MIMO_RETURN_IF_ERROR(CheckStrays(p.stored, p.options.unknown));
  MIMO_ASSIGN_OR_RETURN(const Choice attention, ChooseAttentionStorage(&p));
  p.target = StartTarget(p, attention);
  MIMO_RETURN_IF_ERROR(form.Aim(attention, &p));

  MIMO_RETURN_IF_ERROR(form.Fill(&p));
  MIMO_RETURN_IF_ERROR(p.chooser.CheckAllUsed());
  MIMO_RETURN_IF_ERROR(ApplyFilter(p.options, &p.draft));
  MIMO_RETURN_IF_ERROR(form.Arrange(&p));
  p.losses = LossesOf(p);
  MIMO_RETURN_IF_ERROR(CheckPromises(p));
  const PlacementOptions placement = form.Place(&p);
  const std::vector<std::string> dropped = p.draft.TakeReasons();
  Plan plan = PlaceOutputs(std::move(p.draft), placement);

  plan.form = WordOf(kForms, form.kind());
  plan.options = p.options;
  plan.source_layout = p.layout;
  plan.target_layout = p.target.qkv;
  plan.lossless = !p.losses.any();
  MIMO_RETURN_IF_ERROR(form.Describe(p, &plan));
  if (p.view != nullptr) {
    MIMO_RETURN_IF_ERROR(ReadFromStored(*p.view, p.stored, &plan));
    GroupFiles(plan);
  }
  MIMO_RETURN_IF_ERROR(CheckFileNames(p.stored, plan.carried));
  MIMO_RETURN_IF_ERROR(CheckOutputNames(p.stored, plan));
  form.Note(&p);
  NoteCacheScales(&p, plan);
  plan.notes = std::move(p.notes);
  FinishPlan(p, dropped, &plan);
  // What a plan that is read must hold to, one that is made does: should the planner be wrong, nothing is written.
  MIMO_RETURN_IF_ERROR(ValidatePlan(p.stored, plan));
  return plan;
}

// What --qkv auto is for this source. Readers of values take fused attention for plain [Q;K;V], so that it is split;
// targets, recipes and references choose their own layout.
QkvWish ResolveAuto(const PlanOptions& options, const Inventory& inventory, bool viewed) {
  if (options.qkv.kind != QkvWish::Kind::kAuto) return options.qkv;
  const bool values = options.dtype != DTypeChoice::kKeep && !options.recipe;
  const bool free = options.to == TargetKind::kHf && !options.format && !options.like && !viewed;
  return QkvWish(values && free && inventory.fused ? "split" : "keep");
}

}  // namespace

Result<Plan> MakePlan(const Catalogue& catalogue, const Inventory& inventory, const LayoutVerdict& source,
                      const PlanOptions& options, const SurveyFacts& facts, const ViewedPlan* viewed) {
  const Like* like = viewed == nullptr ? nullptr : viewed->like;
  PlanOptions completed = options;
  completed.qkv = ResolveAuto(options, inventory, viewed != nullptr);
  if (completed.recipe) completed.recipe = RecipeOfFamily(*completed.recipe, catalogue.config.family->name);
  const Form& form = FormOfOutput(like != nullptr, &completed);
  MIMO_ASSIGN_OR_RETURN(StorageChooser chooser, StorageChooser::Make(catalogue, completed));
  const Catalogue& stored = viewed == nullptr ? catalogue : viewed->stored;
  const View* view = viewed == nullptr ? nullptr : &viewed->view;
  return MakePlanOf({form, catalogue, inventory, source, completed, facts, stored, view, like, std::move(chooser)});
}

Result<Plan> MakePlan(const Checkpoint& c, const PlanOptions& options) {
  if (!c.view) return MakePlan(c.stored, c.inventory, c.layout, options, c.facts);
  const ViewedPlan viewed{*c.view, c.stored, c.like.get()};
  return MakePlan(c.view->catalogue, c.inventory, c.layout, options, c.facts, &viewed);
}

}  // namespace mimo
