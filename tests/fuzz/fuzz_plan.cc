// Plan documents from arbitrary bytes, against an empty and a small catalogue: refused or sound, never a crash.
// ParsePlanJson checks every index and range, since the executor trusts a plan.
#include <cstddef>
#include <cstdint>
#include <string>

#include "lib/plan/plan_json.h"

namespace {

mimo::Catalogue SmallCatalogue() {
  mimo::Catalogue c;
  c.root = "c";
  c.files.push_back({"a.safetensors", 8 + 64 + 4096, 72, {}, {}});
  mimo::StoredArray array;
  array.name = "model.norm.weight";
  array.dtype = mimo::DType::kBF16;
  array.shape = {2048};
  array.begin = 72;
  array.bytes = 4096;
  c.arrays.push_back(array);
  c.by_name[array.name] = 0;
  return c;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const mimo::Catalogue catalogue = SmallCatalogue();
  const std::string text(reinterpret_cast<const char*>(data), size);
  const auto plan = mimo::ParsePlanJson(catalogue, text, "plan.json");
  if (plan.ok() && !mimo::ValidatePlan(catalogue, plan.value()).ok()) __builtin_trap();
  (void)mimo::ParsePlanOptionsJson(text);
  return 0;
}
