#include "lib/run/group_work.h"

#include <algorithm>
#include <list>
#include <mutex>
#include <tuple>
#include <utility>

#include "lib/base/checked.h"
#include "lib/decode/row_bytes.h"
#include "lib/run/bundles.h"
#include "lib/run/encode_strips.h"
#include "lib/run/step_memory.h"
#include "lib/run/turns.h"

namespace mimo {

// Rows [row, row + rows) of a bundle, or a transposed unit.
struct GroupItem {
  uint32_t index = 0;  // into GroupItems::bundles, or GroupItems::turns
  bool turn = false;
  int64_t row = 0;
  int64_t rows = 0;
};

struct GroupItems {
  std::vector<RowStrip> bundles;
  std::vector<TurnUnit> turns;
  std::vector<GroupItem> list;
};

namespace {

constexpr size_t kListedGroups = 16;
constexpr int64_t kGridRows = 128;  // pieces of a bundle begin where block grids usually do

Job AllOf(const Job& job) {
  return {job.catalogue, job.plan, std::vector<OutputMode>(job.plan.outputs.size(), OutputMode::kWrite)};
}

// Where the first byte of some rows goes, and how many they are.
class Places {
 public:
  explicit Places(const Job& job) : job_(job) {}
  void Add(uint32_t index, int64_t row, int64_t rows) {
    const OutputArray& output = job_.plan.outputs[index];
    first = std::min(first, std::pair(output.file, output.begin + Rows(row, output.row_bytes())));
    bytes += Rows(rows, output.row_bytes());
  }
  std::pair<uint32_t, uint64_t> first{UINT32_MAX, UINT64_MAX};
  uint64_t bytes = 0;

 private:
  const Job& job_;
};

Places PlacesOf(const Job& job, const GroupItems& items, const GroupItem& item) {
  Places places(job);
  if (item.turn) {
    for (const TurnRows& rows : items.turns[item.index].targets) places.Add(rows.output, rows.row, rows.rows);
  } else {
    for (const RowTarget& target : items.bundles[item.index].targets)
      places.Add(target.output, target.row + item.row, item.rows);
  }
  return places;
}

RowStrip PieceOf(const RowStrip& bundle, int64_t row, int64_t rows) {
  RowStrip piece = bundle;
  piece.rows = rows;
  for (RowSource& source : piece.sources) source.row += row;
  for (RowTarget& target : piece.targets) target.row += row;
  return piece;
}

GroupItems ListItems(const Job& job, uint32_t group, uint64_t item_bytes) {
  const Job all = AllOf(job);
  GroupItems items;
  items.bundles = BundlesOf(all, group);
  items.turns = TurnsOf(all, group);
  for (uint32_t b = 0; b < items.bundles.size(); ++b) {
    const int64_t rows = items.bundles[b].rows;
    // Even pieces rather than full ones and a remainder.
    const uint64_t row_bytes = std::max<uint64_t>(1, PlacesOf(job, items, {b, false, 0, 1}).bytes);
    const auto most =
        static_cast<int64_t>(std::clamp<uint64_t>(item_bytes / row_bytes, 1, static_cast<uint64_t>(rows)));
    int64_t step = CeilDiv(rows, CeilDiv(rows, most));
    if (step > kGridRows) step -= step % kGridRows;
    for (int64_t row = 0; row < rows; row += step) items.list.push_back({b, false, row, std::min(step, rows - row)});
  }
  for (uint32_t t = 0; t < items.turns.size(); ++t) items.list.push_back({t, true, 0, 0});
  std::vector<std::pair<std::pair<uint32_t, uint64_t>, GroupItem>> placed;
  placed.reserve(items.list.size());
  for (const GroupItem& item : items.list) placed.emplace_back(PlacesOf(job, items, item).first, item);
  std::stable_sort(placed.begin(), placed.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  for (size_t i = 0; i < placed.size(); ++i) items.list[i] = placed[i].second;
  return items;
}

// Takes targets out that are skipped, and sources that nobody reads then. False when nothing is left.
bool DropSkipped(const Job& job, RowStrip* strip) {
  const auto skipped = [&](const RowTarget& target) { return job.modes[target.output] == OutputMode::kSkip; };
  if (std::none_of(strip->targets.begin(), strip->targets.end(), skipped)) return true;
  RowStrip kept{strip->rows, {}, {}, {}};
  std::vector<uint32_t> place(strip->sources.size(), kNone);
  const auto source = [&](uint32_t s) {
    if (place[s] != kNone) return place[s];
    kept.sources.push_back(strip->sources[s]);
    return place[s] = static_cast<uint32_t>(kept.sources.size() - 1);
  };
  for (const RowTarget& target : strip->targets) {
    if (skipped(target)) continue;
    const auto number = static_cast<uint32_t>(kept.targets.size());
    kept.targets.push_back({target.output, static_cast<uint32_t>(kept.copies.size()), target.copies, target.row});
    for (RowCopy copy : strip->CopiesOf(target)) {
      if (copy.source != kNone) copy.source = source(copy.source);
      copy.target = number;
      kept.copies.push_back(copy);
    }
  }
  if (kept.targets.empty()) return false;
  if (kept.copies.empty())
    for (uint32_t s = 0; s < strip->sources.size(); ++s) source(s);
  *strip = std::move(kept);
  return true;
}

bool DropSkipped(const Job& job, TurnUnit* unit) {
  std::erase_if(unit->targets, [&](const TurnRows& rows) { return job.modes[rows.output] == OutputMode::kSkip; });
  return !unit->targets.empty();
}

// Where the first segment that has a source begins.
std::pair<uint32_t, uint64_t> PlaceOf(const Job& job, const CellRow& cell) {
  for (const CellSegment& segment : cell.segments)
    if (segment.source != kNone) return job.PlaceOf(segment.source, segment.source_row);
  return {UINT32_MAX, 0};
}

GroupWork WholeGroup(const Job& job, uint32_t group) {
  GroupWork work{BundlesOf(job, group), CellsOf(job, group), TurnsOf(job, group), EncodesOf(job, group)};
  const std::vector<CellRow>& cells = job.plan.groups[group].cells;
  std::stable_sort(work.cells.begin(), work.cells.end(),
                   [&](uint32_t a, uint32_t b) { return PlaceOf(job, cells[a]) < PlaceOf(job, cells[b]); });
  return work;
}

}  // namespace

bool IsCut(const Job& job, uint32_t group) {
  return job.plan.groups[group].cells.empty() && job.plan.groups[group].encoded.empty();
}

std::vector<ItemSize> ItemsOf(const Job& job, uint32_t group, uint64_t item_bytes) {
  const GroupItems items = ListItems(job, group, item_bytes);
  const Job all = AllOf(job);
  std::vector<ItemSize> sizes;
  sizes.reserve(items.list.size());
  for (const GroupItem& item : items.list) {
    const Places places = PlacesOf(job, items, item);
    ItemSize size{places.bytes, 0, 0, places.first.first};
    if (item.turn) {
      size.cost = TurnProgress(all, items.turns[item.index]);
      size.memory = TurnMemory(all, items.turns[item.index]);
    } else {
      RowStrip piece = PieceOf(items.bundles[item.index], item.row, item.rows);
      size.cost = StripProgress(all, piece);
      piece.rows = 1;
      size.memory = StripMemory(all, piece);
    }
    sizes.push_back(size);
  }
  return sizes;
}

struct PartLoader::Known {
  struct Slot {
    std::once_flag once;
    GroupItems items;
  };
  std::mutex mutex;
  std::list<std::pair<uint32_t, std::shared_ptr<Slot>>> groups;  // the last asked for first

  std::shared_ptr<Slot> SlotOf(uint32_t group) {
    const std::lock_guard lock(mutex);
    const auto known = std::find_if(groups.begin(), groups.end(), [&](const auto& g) { return g.first == group; });
    if (known != groups.end()) {
      groups.splice(groups.begin(), groups, known);
    } else {
      groups.emplace_front(group, std::make_shared<Slot>());
      if (groups.size() > kListedGroups) groups.pop_back();
    }
    return groups.front().second;
  }
};

PartLoader::PartLoader(const Job& job, uint64_t item_bytes)
    : job_(job), item_bytes_(item_bytes), known_(std::make_unique<Known>()) {}

PartLoader::~PartLoader() = default;

GroupWork PartLoader::Load(const UnitPart& part) {
  if (part.whole()) return WholeGroup(job_, part.group);
  const auto slot = known_->SlotOf(part.group);
  std::call_once(slot->once, [&] { slot->items = ListItems(job_, part.group, item_bytes_); });
  GroupWork work;
  for (uint32_t i = part.first; i < part.end; ++i) {
    const GroupItem& item = slot->items.list[i];
    if (item.turn) {
      TurnUnit unit = slot->items.turns[item.index];
      if (DropSkipped(job_, &unit)) work.turns.push_back(std::move(unit));
    } else {
      RowStrip piece = PieceOf(slot->items.bundles[item.index], item.row, item.rows);
      if (DropSkipped(job_, &piece)) work.bundles.push_back(std::move(piece));
    }
  }
  return work;
}

}  // namespace mimo
