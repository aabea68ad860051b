// A form that stores each rank's own arrays: which arrays a rank has, what of the model each holds, and how they are
// called. A table per engine version (schemas/forms/), read both ways; a template of names from an installed engine
// can rename them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "lib/base/status.h"
#include "lib/io/dtype.h"
#include "lib/layout/partition.h"
#include "lib/model/names.h"

namespace mimo {

struct RankTensor {
  std::string pattern;   // "model.layers.{layer}.mlp.gate_up_proj.weight"
  std::vector<Role> of;  // what it holds, in stacking order
  Part part = Part::kWeight;
  Cut cut = Cut::kReplicated;
  bool experts = false;  // [experts of the rank, rows, columns]
  bool mtp = false;
  std::string dtype;  // "": as stored; "F32"; "router": config.json's moe_router_dtype

  // How many of its roles a rank has each in rows of its own; Q, K and V of a rank are one chunk.
  int64_t members() const { return cut == Cut::kHeads ? 1 : static_cast<int64_t>(of.size()); }
  // Elements that `role` has among those of a module or an expert, and the first of them; Cut::kScalars only. A fused
  // QKV has all.
  Range ScalarsOf(Role role) const;
  // Parts of a weight, of which rank r of tp holds part r * parts / tp: columns, or else rows. `kv_heads` of the layer,
  // before any is repeated for ranks; tp divides them, or they tp.
  int64_t parts(int64_t tp, int64_t ep, int64_t kv_heads) const {
    if (cut == Cut::kKvHeads) return std::min(tp, kv_heads);
    return cut == Cut::kReplicated || cut == Cut::kScalars || (experts && ep > 1) ? 1 : tp;
  }
  // An array of one dimension, which has as many elements for each head.
  bool by_heads() const { return cut == Cut::kSinks || cut == Cut::kQHeads || cut == Cut::kKvHeads; }
  bool by_columns() const { return by_heads() || cut == Cut::kColumns || cut == Cut::kExpertColumns; }
};

struct RankConstant {
  std::string pattern;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  double value = 0;
  std::vector<std::string> when;  // conditions over cache_scales (lib/forms/rules.h)
  std::vector<Role> of;           // scales of the KV cache that fill it; the first that there is
  bool mtp = false;
};

class RankForm {
 public:
  // The table of an engine, e.g. "vllm", for models of `family` (Family::name); with a canonical template, under its
  // names. kUsage: there is none; kBadInput: a table or a template that is none, or the template of another engine.
  static Result<RankForm> Load(const std::string& engine, const std::string& family, const std::string& form_template);

  const std::string& name() const { return name_; }  // "vllm-0.33", or the version of the template
  int64_t vocab_multiple() const { return vocab_multiple_; }
  const std::vector<RankTensor>& tensors() const { return tensors_; }
  const std::vector<RankConstant>& constants() const { return constants_; }
  // The array that holds arrays of `role` and `part`, as an index into tensors(); nullopt when there is none. A fused
  // QKV is looked up as Q.
  std::optional<size_t> Find(Role role, Part part, bool mtp) const;

  // Whether the engine has an array under any alias of what the table calls it.
  bool Has(const std::string& table_name) const;
  // What the engine calls an array of this type and shape, given what the table calls it. With a template kUsage for a
  // name that it has not, or has with another type or shape.
  Result<std::string> NameOf(const std::string& table_name, DType dtype, const std::vector<int64_t>& shape) const;
  // The other way: what the table calls an array of an engine, with its layer; nullopt for none of its tensors.
  struct Match {
    size_t tensor = 0;
    int32_t layer = -1;
  };
  std::optional<Match> Identify(std::string_view name) const;
  // The same for constants; Match::tensor is an index into constants().
  std::optional<Match> FindConstant(std::string_view name) const;
  bool IsConstant(std::string_view name) const { return FindConstant(name).has_value(); }
  // The type that a template asks for; nullopt without one, or where it has no such array.
  std::optional<DType> WantedType(const std::string& table_name) const;
  // Names of the template that nothing has asked for yet, constants of the table left out; in template order.
  std::vector<std::string> Unfilled(const std::vector<std::string>& made) const;

 private:
  friend Result<RankForm> ParseRankForm(std::string_view json);
  struct Wanted {
    DType dtype;
    std::vector<int64_t> shape;
  };
  std::vector<std::string> Aliases(const std::string& table_name) const;
  std::string name_;
  int64_t vocab_multiple_ = 1;
  std::vector<RankTensor> tensors_;
  std::vector<RankConstant> constants_;
  std::vector<std::string> prefixes_;
  std::vector<std::pair<std::string, std::string>> infixes_;  // with, without
  std::vector<std::pair<std::string, std::string>> renamed_;
  bool templated_ = false;
  std::vector<std::string> template_order_;
  std::unordered_map<std::string, Wanted> template_;
};
Result<RankForm> ParseRankForm(std::string_view json);

// A dump of scripts/dump_template.py, checked, without what does not matter. kBadInput says what is wrong with it.
Result<std::string> CanonicalTemplate(const std::string& text, const std::string& path);

}  // namespace mimo
