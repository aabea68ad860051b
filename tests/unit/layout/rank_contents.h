// What one rank of an engine or a trainer holds, under any mix of TP, CP, DP, EP, ETP and PP: the reference that the
// shares, checks and paddings of lib/layout/partition.h, the tensors of a model and the tables of forms are held
// against. Reference target-layouts.md 1.3, 1.5, 1.6, 4.1, 10.
#pragma once

#include <cstdint>
#include <vector>

#include "lib/layout/partition.h"
#include "lib/model/names.h"
#include "lib/model/role_groups.h"

namespace mimo {

// Part i where the first n % parts parts hold one more (vLLM's linear expert placement).
Range LinearPart(int64_t n, int64_t parts, int64_t i);

// KV heads of rank r of tp: G/tp of them, or one copy of head floor(r*G/tp) where tp exceeds G.
Range KvHeadsOf(int64_t kv_heads, int64_t tp, int64_t rank);

// Logical experts in the physical slots of one expert-parallel rank, in slot order. With R redundant experts there are
// E + R slots, dealt out linearly; slot s >= E holds expert (s - E) mod E until a balancer moves it.
std::vector<int64_t> ExpertsOf(int64_t experts, int64_t redundant, int64_t ep, int64_t rank);

struct Topology {
  int64_t tp = 1;
  int64_t cp = 1;
  int64_t dp = 1;
  int64_t ep = 1;
  int64_t etp = 1;  // tensor parallelism inside an expert
  int64_t pp = 1;
  int64_t redundant_experts = 0;
  int64_t stage_ranks() const { return tp * cp * dp; }  // = etp * ep * edp
};

// Where one rank stands; Megatron's default order (tp-cp-ep-dp-pp, etp-ep-edp-pp).
struct RankPlace {
  int64_t tp = 0, cp = 0, dp = 0;
  int64_t etp = 0, ep = 0, edp = 0;
  int64_t pp = 0;
  bool operator==(const RankPlace&) const = default;
};
RankPlace PlaceOf(const Topology& topology, int64_t global_rank);

// How pipeline stages share the decoder layers.
struct StageOptions {
  int64_t first_stage_layers = 0;  // 0: like the others
  int64_t last_stage_layers = 0;
  bool embedding_counts = false;  // as one layer of the first stage
  bool loss_counts = false;       // as one layer of the last stage
  int64_t virtual_chunks = 1;     // per stage
};
// Layers of chunk `chunk` of stage `stage`, ascending. kUsage when the layers cannot be shared out so: says why and the
// nearest number of stages that can.
Result<Range> StageLayers(int64_t layers, int64_t stages, int64_t stage, const StageOptions& options = {},
                          int64_t chunk = 0);

// vLLM and SGLang replicate what trainers cut besides (MTP's eh_proj).
inline Cut CutOf(Role role, bool trainer) {
  if (role == Role::kEmbed || role == Role::kLmHead) return Cut::kVocab;
  if (IsAttentionProjection(role)) return Cut::kHeads;
  if (role == Role::kAttnSink) return Cut::kSinks;
  if (role == Role::kAttnO || role == Role::kMlpDown) return Cut::kColumns;
  if (IsDenseMlp(role)) return Cut::kRows;
  if (role == Role::kExpertDown) return Cut::kExpertColumns;
  if (IsExpert(role)) return Cut::kExpertRows;
  return trainer && role == Role::kMtpEhProj ? Cut::kRows : Cut::kReplicated;
}

// A rectangle of a logical tensor on one rank; a tensor of rank 1 is one row. Padding lies beyond the tensor's own rows
// and columns.
struct TensorSlice {
  TensorId id;
  Range rows;
  Range cols;
};

struct PartitionOptions {
  bool trainer = false;        // Megatron: eh_proj is cut, KV heads are never replicated
  int64_t vocab_multiple = 1;  // the vocabulary is padded to a multiple of this and of tp
  StageOptions stages = {};
};

// Everything that one rank holds, in model order (decoder layers, then MTP; Q, K and V as tensors of their own). Scales
// are not tensors. `config` has its logical KV heads. kUsage when a dimension does not divide: names it, the reason and
// the nearest topology that would do.
Result<std::vector<TensorSlice>> RankContents(const ModelTable& table, const ModelConfig& config, int mtp_layers,
                                              const Topology& topology, const RankPlace& place,
                                              const PartitionOptions& options = {});
// The checks of RankContents alone.
Status CheckTopology(const ModelConfig& config, const Topology& topology, const PartitionOptions& options = {});

}  // namespace mimo
