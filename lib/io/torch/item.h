// torch.save files and items: an uncompressed zip that holds a pickle and the storages of its tensors (reference
// target-layouts.md 3.1 to 3.3). What is written is one of a closed set of forms, the same bytes for the same content;
// what is read may come from anywhere and is never executed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/base/status.h"
#include "lib/io/dtype.h"
#include "lib/io/torch/value.h"

namespace mimo {

// ---- writing

// A torch.save item ("archive") of one contiguous tensor is head, the tensor's bytes, tail. Lengths follow from dtype
// and shape alone; the bytes also from the CRC-32 of the data.
struct TorchItemSize {
  uint64_t head = 0;
  uint64_t data = 0;
  uint64_t tail = 0;
  uint64_t total() const { return head + data + tail; }
};
TorchItemSize SizeOfTorchItem(DType dtype, const std::vector<int64_t>& shape);
struct TorchItemFrame {
  std::string head;
  std::string tail;
};
TorchItemFrame FrameOfTorchItem(DType dtype, const std::vector<int64_t>& shape, uint32_t data_crc);

// Item of `[uint8 tensor of shape (0,)]`: the extra state of a module that has none.
std::string EmptyExtraStateItem();

// torch.save(value) as a file called BASE.pt: scalars, strings, lists, tuples, dicts, and tensors of no dimension
// (whose bytes stand in `scalars`, by TorchTensor::storage as an index) only.
std::string TorchSaveFile(const TorchValue& value, const std::string& base,
                          const std::vector<std::string>& scalars = {});

// ---- reading

// Where a storage lies, and the CRC-32 that its file says (0 where none was computed: HoldsChecksum, zip.h).
struct TorchStorage {
  std::string key;
  uint64_t begin = 0;  // from the start of the file
  uint64_t bytes = 0;
  uint32_t crc = 0;
};
// Where the data of one tensor lies: in a storage, which it may share. Nobody has compared the CRC-32.
struct TensorPlace {
  DType dtype = DType::kU8;
  std::vector<int64_t> shape;
  uint64_t begin = 0;  // from the start of the file
  uint64_t bytes = 0;
  TorchStorage storage;
};

// The one tensor of the item in bytes [offset, offset + length) of a file. kBadInput for anything that is not such an
// item, or a tensor that is not contiguous.
Result<TensorPlace> ReadTorchItem(ReadableFile& file, uint64_t offset, uint64_t length, const std::string& path);

// A whole torch.save file: its value, and where each storage lies.
struct TorchFile {
  TorchValue value;
  std::vector<TorchStorage> storages;  // by key
};
// Classes that are none of lib/io/torch/globals.h are inert records: a file holds more than is looked at.
Result<TorchFile> ReadTorchFile(ReadableFile& file, const std::string& path);
// The same of an item in bytes [offset, offset + length).
Result<TorchFile> ReadTorchFile(ReadableFile& file, uint64_t offset, uint64_t length, const std::string& path);
// Where a tensor of that file lies. kBadInput: not contiguous, or beyond its storage.
Result<TensorPlace> PlaceOf(const TorchFile& file, const TorchTensor& tensor, const std::string& path);
// The bytes of a small tensor, its storage compared with its CRC-32. kBadInput: it differs, or is above 1 MiB.
Result<std::string> ReadSmallTensor(const ReadableFile& file, const TensorPlace& place, const std::string& path);

}  // namespace mimo
