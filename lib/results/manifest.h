// mimo-manifest.json: what an output is, where every tensor came from and what it hashes to (docs/formats.md,
// schemas/manifest.schema.json). A directory without it is incomplete. Deterministic: no times, hosts, paths or thread
// counts.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kernels/convert.h"
#include "lib/base/file_system.h"
#include "lib/base/hash.h"
#include "lib/base/status.h"
#include "lib/model/file_names.h"
#include "lib/plan/plan.h"
#include "lib/plan/plan_json.h"
#include "lib/results/block_counts.h"
#include "lib/results/checksums.h"
#include "lib/results/errors.h"
#include "lib/results/logical_hash_json.h"

namespace mimo {

// ---- what a run adds to its plan

struct TensorResult {
  std::optional<Hash128> hash;  // none: the file was linked and not read
  kernels::Anomalies anomalies;
  BlockCounts counts = {};  // codes of an encoded weight: its blocks; codes that are adjusted: those that lost a bit
  std::optional<kernels::ErrorSums> error = std::nullopt;  // codes of an encoded weight, when it was asked for
};

struct CarriedResult {
  std::string name;
  uint64_t bytes = 0;
  std::optional<Hash128> hash;  // of the whole file
  bool linked = false;
};

struct RunResults {
  std::vector<TensorResult> tensors;                       // per Plan::outputs
  std::vector<BlockCounts> groups;                         // per Plan::groups: of their new grids
  std::vector<uint8_t> linked;                             // per Plan::files
  ChecksumCounts checksums;                                // of the source
  std::vector<CarriedResult> carried;                      // per Plan::carried
  std::vector<Threshold> thresholds;                       // that were asked for
  std::vector<std::string> rejections;                     // why the output is not acceptable
  std::optional<std::vector<LogicalHash>> logical_hashes;  // by name, of the values that were written; when asked for
};

// Those of all groups and tensors, in the order of the plan.
BlockCounts TotalCounts(const RunResults& results);

Status WriteManifest(const Catalogue& catalogue, const Plan& plan, const RunResults& results, const TextSink& sink);

// ---- what is read back

struct ManifestTensor {
  std::string name;
  uint32_t file = 0;  // into Manifest::files
  DType dtype = DType::kU8;
  std::vector<int64_t> shape;
  std::optional<Hash128> hash;
};

struct ManifestFile {
  std::string name;
  uint64_t bytes = 0;
  bool linked = false;
  const Container* container = &SafetensorsContainer();
  std::optional<Hash128> hash;  // of the header for tensor files, else of the whole file
};

struct Manifest {
  std::string tool_version;
  std::string form;
  Hash128 plan_digest;
  Hash128 source_fingerprint;
  std::vector<ManifestFile> files;                         // tensor files
  std::vector<ManifestFile> other_files;                   // written texts and carried files
  std::vector<ManifestTensor> tensors;                     // by (file, offset)
  kernels::Anomalies anomalies;                            // totals
  BlockCounts blocks;                                      // totals
  ChecksumCounts checksums;                                // of the source that it was made from
  bool holds_own_hash = false;                             // version 1 had no hash of its own text
  std::vector<Threshold> thresholds;                       // that were asked for
  std::vector<std::string> rejections;                     // thresholds that do not hold; the output is not acceptable
  std::optional<std::vector<LogicalHash>> logical_hashes;  // by name; only version 3 has them
};

// kIo when it cannot be read, kBadInput when it is not a manifest, or not as it was written (manifest_hash.h).
Result<Manifest> ReadManifest(FileSystem& fs, const std::string& path);
Result<Manifest> ParseManifest(const std::string& text, const std::string& path);
Result<std::string> ReadManifestText(FileSystem& fs, const std::string& path);

}  // namespace mimo
