#include "lib/run/completion.h"

#include <algorithm>

#include "lib/base/crc32.h"

namespace mimo {

std::optional<Completion::Part> Completion::PartOf(const WriteJob& write) const {
  const PlanFile& file = plan_.files[write.file];
  if (!file.container->HoldsChecksums() || write.data.empty()) return std::nullopt;
  const auto after = std::upper_bound(file.outputs.begin(), file.outputs.end(), write.offset,
                                      [&](uint64_t at, uint32_t o) { return at < plan_.outputs[o].begin; });
  const uint32_t output = *(after - 1);
  const uint64_t end = write.offset + write.data.size();
  return Part{output, Crc32OfPart(Crc32(write.data), plan_.outputs[output].end - end)};
}

void Completion::Add(const Part& part) {
  const std::lock_guard lock(mutex_);
  if (crcs_.empty()) crcs_.resize(plan_.outputs.size(), 0);
  crcs_[part.output] ^= part.crc;
}

Status Completion::Complete(const PlanFile& file, WritableFile& out) {
  std::vector<TensorInfo> arrays;
  std::vector<uint32_t> crcs(file.outputs.size(), 0);
  for (const uint32_t o : file.outputs) {
    const OutputArray& output = plan_.outputs[o];
    arrays.push_back({output.name, output.dtype, output.shape, output.begin, output.end});
  }
  {
    const std::lock_guard lock(mutex_);
    for (size_t i = 0; i < crcs.size() && !crcs_.empty(); ++i) crcs[i] = crcs_[file.outputs[i]];
  }
  return file.container->Complete(arrays, crcs, out);
}

}  // namespace mimo
