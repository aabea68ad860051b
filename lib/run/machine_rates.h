// What this machine does in a second, measured: for mimo-convert bench, which says what a conversion will wait for.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/base/status.h"
#include "lib/model/catalogue.h"

namespace mimo {

// Bytes per second, of all threads together; 0: could not be measured here.
struct MachineRates {
  double read_buffered = 0;  // tensor files of the checkpoint, through the page cache, which may hold them
  double read_direct = 0;    // past it
  double write_buffered = 0, write_direct = 0;  // new files beside OUT, synced
  double copy = 0;                              // memory to memory, read and written together
  // Kernels: bytes of source and target together.
  double hash = 0;  // of targets alone
  double fp8_to_bf16 = 0, fp8_to_nvfp4 = 0;
};

struct MeasureOptions {
  int threads = 0;                     // 0: one per CPU that the process may use
  uint64_t bytes = uint64_t{1} << 30;  // to read and to write, each way
};

// Reads `catalogue`, and writes files into `directory`, which exists, and removes them again. kIo.
Result<MachineRates> MeasureMachine(FileSystem& fs, const Catalogue& catalogue, const std::string& directory,
                                    const MeasureOptions& options);

}  // namespace mimo
