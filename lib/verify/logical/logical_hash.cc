#include "lib/verify/logical/logical_hash.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <nlohmann/json.hpp>

#include "lib/base/checked.h"
#include "lib/base/workers.h"
#include "lib/decode/row_bytes.h"
#include "lib/json/members.h"
#include "lib/json/parse.h"
#include "lib/json/text.h"
#include "lib/model/names.h"
#include "lib/model/role_groups.h"
#include "lib/results/manifest.h"
#include "lib/results/manifest_hash.h"
#include "lib/run/memory_budget.h"

namespace mimo {
namespace {

constexpr char kLogicalFormat[] = "mimo-logical-manifest";
constexpr uint64_t kHashedBytes = 8 << 20;     // of a unit, as FP32
constexpr int64_t kHashedElements = 32 << 10;  // that are values at a time: they stay in the cache
constexpr uint64_t kManifestBytes = 1ull << 30;
constexpr char kHashesAdvice[] = "make it with mimo-verify manifest";
constexpr char kHashMemory[] = "try again with more memory";

struct HashUnit {
  uint32_t tensor = 0;
  int64_t row = 0;
  int64_t rows = 0;
};

class LogicalHasher {
 public:
  LogicalHasher(const LogicalCheckpoint& checkpoint, const LogicalHashOptions& options)
      : checkpoint_(checkpoint),
        options_(options),
        memory_(options.memory_bytes > 0 ? options.memory_bytes : DefaultMemoryBytes()),
        budget_(memory_, kHashedBytes),
        hashes_(checkpoint.tensors().size()) {}

  // The first unit of a tensor is its largest.
  Status CheckMemory() const {
    for (uint32_t t = 0; t < hashes_.size(); ++t) {
      const ValueRows& rows = checkpoint_.tensors()[t].rows;
      if (rows.rows() == 0) continue;
      const StepLayout layout = LayoutOf({t, 0, std::min(RowsOfUnit(rows), rows.rows())});
      if (layout.buffer_bytes() > memory_) return TooLittle(t, layout.buffer_bytes());
    }
    return {};
  }

  Result<std::vector<LogicalHash>> Hash() {
    const ModelTable* table = checkpoint_.checkpoint().stored.table;
    for (uint32_t t = 0; t < hashes_.size(); ++t) {
      const LogicalTensor& tensor = checkpoint_.tensors()[t];
      const TensorRule* rule = table == nullptr ? nullptr : table->RuleOf(tensor.rows.array().id);
      hashes_[t].name = tensor.name;
      hashes_[t].shape = tensor.rows.array().shape;
      hashes_[t].values = tensor.rows.has_values();
      hashes_[t].f32 = rule != nullptr && rule->pinned();
      AddUnits(t, tensor.rows);
    }
    if (options_.progress != nullptr) options_.progress->Start(checkpoint_.checkpoint().stored.payload_bytes());
    std::atomic<size_t> next = 0;
    Workers workers(options_.threads > 0 ? options_.threads : ThreadsOfMachine(), kHashMemory);
    Status run = workers.Run(
        [&](int) -> Status {
          for (size_t at = next++; at < units_.size() && !workers.stopped(); at = next++) {
            if (options_.go_on) MIMO_RETURN_IF_ERROR(options_.go_on());
            MIMO_RETURN_IF_ERROR(HashOne(units_[at]));
          }
          return {};
        },
        [this] { budget_.Cancel(); });
    if (options_.progress != nullptr) options_.progress->Finish();
    MIMO_RETURN_IF_ERROR(std::move(run));
    return std::move(hashes_);
  }

 private:
  static int64_t RowsOfUnit(const ValueRows& rows) {
    const int64_t wide = std::max<int64_t>(1, rows.cols());
    if (rows.turned()) return std::max<int64_t>(1, rows.rows());
    return std::max<int64_t>(1, static_cast<int64_t>(kHashedBytes / sizeof(float)) / wide);
  }

  void AddUnits(uint32_t tensor, const ValueRows& rows) {
    const int64_t step = RowsOfUnit(rows);
    for (int64_t row = 0; row < rows.rows(); row += step)
      units_.push_back({tensor, row, std::min(step, rows.rows() - row)});
  }

  StepLayout LayoutOf(const HashUnit& unit) const {
    const ValueRows& rows = checkpoint_.tensors()[unit.tensor].rows;
    StepLayout layout(checkpoint_.job());
    rows.Place(rows.PiecesOf(unit.row, unit.rows), unit.row, unit.rows, &layout);
    layout.Place(2 * kHashedBytes);
    return layout;
  }

  Error TooLittle(uint32_t tensor, uint64_t bytes) const {
    return UsageError("the memory is too small for rows of a tensor")
        .Tensor(checkpoint_.tensors()[tensor].name)
        .Expected("at least " + std::to_string(bytes) + " bytes")
        .Found(std::to_string(memory_) + " bytes")
        .Advice("raise --memory");
  }

  Status HashOne(const HashUnit& unit) {
    const ValueRows& rows = checkpoint_.tensors()[unit.tensor].rows;
    const std::vector<Piece> pieces = rows.PiecesOf(unit.row, unit.rows);
    const StepLayout layout = LayoutOf(unit);
    const uint64_t bytes = std::max<uint64_t>(1, layout.buffer_bytes());
    const Buffer buffer = budget_.Acquire(bytes);
    if (!buffer && bytes > memory_) return TooLittle(unit.tensor, bytes);
    if (!buffer) return IoError("no memory for " + std::to_string(bytes) + " bytes of rows").Advice(kHashMemory);
    MIMO_RETURN_IF_ERROR(checkpoint_.Read(layout, buffer.data()));
    const StepBuffer read(layout, buffer.data());
    Hash128 fp32, bf16;
    if (!rows.has_values()) {
      std::vector<std::byte> stored(Rows(unit.rows, rows.row_bytes()));
      rows.Copy(read, pieces, unit.row, unit.rows, stored.data());
      fp32 = HashRows(stored, rows.row_bytes(), static_cast<uint64_t>(unit.row));
    } else {
      MIMO_RETURN_IF_ERROR(HashValues(rows, pieces, read, unit, &fp32, &bf16));
    }
    if (options_.progress != nullptr) options_.progress->Advance(bytes);
    const std::lock_guard lock(mutex_);
    hashes_[unit.tensor].fp32 += fp32;
    hashes_[unit.tensor].bf16 += bf16;
    return {};
  }

  static Status HashValues(const ValueRows& rows, const std::vector<Piece>& pieces, const StepBuffer& read,
                           const HashUnit& unit, Hash128* fp32, Hash128* bf16) {
    const int64_t strip = std::max<int64_t>(1, kHashedElements / std::max<int64_t>(1, rows.cols()));
    std::vector<std::byte> values(Rows(strip, ColumnBytes(Codec::kFp32, rows.cols())));
    for (int64_t done = 0; done < unit.rows; done += strip) {
      const int64_t row = unit.row + done, count = std::min(strip, unit.rows - done);
      for (const auto& [codec, hash] : {std::pair(Codec::kFp32, fp32), std::pair(Codec::kBf16, bf16)}) {
        const uint64_t row_bytes = ColumnBytes(codec, rows.cols());
        auto made = rows.Make(read, pieces, row, count, {codec, values.data(), row_bytes});
        if (!made.ok()) return made.TakeError();
        *hash += HashRows({values.data(), Rows(count, row_bytes)}, row_bytes, static_cast<uint64_t>(row));
      }
    }
    return {};
  }

  const LogicalCheckpoint& checkpoint_;
  const LogicalHashOptions& options_;
  const uint64_t memory_;
  MemoryBudget budget_;
  std::vector<HashUnit> units_;
  std::mutex mutex_;
  std::vector<LogicalHash> hashes_;
};

Error NoLogicalManifest(const std::string& path, const std::string& found) {
  return BadInput("not a manifest of hashes of values")
      .File(path)
      .Expected("what mimo-verify manifest prints, or the mimo-manifest.json of a conversion with --hash-values")
      .Found(found)
      .Advice(kHashesAdvice);
}

Result<std::vector<LogicalHash>> HashesOfOutput(const std::string& text, const std::string& path) {
  MIMO_ASSIGN_OR_RETURN(Manifest manifest, ParseManifest(text, path));
  if (!manifest.logical_hashes) return NoLogicalManifest(path, "a mimo-manifest.json without them");
  return std::move(*manifest.logical_hashes);
}

}  // namespace

Result<std::vector<LogicalHash>> HashLogical(const LogicalCheckpoint& checkpoint, const LogicalHashOptions& options) {
  return LogicalHasher(checkpoint, options).Hash();
}

Status CheckHashMemory(const LogicalCheckpoint& checkpoint, const LogicalHashOptions& options) {
  return LogicalHasher(checkpoint, options).CheckMemory();
}

std::string LogicalManifestJson(const std::vector<LogicalHash>& hashes) {
  std::string text = std::string("{\n\"format\":\"") + kLogicalFormat + "\",\n\"version\":1,\n\"tensors\":";
  JsonList list(text, "\n");
  for (const LogicalHash& hash : hashes) AppendLogicalHash(list.Next(), hash);
  list.Close("\n");
  return text + "\n}\n";
}

Result<std::vector<LogicalHash>> ReadLogicalManifest(FileSystem& fs, const std::string& path) {
  MIMO_ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(fs, path, kManifestBytes));
  if (text.starts_with(kBeginOfManifest)) return HashesOfOutput(text, path);
  JsonProblems problems(path, kHashesAdvice);
  std::vector<LogicalHash> hashes;
  const JsonPart part = [&](const std::string& list, const std::string&, nlohmann::json& value) {
    const bool hashed = value.is_object() && (value.contains("fp32") || value.contains("bytes"));
    if (list != "tensors" || !hashed) return true;
    JsonMembers members(value, problems, "tensors", hashes.size());
    hashes.push_back(TakeLogicalHash(members, problems));
    return false;
  };
  MIMO_ASSIGN_OR_RETURN(const nlohmann::json document, ParseJsonParts(text, path, kLongDocument, part));
  const auto format = document.is_object() ? document.value("format", nlohmann::json()) : nlohmann::json();
  if (format != kLogicalFormat || !document.contains("tensors") || !document.at("tensors").is_array())
    return NoLogicalManifest(path, "another document");
  if (document.value("version", nlohmann::json()) != 1) return NoLogicalManifest(path, "another version");
  if (!document.at("tensors").empty()) return NoLogicalManifest(path, "an entry without hashes");
  MIMO_RETURN_IF_ERROR(problems.Take());
  std::sort(hashes.begin(), hashes.end(), [](const LogicalHash& a, const LogicalHash& b) { return a.name < b.name; });
  return hashes;
}

std::vector<Difference> CompareRecorded(const std::vector<LogicalHash>& recorded,
                                        const std::vector<LogicalHash>& found) {
  std::vector<Difference> differences;
  const auto text = [](const LogicalHash& h) {
    std::string shape;
    for (const int64_t extent : h.shape) shape += (shape.empty() ? "[" : ", ") + std::to_string(extent);
    shape += shape.empty() ? "[]" : "]";
    return shape + " " + h.fp32.Hex() + (h.values ? (h.f32 ? " f32 " : " ") + h.bf16.Hex() : " of bytes");
  };
  auto a = recorded.begin();
  auto b = found.begin();
  while (a != recorded.end() || b != found.end()) {
    if (b == found.end() || (a != recorded.end() && a->name < b->name)) {
      differences.push_back({kManifestName, a->name, "hash of values", text(*a), "no such tensor"});
      ++a;
    } else if (a == recorded.end() || b->name < a->name) {
      differences.push_back({kManifestName, b->name, "hash of values", "none", text(*b)});
      ++b;
    } else {
      if (*a != *b) differences.push_back({kManifestName, a->name, "hash of values", text(*a), text(*b)});
      ++a;
      ++b;
    }
  }
  return differences;
}

Recognition Recognise(const std::vector<LogicalHash>& expected, const std::vector<LogicalHash>& found,
                      const FormTraits& traits, const ModelTable* table) {
  Recognition result;
  const auto may_lack = [&](const std::string& name) {
    if (table == nullptr) return false;
    const TensorId id = table->Identify(name);
    return (IsTower(id.role) && !traits.towers) || (id.mtp && !traits.mtp);
  };
  auto a = expected.begin();
  auto b = found.begin();
  while (a != expected.end() || b != found.end()) {
    if (b == found.end() || (a != expected.end() && a->name < b->name)) {
      if (!may_lack(a->name)) result.strangers.push_back({a->name, "missing"});
      ++a;
    } else if (a == expected.end() || b->name < a->name) {
      result.strangers.push_back({b->name, "not in the manifest"});
      ++b;
    } else {
      if (a->shape != b->shape)
        result.strangers.push_back({a->name, "of another shape"});
      else if (a->values != b->values || (a->fp32 != b->fp32 && (!a->values || a->f32 || a->bf16 != b->bf16)))
        result.strangers.push_back(
            {a->name, a->values && a->bf16 == b->bf16 ? "F32 bits are lost" : "of other values"});
      else
        ++(a->fp32 == b->fp32 ? result.equal : result.rounded);
      ++a;
      ++b;
    }
  }
  return result;
}

}  // namespace mimo
