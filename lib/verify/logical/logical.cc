#include "lib/verify/logical/logical.h"

#include <algorithm>
#include <array>
#include <utility>

#include "lib/decode/row_bytes.h"
#include "lib/forms/registry/open_checkpoint.h"
#include "lib/forms/registry/registry.h"
#include "lib/model/scale_values.h"
#include "lib/planner/planner.h"
#include "lib/recipe/codec_types.h"
#include "lib/run/memory_budget.h"
#include "lib/run/sources.h"

namespace mimo {
namespace {

constexpr size_t kOpenFiles = 128;
constexpr int64_t kReplicaBytes = 4 << 20;  // that are compared at a time

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

// What a view shows as a Hugging Face directory, every code as it is.
PlanOptions AsStored(const View& view) {
  PlanOptions options;
  options.qkv = QkvWish(view.chunks > 0 ? "fused:" + std::to_string(view.chunks) : "split");
  options.unknown = UnknownPolicy::kCarry;
  return options;
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

LogicalCheckpoint::Stage::Stage(FileSystem& files, Checkpoint opened)
    : fs(files),
      checkpoint(std::move(opened)),
      job{checkpoint.stored, plan, {}},
      readers(
          kOpenFiles, [this](uint32_t file) { return OpenUnchanged(fs, checkpoint.stored, file); },
          [](ReadableFile&) { return Status(); }) {}

Status LogicalCheckpoint::Stage::Make(const PlanOptions& options) {
  MIMO_ASSIGN_OR_RETURN(plan, MakePlan(checkpoint, options));
  job.modes.assign(plan.outputs.size(), OutputMode::kMake);
  return {};
}

Status LogicalCheckpoint::Stage::ReadRows(const StoredArray& array, int64_t row, std::span<std::byte> out) const {
  MIMO_ASSIGN_OR_RETURN(const auto file, readers.Get(array.file));
  return file->ReadAt(array.begin + Rows(row, array.row_bytes()), out);
}

Status LogicalCheckpoint::Stage::VisitBrokenReplicas(const ReplicaVisit& visit) const {
  std::vector<std::byte> x, y;
  for (const EqualRows& equal : plan.equal) {
    const StoredArray &first = job.array(equal.first), &second = job.array(equal.second);
    const int64_t step =
        std::max<int64_t>(1, kReplicaBytes / std::max<int64_t>(1, static_cast<int64_t>(first.row_bytes())));
    for (int64_t done = 0; done < equal.rows; done += step) {
      const int64_t rows = std::min(step, equal.rows - done);
      x.resize(Rows(rows, first.row_bytes()));
      y.resize(Rows(rows, second.row_bytes()));
      MIMO_RETURN_IF_ERROR(ReadRows(first, equal.first_row + done, x));
      MIMO_RETURN_IF_ERROR(ReadRows(second, equal.second_row + done, y));
      if (x == y) continue;
      visit(first.name, second.name);
      break;
    }
  }
  return {};
}

LogicalCheckpoint::LogicalCheckpoint(std::string root, std::unique_ptr<Stage> before,
                                     std::unique_ptr<PlannedFiles> planned, std::unique_ptr<Stage> stage,
                                     FormTraits traits)
    : root_(std::move(root)),
      before_(std::move(before)),
      planned_(std::move(planned)),
      stage_(std::move(stage)),
      traits_(traits),
      checkpoint_(stage_->checkpoint),
      job_(stage_->job) {}

Result<std::unique_ptr<LogicalCheckpoint>> LogicalCheckpoint::Open(FileSystem& fs, const std::string& root,
                                                                   const OpenOptions& options) {
  MIMO_ASSIGN_OR_RETURN(Checkpoint checkpoint, OpenCheckpoint(fs, root, options));
  const FormTraits traits = FormOf(checkpoint).traits();
  auto stage = std::make_unique<Stage>(fs, std::move(checkpoint));
  std::unique_ptr<Stage> before;
  std::unique_ptr<PlannedFiles> planned;
  Status made = stage->Make(LogicalOptions());
  if (!made.ok() && made.error().code == ErrorCode::kUsage && stage->checkpoint.view) {
    before = std::move(stage);
    // Nobody reads what travels along: links that no conversion would follow (--link sym) do no harm.
    for (Catalogue* catalogue : {&before->checkpoint.stored, &before->checkpoint.view->catalogue})
      std::erase_if(catalogue->carried, [](const CarriedFile& file) { return !file.outside.empty(); });
    MIMO_RETURN_IF_ERROR(before->Make(AsStored(*before->checkpoint.view)));
    const std::string place = root + " (as a Hugging Face checkpoint)";
    planned =
        std::make_unique<PlannedFiles>(fs, before->checkpoint.stored, before->plan, place, DefaultMemoryBytes() / 4);
    MIMO_ASSIGN_OR_RETURN(Checkpoint shown, OpenCheckpoint(*planned, place, {.allow_anomalies = true}));
    stage = std::make_unique<Stage>(*planned, std::move(shown));
    made = stage->Make(LogicalOptions());
  }
  MIMO_RETURN_IF_ERROR(std::move(made));
  NameCodecs(stage->checkpoint.stored, &stage->plan);
  std::unique_ptr<LogicalCheckpoint> logical(
      new LogicalCheckpoint(root, std::move(before), std::move(planned), std::move(stage), traits));
  MIMO_RETURN_IF_ERROR(logical->FindTensors());
  return logical;
}

Status LogicalCheckpoint::FindTensors() {
  const Plan& plan = stage_->plan;
  tensors_.reserve(plan.outputs.size());
  for (uint32_t o = 0; o < plan.outputs.size(); ++o) {
    MIMO_ASSIGN_OR_RETURN(ValueRows rows, ValueRows::Of(job_, o));
    tensors_.push_back({plan.outputs[o].name, std::move(rows)});
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

Status LogicalCheckpoint::VisitBrokenReplicas(const ReplicaVisit& visit) const {
  if (before_) MIMO_RETURN_IF_ERROR(before_->VisitBrokenReplicas(visit));
  return stage_->VisitBrokenReplicas(visit);
}

Result<std::map<std::string, float>> LogicalCheckpoint::InputScales() const {
  std::map<std::string, float> scales;
  const Checkpoint& checkpoint = stage_->checkpoint;
  const ModelTable& table = *checkpoint.stored.table;
  for (const Weight& weight : checkpoint.inventory.weights) {
    if (weight.input == kNone) continue;
    Fragment at;  // of a view: where its one element is stored
    at.array = weight.input;
    if (checkpoint.view) at = checkpoint.view->fragments[weight.input][0];
    const StoredArray& stored = checkpoint.stored.arrays[at.array];
    const uint64_t element = BitsPerElement(stored.dtype) / 8;
    if (!IsScaleType(stored.dtype)) continue;
    std::array<std::byte, sizeof(float)> bytes{};
    MIMO_ASSIGN_OR_RETURN(const auto file, stage_->readers.Get(stored.file));
    MIMO_RETURN_IF_ERROR(
        file->ReadAt(stored.begin + Rows(at.stored_row, stored.row_bytes()) + Rows(at.stored_col, element),
                     std::span(bytes).first(element)));
    const float value = WidenScale(stored.dtype, bytes.data());
    TensorId id = weight.id;
    if (id.role != Role::kAttnQkv) {
      scales[table.NameOf(id)] = value;
      continue;
    }
    for (const Role role : {Role::kAttnQ, Role::kAttnK, Role::kAttnV}) {
      id.role = role;
      scales[table.NameOf(id)] = value;
    }
  }
  return scales;
}

Status LogicalCheckpoint::Read(const StepLayout& layout, std::byte* buffer) const {
  for (const Extent& extent : layout.reads()) {
    MIMO_ASSIGN_OR_RETURN(const auto file, stage_->readers.Get(extent.file));
    MIMO_RETURN_IF_ERROR(file->ReadAt(extent.begin, {buffer + extent.offset, extent.bytes}));
  }
  return {};
}

}  // namespace mimo
