#include "lib/inspect/describe.h"

#include <algorithm>
#include <cctype>
#include <map>
#include <set>
#include <tuple>

#include "lib/model/role_groups.h"

namespace mimo {
namespace {

void Merge(std::string& storage, const std::string& name) {
  if (storage == name) return;
  if (storage.empty()) {
    storage = name;
  } else if (("+" + storage + "+").find("+" + name + "+") == std::string::npos) {
    storage += "+" + name;
  }
}

class CheckpointDescriber {
 public:
  CheckpointDescriber(const Catalogue& catalogue, const Inventory* inventory)
      : catalogue_(catalogue), inventory_(inventory) {}

  void Fill(Description* out) {
    const ModelConfig& config = catalogue_.config;
    out->model_type = config.model_type;
    out->architectures = config.architectures;
    out->layers = config.layers;
    out->hidden = config.hidden;
    out->vocab = config.vocab;
    out->experts = config.experts;
    out->tensor_count = catalogue_.arrays.size();
    out->payload_bytes = catalogue_.payload_bytes();
    out->quant_method = config.quant_method;
    out->store_dtype = config.store_dtype;
    out->block_rows = config.block_rows;
    out->block_cols = config.block_cols;
    out->index = catalogue_.index;
    out->index.text.clear();
    Files(out);
    Totals(out);
    Attention(out);
    Layers(out);
  }

 private:
  void Files(Description* out) const {
    for (const CatalogueFile& file : catalogue_.files) {
      out->files.push_back({file.name, 0, file.bytes});
      out->file_bytes += file.bytes;
    }
    for (const StoredArray& array : catalogue_.arrays) {
      if (array.file < out->files.size()) ++out->files[array.file].files;
    }
    std::map<std::string, NamedBytes> directories;
    for (const CarriedFile& file : catalogue_.carried) {
      const size_t slash = file.name.find('/');
      if (slash == std::string::npos) {
        out->carried.push_back(file);
        continue;
      }
      NamedBytes& directory = directories[file.name.substr(0, slash)];
      directory.name = file.name.substr(0, slash);
      ++directory.files;
      directory.bytes += file.bytes;
    }
    for (auto& [name, directory] : directories) out->subdirectories.push_back(std::move(directory));
  }

  void Totals(Description* out) const {
    std::map<std::string, DTypeTotal> dtypes;
    std::map<std::pair<bool, Role>, RoleTotal> roles;
    for (const StoredArray& array : catalogue_.arrays) {
      DTypeTotal& dtype = dtypes[std::string(DTypeName(array.dtype))];
      dtype.dtype = array.dtype;
      ++dtype.tensors;
      dtype.bytes += array.bytes;
      RoleTotal& role = roles[{array.id.mtp, array.id.role}];
      role.role = array.id.role;
      role.mtp = array.id.mtp;
      role.bytes += array.bytes;
      if (!HoldsElements(array.id.part)) continue;
      ++role.weights;
      Merge(role.storage, StorageName(catalogue_, array));
    }
    for (size_t i = 0; inventory_ != nullptr && i < inventory_->weights.size(); ++i) {
      const Weight& weight = inventory_->weights[i];
      if (HasBlockGrid(weight.storage)) Merge(roles[{weight.id.mtp, weight.id.role}].scales, ScalesText(weight));
    }
    for (auto& [key, total] : roles)
      if (total.scales == "f32 per block") total.scales.clear();
    for (auto& [name, total] : dtypes) out->dtypes.push_back(total);
    for (auto& [key, total] : roles) out->roles.push_back(std::move(total));
  }

  std::string ScalesText(const Weight& weight) const {
    std::string type(DTypeName(catalogue_.arrays[weight.scale].dtype));
    std::ranges::transform(type, type.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    return type +
           (weight.per_row()      ? " per row"
            : weight.per_tensor() ? " per tensor"
                                  : " per block") +
           (catalogue_.arrays[weight.array].dtype == DType::kU8 ? ", codes stored as u8" : "");
  }

  void Attention(Description* out) const {
    const ModelConfig& config = catalogue_.config;
    bool fused = false, split = false;
    for (const StoredArray& array : catalogue_.arrays) {
      fused |= array.id.role == Role::kAttnQkv;
      split |= array.id.role == Role::kAttnQ || array.id.role == Role::kAttnK || array.id.role == Role::kAttnV;
    }
    out->qkv_layout = fused ? "fused" : split ? "split" : "none";
    for (bool windowed : {false, true}) {
      AttentionKind kind;
      kind.name = windowed ? "window" : "full";
      kind.stored = config.attention(windowed);
      kind.logical_kv_heads = LogicalShape(config, windowed).kv_heads;
      kind.sinks = windowed ? config.window_sinks : config.global_sinks;
      for (size_t layer = 0; layer < config.windowed.size(); ++layer) {
        if ((config.windowed[layer] != 0) == windowed) kind.layers.push_back(static_cast<int>(layer));
      }
      if (!kind.layers.empty()) out->attention.push_back(std::move(kind));
    }
    out->mtp_attention = config.mtp_windowed ? "window" : "full";
    for (uint8_t windowed : config.windowed) out->attention_by_layer.push_back(windowed != 0 ? "window" : "full");
  }

  void Layers(Description* out) const {
    const ModelConfig& config = catalogue_.config;
    std::map<std::pair<bool, int>, LayerRow> rows;
    std::map<std::pair<bool, int>, std::set<int>> experts;
    for (const StoredArray& array : catalogue_.arrays) {
      if (array.id.layer < 0 || array.id.role == Role::kUnknown) continue;
      const std::pair<bool, int> key{array.id.mtp, array.id.layer};
      LayerRow& row = rows[key];
      ++row.tensors;
      row.bytes += array.bytes;
      const bool weight = HoldsElements(array.id.part);
      const bool scale = array.id.part == Part::kScale || array.id.part == Part::kScaleInv;
      if (IsAttentionProjection(array.id.role) && !array.shape.empty()) {
        if (weight) row.qkv_rows += array.shape[0];
        if (scale) row.qkv_scale_rows += array.shape[0];  // elements of a vector, one per row
        if (weight) Merge(row.qkv_storage, StorageName(catalogue_, array));
      }
      if (weight && (IsExpert(array.id.role) || IsDenseMlp(array.id.role)))
        Merge(row.mlp_storage, StorageName(catalogue_, array));
      if (IsExpert(array.id.role)) experts[key].insert(array.id.expert);
    }
    for (auto& [key, row] : rows) {
      const auto layer = static_cast<size_t>(key.second);
      row.mtp = key.first;
      row.layer = key.second;
      row.experts = static_cast<int64_t>(experts[key].size());
      row.mlp = row.experts > 0 ? "moe" : "dense";
      const bool windowed =
          row.mtp ? config.mtp_windowed : layer < config.windowed.size() && config.windowed[layer] != 0;
      row.attention = windowed ? "window" : "full";
      out->mtp_layers += row.mtp ? 1 : 0;
      out->layer_rows.push_back(std::move(row));
    }
    if (inventory_ != nullptr) out->mtp_layers = inventory_->mtp_layers;
  }

  const Catalogue& catalogue_;
  const Inventory* inventory_;
};

}  // namespace

std::string FormText(const Description& description) {
  std::string text(WordOf(kForms, description.form));
  if (IsOfRanks(description.form)) text += " of " + std::to_string(description.ranks) + " ranks";
  return text;
}

Result<Description> Describe(const Catalogue& catalogue, const Inventory* inventory, const LayoutVerdict* verdict,
                             const std::vector<int64_t>& tps) {
  Description description;
  CheckpointDescriber(catalogue, inventory).Fill(&description);
  MIMO_ASSIGN_OR_RETURN(description.family, IdentifyFamily(catalogue, &description.family_evidence));
  if (inventory != nullptr) description.candidates = FeasibleLayouts(catalogue, *inventory);
  if (verdict == nullptr) return description;
  description.verdict = *verdict;
  if (inventory == nullptr || description.qkv_layout == "none") return description;
  MIMO_ASSIGN_OR_RETURN(description.engines, JudgeEngines(catalogue, *inventory, verdict->layout, tps));
  return description;
}

}  // namespace mimo
