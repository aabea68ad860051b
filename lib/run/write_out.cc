#include "lib/run/write_out.h"

namespace mimo {

Result<uint64_t> WriteOut(RunState& run, UnitRun& unit, const StepResult& result) {
  uint64_t written = 0;
  for (const WriteJob& write : result.writes) {
    MIMO_ASSIGN_OR_RETURN(const auto file, run.writers.Get(write.file));
    MIMO_RETURN_IF_ERROR(file->WriteAt(write.offset, write.data));
    written += write.data.size();
    if (const auto part = run.completion.PartOf(write)) unit.AddCrc(part->output, part->crc);
  }
  return written;
}

}  // namespace mimo
