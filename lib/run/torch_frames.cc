#include "lib/run/torch_frames.h"

#include <algorithm>
#include <span>
#include <string>

#include "lib/base/crc32.h"
#include "lib/io/torch/item.h"

namespace mimo {

void TorchFrames::Add(const WriteJob& write) {
  const PlanFile& file = plan_.files[write.file];
  if (file.container != Container::kTorchItems || write.data.empty()) return;
  const auto after = std::upper_bound(file.outputs.begin(), file.outputs.end(), write.offset,
                                      [&](uint64_t at, uint32_t o) { return at < plan_.outputs[o].begin; });
  const uint32_t output = *(after - 1);
  const uint64_t end = write.offset + write.data.size();
  const uint32_t part = Crc32OfPart(Crc32(write.data), plan_.outputs[output].end - end);
  const std::lock_guard lock(mutex_);
  if (crcs_.empty()) crcs_.resize(plan_.outputs.size(), 0);
  crcs_[output] ^= part;
}

// Between two arrays lie the tail of one and the head of the next: one write.
Status TorchFrames::Write(const PlanFile& file, WritableFile& out) {
  if (file.container != Container::kTorchItems) return {};
  std::string between;
  uint64_t at = 0;
  for (const uint32_t o : file.outputs) {
    const OutputArray& output = plan_.outputs[o];
    uint32_t crc = 0;
    {
      const std::lock_guard lock(mutex_);
      if (!crcs_.empty()) crc = crcs_[o];
    }
    TorchItemFrame frame = FrameOfTorchItem(output.dtype, output.shape, crc);
    between += frame.head;
    MIMO_RETURN_IF_ERROR(out.WriteAt(at, std::as_bytes(std::span(between))));
    at = output.end;
    between = std::move(frame.tail);
  }
  return between.empty() ? Status() : out.WriteAt(at, std::as_bytes(std::span(between)));
}

}  // namespace mimo
