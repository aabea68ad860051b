#include "lib/run/step_layout.h"

#include "lib/decode/row_bytes.h"

namespace mimo {
namespace {

constexpr uint64_t kMaxGap = 64 << 10;

// Where rooms may begin.
uint64_t Aligned(uint64_t offset) {
  return (offset + 63) / 64 * 64;
}

}  // namespace

void StepLayout::Read(uint32_t source, int64_t row, int64_t rows) {
  const StoredArray& array = job_.array(source);
  sources_.Add(array.file, array.begin + Rows(row, array.row_bytes()), Rows(rows, array.row_bytes()));
}

void StepLayout::ReadScales(uint32_t source, int64_t row, int64_t rows) {
  VisitScaleRows(job_.plan.sources[source], row, rows,
                 [this](uint32_t scale, int64_t first, int64_t count) { Read(scale, first, count); });
}

void StepLayout::Make(uint32_t index, int64_t row, int64_t rows) {
  const OutputArray& output = job_.plan.outputs[index];
  outputs_.Add(output.file, output.begin + Rows(row, output.row_bytes()), Rows(rows, output.row_bytes()));
}

void StepLayout::AddRoom(uint64_t bytes) {
  if (bytes == 0) return rooms_.push_back(kNoRoom);
  rooms_.push_back(Aligned(room_bytes_));
  room_bytes_ = rooms_.back() + bytes;
}

void StepLayout::Place(uint64_t limit, DirectSides direct) {
  PlaceAll(limit, direct);
  // Each keeps to the limit for itself; where both do not fit, blocks are no matter.
  if (sources_.end() > limit && (direct.reads || direct.writes)) PlaceAll(limit, {});
}

void StepLayout::PlaceAll(uint64_t limit, DirectSides direct) {
  outputs_.Place(0, 0, limit, direct.writes);
  first_room_ = Aligned(outputs_.end());
  const uint64_t made = room_bytes_ == 0 ? outputs_.end() : first_room_ + room_bytes_;
  sources_.Place(made, kMaxGap, limit > made ? limit - made : 0, direct.reads);
}

const std::byte* StepBuffer::Row(uint32_t source, int64_t row) const {
  const StoredArray& array = job().array(source);
  return data_ + layout_.sources_.OffsetOf(array.file, array.begin + Rows(row, array.row_bytes()));
}

std::byte* StepBuffer::Output(uint32_t output, int64_t row) const {
  const OutputArray& array = job().plan.outputs[output];
  return data_ + layout_.outputs_.OffsetOf(array.file, array.begin + Rows(row, array.row_bytes()));
}

std::byte* StepBuffer::Room(size_t index) const {
  const uint64_t room = layout_.rooms_[index];
  return room == StepLayout::kNoRoom ? nullptr : data_ + layout_.first_room_ + room;
}

}  // namespace mimo
