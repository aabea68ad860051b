#include "lib/draft/widen.h"

#include <algorithm>

#include "lib/base/checked.h"

namespace mimo {

void AddAsReleased(Draft& draft, const Weight& weight, const WeightArrays& arrays) {
  const StoredArray& stored = draft.catalogue().arrays[weight.array];
  const auto add = [&](Part part, Transform transform, DType dtype, std::vector<int64_t> shape) {
    OutputArray output;
    output.name = NameOfPart(stored.name, part);
    output.id = weight.id;
    output.id.part = part;
    output.dtype = dtype;
    output.shape = std::move(shape);
    output.transform = transform;
    output.target_codec = transform == Transform::kRelayout ? Codec::kFp8Block : Codec::kFp32;
    return draft.AddOutput(std::move(output), weight.array);
  };
  const int64_t blocks = CeilDiv(weight.rows, weight.block_rows);
  const uint32_t codes = add(arrays.codes, Transform::kRelayout, DType::kF8E4M3, stored.shape);
  const uint32_t scales =
      add(arrays.scales, Transform::kScales, DType::kF32, {blocks, CeilDiv(weight.cols, weight.block_cols)});
  const uint32_t source = draft.GridSource(weight), scale = draft.Source(weight.scale);
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t row = block * weight.block_rows;
    CellRow cell;
    cell.scale_output = scales;
    cell.scale_row = block;
    cell.moved = true;
    cell.segments.push_back({source, row, codes, row, std::min(weight.block_rows, weight.rows - row), scale, block});
    draft.group().cells.push_back(std::move(cell));
  }
  if (weight.input != kNone) draft.AddUnchanged(weight.input);
}

}  // namespace mimo
