// Encoded weights of one step in memory: put together from rectangles where they are, measured where they share a
// global scale, then encoded.
#include <algorithm>
#include <cstring>

#include "lib/base/checked.h"
#include "lib/run/aligned_scales.h"
#include "lib/run/encode_strips.h"
#include "lib/run/row_bytes.h"
#include "lib/run/step_work.h"

namespace mimo {

void StepWork::AddEncode(const EncodeStrip& strip) {
  for (const StripPiece& piece : PiecesOf(job_, strip)) {
    AddRows(piece.source, piece.source_row, piece.rows);
    AddScales(piece.source, piece.source_row, piece.rows);
  }
  if (const auto assembled = AssembledRowsOf(job_, strip)) {
    assembled_at_.push_back(Aligned(assembled_bytes_));
    assembled_bytes_ = assembled_at_.back() + Rows(strip.rows, assembled->row_bytes);
  } else {
    assembled_at_.push_back(kNotAssembled);
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
  if (weight.keep != kNone) AddRows(weight.keep, scales.first, scales.count);
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

kernels::SourceRows StepWork::Assemble(std::byte* buffer, size_t index) const {
  const EncodeStrip& strip = step_.encodes[index];
  const AssembledRows form = *AssembledRowsOf(job_, strip);
  std::byte* const rows = buffer + assembled_at_[index];
  const int64_t columns = EncodeColumns(job_, job_.plan.groups[strip.group].encoded[strip.weight]);
  for (const StripPiece& piece : PiecesOf(job_, strip)) {
    const Codec codec = job_.plan.sources[piece.source].codec;
    const int64_t cols = piece.cols == 0 ? columns : piece.cols;
    kernels::Band band;
    band.source.codec = codec;
    band.source.data = SourceRow(buffer, piece.source, piece.source_row) + ValueBytes(codec, piece.source_col);
    band.source.row_bytes = job_.array(piece.source).row_bytes();
    band.target.codec = form.codec;
    band.target.data = rows + Rows(piece.target_row, form.row_bytes) + ValueBytes(form.codec, piece.target_col);
    band.target.row_bytes = form.row_bytes;
    band.rows = static_cast<uint64_t>(piece.rows);
    band.cols = static_cast<uint64_t>(cols);
    // To FP32 or not at all: nothing is lost, and what is odd about the values shows when they are encoded.
    (void)kernels::ConvertBands(std::span(&band, 1));
  }
  kernels::SourceRows assembled;
  assembled.source.codec = form.codec;
  assembled.source.data = rows;
  assembled.source.row_bytes = form.row_bytes;
  assembled.rows = static_cast<uint64_t>(strip.rows);
  return assembled;
}

std::vector<kernels::SourceRows> StepWork::StripRows(std::byte* buffer, size_t index, AlignedScales* scales) const {
  if (assembled_at_[index] != kNotAssembled) return {Assemble(buffer, index)};
  const EncodeStrip& strip = step_.encodes[index];
  const int64_t columns = EncodeColumns(job_, job_.plan.groups[strip.group].encoded[strip.weight]);
  std::vector<kernels::SourceRows> all;
  for (const StripPiece& piece : PiecesOf(job_, strip)) {
    const PlanSource& source = job_.plan.sources[piece.source];
    kernels::SourceRows rows;
    rows.source.codec = source.codec;
    rows.source.data = SourceRow(buffer, piece.source, piece.source_row);
    rows.source.row_bytes = job_.array(piece.source).row_bytes();
    rows.rows = static_cast<uint64_t>(piece.rows);
    if (!HasBlockScales(source.codec) || !source.quantized) {
      if (source.quantized) SetGroupScales(buffer, source, piece.source_row, &rows.source);
      all.push_back(rows);
      continue;
    }
    rows.column_block = static_cast<uint32_t>(source.block_cols);
    rows.column_blocks = static_cast<uint32_t>(CeilDiv(columns, source.block_cols));
    // A piece counts the scales of every band that it touches once, wherever strips are cut.
    rows.continues = !piece.begins && piece.source_row > 0 && BandsOf(source, piece.source_row - 1, 2).size() == 1;
    const std::byte* data = static_cast<const std::byte*>(rows.source.data);
    for (const SourceBand& band : BandsOf(source, piece.source_row, piece.rows)) {
      rows.source.data = data + Rows(band.row_begin - piece.source_row, rows.source.row_bytes);
      rows.source.scales =
          scales->Row(SourceRow(buffer, band.scale, band.scale_row), job_.array(band.scale).row_bytes());
      rows.rows = static_cast<uint64_t>(band.row_end - band.row_begin);
      all.push_back(rows);
      rows.continues = false;
    }
  }
  return all;
}

Status StepWork::EncodeGroup(std::byte* buffer, std::span<const EncodeStrip> strips, Backend& backend,
                             const TransformRequest& request, StepResult* result) const {
  const FuseGroup& group = job_.plan.groups[strips[0].group];
  const auto first = static_cast<size_t>(strips.data() - step_.encodes.data());
  AlignedScales scale_rows;
  std::vector<std::vector<kernels::SourceRows>> sources(strips.size());
  for (size_t i = 0; i < strips.size(); ++i) sources[i] = StripRows(buffer, first + i, &scale_rows);
  const auto columns = [&](size_t i) {
    return static_cast<uint64_t>(EncodeColumns(job_, group.encoded[strips[i].weight]));
  };

  kernels::Nvfp4Global global;
  if (group.SharesGlobal()) {
    kernels::Measured measured;
    if (request.measured != nullptr) {
      measured = *request.measured;
    } else {
      for (size_t i = 0; i < strips.size(); ++i) {
        const bool via_bf16 = group.encoded[strips[i].weight].encoding.via_bf16;
        MIMO_ASSIGN_OR_RETURN(const kernels::Measured part, backend.Measure(sources[i], columns(i), via_bf16));
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
    const ScaleRows made_scales = ScaleRowsOf(job_, strip);
    std::byte* codes = OutputRow(buffer, weight.codes, strip.row);
    std::byte* scales = OutputRow(buffer, weight.scales, made_scales.first);
    EncodeDelta delta;
    delta.strip = strip;
    if (request.errors) {
      delta.errors.resize(static_cast<size_t>(CeilDiv(strip.rows, static_cast<int64_t>(kernels::kStatRows))));
    }
    kernels::EncodeJob work;
    work.from = sources[i];
    work.rows = static_cast<uint64_t>(strip.rows);
    work.cols = columns(i);
    work.encoding = weight.encoding;
    work.global = global;
    work.codes = reinterpret_cast<uint8_t*>(codes);
    work.code_row_bytes = job_.plan.outputs[weight.codes].row_bytes();
    work.scales = reinterpret_cast<uint8_t*>(scales);
    work.scale_row_bytes = job_.plan.outputs[weight.scales].row_bytes();
    if (weight.keep != kNone) {
      work.keep = reinterpret_cast<const uint8_t*>(SourceRow(buffer, weight.keep, made_scales.first));
    }
    work.errors = request.errors ? delta.errors.data() : nullptr;
    MIMO_ASSIGN_OR_RETURN(const kernels::EncodeCounts counts, backend.Encode(work));
    delta.blocks = counts.blocks;
    delta.exact_blocks = counts.exact_blocks;
    delta.kept_blocks = counts.kept_blocks;
    const uint32_t source = job_.plan.outputs[weight.codes].pieces[0].source;
    Emit(weight.codes, strip.row, strip.rows, codes, source, counts.anomalies, result);
    Emit(weight.scales, made_scales.first, made_scales.count, scales, source, {}, result);
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
