// What each weight is stored as in the output: --dtype's table of roles, or the rules of a recipe; or what the form
// says (Form::Store).
#pragma once

#include <memory>
#include <optional>
#include <set>
#include <string>

#include "lib/base/status.h"
#include "lib/model/inventory.h"
#include "lib/plan/plan.h"
#include "lib/recipe/dialect.h"
#include "lib/recipe/matcher.h"
#include "lib/recipe/recipe.h"

namespace mimo {

struct Planning;

struct Choice {
  enum class Kind : uint8_t {
    kKeep,    // every array as it is
    kRename,  // its codec stays, under the names of another dialect
    kPlain,   // decoded, to `codec`
    kEncode,  // made anew, in `encoding`
  };
  Kind kind = Kind::kKeep;
  Codec codec = Codec::kBf16;
  kernels::Encoding encoding = {};
  WeightArrays arrays = {};               // kRename, kEncode
  bool as_released = false;               // kRename: FP8 codes as F8_E4M3, their scales as F32
  std::optional<float> input_scale = {};  // kEncode: of activations, as a multiplier

  // Decoded, to values of this type.
  static Choice Plain(Codec codec) { return {.kind = Kind::kPlain, .codec = codec}; }
  // Whether values or codes stay as they are, whatever they are called.
  bool moves() const { return kind == Kind::kKeep || kind == Kind::kRename; }
};

class StorageChooser {
 public:
  // kUsage when the options contradict each other. The catalogue and the options outlive the chooser.
  static Result<StorageChooser> Make(const Catalogue& catalogue, const PlanOptions& options);

  const Recipe* recipe() const { return recipe_; }
  // F32 weights that the model's table has as BF16 are a run's: without a recipe they become BF16 unless --dtype says
  // otherwise.
  void NarrowRuns() { narrows_ = recipe_ == nullptr; }
  // Whether every weight keeps what it is stored as.
  bool keeps() const { return recipe_ == nullptr && dtype_ == DTypeChoice::kKeep; }
  // Of the output. Without a recipe, that of the source.
  Dialect dialect() const { return dialect_; }
  // Whether weights were kept whose scales of rows lie as no reader of the dialect is known to take them: [rows, 1]
  // under ModelOpt's names.
  bool keeps_row_matrices() const { return keeps_row_matrices_; }

  // For weight `id` of the output, called `name` and made from `weight`. kUsage when what the rules ask for cannot be.
  Result<Choice> Choose(const Weight& weight, const TensorId& id, const std::string& name);
  // kUsage when a rule matched no weight, or an input scale belongs to no module.
  Status CheckAllUsed() const;

 private:
  StorageChooser(const Catalogue& catalogue, const PlanOptions& options)
      : catalogue_(&catalogue), dtype_(options.dtype) {}
  Result<StoredAs> Wanted(const Weight& weight, const TensorId& id, const std::string& name);
  bool IsWidened(const Weight& weight) const;
  Choice Narrowed() const;
  Choice Kept(const Weight& weight) const;
  Result<Choice> Encoded(const Weight& weight, StoredAs wanted, const std::string& name);
  std::optional<float> InputScale(const std::string& name);

  const Catalogue* catalogue_;
  DTypeChoice dtype_;
  bool narrows_ = false;
  bool keeps_row_matrices_ = false;
  Dialect dialect_ = Dialect::kNative;
  const Recipe* recipe_ = nullptr;  // of the options
  std::unique_ptr<RecipeMatcher> matcher_;
  std::set<std::string> scaled_modules_;  // that took their input scale from Recipe::input_scales
};

// What a weight of the output is stored as: what the form says, else what the chooser does.
Result<Choice> ChooseStorage(Planning* p, const Weight& weight, const TensorId& id, const std::string& name);

// Whether a choice may keep every value of a weight as it is; `plain`: the type of its array. Of what is encoded the
// data decides.
bool MayBeExact(const Weight& weight, DType plain, const Choice& choice);

}  // namespace mimo
