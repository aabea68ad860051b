#include <algorithm>

#include "kernels/cuda/convert_batch.h"
#include "kernels/cuda/encode_launch.h"

namespace mimo::kernels::cuda {

Columns ColumnsOf(const Band& band, uint64_t begin, uint64_t end) {
  Columns columns{begin, end, 0, 0};
  if (!HasBlockScales(band.source.codec)) return columns;
  if (band.column_edges == nullptr) {
    columns.first_block = begin / band.column_block;
    columns.blocks = (end + band.column_block - 1) / band.column_block - columns.first_block;
  } else {
    const uint32_t* edges = band.column_edges;
    const uint32_t* last = edges + band.column_blocks + 1;
    columns.first_block = static_cast<uint64_t>(std::upper_bound(edges, last, begin) - edges) - 1;
    const uint64_t stop = static_cast<uint64_t>(std::lower_bound(edges, last, end) - edges);
    columns.blocks = stop - columns.first_block;
  }
  return columns;
}

Cost CostOf(const Band& band, const Columns& columns) {
  Cost cost;
  cost.in_row = Aligned(RowBytes(band.source.codec, columns.count()));
  cost.out_row = Aligned(RowBytes(band.target.codec, columns.count()));
  cost.scale_row = ScaleRowBytes(band.source.codec, columns.count());
  if (HasBlockScales(band.source.codec)) {
    cost.fixed = Aligned(columns.blocks * 4) + (band.column_edges != nullptr ? Aligned((columns.blocks + 1) * 4) : 0);
  }
  return cost;
}

void ConvertBatch::Add(const Band& band, const Columns& columns, uint64_t row, uint64_t rows) {
  const Cost cost = CostOf(band, columns);
  const Source& source = band.source;
  DeviceSource at;
  const auto* data = static_cast<const uint8_t*>(source.data) + row * source.row_bytes;
  const auto* scales = static_cast<const uint8_t*>(source.scales);
  at.row_bytes = cost.in_row;
  at.data = slot_->TakeRows(data + RowBytes(source.codec, columns.begin), source.row_bytes,
                            RowBytes(source.codec, columns.count()), cost.in_row, rows);
  if (cost.scale_row > 0) {
    at.scale_row_bytes = cost.scale_row;
    at.scales = slot_->TakeRows(scales + row * source.scale_row_bytes + ScaleRowBytes(source.codec, columns.begin),
                                source.scale_row_bytes, cost.scale_row, cost.scale_row, rows);
  } else if (HasBlockScales(source.codec)) {
    at.scales = slot_->TakeRows(scales + columns.first_block * 4, 0, columns.blocks * 4, columns.blocks * 4, 1);
    if (band.column_edges != nullptr) {
      const uint64_t bytes = (columns.blocks + 1) * 4;
      at.edges = reinterpret_cast<const uint32_t*>(
          slot_->TakeRows(band.column_edges + columns.first_block, 0, bytes, bytes, 1));
    }
  }
  const SourceRows from{source, rows, nullptr, static_cast<uint32_t>(columns.blocks), band.column_block};
  DeviceBand out = BandFrom(from, row, rows, columns.count(), at);
  out.first_col = columns.begin;
  out.first_block = static_cast<uint32_t>(columns.first_block);
  out.to = band.target.codec;
  out.out = slot_->TakeOutput(static_cast<uint8_t*>(band.target.data) + row * band.target.row_bytes +
                                  RowBytes(band.target.codec, columns.begin),
                              band.target.row_bytes, RowBytes(band.target.codec, columns.count()), cost.out_row, rows);
  out.out_row_bytes = cost.out_row;
  bands_.push_back(out);
}

bool ConvertBatch::Start(int multiprocessors, std::string* error) {
  if (bands_.empty()) return true;
  const std::vector<Group> groups = GroupBands(&bands_);
  return slot_->Upload({}, bands_.data(), bands_.size() * sizeof(DeviceBand), error) &&
         Launch(groups, reinterpret_cast<const DeviceBand*>(slot_->descriptors()), slot_->counters(), multiprocessors,
                slot_->stream(), error) &&
         slot_->Download(error);
}

bool ConvertBatch::Finish(Anomalies* anomalies, std::string* error) {
  Counters counters{};
  if (!slot_->Finish(&counters, error)) return false;
  *anomalies += AnomaliesOf(counters);
  bands_.clear();
  return true;
}

void ConvertBatch::Abandon() {
  slot_->Abandon();
  bands_.clear();
}

}  // namespace mimo::kernels::cuda
