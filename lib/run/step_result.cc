#include "lib/run/step_result.h"

#include <algorithm>
#include <tuple>

#include "lib/decode/row_bytes.h"

namespace mimo {

void StepResult::Emit(const Job& job, uint32_t output, int64_t row, int64_t rows, const std::byte* data,
                      uint32_t source, const kernels::Anomalies& anomalies) {
  const OutputArray& array = job.plan.outputs[output];
  const std::span<const std::byte> bytes(data, Rows(rows, array.row_bytes()));
  const OutputMode mode = job.modes[output];
  const Hash128 hash =
      mode == OutputMode::kMake ? Hash128() : HashRows(bytes, array.row_bytes(), static_cast<uint64_t>(row));
  if (mode == OutputMode::kWrite || mode == OutputMode::kMake) {
    writes.push_back({array.file, array.begin + Rows(row, array.row_bytes()), bytes});
  }
  outputs.push_back({output, source, hash, anomalies});
}

void StepResult::MergeWrites() {
  std::sort(writes.begin(), writes.end(), [](const WriteJob& a, const WriteJob& b) {
    return std::tie(a.file, a.offset) < std::tie(b.file, b.offset);
  });
  size_t kept = 0;
  for (const WriteJob& next : writes) {
    if (kept > 0) {
      WriteJob& last = writes[kept - 1];
      if (last.file == next.file && last.offset + last.data.size() == next.offset &&
          last.data.data() + last.data.size() == next.data.data()) {
        last.data = {last.data.data(), last.data.size() + next.data.size()};
        continue;
      }
    }
    writes[kept++] = next;
  }
  writes.resize(kept);
}

}  // namespace mimo
