// Which tensors a synthetic checkpoint has and which file each goes to.
#include <algorithm>
#include <limits>
#include <map>
#include <tuple>

#include "lib/base/checked.h"
#include "lib/model/config.h"
#include "lib/model/family.h"
#include "lib/model/file_names.h"
#include "lib/model/role_groups.h"
#include "lib/synth/scale_config.h"
#include "lib/synth/synth.h"

namespace mimo {
namespace {

bool IsTowerNorm(std::string_view name) {
  return name.ends_with("norm1.weight") || name.ends_with("norm2.weight") || name.ends_with("ln_q.weight") ||
         name.ends_with("norm.weight");
}

Fill PlainFill(Role role) {
  if (IsNorm(role)) return Fill::kNorm;
  return role == Role::kAttnSink ? Fill::kSink : Fill::kWeight;
}

void Replace(std::string* text, std::string_view from, std::string_view to) {
  const size_t at = text->find(from);
  if (at != std::string::npos) text->replace(at, from.size(), to);
}

// Collects tensors into files.
class Planner {
 public:
  Planner(const Preset& preset, const ModelConfig& config, const ModelTable& table)
      : preset_(preset), config_(config), table_(table) {
    experts_per_rank_ = std::max<int64_t>(1, CeilDiv(config.experts, preset.ep));
  }

  Status AddDecoder(int mtp_layers) {
    MIMO_ASSIGN_OR_RETURN(const std::vector<ExpectedTensor> expected,
                          ExpectedTensors(table_, config_, preset_.fused, mtp_layers));
    for (const ExpectedTensor& tensor : expected) MIMO_RETURN_IF_ERROR(AddExpected(tensor));
    return {};
  }

  Status AddTowers() {
    MIMO_ASSIGN_OR_RETURN(const std::vector<TowerTensor> towers, TowerTensors(config_.family->name, config_.hidden));
    for (const TowerTensor& tower : towers) {
      const Fill fill = IsTowerNorm(tower.name)         ? Fill::kNorm
                        : tower.name.ends_with("sinks") ? Fill::kSink
                                                        : Fill::kWeight;
      MIMO_RETURN_IF_ERROR(Add(table_.Identify(tower.name), tower.name, DType::kBF16, tower.shape, fill));
    }
    return {};
  }

  // Files by name, and tensors as the released shards have them.
  void Finish(SynthPlan* plan) && {
    if (preset_.shards.bytes > 0) FillShards();
    const auto width = [&](const SynthTensor& tensor) {
      return preset_.shards.by_width ? BitsPerElement(tensor.info.dtype) : 0;
    };
    for (auto& [name, tensors] : files_) {
      std::sort(tensors.begin(), tensors.end(), [&](const SynthTensor& a, const SynthTensor& b) {
        return width(a) != width(b) ? width(a) > width(b) : a.info.name < b.info.name;
      });
      plan->tensors += tensors.size();
      for (const SynthTensor& tensor : tensors) plan->payload_bytes += BytesOf(tensor);
      plan->files.push_back({name, std::move(tensors)});
    }
  }

 private:
  Status AddExpected(const ExpectedTensor& tensor) {
    const std::string& storage = tensor.rule->storage;
    if (!preset_.quantized && (storage == "linear" || storage == "expert"))
      return Add(tensor.id, tensor.name, preset_.plain, tensor.shape, Fill::kWeight);
    if (storage == "linear" || (storage == "expert" && !preset_.mxfp4_experts)) return AddFp8(tensor);
    if (storage == "expert") return AddMxfp4(tensor);
    if (storage == "router") return Add(tensor.id, tensor.name, preset_.router, tensor.shape, Fill::kRouter);
    if (storage == "f32") return Add(tensor.id, tensor.name, DType::kF32, tensor.shape, Fill::kRouterBias);
    return Add(tensor.id, tensor.name, preset_.plain, tensor.shape, PlainFill(tensor.id.role));
  }

  Status AddFp8(const ExpectedTensor& tensor) {
    const ChunkGrid grid = GridOf(tensor);
    std::string cells = tensor.name;  // Q, K and V share the cells of their chunks, under the name of the fused tensor
    const Role role = tensor.id.role;
    if (IsAttentionProjection(role) && !preset_.own_grids) {
      TensorId fused = tensor.id;
      fused.role = Role::kAttnQkv;
      cells = table_.NameOf(fused);
    }
    TensorId scale = tensor.id;
    scale.part = Part::kScaleInv;
    const std::vector<int64_t> scale_shape = {grid.chunks * (grid.last_block() - grid.first_block()),
                                              grid.col_blocks()};
    MIMO_RETURN_IF_ERROR(Add(tensor.id, tensor.name, DType::kF8E4M3, tensor.shape, Fill::kFp8Codes, grid, cells));
    return Add(scale, table_.NameOf(scale), preset_.scales, scale_shape, Fill::kFp8Scales, grid, cells);
  }

  Status AddMxfp4(const ExpectedTensor& tensor) {
    const std::vector<int64_t> codes = {tensor.shape[0], tensor.shape[1] / 2};
    const std::vector<int64_t> scales = {tensor.shape[0], CeilDiv(tensor.shape[1], config_.mxfp4_block)};
    TensorId scale = tensor.id;
    scale.part = Part::kScale;
    MIMO_RETURN_IF_ERROR(Add(tensor.id, tensor.name, DType::kU8, codes, Fill::kMxfp4Codes));
    return Add(scale, table_.NameOf(scale), DType::kU8, scales, Fill::kMxfp4Scales);
  }

  ChunkGrid GridOf(const ExpectedTensor& tensor) const {
    ChunkGrid grid;
    grid.block_rows = config_.block_rows;
    grid.block_cols = config_.block_cols;
    grid.cols = tensor.shape[1];
    grid.chunk_rows = grid.part_rows = tensor.shape[0];
    const Role role = tensor.id.role;
    if (!IsAttentionProjection(role) || preset_.own_grids) return grid;
    const AttentionShape& shape = config_.attention_of(tensor.id.layer, tensor.id.mtp);
    grid.chunks = preset_.chunks;
    grid.q_rows = shape.q_rows() / grid.chunks;
    grid.k_rows = shape.k_rows() / grid.chunks;
    grid.chunk_rows = grid.q_rows + grid.k_rows + shape.v_rows() / grid.chunks;
    grid.part_rows = tensor.shape[0] / grid.chunks;
    if (role == Role::kAttnK) grid.part_begin = grid.q_rows;
    if (role == Role::kAttnV) grid.part_begin = grid.q_rows + grid.k_rows;
    return grid;
  }

  Status Add(const TensorId& id, const std::string& name, DType dtype, const std::vector<int64_t>& shape, Fill fill,
             const ChunkGrid& grid = {}, const std::string& cells = "") {
    if (!TensorBytes(dtype, shape)) return Unplaceable(name, "its size overflows");
    if (preset_.shards.bytes > 0) {
      in_order_.push_back({{name, dtype, shape}, id, fill, grid, cells});
      return {};
    }
    for (const FileRule& rule : preset_.files) {
      if (rule.mtp && !id.mtp) continue;
      if (!rule.roles.empty() && std::find(rule.roles.begin(), rule.roles.end(), id.role) == rule.roles.end()) continue;
      std::string file = rule.file;
      Replace(&file, "{ep}", std::to_string(std::max<int64_t>(0, id.expert) / experts_per_rank_));
      Replace(&file, "{half}", 2 * id.layer >= config_.layers ? "1" : "0");
      if (id.layer >= 0) Replace(&file, "{layer}", std::to_string(id.layer));
      if (file.find('{') != std::string::npos) break;
      files_[file + ".safetensors"].push_back({{name, dtype, shape}, id, fill, grid, cells});
      return {};
    }
    return Unplaceable(name, "no file rule of the preset matches");
  }

  static uint64_t BytesOf(const SynthTensor& tensor) { return *TensorBytes(tensor.info.dtype, tensor.info.shape); }

  // Where a tensor stands in the order of the model: the embedding, layers, MTP layers, what comes after them.
  int64_t PlaceInModel(const TensorId& id) const {
    if (id.role == Role::kFinalNorm || id.role == Role::kLmHead) return std::numeric_limits<int64_t>::max();
    return id.layer < 0 ? -1 : id.layer + (id.mtp ? config_.layers : 0);
  }

  // The same within a layer: its rule, where those of experts are one, so that an expert is whole before the next.
  size_t PlaceInLayer(const TensorId& id) const {
    const std::vector<TensorRule>& rules = table_.rules();
    const auto place = std::find_if(rules.begin(), rules.end(), [&](const TensorRule& rule) {
      return rule.mtp == id.mtp && (rule.role == id.role || (IsExpert(rule.role) && IsExpert(id.role)));
    });
    return static_cast<size_t>(place - rules.begin());
  }

  // Files are filled one after the other until the next tensor would be too much.
  void FillShards() {
    const ShardRule& rule = preset_.shards;
    if (rule.by_name) {
      std::sort(in_order_.begin(), in_order_.end(),
                [](const SynthTensor& a, const SynthTensor& b) { return a.info.name < b.info.name; });
    } else {
      std::vector<std::tuple<int64_t, size_t, int32_t, size_t>> places;  // the last one: as they came
      for (const SynthTensor& tensor : in_order_)
        places.emplace_back(PlaceInModel(tensor.id), PlaceInLayer(tensor.id), tensor.id.expert, places.size());
      std::sort(places.begin(), places.end());
      std::vector<SynthTensor> sorted;
      for (const auto& place : places) sorted.push_back(std::move(in_order_[std::get<3>(place)]));
      in_order_ = std::move(sorted);
    }
    std::vector<std::vector<SynthTensor>> shards;
    uint64_t filled = 0;
    for (SynthTensor& tensor : in_order_) {
      const uint64_t bytes = BytesOf(tensor);
      if (shards.empty() || filled + bytes > rule.bytes) {
        shards.emplace_back();
        filled = 0;
      }
      filled += bytes;
      shards.back().push_back(std::move(tensor));
    }
    const auto number = [](int64_t n) {
      std::string text = std::to_string(n);
      return std::string(text.size() < 5 ? 5 - text.size() : 0, '0') + text;
    };
    const auto count = static_cast<int64_t>(shards.size());
    const std::string of = number(rule.declared > count ? rule.declared : count);
    for (int64_t i = 0; i < count; ++i)
      files_["model-" + number(rule.first + i) + "-of-" + of + ".safetensors"] =
          std::move(shards[static_cast<size_t>(i)]);
  }

  Error Unplaceable(const std::string& tensor, std::string what) const {
    return BadInput("preset " + preset_.name + ": " + std::move(what)).Tensor(tensor);
  }

  const Preset& preset_;
  const ModelConfig& config_;
  const ModelTable& table_;
  int64_t experts_per_rank_ = 1;
  std::map<std::string, std::vector<SynthTensor>> files_;
  std::vector<SynthTensor> in_order_;  // of ShardRule
};

}  // namespace

Result<SynthPlan> PlanSynthetic(const SynthOptions& options) {
  SynthPlan plan;
  plan.options = options;
  MIMO_ASSIGN_OR_RETURN(plan.preset, LoadPreset(options.preset));
  MIMO_ASSIGN_OR_RETURN(plan.config, ScaledConfig(plan.preset, options));
  MIMO_ASSIGN_OR_RETURN(const ModelConfig config, ParseModelConfig(plan.config, kConfigName));
  Planner planner(plan.preset, config, *config.family->table.Of(config.layers));
  MIMO_RETURN_IF_ERROR(planner.AddDecoder(options.mtp ? plan.preset.mtp_layers : 0));
  if (plan.preset.towers && options.towers) MIMO_RETURN_IF_ERROR(planner.AddTowers());
  std::move(planner).Finish(&plan);
  return plan;
}

}  // namespace mimo
