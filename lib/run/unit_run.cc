#include "lib/run/unit_run.h"

#include <algorithm>
#include <utility>

#include "lib/run/encode_strips.h"

namespace mimo {

UnitRun::UnitRun(const Job& job, PartLoader& loader, uint32_t number, const Unit& unit, uint64_t limit,
                 uint64_t shared_limit)
    : job_(job), number_(number), unit_(unit), cutter_(job, loader, limit, shared_limit, unit.parts) {}

UnitRun::Share UnitRun::ShareIn(const Step& step) const {
  return {step.encodes[0].group, ShareOf(job_, step.encodes[0])};
}

std::optional<Step> UnitRun::Take() {
  const std::lock_guard lock(mutex_);
  if (!std::exchange(begun_, true)) next_ = cutter_.Next();
  if (!next_) return std::nullopt;
  std::optional<Step> step = std::exchange(next_, cutter_.Next());
  ++running_;
  if (step->pass == GlobalPass::kMeasure) ++measures_[ShareIn(*step)].running;
  return step;
}

void UnitRun::AddOutputs(const StepResult& result) {
  for (const OutputDelta& delta : result.outputs) {
    TensorResult& output = outputs_[delta.output];
    if (!output.hash) output.hash = Hash128();
    *output.hash += delta.hash;
    output.anomalies += delta.anomalies;
    output.counts.inexact_codes += delta.inexact_codes;
  }
}

void UnitRun::AddScalars(const StepResult& written) {
  const std::lock_guard lock(mutex_);
  AddOutputs(written);
}

bool UnitRun::Add(const Step& step, const StepResult& result, const std::vector<uint32_t>& files, uint64_t* progress) {
  const std::lock_guard lock(mutex_);
  files_read_.insert(files.begin(), files.end());
  AddOutputs(result);
  for (const CellDelta& cell : result.cells) {
    std::vector<BlockCounts>& cells = cells_[cell.job.group];
    cells.resize(job_.plan.groups[cell.job.group].cells.size());
    cells[cell.job.cell] = cell.counts;
  }
  for (const EncodeDelta& delta : result.encodes) {
    const uint32_t codes = job_.plan.groups[delta.strip.group].encoded[delta.strip.weight].codes;
    outputs_[codes].counts += delta.counts;
    int64_t row = delta.strip.row;
    for (const kernels::ErrorSums& sums : delta.errors) {
      errors_[codes][row] = sums;
      row += kEncodeRows;
    }
  }
  for (const ScalarDelta& scalar : result.scalars) {
    std::vector<float>& values = scalars_[scalar.output];
    const OutputArray& output = job_.plan.outputs[scalar.output];
    values.resize((output.end - output.begin) / sizeof(float));
    std::fill_n(values.begin() + static_cast<ptrdiff_t>(scalar.first), scalar.count, scalar.value);
  }
  if (step.pass == GlobalPass::kMeasure) {
    Measure& measure = measures_.at(ShareIn(step));
    measure.sum += result.measured;
    --measure.running;
    measured_.notify_all();
  }
  const bool last = --running_ == 0 && !next_;
  const double share =
      static_cast<double>(step.progress_bytes) / static_cast<double>(std::max<uint64_t>(1, unit_.cost));
  const uint64_t left = unit_.output_bytes - told_;
  *progress = last ? left : std::min(left, static_cast<uint64_t>(share * static_cast<double>(unit_.output_bytes)));
  told_ += *progress;
  return last;
}

void UnitRun::AddCrc(uint32_t output, uint32_t crc) {
  const std::lock_guard lock(mutex_);
  crcs_[output] ^= crc;
}

void UnitRun::AddEdge(uint32_t file, uint64_t offset, std::span<const std::byte> bytes) {
  const std::lock_guard lock(mutex_);
  edges_[{file, offset}].assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

bool UnitRun::WaitForMeasure(const Step& step, kernels::Measured* measured) {
  std::unique_lock lock(mutex_);
  const Measure& measure = measures_.at(ShareIn(step));
  measured_.wait(lock, [&] { return measure.running == 0 || cancelled_; });
  *measured = measure.sum;
  return !cancelled_;
}

void UnitRun::Cancel() {
  const std::lock_guard lock(mutex_);
  cancelled_ = true;
  measured_.notify_all();
}

uint64_t UnitRun::read_twice() const {
  const std::lock_guard lock(mutex_);
  return measures_.size();
}

UnitRun::Scalars UnitRun::TakeScalars() {
  const std::lock_guard lock(mutex_);
  return std::exchange(scalars_, {});
}

UnitOutcome UnitRun::Fold() {
  const std::lock_guard lock(mutex_);
  UnitOutcome unit;
  for (auto& [output, result] : outputs_) {
    if (const auto errors = errors_.find(output); errors != errors_.end()) {
      kernels::ErrorSums total;
      for (const auto& [row, sums] : errors->second) total += sums;
      result.error = total;
    }
    unit.results.outputs.push_back(output);
    unit.results.tensors.push_back(result);
  }
  for (const auto& [group, cells] : cells_) {
    BlockCounts total;
    for (const BlockCounts& cell : cells) total += cell;
    unit.results.grids[group] = total;
  }
  unit.crcs = crcs_;
  for (const auto& [place, bytes] : edges_) {
    const auto& [file, offset] = place;
    if (!unit.edges.empty() && unit.edges.back().file == file &&
        unit.edges.back().offset + unit.edges.back().bytes.size() == offset)
      unit.edges.back().bytes += bytes;
    else
      unit.edges.push_back({file, offset, bytes});
  }
  return unit;
}

}  // namespace mimo
