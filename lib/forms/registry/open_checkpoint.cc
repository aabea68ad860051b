#include "lib/forms/registry/open_checkpoint.h"

#include "lib/forms/registry/registry.h"

namespace mimo {
namespace {

// All steps, noting in `opened` how far they came.
Status Open(FileSystem& fs, const std::string& root, const OpenOptions& options, OpenedCheckpoint* opened) {
  for (const Form* form : Forms()) {
    MIMO_ASSIGN_OR_RETURN(const bool recognised, form->RecognisesDirectory(fs, root));
    if (recognised) return form->Open(fs, root, options, opened);
  }
  MIMO_ASSIGN_OR_RETURN(opened->checkpoint.stored, OpenCatalogue(fs, root));
  return FormOfStored(opened->checkpoint.stored).Open(fs, root, options, opened);
}

}  // namespace

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
