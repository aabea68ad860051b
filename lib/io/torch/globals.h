// The classes, functions and values that the pickles of PyTorch and Megatron checkpoints name (GLOBAL), and what each
// is to us. One closed table for writer and reader: a name that is not in it can be neither written nor read. Names are
// never looked up anywhere, so that a pickle cannot run anything.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "lib/io/dtype.h"

namespace mimo {

// What the reader does with a name.
enum class TorchUse : uint8_t {
  kClass,           // objects of it, by NEWOBJ or REDUCE, are records; BUILD gives them their state
  kFunction,        // what REDUCE gives is a record
  kValue,           // is itself a value: no call
  kDType,           // torch.bfloat16
  kStorage,         // torch.BFloat16Storage: only in the name of a storage
  kTensor,          // torch._utils._rebuild_tensor_v2: the dtype is that of the storage
  kTensorOfDType,   // torch._utils._rebuild_tensor_v3: bytes, and a dtype
  kParameter,       // torch._utils._rebuild_parameter: its tensor
  kTensorSubclass,  // torch._tensor._rebuild_from_type_v2: its tensor when it is a plain one after all
  kDict,            // collections.OrderedDict
  kSize,            // torch.Size: its tuple
  kInert,           // a name of none of these: what is made of it is a record that says its name
};

struct TorchGlobal {
  std::string_view module;
  std::string_view name;
  TorchUse use;
  std::optional<DType> dtype = {};  // of kDType and kStorage, where we have it
};

// Index into the table. Those with a name here are the ones that are written or looked for.
enum class TorchGlobalId : uint16_t {
  kRebuildTensorV2,
  kRebuildTensorV3,
  kOrderedDict,
  kSize,
  kUntypedStorage,
  kGetLayout,
  kMemoryFormat,
  kMetadata,
  kTensorStorageMetadata,
  kBytesStorageMetadata,
  kChunkStorageMetadata,
  kTensorProperties,
  kMetadataIndex,
  kStorageInfo,
  kInert = 0xFFFF,  // of no place in the table
};

const TorchGlobal& GlobalOf(TorchGlobalId id);
std::optional<TorchGlobalId> FindTorchGlobal(std::string_view module, std::string_view name);
// Modules of Python whose names stand in a pickle to run something when it is loaded. Refused by name everywhere:
// nothing is run here, but whoever loads the file elsewhere should know.
bool IsTrap(std::string_view module);

// torch.BFloat16Storage; none where torch has no storage class for the dtype.
std::optional<TorchGlobalId> StorageGlobalOf(DType dtype);
// torch.bfloat16; none for dtypes that torch does not have, or does not have as we count elements (F4).
std::optional<TorchGlobalId> DTypeGlobalOf(DType dtype);

}  // namespace mimo
