// How a model is dealt out to the ranks of an engine or a trainer: one algebra for tensor, expert, expert-tensor and
// pipeline parallelism. Pure geometry of logical tensors: no files, no names of any engine. Reference
// target-layouts.md 1.3, 1.5, 1.6, 4.1, 10.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lib/base/status.h"
#include "lib/model/config.h"
#include "lib/model/names.h"

namespace mimo {

// [begin, end)
struct Range {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
  bool operator==(const Range&) const = default;
};

// Part i of n cut into equal parts; requires parts to divide n.
Range EvenPart(int64_t n, int64_t parts, int64_t i);
// Part i where the first n % parts parts hold one more (vLLM's linear expert placement).
Range LinearPart(int64_t n, int64_t parts, int64_t i);
// n rounded up to a multiple.
int64_t RoundUp(int64_t n, int64_t multiple);

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

// How a logical tensor is cut.
enum class Cut : uint8_t {
  kReplicated,
  kRows,           // column-parallel linear: gate, up, eh_proj under Megatron; rows [r*n/t, (r+1)*n/t)
  kColumns,        // row-parallel linear: o_proj, down
  kHeads,          // Q, K, V by head, KV heads replicated where t exceeds them
  kSinks,          // one element per Q head
  kVocab,          // rows of embedding and output layer, padded to a multiple first
  kExpertRows,     // whole experts over ep, rows of gate and up over etp
  kExpertColumns,  // whole experts over ep, columns of down over etp
};
// "replicated", "rows", "columns", "heads", "sinks", "vocab", "expert_rows" or "expert_columns", as form tables say it.
std::optional<Cut> CutFromName(std::string_view name);
// vLLM and SGLang replicate what trainers cut besides (MTP's eh_proj).
Cut CutOf(Role role, bool trainer);

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

// Dimensions with zeros at their tails, so that tp divides them (section 10): where the heads cannot be cut as they
// are, KV heads to a multiple of tp and Q heads in proportion, the Q heads of both kinds of attention alike if they
// were (TP 3 of Flash: 96 Q heads, 6 and 12 KV heads); dense and expert intermediates to a multiple of tp * group (128
// for block FP8, else 32). Other fields of `config` stay as they are; the vocabulary is padded by engines themselves.
ModelConfig PaddedConfig(const ModelConfig& config, int64_t tp, int64_t dense_group, int64_t expert_group);

}  // namespace mimo
