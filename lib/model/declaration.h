// What quantization_config of config.json declares about each linear module, in whichever dialect: what readers that
// trust it will take the arrays for. Reading arrays does not need it (inventory.h goes by what is stored); judging them
// does. Sources: HF transformers' fine-grained FP8 and vLLM's Fp8Config (ignored_layers, modules_to_not_convert),
// ModelOpt (quant_algo, quantized_layers, exclude_modules), compressed-tensors (config_groups, ignore, "re:").
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lib/base/words.h"
#include "lib/model/inventory.h"

namespace mimo {

enum class StoredKind : uint8_t {
  kPlain,
  kFp8Block,   // one scale per block of rows and columns
  kFp8Row,     // one per row
  kFp8Tensor,  // one
  kMxfp4,
  kMxfp8,
  kNvfp4,
  kForeign,  // something that this tool does not read
};
inline constexpr Words<StoredKind, 8> kStoredKinds{{{StoredKind::kPlain, "unquantized"},
                                                    {StoredKind::kFp8Block, "block FP8"},
                                                    {StoredKind::kFp8Row, "FP8 with a scale per row"},
                                                    {StoredKind::kFp8Tensor, "FP8 with one scale"},
                                                    {StoredKind::kMxfp4, "MXFP4"},
                                                    {StoredKind::kMxfp8, "MXFP8"},
                                                    {StoredKind::kNvfp4, "NVFP4"},
                                                    {StoredKind::kForeign, "of an unknown codec"}}};

// What the arrays of a weight are.
StoredKind KindOf(const Weight& weight);

struct DeclarationParts;  // declaration.cc

class Declaration {
 public:
  // Of a config.json; never fails: what it does not understand is kForeign.
  explicit Declaration(const std::string& config_text);
  ~Declaration();
  Declaration(Declaration&&) noexcept;
  Declaration& operator=(Declaration&&) noexcept;

  bool present() const;               // there is a quantization_config
  const std::string& method() const;  // its quant_method; "" without one
  // Whether the dialect speaks of weights of this role: the linear modules of layers; the head where every linear
  // module is meant that is not ignored.
  bool Covers(Role role) const;
  // What is declared of a module ("model.layers.0.mlp.up_proj"). The parts of attention and of merged gate and up stand
  // for each other: readers look them up under either name.
  StoredKind Of(const std::string& module, Role role) const;
  // Whether some reader may take a module for ignored: native lists are read by whole names by some, by what holds a
  // module, by its end or by a component of its name by others, and no two agree.
  bool MayIgnore(const std::string& module, Role role) const;
  // Plain names of the ignore lists, without patterns, in the order of the config, each once.
  const std::vector<std::string>& ignored() const;
  // Names that one of the two native lists has and the other lacks, where both are there: readers take either.
  const std::vector<std::string>& in_one_list_only() const;

 private:
  std::unique_ptr<DeclarationParts> parts_;
};

// Whether a weight is stored as `declared` says; blocks of one row are scales per row where rows are no longer.
bool IsStoredAs(StoredKind declared, const Weight& weight, const ModelConfig& config);
// Whether released checkpoints have such a weight unquantized and do not list it (TensorRule::unlisted): their engines
// know.
bool IsUnlistedInReleases(const Catalogue& catalogue, const TensorId& id);

// A linear module of a layer that is stored as something else than is declared.
struct Disagreement {
  uint32_t weight = kNone;  // into Inventory::weights
  StoredKind declared = StoredKind::kPlain;
  StoredKind stored = StoredKind::kPlain;
};
// All of them, in the order of the inventory, but for what releases do not list. Without a quantization_config every
// module is declared unquantized.
std::vector<Disagreement> Disagreements(const Declaration& declaration, const Catalogue& catalogue,
                                        const Inventory& inventory);

}  // namespace mimo
