#include <algorithm>
#include <utility>

#include "lib/base/crc32.h"
#include "lib/io/torch/zip.h"
#include "lib/io/torch/zip_format.h"

namespace mimo {
namespace {

using namespace zip;  // NOLINT(google-build-using-namespace): the names of this file's format

void Put(std::string* out, uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) out->push_back(static_cast<char>(value >> (8 * i)));
}
void PutZeros(std::string* out, size_t bytes) {
  out->append(bytes, '\0');
}
void Put16(std::string* out, uint64_t value) {
  Put(out, value, 2);
}
void Put32(std::string* out, uint64_t value) {
  Put(out, std::min(value, kFull32), 4);  // full: see the zip64 field
}

}  // namespace

void ZipFrame::AddHeader(std::string_view name, uint64_t bytes, uint32_t crc) {
  const uint64_t header = position();
  const bool big = bytes >= kFull32;
  const uint64_t zip64 = big ? 20 : 0;
  const uint64_t unpadded = header + kLocalBytes + name.size() + zip64 + 4;
  const uint64_t padding = (kAlignment - unpadded % kAlignment) % kAlignment;
  entries_.push_back({std::string(name), bytes, crc, header});
  std::string& to = out();
  Put32(&to, kLocalSignature);
  Put16(&to, big ? kZip64Version : 0);
  Put16(&to, kUtf8Flag);
  PutZeros(&to, 6);  // stored; no time, no date
  Put(&to, crc, 4);
  Put32(&to, bytes);
  Put32(&to, bytes);
  Put16(&to, name.size());
  Put16(&to, zip64 + 4 + padding);
  to += name;
  if (big) {
    Put16(&to, kZip64Extra);
    Put16(&to, 16);
    Put(&to, bytes, 8);
    Put(&to, bytes, 8);
  }
  Put16(&to, kPaddingExtra);
  Put16(&to, padding);
  to.append(padding, 'Z');
}

void ZipFrame::Add(std::string_view name, std::string_view content) {
  AddHeader(name, content.size(), Crc32(std::as_bytes(std::span(content))));
  out() += content;
}

void ZipFrame::AddAbsent(std::string_view name, uint64_t bytes, uint32_t crc) {
  AddHeader(name, bytes, crc);
  absent_ = true;
  absent_bytes_ = bytes;
}

ZipFrame::Parts ZipFrame::Finish() {
  const uint64_t directory = position();
  std::string& to = out();
  for (const Entry& entry : entries_) {
    std::string zip64;
    if (entry.bytes >= kFull32) {
      Put(&zip64, entry.bytes, 8);
      Put(&zip64, entry.bytes, 8);
    }
    if (entry.header >= kFull32) Put(&zip64, entry.header, 8);
    const uint64_t version = zip64.empty() ? 0 : kZip64Version;
    Put32(&to, kCentralSignature);
    Put16(&to, version);
    Put16(&to, version);
    Put16(&to, kUtf8Flag);
    PutZeros(&to, 6);
    Put(&to, entry.crc, 4);
    Put32(&to, entry.bytes);
    Put32(&to, entry.bytes);
    Put16(&to, entry.name.size());
    Put16(&to, zip64.empty() ? 0 : zip64.size() + 4);
    PutZeros(&to, 10);  // no comment, one disk, no attributes
    Put32(&to, entry.header);
    to += entry.name;
    if (zip64.empty()) continue;
    Put16(&to, kZip64Extra);
    Put16(&to, zip64.size());
    to += zip64;
  }
  const uint64_t end = position();
  const uint64_t count = entries_.size();
  if (count >= kFull16 || end - directory >= kFull32 || directory >= kFull32) {
    Put32(&to, kZip64EndSignature);
    Put(&to, kZip64EndBytes - 12, 8);
    Put16(&to, kZip64Version);
    Put16(&to, kZip64Version);
    PutZeros(&to, 8);  // disks
    Put(&to, count, 8);
    Put(&to, count, 8);
    Put(&to, end - directory, 8);
    Put(&to, directory, 8);
    Put32(&to, kZip64LocatorSignature);
    PutZeros(&to, 4);
    Put(&to, end, 8);
    Put(&to, 1, 4);
  }
  Put32(&to, kEndSignature);
  PutZeros(&to, 4);
  Put16(&to, std::min(count, kFull16));
  Put16(&to, std::min(count, kFull16));
  Put32(&to, end - directory);
  Put32(&to, directory);
  Put16(&to, 0);
  return std::move(parts_);
}

}  // namespace mimo
