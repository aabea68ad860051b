#include "lib/run/step_sums.h"

#include <algorithm>

namespace mimo {

void StepSums::Add(const StepResult& result, RunResults* results) {
  for (const CellDelta& cell : result.cells) {
    std::vector<BlockCounts>& cells = cells_[cell.job.group];
    cells.resize(plan_.groups[cell.job.group].cells.size());
    cells[cell.job.cell] = cell.counts;
  }
  for (const EncodeDelta& delta : result.encodes) {
    const uint32_t codes = plan_.groups[delta.strip.group].encoded[delta.strip.weight].codes;
    results->tensors[codes].counts += delta.counts;
    int64_t row = delta.strip.row;
    for (const kernels::ErrorSums& sums : delta.errors) {
      errors_[codes][row] = sums;
      row += kEncodeRows;
    }
  }
  for (const ScalarDelta& scalar : result.scalars) {
    std::vector<float>& values = scalars_[scalar.output];
    const OutputArray& output = plan_.outputs[scalar.output];
    values.resize((output.end - output.begin) / sizeof(float));
    std::fill_n(values.begin() + static_cast<ptrdiff_t>(scalar.first), scalar.count, scalar.value);
  }
}

void StepSums::Fold(uint32_t file_group, RunResults* results) {
  for (size_t g = 0; g < plan_.groups.size(); ++g) {
    if (plan_.groups[g].file_group != file_group || cells_[g].empty()) continue;
    BlockCounts total;
    for (const BlockCounts& cell : cells_[g]) total += cell;
    results->groups[g] = total;
    cells_[g] = {};
  }
  for (auto it = errors_.begin(); it != errors_.end();) {
    if (FileGroupOf(it->first) != file_group) {
      ++it;
      continue;
    }
    kernels::ErrorSums total;
    for (const auto& [row, sums] : it->second) total += sums;
    results->tensors[it->first].error = total;
    it = errors_.erase(it);
  }
}

StepSums::Scalars StepSums::TakeScalars(uint32_t file_group) {
  Scalars made;
  for (auto it = scalars_.begin(); it != scalars_.end();) {
    if (FileGroupOf(it->first) == file_group)
      made.insert(scalars_.extract(it++));
    else
      ++it;
  }
  return made;
}

}  // namespace mimo
