// A manifest from arbitrary bytes: an error or a value whose tensors lie in its files, never a crash.
#include <cstddef>
#include <cstdint>
#include <string>

#include "lib/results/manifest.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const auto manifest = mimo::ParseManifest(text, "manifest");
  if (!manifest.ok()) {
    if (manifest.error().code != mimo::ErrorCode::kBadInput) __builtin_trap();
    return 0;
  }
  for (const mimo::ManifestTensor& tensor : manifest.value().tensors)
    if (tensor.file >= manifest.value().files.size()) __builtin_trap();
  return 0;
}
