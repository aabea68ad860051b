// A pickle. Whatever is accepted must be no larger than its promises (lib/io/torch/pickle_reader.h), and what can be
// written again must read as the same bytes.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

#include "lib/io/torch/item.h"
#include "lib/io/torch/pickle_reader.h"

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

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  auto pickle = mimo::ReadPickle(bytes, "fuzz");
  if (!pickle.ok()) {
    CheckRefused(pickle.error());
    return 0;
  }
  Require(pickle->nodes() <= size + 3);
  auto value = mimo::ValueOf(pickle.value(), "fuzz");
  if (!value.ok()) {
    CheckRefused(value.error());
    return 0;
  }
  const std::string file = mimo::TorchSaveFile(value.value(), "again");
  if (file.empty()) return 0;
  Memory memory(file);
  auto again = mimo::ReadTorchFile(memory, "again");
  if (again.ok()) Require(mimo::TorchSaveFile(again->value, "again") == file);  // bytes that are no text are refused
  return 0;
}
