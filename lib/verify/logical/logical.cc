#include "lib/verify/logical/logical.h"

#include <algorithm>
#include <utility>

#include "lib/forms/registry/open_checkpoint.h"
#include "lib/planner/planner.h"
#include "lib/recipe/codec_types.h"
#include "lib/run/sources.h"

namespace mimo {
namespace {

constexpr size_t kOpenFiles = 128;

// Elements that are only moved are values too: their type says which.
void NameCodecs(const Catalogue& catalogue, Plan* plan) {
  for (const OutputArray& output : plan->outputs) {
    if (output.transform != Transform::kMove) continue;
    for (const Piece& piece : output.pieces) {
      if (piece.source == kNone) continue;
      SourceArray& source = plan->sources[piece.source];
      if (const auto codec = ValueCodecOf(catalogue.arrays[source.array].dtype); codec && !source.quantized)
        source.codec = *codec;
    }
  }
}

}  // namespace

PlanOptions LogicalOptions() {
  PlanOptions options;
  options.dtype = DTypeChoice::kFp32;
  options.qkv = QkvWish("split");
  options.unknown = UnknownPolicy::kCarry;
  options.logical = true;
  return options;
}

LogicalCheckpoint::LogicalCheckpoint(FileSystem& fs, Checkpoint checkpoint)
    : fs_(fs),
      checkpoint_(std::move(checkpoint)),
      job_{checkpoint_.stored, plan_, {}},
      files_(
          kOpenFiles, [this](uint32_t file) { return OpenUnchanged(fs_, checkpoint_.stored, file); },
          [](ReadableFile&) { return Status(); }) {}

Result<std::unique_ptr<LogicalCheckpoint>> LogicalCheckpoint::Open(FileSystem& fs, const std::string& root,
                                                                   const OpenOptions& options) {
  MIMO_ASSIGN_OR_RETURN(Checkpoint checkpoint, OpenCheckpoint(fs, root, options));
  std::unique_ptr<LogicalCheckpoint> logical(new LogicalCheckpoint(fs, std::move(checkpoint)));
  MIMO_RETURN_IF_ERROR(logical->PlanValues());
  return logical;
}

Status LogicalCheckpoint::PlanValues() {
  MIMO_ASSIGN_OR_RETURN(plan_, MakePlan(checkpoint_, LogicalOptions()));
  NameCodecs(checkpoint_.stored, &plan_);
  job_.modes.assign(plan_.outputs.size(), OutputMode::kWrite);
  tensors_.reserve(plan_.outputs.size());
  for (uint32_t o = 0; o < plan_.outputs.size(); ++o) {
    MIMO_ASSIGN_OR_RETURN(ValueRows rows, ValueRows::Of(job_, o));
    tensors_.push_back({plan_.outputs[o].name, std::move(rows)});
  }
  std::sort(tensors_.begin(), tensors_.end(),
            [](const LogicalTensor& a, const LogicalTensor& b) { return a.name < b.name; });
  return {};
}

const LogicalTensor* LogicalCheckpoint::Find(const std::string& name) const {
  const auto found = std::lower_bound(tensors_.begin(), tensors_.end(), name,
                                      [](const LogicalTensor& t, const std::string& text) { return t.name < text; });
  return found != tensors_.end() && found->name == name ? &*found : nullptr;
}

Status LogicalCheckpoint::ReadRows(const StoredArray& array, int64_t row, std::span<std::byte> out) const {
  MIMO_ASSIGN_OR_RETURN(const auto file, files_.Get(array.file));
  return file->ReadAt(array.begin + Rows(row, array.row_bytes()), out);
}

Status LogicalCheckpoint::Read(const StepLayout& layout, std::byte* buffer) const {
  for (const Extent& extent : layout.reads()) {
    MIMO_ASSIGN_OR_RETURN(const auto file, files_.Get(extent.file));
    MIMO_RETURN_IF_ERROR(file->ReadAt(extent.begin, {buffer + extent.offset, extent.bytes}));
  }
  return {};
}

}  // namespace mimo
