// A byte that says how much of the input stands before a zip, then that and the zip. Whatever is accepted must keep the
// promises of lib/io/torch/zip.h, and no read may leave the file.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

#include "lib/io/torch/item.h"
#include "lib/io/torch/zip.h"

namespace {

void Require(bool condition) {
  if (!condition) std::abort();
}

class Memory final : public mimo::ReadableFile {
 public:
  explicit Memory(std::string_view bytes) : bytes_(bytes) {}
  mimo::Status ReadAt(uint64_t offset, std::span<std::byte> out) const override {
    Require(offset <= bytes_.size() && out.size() <= bytes_.size() - offset);
    if (!out.empty()) std::memcpy(out.data(), bytes_.data() + offset, out.size());
    return {};
  }
  uint64_t size() const override { return bytes_.size(); }

 private:
  std::string_view bytes_;
};

void CheckRefused(const mimo::Error& error) {
  Require(error.code == mimo::ErrorCode::kBadInput && error.file == "fuzz");
  Require(!error.what.empty() && !error.advice.empty());
}

void CheckEntries(std::vector<mimo::ZipEntry> entries, uint64_t begin, uint64_t end) {
  for (size_t i = 1; i < entries.size(); ++i) Require(entries[i - 1].name < entries[i].name);
  std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return a.begin < b.begin; });
  uint64_t covered = begin;
  for (const mimo::ZipEntry& entry : entries) {
    Require(entry.begin >= covered + 30 + entry.name.size());  // its local header is its own
    Require(entry.begin <= end && entry.bytes <= end - entry.begin);
    Require(entry.name.front() != '/' && entry.name.find("..") != 0 && entry.name.find("/../") == std::string::npos);
    covered = entry.begin + entry.bytes;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1 || data[0] > size - 1) return 0;
  const uint64_t before = data[0];
  const uint64_t length = size - 1 - before;
  Memory file(std::string_view(reinterpret_cast<const char*>(data) + 1, size - 1));
  auto zip = mimo::StoredZip::Open(file, before, length, "fuzz");
  auto item = mimo::ReadTorchItem(file, before, length, "fuzz");
  if (!zip.ok()) {
    CheckRefused(zip.error());
    Require(!item.ok());
    return 0;
  }
  CheckEntries(zip->entries(), before, before + length);
  if (item.ok()) {
    Require(item->begin >= before && item->begin + item->bytes <= before + length);
  } else {
    CheckRefused(item.error());
  }
  if (before != 0) return 0;
  auto whole = mimo::ReadTorchFile(file, "fuzz");
  if (!whole.ok()) {
    CheckRefused(whole.error());
    return 0;
  }
  if (const auto* tensor = std::get_if<mimo::TorchTensor>(&whole->value.data)) {
    auto place = mimo::PlaceOf(whole.value(), *tensor, "fuzz");
    Require(place.ok() == item.ok());
    if (place.ok()) Require(place->begin == item->begin && place->bytes == item->bytes);
  }
  return 0;
}
