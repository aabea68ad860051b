#include "lib/plan/builder.h"

#include "lib/io/dtype.h"

namespace mimo {

DType DTypeOf(Codec codec) {
  switch (codec) {
    case Codec::kFp32:
      return DType::kF32;
    case Codec::kFp16:
      return DType::kF16;
    case Codec::kBf16:
      return DType::kBF16;
    case Codec::kFp8Block:
      return DType::kF8E4M3;
    case Codec::kMxfp4:
      return DType::kU8;
  }
  return DType::kU8;
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
    PlanSource source;
    source.array = array;
    plan_.sources.push_back(std::move(source));
  }
  return index;
}

uint32_t PlanBuilder::DecodedSource(const Weight& weight) {
  const uint32_t index = Source(weight.array);
  const uint32_t scale = weight.storage == Storage::kPlain ? kNone : Source(weight.scale);
  PlanSource& source = plan_.sources[index];
  source.quantized = weight.storage != Storage::kPlain;
  source.scale = scale;
  switch (weight.storage) {
    case Storage::kFp8Block:
      source.codec = Codec::kFp8Block;
      break;
    case Storage::kMxfp4:
      source.codec = Codec::kMxfp4;
      break;
    case Storage::kPlain: {
      const DType dtype = catalogue_.arrays[weight.array].dtype;
      source.codec = dtype == DType::kF32 ? Codec::kFp32 : dtype == DType::kF16 ? Codec::kFp16 : Codec::kBf16;
      break;
    }
  }
  return index;
}

void PlanBuilder::BeginGroup(std::string label) {
  FuseGroup group;
  group.label = std::move(label);
  plan_.groups.push_back(std::move(group));
}

uint32_t PlanBuilder::AddOutput(OutputArray output, uint32_t near) {
  const auto index = static_cast<uint32_t>(plan_.outputs.size());
  output.group = static_cast<uint32_t>(plan_.groups.size() - 1);
  output.end = output.begin + ArrayBytes(output.dtype, output.shape);
  plan_.groups.back().outputs.push_back(index);
  plan_.outputs.push_back(std::move(output));
  near_.push_back(near);
  return index;
}

uint32_t PlanBuilder::AddUnchanged(uint32_t array) {
  const StoredArray& stored = catalogue_.arrays[array];
  OutputArray output;
  output.name = stored.name;
  output.id = stored.id;
  output.dtype = stored.dtype;
  output.shape = stored.shape;
  output.unchanged = true;
  output.pieces.push_back({Source(array), 0, 0, stored.rows()});
  return AddOutput(std::move(output), array);
}

void PlanBuilder::RemoveOutputs(const std::vector<uint8_t>& gone,
                                const std::function<void(uint32_t, uint32_t)>& dropped) {
  std::vector<OutputArray> outputs;
  std::vector<uint32_t> near, new_output(plan_.outputs.size(), kNone);
  std::vector<FuseGroup> groups;
  std::vector<uint32_t> new_group(plan_.groups.size(), kNone);
  std::vector<uint32_t> reader(plan_.sources.size(), kNone);  // a group that read it, kept groups first
  std::vector<uint8_t> needed(plan_.sources.size(), 0);
  const auto visit = [&](uint32_t source, uint32_t group, bool kept) {
    if (source == kNone) return;
    reader[source] = group;
    needed[source] |= kept;
  };
  for (uint32_t i = 0; i < plan_.outputs.size(); ++i) {
    for (const Piece& piece : plan_.outputs[i].pieces) {
      const PlanSource& source = plan_.sources[piece.source];
      visit(piece.source, plan_.outputs[i].group, gone[i] == 0);
      visit(source.scale, plan_.outputs[i].group, gone[i] == 0);
      for (const SourceBand& band : source.bands) visit(band.scale, plan_.outputs[i].group, gone[i] == 0);
    }
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
      kept.push_back(new_output[i]);
    }
    for (const CellRow& cell : group.cells)
      for (const CellSegment& s : cell.segments) {
        visit(s.source, g, !kept.empty());
        visit(s.scale, g, !kept.empty());
      }
    if (kept.empty()) {
      plan_.straddling_blocks -= group.straddling_blocks;
      continue;
    }
    group.outputs = std::move(kept);
    for (CellRow& cell : group.cells) {
      cell.scale_output = new_output[cell.scale_output];
      for (CellSegment& s : cell.segments) s.output = new_output[s.output];
    }
    groups.push_back(std::move(group));
  }
  plan_.outputs = std::move(outputs);
  plan_.groups = std::move(groups);
  near_ = std::move(near);
  // Sources keep their order.
  std::vector<uint32_t> new_source(plan_.sources.size(), kNone);
  std::vector<PlanSource> sources;
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
  for (PlanSource& source : sources) {
    if (source.scale != kNone) source.scale = new_source[source.scale];
    for (SourceBand& band : source.bands) band.scale = new_source[band.scale];
  }
  for (OutputArray& output : plan_.outputs)
    for (Piece& piece : output.pieces) piece.source = new_source[piece.source];
  for (FuseGroup& group : plan_.groups)
    for (CellRow& cell : group.cells)
      for (CellSegment& s : cell.segments) {
        s.source = new_source[s.source];
        s.scale = new_source[s.scale];
      }
  plan_.sources = std::move(sources);
}

}  // namespace mimo
