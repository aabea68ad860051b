#include "lib/forms/open_view.h"

#include <algorithm>

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

Status OpenView(FileSystem& fs, View view, QkvLayout layout, std::string basis, std::string evidence,
                OpenedCheckpoint* opened) {
  Checkpoint& checkpoint = opened->checkpoint;
  checkpoint.cut_rows = std::move(view.cut_rows);
  checkpoint.view = std::make_unique<View>(std::move(view));
  MIMO_ASSIGN_OR_RETURN(checkpoint.inventory, TakeInventory(checkpoint.view->catalogue));
  for (CutRows& rows : RowsOfPadding(checkpoint)) checkpoint.cut_rows.push_back(std::move(rows));
  MIMO_RETURN_IF_ERROR(CountCutRows(fs, checkpoint.stored, &checkpoint.cut_rows));
  checkpoint.layout.layout = layout;
  checkpoint.layout.basis = std::move(basis);
  checkpoint.layout.evidence.push_back(std::move(evidence));
  opened->reached = OpenedCheckpoint::Reached::kLayout;
  return {};
}

std::vector<CutRows> RowsOfPadding(const Checkpoint& checkpoint) {
  std::vector<CutRows> cut;
  const auto& marker = checkpoint.stored.config.marker;
  const Catalogue& catalogue = checkpoint.catalogue();
  if (!marker || !marker->unpadded || marker->unpadded->vocab >= catalogue.config.vocab) return cut;
  const int64_t vocab = marker->unpadded->vocab;
  for (const Weight& weight : checkpoint.inventory.weights) {
    if (weight.id.role != Role::kEmbed && weight.id.role != Role::kLmHead) continue;
    const std::string& name = catalogue.arrays[weight.array].name;
    if (!checkpoint.view) {
      cut.push_back({name, weight.array, vocab, weight.rows - vocab});
      continue;
    }
    for (const Fragment& f : checkpoint.view->fragments[weight.array]) {
      const int64_t first = std::max(vocab - f.row, int64_t{0});
      if (first < f.rows) cut.push_back({name, f.array, f.stored_row + first, f.rows - first});
    }
  }
  return cut;
}

}  // namespace mimo
