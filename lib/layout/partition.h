// How a model is dealt out to ranks by tensor, expert and expert-tensor parallelism. Pure geometry of logical tensors:
// no files, no names of any engine. Reference target-layouts.md 1.3, 1.5, 4.1, 10.
#pragma once

#include <cstdint>

#include "lib/base/status.h"
#include "lib/base/words.h"
#include "lib/model/config.h"

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
// n rounded up to a multiple.
int64_t RoundUp(int64_t n, int64_t multiple);

// How a logical tensor is cut, and how form tables say it.
enum class Cut : uint8_t {
  kReplicated,
  kRows,           // column-parallel linear: gate, up, eh_proj under Megatron; rows [r*n/t, (r+1)*n/t)
  kColumns,        // row-parallel linear: o_proj, down
  kHeads,          // Q, K, V by head, KV heads replicated where t exceeds them
  kSinks,          // one element per Q head
  kQHeads,         // a vector over all Q heads, head_dim elements of each
  kKvHeads,        // the same over all KV heads, repeated with them where t exceeds them
  kVocab,          // rows of embedding and output layer, padded to a multiple first
  kExpertRows,     // whole experts over ep, rows of gate and up over etp
  kExpertColumns,  // whole experts over ep, columns of down over etp
  kScalars,        // one element for each matrix that is fused into one, on every rank; those of experts with them
};
inline constexpr Words<Cut, 11> kCuts{{{Cut::kReplicated, "replicated"},
                                       {Cut::kRows, "rows"},
                                       {Cut::kColumns, "columns"},
                                       {Cut::kHeads, "heads"},
                                       {Cut::kSinks, "sinks"},
                                       {Cut::kQHeads, "q_heads"},
                                       {Cut::kKvHeads, "kv_heads"},
                                       {Cut::kVocab, "vocab"},
                                       {Cut::kExpertRows, "expert_rows"},
                                       {Cut::kExpertColumns, "expert_columns"},
                                       {Cut::kScalars, "scalars"}}};
static_assert(NamesEach(kCuts));

// Whether tp ranks can share heads (KV heads replicated where ranks outnumber them) and dense layers, and etp ranks an
// expert; both at least 1. kUsage when a dimension does not divide: names it and the nearest number that would do.
Status CheckTensorParallel(const ModelConfig& config, int64_t tp, int64_t etp);

// Dimensions with zeros at their tails, so that tp divides them (section 10): where the heads cannot be cut as they
// are, KV heads to a multiple of tp and Q heads in proportion, the Q heads of both kinds of attention alike if they
// were (TP 3 of Flash: 96 Q heads, 6 and 12 KV heads); dense and expert intermediates to a multiple of tp * group (128
// for block FP8, else 32). Other fields of `config` stay as they are; the vocabulary is padded by engines themselves.
ModelConfig PaddedConfig(const ModelConfig& config, int64_t tp, int64_t dense_group, int64_t expert_group);

}  // namespace mimo
