// Encoded weights of one step in memory: measured where they share a global scale, then encoded.
#include <algorithm>
#include <cstring>
#include <deque>

#include "lib/base/checked.h"
#include "lib/run/encode_strips.h"
#include "lib/run/row_bytes.h"
#include "lib/run/transform.h"

namespace mimo {
namespace {

// What the kernels read for one strip. Rows of scales that are not aligned as floats are copied.
struct StripSource {
  std::vector<kernels::SourceRows> rows;
  std::deque<std::vector<float>> copies;
  uint64_t cols = 0;

  const void* Aligned(const std::byte* scales, uint64_t bytes) {
    if (reinterpret_cast<uintptr_t>(scales) % alignof(float) == 0) return scales;
    std::vector<float>& copy = copies.emplace_back(bytes / sizeof(float));
    std::memcpy(copy.data(), scales, bytes);
    return copy.data();
  }
};

}  // namespace

void StepWork::AddEncode(const EncodeStrip& strip) {
  for (const StripPiece& piece : PiecesOf(job_, strip)) {
    AddRows(piece.source, piece.source_row, piece.rows);
    AddScales(piece.source, piece.source_row, piece.rows);
  }
  if (step_.pass == GlobalPass::kMeasure) return;
  const EncodedWeight& weight = job_.plan.groups[strip.group].encoded[strip.weight];
  const auto add = [&](uint32_t index, int64_t row, int64_t rows) {
    const OutputArray& output = job_.plan.outputs[index];
    outputs_.Add(output.file, output.begin + Rows(row, output.row_bytes()), Rows(rows, output.row_bytes()));
  };
  add(weight.codes, strip.row, strip.rows);
  const ScaleRows scales = ScaleRowsOf(job_, strip);
  add(weight.scales, scales.first, scales.count);
  if (strip.row != 0) return;  // scalars belong to the first strip
  if (weight.global != kNone) add(weight.global, 0, 1);
  if (weight.input != kNone) add(weight.input, 0, 1);
}

Status StepWork::Encode(std::byte* buffer, Backend& backend, const TransformRequest& request,
                        StepResult* result) const {
  const std::span<const EncodeStrip> all(step_.encodes);
  for (size_t begin = 0; begin < all.size();) {
    size_t end = begin;
    while (end < all.size() && all[end].group == all[begin].group) ++end;
    MIMO_RETURN_IF_ERROR(EncodeGroup(buffer, all.subspan(begin, end - begin), backend, request, result));
    begin = end;
  }
  return {};
}

Status StepWork::EncodeGroup(std::byte* buffer, std::span<const EncodeStrip> strips, Backend& backend,
                             const TransformRequest& request, StepResult* result) const {
  const FuseGroup& group = job_.plan.groups[strips[0].group];
  std::vector<StripSource> sources(strips.size());
  for (size_t i = 0; i < strips.size(); ++i) {
    StripSource& from = sources[i];
    for (const StripPiece& piece : PiecesOf(job_, strips[i])) {
      const PlanSource& source = job_.plan.sources[piece.source];
      kernels::SourceRows rows;
      rows.source.codec = source.codec;
      rows.source.data = SourceRow(buffer, piece.source, piece.source_row);
      rows.source.row_bytes = job_.array(piece.source).row_bytes();
      rows.rows = static_cast<uint64_t>(piece.rows);
      from.cols = ValueColumns(source.codec, rows.source.row_bytes);
      if (source.codec != Codec::kFp8Block || !source.quantized) {
        if (source.quantized) SetGroupScales(buffer, source, piece.source_row, &rows.source);
        from.rows.push_back(rows);
        continue;
      }
      rows.column_block = static_cast<uint32_t>(source.block_cols);
      rows.column_blocks = static_cast<uint32_t>(CeilDiv(static_cast<int64_t>(from.cols), source.block_cols));
      // A piece counts the scales of every band that it touches once, wherever strips are cut.
      rows.continues = !piece.begins && piece.source_row > 0 && BandsOf(source, piece.source_row - 1, 2).size() == 1;
      const std::byte* data = static_cast<const std::byte*>(rows.source.data);
      for (const SourceBand& band : BandsOf(source, piece.source_row, piece.rows)) {
        rows.source.data = data + Rows(band.row_begin - piece.source_row, rows.source.row_bytes);
        rows.source.scales =
            from.Aligned(SourceRow(buffer, band.scale, band.scale_row), job_.array(band.scale).row_bytes());
        rows.rows = static_cast<uint64_t>(band.row_end - band.row_begin);
        from.rows.push_back(rows);
        rows.continues = false;
      }
    }
  }

  kernels::Nvfp4Global global;
  if (group.SharesGlobal()) {
    kernels::Measured measured;
    if (request.measured != nullptr) {
      measured = *request.measured;
    } else {
      for (size_t i = 0; i < strips.size(); ++i) {
        const bool via_bf16 = group.encoded[strips[i].weight].encoding.via_bf16;
        MIMO_ASSIGN_OR_RETURN(const kernels::Measured part,
                              backend.Measure(sources[i].rows, sources[i].cols, via_bf16));
        measured += part;
      }
    }
    if (step_.pass == GlobalPass::kMeasure) {
      result->measured = measured;
      return {};
    }
    global = kernels::ChooseNvfp4Global(measured, group.encoded[0].encoding.rule);
  }

  for (size_t i = 0; i < strips.size(); ++i) {
    const EncodeStrip& strip = strips[i];
    const EncodedWeight& weight = group.encoded[strip.weight];
    const ScaleRows scale_rows = ScaleRowsOf(job_, strip);
    std::byte* codes = OutputRow(buffer, weight.codes, strip.row);
    std::byte* scales = OutputRow(buffer, weight.scales, scale_rows.first);
    EncodeDelta delta;
    delta.strip = strip;
    if (request.errors) {
      delta.errors.resize(static_cast<size_t>(CeilDiv(strip.rows, static_cast<int64_t>(kernels::kStatRows))));
    }
    kernels::EncodeJob work;
    work.from = sources[i].rows;
    work.rows = static_cast<uint64_t>(strip.rows);
    work.cols = sources[i].cols;
    work.encoding = weight.encoding;
    work.global = global;
    work.codes = reinterpret_cast<uint8_t*>(codes);
    work.code_row_bytes = job_.plan.outputs[weight.codes].row_bytes();
    work.scales = reinterpret_cast<uint8_t*>(scales);
    work.scale_row_bytes = job_.plan.outputs[weight.scales].row_bytes();
    work.errors = request.errors ? delta.errors.data() : nullptr;
    MIMO_ASSIGN_OR_RETURN(const kernels::EncodeCounts counts, backend.Encode(work));
    delta.blocks = counts.blocks;
    delta.exact_blocks = counts.exact_blocks;
    const uint32_t source = job_.plan.outputs[weight.codes].pieces[0].source;
    Emit(weight.codes, strip.row, strip.rows, codes, source, counts.anomalies, result);
    Emit(weight.scales, scale_rows.first, scale_rows.count, scales, source, {}, result);
    const auto emit_scalar = [&](uint32_t output, float value) {
      if (strip.row != 0 || output == kNone) return;
      std::byte* at = OutputRow(buffer, output, 0);
      std::memcpy(at, &value, sizeof value);
      Emit(output, 0, 1, at, source, {}, result);
    };
    emit_scalar(weight.global, weight.global_divides ? 1.0f / global.multiplier : global.multiplier);
    emit_scalar(weight.input, weight.input_value);
    result->encodes.push_back(std::move(delta));
  }
  return {};
}

}  // namespace mimo
