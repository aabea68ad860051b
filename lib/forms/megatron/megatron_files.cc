#include "lib/forms/megatron/megatron_files.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "lib/io/torch/item.h"
#include "lib/io/torch/value.h"
#include "lib/json/parse.h"
#include "lib/layout/partition.h"
#include "lib/model/file_names.h"

namespace mimo {
namespace {

using OrderedJson = nlohmann::ordered_json;

// The class that knows V heads of their own size, two rotary bases and KV heads per layer kind. Bridge has no other
// for the later variants; their text models differ in dimensions alone, so it fits them as well.
constexpr char kProvider[] = "megatron.bridge.models.mimo_v2_flash.mimo_v2_flash_provider.MiMoV2FlashModelProvider";

// ---- YAML: block mappings of scalars, lists and mappings, as PyYAML's safe loader reads them

std::string YamlScalar(const OrderedJson& value) {
  std::string text = value.dump();  // strings in JSON quotes: no plain word can turn into a boolean or a number
  if (!value.is_number_float()) return text;
  const size_t exponent = text.find('e');  // YAML 1.1 takes 1e-05 for a string, 1.0e-05 for a number
  if (exponent != std::string::npos && text.find('.') == std::string::npos) text.insert(exponent, ".0");
  return text;
}

std::string YamlList(const OrderedJson& list) {
  std::string text = "[";
  for (const OrderedJson& item : list) text += (text.size() > 1 ? ", " : "") + YamlScalar(item);
  return text + "]";
}

void AppendYaml(const OrderedJson& mapping, const std::string& indent, std::string& text) {
  for (const auto& [key, value] : mapping.items()) {
    text += indent + key + ":";
    if (value.is_object()) {
      text += "\n";
      AppendYaml(value, indent + "  ", text);
    } else {
      text += " " + (value.is_array() ? YamlList(value) : YamlScalar(value)) + "\n";
    }
  }
}

// ---- config.json, beyond what ModelConfig holds

class ConfigNumbers {
 public:
  explicit ConfigNumbers(const ModelConfig& config) : path_(config.path), json_(ParsedOrNull(config.text)) {}

  // Null when it is absent. Like ModelConfig, takes a string of a number for one.
  OrderedJson Optional(const char* key) {
    OrderedJson value = Member(json_, key);
    for (const char* rope : {"rope_parameters", "rope_scaling"}) {  // where newer configs keep what belongs to RoPE
      if (value.is_null()) value = Member(Member(json_, rope), key);
    }
    if (value.is_string()) value = ParsedOrNull(value.get<std::string>());
    if (!value.is_null() && !value.is_number()) Fail(key, "a number");
    return value;
  }

  OrderedJson Required(const char* key, const char* other = nullptr) {
    OrderedJson value = Optional(key);
    if (value.is_null() && other != nullptr) value = Optional(other);
    if (value.is_null()) Fail(key, "a number");
    return value;
  }

  bool Flag(const char* key) {
    const OrderedJson value = Member(json_, key);
    if (!value.is_null() && !value.is_boolean()) Fail(key, "true or false");
    return value.is_boolean() && value.get<bool>();
  }

  void RequireSilu() {
    const OrderedJson value = Member(json_, "hidden_act");
    if (!value.is_null() && value != "silu") Fail("hidden_act", "\"silu\"");
  }

  std::optional<Error> TakeError() { return std::move(error_); }

 private:
  static OrderedJson ParsedOrNull(const std::string& text) {
    Result<OrderedJson> parsed = ParseJson<OrderedJson>(text, "");
    return parsed.ok() ? std::move(*parsed) : OrderedJson();
  }
  static OrderedJson Member(const OrderedJson& object, const char* key) {
    if (!object.is_object()) return nullptr;
    const auto it = object.find(key);
    return it == object.end() ? OrderedJson() : *it;
  }

  void Fail(const char* key, const char* expected) {
    if (error_) return;
    const OrderedJson found = Member(json_, key);
    Error error =
        BadInput("run_config.yaml needs \"" + std::string(key) + "\"")
            .File(path_)
            .Expected(expected)
            .Found(found.is_null() ? "nothing" : found.dump(-1, ' ', false, OrderedJson::error_handler_t::replace))
            .Advice("take config.json from the original repository again");
    error_ = std::move(error);
  }

  std::string path_;
  OrderedJson json_;
  std::optional<Error> error_;
};

// ---- run_config.yaml

OrderedJson Callable(const std::string& name) {
  return {{"_target_", name}, {"_call_", false}};
}

OrderedJson Flags(const std::vector<uint8_t>& flags) {
  OrderedJson list = OrderedJson::array();
  for (const uint8_t flag : flags) list.push_back(static_cast<int>(flag));
  return list;
}

// The largest power of two up to 128 that divides the vocabulary: what Bridge asks for.
int64_t VocabularyDivisor(int64_t vocab) {
  int64_t divisor = 128;
  while (vocab % divisor != 0) divisor /= 2;
  return divisor;
}

// A number of ranks; 0 is one that was not given.
int64_t AtLeastOne(int64_t ranks) {
  return std::max<int64_t>(ranks, 1);
}

void AddVocabulary(const MegatronFilesRequest& request, OrderedJson& model) {
  const int64_t multiple = 128 * AtLeastOne(request.options.tp);
  const int64_t vocab = request.config.vocab;
  const bool padded = request.vocab_rows != vocab && request.vocab_rows == RoundUp(vocab, multiple);
  model["vocab_size"] = padded ? vocab : request.vocab_rows;
  model["make_vocab_size_divisible_by"] = padded ? 128 : VocabularyDivisor(request.vocab_rows);
  model["should_pad_vocab"] = padded;
}

void AddAttention(const ModelConfig& config, ConfigNumbers& numbers, OrderedJson& model) {
  // Without the replicas of KV heads that the source may hold: linear_qkv has none.
  const int64_t groups = config.marker ? config.marker->kv_heads : config.global.kv_heads;
  const int64_t window_groups = config.marker ? config.marker->swa_kv_heads : config.window.kv_heads;
  model["num_query_groups"] = groups;
  model["full_attn_num_query_groups"] = groups;
  model["swa_num_query_groups"] = window_groups;
  model["kv_channels"] = config.global.head_dim;
  model["v_head_dim"] = config.global.v_head_dim;
  model["attention_value_scale"] = config.value_scale ? OrderedJson(*config.value_scale) : OrderedJson();
  model["hybrid_attention_pattern"] = Flags(config.windowed);
  model["window_size"] = numbers.Required("sliding_window_size", "sliding_window");
  model["position_embedding_type"] = "rope";
  model["rotary_base"] =
      OrderedJson::array({numbers.Required("swa_rope_theta", "rope_theta"), numbers.Required("rope_theta")});
  model["rotary_percent"] = numbers.Required("partial_rotary_factor");
  model["add_qkv_bias"] = numbers.Flag("attention_bias");
  const OrderedJson dropout = numbers.Optional("attention_dropout");
  model["attention_dropout"] = dropout.is_null() ? OrderedJson(0.0) : dropout;
  model["hidden_dropout"] = 0.0;  // the model has none; the classes' own default is 0.1
}

void AddExperts(const ModelConfig& config, ConfigNumbers& numbers, OrderedJson& model) {
  if (config.experts == 0) return;
  model["moe_layer_freq"] = Flags(config.moe);
  model["num_moe_experts"] = config.experts;
  model["moe_router_topk"] = numbers.Required("num_experts_per_tok");
  model["moe_ffn_hidden_size"] = config.moe_intermediate;
  model["moe_router_score_function"] = "sigmoid";
  model["moe_router_enable_expert_bias"] = true;
  model["moe_router_pre_softmax"] = true;
  model["moe_router_load_balancing_type"] = "none";
  model["moe_router_num_groups"] = numbers.Optional("n_group");
  model["moe_router_group_topk"] = numbers.Optional("topk_group");
  model["moe_router_topk_scaling_factor"] = numbers.Optional("routed_scaling_factor");
  model["moe_grouped_gemm"] = true;
  model["moe_token_dispatcher_type"] = "alltoall";
}

Result<std::string> RunConfig(const MegatronFilesRequest& request) {
  const ModelConfig& config = request.config;
  ConfigNumbers numbers(config);
  const PlanOptions& options = request.options;
  const bool bf16 = options.dtype == DTypeChoice::kBf16;
  const bool fp16 = options.dtype == DTypeChoice::kFp16;
  if (options.dtype == DTypeChoice::kKeep)
    return UsageError("no dtype of Megatron parameters").Expected("bf16, fp16 or fp32").Found("keep");

  OrderedJson model;
  model["_target_"] = kProvider;
  model["num_layers"] = config.layers;
  model["hidden_size"] = config.hidden;
  model["ffn_hidden_size"] = config.intermediate;
  model["num_attention_heads"] = config.global.heads;
  AddAttention(config, numbers, model);
  AddExperts(config, numbers, model);
  model["mtp_num_layers"] = request.mtp_layers;
  AddVocabulary(request, model);
  model["seq_length"] = numbers.Required("max_position_embeddings");
  model["normalization"] = "RMSNorm";
  model["layernorm_epsilon"] = numbers.Required("layernorm_epsilon", "rms_norm_eps");
  numbers.RequireSilu();
  model["activation_func"] = Callable("torch.nn.functional.silu");
  model["gated_linear_unit"] = true;
  model["add_bias_linear"] = false;
  model["share_embeddings_and_output_weights"] = config.tied_embeddings;
  const OrderedJson deviation = numbers.Optional("initializer_range");
  if (!deviation.is_null()) model["init_method_std"] = deviation;
  model["bf16"] = bf16;
  model["fp16"] = fp16;
  model["params_dtype"] = Callable(bf16 ? "torch.bfloat16" : fp16 ? "torch.float16" : "torch.float32");
  model["tensor_model_parallel_size"] = AtLeastOne(options.tp);
  model["pipeline_model_parallel_size"] = AtLeastOne(options.pp);
  model["expert_model_parallel_size"] = AtLeastOne(options.ep);
  model["expert_tensor_parallel_size"] = AtLeastOne(options.etp);
  if (std::optional<Error> error = numbers.TakeError()) return *std::move(error);

  OrderedJson run;
  run["model"] = std::move(model);
  run["checkpoint"] = {{"save_rng", false}, {"save_optim", false}, {"fully_parallel_save", true}};
  std::string text;
  AppendYaml(run, "", text);
  return text;
}

// ---- the two torch.save files

template <class T>
std::pair<TorchValue, TorchValue> EntryOf(const std::string& key, T value) {
  return {TorchValue{key}, TorchValue{std::move(value)}};
}

std::string CommonState(int64_t iteration) {
  TorchValue::Dict content;
  content.push_back(EntryOf("singleton_local_shards", false));
  content.push_back(EntryOf("chained_optim_avoid_prefix", true));
  TorchValue::Dict state;
  state.push_back(EntryOf("checkpoint_version", 3.0));
  state.push_back(EntryOf("iteration", iteration));
  state.push_back(EntryOf("num_floating_point_operations_so_far", int64_t{0}));
  state.push_back(EntryOf("content_metadata", std::move(content)));
  return TorchSaveFile(TorchValue{std::move(state)}, "common");
}

std::string LittleEndian(uint64_t bits, size_t bytes) {
  std::string text;
  for (size_t i = 0; i < bytes; ++i) text += static_cast<char>(bits >> (8 * i) & 0xFF);
  return text;
}

// Bridge's record of how far training came: all zero but the step, as after its own import.
std::string TrainState(int64_t iteration) {
  struct Scalar {
    const char* key;
    DType dtype;
    uint64_t bits;
  };
  const std::array<Scalar, 8> scalars = {{{"step", DType::kI64, static_cast<uint64_t>(iteration)},
                                          {"consumed_train_samples", DType::kI64, 0},
                                          {"skipped_train_samples", DType::kI64, 0},
                                          {"consumed_valid_samples", DType::kI64, 0},
                                          {"floating_point_operations_so_far", DType::kF64, 0},
                                          {"do_train", DType::kBool, 0},
                                          {"do_valid", DType::kBool, 0},
                                          {"do_test", DType::kBool, 0}}};
  TorchValue::Dict state;
  std::vector<std::string> data;
  for (const Scalar& scalar : scalars) {
    TorchTensor tensor;
    tensor.dtype = scalar.dtype;
    tensor.storage = std::to_string(data.size());
    tensor.storage_elements = 1;
    state.push_back(EntryOf(scalar.key, std::move(tensor)));
    data.push_back(LittleEndian(scalar.bits, BitsPerElement(scalar.dtype) / 8));
  }
  return TorchSaveFile(TorchValue{std::move(state)}, "train_state", data);
}

// Cores up to 0.18 need all four keys, later ones ignore the last two.
constexpr char kMetadata[] =
    R"({"sharded_backend": "torch_dist", "sharded_backend_version": 1, "common_backend": "torch", )"
    R"("common_backend_version": 1})";

}  // namespace

std::string MegatronIterationDirectory(int64_t iteration) {
  char name[32];
  std::snprintf(name, sizeof name, "iter_%07lld", static_cast<long long>(iteration));
  return name;
}

Result<std::vector<TextFile>> MegatronFiles(const MegatronFilesRequest& request) {
  MIMO_ASSIGN_OR_RETURN(std::string run_config, RunConfig(request));
  const int64_t iteration = request.options.iteration;
  const std::string directory = MegatronIterationDirectory(iteration) + "/";
  const std::string train_state = TrainState(iteration);
  return std::vector<TextFile>{{directory + kCommonStateName, CommonState(iteration)},
                               {directory + kMegatronMetadataName, kMetadata},
                               {directory + kRunConfigName, std::move(run_config)},
                               {directory + kTrainStateName, train_state},
                               {kTrackerName, std::to_string(iteration)},
                               {kLatestTrainStateName, train_state}};
}

}  // namespace mimo
