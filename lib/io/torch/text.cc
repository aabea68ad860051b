#include "lib/io/torch/text.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "lib/json/bytes.h"

namespace mimo {

std::string PrintableText(std::string_view text) {
  constexpr size_t kMost = 80;
  return Printable(CutText(text, kMost));
}

bool StaysBelow(std::string_view name) {
  if (name.find('\0') != std::string_view::npos) return false;
  for (size_t begin = 0; begin <= name.size();) {
    const size_t end = std::min(name.find('/', begin), name.size());
    const std::string_view part = name.substr(begin, end - begin);
    if (part.empty() || part == "." || part == "..") return false;
    begin = end + 1;
  }
  return true;
}

bool IsInnerPath(std::string_view name) {
  const auto bad = [](char c) { return c == '\\' || static_cast<unsigned char>(c) < 0x20 || c == 0x7f; };
  return std::none_of(name.begin(), name.end(), bad) && StaysBelow(name);
}

Error BadTorchFile(const std::string& path, std::string what) {
  return BadInput(std::move(what))
      .File(path)
      .Advice(
          "this is not as PyTorch and Megatron write it: compare its hash with that of where it came from, or save it "
          "anew");
}

Error BadChecksum(const std::string& path, const std::string& what, uint32_t expected, uint32_t found) {
  const auto hex = [](uint32_t crc) {
    char text[9];
    std::snprintf(text, sizeof text, "%08x", crc);
    return std::string(text);
  };
  return BadInput(what + " is damaged: its bytes are not those that were saved")
      .File(path)
      .Expected("CRC-32 " + hex(expected))
      .Found(hex(found))
      .Advice("bring the file from where it is whole, or save it again");
}

}  // namespace mimo
