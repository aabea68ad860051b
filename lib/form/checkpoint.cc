#include "lib/form/checkpoint.h"

#include <algorithm>

#include "lib/form/like.h"
#include "lib/form/megatron_store.h"

namespace mimo {
namespace {

Status CheckFlag(const std::string& source_qkv) {
  if (source_qkv.empty()) return {};
  return UsageError("--source-qkv speaks of Hugging Face directories")
      .Expected("none: the form of this directory says how attention lies")
      .Found(source_qkv);
}

// Views have no data to survey: how their arrays lie follows from the form.
Status OpenView(const std::string& form, const std::string& source_qkv, Checkpoint* checkpoint) {
  MIMO_RETURN_IF_ERROR(CheckFlag(source_qkv));
  const bool ranks = form == "sharded-state";
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

Result<Checkpoint> OpenMegatronCheckpoint(FileSystem& fs, const std::string& root, const MegatronPlace& place,
                                          const Catalogue* like) {
  Checkpoint checkpoint;
  MIMO_ASSIGN_OR_RETURN(MegatronStore store, OpenMegatron(fs, root, place, like));
  MIMO_ASSIGN_OR_RETURN(View view, ViewOfMegatron(store));
  if (!store.skipped.empty())
    view.skipped = std::to_string(store.skipped.size()) + " keys of training state (" + store.skipped[0] + " ...)";
  checkpoint.stored = std::move(store.stored);
  checkpoint.view = std::make_unique<View>(std::move(view));
  MIMO_ASSIGN_OR_RETURN(checkpoint.inventory, TakeInventory(checkpoint.view->catalogue));
  checkpoint.layout.layout = {QkvKind::kSplitIndependent, 1};
  checkpoint.layout.basis = "Megatron's linear_qkv";
  checkpoint.layout.evidence.push_back("a Megatron checkpoint (" + store.format + "): fused(G) of each layer");
  return checkpoint;
}

}  // namespace

Checkpoint::Checkpoint() = default;
Checkpoint::Checkpoint(Checkpoint&&) noexcept = default;
Checkpoint& Checkpoint::operator=(Checkpoint&&) noexcept = default;
Checkpoint::~Checkpoint() = default;

Result<Checkpoint> OpenCheckpoint(FileSystem& fs, const std::string& root, const std::string& source_qkv,
                                  bool allow_anomalies, const Catalogue* like) {
  MIMO_ASSIGN_OR_RETURN(const auto megatron, FindMegatron(fs, root));
  if (megatron) {
    MIMO_RETURN_IF_ERROR(CheckFlag(source_qkv));
    return OpenMegatronCheckpoint(fs, root, *megatron, like);
  }
  Checkpoint checkpoint;
  MIMO_ASSIGN_OR_RETURN(checkpoint.stored, OpenCatalogue(fs, root));
  if (const std::string form = FormOf(checkpoint.stored); !form.empty()) {
    MIMO_RETURN_IF_ERROR(OpenView(form, source_qkv, &checkpoint));
    return checkpoint;
  }
  const Catalogue& catalogue = checkpoint.stored;
  MIMO_ASSIGN_OR_RETURN(checkpoint.inventory, TakeInventory(catalogue));
  std::vector<QkvLayout> candidates;
  for (const LayoutCandidate& c : FeasibleLayouts(catalogue, checkpoint.inventory)) candidates.push_back(c.layout);
  if (!source_qkv.empty()) {
    MIMO_ASSIGN_OR_RETURN(QkvLayout flagged, ParseLayoutFlag(source_qkv, catalogue));
    if (std::find(candidates.begin(), candidates.end(), flagged) == candidates.end()) candidates.push_back(flagged);
  }
  MIMO_ASSIGN_OR_RETURN(checkpoint.facts, Survey(fs, catalogue, checkpoint.inventory, candidates, allow_anomalies));
  MIMO_ASSIGN_OR_RETURN(checkpoint.layout, DecideLayout(catalogue, checkpoint.inventory, checkpoint.facts, source_qkv));
  return checkpoint;
}

}  // namespace mimo
