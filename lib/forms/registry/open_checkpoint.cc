#include "lib/forms/registry/open_checkpoint.h"

#include "lib/foreign/recognise.h"
#include "lib/forms/registry/registry.h"

namespace mimo {
namespace {

// All steps, noting in `opened` how far they came, and in `form` whose steps they were; null while nobody knows.
Status Open(FileSystem& fs, const std::string& root, const OpenOptions& options, OpenedCheckpoint* opened,
            const Form** form) {
  for (const Form* one : Forms()) {
    MIMO_ASSIGN_OR_RETURN(const bool recognised, one->RecognisesDirectory(fs, root));
    if (!recognised) continue;
    *form = one;
    return one->Open(fs, root, options, opened);
  }
  MIMO_ASSIGN_OR_RETURN(opened->checkpoint.stored,
                        OpenCatalogue(fs, root, {.without_mtp = options.without_broken_mtp}));
  *form = &FormOfStored(opened->checkpoint.stored);
  return (*form)->Open(fs, root, options, opened);
}

// What was stumbled over, or the true name of what was to be opened. Names of arrays are signs in Hugging Face
// directories alone: other forms have names of their own.
Status NameForeign(FileSystem& fs, const std::string& root, const Catalogue& stored, const Form* form, Status status) {
  if (status.ok()) {
    const auto known = RecogniseForeign(fs, GatherOpenedEvidence(fs, stored), /*opened=*/true);
    return known ? Status(RefuseByName(*known, nullptr)) : std::move(status);
  }
  if (status.error().code != ErrorCode::kBadInput) return status;
  const bool hf = form != nullptr && form->kind() == FormKind::kHf;  // engines' directories too
  ForeignEvidence evidence = GatherForeignEvidence(fs, root, hf ? &stored : nullptr);
  if (form != nullptr && !hf) evidence.arrays.clear();
  const auto known = RecogniseForeign(fs, evidence, /*opened=*/false);
  return known ? Status(RefuseByName(*known, &status.error())) : std::move(status);
}

}  // namespace

OpenedCheckpoint OpenAsFarAsPossible(FileSystem& fs, const std::string& root, const OpenOptions& options) {
  OpenedCheckpoint opened;
  const Form* form = nullptr;
  Status status = Open(fs, root, options, &opened, &form);
  opened.status = NameForeign(fs, root, opened.checkpoint.stored, form, std::move(status));
  return opened;
}

Result<Checkpoint> OpenCheckpoint(FileSystem& fs, const std::string& root, const OpenOptions& options) {
  OpenedCheckpoint opened = OpenAsFarAsPossible(fs, root, options);
  MIMO_RETURN_IF_ERROR(std::move(opened.status));
  return std::move(opened.checkpoint);
}

}  // namespace mimo
