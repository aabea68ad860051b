// What a complete checkpoint of a config holds.
#include <algorithm>
#include <charconv>

#include "lib/base/checked.h"
#include "lib/model/names.h"

namespace mimo {
namespace {

constexpr uint64_t kMaxListedExperts = 1 << 20;  // of all layers

Error BadSymbol(std::string what, std::string_view symbol) {
  return BadInput("bad shape symbol in a model table: " + std::move(what))
      .Found(std::string(symbol))
      .Advice("see Dimension() in lib/model/names.h");
}

std::optional<int64_t> ParseInteger(std::string_view text) {
  int64_t value = 0;
  auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (ec != std::errc() || end != text.data() + text.size() || value < 0) return std::nullopt;
  return value;
}

std::optional<int64_t> OfModel(std::string_view symbol, const ModelConfig& config) {
  if (symbol == "hidden") return config.hidden;
  if (symbol == "vocab") return config.vocab;
  if (symbol == "intermediate") return config.intermediate;
  if (symbol == "moe_intermediate") return config.moe_intermediate;
  if (symbol == "experts") return config.experts;
  if (symbol == "shared_intermediate") return config.shared_experts * config.moe_intermediate;
  return ParseInteger(symbol);
}

std::optional<int64_t> OfAttention(std::string_view symbol, const AttentionShape& shape) {
  if (symbol == "heads") return shape.heads;
  if (symbol == "head_dim") return shape.head_dim;
  if (symbol == "q_rows") return shape.q_rows();
  if (symbol == "k_rows") return shape.k_rows();
  if (symbol == "v_rows") return shape.v_rows();
  if (symbol == "qkv_rows") return shape.q_rows() + shape.k_rows() + shape.v_rows();
  if (symbol == "o_cols") return shape.heads * shape.v_head_dim;
  return std::nullopt;
}

// Of the KV heads that the model has, whatever fused attention repeats for ranks.
int64_t NormRows(const ModelConfig& config, int layer, bool mtp) {
  AttentionShape shape = config.attention_of(layer, mtp);
  if (config.marker) {
    const int64_t heads = config.windowed_at(layer, mtp) ? config.marker->swa_kv_heads : config.marker->kv_heads;
    if (heads > 0) shape.kv_heads = heads;
  }
  return shape.k_rows();
}

bool Holds(std::string_view condition, bool mtp, const ModelConfig& config, bool fused, int layer) {
  if (condition == "fused") return fused;
  if (condition == "split") return !fused;
  if (condition == "dense") return !config.moe_at(layer, mtp);
  if (condition == "moe") return config.moe_at(layer, mtp);
  if (condition == "shared") return config.shared_experts > 0;
  if (condition == "untied") return !config.tied_embeddings;
  if (condition == "sinks") {
    const bool windowed = layer >= 0 && config.windowed_at(layer, mtp);
    return windowed ? config.window_sinks : config.global_sinks;
  }
  const auto flag = config.flags.find(condition);
  return flag != config.flags.end() && flag->second;
}

// Whether the tensor of a rule exists in this layer (layer -1: outside of layers).
bool Exists(const TensorRule& rule, const ModelConfig& config, bool fused, int layer) {
  return std::all_of(rule.when.begin(), rule.when.end(),
                     [&](const std::string& condition) { return Holds(condition, rule.mtp, config, fused, layer); });
}

}  // namespace

Result<int64_t> Dimension(std::string_view symbol, const ModelConfig& config, int layer, bool mtp) {
  int64_t factor = 1;
  std::string_view rest = symbol;
  if (const size_t star = symbol.find('*'); star != std::string_view::npos) {
    const auto parsed = ParseInteger(symbol.substr(0, star));
    if (!parsed) return BadSymbol("bad factor", symbol);
    factor = *parsed;
    rest = symbol.substr(star + 1);
  }
  std::optional<int64_t> value = OfModel(rest, config);
  if (!value && (mtp || (layer >= 0 && layer < config.layers))) {
    value = rest == "k_norm_rows" ? NormRows(config, layer, mtp) : OfAttention(rest, config.attention_of(layer, mtp));
  }
  if (!value) return BadSymbol("unknown here", symbol);
  const auto product = CheckedMul(static_cast<uint64_t>(factor), static_cast<uint64_t>(*value));
  if (!product || *product > static_cast<uint64_t>(INT64_MAX)) return BadSymbol("too large", symbol);
  return static_cast<int64_t>(*product);
}

Status ForEachExpected(const ModelTable& table, const ModelConfig& config, const ExpectedParts& parts,
                       const std::function<Status(ExpectedTensor&&)>& take) {
  auto add = [&](const TensorRule& rule, int layer) -> Status {
    std::vector<int64_t> shape;
    for (const std::string& symbol : rule.shape) {
      MIMO_ASSIGN_OR_RETURN(const int64_t extent, Dimension(symbol, config, layer, rule.mtp));
      shape.push_back(extent);
    }
    const bool per_expert = rule.pattern.find("{expert}") != std::string::npos;
    const int32_t experts = !per_expert          ? 1
                            : parts.every_expert ? static_cast<int32_t>(config.experts)
                            : config.experts > 0 ? 1
                                                 : 0;
    for (int32_t expert = 0; expert < experts; ++expert) {
      const TensorId id{rule.role, Part::kWeight, rule.mtp, layer, per_expert ? expert : -1};
      MIMO_RETURN_IF_ERROR(take({id, &rule, table.NameOf(id), shape}));
    }
    return {};
  };
  // Rules in table order: first those outside of layers, then per decoder layer, then per MTP layer.
  auto add_layer = [&](bool mtp, int layer) -> Status {
    for (const TensorRule& rule : table.rules()) {
      const bool layered = rule.pattern.find(kLayerSlot) != std::string::npos ||
                           rule.pattern.find(kLayerBehindSlot) != std::string::npos;
      if (layered != (layer >= 0) || rule.mtp != mtp || !Exists(rule, config, parts.fused, layer)) continue;
      MIMO_RETURN_IF_ERROR(add(rule, layer));
    }
    return {};
  };
  MIMO_RETURN_IF_ERROR(add_layer(false, -1));
  for (int layer = 0; layer < config.layers; ++layer) MIMO_RETURN_IF_ERROR(add_layer(false, layer));
  for (int layer = 0; layer < parts.mtp_layers; ++layer) MIMO_RETURN_IF_ERROR(add_layer(true, layer));
  return {};
}

Result<std::vector<ExpectedTensor>> ExpectedTensors(const ModelTable& table, const ModelConfig& config, bool fused,
                                                    int mtp_layers, bool every_expert) {
  const auto moe_layers = static_cast<uint64_t>(std::count(config.moe.begin(), config.moe.end(), 1));
  const auto experts = CheckedMul(moe_layers, static_cast<uint64_t>(config.experts));
  if (every_expert && (!experts || *experts > kMaxListedExperts))
    return BadInput("the config describes too many experts")
        .File(config.path)
        .Expected("at most " + std::to_string(kMaxListedExperts) + " in all layers")
        .Found(std::to_string(config.experts) + " experts in " + std::to_string(moe_layers) + " layers")
        .Advice("correct n_routed_experts or num_hidden_layers");
  std::vector<ExpectedTensor> tensors;
  const auto take = [&](ExpectedTensor&& tensor) -> Status {
    tensors.push_back(std::move(tensor));
    return {};
  };
  MIMO_RETURN_IF_ERROR(ForEachExpected(table, config, {fused, mtp_layers, every_expert}, take));
  return tensors;
}

}  // namespace mimo
