// Plan documents from arbitrary bytes, against an empty and a small catalogue: refused or sound, never a crash.
// ParsePlanJson checks every index and range, since the executor trusts a plan.
#include <cstddef>
#include <cstdint>
#include <string>

#include "lib/plan/plan_json.h"

namespace {

void Add(mimo::Catalogue& c, const char* name, mimo::DType dtype, std::vector<int64_t> shape, uint64_t bytes) {
  mimo::StoredArray array;
  array.name = name;
  array.dtype = dtype;
  array.shape = std::move(shape);
  array.begin = c.files[0].bytes;
  array.bytes = bytes;
  c.files[0].bytes += bytes;
  c.by_name.emplace(name, static_cast<uint32_t>(c.arrays.size()));
  c.arrays.push_back(std::move(array));
}

mimo::Catalogue SmallCatalogue() {
  mimo::Catalogue c;
  c.root = "c";
  c.files.push_back({"a.safetensors", 72, 72, {}, {}});
  Add(c, "model.norm.weight", mimo::DType::kBF16, {2048}, 4096);
  Add(c, "w", mimo::DType::kF8E4M3, {2, 64, 96}, 2 * 64 * 96);
  Add(c, "w_scale_inv", mimo::DType::kF32, {2, 2, 3}, 48);
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
