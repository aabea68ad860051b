// Synthetic checkpoints: the names, files, shapes, dtypes and block grids of a released one, at any scale, with data
// that is a function of (seed, tensor name, position) alone, so that it does not depend on threads.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/base/status.h"
#include "lib/io/safetensors/safetensors.h"
#include "lib/synth/preset.h"

namespace mimo {

// Absent numbers keep the preset's value. Heads keep theirs always.
struct SynthOptions {
  std::string preset;
  std::optional<int64_t> layers;   // at most the preset's: the lists of the config are cut
  std::optional<int64_t> experts;  // at most the preset's
  std::optional<int64_t> hidden;
  std::optional<int64_t> vocab;
  std::optional<int64_t> intermediate;
  std::optional<int64_t> moe_intermediate;
  uint64_t seed = 0;
  bool sparse = false;  // headers only; the data are holes (zeros)
  int threads = 0;      // 0: one per CPU that the process may use
  bool towers = true;   // false: leave the towers out where the preset has them
  bool mtp = true;
  bool overwrite = false;
};

// What the data of a tensor look like.
enum class Fill : uint8_t {
  kFp8Codes,
  kFp8Scales,
  kMxfp4Codes,
  kMxfp4Scales,
  kWeight,
  kNorm,
  kSink,
  kRouter,
  kRouterBias
};

// The block grid of a quantized weight: `chunks` chunks of chunk_rows rows, each with its own grid of 128 x 128 cells,
// the last ones of a chunk cut short. A tensor holds rows [part_begin, part_begin + part_rows) of every chunk: all of
// them when fused, those of Q, K or V when it was cut out (reference mimo-checkpoints.md sections 3 and 4). Everything
// but attention is one chunk.
struct ChunkGrid {
  int64_t chunks = 1;
  int64_t chunk_rows = 0;
  int64_t q_rows = 0;  // of a chunk; 0 outside of attention
  int64_t k_rows = 0;
  int64_t part_begin = 0;
  int64_t part_rows = 0;
  int64_t cols = 0;
  int64_t block_rows = 128;
  int64_t block_cols = 128;

  int64_t blocks() const { return (chunk_rows + block_rows - 1) / block_rows; }
  int64_t col_blocks() const { return (cols + block_cols - 1) / block_cols; }
  // A part stores the scales of the blocks that begin in it; the block that K and V share is K's.
  int64_t first_block() const { return (part_begin + block_rows - 1) / block_rows; }
  int64_t last_block() const { return (part_begin + part_rows + block_rows - 1) / block_rows; }
};

struct SynthTensor {
  TensorInfo info;  // begin and end are set when a file is laid out
  TensorId id = {};
  Fill fill = Fill::kWeight;
  ChunkGrid grid = {};  // of kFp8Codes and kFp8Scales
  // What the cells of that grid are drawn from: the same for codes, scales and all parts of a chunk.
  std::string cells = {};
};

struct SynthFile {
  std::string name;
  std::vector<SynthTensor> tensors;  // by name
};

struct SynthPlan {
  Preset preset;
  SynthOptions options;
  std::string config;            // config.json
  std::vector<SynthFile> files;  // by name
  uint64_t tensors = 0;
  uint64_t payload_bytes = 0;  // total_size of the index
};

// kUsage for options that the preset cannot follow.
Result<SynthPlan> PlanSynthetic(const SynthOptions& options);

struct SynthReport {
  uint64_t tensors = 0;
  uint64_t payload_bytes = 0;
  uint64_t shard_bytes = 0;  // payload and headers
  uint64_t shards = 0;
};

// Writes the checkpoint to `directory`, which must be absent or empty; with `overwrite` a checkpoint (something with a
// config.json) that is there is removed first. kUsage otherwise.
Result<SynthReport> WriteSynthetic(FileSystem& fs, const SynthPlan& plan, const std::string& directory);

}  // namespace mimo
