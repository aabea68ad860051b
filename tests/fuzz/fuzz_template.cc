// A template of rank files from arbitrary bytes: an error, or a canonical form that is its own, and that a rank form
// takes; never a crash.
#include <cstddef>
#include <cstdint>
#include <string>

#include "lib/forms/ranks/rank_form.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const auto canonical = mimo::CanonicalTemplate(text, "template");
  if (!canonical.ok()) return 0;
  const auto again = mimo::CanonicalTemplate(canonical.value(), "again");
  if (!again.ok() || again.value() != canonical.value()) __builtin_trap();
  const auto form = mimo::RankForm::Load("vllm", "mimo_v2", canonical.value());
  if (form.ok()) (void)form.value().Unfilled({"lm_head.weight"});
  return 0;
}
