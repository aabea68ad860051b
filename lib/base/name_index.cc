#include "lib/base/name_index.h"

#include <span>
#include <stdexcept>

#include "lib/base/hash.h"

namespace mimo {
namespace {

constexpr size_t kLeastSlots = 16;

// Names come from files: where they fall must not be foreseen, so that nobody makes many that fall together. The
// address of a static object is another in every process.
uint32_t HashOf(std::string_view name) {
  static const char anchor = 0;
  return static_cast<uint32_t>(HashBytes(std::as_bytes(std::span(name)), reinterpret_cast<uintptr_t>(&anchor)).low);
}

}  // namespace

size_t NameIndex::SlotOf(std::string_view name, uint32_t hash) const {
  const size_t mask = slots_.size() - 1;
  for (size_t at = hash & mask;; at = (at + 1) & mask) {
    const Slot& slot = slots_[at];
    if (slot.entry == 0 || (slot.hash == hash && NameOf(entries_[slot.entry - 1]) == name)) return at;
  }
}

void NameIndex::Spread(size_t slots) {
  std::vector<Slot> before(slots);
  before.swap(slots_);
  const size_t mask = slots_.size() - 1;
  for (const Slot& slot : before) {
    if (slot.entry == 0) continue;
    size_t at = slot.hash & mask;
    while (slots_[at].entry != 0) at = (at + 1) & mask;
    slots_[at] = slot;
  }
}

NameIndex::Added NameIndex::emplace(std::string_view name, uint32_t number) {
  if ((entries_.size() + 1) * 2 > slots_.size()) Spread(slots_.empty() ? kLeastSlots : slots_.size() * 2);
  const uint32_t hash = HashOf(name);
  Slot& slot = slots_[SlotOf(name, hash)];
  if (slot.entry != 0) return {entries_[slot.entry - 1].number, false};
  entries_.push_back({bytes_.size(), static_cast<uint32_t>(name.size()), number});
  bytes_ += name;
  slot = {hash, static_cast<uint32_t>(entries_.size())};
  return {number, true};
}

const uint32_t* NameIndex::find(std::string_view name) const {
  if (entries_.empty()) return nullptr;
  const Slot& slot = slots_[SlotOf(name, HashOf(name))];
  return slot.entry == 0 ? nullptr : &entries_[slot.entry - 1].number;
}

uint32_t NameIndex::at(std::string_view name) const {
  const uint32_t* number = find(name);
  if (number == nullptr) throw std::out_of_range("a name that was not added: " + std::string(name));
  return *number;
}

void NameIndex::reserve(size_t names) {
  size_t slots = kLeastSlots;
  while (slots < names * 2) slots *= 2;
  if (slots > slots_.size()) Spread(slots);
  entries_.reserve(names);
}

void NameIndex::clear() {
  bytes_.clear();
  entries_.clear();
  slots_.clear();
}

}  // namespace mimo
