// Presets: released checkpoints as data (schemas/presets/*.json): full config, storage, files.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "lib/base/status.h"
#include "lib/io/dtype.h"
#include "lib/model/names.h"

namespace mimo {

// Which file a tensor goes to; the first rule that matches decides.
struct FileRule {
  std::vector<Role> roles;  // empty: every role
  bool mtp = false;         // true: MTP tensors only
  // Without ".safetensors". "{ep}" is the expert rank (experts / ep, rounded up, per rank), "{half}" is 0 or 1 for the
  // first or second half of the decoder layers, "{layer}" the layer.
  std::string file;
};

// Files without meaning, filled one after the other.
struct ShardRule {
  uint64_t bytes = 0;    // of data, at most, unless one tensor has more; 0: files by FileRule
  bool by_name = false;  // in the order of names; else in that of the model: layer by layer, expert by expert
  // Within a file, as the safetensors library writes: wider types in front, then by name. Else by name alone.
  bool by_width = false;
  int64_t first = 1;     // the number of the first
  int64_t declared = 0;  // how many the names say that there are; 0: as many as there are
};

struct Preset {
  std::string name;
  std::string about;
  std::string config;                      // JSON
  std::string ignored_key;                 // a list of quantization_config that is generated from the next two; "" none
  std::vector<std::string> ignored_every;  // modules of each layer, all layers of the first before the second
  std::vector<std::string> ignored_extra;
  std::vector<std::string> per_layer;  // keys of lists with an entry for each layer
  bool fused = true;
  bool own_grids = false;  // split projections have block grids of their own
  int64_t chunks = 1;      // C of fused(C), also of the chunks that split projections were cut from
  bool mxfp4_experts = false;
  DType router = DType::kF32;
  DType plain = DType::kBF16;  // of what is neither quantized nor a router nor its bias
  DType scales = DType::kF32;  // of block FP8; F32 or BF16
  bool quantized = true;       // false: what may be quantized is `plain`
  int mtp_layers = 0;
  std::string tokenizer_class;  // of tokenizer_config.json
  std::string save_format;      // of the index; empty: no such key
  std::optional<int64_t> tp_size;
  std::vector<std::string> subdirectories;
  bool towers = false;
  int64_t ep = 1;
  std::vector<FileRule> files;
  ShardRule shards;
};

std::vector<std::string> PresetNames();              // sorted
Result<Preset> LoadPreset(const std::string& name);  // kUsage when there is none of that name

// A tensor of the towers of a family (schemas/towers/*.json), BF16.
struct TowerTensor {
  std::string name;
  std::vector<int64_t> shape;
};
Result<std::vector<TowerTensor>> TowerTensors(const std::string& family, int64_t out_hidden);

}  // namespace mimo
