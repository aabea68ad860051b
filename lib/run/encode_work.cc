#include "lib/run/encode_work.h"

#include "lib/base/checked.h"
#include "lib/decode/row_bytes.h"
#include "lib/decode/row_runs.h"
#include "lib/run/assembled_rows.h"
#include "lib/run/bf16_scales.h"
#include "lib/run/encode_strips.h"

namespace mimo {
namespace {

// Strips of one group and share, of which the first is the step's `first`.
class GroupEncoder {
 public:
  GroupEncoder(const StepBuffer& buffer, const Step& step, size_t first, size_t count)
      : buffer_(buffer),
        group_(buffer.job().plan.groups[step.encodes[first].group]),
        strips_(std::span(step.encodes).subspan(first, count)),
        runs_(count),
        odd_(count) {
    for (size_t i = 0; i < count; ++i) rooms_.push_back(buffer.Room(first + i));
  }

  // Puts together what the strips are made from; before all else.
  Status Prepare() {
    for (size_t i = 0; i < strips_.size(); ++i) MIMO_RETURN_IF_ERROR(AddRuns(i));
    return {};
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

  Status AddRuns(size_t i) {
    const Job& job = buffer_.job();
    if (const auto form = AssembledRowsOf(job, strips_[i])) {
      MIMO_ASSIGN_OR_RETURN(odd_[i], AssembleRows(buffer_, strips_[i], *form, rooms_[i], &runs_[i]));
      return {};
    }
    for (const StripPiece& piece : PiecesOf(job, strips_[i])) {
      // A piece counts the scales of every band that it touches once, wherever strips are cut.
      const int64_t first_row = piece.begins ? piece.source_row : piece.source_row - 1;
      runs_[i].Add(buffer_, {piece.source, piece.source_row, piece.rows, first_row, piece.source_col, Columns(i)});
    }
    return {};
  }

  Status EncodeOne(size_t i, const kernels::Nvfp4Global& global, bool errors, Backend& backend,
                   StepResult* result) const {
    const Job& job = buffer_.job();
    const EncodeStrip& strip = strips_[i];
    const EncodedWeight& weight = WeightOf(i);
    const StripScales made_scales = ScaleRowsOf(job, strip);
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
    const bool narrow = job.plan.outputs[weight.scales].dtype == DType::kBF16;
    MIMO_ASSIGN_OR_RETURN(kernels::EncodeCounts counts,
                          narrow ? EncodeUnderBf16Scales(work, backend) : backend.Encode(work));
    counts.anomalies += odd_[i];
    delta.counts.encoded_blocks = counts.blocks;
    delta.counts.exact_blocks = counts.exact_blocks;
    delta.counts.kept_blocks = counts.kept_blocks;
    delta.counts.fresh_blocks = counts.blocks - counts.exact_blocks - counts.kept_blocks;
    const uint32_t source = FirstSource(PiecesOf(job, strip));
    result->Emit(job, weight.codes, strip.row, strip.rows, codes, source, counts.anomalies);
    result->Emit(job, weight.scales, made_scales.first, made_scales.count, scales, source, {});
    if (strip.row == weight.row) {  // scalars belong to the first strip
      const float multiplier = weight.global_divides ? 1.0f / global.multiplier : global.multiplier;
      if (weight.global != kNone) result->scalars.push_back({weight.global, weight.scalar, weight.scalars, multiplier});
      if (weight.input != kNone)
        result->scalars.push_back({weight.input, weight.scalar, weight.scalars, weight.input_value});
    }
    result->encodes.push_back(std::move(delta));
    return {};
  }

  // What anomalies are reported of.
  static uint32_t FirstSource(const std::vector<StripPiece>& pieces) {
    for (const StripPiece& piece : pieces)
      if (piece.source != kNone) return piece.source;
    return kNone;
  }

  const StepBuffer& buffer_;
  const FuseGroup& group_;
  const std::span<const EncodeStrip> strips_;
  std::vector<std::byte*> rooms_;  // per strip, as those below
  std::vector<RowRuns> runs_;
  std::vector<kernels::Anomalies> odd_;  // of what was decoded before it was encoded
};

}  // namespace

void PlaceEncode(const EncodeStrip& strip, GlobalPass pass, Needs* needs) {
  const Job& job = needs->job();
  for (const StripPiece& piece : PiecesOf(job, strip)) {
    if (piece.source == kNone) continue;
    needs->Read(piece.source, piece.source_row, piece.rows);
    needs->ReadScales(piece.source, piece.source_row, piece.rows);
  }
  const auto assembled = AssembledRowsOf(job, strip);
  needs->AddRoom(assembled ? assembled->bytes(strip.rows) : 0);
  if (pass == GlobalPass::kMeasure) return;
  const EncodedWeight& weight = job.plan.groups[strip.group].encoded[strip.weight];
  needs->Make(weight.codes, strip.row, strip.rows);
  const StripScales scales = ScaleRowsOf(job, strip);
  needs->Make(weight.scales, scales.first, scales.count);
  if (weight.keep != kNone) needs->Read(weight.keep, scales.first, scales.count);
}

Status MakeEncodes(const StepBuffer& buffer, const Step& step, Backend& backend, const EncodeRequest& request,
                   StepResult* result) {
  const std::vector<EncodeStrip>& all = step.encodes;
  for (size_t begin = 0, end = 0; begin < all.size(); begin = end) {
    const uint32_t share = ShareOf(buffer.job(), all[begin]);
    while (end < all.size() && all[end].group == all[begin].group && ShareOf(buffer.job(), all[end]) == share) ++end;
    GroupEncoder group(buffer, step, begin, end - begin);
    MIMO_RETURN_IF_ERROR(group.Prepare());
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
