// Sources of a plan: their scales exist and fit them. Replicas can be compared.
#include "lib/base/checked.h"
#include "lib/model/scale_values.h"
#include "lib/plan/reads.h"
#include "lib/plan/validate_parts.h"

namespace mimo::plan_check {
namespace {

// Codes of a codec with a scale per group of a row.
Status CheckGrouped(const Subject& subject, const SourceArray& source) {
  const StoredArray& array = subject.catalogue.arrays[source.array];
  const int64_t group = GroupOf(source.codec);
  const bool nibbles = IsPacked(source.codec) && array.dtype == DType::kF4;
  if ((array.dtype != DTypeOf(source.codec) && !nibbles) || !subject.IsSource(source.scale) || !source.bands.empty())
    return Bad("quantized source").Tensor(array.name).Expected("codes with one array of scales").Found("another");
  const StoredArray& scale = subject.ArrayOf(source.scale);
  std::vector<int64_t> shape = array.shape;
  shape.back() = CeilDiv(shape.back() * ValuesPerElement(source, array.dtype), group);
  const std::optional<DType> type = ScaleTypeOf(source.codec);
  const bool exponents = type == DType::kU8 && IsExponentType(scale.dtype);
  if ((scale.dtype != type && !exponents) || scale.shape != shape)
    return Bad("scales")
        .Tensor(scale.name)
        .Expected("one per " + std::to_string(group) + " columns")
        .Found("another shape or dtype");
  if (HasGlobal(source.codec) != (source.global != kNone))
    return Bad("global scale").Tensor(array.name).Expected("one where the codec has one").Found("another");
  if (source.global == kNone) return {};
  if (!subject.IsSource(source.global) || subject.ArrayOf(source.global).dtype != DType::kF32 ||
      subject.ArrayOf(source.global).bytes != 4)
    return Bad("global scale").Tensor(array.name).Expected("one F32").Found("another");
  return {};
}

}  // namespace

Status CheckScales(const Subject& subject, const SourceArray& codes, uint32_t scale, int64_t rows) {
  const std::string& name = subject.catalogue.arrays[codes.array].name;
  const int64_t columns = Columns(subject.catalogue.arrays[codes.array].shape);
  if (!subject.IsSource(scale)) return Bad("scales").Tensor(name).Expected("a source of the plan").Found(scale);
  const StoredArray& array = subject.ArrayOf(scale);
  const std::string type(DTypeName(codes.scale_type));
  if (!IsScaleType(codes.scale_type) || array.dtype != codes.scale_type)
    return Bad("scales").Tensor(array.name).Expected(type).Found(std::string(DTypeName(array.dtype)));
  // Beside the usual matrix: one row for all rows, and one element for all elements.
  const int64_t elements = Columns(array.shape);
  if (codes.scales_in_a_row) {
    if (array.shape.size() != 1 || codes.block_rows != 1 || codes.block_cols < columns || elements < rows)
      return Bad("scales in a row").Tensor(array.name).Expected("one for each row").Found("another shape");
    return {};
  }
  if (array.shape.size() < 2 && (array.shape.size() > 1 || elements != 1 || rows > 1))
    return Bad("scales").Tensor(array.name).Expected("a matrix, or one for all").Found("another shape");
  if (array.rows() < rows) return Bad("rows of scales").Tensor(array.name).Expected(rows).Found(array.rows());
  if (elements != CeilDiv(columns, codes.block_cols))
    return Bad("columns of scales")
        .Tensor(array.name)
        .Expected(CeilDiv(columns, codes.block_cols))
        .Found(Columns(array.shape));
  return {};
}

Status CheckSource(const Subject& subject, const SourceArray& source) {
  const StoredArray& array = subject.catalogue.arrays[source.array];
  const bool plain = IsValueCodec(source.codec);
  constexpr int64_t kLargestBlock = int64_t{1} << 31;
  if (source.block_rows <= 0 || source.block_cols <= 0 || source.block_rows > kLargestBlock ||
      source.block_cols > kLargestBlock)
    return Bad("block size").Tensor(array.name).Expected("positive").Found("another");
  if (!source.quantized) {
    if (!plain || source.scale != kNone || source.global != kNone || !source.bands.empty())
      return Bad("source").Tensor(array.name).Expected("no scales").Found("scales");
    return {};
  }
  if (plain || array.shape.size() < 2)
    return Bad("source").Tensor(array.name).Expected("a matrix in a block codec").Found("another");
  if (!HasBlockScales(source.codec)) return CheckGrouped(subject, source);
  const int64_t rows = array.rows();
  if (source.global != kNone) return Bad("source").Tensor(array.name).Expected("no global scale").Found("one");
  if (const DType codes = DTypeOf(source.codec); array.dtype != codes && array.dtype != DType::kU8)
    return Bad("FP8 source")
        .Tensor(array.name)
        .Expected(std::string(DTypeName(codes)))
        .Found(std::string(DTypeName(array.dtype)));
  if (source.bands.empty()) return CheckScales(subject, source, source.scale, CeilDiv(rows, source.block_rows));
  if (source.scales_in_a_row) return Bad("scales in a row").Tensor(array.name).Expected("no bands").Found("bands");
  int64_t next = 0;
  for (const SourceBand& band : source.bands) {
    if (band.row_begin != next || band.row_end <= band.row_begin || band.scale_row < 0) {
      return Bad("bands")
          .Tensor(array.name)
          .Expected("a band at row " + std::to_string(next))
          .Found("row " + std::to_string(band.row_begin));
    }
    MIMO_RETURN_IF_ERROR(CheckScales(subject, source, band.scale, band.scale_row));
    if (band.scale_row >= subject.ArrayOf(band.scale).rows())
      return Bad("scale row of a band")
          .Tensor(array.name)
          .Expected(subject.ArrayOf(band.scale).rows() - 1)
          .Found(band.scale_row);
    next = band.row_end;
  }
  return next == rows ? Status() : Bad("rows of bands").Tensor(array.name).Expected(rows).Found(next);
}

Status CheckEqual(const Subject& subject, const EqualRows& equal) {
  if (!subject.IsSource(equal.first) || !subject.IsSource(equal.second))
    return Bad("replicas").Expected("sources of the plan").Found("another");
  const StoredArray &first = subject.ArrayOf(equal.first), &second = subject.ArrayOf(equal.second);
  if (first.dtype != second.dtype || first.row_bytes() != second.row_bytes() || first.row_bytes() == 0)
    return Bad("replicas").Tensor(second.name).Expected("rows like those of " + first.name).Found("others");
  if (equal.rows <= 0 || !Within(equal.first_row, equal.rows, first.rows()))
    return Bad("rows of replicas").Tensor(first.name).Expected(first.rows()).Found(equal.first_row);
  if (!Within(equal.second_row, equal.rows, second.rows()))
    return Bad("rows of replicas").Tensor(second.name).Expected(second.rows()).Found(equal.second_row);
  return {};
}

}  // namespace mimo::plan_check
