// What the executor relies on, checked for plans that come from outside: every index, row and byte range.
#include <algorithm>
#include <cmath>
#include <set>
#include <tuple>

#include "lib/base/checked.h"
#include "lib/io/safetensors/safetensors.h"
#include "lib/io/torch/item.h"
#include "lib/model/file_names.h"
#include "lib/plan/plan_json.h"
#include "lib/plan/validate_parts.h"

namespace mimo {
namespace plan_check {

Error Bad(std::string what, std::string expected, std::string found, std::string tensor) {
  Error error;
  error.code = ErrorCode::kBadInput;
  error.what = "inconsistent plan: " + std::move(what);
  error.tensor = std::move(tensor);
  error.expected = std::move(expected);
  error.found = std::move(found);
  return error;
}
Error Bad(std::string what, int64_t expected, int64_t found, std::string tensor) {
  return Bad(std::move(what), std::to_string(expected), std::to_string(found), std::move(tensor));
}

}  // namespace plan_check

namespace {

using plan_check::Bad;

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

class Validator {
 public:
  Validator(const Catalogue& catalogue, const Plan& plan)
      : catalogue_(catalogue), plan_(plan), subject_{catalogue, plan} {}

  Status Run() {
    MIMO_RETURN_IF_ERROR(CheckNames());
    for (size_t i = 0; i < plan_.sources.size(); ++i) {
      if (plan_.sources[i].array >= catalogue_.arrays.size())
        return Bad("source " + std::to_string(i), "an array", "none");
    }
    for (const PlanSource& source : plan_.sources) MIMO_RETURN_IF_ERROR(CheckSource(subject_, source));
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
    std::set<std::string> names;
    const auto add = [&](const std::string& name) {
      return StaysBelow(name) && name.rfind(kPartialDirectory, 0) != 0 && name != kManifestName &&
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
    std::set<std::pair<uint32_t, std::string_view>> tensors;  // ranks have the same names in files of their own
    for (const OutputArray& output : plan_.outputs) {
      if (!tensors.insert({output.file, output.name}).second)
        return Bad("output name", "each once in a file", "twice", output.name);
    }
    return {};
  }

  Status CheckOutput(const OutputArray& output) const {
    const std::string& name = output.name;
    if (output.file >= plan_.files.size()) return Bad("file of an output", "a file", "none", name);
    if (output.group >= plan_.groups.size()) return Bad("group of an output", "a group", "none", name);
    const std::optional<uint64_t> bytes = TensorBytes(output.dtype, output.shape);
    if (!bytes || output.end < output.begin || output.end - output.begin != *bytes) {
      return Bad("byte range of an output", "that of its shape", "another", name);
    }
    MIMO_RETURN_IF_ERROR(CheckElements(output));
    switch (output.transform) {
      case Transform::kRelayout:
      case Transform::kScales: {
        const DType dtype = output.transform == Transform::kRelayout ? DType::kF8E4M3 : DType::kF32;
        if (!output.pieces.empty() || output.dtype != dtype || output.shape.size() < 2 || output.unchanged)
          return Bad("re-laid output", "a matrix without pieces", "another", name);
        return {};
      }
      case Transform::kBeside:
      case Transform::kConstant:
        if (!output.pieces.empty() || output.unchanged)
          return Bad("output that is not made of pieces", "no pieces", "pieces", name);
        return {};
      default:
        MIMO_RETURN_IF_ERROR(CheckPieces(subject_, output));
        return CheckUnchanged(output);
    }
  }

  // What happens to single elements: adjustment, padding, constants.
  Status CheckElements(const OutputArray& output) const {
    const Transform transform = output.transform;
    const bool scales = output.adjust == Adjust::kScale;
    if (output.adjust == Adjust::kAsIs || scales) {
      const bool values =
          transform == Transform::kConvert || (transform == Transform::kMove && output.dtype == DType::kF32);
      if (scales && !values) return Bad("factor", "values that are moved or converted", "another output", output.name);
    } else if ((transform != Transform::kMove && transform != Transform::kTranspose) ||
               output.dtype != DType::kF8E4M3) {
      return Bad("adjusted codes", "F8_E4M3 codes that are moved or transposed", "another output", output.name);
    }
    if (scales ? !std::isfinite(output.factor) || output.factor == 0 : output.factor != 1)
      return Bad("factor", scales ? "a finite one" : "1", std::to_string(output.factor), output.name);
    const bool pads =
        transform == Transform::kMove || transform == Transform::kConvert || transform == Transform::kTranspose;
    if (!output.pad.empty() && (!pads || 8 * output.pad.size() != BitsPerElement(output.dtype)))
      return Bad("padding", "one element", std::to_string(output.pad.size()) + " bytes", output.name);
    const uint64_t constant = transform == Transform::kConstant ? output.end - output.begin : 0;
    if (output.constant.size() != constant)
      return Bad("bytes of a constant", std::to_string(constant), std::to_string(output.constant.size()), output.name);
    return {};
  }

  Status CheckUnchanged(const OutputArray& output) const {
    if (!output.unchanged) return {};
    if (output.transform != Transform::kMove || output.adjust != Adjust::kAsIs || output.pieces.size() != 1 ||
        output.pieces[0].source == kNone)
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
      MIMO_RETURN_IF_ERROR(CheckCells(subject_, static_cast<uint32_t>(g)));
      MIMO_RETURN_IF_ERROR(CheckEncoded(subject_, static_cast<uint32_t>(g)));
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
    if (file.container == Container::kTorchItems) return CheckItems(file);
    const bool own = !file.HasHeaderOfSource();
    if ((file.unchanged && own) || (!own && file.source_file == kNone)) {
      return Bad("file " + file.name, "a header, or a source file that has it", "both or none");
    }
    uint64_t prefix = 0;
    for (size_t i = 0; i < 8 && i < file.header.size(); ++i) {
      prefix |= static_cast<uint64_t>(static_cast<unsigned char>(file.header[i])) << (8 * i);
    }
    if (own && (file.header.size() < 8 || prefix != file.header.size() - 8)) {
      return Bad("header of " + file.name, "its own length first", std::to_string(prefix));
    }
    uint64_t next = !own ? catalogue_.files[file.source_file].data_begin : file.header.size();
    for (uint32_t i : file.outputs) {
      if (!IsIn(i, f)) return Bad("outputs of " + file.name, "its own", "another's");
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

  bool IsIn(uint32_t output, uint32_t file) const {
    return output < plan_.outputs.size() && plan_.outputs[output].file == file;
  }

  // Items follow each other; of each, the data is an output.
  Status CheckItems(const PlanFile& file) const {
    if (file.unchanged || !file.header.empty()) return Bad("file " + file.name, "items without a header", "others");
    uint64_t next = 0;
    for (uint32_t i : file.outputs) {
      if (!IsIn(i, static_cast<uint32_t>(&file - plan_.files.data())))
        return Bad("outputs of " + file.name, "its own", "another's");
      const OutputArray& output = plan_.outputs[i];
      const TorchItemSize size = SizeOfTorchItem(output.dtype, output.shape);
      if (output.begin != next + size.head)
        return Bad("begin of an output", static_cast<int64_t>(next + size.head), static_cast<int64_t>(output.begin),
                   output.name);
      next += size.total();
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
  const plan_check::Subject subject_;
};

}  // namespace

Status ValidatePlan(const Catalogue& catalogue, const Plan& plan) {
  return Validator(catalogue, plan).Run();
}

}  // namespace mimo
