#include <algorithm>
#include <utility>

#include "lib/base/crc32.h"
#include "lib/io/torch/zip.h"
#include "lib/io/torch/zip_format.h"

namespace mimo {
namespace {

using namespace zip;  // NOLINT(google-build-using-namespace): the names of this file's format

// Fields of so many bytes each, little-endian.
template <int kBytes, class... Fields>
void Put(std::string* out, Fields... fields) {
  for (const uint64_t field : {static_cast<uint64_t>(fields)...}) {
    for (int i = 0; i < kBytes; ++i) out->push_back(static_cast<char>(field >> (8 * i)));
  }
}
// What is too large for 32 bits is full: see the zip64 field.
uint64_t Cut(uint64_t value) {
  return std::min(value, kFull32);
}
void PutZeros(std::string* out, size_t bytes) {
  out->append(bytes, '\0');
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
  Put<4>(&to, kLocalSignature);
  Put<2>(&to, big ? kZip64Version : 0, kUtf8Flag);
  PutZeros(&to, 6);  // stored; no time, no date
  Put<4>(&to, crc, Cut(bytes), Cut(bytes));
  Put<2>(&to, name.size(), zip64 + 4 + padding);
  to += name;
  if (big) {
    Put<2>(&to, kZip64Extra, 16);
    Put<8>(&to, bytes, bytes);
  }
  Put<2>(&to, kPaddingExtra, padding);
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
    if (entry.bytes >= kFull32) Put<8>(&zip64, entry.bytes, entry.bytes);
    if (entry.header >= kFull32) Put<8>(&zip64, entry.header);
    const uint64_t version = zip64.empty() ? 0 : kZip64Version;
    Put<4>(&to, kCentralSignature);
    Put<2>(&to, version, version, kUtf8Flag);
    PutZeros(&to, 6);
    Put<4>(&to, entry.crc, Cut(entry.bytes), Cut(entry.bytes));
    Put<2>(&to, entry.name.size(), zip64.empty() ? 0 : zip64.size() + 4);
    PutZeros(&to, 10);  // no comment, one disk, no attributes
    Put<4>(&to, Cut(entry.header));
    to += entry.name;
    if (zip64.empty()) continue;
    Put<2>(&to, kZip64Extra, zip64.size());
    to += zip64;
  }
  const uint64_t end = position();
  const uint64_t count = entries_.size();
  if (count >= kFull16 || end - directory >= kFull32 || directory >= kFull32) {
    Put<4>(&to, kZip64EndSignature);
    Put<8>(&to, kZip64EndBytes - 12);
    Put<2>(&to, kZip64Version, kZip64Version);
    PutZeros(&to, 8);  // disks
    Put<8>(&to, count, count, end - directory, directory);
    Put<4>(&to, kZip64LocatorSignature, 0);
    Put<8>(&to, end);
    Put<4>(&to, 1);
  }
  Put<4>(&to, kEndSignature, 0);
  Put<2>(&to, std::min(count, kFull16), std::min(count, kFull16));
  Put<4>(&to, Cut(end - directory), Cut(directory));
  Put<2>(&to, 0);
  return std::move(parts_);
}

}  // namespace mimo
