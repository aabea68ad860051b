#include "tools/run_flags.h"

#include <utility>

namespace mimo {

Status ReadDevice(const std::string& text, RunOptions* run) {
  if (text == "auto") return {};
  run->device = text == "cpu" ? DeviceChoice::kCpu : DeviceChoice::kCuda;
  if (text == "cpu" || text == "cuda") return {};
  if (text.starts_with("cuda:") && text.size() > 5 && text.size() < 9 &&
      text.find_first_not_of("0123456789", 5) == std::string::npos) {
    run->cuda_device = std::stoi(text.substr(5));
    return {};
  }
  return UsageError("not a device").Expected("auto, cpu, cuda or cuda:INDEX").Found("--device " + text);
}

Status ReadThresholds(const std::vector<std::string>& words, RunOptions* run) {
  for (const std::string& text : words) {
    MIMO_ASSIGN_OR_RETURN(Threshold threshold, ParseThreshold(text));
    run->thresholds.push_back(std::move(threshold));
  }
  run->measure_errors |= !run->thresholds.empty();
  return {};
}

}  // namespace mimo
