// config.json and the index from arbitrary bytes: an error or a value, never a crash; and an accepted config can be
// edited.
#include <cstddef>
#include <cstdint>
#include <string>

#include "lib/forms/hf/hf_config.h"
#include "lib/model/config.h"
#include "lib/model/index.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] & 1) {
    (void)mimo::ParseIndex(text, "index.json");
    return 0;
  }
  const auto config = mimo::ParseModelConfig(text, "config.json");
  if (!config.ok()) return 0;
  mimo::HfDescription description;
  description.layout = {mimo::QkvKind::kFused, 8};
  description.global = config.value().global;
  description.window = config.value().window;
  description.quantization.dialect = static_cast<mimo::Dialect>(data[0] >> 2 & 1 ? data[0] >> 3 & 1 ? 2 : 1 : 0);
  description.quantization.quantized.push_back({"model.layers.0.mlp.up_proj", mimo::kernels::Codec::kFp8Block});
  description.text_only = (data[0] & 2) != 0;
  const auto edited = mimo::EditHfConfig(config.value(), description);
  // A layout that does not fit is the planner's to refuse.
  const bool fits = mimo::LayoutFits(description.layout, description.global) &&
                    mimo::LayoutFits(description.layout, description.window);
  if (edited.ok() && fits && !mimo::ParseModelConfig(edited.value(), "edited").ok()) __builtin_trap();
  return 0;
}
