#include "lib/judge/strand.h"

#include <algorithm>

#include "kernels/convert.h"
#include "lib/decode/decode.h"
#include "lib/decode/row_bytes.h"
#include "lib/recipe/codec_types.h"

namespace mimo {
namespace {

constexpr uint64_t kWholeScaleBytes = 1u << 20;  // scales up to this size are read at once
constexpr size_t kOpenFiles = 16;

// Whether values can be read: a codec of ours, and rows that lie in one piece.
bool IsReadable(const Checkpoint& checkpoint, const Weight& weight) {
  if (checkpoint.view->transposed[weight.array] != 0) return false;
  return weight.storage != Storage::kPlain || ValueCodecOf(checkpoint.catalogue().arrays[weight.array].dtype);
}

}  // namespace

std::optional<Strand> StrandOf(const Checkpoint& checkpoint, const Weight& weight) {
  if (!IsReadable(checkpoint, weight)) return std::nullopt;
  const StoredArray& array = checkpoint.catalogue().arrays[weight.array];
  Strand strand;
  strand.weights[0] = &weight;
  const bool plain = weight.storage == Storage::kPlain;  // of any number of dimensions
  strand.rows = plain ? array.rows() : weight.rows;
  strand.cols = plain ? RowElements(array.shape) : weight.cols;
  return strand;
}

std::vector<Strand> AttentionStrands(const Checkpoint& checkpoint, std::span<const Weight* const> weights,
                                     const QkvLayout& layout, const AttentionShape& shape) {
  if (!LayoutFits(layout, shape)) return {};
  const auto map = std::make_shared<const QkvMap>(BuildQkvMap(layout, shape, weights[0]->block_rows));
  std::vector<Strand> strands;
  for (const auto& [projection, rows] :
       {std::pair(Projection::kQ, shape.q_rows()), std::pair(Projection::kK, shape.k_rows()),
        std::pair(Projection::kV, shape.v_rows())}) {
    Strand& strand = strands.emplace_back();
    for (size_t i = 0; i < static_cast<size_t>(map->arrays); ++i) {
      if (i >= weights.size() || weights[i] == nullptr || !IsReadable(checkpoint, *weights[i]) ||
          weights[i]->rows != map->rows[i])
        return {};
      strand.weights[i] = weights[i];
    }
    strand.map = map;
    strand.projection = projection;
    strand.rows = rows;
    strand.cols = weights[0]->cols;
  }
  return strands;
}

const std::byte* StrandReader::Row(uint32_t source, int64_t row) const {
  const Part& part = parts_[source];
  return part.data.data() + (part.whole ? static_cast<uint64_t>(row) * part.row_bytes : 0);
}

uint32_t StrandReader::AddPart(uint32_t array) {
  const auto same = [&](const Part& part) { return part.array == array; };
  const auto found = std::find_if(parts_.begin(), parts_.end(), same);
  if (found != parts_.end()) return static_cast<uint32_t>(found - parts_.begin());
  const StoredArray& shown = view_.catalogue.arrays[array];
  Part& part = parts_.emplace_back();
  part.array = array;
  part.row_bytes = static_cast<uint64_t>(RowElements(shown.shape)) * BitsPerElement(shown.dtype) / 8;
  sources_.emplace_back().array = array;
  return static_cast<uint32_t>(parts_.size() - 1);
}

Status StrandReader::LoadWhole(uint32_t index) {
  Part& part = parts_[index];
  const int64_t rows = view_.catalogue.arrays[part.array].rows();
  const uint64_t bytes = Rows(rows, part.row_bytes);
  if (bytes > kWholeScaleBytes) {
    part.data.resize(part.row_bytes);
    return {};
  }
  part.data.resize(bytes);
  part.whole = true;
  const std::vector<Fragment>& fragments = view_.fragments[part.array];
  if (fragments.size() == 1 && bytes == stored_.arrays[fragments[0].array].bytes) {  // all of a stored array
    const StoredArray& stored = stored_.arrays[fragments[0].array];
    MIMO_ASSIGN_OR_RETURN(const ReadableFile* file, FileOf(stored.file));
    bytes_ += bytes;
    return file->ReadAt(stored.begin, part.data);
  }
  for (int64_t row = 0; row < rows; ++row)
    MIMO_RETURN_IF_ERROR(ReadShown(part.array, row, 0, part.row_bytes, part.data.data() + Rows(row, part.row_bytes)));
  return {};
}

Status StrandReader::Begin(const Strand& strand) {
  strand_ = strand;
  sources_.clear();
  parts_.clear();
  for (size_t i = 0; i < strand.weights.size(); ++i)
    if (strand.weights[i] != nullptr) element_parts_[i] = AddPart(strand.weights[i]->array);
  for (size_t i = 0; i < strand.weights.size(); ++i) {
    const Weight* weight = strand.weights[i];
    if (weight == nullptr) continue;
    const uint32_t part = element_parts_[i];
    const std::optional<Codec> codec = CodecOf(weight->storage);
    parts_[part].data.resize(parts_[part].row_bytes);
    sources_[part].codec = codec.value_or(Codec::kBf16);
    if (!codec) {
      sources_[part].codec = *ValueCodecOf(view_.catalogue.arrays[weight->array].dtype);
      continue;
    }
    const uint32_t scale = AddPart(weight->scale);
    MIMO_RETURN_IF_ERROR(LoadWhole(scale));
    const uint32_t global = weight->global == kNone ? kNone : AddPart(weight->global);
    if (global != kNone) MIMO_RETURN_IF_ERROR(LoadWhole(global));
    SourceArray& source = sources_[part];
    source.quantized = true;
    source.scale = scale;
    source.global = global;
    source.global_divides = weight->global_divides;
    source.block_rows = weight->block_rows;
    source.block_cols = weight->block_cols;
    if (!HasBlockGrid(weight->storage)) continue;
    const StoredArray& stored = view_.catalogue.arrays[weight->scale];
    source.scale_type = stored.dtype;
    source.scales_in_a_row = weight->per_row() && stored.shape.size() == 1;
  }
  if (strand.map == nullptr || strand.weights[0]->storage != Storage::kFp8Block || strand.weights[0]->per_row())
    return {};
  for (const ScaleBand& band : strand.map->bands)
    sources_[element_parts_[band.array]].bands.push_back(
        {band.row_begin, band.row_end, sources_[element_parts_[band.scale_array]].scale, band.scale_row});
  return {};
}

Status StrandReader::Read(int64_t row, int64_t col, std::span<float> out) {
  uint32_t part = element_parts_[0];
  if (strand_.map != nullptr) {
    const auto holds = [&](const RowRun& run) {
      return run.projection == strand_.projection && row >= run.logical_row && row < run.logical_row + run.rows;
    };
    const auto run = std::find_if(strand_.map->runs.begin(), strand_.map->runs.end(), holds);
    part = element_parts_[run->array];
    row += run->array_row - run->logical_row;
  }
  Part& elements = parts_[part];
  const Codec codec = sources_[part].codec;
  const auto cols = static_cast<int64_t>(out.size());
  MIMO_RETURN_IF_ERROR(
      ReadShown(elements.array, row, ColumnBytes(codec, col), ColumnBytes(codec, col + cols), elements.data.data()));
  Status status;
  VisitScaleRows(sources_[part], row, 1, [&](uint32_t source, int64_t scale_row, int64_t) {
    Part& scales = parts_[source];
    if (scales.whole || scales.row == scale_row || !status.ok()) return;
    status = ReadShown(scales.array, scale_row, 0, scales.row_bytes, scales.data.data());
    scales.row = scale_row;
  });
  MIMO_RETURN_IF_ERROR(std::move(status));
  const auto convert = [](std::span<const kernels::Band> bands) -> Result<kernels::Anomalies> {
    return kernels::ConvertBands(bands, 1);
  };
  const SourceRectangle from{part, row, 1, row, col, cols};
  const Result<kernels::Anomalies> decoded = Decode(*this, from, {Codec::kFp32, out.data(), out.size_bytes()}, convert);
  return decoded.ok() ? Status() : Status(decoded.error());
}

Status StrandReader::ReadShown(uint32_t array, int64_t row, uint64_t begin, uint64_t end, std::byte* row_data) {
  const uint64_t bits = BitsPerElement(view_.catalogue.arrays[array].dtype);
  const auto bytes_of = [&](int64_t elements) { return static_cast<uint64_t>(elements) * bits / 8; };
  for (const Fragment& f : view_.fragments[array]) {
    if (row < f.row || row >= f.row + f.rows) continue;
    const uint64_t first = bytes_of(f.col);
    const uint64_t from = std::max(begin, first), to = std::min(end, bytes_of(f.col + f.cols));
    if (from >= to) continue;
    const StoredArray& stored = stored_.arrays[f.array];
    const uint64_t at = stored.begin + Rows(f.stored_row + row - f.row, bytes_of(RowElements(stored.shape))) +
                        bytes_of(f.stored_col) + from - first;
    MIMO_ASSIGN_OR_RETURN(const ReadableFile* file, FileOf(stored.file));
    MIMO_RETURN_IF_ERROR(file->ReadAt(at, {row_data + from, to - from}));
    bytes_ += to - from;
  }
  return {};
}

Result<const ReadableFile*> StrandReader::FileOf(uint32_t file) {
  for (const auto& [index, handle] : open_)
    if (index == file) return static_cast<const ReadableFile*>(handle.get());
  MIMO_ASSIGN_OR_RETURN(std::unique_ptr<ReadableFile> handle, fs_.OpenForRead(stored_.PathOf(stored_.files[file])));
  if (open_.size() < kOpenFiles) {
    open_.emplace_back(file, std::move(handle));
    return static_cast<const ReadableFile*>(open_.back().second.get());
  }
  auto& slot = open_[next_open_++ % kOpenFiles];
  slot = {file, std::move(handle)};
  return static_cast<const ReadableFile*>(slot.second.get());
}

}  // namespace mimo
