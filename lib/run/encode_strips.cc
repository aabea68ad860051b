#include "lib/run/encode_strips.h"

#include <algorithm>
#include <numeric>

#include "lib/base/checked.h"
#include "lib/decode/row_bytes.h"
#include "lib/run/step_memory.h"

namespace mimo {
namespace {

const EncodedWeight& WeightOf(const Job& job, const EncodeStrip& strip) {
  return job.plan.groups[strip.group].encoded[strip.weight];
}

}  // namespace

std::vector<EncodeStrip> EncodesOf(const Job& job, uint32_t group) {
  std::vector<EncodeStrip> weights;
  const FuseGroup& fuse = job.plan.groups[group];
  for (uint32_t w = 0; w < fuse.encoded.size(); ++w) {
    const uint32_t codes = fuse.encoded[w].codes;
    if (job.modes[codes] == OutputMode::kSkip || job.plan.outputs[codes].pieces.empty()) continue;
    const int64_t rows = job.plan.outputs[codes].rows();
    const int64_t period = fuse.encoded[w].period > 0 ? fuse.encoded[w].period : rows;
    for (int64_t row = 0; row < rows; row += period) weights.push_back({group, w, row, period});
  }
  return weights;
}

int64_t EncodeUnit(const EncodedWeight& weight) {
  if (!HasBlockScales(weight.encoding.codec)) return kEncodeRows;
  return std::lcm(kEncodeRows, int64_t{weight.encoding.block_rows});
}

std::vector<StripPiece> PiecesOf(const Job& job, const EncodeStrip& strip) {
  std::vector<StripPiece> pieces;
  for (const Piece& piece : job.plan.outputs[WeightOf(job, strip).codes].pieces) {
    const int64_t begin = std::max(piece.target_row, strip.row);
    const int64_t end = std::min(piece.target_row + piece.rows, strip.row + strip.rows);
    if (begin >= end) continue;
    pieces.push_back({piece.source, piece.source_row + begin - piece.target_row, end - begin, begin == piece.target_row,
                      begin - strip.row, piece.source_col, piece.target_col, piece.cols});
  }
  return pieces;
}

int64_t EncodeColumns(const Job& job, const EncodedWeight& weight) {
  const Codec codec = weight.encoding.codec;
  return RowElements(job.plan.outputs[weight.codes].shape) * (IsPacked(codec) ? 2 : 1);
}

std::optional<AssembledRows> AssembledRowsOf(const Job& job, const EncodeStrip& strip) {
  bool rectangles = false;
  std::optional<Codec> codec;
  for (const StripPiece& piece : PiecesOf(job, strip)) {
    rectangles |= piece.cols > 0;
    const Codec from = job.plan.sources[piece.source].codec;
    codec = !codec || *codec == from ? from : Codec::kFp32;
  }
  if (!rectangles) return std::nullopt;
  return AssembledRows{*codec, ColumnBytes(*codec, EncodeColumns(job, WeightOf(job, strip)))};
}

ScaleRows ScaleRowsOf(const Job& job, const EncodeStrip& strip) {
  const kernels::Encoding& encoding = WeightOf(job, strip).encoding;
  if (!HasBlockScales(encoding.codec)) return {strip.row, strip.rows};
  const int64_t block = encoding.block_rows;
  const int64_t period = WeightOf(job, strip).period;
  const int64_t before = period > 0 ? strip.row / period : 0;  // whole periods
  const int64_t row = strip.row - before * period;
  return {before * CeilDiv(period, block) + row / block, CeilDiv(strip.rows, block)};
}

uint64_t GroupMemory(const Job& job, uint32_t group) {
  uint64_t bytes = 0;
  for (const EncodeStrip& weight : EncodesOf(job, group)) bytes += EncodeMemory(job, weight, GlobalPass::kWhole);
  return bytes;
}

int64_t EncodeRowsThatFit(const Job& job, const EncodeStrip& weight, int64_t unit, uint64_t limit, GlobalPass pass) {
  EncodeStrip strip = weight;
  const int64_t units = LargestThatFits(CeilDiv(weight.rows, unit), [&](int64_t count) {
    strip.rows = std::min(count * unit, weight.rows);
    return EncodeMemory(job, strip, pass) <= limit;
  });
  return std::min(units * unit, weight.rows);
}

uint64_t EncodeProgress(const Job& job, const EncodeStrip& strip) {
  uint64_t bytes = 0;
  for (const StripPiece& piece : PiecesOf(job, strip)) bytes += Rows(piece.rows, job.array(piece.source).row_bytes());
  const EncodedWeight& weight = WeightOf(job, strip);
  const uint64_t scales = Rows(ScaleRowsOf(job, strip).count, job.plan.outputs[weight.scales].row_bytes());
  return bytes + Rows(strip.rows, job.plan.outputs[weight.codes].row_bytes()) +
         (weight.keep == kNone ? scales : 2 * scales);
}

}  // namespace mimo
