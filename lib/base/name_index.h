// Names and a number for each, for a hundred thousand names at once: they lie one after the other in one piece of
// memory, so that adding and finding allocate nothing of their own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mimo {

// A value: copies share nothing. From several threads at once only as long as none adds.
class NameIndex {
 public:
  struct Added {
    uint32_t number = 0;  // that the name has now
    bool is_new = false;  // false: it had one already, which it keeps
  };
  Added emplace(std::string_view name, uint32_t number);
  // Null for a name that was not added; valid until the next one is.
  const uint32_t* find(std::string_view name) const;
  bool contains(std::string_view name) const { return find(name) != nullptr; }
  // Of a name that was added; std::out_of_range for any other.
  uint32_t at(std::string_view name) const;

  size_t size() const { return entries_.size(); }
  bool empty() const { return entries_.empty(); }
  // For `names` in all, before any is added.
  void reserve(size_t names);
  void clear();

 private:
  struct Entry {
    uint64_t begin = 0;  // into bytes_
    uint32_t length = 0;
    uint32_t number = 0;
  };
  struct Slot {
    uint32_t hash = 0;
    uint32_t entry = 0;  // one more than its place in entries_; 0: nothing here
  };
  std::string_view NameOf(const Entry& entry) const {
    return std::string_view(bytes_).substr(entry.begin, entry.length);
  }
  // The slot of a name, or the one that it would get; slots_ is not full.
  size_t SlotOf(std::string_view name, uint32_t hash) const;
  void Spread(size_t slots);

  std::string bytes_;
  std::vector<Entry> entries_;
  std::vector<Slot> slots_;  // a power of two, at most half of them taken
};

}  // namespace mimo
