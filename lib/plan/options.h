// The options that shape an output (docs/commands.md): with the catalogue and its facts they decide every byte of it.
// Their words are in lib/plan/words.h and the tables that it includes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "lib/layout/qkv_wish.h"
#include "lib/model/forms.h"
#include "lib/recipe/recipe.h"

namespace mimo {

enum class DTypeChoice : uint8_t { kKeep, kBf16, kFp16, kFp32 };
enum class StraddlePolicy : uint8_t { kRequantize, kBf16, kRefuse };
enum class UnknownPolicy : uint8_t { kRefuse, kCarry, kDrop };
// What will load the output; kHf has no engine in mind.
enum class TargetKind : uint8_t { kHf, kVllm, kSglang, kNxdi, kMegatron };
// How an engine's attention is stored; kAuto: as schemas/targets.json says.
enum class AttentionStorage : uint8_t { kAuto, kFused, kSplit, kBf16 };

// NOLINTNEXTLINE(clang-analyzer-optin.performance.Padding): in the order of the plan's JSON; there is one
struct PlanOptions {
  DTypeChoice dtype = DTypeChoice::kKeep;
  std::optional<Recipe> recipe;  // then dtype is kKeep
  QkvWish qkv;
  std::optional<QkvWish> source_qkv;  // nullopt: decided (lib/layout/decide.h)
  StraddlePolicy on_straddle = StraddlePolicy::kRequantize;
  bool lossless = false;      // refuse anything that rounds
  bool fresh_scales = false;  // --scale-policy fresh
  bool text_only = false;
  UnknownPolicy unknown = UnknownPolicy::kRefuse;
  std::vector<std::string> include, exclude;  // regular expressions on output names
  uint64_t max_shard_bytes = 0;               // 0: keep the source's files
  // What will load it (docs/commands.md). Where a number is 0, the target's default holds.
  TargetKind to = TargetKind::kHf;
  std::optional<FormKind> format;  // nullopt: the target's usual one
  std::string engine_version;      // of schemas/targets.json; "" the newest known
  AttentionStorage attention = AttentionStorage::kAuto;
  int64_t tp = 0, ep = 0, etp = 0, pp = 0;
  std::vector<int64_t> ranks;  // ascending: write only these; empty: all
  bool pad = false;            // zero heads and columns where tp does not divide
  std::optional<FoldInto> fold_value_scale;
  int64_t fp8_block_rows = 0;               // of every block FP8 weight; columns keep 128
  std::optional<ExpertCodes> expert_codes;  // nxdi; nullopt: kHalve
  std::optional<RouterBias> router_bias;    // nxdi; nullopt: kKeep
  std::string form_template;                // canonical JSON of --template; "" the shipped one
  int64_t iteration = 0;                    // megatron: of the checkpoint
  // The model's parameters as values, whatever was done to hold them: without the rows and columns that ranks were
  // padded with; and no files that travel along. Of plans that are read, never run or recorded (LogicalOptions,
  // lib/verify/logical/logical.h).
  bool logical = false;
  bool like = false;  // config, layout and what the source lacks come from a second checkpoint (--like)

  bool operator==(const PlanOptions&) const = default;
};

}  // namespace mimo
