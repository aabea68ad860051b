#include "lib/form/checkpoint.h"

#include <algorithm>

#include "lib/form/like.h"
#include "lib/form/megatron_store.h"

namespace mimo {
namespace {

Status CheckFlag(const std::optional<QkvWish>& source_qkv) {
  if (!source_qkv) return {};
  return UsageError("--source-qkv speaks of Hugging Face directories")
      .Expected("none: the form of this directory says how attention lies")
      .Found(source_qkv->text);
}

// Views have no data to survey: how their arrays lie follows from the form.
Status OpenView(FormKind form, Checkpoint* checkpoint) {
  const bool ranks = form == FormKind::kShardedState;
  MIMO_ASSIGN_OR_RETURN(View view, ranks ? ViewOfRanks(checkpoint->stored) : ViewOfNeuron(checkpoint->stored));
  checkpoint->view = std::make_unique<View>(std::move(view));
  MIMO_ASSIGN_OR_RETURN(checkpoint->inventory, TakeInventory(checkpoint->view->catalogue));
  LayoutVerdict& layout = checkpoint->layout;
  layout.layout = checkpoint->view->chunks > 0 ? QkvLayout{QkvKind::kFused, checkpoint->view->chunks}
                                               : QkvLayout{QkvKind::kSplitIndependent, 1};
  layout.basis = checkpoint->stored.config.marker ? "marker" : "names of files and arrays";
  layout.evidence.push_back(ranks
                                ? "files of " + std::to_string(checkpoint->view->chunks) + " ranks, chunk r is rank r's"
                                : "a preprocessed Neuron directory");
  return {};
}

Status OpenMegatronView(FileSystem& fs, const std::string& root, const MegatronPlace& place, const Catalogue* like,
                        Checkpoint* checkpoint) {
  MIMO_ASSIGN_OR_RETURN(MegatronStore store, OpenMegatron(fs, root, place, like));
  MIMO_ASSIGN_OR_RETURN(View view, ViewOfMegatron(store));
  if (!store.skipped.empty())
    view.skipped = std::to_string(store.skipped.size()) + " keys of training state (" + store.skipped[0] + " ...)";
  checkpoint->stored = std::move(store.stored);
  checkpoint->view = std::make_unique<View>(std::move(view));
  MIMO_ASSIGN_OR_RETURN(checkpoint->inventory, TakeInventory(checkpoint->view->catalogue));
  checkpoint->layout.layout = {QkvKind::kSplitIndependent, 1};
  checkpoint->layout.basis = "Megatron's linear_qkv";
  checkpoint->layout.evidence.push_back("a Megatron checkpoint (" + std::string(WordOf(kForms, store.format)) +
                                        "): fused(G) of each layer");
  return {};
}

// All steps, noting in `opened` how far they came.
Status Open(FileSystem& fs, const std::string& root, const OpenOptions& options, OpenedCheckpoint* opened) {
  using Reached = OpenedCheckpoint::Reached;
  Checkpoint& checkpoint = opened->checkpoint;
  MIMO_ASSIGN_OR_RETURN(const auto megatron, FindMegatron(fs, root));
  FormKind form = FormKind::kTorchDist;
  if (!megatron) {
    MIMO_ASSIGN_OR_RETURN(checkpoint.stored, OpenCatalogue(fs, root));
    form = FormOf(checkpoint.stored);
  }
  if (form != FormKind::kHf) {
    Catalogue reference;
    const Catalogue* like = options.like;
    if (!options.like_root.empty()) {
      MIMO_ASSIGN_OR_RETURN(reference, OpenCatalogue(fs, options.like_root));
      like = &reference;
    }
    MIMO_RETURN_IF_ERROR(CheckFlag(options.source_qkv));
    MIMO_RETURN_IF_ERROR(megatron ? OpenMegatronView(fs, root, *megatron, like, &checkpoint)
                                  : OpenView(form, &checkpoint));
    opened->reached = Reached::kLayout;
    return {};
  }
  opened->reached = Reached::kStored;
  const Catalogue& catalogue = checkpoint.stored;
  MIMO_ASSIGN_OR_RETURN(checkpoint.inventory, TakeInventory(catalogue));
  opened->reached = Reached::kInventory;
  std::vector<QkvLayout> candidates;
  for (const LayoutCandidate& c : FeasibleLayouts(catalogue, checkpoint.inventory)) candidates.push_back(c.layout);
  if (options.source_qkv) {
    MIMO_ASSIGN_OR_RETURN(const QkvLayout flagged, LayoutOfWish(*options.source_qkv, catalogue));
    if (std::find(candidates.begin(), candidates.end(), flagged) == candidates.end()) candidates.push_back(flagged);
  }
  MIMO_ASSIGN_OR_RETURN(checkpoint.facts,
                        Survey(fs, catalogue, checkpoint.inventory, candidates, options.allow_anomalies));
  MIMO_ASSIGN_OR_RETURN(checkpoint.layout,
                        DecideLayout(catalogue, checkpoint.inventory, checkpoint.facts, options.source_qkv));
  opened->reached = Reached::kLayout;
  return {};
}

}  // namespace

Checkpoint::Checkpoint() = default;
Checkpoint::Checkpoint(Checkpoint&&) noexcept = default;
Checkpoint& Checkpoint::operator=(Checkpoint&&) noexcept = default;
Checkpoint::~Checkpoint() = default;

OpenedCheckpoint OpenAsFarAsPossible(FileSystem& fs, const std::string& root, const OpenOptions& options) {
  OpenedCheckpoint opened;
  opened.status = Open(fs, root, options, &opened);
  return opened;
}

Result<Checkpoint> OpenCheckpoint(FileSystem& fs, const std::string& root, const OpenOptions& options) {
  OpenedCheckpoint opened = OpenAsFarAsPossible(fs, root, options);
  MIMO_RETURN_IF_ERROR(std::move(opened.status));
  return std::move(opened.checkpoint);
}

}  // namespace mimo
