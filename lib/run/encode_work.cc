#include "lib/run/encode_work.h"

#include <cstring>

#include "lib/base/checked.h"
#include "lib/decode/row_bytes.h"
#include "lib/decode/row_runs.h"
#include "lib/run/encode_strips.h"

namespace mimo {
namespace {

// The rectangles of a strip in its room.
kernels::SourceRows Assemble(const StepBuffer& buffer, const EncodeStrip& strip, int64_t columns, std::byte* room) {
  const Job& job = buffer.job();
  const AssembledRows form = *AssembledRowsOf(job, strip);
  for (const StripPiece& piece : PiecesOf(job, strip)) {
    const Codec codec = job.plan.sources[piece.source].codec;
    kernels::Band band;
    band.source.codec = codec;
    band.source.data = buffer.Row(piece.source, piece.source_row) + ColumnBytes(codec, piece.source_col);
    band.source.row_bytes = buffer.RowBytes(piece.source);
    band.target.codec = form.codec;
    band.target.data = room + Rows(piece.target_row, form.row_bytes) + ColumnBytes(form.codec, piece.target_col);
    band.target.row_bytes = form.row_bytes;
    band.rows = static_cast<uint64_t>(piece.rows);
    band.cols = static_cast<uint64_t>(piece.cols == 0 ? columns : piece.cols);
    // To FP32 or not at all: nothing is lost, and what is odd about the values shows when they are encoded.
    (void)kernels::ConvertBands(std::span(&band, 1));
  }
  kernels::SourceRows assembled;
  assembled.source.codec = form.codec;
  assembled.source.data = room;
  assembled.source.row_bytes = form.row_bytes;
  assembled.rows = static_cast<uint64_t>(strip.rows);
  return assembled;
}

// Strips of one group, of which the first is the step's `first`.
class GroupEncoder {
 public:
  GroupEncoder(const StepBuffer& buffer, const Step& step, size_t first, size_t count)
      : buffer_(buffer),
        group_(buffer.job().plan.groups[step.encodes[first].group]),
        strips_(std::span(step.encodes).subspan(first, count)),
        runs_(count) {
    for (size_t i = 0; i < count; ++i) AddRuns(i, buffer.Room(first + i));
  }

  bool SharesGlobal() const { return group_.SharesGlobal(); }

  Result<kernels::Measured> Measure(Backend& backend) const {
    kernels::Measured measured;
    for (size_t i = 0; i < strips_.size(); ++i) {
      const bool via_bf16 = WeightOf(i).encoding.via_bf16;
      MIMO_ASSIGN_OR_RETURN(const kernels::Measured part,
                            backend.Measure(runs_[i].list(), static_cast<uint64_t>(Columns(i)), via_bf16));
      measured += part;
    }
    return measured;
  }

  kernels::Nvfp4Global GlobalOf(const kernels::Measured& measured) const {
    return kernels::ChooseNvfp4Global(measured, group_.encoded[0].encoding.rule);
  }

  Status Encode(const kernels::Nvfp4Global& global, bool errors, Backend& backend, StepResult* result) const {
    for (size_t i = 0; i < strips_.size(); ++i) MIMO_RETURN_IF_ERROR(EncodeOne(i, global, errors, backend, result));
    return {};
  }

 private:
  const EncodedWeight& WeightOf(size_t i) const { return group_.encoded[strips_[i].weight]; }
  int64_t Columns(size_t i) const { return EncodeColumns(buffer_.job(), WeightOf(i)); }

  void AddRuns(size_t i, std::byte* room) {
    if (room != nullptr) return runs_[i].Add(Assemble(buffer_, strips_[i], Columns(i), room));
    for (const StripPiece& piece : PiecesOf(buffer_.job(), strips_[i])) {
      // A piece counts the scales of every band that it touches once, wherever strips are cut.
      const int64_t first_row = piece.begins ? piece.source_row : piece.source_row - 1;
      runs_[i].Add(buffer_, {piece.source, piece.source_row, piece.rows, first_row, 0, Columns(i)});
    }
  }

  Status EncodeOne(size_t i, const kernels::Nvfp4Global& global, bool errors, Backend& backend,
                   StepResult* result) const {
    const Job& job = buffer_.job();
    const EncodeStrip& strip = strips_[i];
    const EncodedWeight& weight = WeightOf(i);
    const ScaleRows made_scales = ScaleRowsOf(job, strip);
    std::byte* codes = buffer_.Output(weight.codes, strip.row);
    std::byte* scales = buffer_.Output(weight.scales, made_scales.first);
    EncodeDelta delta;
    delta.strip = strip;
    if (errors) delta.errors.resize(static_cast<size_t>(CeilDiv(strip.rows, kEncodeRows)));
    kernels::EncodeJob work;
    work.from = runs_[i].list();
    work.rows = static_cast<uint64_t>(strip.rows);
    work.cols = static_cast<uint64_t>(Columns(i));
    work.encoding = weight.encoding;
    work.global = global;
    work.codes = reinterpret_cast<uint8_t*>(codes);
    work.code_row_bytes = job.plan.outputs[weight.codes].row_bytes();
    work.scales = reinterpret_cast<uint8_t*>(scales);
    work.scale_row_bytes = job.plan.outputs[weight.scales].row_bytes();
    if (weight.keep != kNone) {
      work.keep = reinterpret_cast<const uint8_t*>(buffer_.Row(weight.keep, made_scales.first));
    }
    work.errors = errors ? delta.errors.data() : nullptr;
    MIMO_ASSIGN_OR_RETURN(const kernels::EncodeCounts counts, backend.Encode(work));
    delta.counts.encoded_blocks = counts.blocks;
    delta.counts.exact_blocks = counts.exact_blocks;
    delta.counts.kept_blocks = counts.kept_blocks;
    delta.counts.fresh_blocks = counts.blocks - counts.exact_blocks - counts.kept_blocks;
    const uint32_t source = job.plan.outputs[weight.codes].pieces[0].source;
    result->Emit(job, weight.codes, strip.row, strip.rows, codes, source, counts.anomalies);
    result->Emit(job, weight.scales, made_scales.first, made_scales.count, scales, source, {});
    if (strip.row == 0) {  // scalars belong to the first strip
      EmitScalar(weight.global, weight.global_divides ? 1.0f / global.multiplier : global.multiplier, source, result);
      EmitScalar(weight.input, weight.input_value, source, result);
    }
    result->encodes.push_back(std::move(delta));
    return {};
  }

  void EmitScalar(uint32_t output, float value, uint32_t source, StepResult* result) const {
    if (output == kNone) return;
    std::byte* at = buffer_.Output(output, 0);
    std::memcpy(at, &value, sizeof value);
    result->Emit(buffer_.job(), output, 0, 1, at, source, {});
  }

  const StepBuffer& buffer_;
  const FuseGroup& group_;
  const std::span<const EncodeStrip> strips_;
  std::vector<RowRuns> runs_;  // per strip
};

}  // namespace

void PlaceEncode(const EncodeStrip& strip, GlobalPass pass, Needs* needs) {
  const Job& job = needs->job();
  for (const StripPiece& piece : PiecesOf(job, strip)) {
    needs->Read(piece.source, piece.source_row, piece.rows);
    needs->ReadScales(piece.source, piece.source_row, piece.rows);
  }
  const auto assembled = AssembledRowsOf(job, strip);
  needs->AddRoom(assembled ? Rows(strip.rows, assembled->row_bytes) : 0);
  if (pass == GlobalPass::kMeasure) return;
  const EncodedWeight& weight = job.plan.groups[strip.group].encoded[strip.weight];
  needs->Make(weight.codes, strip.row, strip.rows);
  const ScaleRows scales = ScaleRowsOf(job, strip);
  needs->Make(weight.scales, scales.first, scales.count);
  if (weight.keep != kNone) needs->Read(weight.keep, scales.first, scales.count);
  if (strip.row != 0) return;
  if (weight.global != kNone) needs->Make(weight.global, 0, 1);
  if (weight.input != kNone) needs->Make(weight.input, 0, 1);
}

Status MakeEncodes(const StepBuffer& buffer, const Step& step, Backend& backend, const EncodeRequest& request,
                   StepResult* result) {
  const std::vector<EncodeStrip>& all = step.encodes;
  for (size_t begin = 0, end = 0; begin < all.size(); begin = end) {
    while (end < all.size() && all[end].group == all[begin].group) ++end;
    const GroupEncoder group(buffer, step, begin, end - begin);
    kernels::Nvfp4Global global;
    if (group.SharesGlobal()) {
      kernels::Measured measured;
      if (request.measured != nullptr) {
        measured = *request.measured;
      } else {
        MIMO_ASSIGN_OR_RETURN(measured, group.Measure(backend));
      }
      if (step.pass == GlobalPass::kMeasure) {
        result->measured = measured;
        continue;
      }
      global = group.GlobalOf(measured);
    }
    MIMO_RETURN_IF_ERROR(group.Encode(global, request.errors, backend, result));
  }
  return {};
}

}  // namespace mimo
