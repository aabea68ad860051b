// Presets: the released checkpoints of the MiMo-V2 family as data (schemas/presets/*.json): full config, storage,
// files.
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

struct Preset {
  std::string name;
  std::string about;
  std::string config;  // JSON; quantization_config.ignored_layers is empty and generated from the next two
  std::string ignored_every;
  std::vector<std::string> ignored_extra;
  bool fused = true;
  int64_t chunks = 1;  // C of fused(C), also of the chunks that split projections were cut from
  bool mxfp4_experts = false;
  DType router = DType::kF32;
  int mtp_layers = 0;
  std::string save_format;  // of the index; empty: no such key
  std::optional<int64_t> tp_size;
  std::vector<std::string> subdirectories;
  bool towers = false;
  int64_t ep = 1;
  std::vector<FileRule> files;
};

std::vector<std::string> PresetNames();              // sorted
Result<Preset> LoadPreset(const std::string& name);  // kUsage when there is none of that name

// A tower tensor, BF16.
struct TowerTensor {
  std::string name;
  std::vector<int64_t> shape;
};
Result<std::vector<TowerTensor>> TowerTensors(int64_t out_hidden);

}  // namespace mimo
