#include "lib/forms/fp8_scales.h"

#include <algorithm>
#include <tuple>

namespace mimo {
namespace {

constexpr char kToValues[] = "--dtype bf16; or two runs: --to hf --dtype fp8 first";

// What must be equal for arrays of one layer to change rows.
auto KindOf(const Catalogue& catalogue, const Weight& weight) {
  const StoredArray& codes = catalogue.arrays[weight.array];
  const StoredArray* scale = weight.scale == kNone ? nullptr : &catalogue.arrays[weight.scale];
  const bool fp8 = HasBlockGrid(weight.storage);
  return std::tuple(weight.storage, codes.dtype, weight.span, fp8 && scale != nullptr ? scale->dtype : DType::kF32,
                    fp8 && scale != nullptr ? scale->shape.size() : size_t{0},
                    scale != nullptr ? scale->id.part : Part::kWeight, fp8 && weight.input != kNone);
}

std::string KindText(const Catalogue& catalogue, const Weight& weight) {
  const StoredArray& codes = catalogue.arrays[weight.array];
  return codes.name + " is " +
         (HasBlockGrid(weight.storage) ? Fp8Text(catalogue, weight) : std::string(DTypeName(codes.dtype)));
}

}  // namespace

bool HasEqual(const Planning& p, const AttentionWeights& layer, const std::vector<uint32_t>& layers) {
  return std::any_of(layers.begin(), layers.end(), [&](uint32_t index) {
    const std::vector<AttentionWeights>& all = p.inventory.attention;
    return index < all.size() && all[index].mtp == layer.mtp && all[index].layer == layer.layer;
  });
}

Status CheckScalesOf(const Planning& p, const AttentionRequest& request, const Choice& choice) {
  const AttentionWeights& a = *request.weights;
  const Weight& first = p.inventory.weights[a.first()];
  const Weight* other = nullptr;
  bool blocks = false;
  for (const uint32_t index : a.in_order()) {
    if (index == kNone) continue;
    const Weight& weight = p.inventory.weights[index];
    blocks |= weight.in_blocks();
    if (KindOf(p.catalogue, weight) != KindOf(p.catalogue, first)) other = &weight;
  }
  if (other != nullptr) {
    const bool shares = blocks && std::any_of(request.source.bands.begin(), request.source.bands.end(),
                                              [](const ScaleBand& band) { return band.array != band.scale_array; });
    const bool stays = request.source.layout.fused() == request.target.layout.fused() &&
                       request.source.rows == request.target.rows &&
                       (!blocks || request.source.bands == request.target.bands);
    if (choice.moves() ? !stays : shares)
      return UsageError("the attention projections of one layer are stored differently")
          .Tensor(p.catalogue.arrays[other->array].name)
          .Expected(choice.moves() ? "one type for q, k and v where their rows are moved"
                                   : "q, k and v whose blocks are their own")
          .Found(KindText(p.catalogue, first) + ", " + KindText(p.catalogue, *other))
          .Advice(choice.moves() ? "--qkv keep, or --dtype bf16" : "--source-qkv independent if no block is shared")
          .Id("fp8.mixed_attention");
  }
  const bool joins = choice.moves() && !a.fused() && request.target.layout.fused();
  if (joins && HasBlockGrid(first.storage) && first.input != kNone && !HasEqual(p, a, p.facts.equal_inputs))
    return UsageError("input scales that differ cannot become one")
        .Tensor(p.catalogue.arrays[first.input].name)
        .Expected("the same bits for q, k and v, which take the same activations")
        .Found("others")
        .Advice("--qkv keep, or --dtype bf16")
        .Id("fp8.unequal_scales");
  return {};
}

const Weight* KeptInRows(const Planning& p) {
  if (!p.chooser.keeps()) return nullptr;
  for (const AttentionWeights& a : p.inventory.attention) {
    if (a.first() == kNone) continue;
    const Weight& weight = p.inventory.weights[a.first()];
    if (!HasBlockGrid(weight.storage) || weight.in_blocks()) continue;
    if (p.catalogue.arrays[weight.scale].id.part != Part::kRowScale) return &weight;  // Neuron's are decoded
  }
  return nullptr;
}

Error NoPlaceFor(const Catalogue& catalogue, const Weight& weight, const std::string& form) {
  return UsageError(form + " have no place for FP8 weights of this kind")
      .Tensor(catalogue.arrays[weight.array].name)
      .Expected("F8_E4M3 in blocks under F32 scales")
      .Found(Fp8Text(catalogue, weight))
      .Advice(kToValues)
      .Id("fp8.no_place");
}

}  // namespace mimo
