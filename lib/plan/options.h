// The options that shape an output (docs/commands.md): with the catalogue and its facts they decide every byte of it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace mimo {

enum class DTypeChoice : uint8_t { kKeep, kBf16, kFp16, kFp32 };
enum class StraddlePolicy : uint8_t { kRequantize, kBf16, kRefuse };
enum class UnknownPolicy : uint8_t { kRefuse, kCarry, kDrop };

struct PlanOptions {
  DTypeChoice dtype = DTypeChoice::kKeep;
  std::string recipe;        // canonical JSON (RecipeJson, lib/recipe/recipe.h); "" without one; then dtype is kKeep
  std::string qkv = "keep";  // keep | split | split:independent | fused | fused:C
  std::string source_qkv;    // "" (decide) | split | independent | fused:C
  StraddlePolicy on_straddle = StraddlePolicy::kRequantize;
  bool lossless = false;      // refuse anything that rounds
  bool fresh_scales = false;  // --scale-policy fresh
  bool text_only = false;
  UnknownPolicy unknown = UnknownPolicy::kRefuse;
  std::vector<std::string> include, exclude;  // regular expressions on output names
  uint64_t max_shard_bytes = 0;               // 0: keep the source's files
  // What will load it (docs/commands.md). Where a number is 0, the target's default holds.
  std::string to = "hf";           // hf | vllm | sglang | nxdi | megatron
  std::string format;              // "" (the target's usual one) | sharded-state | torch_dist
  std::string engine_version;      // of schemas/targets.json; "" the newest known
  std::string attention = "auto";  // auto | fused | split | bf16: how an engine's attention is stored
  int64_t tp = 0, ep = 0, etp = 0, pp = 0;
  std::vector<int64_t> ranks;    // ascending: write only these; empty: all
  bool pad = false;              // zero heads and columns where tp does not divide
  std::string fold_value_scale;  // "" | v | o
  int64_t fp8_block_rows = 0;    // of every block FP8 weight; columns keep 128
  std::string expert_codes;      // nxdi: "" (halve) | rescale
  std::string form_template;     // canonical JSON of --template; "" the shipped one
  int64_t iteration = 0;         // megatron: of the checkpoint
  bool like = false;             // config, layout and what the source lacks come from a second checkpoint (--like)
};

}  // namespace mimo
