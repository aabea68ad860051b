#include "lib/plan/summary.h"

#include <algorithm>

#include "lib/decode/row_bytes.h"
#include "lib/plan/reads.h"

namespace mimo {
namespace {

// Bytes of the distinct arrays that a group reads, scales included, in whole; a group seldom takes a part of one.
class GroupReads {
 public:
  GroupReads(const Catalogue& catalogue, const Plan& plan)
      : catalogue_(catalogue),
        plan_(plan),
        last_group_(plan.sources.size(), kNone),
        read_(plan.sources.size(), false) {}

  uint64_t Of(uint32_t g) {
    group_ = g;
    bytes_ = 0;
    VisitGroupReads(plan_, plan_.groups[g], [&](uint32_t source) { Add(source); });
    return bytes_;
  }
  uint64_t total() const { return total_; }  // each array once
  // A replica that is only compared.
  void Compare(const EqualRows& equal) {
    group_ = kNone - 1;
    Add(equal.first);
    Add(equal.second);
  }

 private:
  void Add(uint32_t source) {
    if (last_group_[source] == group_) return;
    last_group_[source] = group_;
    const uint64_t bytes = catalogue_.arrays[plan_.sources[source].array].bytes;
    bytes_ += bytes;
    if (!read_[source]) total_ += bytes;
    read_[source] = true;
  }

  const Catalogue& catalogue_;
  const Plan& plan_;
  std::vector<uint32_t> last_group_;
  std::vector<bool> read_;
  uint32_t group_ = 0;
  uint64_t bytes_ = 0, total_ = 0;
};

}  // namespace

PlanSummary Summarize(const Catalogue& catalogue, const Plan& plan) {
  PlanSummary summary;
  summary.outputs = plan.outputs.size();
  summary.files = plan.files.size();
  for (const OutputArray& output : plan.outputs) {
    switch (output.transform) {
      case Transform::kMove:
      case Transform::kInvert:
        ++summary.moved;
        break;
      case Transform::kTranspose:
        ++summary.transposed;
        break;
      case Transform::kConstant:
        ++summary.constants;
        break;
      case Transform::kConvert:
        ++summary.converted;
        break;
      case Transform::kRelayout:
      case Transform::kScales: {
        const std::vector<CellRow>& cells = plan.groups[output.group].cells;
        ++(!cells.empty() && IsFromValues(cells[0]) ? summary.encoded : summary.relaid);
        break;
      }
      case Transform::kEncode:
      case Transform::kBeside:
        ++summary.encoded;
        break;
    }
  }
  for (const OutputArray& output : plan.outputs) {
    summary.padded += std::any_of(output.pieces.begin(), output.pieces.end(),
                                  [](const Piece& piece) { return piece.source == kNone; });
  }
  for (const SourceFate& fate : plan.fates) summary.dropped += fate.fate == Fate::kDropped;
  for (const PlanFile& file : plan.files) {
    summary.bytes_written += file.bytes;
    if (!file.unchanged) continue;
    ++summary.files_unchanged;
    summary.bytes_unchanged += file.bytes;
  }
  GroupReads reads(catalogue, plan);
  for (uint32_t g = 0; g < plan.groups.size(); ++g) {
    const FuseGroup& group = plan.groups[g];
    uint64_t bytes = reads.Of(g);
    for (uint32_t i : group.outputs) bytes += plan.outputs[i].end - plan.outputs[i].begin;
    summary.largest_group_bytes = std::max(summary.largest_group_bytes, bytes);
    if (group.SharesGlobal()) summary.shared_group_bytes.push_back(bytes);
    if (group.cells.empty() || IsFromValues(group.cells[0])) continue;
    LayerSummary layer;
    layer.label = group.label;
    layer.straddling_blocks = group.straddling_blocks;
    for (const CellRow& cell : group.cells) {
      layer.blocks += static_cast<uint64_t>(RowElements(plan.outputs[cell.scale_output].shape));
    }
    summary.relayouts.push_back(std::move(layer));
  }
  for (const EqualRows& equal : plan.equal) reads.Compare(equal);
  summary.bytes_read = reads.total();
  return summary;
}

}  // namespace mimo
