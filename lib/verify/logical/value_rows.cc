#include "lib/verify/logical/value_rows.h"

#include <algorithm>
#include <cstring>

#include "kernels/adjust.h"
#include "lib/decode/decode.h"
#include "lib/decode/row_bytes.h"
#include "lib/plan/reads.h"
#include "lib/recipe/codec_types.h"

namespace mimo {
namespace {

constexpr int64_t kTurnedRows = 64;  // of a source at a time: their columns fill cache lines of the target

// Padding, as it is stored in `dtype`, as values.
void FillValues(const std::string& pad, DType dtype, int64_t rows, int64_t cols, kernels::Target target) {
  const uint64_t element = BitsPerElement(dtype) / 8, made = kernels::ElementBits(target.codec) / 8;
  std::byte one[8] = {};
  if (!pad.empty()) std::memcpy(one, pad.data(), std::min<size_t>(pad.size(), sizeof one));
  kernels::Band band;
  std::byte value[8] = {};
  band.source = {*ValueCodecOf(dtype), one, element, nullptr, 0};
  band.target = {target.codec, value, made};
  band.rows = band.cols = 1;
  kernels::ConvertBands({&band, 1});
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c)
      std::memcpy(static_cast<std::byte*>(target.data) + Rows(r, target.row_bytes) + static_cast<uint64_t>(c) * made,
                  value, made);
}

std::vector<std::byte> RowOfOnes(Codec codec, uint64_t cols) {
  std::vector<std::byte> row(ColumnBytes(codec, static_cast<int64_t>(cols + cols % 2)));
  if (IsPacked(codec)) {
    std::fill(row.begin(), row.end(), std::byte{0x22});
  } else if (!IsValueCodec(codec)) {
    std::fill(row.begin(), row.end(), std::byte{0x38});
  } else {
    const std::vector<float> ones(cols, 1.0f);
    kernels::Band band;
    band.source = {Codec::kFp32, ones.data(), 0, nullptr, 0};
    band.target = {codec, row.data(), 0};
    band.rows = 1;
    band.cols = cols;
    kernels::ConvertBands({&band, 1});
  }
  return row;
}

}  // namespace

Result<kernels::Anomalies> ValueRows::OnCpu(std::span<const kernels::Band> bands) {
  return kernels::ConvertBands(bands, 1);  // the workers are the parallelism
}

Result<ValueRows> ValueRows::Of(const Job& job, uint32_t output) {
  ValueRows rows(job, output);
  const OutputArray& array = rows.array();
  const bool known = array.transform == Transform::kMove || array.transform == Transform::kConvert ||
                     array.transform == Transform::kTranspose || array.transform == Transform::kConstant;
  const bool adjusted = array.adjust != Adjust::kAsIs && array.adjust != Adjust::kScale;
  if (!known || adjusted || array.keep != kNone)
    return UsageError("an array that is not made of moved or decoded values")
        .Expected("a plan of values")
        .Found(array.name);
  rows.cols_ = RowElements(array.shape);
  rows.values_ = ValueCodecOf(array.dtype).has_value();
  bool one = rows.values_ && array.transform != Transform::kConstant && array.adjust == Adjust::kAsIs;
  for (const Piece& piece : array.pieces) {
    if (!one || piece.source == kNone) {
      one = false;
      break;
    }
    const Codec codec = job.plan.sources[piece.source].codec;
    one = !rows.stored_as_ || *rows.stored_as_ == codec;
    rows.stored_as_ = codec;
  }
  if (!one) rows.stored_as_.reset();
  return rows;
}

Piece ValueRows::Cut(const Piece& piece, int64_t row, int64_t rows) {
  const int64_t begin = std::max(piece.target_row, row), end = std::min(piece.target_row + piece.rows, row + rows);
  Piece cut = piece;
  cut.source_row += begin - piece.target_row;
  cut.target_row = begin;
  cut.rows = end - begin;
  return cut;
}

std::vector<Piece> ValueRows::PiecesOf(int64_t row, int64_t rows) const {
  std::vector<Piece> found;
  for (const Piece& piece : array().pieces) {
    if (piece.target_row >= row + rows) break;
    if (piece.target_row + piece.rows > row) found.push_back(piece);
  }
  return found;
}

void ValueRows::Place(const std::vector<Piece>& pieces, int64_t row, int64_t rows, Needs* needs) const {
  for (const Piece& piece : pieces) {
    if (piece.source == kNone) continue;
    Piece part = turned() ? piece : Cut(piece, row, rows);
    if (part.rows <= 0) continue;
    const int64_t read = turned() ? part.cols : part.rows;
    needs->Read(part.source, part.source_row, read);
    if (values_) needs->ReadScales(part.source, part.source_row, read);
  }
}

// `piece` is what lies in the target's rows; its first row is the target's.
Result<kernels::Anomalies> ValueRows::Turn(const BandConverter& convert, const StepBuffer& buffer, const Piece& piece,
                                           kernels::Target target) const {
  const uint64_t element = kernels::ElementBits(target.codec) / 8;
  const auto width = static_cast<uint64_t>(piece.rows);
  std::vector<std::byte> values(static_cast<uint64_t>(std::min(kTurnedRows, piece.cols)) * width * element);
  kernels::Anomalies anomalies;
  for (int64_t done = 0; done < piece.cols; done += kTurnedRows) {
    const int64_t count = std::min(kTurnedRows, piece.cols - done);
    const SourceRectangle from{piece.source,     piece.source_row + done, count,
                               piece.source_row, piece.source_col,        piece.rows};
    const kernels::Target into{target.codec, values.data(), width * element};
    MIMO_ASSIGN_OR_RETURN(const kernels::Anomalies odd, array().adjust == Adjust::kScale
                                                            ? DecodeScaled(buffer, from, array().factor, into, convert)
                                                            : Decode(buffer, from, into, convert));
    anomalies += odd;
    kernels::Transpose(reinterpret_cast<const uint8_t*>(values.data()), width * element, static_cast<uint64_t>(count),
                       width, static_cast<uint32_t>(element),
                       static_cast<uint8_t*>(target.data) + static_cast<uint64_t>(done) * element, target.row_bytes);
  }
  return anomalies;
}

Result<kernels::Anomalies> ValueRows::MakeMultipliers(const StepBuffer& buffer, const std::vector<Piece>& pieces,
                                                      int64_t row, int64_t rows, kernels::Target target) const {
  std::vector<std::byte> ones;
  const auto multipliers = [&](std::span<const kernels::Band> bands) -> Result<kernels::Anomalies> {
    for (kernels::Band band : bands) {
      ones = RowOfOnes(band.source.codec, band.cols);
      band.source.data = ones.data();
      band.source.row_bytes = 0;
      kernels::ConvertBands({&band, 1});
    }
    return kernels::Anomalies();
  };
  return MakeWith(multipliers, buffer, pieces, row, rows, target);
}

Result<kernels::Anomalies> ValueRows::MakeWith(const BandConverter& convert, const StepBuffer& buffer,
                                               const std::vector<Piece>& pieces, int64_t row, int64_t rows,
                                               kernels::Target target) const {
  const uint64_t element = kernels::ElementBits(target.codec) / 8;
  kernels::Anomalies anomalies;
  if (array().transform == Transform::kConstant) {
    kernels::Band band;
    band.source = {*ValueCodecOf(array().dtype), array().constant.data() + Rows(row, row_bytes()), row_bytes(), nullptr,
                   0};
    band.target = target;
    band.rows = static_cast<uint64_t>(rows);
    band.cols = static_cast<uint64_t>(cols_);
    return kernels::ConvertBands({&band, 1});
  }
  for (const Piece& whole : pieces) {
    if (whole.target_row >= row + rows || whole.target_row + whole.rows <= row) continue;
    Piece piece = Cut(whole, row, rows);
    if (turned()) {  // rows of the target are columns of the source
      piece.source_row = whole.source_row;
      piece.source_col = whole.source_col + piece.target_row - whole.target_row;
    }
    kernels::Target into = target;
    into.data = static_cast<std::byte*>(target.data) + Rows(piece.target_row - row, target.row_bytes) +
                static_cast<uint64_t>(piece.target_col) * element;
    if (piece.source == kNone) {
      FillValues(array().pad, array().dtype, piece.rows, ColumnsOf(piece), into);
      continue;
    }
    Result<kernels::Anomalies> odd = kernels::Anomalies();
    if (turned()) {
      odd = Turn(convert, buffer, piece, into);
    } else {
      const SourceRectangle from{piece.source,     piece.source_row, piece.rows,
                                 whole.source_row, piece.source_col, ColumnsOf(piece)};
      odd = array().adjust == Adjust::kScale ? DecodeScaled(buffer, from, array().factor, into, convert)
                                             : Decode(buffer, from, into, convert);
    }
    if (!odd.ok()) return odd.error();
    anomalies += odd.value();
  }
  return anomalies;
}

void ValueRows::Copy(const StepBuffer& buffer, const std::vector<Piece>& pieces, int64_t row, int64_t rows,
                     std::byte* target) const {
  const uint64_t element = BitsPerElement(array().dtype) / 8;
  if (array().transform == Transform::kConstant) {
    std::memcpy(target, array().constant.data() + Rows(row, row_bytes()), Rows(rows, row_bytes()));
    return;
  }
  for (const Piece& whole : pieces) {
    const Piece piece = Cut(whole, row, rows);
    if (piece.rows <= 0) continue;
    const uint64_t bytes = piece.cols == 0 ? row_bytes() : static_cast<uint64_t>(piece.cols) * element;
    for (int64_t r = 0; r < piece.rows; ++r) {
      std::byte* to =
          target + Rows(piece.target_row - row + r, row_bytes()) + static_cast<uint64_t>(piece.target_col) * element;
      if (piece.source == kNone)
        std::memset(to, 0, bytes);
      else
        std::memcpy(to,
                    buffer.Row(piece.source, piece.source_row + r) + static_cast<uint64_t>(piece.source_col) * element,
                    bytes);
    }
  }
}

}  // namespace mimo
