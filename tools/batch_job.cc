#include "tools/batch_job.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <optional>
#include <string_view>
#include <utility>

namespace mimo {
namespace {

constexpr uint64_t kMostRestarts = 1'000'000;

bool IsName(std::string_view text) {
  const auto plain = [](char c) { return c > ' ' && c < 0x7F; };
  return !text.empty() && text.size() <= 256 && std::all_of(text.begin(), text.end(), plain);
}

std::optional<uint64_t> CountOf(const char* text) {
  if (text == nullptr) return 0;
  const std::string_view digits = text;
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  if (error != std::errc() || end != digits.data() + digits.size() || number > kMostRestarts) return std::nullopt;
  return number;
}

}  // namespace

Status FindJob(bool count_given, BatchJob* job) {
  constexpr std::pair<const char*, const char*> kSchedulers[] = {{"SLURM_JOB_ID", "SLURM_RESTART_COUNT"},
                                                                 {"TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"}};
  if (!job->id.empty() && !IsName(job->id))
    return UsageError("not a job's name").Expected("up to 256 printable ASCII characters").Found("--job-id " + job->id);
  if (job->restarts > kMostRestarts)
    return UsageError("not a number of restarts").Expected("at most " + std::to_string(kMostRestarts));
  for (const auto& [id, restarts] : kSchedulers) {
    const char* text = std::getenv(id);
    const auto count = CountOf(std::getenv(restarts));
    // "none" is what torchrun calls a run that nobody named.
    if (text == nullptr || !count || !IsName(text) || std::string_view(text) == "none") continue;
    if (job->id.empty()) job->id = text;
    if (!count_given) job->restarts = *count;
    break;
  }
  return {};
}

}  // namespace mimo
