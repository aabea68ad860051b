// A family of models as schemas/models/*.json describes it: how its config.json is read and written, which layers are
// of which kind, what its tensors are called and how its MTP layers are numbered. A family is data: nothing else in the
// library knows one by its name (docs/adding-a-model.md).
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lib/base/status.h"
#include "lib/base/words.h"
#include "lib/model/mtp_names.h"
#include "lib/model/names.h"

namespace mimo {

// What config.json says of a model, by our name for it; each family has keys of its own.
enum class Field : uint8_t {
  kHidden,
  kLayers,
  kVocab,
  kIntermediate,     // of dense layers
  kMoeIntermediate,  // of one expert
  kExperts,
  kSharedExperts,
  kExpertsPerToken,
  kHeads,
  kKvHeads,
  kHeadDim,
  kVHeadDim,
  kSwaHeads,
  kSwaKvHeads,
  kSwaHeadDim,
  kSwaVHeadDim,
  kGlobalSinks,
  kWindowSinks,
  kTiedEmbeddings,
  kProjectionLayout,
  kRouterDType,
  kValueScale,
  kMtpLayers,
};
inline constexpr size_t kFieldCount = 23;
inline constexpr Words<Field, kFieldCount> kFields{{{Field::kHidden, "hidden"},
                                                    {Field::kLayers, "layers"},
                                                    {Field::kVocab, "vocab"},
                                                    {Field::kIntermediate, "intermediate"},
                                                    {Field::kMoeIntermediate, "moe_intermediate"},
                                                    {Field::kExperts, "experts"},
                                                    {Field::kSharedExperts, "shared_experts"},
                                                    {Field::kExpertsPerToken, "experts_per_token"},
                                                    {Field::kHeads, "heads"},
                                                    {Field::kKvHeads, "kv_heads"},
                                                    {Field::kHeadDim, "head_dim"},
                                                    {Field::kVHeadDim, "v_head_dim"},
                                                    {Field::kSwaHeads, "swa_heads"},
                                                    {Field::kSwaKvHeads, "swa_kv_heads"},
                                                    {Field::kSwaHeadDim, "swa_head_dim"},
                                                    {Field::kSwaVHeadDim, "swa_v_head_dim"},
                                                    {Field::kGlobalSinks, "global_sinks"},
                                                    {Field::kWindowSinks, "window_sinks"},
                                                    {Field::kTiedEmbeddings, "tied_embeddings"},
                                                    {Field::kProjectionLayout, "projection_layout"},
                                                    {Field::kRouterDType, "router_dtype"},
                                                    {Field::kValueScale, "value_scale"},
                                                    {Field::kMtpLayers, "mtp_layers"}}};
static_assert(NamesEach(kFields));

// Where config.json has a field. Several keys mean the same, as writers differ: the first that is there is read.
struct ConfigKey {
  std::vector<std::string> keys;    // never empty
  std::optional<int64_t> fallback;  // where none is there; without it the field is required, or has a default of ours
};

// A switch of config.json that a family's tensors depend on (TensorRule::when).
struct ConfigFlag {
  std::string key;
  bool fallback = false;  // where the key is not there
};

// Which decoder layers are of a kind, and where config.json says so.
struct LayerPattern {
  enum class Kind : uint8_t {
    kNoLayer,  // no layer
    kAll,      // every layer
    kFlags,    // `key`: a list of 0 and 1, one per layer, or N: every Nth layer but the first
    kBehind,   // `key`: how many layers at the front are not
    kEvery,    // `key`: N, of which the last of each N layers is; not those that the list `except` names
    kWord,     // `key`: a list of words, one per layer; those that say `word` are
  };
  Kind kind = Kind::kNoLayer;
  std::string key;
  std::string except;
  std::string word;
};

// What Neuron's preprocessed directories call otherwise than the releases do (reference target-layouts.md 7.1).
struct NeuronNaming {
  std::string architecture;                                  // the class that NxDI has
  std::vector<std::pair<std::string, std::string>> renamed;  // ends of names: Hugging Face, Neuron
  std::string stacks;                                        // below a layer: "mlp.expert_mlps.mlp_op"
  // What is to be said of every such directory, or where attention is "values" or has scales by "rows".
  struct Note {
    std::string when, text;
  };
  std::vector<Note> notes;
  std::string fuses;  // what makes NxDI fuse Q, K and V of such a directory while it loads; "" nothing does
};

struct Family {
  std::string name;                        // "mimo_v2": of its file, and in other tables
  std::string title;                       // for people: "MiMo-V2"
  std::string proven;                      // what was shown to be right for it, and what was not: a sentence
  std::string generic;                     // what a checkpoint of no known release is called: "mimo-v2"
  std::vector<std::string> model_types;    // of config.json; a '*' at the end stands for anything
  std::vector<std::string> architectures;  // the same
  // Keys that no other family's config.json has: where all are there, it is of this family, whatever it calls itself.
  std::vector<std::string> known_by;
  std::map<std::string, ConfigFlag> flags;
  LayerPattern windowed, moe;
  // Types besides that of config.json that releases store unquantized weights in: no sign of damage.
  std::vector<DType> plain;
  bool fused_attention = false;  // its releases or engines have fused Q, K and V
  ModelTable table;
  MtpNaming mtp;
  std::optional<NeuronNaming> neuron;           // nullopt: Neuron has no form for the family
  std::map<std::string, std::string> sections;  // the description's other members as JSON, for those who know them

  // Null: the family's config.json has no such thing.
  const ConfigKey* KeyOf(Field field) const {
    const auto& key = keys_[static_cast<size_t>(field)];
    return key ? &*key : nullptr;
  }
  // The key that is written; "" where there is none.
  std::string NameOf(Field field) const { return KeyOf(field) == nullptr ? "" : KeyOf(field)->keys.front(); }
  // The text of a section; "" where the description has none.
  std::string_view SectionText(const std::string& section) const;

  // Every family, in the order of their names; the descriptions are parsed once and live forever. kBadInput for a
  // description that is none, which a test finds before anybody else does.
  static Result<const std::vector<const Family*>*> All();
  // kBadInput when there is none of this name.
  static Result<const Family*> Get(const std::string& name);
  // The family of a config.json that says this; null for none. Model types say more than architectures, and these more
  // than keys; `has`: whether a key is there.
  static Result<const Family*> Of(const std::string& model_type, const std::vector<std::string>& architectures,
                                  const std::function<bool(const std::string&)>& has);
  // Whether a config.json that says this calls itself one of the family.
  bool IsCalled(const std::string& model_type, const std::vector<std::string>& architectures) const;

  std::array<std::optional<ConfigKey>, kFieldCount> keys_;
};
// Of the text of a description.
Result<Family> ParseFamily(std::string_view json);

// What is known, for people: "MiMo-V2 and MiniMax-M2"; with model types "MiMo-V2 (mimo_v2, ...), MiniMax-M2 (...)".
std::string KnownFamilies(bool with_types);

}  // namespace mimo
