#include "lib/io/torch/dcp_metadata.h"
#include "lib/io/torch/pickle_writer.h"

namespace mimo {
namespace {

using Id = TorchGlobalId;

class MetadataWriter {
 public:
  std::string Write(const DcpMetadata& metadata) {
    const bool empty = metadata.tensors.empty() && metadata.bytes.empty();
    BeginObject(Id::kMetadata);
    pickle_.String("state_dict_metadata");
    pickle_.BeginDict(empty);
    for (const DcpTensor& tensor : metadata.tensors) Tensor(tensor);
    for (const DcpBytes& item : metadata.bytes) {
      pickle_.String(item.key);
      pickle_.NewObject(Id::kBytesStorageMetadata);
    }
    pickle_.EndDict(empty);
    pickle_.String("planner_data");
    pickle_.Op(PickleOp::kEmptyDict);  // not None: torch 2.6 converts to one file only so (target-layouts.md 3.4)
    pickle_.String("storage_data");
    pickle_.BeginDict(empty);
    for (const DcpTensor& tensor : metadata.tensors) {
      for (const DcpChunk& chunk : tensor.chunks) Place(tensor.key, &chunk.offsets, chunk.range);
    }
    for (const DcpBytes& item : metadata.bytes) Place(item.key, nullptr, item.range);
    pickle_.EndDict(empty);
    pickle_.String("storage_meta");
    pickle_.None();
    EndState();
    return pickle_.Finish();
  }

 private:
  void BeginObject(Id id) {
    pickle_.NewObject(id);
    pickle_.BeginDict();
  }
  void EndState() {
    pickle_.EndDict();
    pickle_.Op(PickleOp::kBuild);
  }
  void Call(Id id, std::string_view text) {
    pickle_.Global(id);
    pickle_.String(text);
    pickle_.EndTuple(1);
    pickle_.Op(PickleOp::kReduce);
  }

  void Tensor(const DcpTensor& tensor) {
    pickle_.String(tensor.key);
    BeginObject(Id::kTensorStorageMetadata);
    pickle_.String("properties");
    Properties(tensor.dtype);
    pickle_.String("size");
    pickle_.Size(tensor.shape);
    pickle_.String("chunks");
    pickle_.BeginList(tensor.chunks.empty());
    for (const DcpChunk& chunk : tensor.chunks) {
      BeginObject(Id::kChunkStorageMetadata);
      pickle_.String("offsets");
      pickle_.Size(chunk.offsets);
      pickle_.String("sizes");
      pickle_.Size(chunk.sizes);
      EndState();
    }
    pickle_.EndList(tensor.chunks.empty());
    EndState();
  }

  // (dtype, layout, requires_grad, memory format, pin_memory)
  void Properties(DType dtype) {
    pickle_.NewObject(Id::kTensorProperties);
    pickle_.BeginTuple(5);
    if (const auto global = DTypeGlobalOf(dtype)) {
      pickle_.Global(*global);
    } else {
      pickle_.None();
    }
    Call(Id::kGetLayout, "torch.strided");
    pickle_.Bool(false);
    pickle_.Global(Id::kMemoryFormat);
    pickle_.Int(0);  // contiguous
    pickle_.EndTuple(1);
    pickle_.Op(PickleOp::kReduce);
    pickle_.Bool(false);
    pickle_.EndTuple(5);
    pickle_.Op(PickleOp::kBuild);
  }

  void Place(std::string_view key, const std::vector<int64_t>* offsets, const DcpRange& range) {
    BeginObject(Id::kMetadataIndex);
    pickle_.String("fqn");
    pickle_.String(key);
    pickle_.String("index");
    pickle_.None();
    if (offsets != nullptr) {
      pickle_.String("offset");
      pickle_.Size(*offsets);
    }
    EndState();
    BeginObject(Id::kStorageInfo);
    pickle_.String("relative_path");
    pickle_.String(range.file);
    pickle_.String("offset");
    pickle_.Int(static_cast<int64_t>(range.offset));
    pickle_.String("length");
    pickle_.Int(static_cast<int64_t>(range.bytes));
    EndState();
  }

  PickleWriter pickle_;
};

}  // namespace

std::string WriteDcpMetadata(const DcpMetadata& metadata) {
  return MetadataWriter().Write(metadata);
}

}  // namespace mimo
