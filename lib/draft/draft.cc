#include "lib/draft/draft.h"

#include <algorithm>

#include "lib/base/checked.h"
#include "lib/io/dtype.h"

namespace mimo {

OutputArray OutputLike(const StoredArray& stored) {
  OutputArray output;
  output.name = stored.name;
  output.id = stored.id;
  output.dtype = stored.dtype;
  output.shape = stored.shape;
  return output;
}

OutputArray OutputLike(const OutputArray& other) {
  OutputArray output;
  output.id = other.id;
  output.dtype = other.dtype;
  output.transform = other.transform;
  output.target_codec = other.target_codec;
  output.adjust = other.adjust;
  output.factor = other.factor;
  output.pad = other.pad;
  return output;
}

uint64_t ArrayBytes(DType dtype, const std::vector<int64_t>& shape) {
  uint64_t elements = 1;
  for (int64_t n : shape) elements *= static_cast<uint64_t>(n);
  return elements * BitsPerElement(dtype) / 8;
}

void DraftGroup::Erase(const std::vector<uint8_t>& gone) {
  std::erase_if(encoded, [&](const EncodedWeight& e) { return gone[e.codes] != 0; });
  std::vector<uint32_t> moved(outputs.size(), kNone);
  uint32_t kept = 0;
  for (uint32_t i = 0; i < outputs.size(); ++i) {
    if (gone[i] != 0) continue;
    moved[i] = kept;
    if (i != kept) outputs[kept] = std::move(outputs[i]);
    ++kept;
  }
  outputs.resize(kept);
  VisitOutputNumbers(cells, encoded, [&](uint32_t& output) { output = moved[output]; });
}

uint32_t Draft::Source(uint32_t array) {
  uint32_t& index = source_of_[array];
  if (index == kNone) {
    index = static_cast<uint32_t>(sources.size());
    SourceArray source;
    source.array = array;
    sources.push_back(std::move(source));
  }
  return index;
}

uint32_t Draft::DecodedSource(const Weight& weight) {
  const uint32_t index = Source(weight.array);
  const std::optional<Codec> codec = CodecOf(weight.storage);
  if (!codec) {
    sources[index].codec = ValueCodecOf(catalogue_->arrays[weight.array].dtype).value();
    return index;
  }
  const uint32_t scale = Source(weight.scale);
  const uint32_t global = weight.global == kNone ? kNone : Source(weight.global);
  SourceArray& source = sources[index];
  source.quantized = true;
  source.codec = *codec;
  source.scale = scale;
  source.global = global;
  source.global_divides = weight.global_divides;
  SetGrid(weight, &source);
  return index;
}

uint32_t Draft::GridSource(const Weight& weight) {
  const uint32_t index = Source(weight.array);
  SetGrid(weight, &sources[index]);
  return index;
}

void Draft::SetGrid(const Weight& weight, SourceArray* source) const {
  source->block_rows = weight.block_rows;
  source->block_cols = weight.block_cols;
  if (!HasBlockGrid(weight.storage)) return;
  const StoredArray& scale = catalogue_->arrays[weight.scale];
  source->scale_type = scale.dtype;
  source->scales_in_a_row = weight.per_row() && scale.shape.size() == 1;
}

void Draft::BeginGroup(std::string label) {
  groups.emplace_back(&memory_->outputs).label = std::move(label);
}

uint32_t Draft::AddOutput(OutputArray output, uint32_t near, std::string file) {
  output.end = output.begin + ArrayBytes(output.dtype, output.shape);
  group().outputs.push_back({std::move(output), near, std::move(file)});
  return static_cast<uint32_t>(group().outputs.size() - 1);
}

void Draft::AddUnchanged(uint32_t array) {
  const StoredArray& stored = catalogue_->arrays[array];
  OutputArray output = OutputLike(stored);
  output.unchanged = !catalogue_->files[stored.file].renamed;
  output.pieces.push_back({Source(array), 0, 0, stored.rows()});
  AddOutput(std::move(output), array);
}

void Draft::AddKept(const Weight& weight) {
  AddUnchanged(weight.array);
  for (const uint32_t array : {weight.scale, weight.global, weight.input})
    if (array != kNone) AddUnchanged(array);
}

void Draft::AddRenamed(const Weight& weight, const WeightArrays& arrays) {
  const auto add = [&](uint32_t array, Part part, bool invert, bool scalar) {
    const StoredArray& stored = catalogue_->arrays[array];
    OutputArray output = OutputLike(stored);
    output.name = NameOfPart(stored.name, part);
    output.id.part = part;
    if (HoldsElements(part) && HasBlockGrid(weight.storage)) output.dtype = arrays.code_dtype;  // of codes under U8
    if (scalar) output.shape = arrays.global_divides ? std::vector<int64_t>{1} : std::vector<int64_t>{};
    output.transform = invert ? Transform::kInvert : Transform::kMove;
    output.unchanged = !invert && output.name == stored.name && output.shape == stored.shape &&
                       output.dtype == stored.dtype && !catalogue_->files[stored.file].renamed;
    output.pieces.push_back({Source(array), 0, 0, stored.rows()});
    AddOutput(std::move(output), array);
  };
  const bool invert = weight.global_divides != arrays.global_divides;
  add(weight.array, arrays.codes, false, false);
  add(weight.scale, arrays.scales, false, false);
  if (weight.global != kNone) add(weight.global, *arrays.global, invert, true);
  if (weight.input == kNone) return;
  if (HasBlockGrid(weight.storage)) return AddUnchanged(weight.input);  // of all dialects
  add(weight.input, *arrays.input, invert, true);
}

void Draft::AddInputScale(const Weight& weight, const WeightArrays& arrays, float value) {
  const StoredArray& stored = catalogue_->arrays[weight.array];
  const float multiplier = arrays.input_divides ? 1.0f / value : value;
  OutputArray output;
  output.name = NameOfPart(stored.name, *arrays.input);
  output.id = weight.id;
  output.id.part = *arrays.input;
  output.dtype = DType::kF32;
  if (arrays.global_divides) output.shape = {1};
  output.transform = Transform::kConstant;
  output.constant.assign(reinterpret_cast<const char*>(&multiplier), sizeof multiplier);
  AddOutput(std::move(output), weight.array);
}

void Draft::AddEncoded(const EncodedRequest& request, uint32_t near) {
  const kernels::Encoding& e = request.encoding;
  const bool packed = IsPacked(e.codec);
  const bool cells = HasBlockScales(e.codec);
  const auto add = [&](Part part, Transform transform, DType dtype, std::vector<int64_t> shape) {
    OutputArray output;
    output.name = NameOfPart(request.name, part);
    output.id = request.id;
    output.id.part = part;
    output.dtype = dtype;
    output.shape = std::move(shape);
    output.transform = transform;
    output.target_codec = e.codec;
    if (transform == Transform::kEncode) output.pieces = request.pieces;
    return AddOutput(std::move(output), near);
  };
  EncodedWeight weight;
  weight.encoding = e;
  weight.period = request.period;
  weight.keep = request.keep;
  const int64_t columns = kernels::GroupColumns(e);
  weight.codes = add(request.arrays.codes, Transform::kEncode, request.arrays.code_dtype,
                     {request.rows, packed ? request.cols / 2 : request.cols});
  weight.scales = add(request.arrays.scales, Transform::kBeside, request.arrays.scale_dtype,
                      {cells ? BlockRowsOf(request.rows, weight) : request.rows, CeilDiv(request.cols, columns)});
  const std::vector<int64_t> scalar = request.arrays.global_divides ? std::vector<int64_t>{1} : std::vector<int64_t>{};
  if (request.arrays.global) {
    weight.global = add(*request.arrays.global, Transform::kBeside, DType::kF32, scalar);
    weight.global_divides = request.arrays.global_divides;
  }
  if (request.input_scale && request.arrays.input) {
    weight.input = add(*request.arrays.input, Transform::kBeside, DType::kF32, scalar);
    weight.input_value = request.arrays.input_divides ? 1.0f / *request.input_scale : *request.input_scale;
  }
  group().encoded.push_back(weight);
}

void Draft::DropOutputs() {
  for (DraftGroup& planned : groups)
    std::pmr::vector<DraftOutput>(planned.outputs.get_allocator()).swap(planned.outputs);
  memory_->outputs.release();
  memory_->pages.release();
}

void Draft::Drop(const Weight& weight, const std::string& reason) {
  for (const uint32_t array : {weight.array, weight.scale, weight.global, weight.input})
    if (array != kNone) SetReason(array, reason);
}

}  // namespace mimo
