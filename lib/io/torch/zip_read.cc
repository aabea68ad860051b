#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "lib/base/crc32.h"
#include "lib/io/tensor_info.h"
#include "lib/io/torch/text.h"
#include "lib/io/torch/zip.h"
#include "lib/io/torch/zip_format.h"
#include "lib/json/bytes.h"

namespace mimo {
namespace {

using namespace zip;  // NOLINT(google-build-using-namespace): the names of this file's format

// An item has its pickle and the header of its data in the one, all else in the other: two reads.
constexpr uint64_t kHeadBytes = 1024;
constexpr uint64_t kTailBytes = 2048;
constexpr uint64_t kMaxDirectoryBytes = 1U << 28U;

uint64_t Get(std::string_view bytes, uint64_t at, int count) {
  uint64_t value = 0;
  for (int i = count; i-- > 0;) value = value << 8U | static_cast<unsigned char>(bytes[at + static_cast<uint64_t>(i)]);
  return value;
}

// The zip64 field among extra fields; nullopt when they are not well formed or have two of it. Empty when there is
// none.
std::optional<std::string_view> Zip64Field(std::string_view extra) {
  std::string_view found;
  while (!extra.empty()) {
    if (extra.size() < 4) return std::nullopt;
    const uint64_t bytes = Get(extra, 2, 2);
    if (bytes > extra.size() - 4) return std::nullopt;
    if (Get(extra, 0, 2) == kZip64Extra) {
      if (!found.empty() || bytes == 0) return std::nullopt;
      found = extra.substr(4, bytes);
    }
    extra.remove_prefix(4 + bytes);
  }
  return found;
}

struct End {
  uint64_t entries = 0;
  uint64_t directory = 0;  // where it begins
  uint64_t bytes = 0;      // of it
};

// An entry as the directory has it.
struct Listed {
  std::string name;
  uint64_t flags = 0;
  uint32_t crc = 0;
  uint64_t bytes = 0;
  uint64_t header = 0;
  uint64_t begin = 0;  // of its data in the zip: known from the local header
};

}  // namespace

// One attempt to open a zip; positions count from its start.
class ZipOpener {
 public:
  explicit ZipOpener(StoredZip* zip) : zip_(*zip) {}

  Status Open() {
    MIMO_RETURN_IF_ERROR(ReadEnds());
    MIMO_ASSIGN_OR_RETURN(const End end, ReadEndRecord());
    MIMO_ASSIGN_OR_RETURN(std::vector<Listed> listed, ReadDirectory(end));
    for (Listed& entry : listed) MIMO_RETURN_IF_ERROR(ReadLocalHeader(end, &entry));
    MIMO_RETURN_IF_ERROR(CheckOverlap(&listed));
    zip_.entries_.reserve(listed.size());
    for (Listed& entry : listed) {
      zip_.entries_.push_back({std::move(entry.name), zip_.offset_ + entry.begin, entry.bytes, entry.crc});
    }
    std::sort(zip_.entries_.begin(), zip_.entries_.end(),
              [](const ZipEntry& a, const ZipEntry& b) { return a.name < b.name; });
    for (size_t i = 1; i < zip_.entries_.size(); ++i) {
      if (zip_.entries_[i].name == zip_.entries_[i - 1].name)
        return BadEntry("has an entry twice", zip_.entries_[i].name);
    }
    return {};
  }

 private:
  Error Bad(const std::string& what) const {
    return BadTorchFile(zip_.path_, "zip at byte " + std::to_string(zip_.offset_) + " " + what);
  }

  Error BadEntry(const std::string& what, std::string_view name) const { return Bad(what).Found(PrintableText(name)); }

  Status ReadEnds() {
    if (zip_.offset_ > zip_.file_->size() || zip_.length_ > zip_.file_->size() - zip_.offset_) {
      return Bad("does not lie within the file")
          .Expected(std::to_string(zip_.length_) + " bytes")
          .Found("a file of " + std::to_string(zip_.file_->size()));
    }
    if (zip_.length_ < kEndBytes) return Bad("is too short").Expected("at least 22 bytes").Found(zip_.length_);
    if (zip_.length_ <= kHeadBytes + kTailBytes) {
      MIMO_ASSIGN_OR_RETURN(zip_.head_, zip_.Bytes(0, zip_.length_));
      return {};
    }
    MIMO_ASSIGN_OR_RETURN(zip_.head_, zip_.Bytes(0, kHeadBytes));
    MIMO_ASSIGN_OR_RETURN(zip_.tail_, zip_.Bytes(zip_.length_ - kTailBytes, kTailBytes));
    return {};
  }

  Result<End> ReadEndRecord() const {
    const uint64_t at = zip_.length_ - kEndBytes;
    MIMO_ASSIGN_OR_RETURN(const std::string record, zip_.Bytes(at, kEndBytes));
    if (Get(record, 0, 4) != kEndSignature || Get(record, 20, 2) != 0) {
      return Bad("does not end with an end record").Expected("PK 05 06 and no comment");
    }
    End end{.entries = Get(record, 10, 2), .directory = Get(record, 16, 4), .bytes = Get(record, 12, 4)};
    if (Get(record, 4, 4) != 0 || Get(record, 8, 2) != end.entries) return Bad("is one of several disks");
    const bool full = end.entries == kFull16 || end.directory == kFull32 || end.bytes == kFull32;
    MIMO_ASSIGN_OR_RETURN(const std::optional<End> zip64, ReadZip64End(at));
    if (full && !zip64) return Bad("lacks the zip64 end record that its end record announces");
    uint64_t limit = at;
    if (zip64) {
      const auto agree = [](uint64_t small, uint64_t big, uint64_t most) {
        return small == big || (small == most && big >= most);
      };
      if (!agree(end.entries, zip64->entries, kFull16) || !agree(end.directory, zip64->directory, kFull32) ||
          !agree(end.bytes, zip64->bytes, kFull32)) {
        return Bad("has end records that disagree");
      }
      end = *zip64;
      limit = at - kZip64LocatorBytes - kZip64EndBytes;
    }
    if (end.bytes > limit || end.directory != limit - end.bytes) {
      return Bad("has its directory somewhere else than it says")
          .Expected("an end at byte " + std::to_string(limit))
          .Found(std::to_string(end.directory) + " + " + std::to_string(end.bytes));
    }
    if (end.bytes > kMaxDirectoryBytes) return Bad("has too large a directory").Found(end.bytes);
    if (end.entries > end.bytes / kCentralBytes) {
      return Bad("has fewer entries than it says").Expected(end.entries);
    }
    return end;
  }

  // The zip64 end record that a locator before the end record at `at` announces, if there is one.
  Result<std::optional<End>> ReadZip64End(uint64_t at) const {
    if (at < kZip64LocatorBytes) return std::optional<End>();
    MIMO_ASSIGN_OR_RETURN(const std::string locator, zip_.Bytes(at - kZip64LocatorBytes, kZip64LocatorBytes));
    if (Get(locator, 0, 4) != kZip64LocatorSignature) return std::optional<End>();
    const uint64_t record_at = at - kZip64LocatorBytes - kZip64EndBytes;
    if (at < kZip64LocatorBytes + kZip64EndBytes || Get(locator, 8, 8) != record_at || Get(locator, 4, 4) != 0 ||
        Get(locator, 16, 4) > 1) {
      return Bad("has a zip64 locator that points elsewhere than before it");
    }
    MIMO_ASSIGN_OR_RETURN(const std::string record, zip_.Bytes(record_at, kZip64EndBytes));
    const End end{.entries = Get(record, 32, 8), .directory = Get(record, 48, 8), .bytes = Get(record, 40, 8)};
    if (Get(record, 0, 4) != kZip64EndSignature || Get(record, 4, 8) != kZip64EndBytes - 12 ||
        Get(record, 16, 8) != 0 || Get(record, 24, 8) != end.entries) {
      return Bad("has a zip64 end record that is not one");
    }
    return std::optional<End>(end);
  }

  Result<std::vector<Listed>> ReadDirectory(const End& end) const {
    MIMO_ASSIGN_OR_RETURN(const std::string bytes, zip_.Bytes(end.directory, end.bytes));
    std::vector<Listed> listed;
    listed.reserve(end.entries);
    std::string_view rest = bytes;
    for (uint64_t i = 0; i < end.entries; ++i) {
      if (rest.size() < kCentralBytes || Get(rest, 0, 4) != kCentralSignature) {
        return Bad("has a directory that is damaged").Expected(std::to_string(end.entries) + " entries").Found(i);
      }
      const uint64_t name_bytes = Get(rest, 28, 2);
      const uint64_t extra_bytes = Get(rest, 30, 2);
      if (rest.size() < kCentralBytes + name_bytes + extra_bytes) return Bad("has a directory that is cut off");
      const std::string_view name = rest.substr(kCentralBytes, name_bytes);
      MIMO_ASSIGN_OR_RETURN(Listed entry, ReadListed(rest, name, rest.substr(kCentralBytes + name_bytes, extra_bytes)));
      listed.push_back(std::move(entry));
      rest.remove_prefix(kCentralBytes + name_bytes + extra_bytes);
    }
    if (!rest.empty()) return Bad("has more in its directory than it says");
    return listed;
  }

  Result<Listed> ReadListed(std::string_view central, std::string_view name, std::string_view extra) const {
    if (!IsInnerPath(name) || !IsUtf8(name) || name.size() > kMaxNameBytes)
      return BadEntry("has an entry of an unsafe name", name);
    Listed entry;
    entry.name = name;
    entry.flags = Get(central, 8, 2);
    entry.crc = static_cast<uint32_t>(Get(central, 16, 4));
    if ((entry.flags & 1U) != 0) return BadEntry("has an encrypted entry", name);
    if ((entry.flags & ~uint64_t{kUtf8Flag | kDescriptorFlag}) != 0)
      return BadEntry("has an entry with unknown flags", name);
    if (Get(central, 10, 2) != 0) return BadEntry("has a compressed entry", name).Expected("stored entries");
    if (Get(central, 6, 2) > kZip64Version) return BadEntry("needs a newer reader", name).Expected("4.5 at most");
    if (Get(central, 32, 4) != 0) return BadEntry("has an entry with a comment, or on another disk", name);
    // In the order of the zip64 field: size, stored size, place of the header. It has exactly those that are full.
    std::array<uint64_t, 3> fields = {Get(central, 24, 4), Get(central, 20, 4), Get(central, 42, 4)};
    auto zip64 = Zip64Field(extra);
    if (!zip64) return BadEntry("has an entry with damaged extra fields", name);
    for (uint64_t& field : fields) {
      if (field != kFull32) continue;
      if (zip64->size() < 8) return BadEntry("has an entry without the zip64 sizes that it announces", name);
      field = Get(*zip64, 0, 8);
      if (field < kFull32) return BadEntry("has an entry with zip64 sizes that need none", name);
      zip64->remove_prefix(8);
    }
    if (!zip64->empty()) return BadEntry("has an entry with zip64 sizes that it does not announce", name);
    if (fields[0] != fields[1]) return BadEntry("has a stored entry of two sizes", name);
    entry.bytes = fields[0];
    entry.header = fields[2];
    return entry;
  }

  Status ReadLocalHeader(const End& end, Listed* entry) const {
    if (entry->header > end.directory || end.directory - entry->header < kLocalBytes) {
      return BadEntry("has an entry beyond its directory", entry->name);
    }
    MIMO_ASSIGN_OR_RETURN(const std::string fixed, zip_.Bytes(entry->header, kLocalBytes));
    const uint64_t name_bytes = Get(fixed, 26, 2);
    const uint64_t extra_bytes = Get(fixed, 28, 2);
    const uint64_t room = end.directory - entry->header - kLocalBytes;
    if (Get(fixed, 0, 4) != kLocalSignature || Get(fixed, 6, 2) != entry->flags || Get(fixed, 8, 2) != 0 ||
        name_bytes != entry->name.size() || name_bytes + extra_bytes > room) {
      return BadEntry("has a local header that its directory contradicts", entry->name);
    }
    if (entry->bytes > room - name_bytes - extra_bytes) {
      return BadEntry("has an entry that reaches into its directory", entry->name);
    }
    MIMO_ASSIGN_OR_RETURN(const std::string rest, zip_.Bytes(entry->header + kLocalBytes, name_bytes + extra_bytes));
    const std::string_view extra = std::string_view(rest).substr(name_bytes);
    if (rest.compare(0, name_bytes, entry->name) != 0 || !SizesAgree(fixed, extra, *entry)) {
      return BadEntry("has a local header that its directory contradicts", entry->name);
    }
    entry->begin = entry->header + kLocalBytes + name_bytes + extra_bytes;
    return {};
  }

  static bool SizesAgree(std::string_view fixed, std::string_view extra, const Listed& entry) {
    const auto zip64 = Zip64Field(extra);
    if (!zip64) return false;
    const std::array<uint64_t, 2> sizes = {Get(fixed, 18, 4), Get(fixed, 22, 4)};
    if ((entry.flags & kDescriptorFlag) != 0) {
      // Sizes follow the data. torch leaves zeros here, and a zip64 field of what was full in the directory.
      return std::all_of(sizes.begin(), sizes.end(),
                         [&](uint64_t size) { return size == 0 || size == std::min(entry.bytes, kFull32); });
    }
    if (Get(fixed, 14, 4) != entry.crc) return false;
    if (entry.bytes < kFull32) return sizes[0] == entry.bytes && sizes[1] == entry.bytes && zip64->empty();
    return sizes[0] == kFull32 && sizes[1] == kFull32 && zip64->size() == 16 && Get(*zip64, 0, 8) == entry.bytes &&
           Get(*zip64, 8, 8) == entry.bytes;
  }

  // Sorts by place.
  Status CheckOverlap(std::vector<Listed>* listed) const {
    std::sort(listed->begin(), listed->end(), [](const Listed& a, const Listed& b) { return a.header < b.header; });
    for (size_t i = 1; i < listed->size(); ++i) {
      const Listed& before = (*listed)[i - 1];
      const bool descriptor = (before.flags & kDescriptorFlag) != 0;
      const uint64_t end = before.begin + before.bytes + (descriptor ? kDescriptorBytes : 0);
      if (end > (*listed)[i].header) return BadEntry("has entries that overlap", (*listed)[i].name);
    }
    return {};
  }

  StoredZip& zip_;
};

Result<StoredZip> StoredZip::Open(const ReadableFile& file, uint64_t offset, uint64_t length, const std::string& path) {
  StoredZip zip(file, offset, length, path);
  MIMO_RETURN_IF_ERROR(ZipOpener(&zip).Open());
  return zip;
}

const ZipEntry* StoredZip::Find(std::string_view name) const {
  const auto it = std::lower_bound(entries_.begin(), entries_.end(), name,
                                   [](const ZipEntry& entry, std::string_view wanted) { return entry.name < wanted; });
  return it != entries_.end() && it->name == name ? &*it : nullptr;
}

Result<std::string> StoredZip::Content(const ZipEntry& entry, uint64_t limit) const {
  if (entry.bytes > limit) {
    return BadTorchFile(path_, "entry " + entry.name + " is too long")
        .Expected(std::to_string(limit) + " bytes at most")
        .Found(entry.bytes);
  }
  MIMO_ASSIGN_OR_RETURN(std::string content, Bytes(entry.begin - offset_, entry.bytes));
  if (!HoldsChecksum(entry.crc, entry.bytes)) return content;
  if (const uint32_t found = Crc32(std::as_bytes(std::span(content))); found != entry.crc)
    return BadChecksum(path_, PrintableText(entry.name), entry.crc, found);
  return content;
}

Result<std::string> StoredZip::Bytes(uint64_t begin, uint64_t bytes) const {
  if (begin + bytes <= head_.size()) return head_.substr(begin, bytes);
  const uint64_t tail = length_ - tail_.size();
  if (begin >= tail) return tail_.substr(begin - tail, bytes);
  std::string out(bytes, '\0');
  MIMO_RETURN_IF_ERROR(file_->ReadAt(offset_ + begin, std::as_writable_bytes(std::span(out))));
  return out;
}

}  // namespace mimo
