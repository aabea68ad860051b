// Tensor names <-> roles, from the descriptions in schemas/models/ (lib/model/family.h). A table is data: a model whose
// layouts are known is a new one.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "lib/base/status.h"
#include "lib/model/config.h"

namespace mimo {

// Where patterns of tensor names have the number of the layer.
inline constexpr std::string_view kLayerSlot = "{layer}";
// The same of MTP layers whose numbers go on where those of decoder layers end.
inline constexpr std::string_view kLayerBehindSlot = "{decoder+layer}";
// `pattern` with {layer} filled in.
std::string NameInLayer(const std::string& pattern, int32_t layer);

enum class Role : uint8_t {
  kEmbed,
  kLmHead,
  kFinalNorm,
  kInputNorm,
  kPostAttentionNorm,
  kAttnQ,
  kAttnK,
  kAttnV,
  kAttnQkv,
  kAttnO,
  kAttnQBias,  // vectors by heads
  kAttnKBias,
  kAttnVBias,
  kAttnQNorm,  // of all heads, or of one: its shape says
  kAttnKNorm,
  kAttnSink,
  kMlpGate,
  kMlpUp,
  kMlpDown,
  kRouter,
  kRouterBias,
  kExpertGate,
  kExpertUp,
  kExpertDown,
  kSharedGate,  // of the experts that every token takes
  kSharedUp,
  kSharedDown,
  kMtpENorm,
  kMtpHNorm,
  kMtpEhProj,
  kMtpPreMlpNorm,
  kMtpFinalNorm,
  kMtpEmbed,  // an embedding and an output layer of its own
  kMtpHead,
  kCacheK,  // scales of the KV cache: of keys, values, queries, and of keys and values alike
  kCacheV,
  kCacheQ,
  kCacheKv,
  kVision,
  kAudio,
  kSpeech,
  kUnknown,
};
std::string_view RoleName(Role role);  // "attn.q", "expert.gate", "mtp.eh_proj", "tower.vision" ...
std::optional<Role> RoleFromName(std::string_view name);

// Which part of a stored weight an array is: by its name, which takes the place of "weight" at the end. What the part
// means depends on the dtypes beside it (inventory.h).
enum class Part : uint8_t {
  kWeight,
  kScaleInv,     // weight_scale_inv: block FP8 multipliers (F32), or E8M0 bytes of some vendors' MXFP8
  kScale,        // weight_scale: E8M0 or E4M3 bytes per group of a row, or F32 multipliers of blocks
  kScale2,       // weight_scale_2: NVFP4 global multiplier (ModelOpt)
  kInputScale,   // input_scale: of activations (ModelOpt)
  kPacked,       // weight_packed: FP4 codes (compressed-tensors)
  kGlobalScale,  // weight_global_scale: NVFP4 global divisor (compressed-tensors)
  kInputGlobal,  // input_global_scale: of activations (compressed-tensors)
  kRowScale,     // scale: F32 per row or per block (Neuron)
};
inline constexpr size_t kPartCount = 9;
std::string_view PartSuffix(Part part);  // "weight", "weight_scale_inv" ...
// Whether arrays of this part hold the elements of a weight, as values or codes: kWeight and kPacked.
constexpr bool HoldsElements(Part part) {
  return part == Part::kWeight || part == Part::kPacked;
}
// The array beside `name` (of any part) that is another part of the same weight: its last component replaced.
std::string NameOfPart(std::string_view name, Part part);

// An array of one rank is "rankR/NAME" to us (lib/model/catalogue.h) and NAME in its file.
std::string_view HeaderName(std::string_view name);

// What a tensor is. layer and expert are -1 where they do not apply; mtp layers count from 0.
struct TensorId {
  Role role = Role::kUnknown;
  Part part = Part::kWeight;
  bool mtp = false;
  int32_t layer = -1;
  int32_t expert = -1;
  bool operator==(const TensorId&) const = default;
};

// One row of a model table.
struct TensorRule {
  Role role = Role::kUnknown;
  bool mtp = false;
  std::string pattern;             // "model.layers.{layer}.mlp.experts.{expert}.up_proj.weight"
  std::vector<std::string> shape;  // symbols of Dimension(), or integers, "2*hidden" allowed
  // In which layers or layouts it exists, all of them: words of IsStructural, or flags of the family.
  std::vector<std::string> when;
  // "bf16", "f32" (whatever else is cast), "router", "linear" (block FP8 when quantized), "expert" (also MXFP4)
  std::string storage;
  std::string fuse;  // engines run tensors of one layer and expert with equal `fuse` as one: they share global scales
  bool unlisted = false;  // releases have it unquantized and do not list it among what they ignore
  bool quantized() const { return storage == "linear" || storage == "expert"; }  // by releases that quantize
  bool pinned() const { return storage == "f32" || storage == "router"; }        // casts of the rest leave it alone
};
// "dense", "moe", "shared", "sinks", "fused", "split", "untied": conditions that need no flag.
bool IsStructural(std::string_view condition);

// Beside which module a scale of the KV cache is stored, which its name says: k_proj.k_scale, qkv_proj.k_scale, or
// self_attn.k_scale and self_attn.attn.k_scale (vLLM, maybe_remap_kv_scale_name, reads all of them).
enum class CachePlacement : uint8_t { kSplit, kFused, kAttention };

// One name of a scale of the KV cache.
struct CacheScaleName {
  Role role = Role::kUnknown;
  bool mtp = false;
  CachePlacement placement = CachePlacement::kAttention;
  std::string pattern;  // "model.layers.{layer}.self_attn.k_proj.k_scale"
};

class ModelTable {
 public:
  // The table of a family, e.g. "mimo_v2"; parsed once, lives forever. kBadInput when there is none of that name.
  static Result<const ModelTable*> Get(const std::string& name);
  // This table for a model of so many decoder layers: names of MTP layers may depend on it. Lives forever.
  const ModelTable* Of(int64_t decoder_layers) const;

  const std::vector<TensorRule>& rules() const { return data_->rules; }
  // kUnknown role when no rule matches. Parts other than kWeight exist for patterns that end in ".weight" only.
  TensorId Identify(std::string_view tensor_name) const;
  // The name of a decoder, MTP or global tensor (not of towers, which keep theirs). `id.part` decides the last
  // component of names that end in ".weight"; "" for such a part of another name.
  std::string NameOf(const TensorId& id) const;
  // TensorRule::fuse of the rule of `id`; "" when it has none.
  std::string_view FuseOf(const TensorId& id) const;
  // What the name of a scale of the KV cache says; null for every other name.
  const CacheScaleName* CacheScaleOf(std::string_view tensor_name) const;
  // The name of the scale `id` (of a cache role) at a placement; "" where it has none there.
  std::string CacheScaleAt(const TensorId& id, CachePlacement placement) const;
  // The rule of `id`, whatever its part; null for towers and unknown tensors.
  const TensorRule* RuleOf(const TensorId& id) const;

 private:
  friend Result<ModelTable> ParseModelTable(std::string_view json);
  // What tables of one family share.
  struct Data {
    std::vector<TensorRule> rules;
    std::unordered_map<std::string, size_t> by_shape;         // name with numbers replaced by '#' -> rule
    std::unordered_map<std::string, size_t> behind_by_shape;  // the same, of kLayerBehindSlot
    std::vector<std::pair<std::string, Role>> towers;         // prefix -> role
    std::vector<CacheScaleName> cache_scales;
    std::unordered_map<std::string, size_t> cache_by_shape;  // the same, into cache_scales
  };
  std::shared_ptr<const Data> data_ = std::make_shared<const Data>();
  int64_t decoder_layers_ = 0;  // 0: no name depends on it, or nobody said
};
Result<ModelTable> ParseModelTable(std::string_view json);

// Value of a shape symbol for one layer: hidden, vocab, intermediate, moe_intermediate, experts, heads, q_rows, k_rows,
// v_rows, qkv_rows, o_cols (heads * v_head_dim), head_dim, shared_intermediate, or an integer, each optionally as
// "2*SYMBOL". Stored KV heads as config.json says; k_norm_rows is k_rows before fused attention repeated KV heads for
// ranks, which norms do not follow.
Result<int64_t> Dimension(std::string_view symbol, const ModelConfig& config, int layer, bool mtp);

// A tensor that a complete checkpoint of this config holds, scales not included.
struct ExpectedTensor {
  TensorId id;
  const TensorRule* rule = nullptr;
  std::string name;
  std::vector<int64_t> shape;  // logical elements [rows, cols] or [n]
};
struct ExpectedParts {
  bool fused = false;
  int mtp_layers = 0;
  bool every_expert = true;  // false: expert 0 stands for all of its layer
};
// Hands every tensor but those of towers to `take`, in table order by layer, and stops at its first error. A config may
// describe more tensors than fit in memory: who looks for each in a checkpoint stops at the first that is missing.
Status ForEachExpected(const ModelTable& table, const ModelConfig& config, const ExpectedParts& parts,
                       const std::function<Status(ExpectedTensor&&)>& take);
// The same as a list, for what is known to be of a reasonable size.
Result<std::vector<ExpectedTensor>> ExpectedTensors(const ModelTable& table, const ModelConfig& config, bool fused,
                                                    int mtp_layers, bool every_expert = true);

}  // namespace mimo
