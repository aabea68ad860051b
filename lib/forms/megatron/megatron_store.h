// A directory that Megatron saved, in any of its formats (torch_dist, other distributed checkpoints, legacy `torch`),
// as a catalogue of the arrays that lie in it and the tensors that these are parts of. Reference target-layouts.md 2,
// 3.5.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/forms/megatron/megatron_form.h"
#include "lib/forms/megatron/saved_arguments.h"
#include "lib/forms/view.h"
#include "lib/io/torch/item.h"
#include "lib/model/catalogue.h"

namespace mimo {

// A rectangular part of a tensor: rows from `array_row` on of a stored array hold it, in C order.
struct MegatronChunk {
  uint32_t array = 0;  // into MegatronStore::stored
  int64_t array_row = 0;
  std::vector<int64_t> offsets, sizes;  // as many as the tensor has dimensions
};

struct SavedTensor {
  std::string key;                   // as it is stored
  std::optional<MegatronName> name;  // global layer and expert numbers; nullopt: no tensor of this model
  DType dtype = DType::kBF16;
  std::vector<int64_t> shape;
  std::vector<MegatronChunk> chunks;  // tile the shape
};

struct MegatronStore {
  Catalogue stored;
  FormKind format = FormKind::kTorchDist;  // kTorchDist, kDcp or kTorch
  std::vector<SavedTensor> tensors;
  std::vector<Replica> replicas;     // parts that several ranks hold
  std::vector<std::string> skipped;  // keys of training state, extra states left out
  SavedArguments arguments;          // of the run
};

// Where in `root` a Megatron checkpoint lies.
struct MegatronPlace {
  std::string directory;  // relative to root, "" for root itself
  FormKind format = FormKind::kTorchDist;
};
// nullopt when `root` holds none; kBadInput for a save that is not complete: a tracker without its iteration, an
// iteration without its metadata.
Result<std::optional<MegatronPlace>> FindMegatron(FileSystem& fs, const std::string& root);

// `like`: whose config and table are taken; null for those of config.json in `root` or beside the iteration. kBadInput
// for what is malformed or incomplete, and without a config.
Result<MegatronStore> OpenMegatron(FileSystem& fs, const std::string& root, const MegatronPlace& place,
                                   const Catalogue* like);

// The model of a store as a split Hugging Face checkpoint of plain values. Gate and up lie as `order` says, else as
// the saved arguments do, else [gate ; up]. kBadInput: shapes or arguments that do not fit the config. kUsage: an order
// that does not fit the model.
Result<View> ViewOfMegatron(const MegatronStore& store, const GateUpWish& order = {});

// Adds the array that lies at `place` of a file; its number.
uint32_t AddStored(std::string name, uint32_t file, const TensorPlace& place, Catalogue* stored);

// megatron_legacy.cc: reads mp_rank_* directories into `store`, whose catalogue has its config.
Status ReadLegacy(FileSystem& fs, const std::string& directory, MegatronStore* store);

}  // namespace mimo
