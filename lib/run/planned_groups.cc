#include "lib/run/planned_groups.h"

#include <algorithm>
#include <cstring>
#include <tuple>
#include <utility>

#include "lib/decode/row_bytes.h"
#include "lib/run/backend.h"
#include "lib/run/encode_strips.h"
#include "lib/run/encode_work.h"
#include "lib/run/group_work.h"
#include "lib/run/needs.h"
#include "lib/run/sources.h"
#include "lib/run/step_work.h"

namespace mimo {
namespace {

constexpr uint64_t kMadeStepBytes = 16 << 20;
constexpr size_t kMadeReaders = 128;
constexpr size_t kKnownGroups = 64;

// What a unit makes, and nothing of what it reads.
class MadeRows final : public Needs {
 public:
  using Needs::Needs;
  struct Rows {
    uint32_t output;
    int64_t row, rows;
  };
  void Read(uint32_t, int64_t, int64_t) override {}
  void ReadScales(uint32_t, int64_t, int64_t) override {}
  void Make(uint32_t output, int64_t row, int64_t rows) override { made.push_back({output, row, rows}); }
  void AddRoom(uint64_t) override {}
  std::vector<Rows> made;
};

}  // namespace

struct StepsOfGroups::Made {
  std::unique_ptr<std::byte[]> buffer;
  uint64_t bytes = 0;
  StepResult result;                             // its writes point into the buffer, or the plan
  std::vector<std::pair<Place, float>> scalars;  // elements of global and input scales

  // Copies what there is of [begin, begin + out) of a file.
  void Copy(uint32_t file, uint64_t begin, std::span<std::byte> out) const {
    const uint64_t end = begin + out.size();
    const auto copy = [&](uint64_t at, std::span<const std::byte> data) {
      const uint64_t from = std::max(begin, at), to = std::min(end, at + data.size());
      if (from < to) std::memcpy(out.data() + (from - begin), data.data() + (from - at), to - from);
    };
    for (const WriteJob& write : result.writes)
      if (write.file == file) copy(write.offset, write.data);
    for (const auto& [place, value] : scalars) {
      if (place.file != file) continue;
      for (uint64_t at = place.begin; at < place.end; at += sizeof value)
        copy(at, {reinterpret_cast<const std::byte*>(&value), sizeof value});
    }
  }
};

struct StepsOfGroups::Slot {
  std::mutex mutex;
  std::shared_ptr<const Made> made;
};

StepsOfGroups::StepsOfGroups(FileSystem& fs, const Catalogue& catalogue, const Plan& plan, uint64_t memory_bytes)
    : fs_(fs),
      catalogue_(catalogue),
      plan_(plan),
      memory_bytes_(memory_bytes),
      job_{catalogue, plan, std::vector<OutputMode>(plan.outputs.size(), OutputMode::kMake)},
      readers_(
          kMadeReaders, [this](uint32_t file) { return OpenUnchanged(fs_, catalogue_, file); },
          [](ReadableFile&) { return Status(); }) {}

StepsOfGroups::~StepsOfGroups() = default;

kernels::Anomalies StepsOfGroups::anomalies() const {
  const std::lock_guard lock(mutex_);
  return anomalies_;
}

Status StepsOfGroups::Read(uint32_t output, uint64_t begin, std::span<std::byte> out) {
  const OutputArray& array = plan_.outputs[output];
  if (array.unchanged) {  // as it lies in the source
    const StoredArray& source = job_.array(array.pieces[0].source);
    MIMO_ASSIGN_OR_RETURN(const auto file, readers_.Get(source.file));
    return file->ReadAt(source.begin + (begin - array.begin), out);
  }
  const std::shared_ptr<const Group> group = GroupOf(array.group);
  const uint64_t end = begin + out.size();
  for (const Place& place : group->places) {
    const uint64_t from = std::max(begin, place.begin), to = std::min(end, place.end);
    if (place.file != array.file || from >= to) continue;
    MIMO_ASSIGN_OR_RETURN(const auto made, StepOf(array.group, place.step, *group));
    made->Copy(array.file, from, out.subspan(from - begin, to - from));
  }
  return {};
}

std::shared_ptr<const StepsOfGroups::Group> StepsOfGroups::GroupOf(uint32_t group) {
  {
    const std::lock_guard lock(mutex_);
    if (const auto known = groups_.find(group); known != groups_.end()) return known->second;
  }
  auto fresh = std::make_shared<Group>();
  PartLoader loader(job_, UINT64_MAX);
  StepCutter cutter(job_, loader, kMadeStepBytes, UINT64_MAX, {{group, 0, kNone}});
  while (std::optional<Step> step = cutter.Next()) {
    AddPlaces(*step, static_cast<uint32_t>(fresh->steps.size()), fresh.get());
    fresh->steps.push_back(std::move(*step));
  }
  std::sort(fresh->places.begin(), fresh->places.end(), [](const Place& a, const Place& b) {
    return std::tie(a.file, a.begin, a.step) < std::tie(b.file, b.begin, b.step);
  });
  const std::lock_guard lock(mutex_);
  if (groups_.size() >= kKnownGroups) groups_.clear();
  return groups_.try_emplace(group, std::move(fresh)).first->second;
}

void StepsOfGroups::AddPlaces(const Step& step, uint32_t number, Group* group) const {
  MadeRows rows(job_);
  for (const RowStrip& strip : step.strips)
    for (const RowTarget& target : strip.targets) rows.Make(target.output, target.row, strip.rows);
  for (const CellJob& job : step.cells) {
    const CellRow& cell = plan_.groups[job.group].cells[job.cell];
    for (const CellSegment& segment : cell.segments) rows.Make(segment.output, segment.target_row, segment.rows);
    rows.Make(cell.scale_output, cell.scale_row, 1);
  }
  for (const TurnUnit& unit : step.turns)
    for (const TurnRows& turned : unit.targets) rows.Make(turned.output, turned.row, turned.rows);
  for (const EncodeStrip& strip : step.encodes) {
    PlaceEncode(strip, GlobalPass::kWhole, &rows);
    const EncodedWeight& weight = plan_.groups[strip.group].encoded[strip.weight];
    if (strip.row != weight.row) continue;
    for (const uint32_t scalars : {weight.global, weight.input}) {
      if (scalars == kNone) continue;
      const OutputArray& output = plan_.outputs[scalars];
      const uint64_t begin = output.begin + Rows(weight.scalar, sizeof(float));
      group->places.push_back({output.file, begin, begin + Rows(weight.scalars, sizeof(float)), number});
    }
  }
  for (const MadeRows::Rows& made : rows.made) {
    const OutputArray& output = plan_.outputs[made.output];
    const uint64_t begin = output.begin + Rows(made.row, output.row_bytes());
    group->places.push_back({output.file, begin, begin + Rows(made.rows, output.row_bytes()), number});
  }
}

Result<std::shared_ptr<const StepsOfGroups::Made>> StepsOfGroups::StepOf(uint32_t group, uint32_t step,
                                                                         const Group& steps) {
  const Key key(group, step);
  std::shared_ptr<Slot> slot;
  {
    const std::lock_guard lock(mutex_);
    std::shared_ptr<Slot>& known = slots_[key];
    if (!known) known = std::make_shared<Slot>();
    slot = known;
    if (const auto used = std::find(order_.begin(), order_.end(), key); used != order_.end())
      order_.splice(order_.begin(), order_, used);
  }
  const std::lock_guard making(slot->mutex);
  if (slot->made) return slot->made;
  MIMO_ASSIGN_OR_RETURN(slot->made, Make(steps.steps[step]));
  const std::lock_guard lock(mutex_);
  order_.push_front(key);
  kept_bytes_ += slot->made->bytes;
  for (const OutputDelta& delta : slot->made->result.outputs) anomalies_ += delta.anomalies;
  Forget();
  return slot->made;
}

// What was used the longest ago; those who read it hold it.
void StepsOfGroups::Forget() {
  while (kept_bytes_ > memory_bytes_ && order_.size() > 1) {
    const auto slot = slots_.find(order_.back());
    kept_bytes_ -= slot->second->made->bytes;
    slots_.erase(slot);
    order_.pop_back();
  }
}

Result<std::shared_ptr<const StepsOfGroups::Made>> StepsOfGroups::Make(const Step& step) {
  auto made = std::make_shared<Made>();
  const StepWork work(job_, step, std::max(kMadeStepBytes, step.memory_bytes));
  made->bytes = work.buffer_bytes();
  made->buffer = std::make_unique_for_overwrite<std::byte[]>(made->bytes);
  for (const Extent& extent : work.reads()) {
    MIMO_ASSIGN_OR_RETURN(const auto file, readers_.Get(extent.file));
    MIMO_RETURN_IF_ERROR(file->ReadAt(extent.begin, {made->buffer.get() + extent.offset, extent.bytes}));
  }
  MIMO_ASSIGN_OR_RETURN(const auto backend, MakeBackend(DeviceChoice::kCpu, 0, 0));
  MIMO_ASSIGN_OR_RETURN(made->result, work.Transform(made->buffer.get(), *backend));
  for (const ScalarDelta& scalar : made->result.scalars) {
    const OutputArray& output = plan_.outputs[scalar.output];
    const uint64_t begin = output.begin + Rows(scalar.first, sizeof(float));
    made->scalars.push_back({{output.file, begin, begin + Rows(scalar.count, sizeof(float)), 0}, scalar.value});
  }
  return std::shared_ptr<const Made>(std::move(made));
}

}  // namespace mimo
