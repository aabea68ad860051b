#include "lib/draft/builder.h"

#include "lib/base/checked.h"
#include "lib/io/dtype.h"
#include "lib/plan/reads.h"

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

uint32_t PlanBuilder::Source(uint32_t array) {
  uint32_t& index = source_of_[array];
  if (index == kNone) {
    index = static_cast<uint32_t>(plan_.sources.size());
    SourceArray source;
    source.array = array;
    plan_.sources.push_back(std::move(source));
  }
  return index;
}

uint32_t PlanBuilder::DecodedSource(const Weight& weight) {
  const uint32_t index = Source(weight.array);
  const std::optional<Codec> codec = CodecOf(weight.storage);
  if (!codec) {
    plan_.sources[index].codec = ValueCodecOf(catalogue_.arrays[weight.array].dtype).value();
    return index;
  }
  const uint32_t scale = Source(weight.scale);
  const uint32_t global = weight.global == kNone ? kNone : Source(weight.global);
  SourceArray& source = plan_.sources[index];
  source.quantized = true;
  source.codec = *codec;
  source.scale = scale;
  source.global = global;
  source.global_divides = weight.global_divides;
  source.block_rows = weight.block_rows;
  source.block_cols = weight.block_cols;
  return index;
}

uint32_t PlanBuilder::GridSource(const Weight& weight) {
  const uint32_t index = Source(weight.array);
  plan_.sources[index].block_rows = weight.block_rows;
  plan_.sources[index].block_cols = weight.block_cols;
  return index;
}

void PlanBuilder::BeginGroup(std::string label) {
  FuseGroup group;
  group.label = std::move(label);
  plan_.groups.push_back(std::move(group));
}

uint32_t PlanBuilder::AddOutput(OutputArray output, uint32_t near, std::string file) {
  const auto index = static_cast<uint32_t>(plan_.outputs.size());
  output.group = static_cast<uint32_t>(plan_.groups.size() - 1);
  output.end = output.begin + ArrayBytes(output.dtype, output.shape);
  plan_.groups.back().outputs.push_back(index);
  plan_.outputs.push_back(std::move(output));
  near_.push_back(near);
  file_.push_back(std::move(file));
  return index;
}

uint32_t PlanBuilder::AddUnchanged(uint32_t array) {
  const StoredArray& stored = catalogue_.arrays[array];
  OutputArray output = OutputLike(stored);
  output.unchanged = true;
  output.pieces.push_back({Source(array), 0, 0, stored.rows()});
  return AddOutput(std::move(output), array);
}

void PlanBuilder::AddKept(const Weight& weight) {
  AddUnchanged(weight.array);
  for (const uint32_t array : {weight.scale, weight.global, weight.input})
    if (array != kNone) AddUnchanged(array);
}

void PlanBuilder::AddRenamed(const Weight& weight, const WeightArrays& arrays) {
  const auto add = [&](uint32_t array, Part part, bool invert, bool scalar) {
    const StoredArray& stored = catalogue_.arrays[array];
    OutputArray output = OutputLike(stored);
    output.name = NameOfPart(stored.name, part);
    output.id.part = part;
    if (scalar) output.shape = arrays.global_divides ? std::vector<int64_t>{1} : std::vector<int64_t>{};
    output.transform = invert ? Transform::kInvert : Transform::kMove;
    output.unchanged = !invert && output.name == stored.name && output.shape == stored.shape;
    output.pieces.push_back({Source(array), 0, 0, stored.rows()});
    AddOutput(std::move(output), array);
  };
  const bool invert = weight.global_divides != arrays.global_divides;
  add(weight.array, arrays.codes, false, false);
  add(weight.scale, arrays.scales, false, false);
  if (weight.global != kNone) add(weight.global, *arrays.global, invert, true);
  if (weight.input != kNone) add(weight.input, *arrays.input, invert, true);
}

void PlanBuilder::AddEncoded(const EncodedRequest& request, uint32_t near) {
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

PlannedOutputs PlanBuilder::TakeOutputs() {
  PlannedOutputs taken{std::move(plan_.outputs), std::move(plan_.groups), std::move(near_)};
  plan_.outputs.clear();
  plan_.groups.clear();
  near_.clear();
  file_.clear();
  return taken;
}

void PlanBuilder::RemoveOutputs(const std::vector<uint8_t>& gone,
                                const std::function<void(uint32_t, uint32_t)>& dropped) {
  std::vector<OutputArray> outputs;
  std::vector<uint32_t> near, new_output(plan_.outputs.size(), kNone);
  std::vector<std::string> files;
  std::vector<FuseGroup> groups;
  std::vector<uint32_t> new_group(plan_.groups.size(), kNone);
  std::vector<uint32_t> reader(plan_.sources.size(), kNone);  // a group that read it, kept groups first
  std::vector<uint8_t> needed(plan_.sources.size(), 0);
  const auto visit = [&](uint32_t source, uint32_t group, bool kept) {
    reader[source] = group;
    needed[source] |= kept;
  };
  for (uint32_t i = 0; i < plan_.outputs.size(); ++i) {
    const OutputArray& output = plan_.outputs[i];
    const auto reads = [&](uint32_t source) { visit(source, output.group, gone[i] == 0); };
    for (const Piece& piece : output.pieces) VisitPiece(plan_, output, piece, reads);
  }
  for (uint32_t g = 0; g < plan_.groups.size(); ++g) {
    FuseGroup& group = plan_.groups[g];
    std::vector<uint32_t> kept;
    for (uint32_t i : group.outputs) {
      if (gone[i] != 0) continue;
      new_output[i] = static_cast<uint32_t>(outputs.size());
      plan_.outputs[i].group = static_cast<uint32_t>(groups.size());
      outputs.push_back(std::move(plan_.outputs[i]));
      near.push_back(near_[i]);
      files.push_back(std::move(file_[i]));
      kept.push_back(new_output[i]);
    }
    for (const CellRow& cell : group.cells) VisitCell(cell, [&](uint32_t source) { visit(source, g, !kept.empty()); });
    for (const EncodedWeight& e : group.encoded)
      if (e.keep != kNone) visit(e.keep, g, gone[e.codes] == 0);
    if (kept.empty()) {
      plan_.straddling_blocks -= group.straddling_blocks;
      continue;
    }
    group.outputs = std::move(kept);
    for (CellRow& cell : group.cells) {
      cell.scale_output = new_output[cell.scale_output];
      for (CellSegment& s : cell.segments) s.output = new_output[s.output];
    }
    std::erase_if(group.encoded, [&](const EncodedWeight& e) { return gone[e.codes] != 0; });
    for (EncodedWeight& e : group.encoded)
      for (uint32_t* output : {&e.codes, &e.scales, &e.global, &e.input})
        if (*output != kNone) *output = new_output[*output];
    groups.push_back(std::move(group));
  }
  plan_.outputs = std::move(outputs);
  plan_.groups = std::move(groups);
  near_ = std::move(near);
  file_ = std::move(files);
  std::erase_if(plan_.equal, [&](const EqualRows& e) { return needed[e.first] == 0 || needed[e.second] == 0; });
  // Sources keep their order.
  std::vector<uint32_t> new_source(plan_.sources.size(), kNone);
  std::vector<SourceArray> sources;
  for (uint32_t s = 0; s < plan_.sources.size(); ++s) {
    if (needed[s] == 0) {
      dropped(plan_.sources[s].array, reader[s] == kNone ? 0 : reader[s]);
      source_of_[plan_.sources[s].array] = kNone;
      continue;
    }
    new_source[s] = static_cast<uint32_t>(sources.size());
    source_of_[plan_.sources[s].array] = new_source[s];
    sources.push_back(std::move(plan_.sources[s]));
  }
  for (SourceArray& source : sources) {
    if (source.scale != kNone) source.scale = new_source[source.scale];
    if (source.global != kNone) source.global = new_source[source.global];
    for (SourceBand& band : source.bands) band.scale = new_source[band.scale];
  }
  for (EqualRows& e : plan_.equal) {
    e.first = new_source[e.first];
    e.second = new_source[e.second];
  }
  for (OutputArray& output : plan_.outputs)
    for (Piece& piece : output.pieces)
      if (piece.source != kNone) piece.source = new_source[piece.source];
  for (FuseGroup& group : plan_.groups) {
    for (CellRow& cell : group.cells) {
      if (cell.keep != kNone) cell.keep = new_source[cell.keep];
      for (CellSegment& s : cell.segments)
        for (uint32_t* source : {&s.source, &s.scale})
          if (*source != kNone) *source = new_source[*source];
    }
    for (EncodedWeight& e : group.encoded)
      if (e.keep != kNone) e.keep = new_source[e.keep];
  }
  plan_.sources = std::move(sources);
}

}  // namespace mimo
