// Every stored array of a checkpoint directory, from the shard headers. Arrays in the files of a rank
// (model-rank-R-part-P.safetensors) are named "rankR/NAME": each rank has its own of one name. The index is
// cross-checked; where it names files that do not exist, the headers win (released indexes have been wrong: reference
// mimo-checkpoints.md section 2.6); what it forgets is read (stray_files.h). Read-only: symbolic links (the layout of
// the Hugging Face cache) are followed, nothing is ever written.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/base/hash.h"
#include "lib/base/name_index.h"
#include "lib/io/dtype.h"
#include "lib/model/carried_files.h"
#include "lib/model/config.h"
#include "lib/model/index.h"
#include "lib/model/kv_cache.h"
#include "lib/model/names.h"
#include "lib/model/stray_files.h"

namespace mimo {

inline constexpr uint32_t kNone = 0xFFFFFFFFu;  // the index of no array, weight or source

struct CatalogueFile {
  std::string name;  // relative to the root, e.g. "model_mtp.safetensors"
  uint64_t bytes = 0;
  uint64_t data_begin = 0;  // length of the header with its prefix
  Hash128 header_hash;      // of those bytes
  std::vector<std::pair<std::string, std::string>> metadata;
  // Where it lies when that is not Catalogue::root (arrays of a second checkpoint, lib/forms/merge/merge.h).
  std::string root = {};
  FileStamp stamp = {};  // before its header was read
  bool renamed = false;  // some arrays have other names in its header (lib/model/name_prefix.h)
};

// Bytes of a file whose CRC-32 the file holds: the storage of a torch.save item, in which arrays lie.
struct StoredItem {
  uint32_t file = 0;   // into Catalogue::files
  uint64_t begin = 0;  // from the start of the file
  uint64_t bytes = 0;
  uint32_t crc = 0;  // 0 where none was computed (HoldsChecksum, lib/io/torch/zip.h)
};

struct StoredArray {
  std::string name;
  DType dtype = DType::kU8;
  std::vector<int64_t> shape;
  uint32_t file = 0;   // into Catalogue::files
  uint64_t begin = 0;  // from the start of the file
  uint64_t bytes = 0;
  TensorId id;
  uint32_t item = kNone;  // into Catalogue::items; kNone: the file holds no checksum of it
  // As a matrix (MatrixRows, lib/io/dtype.h).
  int64_t rows() const { return MatrixRows(shape); }
  uint64_t row_bytes() const { return rows() == 0 ? 0 : bytes / static_cast<uint64_t>(rows()); }
};

// What an earlier checkpoint said, kept by the conversion that made this one from it (mimo-source/).
struct CatalogueOrigin {
  std::string config;  // config.json
  std::optional<ParsedIndex> index;
};

struct Catalogue {
  std::string root;
  ModelConfig config;
  const ModelTable* table = nullptr;
  IndexInfo index;
  std::vector<CatalogueFile> files;  // by name
  std::vector<StoredArray> arrays;   // by name
  std::vector<StoredItem> items;     // by (file, begin)
  std::vector<CarriedFile> carried;  // by name; config.json, the index and the origin are not among them
  std::optional<CatalogueOrigin> origin;
  std::string name_prefix;            // what the names of arrays are under in their files; "" as released
  std::vector<StrayFile> strays;      // tensor files that the index does not name; by name
  KvCacheScheme kv_cache;             // what config.json and hf_quant_config.json declare
  std::string quant_config;           // the text of hf_quant_config.json, names as released; "" without one
  std::vector<std::string> oddities;  // warnings for people
  NameIndex by_name;                  // of arrays

  const StoredArray* Find(std::string_view name) const;
  std::string PathOf(const CatalogueFile& file) const {
    return JoinPath(file.root.empty() ? root : file.root, file.name);
  }
  uint64_t payload_bytes() const;
  // Of file names, lengths, header hashes, config and index: changes when the checkpoint does (data bytes are not
  // read).
  Hash128 Fingerprint() const;
};

struct CatalogueOptions {
  // Tensors of MTP layers that the index lists and no file holds are an oddity: another checkpoint has them.
  bool without_mtp = false;
};
// kBadInput for anything malformed, kIo when the system refuses. Reads headers, config.json and the index only.
Result<Catalogue> OpenCatalogue(FileSystem& fs, const std::string& root, const CatalogueOptions& options = {});
// Opens a directory that keeps its tensors otherwise: config, origin and the files that travel along, without arrays.
Result<Catalogue> OpenWithoutTensors(FileSystem& fs, const std::string& root);
// Sorts arrays by name and builds the lookup. kBadInput: an array is stored twice.
Status SortArrays(Catalogue* catalogue);

}  // namespace mimo
