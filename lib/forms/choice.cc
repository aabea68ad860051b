#include "lib/forms/choice.h"

#include <algorithm>

#include "lib/base/checked.h"
#include "lib/forms/form.h"
#include "lib/model/role_groups.h"
#include "lib/recipe/recipe_words.h"

namespace mimo {

namespace {

// The arrays of a weight as they are named in the source.
bool NamedAs(const Catalogue& catalogue, const Weight& weight, const WeightArrays& arrays) {
  const auto is = [&](uint32_t array, Part part) { return array == kNone || catalogue.arrays[array].id.part == part; };
  const bool bytes = HasBlockGrid(weight.storage) && catalogue.arrays[weight.array].dtype != arrays.code_dtype;
  return !bytes && is(weight.array, arrays.codes) && is(weight.scale, arrays.scales) &&
         (weight.global == kNone || (arrays.global && is(weight.global, *arrays.global))) &&
         (weight.input == kNone || HasBlockGrid(weight.storage) || (arrays.input && is(weight.input, *arrays.input)));
}

// What --dtype asks for.
constexpr std::pair<DTypeChoice, StoredAs> kAsked[] = {{DTypeChoice::kKeep, StoredAs::kKeep},
                                                       {DTypeChoice::kBf16, StoredAs::kBf16},
                                                       {DTypeChoice::kFp16, StoredAs::kFp16},
                                                       {DTypeChoice::kFp32, StoredAs::kFp32}};
static_assert(NamesEach(kAsked));

// The dialect that names of arrays bear out, where config.json is silent.
Dialect DialectOfArrays(const Catalogue& catalogue) {
  bool row_scales = false;
  for (const StoredArray& array : catalogue.arrays) {
    if (array.id.part == Part::kPacked || array.id.part == Part::kGlobalScale) return Dialect::kCompressedTensors;
    if (array.id.part == Part::kScale2) return Dialect::kModelOpt;
    row_scales |= array.id.part == Part::kScale && array.dtype != DType::kU8 && array.dtype != DType::kF8E8M0;
  }
  return row_scales ? Dialect::kCompressedTensors : Dialect::kNative;
}

Dialect DialectOf(const Catalogue& catalogue) {
  const std::string& method = catalogue.config.quant_method;
  if (method == "modelopt" || method == "modelopt_fp4") return Dialect::kModelOpt;
  if (method == "compressed-tensors") return Dialect::kCompressedTensors;
  return method.empty() ? DialectOfArrays(catalogue) : Dialect::kNative;
}

}  // namespace

Result<StorageChooser> StorageChooser::Make(const Catalogue& catalogue, const PlanOptions& options) {
  StorageChooser chooser(catalogue, options);
  chooser.dialect_ = DialectOf(catalogue);
  if (!options.recipe) return chooser;
  if (options.dtype != DTypeChoice::kKeep)
    return UsageError("a recipe and --dtype contradict each other").Expected("one of them").Found("both");
  chooser.recipe_ = &*options.recipe;
  chooser.matcher_ = std::make_unique<RecipeMatcher>(*chooser.recipe_);
  chooser.dialect_ = chooser.recipe_->dialect;
  return chooser;
}

Result<StoredAs> StorageChooser::Wanted(const Weight& weight, const TensorId& id, const std::string& name) {
  if (recipe_ != nullptr) {
    const TensorRule* rule = catalogue_->table->RuleOf(id);
    return matcher_->Match(id, name, rule != nullptr && rule->quantized());
  }
  // The router decides which experts run: --dtype leaves it as it is stored.
  if (weight.storage == Storage::kPlain && (id.role == Role::kRouter || id.role == Role::kRouterBias))
    return StoredAs::kKeep;
  return std::ranges::find(kAsked, dtype_, &std::pair<DTypeChoice, StoredAs>::first)->second;
}

bool StorageChooser::IsWidened(const Weight& weight) const {
  if (weight.storage != Storage::kPlain || catalogue_->arrays[weight.array].dtype != DType::kF32) return false;
  const TensorRule* rule = catalogue_->table->RuleOf(weight.id);
  return rule != nullptr && !rule->pinned();
}

Choice StorageChooser::Narrowed() const {
  if (dtype_ == DTypeChoice::kFp32) return Choice();
  return Choice::Plain(dtype_ == DTypeChoice::kFp16 ? Codec::kFp16 : Codec::kBf16);  // the published model has BF16
}

Result<Choice> StorageChooser::Choose(const Weight& weight, const TensorId& id, const std::string& name) {
  if (narrows_ && IsWidened(weight)) return Narrowed();
  MIMO_ASSIGN_OR_RETURN(const StoredAs wanted, Wanted(weight, id, name));
  const std::optional<Codec> codec = CodecOf(wanted);
  if (!codec && weight.per_row() && catalogue_->arrays[weight.scale].id.part == Part::kRowScale)
    return Choice::Plain(Codec::kBf16);  // Neuron's, which no other reader knows
  if (!codec) {
    keeps_row_matrices_ |= recipe_ != nullptr && dialect_ == Dialect::kModelOpt && weight.per_row() &&
                           catalogue_->arrays[weight.scale].shape.size() == 2;
    return Kept(weight);
  }
  if (!IsValueCodec(*codec)) return Encoded(weight, wanted, name);
  Choice choice;
  choice.codec = *codec;
  const DType dtype = catalogue_->arrays[weight.array].dtype;
  // F32 stays F32, but for the matrices of the vocabulary where a recipe asks for another type.
  const bool cast = dtype == DType::kF32 && recipe_ != nullptr && IsVocabulary(id.role);
  const bool half = dtype == DType::kBF16 || dtype == DType::kF16 || cast;
  if (weight.storage != Storage::kPlain || (half && dtype != DTypeOf(*codec))) choice.kind = Choice::Kind::kPlain;
  return choice;
}

// What is kept takes the names of the output's dialect, where it has any for it.
Choice StorageChooser::Kept(const Weight& weight) const {
  Choice choice;
  const std::optional<Codec> codec = CodecOf(weight.storage);
  if (recipe_ == nullptr || !codec) return choice;
  if (HasBlockGrid(weight.storage) && !weight.in_blocks() && dialect_ == Dialect::kNative) return choice;
  std::optional<WeightArrays> arrays = ArraysOf(dialect_, *codec);
  // Scales of rows or of the whole have one name in all of them.
  if (arrays && HasBlockGrid(weight.storage) && !weight.in_blocks()) arrays->scales = Part::kScale;
  if (!arrays || NamedAs(*catalogue_, weight, *arrays)) return choice;
  choice.kind = Choice::Kind::kRename;
  choice.arrays = *arrays;
  return choice;
}

Result<Choice> StorageChooser::Encoded(const Weight& weight, StoredAs wanted, const std::string& name) {
  Choice choice;
  choice.codec = *CodecOf(wanted);
  choice.encoding = EncodingOf(*recipe_, wanted);
  const std::optional<WeightArrays> arrays = ArraysOf(dialect_, choice.codec);
  if (!arrays)
    return UsageError("the recipe asks for " + std::string(WordOf(kStoredAs, wanted)) + " in a dialect without it")
        .Expected("another dialect, or another type")
        .Found(std::string(WordOf(kDialects, dialect_)))
        .Advice("see docs/recipes.md");
  choice.arrays = *arrays;
  if (catalogue_->arrays[weight.array].shape.size() != 2 || !name.ends_with(".weight"))
    return UsageError("the recipe quantizes what is not the matrix of a linear module")
        .Expected("MODULE.weight, two dimensions")
        .Found(name)
        .Advice("narrow the rule that matches it");
  const kernels::Encoding& e = choice.encoding;
  const bool same_cells =
      choice.codec != Codec::kFp8Block || (weight.in_blocks() && weight.block_rows == 128 && weight.block_cols == 128 &&
                                           e.block_rows == 128 && e.block_cols == 128 && !e.power_of_two);
  if (CodecOf(weight.storage) == choice.codec && same_cells) {
    choice.as_released = HasBlockGrid(weight.storage) && !IsReleasedFp8(*catalogue_, weight);
    const bool stays = !choice.as_released && NamedAs(*catalogue_, weight, choice.arrays);
    choice.kind = stays ? Choice::Kind::kKeep : Choice::Kind::kRename;
    const bool gap = choice.codec == Codec::kNvfp4 && weight.input == kNone && !IsAttentionProjection(weight.id.role);
    if (gap && choice.arrays.input) choice.input_scale = InputScale(name);
    return choice;
  }
  const int64_t group = kernels::GroupColumns(e);
  if (!HasBlockScales(choice.codec) && weight.cols % group != 0)
    return UsageError("a weight whose rows are not whole groups of " + std::string(WordOf(kStoredAs, wanted)) + ": " +
                      name)
        .Expected("a multiple of " + std::to_string(group) + " columns")
        .Found(std::to_string(weight.cols) + " columns")
        .Advice("keep it, or choose another type for it in a recipe");
  choice.kind = Choice::Kind::kEncode;
  if (choice.codec == Codec::kNvfp4) choice.input_scale = InputScale(name);
  return choice;
}

std::optional<float> StorageChooser::InputScale(const std::string& name) {
  if (!recipe_->w4a4) return std::nullopt;
  const std::string module = name.substr(0, name.rfind('.'));
  const auto& given = recipe_->input_scales;
  const auto found = std::lower_bound(given.begin(), given.end(), module,
                                      [](const auto& entry, const std::string& key) { return entry.first < key; });
  if (found == given.end() || found->first != module) return recipe_->input_scale;
  scaled_modules_.insert(module);
  return found->second;
}

Status StorageChooser::CheckAllUsed() const {
  if (recipe_ == nullptr) return {};
  MIMO_RETURN_IF_ERROR(matcher_->CheckAllMatched());
  for (const auto& [module, scale] : recipe_->input_scales)
    if (!scaled_modules_.contains(module))
      return UsageError("an input scale for a module that is not made NVFP4")
          .Expected("modules of the output")
          .Found(module)
          .Advice("list the names with --dry-run --verbose");
  return {};
}

Result<Choice> ChooseStorage(Planning* p, const Weight& weight, const TensorId& id, const std::string& name) {
  MIMO_ASSIGN_OR_RETURN(const std::optional<Choice> of_form, p->form.Store(*p, weight, id, name));
  return of_form ? *of_form : p->chooser.Choose(weight, id, name);
}

bool MayBeExact(const Weight& weight, DType plain, const Choice& choice) {
  if (choice.kind == Choice::Kind::kPlain) {
    if (weight.storage == Storage::kMxfp4) return choice.codec != Codec::kFp16;
    return weight.storage == Storage::kPlain && choice.codec == Codec::kFp32 && plain != DType::kF32;
  }
  if (choice.kind == Choice::Kind::kEncode) {
    const Codec to = choice.encoding.codec;
    return (weight.storage == Storage::kMxfp4 && (to == Codec::kNvfp4 || to == Codec::kFp8Block)) ||
           (weight.storage == Storage::kFp8Block && to == Codec::kMxfp8);
  }
  if (choice.kind == Choice::Kind::kRename)
    return weight.global == kNone || weight.global_divides == choice.arrays.global_divides;
  return true;
}

}  // namespace mimo
