// The zip files of torch.save (reference target-layouts.md 3.1): every entry stored as it is, its data at a multiple of
// 64 bytes from the start of the zip.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/base/status.h"

namespace mimo {

// ---- writing

// Puts a zip together in order. Lengths depend on the names and lengths of the entries only; zip64 fields appear where
// a size, an offset or the number of entries needs them. The data of at most one entry stands elsewhere.
class ZipFrame {
 public:
  void Add(std::string_view name, std::string_view content);
  // An entry whose data goes between head and tail.
  void AddAbsent(std::string_view name, uint64_t bytes, uint32_t crc);

  struct Parts {
    std::string head;  // everything, when no entry is absent
    std::string tail;
  };
  Parts Finish();

 private:
  struct Entry {
    std::string name;
    uint64_t bytes = 0;
    uint32_t crc = 0;
    uint64_t header = 0;  // where its local header begins
  };
  std::string& out() { return absent_ ? parts_.tail : parts_.head; }
  uint64_t position() const { return parts_.head.size() + absent_bytes_ + parts_.tail.size(); }
  void AddHeader(std::string_view name, uint64_t bytes, uint32_t crc);

  std::vector<Entry> entries_;
  Parts parts_;
  bool absent_ = false;
  uint64_t absent_bytes_ = 0;
};

// ---- reading

struct ZipEntry {
  std::string name;
  uint64_t begin = 0;  // of its data, from the start of the file
  uint64_t bytes = 0;
  uint32_t crc = 0;  // CRC-32 of its data; 0 under data: none was computed (HoldsChecksum)
};

// Whether `crc` is the CRC-32 of `bytes` bytes. torch.save writes 0 where it is told not to compute any
// (torch.serialization.set_crc32_options, torch.serialization.skip_data).
inline bool HoldsChecksum(uint32_t crc, uint64_t bytes) {
  return crc != 0 || bytes == 0;
}

// The zip in bytes [offset, offset + length) of a file. It is refused (kBadInput) unless
//   - it ends with an end record without comment, preceded by a zip64 one where that is needed or announced, and the
//     central directory ends exactly where these begin; all fields that say the same thing agree;
//   - entries are stored (method 0, no encryption), lie before the directory and do not overlap each other, local
//     headers included; local headers agree with the directory, or leave sizes to a data descriptor;
//   - names are distinct, relative, and without "..", backslashes and control characters.
// CRCs of data are for those who read it: Content() compares, ZipEntry::crc serves who reads in parts.
class StoredZip {
 public:
  static Result<StoredZip> Open(const ReadableFile& file, uint64_t offset, uint64_t length, const std::string& path);

  const std::vector<ZipEntry>& entries() const { return entries_; }  // by name
  const ZipEntry* Find(std::string_view name) const;
  // kBadInput when it is longer than `limit`, or its CRC-32 is another than the zip says.
  Result<std::string> Content(const ZipEntry& entry, uint64_t limit) const;

 private:
  friend class ZipOpener;
  StoredZip(const ReadableFile& file, uint64_t offset, uint64_t length, const std::string& path)
      : file_(&file), offset_(offset), length_(length), path_(path) {}
  // Bytes [begin, begin + bytes) of the zip, from the ends that were read first where they lie in them.
  Result<std::string> Bytes(uint64_t begin, uint64_t bytes) const;

  const ReadableFile* file_;
  uint64_t offset_;
  uint64_t length_;
  std::string path_;
  std::string head_;  // the first bytes
  std::string tail_;  // the last bytes
  std::vector<ZipEntry> entries_;
};

}  // namespace mimo
