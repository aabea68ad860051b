#include "lib/run/lanes.h"

#include <algorithm>
#include <tuple>
#include <utility>

namespace mimo {

Lanes::Lanes(const Job& job, PartLoader& loader, const std::vector<Unit>& units, const std::vector<uint32_t>& numbers,
             uint64_t limit, uint64_t shared_limit, int workers, int most_units)
    : job_(job),
      loader_(loader),
      units_(units),
      limit_(limit),
      shared_limit_(shared_limit),
      most_units_(static_cast<size_t>(most_units)),
      workers_(static_cast<size_t>(workers)) {
  for (const uint32_t number : numbers) {
    Lane& lane = lanes_[units[number].home];
    lane.waiting.push_back(number);
    lane.left += units[number].cost;
  }
}

// The lane that the worker is in while it is alone there, else, of those with the fewest workers, the one with the most
// work, so that no long one is left to the end; kNone when no unit waits.
uint32_t Lanes::FreestLane(const Worker& worker) const {
  std::tuple<int, bool, uint64_t, uint32_t> best(INT32_MAX, true, 0, kNone);
  for (const auto& [file, lane] : lanes_) {
    if (lane.waiting.empty()) continue;
    const bool own = file == worker.lane;
    best = std::min(best, std::tuple(lane.workers - (own ? 1 : 0), !own, UINT64_MAX - lane.left, file));
  }
  return std::get<3>(best);
}

void Lanes::Leave(Worker& worker) {
  if (worker.lane != kNone) --lanes_.at(worker.lane).workers;
  worker = {};
}

std::shared_ptr<UnitRun> Lanes::Choose(Worker& worker) {
  const std::lock_guard lock(mutex_);
  if (cancelled_) return nullptr;
  if (worker.unit != nullptr) return worker.unit;
  const uint32_t lane = begun_.size() < most_units_ ? FreestLane(worker) : kNone;
  Leave(worker);
  if (lane != kNone) {
    std::deque<uint32_t>& waiting = lanes_.at(lane).waiting;
    worker.unit =
        std::make_shared<UnitRun>(job_, loader_, waiting.front(), units_[waiting.front()], limit_, shared_limit_);
    lanes_.at(lane).left -= units_[waiting.front()].cost;
    waiting.pop_front();
    begun_.push_back(worker.unit);
    std::erase_if(running_, [](const auto& unit) { return unit.expired(); });
    running_.push_back(worker.unit);
    worker.lane = lane;
    ++lanes_.at(lane).workers;
  } else if (!begun_.empty()) {
    // Each in turn, so that helpers spread.
    std::rotate(begun_.begin(), begun_.begin() + 1, begun_.end());
    worker.unit = begun_.back();
  }
  return worker.unit;
}

void Lanes::Exhausted(const std::shared_ptr<UnitRun>& unit) {
  const std::lock_guard lock(mutex_);
  std::erase(begun_, unit);
}

std::optional<Lanes::Work> Lanes::Take(int index) {
  Worker& worker = workers_[static_cast<size_t>(index)];
  while (std::shared_ptr<UnitRun> unit = Choose(worker)) {
    if (auto step = unit->Take()) return Work{std::move(unit), std::move(*step)};
    Exhausted(unit);
    worker.unit = nullptr;
  }
  return std::nullopt;
}

void Lanes::Cancel() {
  const std::lock_guard lock(mutex_);
  cancelled_ = true;
  for (const std::weak_ptr<UnitRun>& running : running_)
    if (const auto unit = running.lock()) unit->Cancel();
}

}  // namespace mimo
