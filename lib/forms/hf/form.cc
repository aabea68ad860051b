#include "lib/forms/form.h"

#include <algorithm>
#include <unordered_map>

#include "lib/forms/cut_rows.h"
#include "lib/forms/hf/hf_config.h"
#include "lib/forms/open_view.h"
#include "lib/forms/refusals.h"
#include "lib/layout/row_profile.h"
#include "lib/model/role_groups.h"

namespace mimo {
namespace {

bool Restores(const Planning& p) {
  const std::optional<LayoutMarker>& marker = p.catalogue.config.marker;
  const QkvWish::Kind wish = p.options.qkv.kind;
  const bool asked = wish == QkvWish::Kind::kRestore || (wish == QkvWish::Kind::kKeep && p.view != nullptr);
  return asked && marker && (marker->source || marker->unpadded);
}

// The dimensions of what was padded for ranks.
void Unpad(Planning* p) {
  const std::optional<LayoutMarker>& marker = p->catalogue.config.marker;
  if (!marker || !marker->unpadded) return;
  const UnpaddedDimensions& d = *marker->unpadded;
  ModelConfig& model = p->target.model;
  model.global.heads = d.heads;
  model.global.kv_heads = d.kv_heads;
  model.window.heads = d.swa_heads;
  model.window.kv_heads = d.swa_kv_heads;
  model.intermediate = d.intermediate;
  model.moe_intermediate = d.moe_intermediate;
  model.vocab = d.vocab;
}

// Everything but the layout that the way back undoes: blocks and padding.
Status Undo(Planning* p) {
  const LayoutMarker& marker = *p->catalogue.config.marker;
  if (!marker.folded.empty())
    return UsageError("the checkpoint has its attention_value_scale in its weights, and cannot be restored exactly")
        .Expected("--qkv with a layout, which keeps it there")
        .Found("--qkv restore");
  if (p->catalogue.origin) {
    MIMO_ASSIGN_OR_RETURN(const ModelConfig origin, ParseModelConfig(p->catalogue.origin->config, "mimo-source"));
    p->target.block_rows = origin.block_rows;
  }
  Unpad(p);
  return {};
}

bool WasQuantized(const Catalogue& catalogue) {
  if (!catalogue.origin) return true;
  const Result<ModelConfig> origin = ParseModelConfig(catalogue.origin->config, "");
  return !origin.ok() || !origin.value().quant_method.empty();
}

// The layout that --qkv, or else the recipe, wishes for.
Status ChooseLayout(const Choice& attention, Planning* p) {
  Target* target = &p->target;
  const Recipe* recipe = p->chooser.recipe();
  QkvWish wish = p->options.qkv;
  if (wish.kind == QkvWish::Kind::kKeep && recipe != nullptr && recipe->qkv) wish = *recipe->qkv;
  if (target->restores && p->catalogue.config.marker->source) {
    target->qkv = LayoutOf(*p->catalogue.config.marker->source);
    // Fused FP8 whose scales are gone would be taken for plain [Q;K;V]; values have no grid.
    if (!target->keeps_fp8 && WasQuantized(p->catalogue)) target->qkv = kOwnGrids;
    return CheckFits(*p, "the source's layout");
  }
  if (wish.kind == QkvWish::Kind::kRestore) wish = QkvWish();
  const QkvLayout source = p->layout.layout;
  const int64_t kv_heads = target->model.global.kv_heads;
  const bool split = wish.kind == QkvWish::Kind::kSplit && !wish.chunks;
  if (wish.kind == QkvWish::Kind::kKeep) {
    target->qkv = source;
  } else if (split && !target->keeps_fp8) {
    target->qkv = kOwnGrids;
  } else if (split) {
    // The cut of the chunks as they are loses nothing; replicas are dropped.
    target->qkv = source.fused() ? QkvLayout{QkvKind::kSplit, std::min(source.chunks, kv_heads)} : source;
    if (target->qkv.kind == QkvKind::kSplit && SameAsIndependent(*p)) target->qkv = kOwnGrids;
  } else if (wish.kind == QkvWish::Kind::kFused && !wish.chunks) {
    target->qkv = source.fused() ? source : QkvLayout{QkvKind::kFused, kv_heads};
  } else {
    MIMO_ASSIGN_OR_RETURN(target->qkv, LayoutOfWish(wish, p->catalogue));
  }
  // A grid that is made anew is each tensor's own: that of the chunks was an accident of how the release was made.
  const bool fresh_grid = attention.kind == Choice::Kind::kEncode && attention.encoding.codec == Codec::kFp8Block;
  if (fresh_grid && wish.kind == QkvWish::Kind::kKeep && target->qkv.kind == QkvKind::kSplit) target->qkv = kOwnGrids;
  MIMO_RETURN_IF_ERROR(CheckNamed(*p, "--qkv " + wish.text));
  return CheckFits(*p, "--qkv " + wish.text);
}

}  // namespace

Status Form::Open(FileSystem& fs, const std::string&, const OpenOptions& options, OpenedCheckpoint* opened) const {
  using Reached = OpenedCheckpoint::Reached;
  Checkpoint& checkpoint = opened->checkpoint;
  opened->reached = Reached::kStored;
  const Catalogue& catalogue = checkpoint.stored;
  MIMO_ASSIGN_OR_RETURN(checkpoint.inventory, TakeInventory(catalogue, {.without_mtp = options.without_broken_mtp}));
  opened->reached = Reached::kInventory;
  checkpoint.cut_rows = RowsOfPadding(checkpoint);
  MIMO_RETURN_IF_ERROR(CountCutRows(fs, catalogue, &checkpoint.cut_rows));
  std::vector<QkvLayout> candidates;
  for (const LayoutCandidate& c : FeasibleLayouts(catalogue, checkpoint.inventory)) candidates.push_back(c.layout);
  if (options.source_qkv) {
    MIMO_ASSIGN_OR_RETURN(const QkvLayout flagged, LayoutOfWish(*options.source_qkv, catalogue));
    if (std::find(candidates.begin(), candidates.end(), flagged) == candidates.end()) candidates.push_back(flagged);
  }
  MIMO_ASSIGN_OR_RETURN(checkpoint.facts,
                        Survey(fs, catalogue, checkpoint.inventory, candidates, options.allow_anomalies));
  if (!options.source_qkv && !catalogue.config.marker) {
    MIMO_ASSIGN_OR_RETURN(checkpoint.facts.rows, LookAtRows(fs, catalogue, checkpoint.inventory));
  }
  MIMO_ASSIGN_OR_RETURN(checkpoint.layout,
                        DecideLayout(catalogue, checkpoint.inventory, checkpoint.facts, options.source_qkv));
  opened->reached = Reached::kLayout;
  return {};
}

Status Form::Check(const Planning& p) const {
  return CheckEach(p, {RefuseFormat, RefuseIteration, RefuseTemplate, RefuseEngineOptions, RefuseTrainingTopology,
                       RefuseExpertCodes, RefuseRanks, CheckFold});
}

Status Form::Aim(const Choice& attention, Planning* p) const {
  const std::optional<LayoutMarker>& marker = p->catalogue.config.marker;
  p->target.restores = Restores(*p);
  p->target.narrows_router = marker && marker->router == DType::kBF16;
  if (p->target.restores) MIMO_RETURN_IF_ERROR(Undo(p));
  if (p->options.logical) Unpad(p);
  return ChooseLayout(attention, p);
}

std::string Form::WhyDropped(const Planning& p, const TensorId& id) const {
  return p.options.text_only && IsTower(id.role) ? "tower, --text-only" : "";
}

PlacementOptions Form::Place(Planning* p) const {
  if (p->view != nullptr)  // nothing that is shown lies in a file as it is
    p->draft.VisitOutputs([](DraftOutput& output) { output.unchanged = false; });
  PlacementOptions placement;
  placement.max_shard_bytes = p->options.max_shard_bytes;
  if (!p->target.restores) {
    placement.layout = p->target.qkv.ToString();
  } else if (const auto& origin = p->catalogue.origin; origin && origin->index && p->options.max_shard_bytes == 0) {
    std::unordered_map<std::string, std::string> home;
    for (const auto& [tensor, file] : origin->index->weight_map) home.emplace(tensor, file);
    p->draft.VisitOutputs([&](DraftOutput& output) {
      if (const auto found = home.find(output.name); found != home.end()) output.file_name = found->second;
    });
  }
  return placement;
}

std::string Form::WhyUnread(const Planning& p, uint32_t array) const {
  if (p.view->constants[array] != 0) return "a constant of the engine";
  return "a replica, padding, or a part of what is dropped";
}

}  // namespace mimo
