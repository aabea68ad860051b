// What a checkpoint is, for people and for JSON (schemas/inspect.schema.json): everything mimo-inspect shows, computed
// from headers, config and the layout verdict. A checkpoint that was refused is described as far as it goes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "lib/inspect/engines.h"
#include "lib/judge/finding.h"
#include "lib/layout/decide.h"
#include "lib/model/inventory.h"

namespace mimo {

struct DTypeTotal {
  DType dtype = DType::kU8;
  uint64_t tensors = 0;
  uint64_t bytes = 0;
};

struct RoleTotal {  // scales are counted with their weights
  Role role = Role::kUnknown;
  bool mtp = false;
  std::string storage;  // "fp8", "mxfp4", "bf16" ...; several joined by "+"
  std::string scales;   // of FP8, where they are not those of the releases (F32, of blocks): "bf16 per row"; joined too
  uint64_t weights = 0;
  uint64_t bytes = 0;
};

struct AttentionKind {
  std::string name;              // "full" or "window"
  AttentionShape stored;         // KV heads as config.json says
  int64_t logical_kv_heads = 0;  // before replication
  bool sinks = false;
  std::vector<int> layers;  // decoder layers
};

struct LayerRow {
  int layer = 0;
  bool mtp = false;
  std::string attention;  // "full" or "window"
  std::string mlp;        // "dense" or "moe"
  std::string qkv_storage, mlp_storage;
  int64_t qkv_rows = 0;        // of qkv, or of q, k and v together
  int64_t qkv_scale_rows = 0;  // of their scales; 0 without
  int64_t experts = 0;
  uint64_t tensors = 0;
  uint64_t bytes = 0;
};

struct NamedBytes {
  std::string name;
  uint64_t files = 0;  // of a subdirectory; tensors, of a tensor file
  uint64_t bytes = 0;
};

struct Description {
  FormKind form = FormKind::kHf;  // of others the rest says what they hold as a Hugging Face checkpoint
  int64_t ranks = 0;              // kShardedState
  std::string family;             // "MiMo-V2.5"; "mimo-v2" when no known one fits
  std::vector<std::string> family_evidence;
  std::string model_type;
  std::vector<std::string> architectures;
  int64_t layers = 0;
  int mtp_layers = 0;
  int64_t hidden = 0, vocab = 0, experts = 0;
  uint64_t tensor_count = 0;
  uint64_t payload_bytes = 0;     // of all tensors: text, MTP and towers
  uint64_t file_bytes = 0;        // of the tensor files, headers included
  std::vector<NamedBytes> files;  // tensor files
  std::string qkv_layout;         // "fused", "split", or "none"
  std::optional<LayoutVerdict> verdict;
  std::vector<LayoutCandidate> candidates;      // feasible layouts, best first
  std::vector<AttentionKind> attention;         // full, then window; those that occur
  std::vector<std::string> attention_by_layer;  // per decoder layer: "full" or "window"
  std::string mtp_attention;                    // the same of MTP layers
  std::string quant_method, store_dtype;
  int64_t block_rows = 0, block_cols = 0;
  std::vector<DTypeTotal> dtypes;          // by dtype name
  std::vector<RoleTotal> roles;            // decoder and globals, then MTP; in role order
  std::vector<LayerRow> layer_rows;        // decoder layers, then MTP layers
  std::vector<NamedBytes> subdirectories;  // carried, by name
  std::vector<CarriedFile> carried;        // at the top level
  IndexInfo index;                         // without its text
  Verdict findings;                        // left to the caller: lib/judge/judge.h
  std::vector<EngineReport> engines;       // empty while the layout is unknown
};

// `inventory` and `verdict` may be null where the checkpoint was refused. kBadInput only for a malformed embedded
// table.
Result<Description> Describe(const Catalogue& catalogue, const Inventory* inventory, const LayoutVerdict* verdict,
                             const std::vector<int64_t>& tps);

// "sharded-state of 8 ranks", "nxdi", "hf" ...
std::string FormText(const Description& description);

// The release, by "releases" of its family's description; evidence is what its conditions saw.
Result<std::string> IdentifyFamily(const Catalogue& catalogue, std::vector<std::string>* evidence);

}  // namespace mimo
