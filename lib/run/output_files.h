// The tensor files of a run in OUT/.mimo-partial/files: made, opened again, and closed for good.
#pragma once

#include <memory>

#include "lib/base/file_system.h"
#include "lib/base/status.h"
#include "lib/plan/plan.h"
#include "lib/run/options.h"
#include "lib/run/partial.h"

namespace mimo {

class OutputFiles {
 public:
  // `fs` holds the checkpoint. All references outlive the object.
  OutputFiles(FileSystem& fs, const Catalogue& catalogue, const Plan& plan, const RunOptions& options,
              PartialDirectory& partial);

  // Makes a file at its final length with its header, or links it. Nothing stands under its name.
  Status Make(const PlanFile& file, bool linked);
  // Opens a file that Make made, and no other that has taken its name: kIo.
  Result<std::unique_ptr<WritableFile>> OpenAgain(const PlanFile& file);
  // Syncs a file whose data and header are complete, and takes note of what it is now. kIo when it is not what Make
  // made: its header and length stand, whatever came between.
  Status Finish(const PlanFile& file, WritableFile& out);
  // Whether the link that is there is the one that was made (PartialDirectory::NoteOf), and of the kind that is asked
  // for.
  Result<bool> StandsAsLink(const PlanFile& file);
  // kIo when a link is no longer the one that Make made.
  Status CheckLink(const PlanFile& file);

 private:
  Status Close(WritableFile& out) const;
  Status CheckHeader(const PlanFile& file, const FileInfo& made);

  FileSystem& fs_;
  const Catalogue& catalogue_;
  const Plan& plan_;
  const RunOptions& options_;
  PartialDirectory& partial_;
  const bool allocates_;  // blocks in advance: what is written past the page cache finds them
};

}  // namespace mimo
