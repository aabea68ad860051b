// What an engine wants of a Hugging Face directory at one tensor-parallel size: schemas/targets.json.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "lib/base/status.h"
#include "lib/base/words.h"
#include "lib/forms/rules.h"

namespace mimo {

// How block FP8 attention is to be stored.
enum class EngineAttention : uint8_t { kFusedByRanks, kFusedByKvHeads, kSplit, kBf16 };
inline constexpr Words<EngineAttention, 4> kEngineAttentions{{{EngineAttention::kFusedByRanks, "fused:T"},
                                                              {EngineAttention::kFusedByKvHeads, "fused:G"},
                                                              {EngineAttention::kSplit, "split"},
                                                              {EngineAttention::kBf16, "bf16"}}};

struct EngineTarget {
  std::string engine;   // "vllm"
  std::string version;  // id in the table, "vllm-0.33.0"
  std::string text;     // of the version, for people
  EngineAttention attention = EngineAttention::kBf16;
  std::string load;  // what the engine then does: "verbatim", "requantizes" ...
  std::string note;
  std::vector<std::pair<int64_t, int64_t>> fp8_blocks;  // block shapes that it takes
};

// Whether the table has versions of an engine called so; and whether that engine pads the vocabulary to what its ranks
// need, so that files need not.
bool IsEngine(const std::string& name);
bool PadsVocabulary(const std::string& engine);

// Where ranks cut blocks of FP8 experts: the least rows of the smaller blocks for which an engine repeats scales as it
// loads, and what to know of it. 0: it wants whole blocks. Versions as below; 0 of one that is not known.
struct SmallerBlocks {
  int64_t rows = 0;
  std::string note;
};
SmallerBlocks SmallerExpertBlocks(const std::string& engine, const std::string& version, const std::string& family);

// The first rule of the version whose conditions hold. `version` is its id or the end of it ("0.33.0"), "" for the
// newest known of `family` (Family::name). kUsage for an unknown version: names those that there are.
Result<EngineTarget> ChooseEngineTarget(const std::string& engine, const std::string& version,
                                        const std::string& family, const Facts& facts);

}  // namespace mimo
