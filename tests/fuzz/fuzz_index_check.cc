// The index of an output from arbitrary bytes, against what a manifest says: problems, never a crash; and what has no
// problem lists exactly the tensors of the manifest.
#include <cstddef>
#include <cstdint>
#include <string>

#include "lib/model/index.h"
#include "lib/verify/index_check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const auto problems = mimo::CompareIndexText(text, "index", {{"a", "1.safetensors"}, {"b", "2.safetensors"}}, 100);
  const auto parsed = mimo::ParseIndex(text, "index");
  if (problems.empty() && (!parsed.ok() || parsed.value().weight_map.size() != 2)) __builtin_trap();
  return 0;
}
