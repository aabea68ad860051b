// What the executor relies on, checked for plans that come from outside: every index, row and byte range.
#include <algorithm>
#include <set>

#include "lib/base/checked.h"
#include "lib/io/safetensors.h"
#include "lib/plan/plan_json.h"

namespace mimo {
namespace {

Error Bad(std::string what, std::string expected, std::string found, std::string tensor = "") {
  Error error;
  error.code = ErrorCode::kBadInput;
  error.what = "inconsistent plan: " + std::move(what);
  error.tensor = std::move(tensor);
  error.expected = std::move(expected);
  error.found = std::move(found);
  return error;
}
Error Bad(std::string what, int64_t expected, int64_t found, std::string tensor = "") {
  return Bad(std::move(what), std::to_string(expected), std::to_string(found), std::move(tensor));
}

// A path that stays below the directory it is joined to.
bool StaysBelow(const std::string& name) {
  if (name.empty() || name.front() == '/' || name.find('\0') != std::string::npos) return false;
  for (size_t begin = 0; begin <= name.size();) {
    const size_t end = std::min(name.find('/', begin), name.size());
    const std::string_view part = std::string_view(name).substr(begin, end - begin);
    if (part.empty() || part == "." || part == "..") return false;
    begin = end + 1;
  }
  return true;
}

// Whether rows [begin, begin + rows) lie in [0, limit).
bool Within(int64_t begin, int64_t rows, int64_t limit) {
  return begin >= 0 && rows >= 0 && begin <= limit && rows <= limit - begin;
}

// Elements in one index of the first dimension; rank 0 and 1 are one row.
int64_t Columns(const std::vector<int64_t>& shape) {
  int64_t columns = 1;
  for (size_t i = shape.size() < 2 ? 0 : 1; i < shape.size(); ++i) columns *= shape[i];
  return columns;
}

class Validator {
 public:
  Validator(const Catalogue& catalogue, const Plan& plan) : catalogue_(catalogue), plan_(plan) {}

  Status Run() {
    MIMO_RETURN_IF_ERROR(CheckNames());
    for (size_t i = 0; i < plan_.sources.size(); ++i) {
      if (plan_.sources[i].array >= catalogue_.arrays.size())
        return Bad("source " + std::to_string(i), "an array", "none");
    }
    for (const PlanSource& source : plan_.sources) MIMO_RETURN_IF_ERROR(CheckSource(source));
    for (const OutputArray& output : plan_.outputs) MIMO_RETURN_IF_ERROR(CheckOutput(output));
    MIMO_RETURN_IF_ERROR(CheckGroups());
    for (const PlanFile& file : plan_.files) MIMO_RETURN_IF_ERROR(CheckFile(file));
    MIMO_RETURN_IF_ERROR(CheckFates());
    return CheckTotals();
  }

 private:
  const StoredArray& ArrayOf(uint32_t source) const { return catalogue_.arrays[plan_.sources[source].array]; }
  bool IsSource(uint32_t index) const { return index < plan_.sources.size(); }

  Status CheckNames() const {
    std::set<std::string> names;
    const auto add = [&](const std::string& name) {
      return StaysBelow(name) && name.rfind(".mimo-partial", 0) != 0 && name != "mimo-manifest.json" &&
             names.insert(name).second;
    };
    for (const PlanFile& file : plan_.files) {
      if (!add(file.name)) return Bad("file name", "a new name below the output", file.name);
    }
    for (const TextFile& text : plan_.texts) {
      if (!add(text.name)) return Bad("text file name", "a new name below the output", text.name);
    }
    for (const std::string& name : plan_.carried) {
      const auto carried = std::find_if(catalogue_.carried.begin(), catalogue_.carried.end(),
                                        [&](const CarriedFile& file) { return file.name == name; });
      if (!add(name) || carried == catalogue_.carried.end()) {
        return Bad("carried file", "a file of the checkpoint, once", name);
      }
    }
    std::set<std::string> tensors;
    for (const OutputArray& output : plan_.outputs) {
      if (!tensors.insert(output.name).second) return Bad("output name", "each once", "twice", output.name);
    }
    return {};
  }

  // A matrix of F32 scales with one column per block of `columns`.
  Status CheckScales(uint32_t scale, int64_t rows, int64_t columns, int64_t block, const std::string& name) const {
    if (!IsSource(scale)) return Bad("scales", "a source of the plan", std::to_string(scale), name);
    const StoredArray& array = ArrayOf(scale);
    if (array.dtype != DType::kF32 || array.shape.size() != 2)
      return Bad("scales", "an F32 matrix", "another", array.name);
    if (array.shape[0] < rows) return Bad("rows of scales", rows, array.shape[0], array.name);
    if (array.shape[1] != CeilDiv(columns, block)) {
      return Bad("columns of scales", CeilDiv(columns, block), array.shape[1], array.name);
    }
    return {};
  }

  // Codes of a codec with a scale per group of a row.
  Status CheckGrouped(const PlanSource& source) const {
    const StoredArray& array = catalogue_.arrays[source.array];
    const bool packed = source.codec != Codec::kMxfp8;
    const int64_t group = source.codec == Codec::kNvfp4 ? 16 : 32;
    const DType codes = packed ? DType::kU8 : DType::kF8E4M3;
    const DType scales = source.codec == Codec::kNvfp4 ? DType::kF8E4M3 : DType::kU8;
    if (array.dtype != codes || !IsSource(source.scale) || !source.bands.empty())
      return Bad("quantized source", "codes with one array of scales", "another", array.name);
    const StoredArray& scale = ArrayOf(source.scale);
    const int64_t columns = array.shape[1] * (packed ? 2 : 1);
    if (scale.dtype != scales || scale.shape != std::vector<int64_t>{array.shape[0], CeilDiv(columns, group)})
      return Bad("scales", "one per " + std::to_string(group) + " columns", "another shape or dtype", scale.name);
    if ((source.codec == Codec::kNvfp4) != (source.global != kNone))
      return Bad("global scale", "one where the codec has one", "another", array.name);
    if (source.global == kNone) return {};
    if (!IsSource(source.global) || ArrayOf(source.global).dtype != DType::kF32 || ArrayOf(source.global).bytes != 4)
      return Bad("global scale", "one F32", "another", array.name);
    return {};
  }

  Status CheckSource(const PlanSource& source) const {
    const StoredArray& array = catalogue_.arrays[source.array];
    const bool plain = source.codec == Codec::kBf16 || source.codec == Codec::kFp16 || source.codec == Codec::kFp32;
    if (source.block_rows <= 0 || source.block_cols <= 0) return Bad("block size", "positive", "another", array.name);
    if (!source.quantized) {
      if (!plain || source.scale != kNone || source.global != kNone || !source.bands.empty()) {
        return Bad("source", "no scales", "scales", array.name);
      }
      return {};
    }
    if (plain || array.shape.size() != 2) return Bad("source", "a matrix in a block codec", "another", array.name);
    const int64_t rows = array.shape[0];
    const int64_t columns = array.shape[1];
    if (source.codec != Codec::kFp8Block) return CheckGrouped(source);
    if (source.global != kNone) return Bad("source", "no global scale", "one", array.name);
    if (array.dtype != DType::kF8E4M3)
      return Bad("FP8 source", "F8_E4M3", std::string(DTypeName(array.dtype)), array.name);
    if (source.bands.empty()) {
      return CheckScales(source.scale, CeilDiv(rows, source.block_rows), columns, source.block_cols, array.name);
    }
    int64_t next = 0;
    for (const SourceBand& band : source.bands) {
      if (band.row_begin != next || band.row_end <= band.row_begin || band.scale_row < 0) {
        return Bad("bands", "a band at row " + std::to_string(next), "row " + std::to_string(band.row_begin),
                   array.name);
      }
      MIMO_RETURN_IF_ERROR(CheckScales(band.scale, band.scale_row + 1, columns, source.block_cols, array.name));
      next = band.row_end;
    }
    return next == rows ? Status() : Bad("rows of bands", rows, next, array.name);
  }

  Status CheckOutput(const OutputArray& output) const {
    const std::string& name = output.name;
    if (output.file >= plan_.files.size()) return Bad("file of an output", "a file", "none", name);
    if (output.group >= plan_.groups.size()) return Bad("group of an output", "a group", "none", name);
    const std::optional<uint64_t> bytes = TensorBytes(output.dtype, output.shape);
    if (!bytes || output.end < output.begin || output.end - output.begin != *bytes) {
      return Bad("byte range of an output", "that of its shape", "another", name);
    }
    const bool has_cells = output.transform == Transform::kRelayout || output.transform == Transform::kScales;
    if (has_cells) {
      const DType dtype = output.transform == Transform::kRelayout ? DType::kF8E4M3 : DType::kF32;
      if (!output.pieces.empty() || output.dtype != dtype || output.shape.size() != 2 || output.unchanged) {
        return Bad("re-laid output", "a matrix without pieces", "another", name);
      }
      return {};
    }
    if (output.transform == Transform::kBeside) {
      if (!output.pieces.empty() || output.unchanged)
        return Bad("scales of an encoded weight", "no pieces", "pieces", name);
      return {};
    }
    int64_t next = 0;
    for (const Piece& piece : output.pieces) {
      if (piece.target_row != next || piece.rows <= 0 || !IsSource(piece.source)) {
        return Bad("pieces", "one at row " + std::to_string(next), "row " + std::to_string(piece.target_row), name);
      }
      if (!Within(piece.source_row, piece.rows, ArrayOf(piece.source).rows())) {
        return Bad("rows of a piece", "rows of " + ArrayOf(piece.source).name, std::to_string(piece.source_row), name);
      }
      if (!Within(next, piece.rows, output.rows()))
        return Bad("rows of pieces", output.rows(), next + piece.rows, name);
      MIMO_RETURN_IF_ERROR(CheckPiece(output, plan_.sources[piece.source]));
      next += piece.rows;
    }
    if (next != output.rows()) return Bad("rows of pieces", output.rows(), next, name);
    return CheckUnchanged(output);
  }

  // The values of one source row fill one output row.
  Status CheckPiece(const OutputArray& output, const PlanSource& source) const {
    const StoredArray& array = catalogue_.arrays[source.array];
    if (output.transform == Transform::kMove) {
      if (array.dtype != output.dtype) return Bad("dtype of a moved array", array.name, output.name, output.name);
      if (array.row_bytes() != output.row_bytes()) {
        return Bad("bytes of a row", static_cast<int64_t>(output.row_bytes()), static_cast<int64_t>(array.row_bytes()),
                   output.name);
      }
      return {};
    }
    if (output.transform == Transform::kInvert) {
      if (array.dtype != DType::kF32 || output.dtype != DType::kF32 || array.bytes != 4 || output.row_bytes() != 4)
        return Bad("inverted output", "one F32 from one F32", "another", output.name);
      return {};
    }
    const auto matches = [](Codec codec, DType dtype) {
      return (codec == Codec::kFp32 && dtype == DType::kF32) || (codec == Codec::kFp16 && dtype == DType::kF16) ||
             (codec == Codec::kBf16 && dtype == DType::kBF16);
    };
    const bool encoded = output.transform == Transform::kEncode;
    if (!encoded && !matches(output.target_codec, output.dtype))
      return Bad("codec", "that of the dtype", "another", output.name);
    if (!source.quantized && !matches(source.codec, array.dtype))
      return Bad("codec", "that of the dtype", "another", array.name);
    const auto packed = [](Codec codec) { return codec == Codec::kMxfp4 || codec == Codec::kNvfp4 ? 2 : 1; };
    const int64_t columns = Columns(array.shape) * (source.quantized ? packed(source.codec) : 1);
    const int64_t wanted = Columns(output.shape) * (encoded ? packed(output.target_codec) : 1);
    if (columns != wanted) return Bad("columns", wanted, columns, output.name);
    return {};
  }

  Status CheckUnchanged(const OutputArray& output) const {
    if (!output.unchanged) return {};
    if (output.transform != Transform::kMove || output.pieces.size() != 1)
      return Bad("unchanged output", "one move", "another", output.name);
    const StoredArray& array = ArrayOf(output.pieces[0].source);
    if (array.name != output.name || array.dtype != output.dtype || array.shape != output.shape) {
      return Bad("unchanged output", "name, dtype and shape of its source", "others", output.name);
    }
    return {};
  }

  Status CheckGroups() const {
    std::vector<std::vector<uint32_t>> outputs(plan_.groups.size());
    for (uint32_t i = 0; i < plan_.outputs.size(); ++i) outputs[plan_.outputs[i].group].push_back(i);
    for (size_t g = 0; g < plan_.groups.size(); ++g) {
      const FuseGroup& group = plan_.groups[g];
      if (group.outputs != outputs[g]) return Bad("outputs of a group", "those that name it, in order", group.label);
      if (group.file_group >= plan_.file_groups) return Bad("file group of a group", "below the count", group.label);
      for (uint32_t i : group.outputs) {
        const uint32_t file_group = plan_.files[plan_.outputs[i].file].file_group;
        if (file_group != group.file_group)
          return Bad("file group", group.file_group, file_group, plan_.outputs[i].name);
      }
      MIMO_RETURN_IF_ERROR(CheckCells(static_cast<uint32_t>(g)));
      MIMO_RETURN_IF_ERROR(CheckEncoded(static_cast<uint32_t>(g)));
    }
    return {};
  }

  // Every kEncode and kBeside output of the group belongs to exactly one encoded weight, in the shape that it makes.
  Status CheckEncoded(uint32_t g) const {
    const FuseGroup& group = plan_.groups[g];
    std::set<uint32_t> taken;
    for (const EncodedWeight& e : group.encoded) {
      if (!IsOutput(e.codes, g, Transform::kEncode) || !IsOutput(e.scales, g, Transform::kBeside))
        return Bad("encoded weight of " + group.label, "codes and scales of this group", "others");
      const OutputArray& codes = plan_.outputs[e.codes];
      const OutputArray& scales = plan_.outputs[e.scales];
      const kernels::Encoding& encoding = e.encoding;
      const bool cells = encoding.codec == Codec::kFp8Block;
      const bool packed = encoding.codec == Codec::kNvfp4 || encoding.codec == Codec::kMxfp4;
      const bool plain =
          encoding.codec == Codec::kBf16 || encoding.codec == Codec::kFp16 || encoding.codec == Codec::kFp32;
      if (plain || codes.target_codec != encoding.codec || codes.shape.size() != 2 || scales.shape.size() != 2)
        return Bad("encoded weight", "matrices of its codec", "others", codes.name);
      if (encoding.block_rows == 0 || encoding.block_cols == 0 || encoding.block_rows > 1u << 20 ||
          (cells && encoding.block_cols % 32 != 0))
        return Bad("block of an encoding", "rows, and columns that are a multiple of 32", "another", codes.name);
      const int64_t columns = codes.shape[1] * (packed ? 2 : 1);
      const int64_t column_group = kernels::GroupColumns(encoding);
      if (e.period < 0 || (e.period > 0 && (!cells || codes.shape[0] % e.period != 0)))
        return Bad("period of an encoded weight", "a divisor of its rows", std::to_string(e.period), codes.name);
      const int64_t rows = cells ? BlockRowsOf(codes.shape[0], e) : codes.shape[0];
      const DType scale_dtype = cells ? DType::kF32 : encoding.codec == Codec::kNvfp4 ? DType::kF8E4M3 : DType::kU8;
      if (BitsPerElement(codes.dtype) != 8 || BitsPerElement(scales.dtype) != BitsPerElement(scale_dtype) ||
          (!cells && columns % column_group != 0) ||
          scales.shape != std::vector<int64_t>{rows, CeilDiv(columns, column_group)})
        return Bad("scales of an encoded weight", "those of its codes", "another shape or dtype", scales.name);
      if ((encoding.codec == Codec::kNvfp4) != (e.global != kNone))
        return Bad("global scale", "one where the codec has one", "another", codes.name);
      taken.insert({e.codes, e.scales});
      for (const uint32_t scalar : {e.global, e.input}) {
        if (scalar == kNone) continue;
        if (!IsOutput(scalar, g, Transform::kBeside) || plan_.outputs[scalar].dtype != DType::kF32 ||
            plan_.outputs[scalar].row_bytes() != 4 || plan_.outputs[scalar].rows() != 1)
          return Bad("scalar of an encoded weight", "one F32", "another", codes.name);
        taken.insert(scalar);
      }
    }
    size_t wanted = 0, made = 0;
    for (const EncodedWeight& e : group.encoded) wanted += 2 + (e.global != kNone) + (e.input != kNone);
    for (uint32_t i : group.outputs)
      made += plan_.outputs[i].transform == Transform::kEncode || plan_.outputs[i].transform == Transform::kBeside;
    if (taken.size() != wanted || made != wanted)
      return Bad("encoded weights of " + group.label, "each output once", "another count");
    return {};
  }

  bool IsOutput(uint32_t index, uint32_t group, Transform transform) const {
    return index < plan_.outputs.size() && plan_.outputs[index].group == group &&
           plan_.outputs[index].transform == transform;
  }

  // Cells cover every row of the group's scales and, by their segments, every row of its codes, once.
  Status CheckCells(uint32_t g) const {
    const FuseGroup& group = plan_.groups[g];
    std::vector<std::pair<uint32_t, std::pair<int64_t, int64_t>>> rows;  // (output, [begin, end))
    for (const CellRow& cell : group.cells) {
      if (!IsOutput(cell.scale_output, g, Transform::kScales) || cell.segments.empty()) {
        return Bad("cells of " + group.label, "scales of this group with segments", "another output or none");
      }
      const OutputArray& scales = plan_.outputs[cell.scale_output];
      if (!Within(cell.scale_row, 1, scales.shape[0]))
        return Bad("scale row", scales.shape[0], cell.scale_row, scales.name);
      rows.push_back({cell.scale_output, {cell.scale_row, cell.scale_row + 1}});
      for (const CellSegment& s : cell.segments) {
        MIMO_RETURN_IF_ERROR(CheckSegment(s, g, scales));
        rows.push_back({s.output, {s.target_row, s.target_row + s.rows}});
        const CellSegment& first = cell.segments.front();
        if (cell.moved && (s.scale != first.scale || s.scale_row != first.scale_row)) {
          return Bad("moved cell", "one source scale row", "several", scales.name);
        }
      }
    }
    std::sort(rows.begin(), rows.end());
    size_t at = 0;
    for (uint32_t i : group.outputs) {
      const OutputArray& output = plan_.outputs[i];
      if (!IsOutput(i, g, Transform::kScales) && !IsOutput(i, g, Transform::kRelayout)) continue;
      int64_t next = 0;
      for (; at < rows.size() && rows[at].first == i; ++at) {
        if (rows[at].second.first != next) return Bad("rows of cells", next, rows[at].second.first, output.name);
        next = rows[at].second.second;
      }
      if (next != output.shape[0]) return Bad("rows of cells", output.shape[0], next, output.name);
    }
    return {};
  }

  Status CheckSegment(const CellSegment& s, uint32_t group, const OutputArray& scales) const {
    if (!IsOutput(s.output, group, Transform::kRelayout) || !IsSource(s.source)) {
      return Bad("cell", "codes of this group from a source", "another", scales.name);
    }
    const OutputArray& codes = plan_.outputs[s.output];
    const StoredArray& source = ArrayOf(s.source);
    if (source.dtype != DType::kF8E4M3 || source.shape.size() != 2 || source.shape[1] != codes.shape[1]) {
      return Bad("source of a cell", "F8_E4M3 codes of equal width", "another", source.name);
    }
    if (s.rows <= 0 || !Within(s.source_row, s.rows, source.shape[0]) ||
        !Within(s.target_row, s.rows, codes.shape[0])) {
      return Bad("rows of a cell", "rows of its source and target", std::to_string(s.target_row), codes.name);
    }
    if (s.scale_row < 0) return Bad("scale row of a cell", 0, s.scale_row, codes.name);
    MIMO_RETURN_IF_ERROR(
        CheckScales(s.scale, s.scale_row + 1, codes.shape[1], plan_.sources[s.source].block_cols, codes.name));
    if (scales.shape[1] != ArrayOf(s.scale).shape[1]) {
      return Bad("columns of scales", ArrayOf(s.scale).shape[1], scales.shape[1], scales.name);
    }
    return {};
  }

  // Outputs fill the file from the header to its end, without overlap or holes.
  Status CheckFile(const PlanFile& file) const {
    const auto f = static_cast<uint32_t>(&file - plan_.files.data());
    if (file.file_group >= plan_.file_groups)
      return Bad("file group of " + file.name, plan_.file_groups, file.file_group);
    if (f > 0 && !(plan_.files[f - 1].name < file.name)) return Bad("files", "in name order", file.name);
    if (file.source_file != kNone && file.source_file >= catalogue_.files.size())
      return Bad("source file", "a file", file.name);
    if (file.unchanged != file.header.empty() || (file.unchanged && file.source_file == kNone)) {
      return Bad("file " + file.name, "a header, or a source file to link", "both or none");
    }
    uint64_t prefix = 0;
    for (size_t i = 0; i < 8 && i < file.header.size(); ++i) {
      prefix |= static_cast<uint64_t>(static_cast<unsigned char>(file.header[i])) << (8 * i);
    }
    if (!file.unchanged && (file.header.size() < 8 || prefix != file.header.size() - 8)) {
      return Bad("header of " + file.name, "its own length first", std::to_string(prefix));
    }
    uint64_t next = file.unchanged ? catalogue_.files[file.source_file].data_begin : file.header.size();
    for (uint32_t i : file.outputs) {
      if (i >= plan_.outputs.size() || plan_.outputs[i].file != f)
        return Bad("outputs of " + file.name, "its own", "another's");
      const OutputArray& output = plan_.outputs[i];
      if (output.begin != next)
        return Bad("begin of an output", static_cast<int64_t>(next), static_cast<int64_t>(output.begin), output.name);
      next = output.end;
      if (file.unchanged && !LiesThere(output, file.source_file)) {
        return Bad("output of a linked file", "the same bytes at the same place", "another", output.name);
      }
    }
    if (next != file.bytes)
      return Bad("length of " + file.name, static_cast<int64_t>(next), static_cast<int64_t>(file.bytes));
    return {};
  }

  bool LiesThere(const OutputArray& output, uint32_t source_file) const {
    if (!output.unchanged) return false;
    const StoredArray& array = ArrayOf(output.pieces[0].source);
    return array.file == source_file && array.begin == output.begin;
  }

  Status CheckFates() const {
    std::vector<bool> read(catalogue_.arrays.size(), false);
    for (const PlanSource& source : plan_.sources) read[source.array] = true;
    if (plan_.fates.size() != read.size()) {
      return Bad("fates", static_cast<int64_t>(read.size()), static_cast<int64_t>(plan_.fates.size()));
    }
    for (uint32_t i = 0; i < read.size(); ++i) {
      const SourceFate& fate = plan_.fates[i];
      const bool used = fate.fate == Fate::kUsed;
      if (fate.array != i || used != read[i] || used != fate.reason.empty()) {
        return Bad("fate", "used, or dropped with a reason", "neither", catalogue_.arrays[i].name);
      }
    }
    return {};
  }

  Status CheckTotals() const {
    uint64_t bytes = 0;
    size_t in_files = 0;
    for (const OutputArray& output : plan_.outputs)
      bytes += output.end - output.begin;  // each lies in a file: no overflow
    for (size_t i = 1; i < plan_.outputs.size(); ++i) {
      const OutputArray &a = plan_.outputs[i - 1], &b = plan_.outputs[i];
      if (std::tie(b.file, b.begin) < std::tie(a.file, a.begin))
        return Bad("outputs", "by file and begin", "another order", b.name);
    }
    for (const PlanFile& file : plan_.files) in_files += file.outputs.size();
    if (in_files != plan_.outputs.size()) return Bad("outputs", "each in one file", std::to_string(in_files));
    if (bytes != plan_.payload_bytes)
      return Bad("payload", static_cast<int64_t>(bytes), static_cast<int64_t>(plan_.payload_bytes));
    uint64_t straddling = 0;
    for (const FuseGroup& group : plan_.groups) straddling += group.straddling_blocks;
    if (straddling != plan_.straddling_blocks) {
      return Bad("straddling blocks", static_cast<int64_t>(straddling), static_cast<int64_t>(plan_.straddling_blocks));
    }
    return {};
  }

  const Catalogue& catalogue_;
  const Plan& plan_;
};

}  // namespace

Status ValidatePlan(const Catalogue& catalogue, const Plan& plan) {
  return Validator(catalogue, plan).Run();
}

}  // namespace mimo
