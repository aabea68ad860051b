// .metadata of a PyTorch distributed checkpoint (reference target-layouts.md 3.4): which byte range of which file holds
// which part of which tensor.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "lib/base/status.h"
#include "lib/io/dtype.h"

namespace mimo {

// A byte range of a file, relative to the directory.
struct DcpRange {
  std::string file;
  uint64_t offset = 0;
  uint64_t bytes = 0;
};

struct DcpChunk {
  std::vector<int64_t> offsets;  // in the global tensor
  std::vector<int64_t> sizes;
  DcpRange range;  // one torch.save item
};

struct DcpTensor {
  std::string key;
  DType dtype = DType::kBF16;
  std::vector<int64_t> shape;
  std::vector<DcpChunk> chunks;
};

struct DcpBytes {
  std::string key;
  DcpRange range;
};

// A tensor whose dtype is none of ours (complex128, packed FP4). Optimizers and random states may have such; who needs
// its values must refuse it.
struct DcpForeign {
  std::string key;
  std::string dtype;  // torch's name of it
};

struct DcpMetadata {
  std::vector<DcpTensor> tensors;
  std::vector<DcpBytes> bytes;
  std::vector<DcpForeign> foreign;  // only ever read; their chunks are checked like all others and then left out
};

// The order of the vectors is kept, tensors before byte items: callers sort. Dtypes are such as torch has (CanPickle).
std::string WriteDcpMetadata(const DcpMetadata& metadata);

// Tensors, byte items and foreign tensors by key, chunks by offsets. Chunks without elements are left out, so a tensor
// without elements has none. Of several byte items any may lie in the same range. kBadInput: not such a pickle; a class
// or function that is not known, by name; chunks that do not tile their tensor exactly once; a chunk without a place or
// a place without a chunk; a file name that leaves the directory; a place that was compressed.
Result<DcpMetadata> ReadDcpMetadata(std::string_view pickle, const std::string& path);

}  // namespace mimo
