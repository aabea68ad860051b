#include "lib/model/inventory.h"

#include <algorithm>
#include <set>

#include "lib/base/checked.h"
#include "lib/base/file_system.h"

namespace mimo {

namespace {

std::string ShapeText(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

class InventoryTaker {
 public:
  explicit InventoryTaker(const Catalogue& catalogue) : catalogue_(catalogue) {}

  Result<Inventory> Take() {
    MIMO_RETURN_IF_ERROR(CheckConfig());
    MIMO_RETURN_IF_ERROR(CountMtp());
    DecideFused();
    MIMO_RETURN_IF_ERROR(PairArrays());
    MIMO_RETURN_IF_ERROR(CheckExpected());
    CollectAttention();
    return std::move(out_);
  }

 private:
  std::string FileOf(const StoredArray& array) const {
    return JoinPath(catalogue_.root, catalogue_.files[array.file].name);
  }
  Error Bad(const StoredArray& array, std::string what, std::string expected, std::string found,
            std::string advice) const {
    Error e;
    e.what = std::move(what);
    e.file = FileOf(array);
    e.tensor = array.name;
    e.expected = std::move(expected);
    e.found = std::move(found);
    e.advice = std::move(advice);
    return e;
  }

  // Only the block sizes of this family are known to be right.
  Status CheckConfig() const {
    const ModelConfig& c = catalogue_.config;
    if (c.block_rows == 128 && c.block_cols == 128 && c.mxfp4_block == 32) return {};
    Error e;
    e.what = "unsupported quantization block";
    e.file = c.path;
    e.expected = "weight_block_size [128, 128], mxfp4_block_size 32";
    e.found = "[" + std::to_string(c.block_rows) + ", " + std::to_string(c.block_cols) + "], " +
              std::to_string(c.mxfp4_block);
    return e;
  }

  Status CountMtp() {
    std::set<int> layers;
    for (const StoredArray& array : catalogue_.arrays)
      if (array.id.mtp) layers.insert(array.id.layer);
    out_.mtp_layers = static_cast<int>(layers.size());
    if (layers.empty() || *layers.rbegin() == out_.mtp_layers - 1) return {};
    Error e;
    e.what = "MTP layers are not numbered from 0 without gaps";
    e.file = catalogue_.root;
    e.expected = "model.mtp.layers.0 .. " + std::to_string(out_.mtp_layers - 1);
    for (int layer : layers) e.found += (e.found.empty() ? "layers " : ", ") + std::to_string(layer);
    e.advice = "complete the checkpoint";
    return e;
  }

  // All layers are stored alike; the first attention array decides and the rest is checked against it.
  void DecideFused() {
    bool split = false;
    for (const StoredArray& array : catalogue_.arrays) {
      if (array.id.role == Role::kAttnQkv) out_.fused = true;
      if (array.id.role == Role::kAttnQ) split = true;
    }
    if (!out_.fused && !split) out_.fused = catalogue_.config.projection_layout == "fused_qkv";
  }

  Status PairArrays() {
    const auto& arrays = catalogue_.arrays;
    scale_of_.assign(arrays.size(), kNone);
    for (uint32_t i = 0; i < arrays.size(); ++i) {
      const StoredArray& scale = arrays[i];
      if (scale.id.part == Part::kWeight) continue;
      const std::string weight_name =
          scale.name.substr(0, scale.name.size() - (scale.id.part == Part::kFp8Scale ? 10 : 6));
      auto it = catalogue_.by_name.find(weight_name);
      if (it == catalogue_.by_name.end())
        return Bad(scale, "a scale without its weight", "tensor " + weight_name, "none in any file",
                   "complete the checkpoint");
      scale_of_[it->second] = i;
    }
    for (uint32_t i = 0; i < arrays.size(); ++i) {
      if (arrays[i].id.part != Part::kWeight) continue;
      if (arrays[i].id.role == Role::kUnknown) {
        out_.unknown.push_back(i);
        continue;
      }
      MIMO_RETURN_IF_ERROR(AddWeight(i));
    }
    return {};
  }

  Status AddWeight(uint32_t i) {
    const StoredArray& array = catalogue_.arrays[i];
    const uint32_t scale = scale_of_[i];
    Weight w;
    w.id = array.id;
    w.array = i;
    w.scale = scale;
    if (scale == kNone) {
      if (array.dtype == DType::kF8E4M3)
        return Bad(array, "FP8 codes without their scales", "tensor " + array.name + "_scale_inv", "none in any file",
                   "complete the checkpoint: fetch the shard that holds it");
      if (array.dtype == DType::kU8 && (array.id.role == Role::kExpertGate || array.id.role == Role::kExpertUp ||
                                        array.id.role == Role::kExpertDown))
        return Bad(array, "MXFP4 codes without their scales", "tensor " + array.name + "_scale", "none in any file",
                   "complete the checkpoint: fetch the shard that holds it");
    } else {
      const StoredArray& s = catalogue_.arrays[scale];
      const bool fp8 = s.id.part == Part::kFp8Scale;
      const DType code_type = fp8 ? DType::kF8E4M3 : DType::kU8, scale_type = fp8 ? DType::kF32 : DType::kU8;
      if (array.dtype != code_type || array.shape.size() != 2)
        return Bad(array, "a weight with scales of another kind",
                   std::string(DTypeName(code_type)) + " codes, two-dimensional",
                   std::string(DTypeName(array.dtype)) + " " + ShapeText(array.shape) + " beside " + s.name, "");
      if (s.dtype != scale_type || s.shape.size() != 2)
        return Bad(s, "scale of the wrong type", std::string(DTypeName(scale_type)) + ", two-dimensional",
                   std::string(DTypeName(s.dtype)) + " " + ShapeText(s.shape), "");
      w.storage = fp8 ? Storage::kFp8Block : Storage::kMxfp4;
      MIMO_RETURN_IF_ERROR(CheckScaleShape(array, s, fp8));
    }
    w.rows = array.shape.empty() ? 1 : array.shape[0];
    w.cols = array.shape.size() < 2 ? 1 : array.shape[1] * (w.storage == Storage::kMxfp4 ? 2 : 1);
    out_.weights.push_back(w);
    return {};
  }

  Status CheckScaleShape(const StoredArray& array, const StoredArray& scale, bool fp8) const {
    std::vector<int64_t> expected =
        fp8 ? std::vector<int64_t>{CeilDiv(array.shape[0], 128), CeilDiv(array.shape[1], 128)}
            : std::vector<int64_t>{array.shape[0], array.shape[1] / 16};
    const Role role = array.id.role;
    if (role == Role::kAttnQkv || role == Role::kAttnQ || role == Role::kAttnK || role == Role::kAttnV)
      expected[0] = scale.shape[0];  // which rows are right depends on the layout: lib/layout/decide.h
    if (scale.shape == expected && (fp8 || array.shape[1] % 16 == 0)) return {};
    return Bad(scale, "scale of the wrong shape", ShapeText(expected) + " for a weight of " + ShapeText(array.shape),
               ShapeText(scale.shape), "the file is damaged or not of this family");
  }

  Status CheckExpected() {
    MIMO_ASSIGN_OR_RETURN(std::vector<ExpectedTensor> expected,
                          ExpectedTensors(*catalogue_.table, catalogue_.config, out_.fused, out_.mtp_layers));
    std::vector<uint32_t> weight_of(catalogue_.arrays.size(), kNone);
    for (uint32_t i = 0; i < out_.weights.size(); ++i) weight_of[out_.weights[i].array] = i;
    std::vector<uint8_t> seen(out_.weights.size(), 0);
    for (const ExpectedTensor& tensor : expected) {
      auto it = catalogue_.by_name.find(tensor.name);
      if (it == catalogue_.by_name.end()) return Missing(tensor);
      const StoredArray& array = catalogue_.arrays[it->second];
      std::vector<int64_t> found = array.shape;
      const Weight& weight = out_.weights[weight_of[it->second]];
      seen[weight_of[it->second]] = 1;
      if (weight.storage == Storage::kMxfp4) found.back() *= 2;
      if (found != tensor.shape)
        return Bad(array, "the shape contradicts config.json", ShapeText(tensor.shape), ShapeText(found),
                   "config.json and tensors are of different models, or the config was edited");
      if (weight.storage == Storage::kPlain) MIMO_RETURN_IF_ERROR(CheckPlainType(array));
    }
    for (size_t i = 0; i < seen.size(); ++i) {
      const Weight& weight = out_.weights[i];
      if (seen[i] || weight.id.role == Role::kVision || weight.id.role == Role::kAudio ||
          weight.id.role == Role::kSpeech)
        continue;
      const StoredArray& array = catalogue_.arrays[weight.array];
      return Bad(array, "a tensor that config.json leaves no place for",
                 std::to_string(catalogue_.config.layers) + " layers, " + std::to_string(catalogue_.config.experts) +
                     " experts, " + (out_.fused ? "fused" : "split") + " attention",
                 "this tensor", "config.json and tensors are of different models, or the config was edited");
    }
    return {};
  }

  Status CheckPlainType(const StoredArray& array) const {
    if (array.dtype == DType::kBF16 || array.dtype == DType::kF16 || array.dtype == DType::kF32) return {};
    return Bad(array, "a weight of an unexpected type", "BF16, F16 or F32, or FP8/MXFP4 codes with scales",
               std::string(DTypeName(array.dtype)), "");
  }

  Error Missing(const ExpectedTensor& tensor) const {
    Error e;
    e.what = "a tensor that config.json calls for is missing";
    e.file = catalogue_.root;
    e.tensor = tensor.name;
    e.expected = ShapeText(tensor.shape);
    e.found = "in no shard header";
    if (!catalogue_.index.missing_files.empty())
      e.found += " (the index names " + catalogue_.index.missing_files.front() + ", which does not exist)";
    e.advice = "complete the checkpoint, or correct config.json";
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
      if (w.id.role != Role::kAttnQkv && w.id.role != Role::kAttnQ && w.id.role != Role::kAttnK &&
          w.id.role != Role::kAttnV)
        continue;
      AttentionWeights& a = out_.attention[static_cast<size_t>(w.id.layer + (w.id.mtp ? config.layers : 0))];
      (w.id.role == Role::kAttnQkv ? a.qkv
       : w.id.role == Role::kAttnQ ? a.q
       : w.id.role == Role::kAttnK ? a.k
                                   : a.v) = i;
      out_.quantized_attention |= w.storage == Storage::kFp8Block;
    }
  }

  const Catalogue& catalogue_;
  Inventory out_;
  std::vector<uint32_t> scale_of_;
};

}  // namespace

Result<Inventory> TakeInventory(const Catalogue& catalogue) {
  return InventoryTaker(catalogue).Take();
}

}  // namespace mimo
