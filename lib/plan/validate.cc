// What the executor relies on, checked for plans that come from outside: every index, row and byte range.
#include <algorithm>
#include <cmath>
#include <set>
#include <tuple>

#include "lib/base/checked.h"
#include "lib/model/scale_values.h"
#include "lib/plan/output_names.h"
#include "lib/plan/plan_json.h"
#include "lib/plan/validate_parts.h"

namespace mimo {
namespace plan_check {

Error Bad(std::string what) {
  return BadInput("inconsistent plan: " + std::move(what));
}

}  // namespace plan_check

namespace {

using plan_check::Bad;
using plan_check::Columns;

class Validator {
 public:
  Validator(const Catalogue& catalogue, const Plan& plan)
      : catalogue_(catalogue), plan_(plan), subject_{catalogue, plan} {}

  Status Check() {
    MIMO_RETURN_IF_ERROR(CheckNames());
    for (size_t i = 0; i < plan_.sources.size(); ++i) {
      if (plan_.sources[i].array >= catalogue_.arrays.size())
        return Bad("source " + std::to_string(i)).Expected("an array").Found("none");
    }
    for (const SourceArray& source : plan_.sources) MIMO_RETURN_IF_ERROR(CheckSource(subject_, source));
    for (const EqualRows& equal : plan_.equal) MIMO_RETURN_IF_ERROR(CheckEqual(subject_, equal));
    for (const OutputArray& output : plan_.outputs) MIMO_RETURN_IF_ERROR(CheckOutput(output));
    MIMO_RETURN_IF_ERROR(CheckGroups());
    for (const PlanFile& file : plan_.files) MIMO_RETURN_IF_ERROR(CheckFile(file));
    MIMO_RETURN_IF_ERROR(CheckFates());
    return CheckTotals();
  }

 private:
  const StoredArray& ArrayOf(uint32_t source) const { return subject_.ArrayOf(source); }

  Status CheckNames() const {
    MIMO_RETURN_IF_ERROR(CheckOutputNames(catalogue_, plan_));
    std::set<std::pair<uint32_t, std::string_view>> tensors;  // ranks have the same names in files of their own
    for (const OutputArray& output : plan_.outputs) {
      if (!tensors.insert({output.file, output.name}).second)
        return Bad("output name").Tensor(output.name).Expected("each once in a file").Found("twice");
    }
    return {};
  }

  Status CheckOutput(const OutputArray& output) const {
    const std::string& name = output.name;
    if (output.file >= plan_.files.size())
      return Bad("file of an output").Tensor(name).Expected("a file").Found("none");
    if (output.group >= plan_.groups.size())
      return Bad("group of an output").Tensor(name).Expected("a group").Found("none");
    const std::optional<uint64_t> bytes = TensorBytes(output.dtype, output.shape);
    if (!bytes || output.end < output.begin || output.end - output.begin != *bytes) {
      return Bad("byte range of an output").Tensor(name).Expected("that of its shape").Found("another");
    }
    MIMO_RETURN_IF_ERROR(CheckElements(output));
    switch (output.transform) {
      case Transform::kRelayout:
      case Transform::kScales: {
        const bool codes = output.transform == Transform::kRelayout;
        const bool fits =
            codes ? output.dtype == DType::kF8E4M3 || output.dtype == DType::kU8 : IsScaleType(output.dtype);
        const bool matrix = output.shape.size() >= 2 || (!codes && Columns(output.shape) == 1);  // one for all
        if (!output.pieces.empty() || !fits || !matrix || output.unchanged)
          return Bad("re-laid output").Tensor(name).Expected("a matrix without pieces").Found("another");
        return {};
      }
      case Transform::kBeside:
      case Transform::kConstant:
        if (!output.pieces.empty() || output.unchanged)
          return Bad("output that is not made of pieces").Tensor(name).Expected("no pieces").Found("pieces");
        return {};
      case Transform::kMove:
      case Transform::kConvert:
      case Transform::kEncode:
      case Transform::kInvert:
      case Transform::kTranspose:
        break;
    }
    MIMO_RETURN_IF_ERROR(CheckPieces(subject_, output));
    return CheckUnchanged(output);
  }

  // What happens to single elements: adjustment, padding, constants.
  Status CheckElements(const OutputArray& output) const {
    const Transform transform = output.transform;
    const bool scales = output.adjust == Adjust::kScale;
    if (output.adjust == Adjust::kCentre) {
      if (transform != Transform::kMove || output.dtype != DType::kF32 || output.rows() != 1 ||
          output.pieces.size() != 1 || output.pieces[0].source == kNone || output.pieces[0].cols != 0)
        return Bad("centred values").Tensor(output.name).Expected("an F32 row, moved whole").Found("another output");
    } else if (output.adjust == Adjust::kAsIs || scales) {
      const bool moves = transform == Transform::kMove || transform == Transform::kTranspose;
      const bool values = transform == Transform::kConvert || (moves && output.dtype == DType::kF32);
      if (scales && !values)
        return Bad("factor")
            .Tensor(output.name)
            .Expected("values that are moved, transposed or converted")
            .Found("another output");
    } else if ((transform != Transform::kMove && transform != Transform::kTranspose) ||
               output.dtype != DType::kF8E4M3) {
      return Bad("adjusted codes")
          .Tensor(output.name)
          .Expected("F8_E4M3 codes that are moved or transposed")
          .Found("another output");
    }
    if (scales ? !std::isfinite(output.factor) || output.factor == 0 : output.factor != 1)
      return Bad("factor")
          .Tensor(output.name)
          .Expected(scales ? "a finite one" : "1")
          .Found(std::to_string(output.factor));
    MIMO_RETURN_IF_ERROR(CheckKept(output));
    const bool pads =
        transform == Transform::kMove || transform == Transform::kConvert || transform == Transform::kTranspose;
    if (!output.pad.empty() && (!pads || 8 * output.pad.size() != BitsPerElement(output.dtype)))
      return Bad("padding")
          .Tensor(output.name)
          .Expected("one element")
          .Found(std::to_string(output.pad.size()) + " bytes");
    const uint64_t constant = transform == Transform::kConstant ? output.end - output.begin : 0;
    if (output.constant.size() != constant)
      return Bad("bytes of a constant").Tensor(output.name).Expected(constant).Found(output.constant.size());
    return {};
  }

  // Values that F32 bits are kept beside.
  Status CheckKept(const OutputArray& output) const {
    if (output.keep == kNone) return {};
    if (!subject_.IsSource(output.keep))
      return Bad("kept values").Tensor(output.name).Expected("a source").Found(output.keep);
    const StoredArray& keep = ArrayOf(output.keep);
    const bool converts = output.transform == Transform::kConvert && output.adjust == Adjust::kAsIs;
    if (converts && output.dtype == DType::kF32 && keep.dtype == DType::kF32 && keep.shape == output.shape) return {};
    return Bad("kept values")
        .Tensor(output.name)
        .Expected("F32 of the shape of values that become F32")
        .Found(keep.name);
  }

  Status CheckUnchanged(const OutputArray& output) const {
    if (!output.unchanged) return {};
    if (output.transform != Transform::kMove || output.adjust != Adjust::kAsIs || output.pieces.size() != 1 ||
        output.pieces[0].source == kNone)
      return Bad("unchanged output").Tensor(output.name).Expected("one move").Found("another");
    const StoredArray& array = ArrayOf(output.pieces[0].source);
    if (array.name != output.name || array.dtype != output.dtype || array.shape != output.shape) {
      return Bad("unchanged output")
          .Tensor(output.name)
          .Expected("name, dtype and shape of its source")
          .Found("others");
    }
    return {};
  }

  Status CheckGroups() const {
    std::vector<std::vector<uint32_t>> outputs(plan_.groups.size());
    for (uint32_t i = 0; i < plan_.outputs.size(); ++i) outputs[plan_.outputs[i].group].push_back(i);
    for (size_t g = 0; g < plan_.groups.size(); ++g) {
      const FuseGroup& group = plan_.groups[g];
      if (group.outputs != outputs[g])
        return Bad("outputs of a group").Expected("those that name it, in order").Found(group.label);
      if (group.file_group >= plan_.file_groups)
        return Bad("file group of a group").Expected("below the count").Found(group.label);
      for (uint32_t i : group.outputs) {
        const uint32_t file_group = plan_.files[plan_.outputs[i].file].file_group;
        if (file_group != group.file_group)
          return Bad("file group").Tensor(plan_.outputs[i].name).Expected(group.file_group).Found(file_group);
      }
      MIMO_RETURN_IF_ERROR(CheckCells(subject_, static_cast<uint32_t>(g)));
      MIMO_RETURN_IF_ERROR(CheckEncoded(subject_, static_cast<uint32_t>(g)));
    }
    return {};
  }

  // Outputs and what their container puts around them fill the file from the header to its end, without overlap or
  // holes.
  Status CheckFile(const PlanFile& file) const {
    const auto f = static_cast<uint32_t>(&file - plan_.files.data());
    if (file.file_group >= plan_.file_groups)
      return Bad("file group of " + file.name).Expected(plan_.file_groups).Found(file.file_group);
    if (f > 0 && !(plan_.files[f - 1].name < file.name)) return Bad("files").Expected("in name order").Found(file.name);
    if (file.source_file != kNone && file.source_file >= catalogue_.files.size())
      return Bad("source file").Expected("a file").Found(file.name);
    const Status header =
        file.container->CheckHeader({file.name, file.header, file.unchanged, file.source_file != kNone});
    if (!header.ok()) return Bad(header.error().what).Expected(header.error().expected).Found(header.error().found);
    uint64_t next = file.HasHeaderOfSource() ? catalogue_.files[file.source_file].data_begin : file.header.size();
    for (uint32_t i : file.outputs) {
      if (!IsIn(i, f)) return Bad("outputs of " + file.name).Expected("its own").Found("another's");
      const OutputArray& output = plan_.outputs[i];
      const FrameSize frame = file.container->FrameOf(output.dtype, output.shape);
      if (output.begin != next + frame.head)
        return Bad("begin of an output").Tensor(output.name).Expected(next + frame.head).Found(output.begin);
      next = output.end + frame.tail;
      if (file.unchanged && !LiesThere(output, file.source_file)) {
        return Bad("output of a linked file")
            .Tensor(output.name)
            .Expected("the same bytes at the same place")
            .Found("another");
      }
    }
    if (next != file.bytes) return Bad("length of " + file.name).Expected(next).Found(file.bytes);
    return {};
  }

  bool IsIn(uint32_t output, uint32_t file) const {
    return output < plan_.outputs.size() && plan_.outputs[output].file == file;
  }

  bool LiesThere(const OutputArray& output, uint32_t source_file) const {
    if (!output.unchanged) return false;
    const StoredArray& array = ArrayOf(output.pieces[0].source);
    return array.file == source_file && array.begin == output.begin;
  }

  Status CheckFates() const {
    std::vector<bool> read(catalogue_.arrays.size(), false);
    for (const SourceArray& source : plan_.sources) read[source.array] = true;
    if (plan_.fates.size() != read.size()) {
      return Bad("fates").Expected(read.size()).Found(plan_.fates.size());
    }
    for (uint32_t i = 0; i < read.size(); ++i) {
      const SourceFate& fate = plan_.fates[i];
      const bool used = fate.fate == Fate::kUsed;
      if (fate.array != i || used != read[i] || used != fate.reason.empty()) {
        return Bad("fate")
            .Tensor(catalogue_.arrays[i].name)
            .Expected("used, or dropped with a reason")
            .Found("neither");
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
        return Bad("outputs").Tensor(b.name).Expected("by file and begin").Found("another order");
    }
    for (const PlanFile& file : plan_.files) in_files += file.outputs.size();
    if (in_files != plan_.outputs.size()) return Bad("outputs").Expected("each in one file").Found(in_files);
    if (bytes != plan_.payload_bytes) return Bad("payload").Expected(bytes).Found(plan_.payload_bytes);
    uint64_t straddling = 0;
    for (const FuseGroup& group : plan_.groups) straddling += group.straddling_blocks;
    if (straddling != plan_.straddling_blocks) {
      return Bad("straddling blocks").Expected(straddling).Found(plan_.straddling_blocks);
    }
    return {};
  }

  const Catalogue& catalogue_;
  const Plan& plan_;
  const plan_check::Subject subject_;
};

}  // namespace

Status ValidatePlan(const Catalogue& catalogue, const Plan& plan) {
  return Validator(catalogue, plan).Check();
}

}  // namespace mimo
