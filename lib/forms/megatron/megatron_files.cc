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
#include "lib/model/family.h"
#include "lib/model/file_names.h"

namespace mimo {
namespace {

using OrderedJson = nlohmann::ordered_json;

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

  // Under the first key that is there.
  OrderedJson First(const std::vector<std::string>& keys) {
    for (const std::string& key : keys)
      if (OrderedJson value = Optional(key.c_str()); !value.is_null()) return value;
    return nullptr;
  }
  void Missing(const std::string& key) { Fail(key.c_str(), "a number"); }

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

// What run_config.yaml can say of a model and of this conversion, by the word that descriptions of families have for
// it.
OrderedJson FactsOfRun(const MegatronFilesRequest& request) {
  const ModelConfig& config = request.config;
  const PlanOptions& options = request.options;
  const bool bf16 = options.dtype == DTypeChoice::kBf16, fp16 = options.dtype == DTypeChoice::kFp16;
  const int64_t multiple = 128 * AtLeastOne(options.tp);
  const bool padded = request.vocab_rows != config.vocab && request.vocab_rows == RoundUp(config.vocab, multiple);
  OrderedJson facts;
  facts["layers"] = config.layers;
  facts["hidden"] = config.hidden;
  facts["intermediate"] = config.intermediate;
  facts["heads"] = config.global.heads;
  // Without the replicas of KV heads that the source may hold: linear_qkv has none.
  facts["groups"] = config.marker ? config.marker->kv_heads : config.global.kv_heads;
  facts["swa_groups"] = config.marker ? config.marker->swa_kv_heads : config.window.kv_heads;
  facts["head_dim"] = config.global.head_dim;
  facts["v_head_dim"] = config.global.v_head_dim;
  facts["value_scale"] = config.value_scale ? OrderedJson(*config.value_scale) : OrderedJson();
  facts["windowed"] = Flags(config.windowed);
  facts["moe"] = Flags(config.moe);
  facts["experts"] = config.experts;
  facts["moe_intermediate"] = config.moe_intermediate;
  facts["shared_intermediate"] = config.shared_experts * config.moe_intermediate;
  facts["mtp_layers"] = request.mtp_layers;
  facts["vocab"] = padded ? config.vocab : request.vocab_rows;
  facts["vocab_divisor"] = padded ? 128 : VocabularyDivisor(request.vocab_rows);
  facts["pads_vocab"] = padded;
  facts["tied_embeddings"] = config.tied_embeddings;
  facts["bf16"] = bf16;
  facts["fp16"] = fp16;
  facts["dtype"] = Callable(bf16 ? "torch.bfloat16" : fp16 ? "torch.float16" : "torch.float32");
  facts["tp"] = AtLeastOne(options.tp);
  facts["pp"] = AtLeastOne(options.pp);
  facts["ep"] = AtLeastOne(options.ep);
  facts["etp"] = AtLeastOne(options.etp);
  return facts;
}

// One value of run_config.yaml: a constant, a fact, a number or flag of config.json (under the first of several keys
// that is there), else what `or` says, a callable, or a list of these. An error is kept in `numbers`.
OrderedJson ValueOf(const OrderedJson& entry, const OrderedJson& facts, ConfigNumbers& numbers) {
  if (entry.contains("value")) return entry.at("value");
  if (entry.contains("fact")) return facts.at(entry.at("fact").get<std::string>());
  if (entry.contains("callable")) return Callable(entry.at("callable").get<std::string>());
  if (entry.contains("flag")) return numbers.Flag(entry.at("flag").get<std::string>().c_str());
  if (entry.contains("list")) {
    OrderedJson list = OrderedJson::array();
    for (const OrderedJson& one : entry.at("list")) list.push_back(ValueOf(one, facts, numbers));
    return list;
  }
  const auto keys = entry.at("config").get<std::vector<std::string>>();
  OrderedJson value = numbers.First(keys);
  if (value.is_null() && entry.contains("or")) return ValueOf(entry.at("or"), facts, numbers);
  if (value.is_null() && entry.contains("default")) value = entry.at("default");
  if (value.is_null() && !entry.value("optional", false)) numbers.Missing(keys.front());
  const double divisor =
      entry.contains("divided_by") ? facts.at(entry.at("divided_by").get<std::string>()).get<double>() : 1;
  return divisor == 1 || !value.is_number() ? value : OrderedJson(value.get<double>() / divisor);
}

// The words in a family's description: `when` "experts" leaves an entry out of models without, `omit` where the config
// has no such number.
Result<OrderedJson> ModelOfRun(const MegatronFilesRequest& request) {
  const Family& family = *request.config.family;
  if (family.SectionText("megatron").empty())
    return UsageError("nothing is known of how Megatron-Bridge builds models of this family")
        .Expected("--to hf, or \"megatron\" in schemas/models/" + family.name + ".json")
        .Found("--to megatron of " + family.title);
  ConfigNumbers numbers(request.config);
  const OrderedJson facts = FactsOfRun(request);
  OrderedJson model;
  try {
    MIMO_ASSIGN_OR_RETURN(const OrderedJson section,
                          ParseJson<OrderedJson>(family.SectionText("megatron"), family.name));
    for (const OrderedJson& entry : section.at("run_config")) {
      if (entry.value("when", "") == "experts" && request.config.experts == 0) continue;
      OrderedJson value = ValueOf(entry, facts, numbers);
      if (value.is_null() && entry.value("omit", false)) continue;
      model[entry.at("name").get<std::string>()] = std::move(value);
    }
  } catch (const OrderedJson::exception& problem) {
    return BadInput("a bad description of run_config.yaml")
        .File("schemas/models/" + family.name + ".json")
        .Found(problem.what());
  }
  numbers.RequireSilu();
  if (std::optional<Error> error = numbers.TakeError()) return *std::move(error);
  return model;
}

Result<std::string> RunConfig(const MegatronFilesRequest& request) {
  if (request.options.dtype == DTypeChoice::kKeep)
    return UsageError("no dtype of Megatron parameters").Expected("bf16, fp16 or fp32").Found("keep");
  OrderedJson run;
  MIMO_ASSIGN_OR_RETURN(run["model"], ModelOfRun(request));
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

std::string CommonState(int64_t iteration, const MegatronTraits& traits) {
  TorchValue::Dict content;
  content.push_back(EntryOf("singleton_local_shards", false));
  content.push_back(EntryOf("chained_optim_avoid_prefix", true));
  for (const auto& [name, value] : traits.content) content.push_back(EntryOf(name, value));
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

Result<MegatronTraits> MegatronTraitsOf(const Family& family) {
  MegatronTraits traits;
  if (family.SectionText("megatron").empty()) return traits;
  try {
    MIMO_ASSIGN_OR_RETURN(const OrderedJson section,
                          ParseJson<OrderedJson>(family.SectionText("megatron"), family.name));
    traits.tp_beyond_kv_heads = section.value("tp_beyond_kv_heads", false);
    const OrderedJson content = section.value("content_metadata", OrderedJson::object());
    for (const auto& [name, value] : content.items()) traits.content.emplace_back(name, value.get<bool>());
  } catch (const OrderedJson::exception& problem) {
    return BadInput("a bad description of Megatron checkpoints")
        .File("schemas/models/" + family.name + ".json")
        .Found(problem.what());
  }
  return traits;
}

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
  MIMO_ASSIGN_OR_RETURN(const MegatronTraits traits, MegatronTraitsOf(*request.config.family));
  return std::vector<TextFile>{{directory + kCommonStateName, CommonState(iteration, traits)},
                               {directory + kMegatronMetadataName, kMetadata},
                               {directory + kRunConfigName, std::move(run_config)},
                               {directory + kTrainStateName, train_state},
                               {kTrackerName, std::to_string(iteration)},
                               {kLatestTrainStateName, train_state}};
}

}  // namespace mimo
