#include "tests/unit/layout/rank_contents.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <string>

#include "lib/io/dtype.h"

namespace mimo {
namespace {

constexpr int64_t kLargestDegree = 4096;  // how far the search for a topology that would do goes

// "use PP 4, the nearest that does": the number nearest to `wanted` that fits, the smaller of two.
std::string UseNearest(const std::string& name, int64_t wanted, const std::function<bool(int64_t)>& fits) {
  for (int64_t distance = 0; distance < kLargestDegree; ++distance)
    for (const int64_t degree : {wanted - distance, wanted + distance})
      if (degree >= 1 && degree <= kLargestDegree && fits(degree))
        return "use " + name + " " + std::to_string(degree) + ", the nearest that does";
  return "choose another " + name;
}

// Trainers cut what engines cut and eh_proj, and do not replicate KV heads.
std::string TrainerTrouble(const ModelConfig& config, int64_t tp) {
  for (const AttentionShape& shape : {config.global, config.window})
    if (shape.kv_heads % tp != 0)
      return std::to_string(shape.kv_heads) + " KV heads do not divide by TP " + std::to_string(tp);
  if (config.hidden % tp != 0)
    return std::to_string(config.hidden) + " rows of eh_proj do not divide by TP " + std::to_string(tp);
  return "";
}

// Decoder layers (or items that count as one) of each stage.
struct StageSizes {
  std::vector<int64_t> items;
  std::string trouble;  // "" when they can be shared out
};

StageSizes ShareLayers(int64_t layers, int64_t stages, const StageOptions& o) {
  StageSizes sizes;
  const int64_t counted = layers + (o.embedding_counts ? 1 : 0) + (o.loss_counts ? 1 : 0);
  const bool first = o.first_stage_layers > 0, last = o.last_stage_layers > 0;
  if (first && last && stages == 1) {
    sizes.trouble = "one stage cannot be both the first and the last of given sizes";
    return sizes;
  }
  const int64_t rest = counted - o.first_stage_layers - o.last_stage_layers;
  const int64_t sharing = stages - (first ? 1 : 0) - (last ? 1 : 0);
  if (rest < 0 || (sharing == 0 ? rest != 0 : rest % sharing != 0)) {
    sizes.trouble = std::to_string(rest) + " layers cannot be shared equally by " + std::to_string(sharing) + " stages";
    return sizes;
  }
  sizes.items.assign(static_cast<size_t>(stages), sharing == 0 ? 0 : rest / sharing);
  if (first) sizes.items.front() = o.first_stage_layers;
  if (last) sizes.items.back() = o.last_stage_layers;
  for (const int64_t items : sizes.items) {
    if (items % o.virtual_chunks == 0) continue;
    sizes.trouble = std::to_string(items) + " layers of a stage do not divide into " +
                    std::to_string(o.virtual_chunks) + " virtual chunks";
  }
  const int64_t per_chunk_first = sizes.items.front() / o.virtual_chunks;
  const int64_t per_chunk_last = sizes.items.back() / o.virtual_chunks;
  if ((o.embedding_counts && per_chunk_first == 0) || (o.loss_counts && per_chunk_last == 0))
    sizes.trouble = "a stage is too small to count the embedding or the loss";
  return sizes;
}

// The decoder layers of a stage: one flag per layer.
Result<std::vector<bool>> LayersOfStage(int64_t layers, int64_t stages, int64_t stage, const StageOptions& options) {
  std::vector<bool> here(static_cast<size_t>(layers), false);
  for (int64_t chunk = 0; chunk < options.virtual_chunks; ++chunk) {
    MIMO_ASSIGN_OR_RETURN(const Range range, StageLayers(layers, stages, stage, options, chunk));
    std::fill(here.begin() + range.begin, here.begin() + range.end, true);
  }
  return here;
}

// Heads of the logical tensor `role` on rank r of tp.
Range HeadsOf(Role role, const AttentionShape& shape, int64_t tp, int64_t rank) {
  return role == Role::kAttnQ ? EvenPart(shape.heads, tp, rank) : KvHeadsOf(shape.kv_heads, tp, rank);
}

Range Times(const Range& range, int64_t unit) {
  return {range.begin * unit, range.end * unit};
}

TensorSlice SliceOf(const ExpectedTensor& tensor, const ModelConfig& config, const Topology& topology,
                    const RankPlace& place, const PartitionOptions& options) {
  TensorSlice slice;
  slice.id = tensor.id;
  slice.rows = {0, MatrixRows(tensor.shape)};
  slice.cols = {0, tensor.shape.empty() ? 1 : tensor.shape.back()};
  switch (CutOf(tensor.id.role, options.trainer)) {
    case Cut::kScalars:  // of what stands beside tensors
    case Cut::kReplicated:
      break;
    case Cut::kRows:
      slice.rows = EvenPart(slice.rows.end, topology.tp, place.tp);
      break;
    case Cut::kColumns:
    case Cut::kSinks:
    case Cut::kQHeads:
      slice.cols = EvenPart(slice.cols.end, topology.tp, place.tp);
      break;
    case Cut::kHeads: {
      const AttentionShape& shape = config.attention_of(tensor.id.layer, tensor.id.mtp);
      const int64_t head_rows = tensor.id.role == Role::kAttnV ? shape.v_head_dim : shape.head_dim;
      slice.rows = Times(HeadsOf(tensor.id.role, shape, topology.tp, place.tp), head_rows);
      break;
    }
    case Cut::kKvHeads: {
      const AttentionShape& shape = config.attention_of(tensor.id.layer, tensor.id.mtp);
      slice.cols = Times(KvHeadsOf(shape.kv_heads, topology.tp, place.tp), shape.head_dim);
      break;
    }
    case Cut::kVocab:
      slice.rows =
          EvenPart(RoundUp(slice.rows.end, std::lcm(std::max<int64_t>(options.vocab_multiple, 1), topology.tp)),
                   topology.tp, place.tp);
      break;
    case Cut::kExpertRows:
      slice.rows = EvenPart(slice.rows.end, topology.etp, place.etp);
      break;
    case Cut::kExpertColumns:
      slice.cols = EvenPart(slice.cols.end, topology.etp, place.etp);
      break;
  }
  return slice;
}

}  // namespace

Range LinearPart(int64_t n, int64_t parts, int64_t i) {
  const int64_t base = n / parts, longer = n % parts;
  const int64_t begin = i * base + std::min(i, longer);
  return {begin, begin + base + (i < longer ? 1 : 0)};
}

Range KvHeadsOf(int64_t kv_heads, int64_t tp, int64_t rank) {
  if (tp <= kv_heads) return EvenPart(kv_heads, tp, rank);
  const int64_t head = rank * kv_heads / tp;
  return {head, head + 1};
}

std::vector<int64_t> ExpertsOf(int64_t experts, int64_t redundant, int64_t ep, int64_t rank) {
  const Range slots = LinearPart(experts + redundant, ep, rank);
  std::vector<int64_t> held;
  held.reserve(static_cast<size_t>(slots.size()));
  for (int64_t slot = slots.begin; slot < slots.end; ++slot) held.push_back(slot % experts);
  return held;
}

RankPlace PlaceOf(const Topology& t, int64_t global_rank) {
  const int64_t g = global_rank % t.stage_ranks();
  RankPlace place;
  place.tp = g % t.tp;
  place.cp = g / t.tp % t.cp;
  place.dp = g / (t.tp * t.cp);
  place.etp = g % t.etp;
  place.ep = g / t.etp % t.ep;
  place.edp = g / (t.etp * t.ep);
  place.pp = global_rank / t.stage_ranks();
  return place;
}

// The entries of the pipeline are (chunk, stage), chunk the slower: an entry's layers follow those of the one before.
Result<Range> StageLayers(int64_t layers, int64_t stages, int64_t stage, const StageOptions& options, int64_t chunk) {
  const std::string wish = std::to_string(layers) + " layers over " + std::to_string(stages) + " pipeline stages";
  if (stages < 1 || options.virtual_chunks < 1 || options.first_stage_layers < 0 || options.last_stage_layers < 0 ||
      stage < 0 || stage >= stages || chunk < 0 || chunk >= options.virtual_chunks) {
    return UsageError("no such pipeline stage")
        .Expected("a stage and a chunk of " + wish)
        .Found("stage " + std::to_string(stage) + ", chunk " + std::to_string(chunk))
        .Advice("number stages and chunks from 0");
  }
  if ((options.first_stage_layers > 0 || options.last_stage_layers > 0) &&
      (options.embedding_counts || options.loss_counts)) {
    return UsageError("a pipeline's first and last stage are described twice")
        .Expected("layer counts for them, or the embedding and loss counted as layers")
        .Found("both")
        .Advice("give one of the two");
  }
  const StageSizes sizes = ShareLayers(layers, stages, options);
  if (!sizes.trouble.empty()) {
    return UsageError("the pipeline stages do not divide the layers: " + sizes.trouble)
        .Expected(wish + " shared out exactly")
        .Found(wish)
        .Advice(UseNearest("PP", stages, [&](int64_t n) {
          return n <= layers + 2 && ShareLayers(layers, n, options).trouble.empty();
        }));
  }
  const auto entry_layers = [&](int64_t v, int64_t p) {
    const bool first = v == 0 && p == 0, last = v == options.virtual_chunks - 1 && p == stages - 1;
    return sizes.items[static_cast<size_t>(p)] / options.virtual_chunks - (options.embedding_counts && first ? 1 : 0) -
           (options.loss_counts && last ? 1 : 0);
  };
  Range range;
  for (int64_t entry = 0; entry < chunk * stages + stage; ++entry)
    range.begin += entry_layers(entry / stages, entry % stages);
  range.end = range.begin + entry_layers(chunk, stage);
  return range;
}

Status CheckTopology(const ModelConfig& config, const Topology& t, const PartitionOptions& options) {
  if (std::min({t.tp, t.cp, t.dp, t.ep, t.etp, t.pp}) < 1 || t.redundant_experts < 0)
    return UsageError("no such topology").Expected("every degree at least 1").Found("TP " + std::to_string(t.tp));
  MIMO_RETURN_IF_ERROR(CheckTensorParallel(config, t.tp, t.etp));
  if (const std::string trouble = TrainerTrouble(config, t.tp); options.trainer && !trouble.empty())
    return UsageError("a trainer cannot cut the model over TP " + std::to_string(t.tp))
        .Found(trouble)
        .Advice(UseNearest("TP", t.tp, [&](int64_t tp) {
          return TrainerTrouble(config, tp).empty() && CheckTensorParallel(config, tp, t.etp).ok();
        }));
  const int64_t slots = config.experts + t.redundant_experts;
  const bool moe = std::find(config.moe.begin(), config.moe.end(), 1) != config.moe.end();
  if (moe && (config.experts < 1 || slots % t.ep != 0))
    return UsageError("the experts cannot be dealt out over EP " + std::to_string(t.ep))
        .Found(std::to_string(config.experts) + " experts and " + std::to_string(t.redundant_experts) + " redundant")
        .Advice(UseNearest("EP", t.ep, [&](int64_t ep) { return config.experts > 0 && slots % ep == 0; }));
  if (t.stage_ranks() % (t.etp * t.ep) != 0)
    return UsageError("the expert ranks do not divide the ranks of a pipeline stage")
        .Found("TP * CP * DP = " + std::to_string(t.stage_ranks()) + ", ETP * EP = " + std::to_string(t.etp * t.ep))
        .Advice(UseNearest("DP", t.dp, [&](int64_t dp) { return t.tp * t.cp * dp % (t.etp * t.ep) == 0; }));
  // All stages fit, or none does.
  if (Result<Range> first = StageLayers(config.layers, t.pp, 0, options.stages); !first.ok()) return first.TakeError();
  return {};
}

Result<std::vector<TensorSlice>> RankContents(const ModelTable& table, const ModelConfig& config, int mtp_layers,
                                              const Topology& topology, const RankPlace& place,
                                              const PartitionOptions& options) {
  MIMO_RETURN_IF_ERROR(CheckTopology(config, topology, options));
  if (place.tp < 0 || place.tp >= topology.tp || place.ep < 0 || place.ep >= topology.ep || place.etp < 0 ||
      place.etp >= topology.etp || place.pp < 0 || place.pp >= topology.pp) {
    return UsageError("no such rank")
        .Expected("a place inside the topology")
        .Found("tp " + std::to_string(place.tp) + ", ep " + std::to_string(place.ep) + ", etp " +
               std::to_string(place.etp) + ", pp " + std::to_string(place.pp))
        .Advice("number ranks from 0");
  }
  MIMO_ASSIGN_OR_RETURN(const std::vector<bool> layers,
                        LayersOfStage(config.layers, topology.pp, place.pp, options.stages));
  MIMO_ASSIGN_OR_RETURN(const std::vector<ExpectedTensor> expected,
                        ExpectedTensors(table, config, /*fused=*/false, mtp_layers, /*every_expert=*/false));
  const std::vector<int64_t> experts =
      config.experts > 0 ? ExpertsOf(config.experts, topology.redundant_experts, topology.ep, place.ep)
                         : std::vector<int64_t>();
  const bool first_stage = place.pp == 0, last_stage = place.pp == topology.pp - 1;
  // MTP layers and a tied output layer need the embedding where they are.
  const bool embedding = first_stage || (last_stage && (mtp_layers > 0 || config.tied_embeddings));
  std::vector<TensorSlice> contents;
  for (const ExpectedTensor& tensor : expected) {
    const TensorId& id = tensor.id;
    if (id.layer >= 0 && !(id.mtp ? last_stage : layers[static_cast<size_t>(id.layer)])) continue;
    if (id.layer < 0 && !(id.role == Role::kEmbed ? embedding : last_stage)) continue;
    TensorSlice slice = SliceOf(tensor, config, topology, place, options);
    if (id.expert < 0) {
      contents.push_back(slice);
      continue;
    }
    for (const int64_t expert : experts) {
      slice.id.expert = static_cast<int32_t>(expert);
      contents.push_back(slice);
    }
  }
  return contents;
}

}  // namespace mimo
