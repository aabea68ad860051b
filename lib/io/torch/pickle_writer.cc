#include "lib/io/torch/pickle_writer.h"

#include <bit>

namespace mimo {
namespace {

// In elements; dimensions of size 0 count as 1, as in torch.
std::vector<int64_t> ContiguousStrides(const std::vector<int64_t>& shape) {
  std::vector<int64_t> strides(shape.size(), 1);
  for (size_t i = shape.size(); i-- > 1;) strides[i - 1] = strides[i] * (shape[i] == 0 ? 1 : shape[i]);
  return strides;
}

}  // namespace

PickleWriter::PickleWriter() {
  Op(PickleOp::kProto);
  out_.push_back(2);
}

void PickleWriter::Op(PickleOp op, uint64_t argument, int bytes) {
  Op(op);
  for (int i = 0; i < bytes; ++i) out_.push_back(static_cast<char>(argument >> (8 * i)));
}

void PickleWriter::Put() {
  const bool small = memo_size_ < 256;
  Op(small ? PickleOp::kBinPut : PickleOp::kLongBinPut, memo_size_++, small ? 1 : 4);
}

void PickleWriter::Get(uint32_t index) {
  const bool small = index < 256;
  Op(small ? PickleOp::kBinGet : PickleOp::kLongBinGet, index, small ? 1 : 4);
}

void PickleWriter::Int(int64_t value) {
  const auto bits = static_cast<uint64_t>(value);
  if (value >= 0 && value < 0x100) return Op(PickleOp::kBinInt1, bits, 1);
  if (value >= 0 && value < 0x10000) return Op(PickleOp::kBinInt2, bits, 2);
  if (value == static_cast<int32_t>(value)) return Op(PickleOp::kBinInt, bits, 4);
  int bytes = 8;  // the fewest whose sign extension is the value
  while (bytes > 1 && (value >> (8 * (bytes - 1) - 1) == 0 || value >> (8 * (bytes - 1) - 1) == -1)) --bytes;
  Op(PickleOp::kLong1, static_cast<uint64_t>(bytes), 1);
  for (int i = 0; i < bytes; ++i) out_.push_back(static_cast<char>(bits >> (8 * i)));
}

void PickleWriter::Float(double value) {
  Op(PickleOp::kBinFloat);
  const auto bits = std::bit_cast<uint64_t>(value);
  for (int i = 7; i >= 0; --i) out_.push_back(static_cast<char>(bits >> (8 * i)));  // the one big-endian thing
}

void PickleWriter::String(std::string_view text) {
  const auto known = strings_.find(text);
  if (known != strings_.end()) return Get(known->second);
  strings_.emplace(text, memo_size_);
  Op(PickleOp::kBinUnicode, text.size(), 4);
  out_ += text;
  Put();
}

void PickleWriter::Global(TorchGlobalId id) {
  for (const auto& [known, index] : globals_) {
    if (known == id) return Get(index);
  }
  globals_.emplace_back(id, memo_size_);
  const TorchGlobal& global = GlobalOf(id);
  Op(PickleOp::kGlobal);
  out_ += global.module;
  out_ += '\n';
  out_ += global.name;
  out_ += '\n';
  Put();
}

void PickleWriter::BeginTuple(size_t size) {
  if (size > 3) Op(PickleOp::kMark);
}

void PickleWriter::EndTuple(size_t size) {
  constexpr PickleOp kBySize[] = {PickleOp::kEmptyTuple, PickleOp::kTuple1, PickleOp::kTuple2, PickleOp::kTuple3};
  Op(size > 3 ? PickleOp::kTuple : kBySize[size]);
}

void PickleWriter::IntTuple(const std::vector<int64_t>& values) {
  BeginTuple(values.size());
  for (const int64_t value : values) Int(value);
  EndTuple(values.size());
}

void PickleWriter::Begin(PickleOp op, bool empty) {
  Op(op);
  if (!empty) Op(PickleOp::kMark);
}

void PickleWriter::End(PickleOp op, bool empty) {
  if (!empty) Op(op);
}

void PickleWriter::NewObject(TorchGlobalId id) {
  Global(id);
  Op(PickleOp::kEmptyTuple);
  Op(PickleOp::kNewObj);
}

void PickleWriter::Size(const std::vector<int64_t>& values) {
  Global(TorchGlobalId::kSize);
  IntTuple(values);
  EndTuple(1);
  Op(PickleOp::kReduce);
}

void PickleWriter::Tensor(DType dtype, const std::vector<int64_t>& shape, std::string_view key) {
  const auto storage = StorageGlobalOf(dtype);
  const auto bytes = static_cast<int64_t>(TensorBytes(dtype, shape).value_or(0));
  Global(storage ? TorchGlobalId::kRebuildTensorV2 : TorchGlobalId::kRebuildTensorV3);
  Op(PickleOp::kMark);
  Op(PickleOp::kMark);
  String("storage");
  Global(storage.value_or(TorchGlobalId::kUntypedStorage));
  String(key);
  String("cpu");
  Int(storage ? bytes / (BitsPerElement(dtype) / 8) : bytes);
  Op(PickleOp::kTuple);
  Op(PickleOp::kBinPersId);
  Int(0);  // offset
  IntTuple(shape);
  IntTuple(ContiguousStrides(shape));
  Bool(false);  // requires_grad
  Global(TorchGlobalId::kOrderedDict);
  Op(PickleOp::kEmptyTuple);
  Op(PickleOp::kReduce);  // hooks
  if (!storage) Global(DTypeGlobalOf(dtype).value_or(TorchGlobalId::kOrderedDict));
  Op(PickleOp::kTuple);
  Op(PickleOp::kReduce);
}

std::string PickleWriter::Finish() {
  Op(PickleOp::kStop);
  return std::move(out_);
}

bool CanPickle(DType dtype) {
  return DTypeGlobalOf(dtype).has_value();
}

}  // namespace mimo
