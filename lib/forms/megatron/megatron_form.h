// Megatron-Core's names and layouts of the model (schemas/forms/megatron.json; reference target-layouts.md
// 1, 2.2, 2.4): which tensor holds what of the Hugging Face model, where in it, and every way in which the formats
// spell its name.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "lib/base/status.h"
#include "lib/layout/partition.h"
#include "lib/model/config.h"
#include "lib/model/family.h"
#include "lib/model/names.h"

namespace mimo {

struct MegatronTensor {
  std::string pattern;   // the key of torch_dist: "decoder.layers.{layer}.self_attention.linear_qkv.weight"
  std::vector<Role> of;  // what it holds
  Cut cut = Cut::kReplicated;
  std::string when;  // "", "moe" or "dense": in which layers
  bool mtp = false;
  bool f32 = false;  // stored as F32 whatever the rest is
  bool experts() const { return cut == Cut::kExpertRows || cut == Cut::kExpertColumns; }
};

// A module that asks for its extra state when it is loaded.
struct MegatronModule {
  std::string pattern;
  std::string when;  // "", "moe", "dense" or "sinks"
  bool mtp = false;
  bool experts = false;  // one object per expert
  // Only in families whose tensors of this role are norms of one head.
  std::optional<Role> of;
};

// A name of a stored tensor, in any of the formats.
struct MegatronName {
  size_t tensor = 0;            // into MegatronForm::tensors()
  int32_t layer = -1;           // -1: of no layer, or of all (stacked_layers)
  bool stacked_layers = false;  // homogeneous models: a leading axis of layers
  int32_t expert = -1;          // -1: of none, or of all, along an axis after that of layers; a number may be local
  char half = 0;                // 'w': gate alone, 'v': up alone; 0: both, gate first
  int32_t part = -1;  // of the model under virtual pipeline stages, where the key says so ("model1."); -1: none
};

// Rows [row, row + rows) of a Hugging Face weight, and where they lie in the (unstacked) Megatron tensor.
struct MegatronRun {
  int64_t row = 0;
  int64_t megatron_row = 0;
  int64_t rows = 0;
};

class MegatronForm {
 public:
  // The embedded table, without the rows of what the family has not: roles, MTP layers, kinds of layers. Parsed once
  // for each family; lives forever.
  static Result<const MegatronForm*> Get(const Family& family);

  const std::vector<MegatronTensor>& tensors() const { return tensors_; }
  const std::vector<MegatronModule>& modules() const { return modules_; }
  // The tensor that holds a weight of the model. nullopt for towers and unknown tensors.
  std::optional<size_t> Find(const TensorId& id, const ModelConfig& model) const;
  // nullopt for what is no tensor of the model.
  std::optional<MegatronName> Identify(std::string_view key) const;

 private:
  friend Result<MegatronForm> ParseMegatronForm(std::string_view json);
  MegatronForm Of(const Family& family) const;
  void Index();

  std::vector<MegatronTensor> tensors_;
  std::vector<MegatronModule> modules_;
  std::unordered_map<std::string, size_t> by_pattern_;
};
// Of the text of a table, whole.
Result<MegatronForm> ParseMegatronForm(std::string_view json);

// "model1" -> 1: how trainers call the parts of a model under virtual pipeline stages. -1: it is none.
int32_t VirtualPart(std::string_view component);

// Keys that no model has: extra states, optimizer, schedulers and generators of random numbers.
bool IsTrainingState(std::string_view key);

// Where the rows of a weight of `rows` rows lie: linear_qkv is fused(G) with the heads of `shape`, linear_fc1 is gate
// before up. The only place that knows.
std::vector<MegatronRun> RunsOf(Role role, const AttentionShape& shape, int64_t rows);
// Rows of the whole (unstacked) tensor whose first member has `rows` rows.
int64_t MegatronRows(const MegatronTensor& tensor, const AttentionShape& shape, int64_t rows);

// "KEY[o0,o1]": what a stored part is called in catalogues, plans and manifests.
std::string ChunkName(const std::string& key, const std::vector<int64_t>& offsets);
// The other way, for a name that ChunkName made.
std::pair<std::string, std::vector<int64_t>> ParseChunkName(const std::string& name);

}  // namespace mimo
