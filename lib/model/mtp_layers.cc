#include "lib/model/mtp_layers.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "lib/model/declaration.h"
#include "lib/model/family.h"
#include "lib/model/mtp_names.h"
#include "lib/model/role_groups.h"
#include "lib/model/stored_weight.h"

namespace mimo {
namespace {

// What one MTP layer holds.
struct Wanted {
  std::vector<ExpectedTensor> tensors;                       // of layer 0
  std::map<Role, std::vector<int64_t>> full_attention = {};  // shapes that the layer would have there, by role
};

// Whether attention is stored fused, by the first projection among the arrays that `of` picks.
template <class Pick>
std::optional<bool> FusedOf(const std::vector<StoredArray>& arrays, Pick of) {
  for (const StoredArray& array : arrays)
    if (of(array) && IsAttentionProjection(array.id.role)) return array.id.role == Role::kAttnQkv;
  return std::nullopt;
}

class LayerFinder {
 public:
  explicit LayerFinder(const Catalogue& catalogue) : catalogue_(catalogue) {
    empty_.root = catalogue.root;
    empty_.config = catalogue.config;
    empty_.config.text.clear();
    empty_.table = catalogue.table;
    for (const CatalogueFile& file : catalogue.files) empty_.files.emplace_back().name = file.name;
  }

  Result<std::vector<MtpLayer>> Find() {
    std::map<std::pair<int32_t, size_t>, std::vector<std::pair<uint32_t, MtpName>>> layers;
    for (uint32_t i = 0; i < catalogue_.arrays.size(); ++i) {
      std::optional<MtpName> name =
          ReadMtpName(catalogue_.config.family->mtp, catalogue_.arrays[i].name, catalogue_.config.layers);
      if (!name) continue;
      const std::pair key{name->layer, name->convention};
      layers[key].emplace_back(i, std::move(*name));
    }
    decoder_fused_ = FusedOf(catalogue_.arrays, [](const StoredArray& array) { return !array.id.mtp; });
    for (const bool fused : {false, true}) MIMO_RETURN_IF_ERROR(Want(fused));
    std::vector<MtpLayer> out;
    for (const auto& [key, members] : layers) out.push_back(Judge(key.first, key.second, members));
    return out;
  }

 private:
  using Members = std::vector<std::pair<uint32_t, MtpName>>;

  Status Want(bool fused) {
    Wanted& wanted = wanted_[fused ? 1 : 0];
    ModelConfig config = catalogue_.config;
    const auto each = [&](const std::function<void(ExpectedTensor &&)>& take) {
      return ForEachExpected(*catalogue_.table, config, {fused, 1, false}, [&](ExpectedTensor&& tensor) -> Status {
        if (tensor.id.mtp) take(std::move(tensor));
        return {};
      });
    };
    MIMO_RETURN_IF_ERROR(each([&](ExpectedTensor&& tensor) { wanted.tensors.push_back(std::move(tensor)); }));
    config.window = config.global;
    return each([&](ExpectedTensor&& tensor) { wanted.full_attention[tensor.id.role] = tensor.shape; });
  }

  // The arrays of one layer under the names of the release, in a catalogue of their own.
  Catalogue Renamed(int32_t number, const Members& members, std::vector<uint32_t>* origin) const {
    Catalogue probe = empty_;
    for (const auto& [index, name] : members) {
      if (name.released.size() != 1) continue;
      StoredArray array = catalogue_.arrays[index];
      array.name = name.released.front();
      array.id = catalogue_.table->Identify(array.name);
      if (!array.id.mtp || array.id.layer != number) array.id = {};
      probe.arrays.push_back(std::move(array));
      origin->push_back(index);
    }
    return probe;
  }

  MtpLayer Judge(int32_t number, size_t convention, const Members& members) const {
    MtpLayer layer;
    layer.number = number;
    layer.convention = convention;
    for (const auto& [index, name] : members) layer.arrays.push_back(index);
    std::vector<uint32_t> origin;
    const Catalogue probe = Renamed(number, members, &origin);
    const std::optional<bool> own = FusedOf(probe.arrays, [](const StoredArray& array) { return array.id.mtp; });
    const bool said = catalogue_.config.projection_layout == "fused_qkv";
    layer.fused = own.value_or(decoder_fused_.value_or(said));
    if (own && decoder_fused_ && *own != *decoder_fused_)
      layer.problems.push_back({MtpProblemKind::kProjection, "",
                                *decoder_fused_ ? "fused QKV, as the decoder's" : "split Q, K, V, as the decoder's",
                                *own ? "fused QKV" : "split Q, K, V"});
    const std::map<std::string, WeightParts> weights = Group(probe, origin, &layer);
    std::map<std::string, const MtpName*> joined;  // released names whose rows lie in an array with others
    for (const auto& [index, name] : members)
      if (name.released.size() > 1)
        for (const std::string& released : name.released) joined.emplace(released, &name);
    const Wanted& wanted = wanted_[layer.fused ? 1 : 0];
    layer.needs = static_cast<uint32_t>(wanted.tensors.size());
    std::set<std::string> expected;
    for (const ExpectedTensor& tensor : wanted.tensors) {
      TensorId id = tensor.id;
      id.layer = number;
      const std::string name = catalogue_.table->NameOf(id);
      expected.insert(name);
      const auto found = weights.find(name);
      if (found != weights.end()) {
        Check(probe, origin, tensor, found->second, &layer);
      } else if (!joined.contains(name)) {
        layer.problems.push_back({MtpProblemKind::kMissing, name, ShapeText(tensor.shape), "nothing"});
      }
    }
    for (const auto& [name, parts] : weights)  // of the table, but of no layer of this config: sinks without windows
      if (!expected.contains(name))
        for (const uint32_t array : parts.of)
          if (array != kNone) layer.unknown.push_back(origin[array]);
    std::sort(layer.unknown.begin(), layer.unknown.end());
    return layer;
  }

  // Arrays of the probe by the name of their weight; what is no weight of an MTP layer is unknown to the layer.
  std::map<std::string, WeightParts> Group(const Catalogue& probe, const std::vector<uint32_t>& origin,
                                           MtpLayer* layer) const {
    std::map<std::string, WeightParts> weights;
    for (uint32_t i = 0; i < probe.arrays.size(); ++i) {
      const StoredArray& array = probe.arrays[i];
      if (array.id.role == Role::kUnknown) {
        layer->unknown.push_back(origin[i]);
      } else if (!IsCacheScale(array.id.role)) {
        const Part part = array.id.part;
        uint32_t& place = weights[part == Part::kWeight ? array.name : NameOfPart(array.name, Part::kWeight)][part];
        (place == kNone ? place : layer->unknown.emplace_back()) = place == kNone ? i : origin[i];
      }
    }
    return weights;
  }

  void Check(const Catalogue& probe, const std::vector<uint32_t>& origin, const ExpectedTensor& tensor,
             const WeightParts& parts, MtpLayer* layer) const {
    const auto stored_name = [&](uint32_t array) { return catalogue_.arrays[origin[array]].name; };
    const Result<Weight> paired = PairWeight(probe, parts);
    if (!paired.ok()) {
      const Error& error = paired.error();
      const auto first = std::find_if(parts.of.begin(), parts.of.end(), [](uint32_t array) { return array != kNone; });
      layer->problems.push_back({MtpProblemKind::kWeight, stored_name(*first),
                                 error.what + (error.expected.empty() ? "" : ": " + error.expected), error.found});
      return;
    }
    const Weight& weight = paired.value();
    const StoredArray& array = probe.arrays[weight.array];
    std::vector<int64_t> found = array.shape;
    if (IsPacked(weight.storage) && !found.empty()) found.back() = weight.cols;
    if (found != tensor.shape) {
      const auto full = wanted_[layer->fused ? 1 : 0].full_attention.find(tensor.id.role);
      const bool is_full = full != wanted_[layer->fused ? 1 : 0].full_attention.end() && full->second == found;
      layer->problems.push_back({is_full ? MtpProblemKind::kGeometry : MtpProblemKind::kShape,
                                 stored_name(weight.array), ShapeText(tensor.shape), ShapeText(found)});
      return;
    }
    if (IsAttentionProjection(tensor.id.role) && layer->attention == Storage::kPlain) layer->attention = weight.storage;
    const bool values = array.dtype == DType::kBF16 || array.dtype == DType::kF16 || array.dtype == DType::kF32;
    if (weight.storage == Storage::kPlain && !values)
      layer->problems.push_back({MtpProblemKind::kWeight, stored_name(weight.array),
                                 "BF16, F16 or F32, or FP8 or FP4 codes with scales",
                                 std::string(DTypeName(array.dtype))});
    if (weight.storage != Storage::kPlain && IsUnlistedInReleases(catalogue_, tensor.id))
      layer->quantized.push_back(origin[weight.array]);
  }

  const Catalogue& catalogue_;
  Catalogue empty_;  // as catalogue_, without arrays
  std::optional<bool> decoder_fused_;
  Wanted wanted_[2];  // split, fused
};

}  // namespace

Result<std::vector<MtpLayer>> FindMtpLayers(const Catalogue& catalogue) {
  return LayerFinder(catalogue).Find();
}

}  // namespace mimo
