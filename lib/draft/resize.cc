#include "lib/draft/resize.h"

#include <algorithm>

#include "lib/base/checked.h"
#include "lib/decode/row_bytes.h"
#include "lib/model/scale_values.h"

namespace mimo {
namespace {

// The bytes of a scale of one; none where there are no scales.
constexpr Words<Codec, 7> kScalesOfOne{{{Codec::kFp8Block, {"\x00\x00\x80\x3f", 4}},
                                        {Codec::kNvfp4, "\x38"},
                                        {Codec::kMxfp4, "\x7f"},
                                        {Codec::kMxfp8, "\x7f"},
                                        {Codec::kFp32, ""},
                                        {Codec::kFp16, ""},
                                        {Codec::kBf16, ""}}};
static_assert(NamesEach(kScalesOfOne));

}  // namespace

std::vector<Piece> ResizedPieces(uint32_t source, const std::vector<int64_t>& from, const std::vector<int64_t>& to) {
  const int64_t rows = MatrixRows(to), cols = RowElements(to);
  const int64_t kept_rows = std::min(MatrixRows(from), rows), kept_cols = std::min(RowElements(from), cols);
  std::vector<Piece> pieces;
  const bool whole = RowElements(from) == cols;
  pieces.push_back({source, 0, 0, kept_rows, 0, 0, whole ? 0 : kept_cols});
  if (cols > kept_cols) pieces.push_back({kNone, 0, 0, kept_rows, 0, kept_cols, cols - kept_cols});
  if (rows > kept_rows) pieces.push_back({kNone, 0, kept_rows, rows - kept_rows, 0, 0, 0});
  return pieces;
}

std::vector<int64_t> ElementShape(const Catalogue& catalogue, const Weight& weight) {
  std::vector<int64_t> shape = catalogue.arrays[weight.array].shape;
  if (weight.storage != Storage::kPlain) shape.back() = weight.cols;
  return shape;
}

Result<std::vector<int64_t>> ResizedShape(const Catalogue& catalogue, const Weight& weight, const ModelConfig& model) {
  const TensorRule* rule = catalogue.table->RuleOf(weight.id);
  if (rule == nullptr) return ElementShape(catalogue, weight);
  std::vector<int64_t> shape;
  for (const std::string& symbol : rule->shape) {
    MIMO_ASSIGN_OR_RETURN(const int64_t extent, Dimension(symbol, model, weight.id.layer, weight.id.mtp));
    shape.push_back(extent);
  }
  return shape;
}

void ResizeAdded(Draft& draft, const Weight& weight, const std::vector<int64_t>& shape) {
  const auto resize = [&](uint32_t array, std::vector<int64_t> wanted, std::string pad) {
    const uint32_t source = draft.Source(array);
    for (DraftOutput& output : draft.group().outputs) {
      if (output.pieces[0].source != source) continue;
      output.unchanged = false;
      output.pieces = ResizedPieces(source, draft.catalogue().arrays[array].shape, wanted);
      output.shape = std::move(wanted);
      output.pad = std::move(pad);
      output.end = output.begin + ArrayBytes(output.dtype, output.shape);
      return;
    }
  };
  std::vector<int64_t> codes = shape;
  if (IsPacked(weight.storage) && draft.catalogue().arrays[weight.array].dtype != DType::kF4) codes.back() /= 2;
  resize(weight.array, codes, "");
  if (HasBlockGrid(weight.storage) && !weight.in_blocks()) {  // of a tensor nothing is to be resized
    const StoredArray& scale = draft.catalogue().arrays[weight.scale];
    std::vector<int64_t> rows = scale.shape;
    if (weight.per_row()) rows[0] = shape[0];
    resize(weight.scale, std::move(rows), ScaleOfOne(scale.dtype));
  } else if (const std::optional<Codec> codec = CodecOf(weight.storage)) {
    const bool blocks = HasBlockScales(*codec);
    const int64_t columns = blocks ? weight.block_cols : std::max<int64_t>(GroupOf(*codec), 1);
    const int64_t rows = blocks ? CeilDiv(shape[0], weight.block_rows) : shape[0];
    resize(
        weight.scale, {rows, CeilDiv(shape[1], columns)},
        blocks ? ScaleOfOne(draft.catalogue().arrays[weight.scale].dtype) : std::string(WordOf(kScalesOfOne, *codec)));
  }
}

void AddRegridded(Draft& draft, const Weight& weight, int64_t block_rows) {
  draft.AddUnchanged(weight.array);
  const StoredArray& stored = draft.catalogue().arrays[weight.scale];
  OutputArray scales = OutputLike(stored);
  scales.shape[0] = CeilDiv(weight.rows, block_rows);
  const uint32_t source = draft.Source(weight.scale);
  for (int64_t row = 0; row < scales.shape[0]; ++row) {
    const int64_t first = row * block_rows / weight.block_rows;
    const int64_t last = (std::min((row + 1) * block_rows, weight.rows) - 1) / weight.block_rows;
    scales.pieces.push_back({source, first, row, 1});
    if (last > first) draft.equal.push_back({source, source, first, first + 1, last - first});
  }
  draft.AddOutput(std::move(scales), weight.scale);
}

}  // namespace mimo
