// A recipe: what each weight is stored as, by rules over roles or names. Data (schemas/recipes/,
// schemas/recipe.schema.json, docs/recipes.md); a user's own file has the same form.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kernels/encode.h"
#include "lib/base/file_system.h"
#include "lib/base/status.h"
#include "lib/layout/qkv_wish.h"
#include "lib/model/names.h"
#include "lib/recipe/dialect.h"

namespace mimo {

enum class StoredAs : uint8_t { kKeep, kBf16, kFp16, kFp32, kFp8, kNvfp4, kMxfp4, kMxfp8 };

struct RecipeRule {
  // Any of these; attention projections match by any of their four roles, shared experts by those of the dense MLP too.
  // Empty: any projection (attention, o_proj, MLP, experts, lm_head); routers, embeddings, eh_proj and towers are
  // matched by rules that name them, vectors never.
  std::vector<Role> roles;
  std::optional<bool> mtp;  // only MTP layers, or only others
  std::string names;        // a Pattern, found anywhere in the name of the output's tensor; "": any name
  StoredAs to = StoredAs::kKeep;
  bool optional = false;  // may match nothing, as for parts that not every model has
  bool released = false;  // only weights that the family's quantized releases quantize, as its description says
  bool operator==(const RecipeRule&) const = default;
};

// An engine that the recipe was made for, and what is known of it. Of an engine the entries that name a family hold for
// it, and where there is none the ones that name no family.
struct RecipeEngine {
  std::string name;                      // "vllm", "sglang", "tensorrt-llm", "transformers" ...
  std::string status;                    // "loads", "unproven", "refuses"
  std::string evidence;                  // why we think so
  std::vector<std::string> models = {};  // families (schemas/models); empty: any other
  bool operator==(const RecipeEngine&) const = default;
};

struct Recipe {
  std::string name;
  std::string summary;
  Dialect dialect = Dialect::kModelOpt;
  std::optional<QkvWish> qkv;     // layout of the attention projections unless --qkv says otherwise; nullopt: keep
  std::vector<RecipeRule> rules;  // the first that matches decides; a weight that none matches is kept
  std::vector<RecipeEngine> engines;
  // How values are encoded, for the targets that ask.
  kernels::ScaleRule nvfp4_rule = kernels::ScaleRule::kMax;
  kernels::ScaleRule mx_rule = kernels::ScaleRule::kRceil;
  kernels::Ties mx_ties = kernels::Ties::kEven;
  bool fp8_power_of_two = false;
  uint32_t fp8_block_rows = 128, fp8_block_cols = 128;
  bool via_bf16 = false;
  // Activations of NVFP4 modules: none (W4A16), or W4A4 with these scales.
  bool w4a4 = false;
  float input_scale = 1.0f;                                 // of modules that input_scales does not name
  std::vector<std::pair<std::string, float>> input_scales;  // module -> multiplier, by name
  bool operator==(const Recipe&) const = default;
};

// All kUsage: not JSON, a key that no recipe has, an unknown role, engine status, rule or type, a bad pattern, a role
// of vectors, a quantized tower, values that contradict each other (four-over-six without NVFP4, input scales without
// w4a4 or that are not finite and > 0, a block width that is not a multiple of 32, a type that the dialect does not
// have). `path` is for messages.
Result<Recipe> ParseRecipe(const std::string& text, const std::string& path);
// {"model.layers.3.mlp.experts.0.up_proj": 0.0123, ...}: multipliers by module name, ascending. kUsage: not such an
// object, or a multiplier that is not finite and > 0. `path` is for messages.
Result<std::vector<std::pair<std::string, float>>> ParseInputScales(const std::string& text, const std::string& path);
// A recipe as canonical JSON: what a plan and a manifest record. ParseRecipe of it gives an equal recipe.
std::string RecipeJson(const Recipe& recipe);
// The recipe for models of a family: what it says of engines is of this family alone. What is stored is the same.
Recipe RecipeOfFamily(Recipe recipe, const std::string& family);
// A recipe of schemas/recipes/ by name, or a file when the name has a '/' or ends in ".json".
Result<Recipe> FindRecipe(FileSystem& fs, const std::string& name);
std::vector<std::string> RecipeNames();  // of schemas/recipes/, ascending

// Nullopt for kKeep.
std::optional<kernels::Codec> CodecOf(StoredAs stored_as);
// How weights of this type are encoded under a recipe; for the four block codecs.
kernels::Encoding EncodingOf(const Recipe& recipe, StoredAs stored_as);

}  // namespace mimo
