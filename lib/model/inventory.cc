#include "lib/model/inventory.h"

#include <algorithm>
#include <set>

#include "lib/model/mtp_layers.h"
#include "lib/model/role_groups.h"
#include "lib/model/stored_weight.h"

namespace mimo {

namespace {

class InventoryTaker {
 public:
  InventoryTaker(const Catalogue& catalogue, const InventoryOptions& options)
      : catalogue_(catalogue), options_(options) {}

  Result<Inventory> Take() {
    if (options_.without_mtp) MIMO_RETURN_IF_ERROR(LeaveOutMtp());
    MIMO_RETURN_IF_ERROR(CountMtp());
    DecideFused();
    MIMO_RETURN_IF_ERROR(PairArrays());
    MIMO_RETURN_IF_ERROR(CheckExpected());
    CollectAttention();
    return std::move(out_);
  }

 private:
  Error Bad(const StoredArray& array, std::string what) const { return BadArray(catalogue_, array, std::move(what)); }

  Status LeaveOutMtp() {
    MIMO_ASSIGN_OR_RETURN(const std::vector<MtpLayer> layers, FindMtpLayers(catalogue_));
    is_left_out_.assign(catalogue_.arrays.size(), 0);
    for (const MtpLayer& layer : layers) {
      if (layer.released() && layer.whole()) {
        whole_mtp_.insert(layer.number);
        continue;
      }
      for (const uint32_t array : layer.arrays) is_left_out_[array] = 1;
    }
    for (uint32_t i = 0; i < is_left_out_.size(); ++i)
      if (is_left_out_[i] != 0) out_.left_out.push_back(i);
    return {};
  }
  bool IsLeftOut(uint32_t array) const { return options_.without_mtp && is_left_out_[array] != 0; }

  Status CountMtp() {
    if (options_.without_mtp) {
      out_.mtp_layers = whole_mtp_.empty() ? 0 : *whole_mtp_.rbegin() + 1;
      return {};
    }
    std::set<int> layers;
    for (const StoredArray& array : catalogue_.arrays)
      if (array.id.mtp) layers.insert(array.id.layer);
    out_.mtp_layers = static_cast<int>(layers.size());
    if (layers.empty() || *layers.rbegin() == out_.mtp_layers - 1) return {};
    Error e = BadInput("MTP layers are not numbered from 0 without gaps")
                  .File(catalogue_.root)
                  .Expected("model.mtp.layers.0 .. " + std::to_string(out_.mtp_layers - 1));
    for (int layer : layers) e.found += (e.found.empty() ? "layers " : ", ") + std::to_string(layer);
    e.id = "model.mtp_gaps";
    e.advice =
        "bring the tensor files that hold the others, or an index that names them: those that are here are whole";
    return e;
  }

  // All layers are stored alike; the first attention array decides and the rest is checked against it.
  void DecideFused() {
    bool split = false;
    for (uint32_t i = 0; i < catalogue_.arrays.size(); ++i) {
      const StoredArray& array = catalogue_.arrays[i];
      if (IsLeftOut(i)) continue;
      if (array.id.role == Role::kAttnQkv) out_.fused = true;
      if (array.id.role == Role::kAttnQ) split = true;
    }
    if (!out_.fused && !split) out_.fused = catalogue_.config.projection_layout == "fused_qkv";
  }

  // Weights come in the order of their first array.
  Status PairArrays() {
    const auto& arrays = catalogue_.arrays;
    NameIndex by_weight;  // name under which the table knows it
    by_weight.reserve(arrays.size());
    std::vector<WeightParts> weights;
    for (uint32_t i = 0; i < arrays.size(); ++i) {
      if (IsLeftOut(i)) continue;
      if (arrays[i].id.role == Role::kUnknown) {
        out_.unknown.push_back(i);
        continue;
      }
      if (IsCacheScale(arrays[i].id.role)) {
        MIMO_RETURN_IF_ERROR(TakeCacheScale(i));
        continue;
      }
      const Part part = arrays[i].id.part;
      const auto next = static_cast<uint32_t>(weights.size());
      const auto [weight, is_new] = part == Part::kWeight
                                        ? by_weight.emplace(arrays[i].name, next)
                                        : by_weight.emplace(NameOfPart(arrays[i].name, Part::kWeight), next);
      if (is_new) weights.emplace_back();
      weights[weight][part] = i;
    }
    out_.weights.reserve(weights.size());
    for (const WeightParts& parts : weights) {
      MIMO_ASSIGN_OR_RETURN(const Weight weight, PairWeight(catalogue_, parts));
      out_.weights.push_back(weight);
    }
    return {};
  }

  // Scales that are no single number (one per head) are of no form that is known.
  Status TakeCacheScale(uint32_t index) {
    const StoredArray& array = catalogue_.arrays[index];
    const CacheScaleName* name = catalogue_.table->CacheScaleOf(array.name);
    const bool number = array.dtype == DType::kF32 || array.dtype == DType::kBF16 || array.dtype == DType::kF16;
    if (name == nullptr || !number || !(array.shape.empty() || array.shape == std::vector<int64_t>{1})) {
      out_.unknown.push_back(index);
      return {};
    }
    const int64_t layers = array.id.mtp ? out_.mtp_layers : catalogue_.config.layers;
    if (array.id.layer >= layers) return NoPlaceFor(array);
    out_.cache_scales.push_back({index, array.id, name->placement});
    return {};
  }

  Error NoPlaceFor(const StoredArray& array) const {
    return Bad(array, "a tensor that config.json leaves no place for")
        .Expected(std::to_string(catalogue_.config.layers) + " layers, " + std::to_string(catalogue_.config.experts) +
                  " experts, " + (out_.fused ? "fused" : "split") + " attention")
        .Found("this tensor")
        .Advice("config.json and tensors are of different models, or the config was edited");
  }

  Status CheckExpected() {
    std::vector<uint32_t> weight_of(catalogue_.arrays.size(), kNone);
    for (uint32_t i = 0; i < out_.weights.size(); ++i) weight_of[out_.weights[i].array] = i;
    std::vector<uint8_t> seen(out_.weights.size(), 0);
    const auto check = [&](const ExpectedTensor& tensor) -> Status {
      if (options_.without_mtp && tensor.id.mtp && !whole_mtp_.contains(tensor.id.layer)) return {};
      const StoredArray* found_array = catalogue_.Find(tensor.name);
      if (found_array == nullptr) found_array = catalogue_.Find(NameOfPart(tensor.name, Part::kPacked));
      if (found_array == nullptr) return Missing(tensor);
      const StoredArray& array = *found_array;
      const uint32_t weight_index = weight_of[static_cast<size_t>(found_array - catalogue_.arrays.data())];
      std::vector<int64_t> found = array.shape;
      const Weight& weight = out_.weights[weight_index];
      seen[weight_index] = 1;
      if (IsPacked(weight.storage)) found.back() = weight.cols;
      if (found != tensor.shape)
        return Bad(array, "the shape contradicts config.json")
            .Expected(ShapeText(tensor.shape))
            .Found(ShapeText(found))
            .Advice("config.json and tensors are of different models, or the config was edited");
      return weight.storage == Storage::kPlain ? CheckPlainType(array) : Status();
    };
    MIMO_RETURN_IF_ERROR(ForEachExpected(*catalogue_.table, catalogue_.config, {out_.fused, out_.mtp_layers}, check));
    for (size_t i = 0; i < seen.size(); ++i) {
      const Weight& weight = out_.weights[i];
      if (seen[i] || IsTower(weight.id.role)) continue;
      return NoPlaceFor(catalogue_.arrays[weight.array]);
    }
    return {};
  }

  Status CheckPlainType(const StoredArray& array) const {
    if (array.dtype == DType::kBF16 || array.dtype == DType::kF16 || array.dtype == DType::kF32) return {};
    return Bad(array, "a weight of an unexpected type")
        .Expected("BF16, F16 or F32, or FP8 or FP4 codes with scales")
        .Found(std::string(DTypeName(array.dtype)));
  }

  Error Missing(const ExpectedTensor& tensor) const {
    Error e = BadInput("a tensor that config.json calls for is missing")
                  .File(catalogue_.root)
                  .Tensor(tensor.name)
                  .Expected(ShapeText(tensor.shape))
                  .Found("in no shard header");
    if (!catalogue_.index.missing_files.empty())
      e.found += " (the index names " + catalogue_.index.missing_files.front() + ", which does not exist)";
    if (!out_.unknown.empty())
      e.found += "; " + std::to_string(out_.unknown.size()) + " that no model table knows, such as " +
                 catalogue_.arrays[out_.unknown[0]].name;
    e.id = "model.missing_tensor";
    e.advice = catalogue_.index.missing_files.empty()
                   ? "see whether config.json is of this model, and whether a tensor file is not here yet: those that "
                     "are here are whole"
                   : "bring the files that the index names and that are not here: those that are here are whole";
    return e;
  }

  void CollectAttention() {
    const ModelConfig& config = catalogue_.config;
    out_.attention.resize(static_cast<size_t>(config.layers) + static_cast<size_t>(out_.mtp_layers));
    for (size_t i = 0; i < out_.attention.size(); ++i) {
      out_.attention[i].mtp = i >= static_cast<size_t>(config.layers);
      out_.attention[i].layer =
          static_cast<int32_t>(out_.attention[i].mtp ? i - static_cast<size_t>(config.layers) : i);
    }
    for (uint32_t i = 0; i < out_.weights.size(); ++i) {
      const Weight& w = out_.weights[i];
      if (!IsAttentionProjection(w.id.role)) continue;
      AttentionWeights& a = out_.attention[static_cast<size_t>(w.id.layer + (w.id.mtp ? config.layers : 0))];
      (w.id.role == Role::kAttnQkv ? a.qkv
       : w.id.role == Role::kAttnQ ? a.q
       : w.id.role == Role::kAttnK ? a.k
                                   : a.v) = i;
      out_.quantized_attention |= w.in_blocks();
    }
    if (options_.without_mtp)
      std::erase_if(out_.attention, [&](const AttentionWeights& a) { return a.mtp && !whole_mtp_.contains(a.layer); });
  }

  const Catalogue& catalogue_;
  const InventoryOptions options_;
  std::set<int> whole_mtp_;           // layers that are taken, where others may be left out
  std::vector<uint8_t> is_left_out_;  // by array
  Inventory out_;
};

}  // namespace

Result<Inventory> TakeInventory(const Catalogue& catalogue, const InventoryOptions& options) {
  return InventoryTaker(catalogue, options).Take();
}

}  // namespace mimo
