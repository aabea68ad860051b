#include "lib/results/manifest_hash.h"

#include <span>

namespace mimo {
namespace {

constexpr std::string_view kBegin = ",\n\"manifest_hash\":\"";
constexpr std::string_view kEnd = "\"\n}\n";
constexpr size_t kDigits = 32;

}  // namespace

std::string EndOfManifest(const Hash128& of_text) {
  return std::string(kBegin) + of_text.Hex() + std::string(kEnd);
}

std::optional<bool> ManifestHashAgrees(std::string_view text) {
  constexpr size_t kBytes = kBegin.size() + kDigits + kEnd.size();
  if (text.size() < kBytes) return std::nullopt;
  const std::string_view hashed = text.substr(0, text.size() - kBytes), last = text.substr(hashed.size());
  if (!last.starts_with(kBegin) || !last.ends_with(kEnd)) return std::nullopt;
  // As text: no other spelling of the same number will do.
  return last.substr(kBegin.size(), kDigits) == HashBytes(std::as_bytes(std::span(hashed))).Hex();
}

Error ChangedManifest(const std::string& path) {
  return BadInput("the manifest has been changed")
      .File(path)
      .Expected("the text that its manifest_hash is of")
      .Found("another")
      .Advice("bring back the manifest that mimo-convert wrote, or convert again");
}

}  // namespace mimo
