#include "lib/run/encode_strips.h"

#include <algorithm>
#include <numeric>
#include <tuple>

#include "lib/base/checked.h"
#include "lib/decode/row_bytes.h"
#include "lib/plan/reads.h"
#include "lib/run/step_memory.h"

namespace mimo {
namespace {

const EncodedWeight& WeightOf(const Job& job, const EncodeStrip& strip) {
  return job.plan.groups[strip.group].encoded[strip.weight];
}

// Weights that share a global scale follow each other; those that are rows of the same arrays come as their sources
// lie, for ranks have parts of the same.
void OrderByShare(const Job& job, const FuseGroup& group, std::vector<EncodeStrip>* weights) {
  if (std::none_of(group.encoded.begin(), group.encoded.end(), [](const EncodedWeight& e) { return e.rows > 0; }))
    return;
  std::vector<std::pair<std::tuple<uint32_t, std::pair<uint32_t, uint64_t>>, EncodeStrip>> keyed;
  for (const EncodeStrip& strip : *weights) {
    std::pair<uint32_t, uint64_t> first{UINT32_MAX, 0};
    for (const StripPiece& piece : PiecesOf(job, strip))
      if (piece.source != kNone) first = std::min(first, job.PlaceOf(piece.source, piece.source_row));
    keyed.emplace_back(std::tuple(group.encoded[strip.weight].share, first), strip);
  }
  std::stable_sort(keyed.begin(), keyed.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  for (size_t i = 0; i < keyed.size(); ++i) (*weights)[i] = keyed[i].second;
}

}  // namespace

std::vector<EncodeStrip> EncodesOf(const Job& job, uint32_t group) {
  std::vector<EncodeStrip> weights;
  const FuseGroup& fuse = job.plan.groups[group];
  for (uint32_t w = 0; w < fuse.encoded.size(); ++w) {
    const uint32_t codes = fuse.encoded[w].codes;
    if (job.modes[codes] == OutputMode::kSkip || job.plan.outputs[codes].pieces.empty()) continue;
    const int64_t row = fuse.encoded[w].row, rows = fuse.encoded[w].RowsIn(job.plan.outputs[codes]);
    const int64_t period = fuse.encoded[w].period > 0 ? fuse.encoded[w].period : rows;
    for (int64_t before = 0; before < rows; before += period) weights.push_back({group, w, row + before, period});
  }
  OrderByShare(job, fuse, &weights);
  return weights;
}

int64_t EncodeUnit(const EncodedWeight& weight) {
  if (!HasBlockScales(weight.encoding.codec)) return kEncodeRows;
  return std::lcm(kEncodeRows, int64_t{weight.encoding.block_rows});
}

std::vector<StripPiece> PiecesOf(const Job& job, const EncodeStrip& strip) {
  std::vector<StripPiece> pieces;
  const EncodedWeight& weight = WeightOf(job, strip);
  for (const Piece& piece : PiecesOf(weight, job.plan.outputs[weight.codes])) {
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

StripScales ScaleRowsOf(const Job& job, const EncodeStrip& strip) {
  const EncodedWeight& weight = WeightOf(job, strip);
  const int64_t within = strip.row - weight.row;
  if (!HasBlockScales(weight.encoding.codec)) return {weight.scale_row + within, strip.rows};
  const int64_t block = weight.encoding.block_rows;
  const int64_t before = weight.period > 0 ? within / weight.period : 0;  // whole periods
  const int64_t row = within - before * weight.period;
  return {weight.scale_row + before * CeilDiv(weight.period, block) + row / block, CeilDiv(strip.rows, block)};
}

uint32_t ShareOf(const Job& job, const EncodeStrip& strip) {
  return WeightOf(job, strip).share;
}

std::vector<EncodeStrip>::const_iterator EndOfShare(const Job& job, std::vector<EncodeStrip>::const_iterator begin,
                                                    std::vector<EncodeStrip>::const_iterator end) {
  return std::find_if(begin, end,
                      [&job, share = ShareOf(job, *begin)](const EncodeStrip& e) { return ShareOf(job, e) != share; });
}

uint64_t SharedMemory(const Job& job, std::span<const EncodeStrip> strips) {
  uint64_t bytes = 0;
  for (const EncodeStrip& weight : strips) bytes += EncodeMemory(job, weight, GlobalPass::kWhole);
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
  for (const StripPiece& piece : PiecesOf(job, strip))
    if (piece.source != kNone) bytes += Rows(piece.rows, job.array(piece.source).row_bytes());
  const EncodedWeight& weight = WeightOf(job, strip);
  const uint64_t scales = Rows(ScaleRowsOf(job, strip).count, job.plan.outputs[weight.scales].row_bytes());
  return bytes + Rows(strip.rows, job.plan.outputs[weight.codes].row_bytes()) +
         (weight.keep == kNone ? scales : 2 * scales);
}

}  // namespace mimo
