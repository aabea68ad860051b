#include "lib/judge/health.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>

#include "kernels/codec/bf16.h"
#include "kernels/codec/fp16.h"
#include "lib/base/workers.h"
#include "lib/model/role_groups.h"

namespace mimo {
namespace {

constexpr uint64_t kMostBytes = 4u << 20;  // of one array
constexpr uint64_t kReadBytes = 1u << 20;  // of one request
constexpr uint64_t kGapBytes = 16u << 10;  // between arrays that are read together

bool IsFloat(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16;
}
bool IsScale(Part part) {
  return part != Part::kWeight && part != Part::kPacked;
}
// What is kept of one array.
struct Summary {
  uint64_t elements = 0, non_finite = 0, zeros = 0, negative = 0;
  float first = 0;
  bool constant = true;
};

Summary Summarize(DType dtype, const std::byte* data, uint64_t bytes) {
  Summary s;
  const uint64_t step = BitsPerElement(dtype) / 8;
  s.elements = bytes / step;
  for (uint64_t i = 0; i < s.elements; ++i) {
    float value = 0;
    uint16_t half = 0;
    std::memcpy(dtype == DType::kF32 ? static_cast<void*>(&value) : &half, data + i * step, step);
    if (dtype == DType::kBF16) value = kernels::Bf16ToFloat(half);
    if (dtype == DType::kF16) value = kernels::Fp16ToFloat(half);
    if (i == 0) s.first = value;
    s.constant &= value == s.first;
    s.non_finite += !std::isfinite(value);
    s.zeros += value == 0;
    s.negative += value < 0;
  }
  return s;
}

// Arrays that lie near each other in one file, and are read at once.
struct Request {
  uint32_t file = 0;
  uint64_t begin = 0, end = 0;
  std::vector<uint32_t> arrays;
};

std::vector<Request> Requests(const Catalogue& catalogue, const std::vector<uint8_t>* unread) {
  std::vector<uint32_t> wanted;
  for (uint32_t i = 0; i < catalogue.arrays.size(); ++i) {
    const StoredArray& a = catalogue.arrays[i];
    if (unread != nullptr && (*unread)[i] != 0) continue;
    if (a.shape.size() <= 1 && IsFloat(a.dtype) && !IsTower(a.id.role) && a.bytes > 0 && a.bytes <= kMostBytes)
      wanted.push_back(i);
  }
  std::sort(wanted.begin(), wanted.end(), [&](uint32_t x, uint32_t y) {
    const StoredArray &a = catalogue.arrays[x], &b = catalogue.arrays[y];
    return std::tie(a.file, a.begin) < std::tie(b.file, b.begin);
  });
  std::vector<Request> requests;
  for (uint32_t i : wanted) {
    const StoredArray& a = catalogue.arrays[i];
    Request* last = requests.empty() ? nullptr : &requests.back();
    if (last == nullptr || last->file != a.file || a.begin > last->end + kGapBytes ||
        a.begin + a.bytes > last->begin + kReadBytes)
      requests.push_back({a.file, a.begin, a.begin, {}});
    requests.back().end = std::max(requests.back().end, a.begin + a.bytes);
    requests.back().arrays.push_back(i);
  }
  return requests;
}

using Summaries = std::map<uint32_t, Summary>;  // by array

Result<Summaries> ReadAll(FileSystem& fs, const Catalogue& catalogue, const HealthOptions& options) {
  const std::vector<Request> requests = Requests(catalogue, options.unread);
  std::map<uint32_t, std::unique_ptr<ReadableFile>> files;
  std::mutex mutex;
  Summaries summaries;
  const auto open = [&](uint32_t file) -> Result<const ReadableFile*> {
    const std::lock_guard lock(mutex);
    std::unique_ptr<ReadableFile>& opened = files[file];
    if (!opened) {
      MIMO_ASSIGN_OR_RETURN(opened, fs.OpenForRead(catalogue.PathOf(catalogue.files[file])));
    }
    return static_cast<const ReadableFile*>(opened.get());
  };
  std::atomic<size_t> next = 0;
  Workers workers(options.threads > 0 ? options.threads : ThreadsOfMachine(), "try again with more memory");
  const auto work = [&](int) -> Status {
    std::vector<std::byte> buffer;
    Summaries mine;
    for (size_t i = next++; i < requests.size() && !workers.stopped(); i = next++) {
      const Request& request = requests[i];
      buffer.resize(request.end - request.begin);
      MIMO_ASSIGN_OR_RETURN(const ReadableFile* file, open(request.file));
      MIMO_RETURN_IF_ERROR(file->ReadAt(request.begin, std::span(buffer)));
      for (uint32_t array : request.arrays) {
        const StoredArray& a = catalogue.arrays[array];
        mine[array] = Summarize(a.dtype, buffer.data() + (a.begin - request.begin), a.bytes);
      }
    }
    const std::lock_guard lock(mutex);
    summaries.merge(mine);
    return {};
  };
  MIMO_RETURN_IF_ERROR(workers.Run(work));
  return summaries;
}

// "model.layers.*.mlp.experts.*.up_proj.weight"
std::string PatternOf(const std::string& name) {
  std::string pattern, component;
  for (size_t i = 0; i <= name.size(); ++i) {
    if (i < name.size() && name[i] != '.') {
      component += name[i];
      continue;
    }
    const bool number = !component.empty() && component.find_first_not_of("0123456789") == std::string::npos;
    pattern += number ? "*" : component;
    if (i < name.size()) pattern += '.';
    component.clear();
  }
  return pattern;
}

std::string Number(float value) {
  std::string text = std::to_string(value);
  while (text.find('.') != std::string::npos && (text.back() == '0')) text.pop_back();
  if (text.back() == '.') text += '0';
  return text;
}

class HealthJudge {
 public:
  HealthJudge(const Catalogue& catalogue, const Inventory* inventory, const Summaries& summaries)
      : catalogue_(catalogue), inventory_(inventory), summaries_(summaries) {}

  Verdict Judge(bool allow_anomalies) {
    for (const auto& [array, summary] : summaries_) JudgeArray(catalogue_.arrays[array], summary);
    Storage();
    if (inventory_ != nullptr) InputScales();
    Verdict verdict;
    for (const auto& [key, place] : places_) {
      const auto& [id, pattern, what] = key;
      Finding& finding = verdict.Add(id, pattern, what + ": " + Examples(place), place.size());
      if (allow_anomalies && finding.severity == Severity::kError) finding.severity = Severity::kWarning;
    }
    return verdict;
  }

 private:
  void Add(const char* id, const std::string& name, const std::string& what, const std::string& value = "") {
    places_[{id, PatternOf(name), what}].push_back(value.empty() ? name : name + " (" + value + ")");
  }

  void JudgeArray(const StoredArray& a, const Summary& s) {
    if (s.non_finite > 0) return Add("health.non_finite", a.name, "NaN or infinity");
    if (IsScale(a.id.part) && s.zeros > 0) Add("health.scale", a.name, "zero");
    if (IsScale(a.id.part) && s.negative > 0) Add("health.scale", a.name, "negative");
    if (a.id.part != Part::kWeight) return;
    if (IsNorm(a.id.role) && s.zeros == s.elements) Add("health.zero_norm", a.name, "all zero");
    if (a.id.role == Role::kRouterBias && s.elements > 1 && s.constant && s.first != 0)
      Add("health.constant_router_bias", a.name, std::string(DTypeName(a.dtype)) + ", all experts alike",
          Number(s.first));
  }

  // Types of all arrays, whatever their size.
  void Storage() {
    for (const StoredArray& a : catalogue_.arrays) {
      if (a.id.part != Part::kWeight || a.dtype == DType::kF32 || catalogue_.table == nullptr) continue;
      const TensorRule* rule = catalogue_.table->RuleOf(a.id);
      if (rule == nullptr || rule->storage != "f32") continue;
      Add("health.storage", a.name, "stored as " + std::string(DTypeName(a.dtype)) + ", the model has F32");
    }
  }

  void InputScales() {
    std::map<std::string, std::pair<uint64_t, std::vector<std::string>>> kinds;  // with, and which are without
    using Group = std::tuple<bool, int32_t, int32_t, std::string>;
    std::map<Group, std::vector<uint32_t>> fused;
    for (const Weight& weight : inventory_->weights) {
      if (weight.storage != Storage::kNvfp4) continue;
      const std::string& name = catalogue_.arrays[weight.array].name;
      auto& [with, without] = kinds[PatternOf(name)];
      if (weight.input == kNone) {
        without.push_back(name);
        continue;
      }
      ++with;
      if (catalogue_.table == nullptr) continue;
      const std::string fuse(catalogue_.table->FuseOf(weight.id));
      if (!fuse.empty()) fused[{weight.id.mtp, weight.id.layer, weight.id.expert, fuse}].push_back(weight.input);
    }
    for (const auto& [pattern, counted] : kinds)
      if (counted.first > 0)
        for (const std::string& name : counted.second)
          Add("health.input_scale_gaps", name,
              "none, though " + std::to_string(counted.first) + " of the kind have one");
    for (const auto& [group, inputs] : fused) {
      const float first = InputScale(inputs[0]);
      for (uint32_t input : inputs)
        if (InputScale(input) != first) {
          Add("health.input_scale_differs", catalogue_.arrays[input].name,
              "unlike others of its " + std::get<3>(group));
          break;
        }
    }
  }

  float InputScale(uint32_t array) const {
    const auto found = summaries_.find(array);
    return found == summaries_.end() ? 0.0f : found->second.first;
  }

  const Catalogue& catalogue_;
  const Inventory* inventory_;
  const Summaries& summaries_;
  std::map<std::tuple<std::string, std::string, std::string>, std::vector<std::string>> places_;  // id, pattern, what
};

}  // namespace

Result<Verdict> JudgeHealth(FileSystem& fs, const Catalogue& catalogue, const Inventory* inventory,
                            const HealthOptions& options) {
  MIMO_ASSIGN_OR_RETURN(const Summaries summaries, ReadAll(fs, catalogue, options));
  return HealthJudge(catalogue, inventory, summaries).Judge(options.allow_anomalies);
}

Result<Verdict> JudgeHealth(FileSystem& fs, const Checkpoint& checkpoint, bool taken, HealthOptions options) {
  if (checkpoint.view) options.unread = &checkpoint.view->constants;
  const bool stored = taken && !checkpoint.view && !checkpoint.like;
  return JudgeHealth(fs, checkpoint.stored, stored ? &checkpoint.inventory : nullptr, options);
}

}  // namespace mimo
