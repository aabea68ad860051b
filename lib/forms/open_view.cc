#include "lib/forms/open_view.h"

namespace mimo {

Status RefuseSourceQkv(const OpenOptions& options) {
  if (!options.source_qkv) return {};
  return UsageError("--source-qkv speaks of Hugging Face directories")
      .Expected("none: the form of this directory says how attention lies")
      .Found(options.source_qkv->text);
}

std::string BasisOf(const Catalogue& stored) {
  return stored.config.marker ? "marker" : "names of files and arrays";
}

Status OpenView(View view, QkvLayout layout, std::string basis, std::string evidence, OpenedCheckpoint* opened) {
  Checkpoint& checkpoint = opened->checkpoint;
  checkpoint.view = std::make_unique<View>(std::move(view));
  MIMO_ASSIGN_OR_RETURN(checkpoint.inventory, TakeInventory(checkpoint.view->catalogue));
  checkpoint.layout.layout = layout;
  checkpoint.layout.basis = std::move(basis);
  checkpoint.layout.evidence.push_back(std::move(evidence));
  opened->reached = OpenedCheckpoint::Reached::kLayout;
  return {};
}

}  // namespace mimo
