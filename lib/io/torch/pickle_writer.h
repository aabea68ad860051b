// Pickles of protocol 2, put down by a closed set of opcodes and names (lib/io/torch/globals.h). Every string and every
// name is memoized when first used and fetched from then on; nothing else is. Same calls, same bytes.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "lib/io/torch/globals.h"

namespace mimo {

enum class PickleOp : uint8_t {
  kProto = 0x80,
  kGlobal = 'c',
  kBinPut = 'q',
  kLongBinPut = 'r',
  kBinGet = 'h',
  kLongBinGet = 'j',
  kBinUnicode = 'X',
  kBinInt1 = 'K',
  kBinInt2 = 'M',
  kBinInt = 'J',
  kLong1 = 0x8a,
  kBinFloat = 'G',
  kNewTrue = 0x88,
  kNewFalse = 0x89,
  kNoneValue = 'N',
  kMark = '(',
  kEmptyTuple = ')',
  kTuple = 't',
  kTuple1 = 0x85,
  kTuple2 = 0x86,
  kTuple3 = 0x87,
  kEmptyList = ']',
  kAppends = 'e',
  kEmptyDict = '}',
  kSetItems = 'u',
  kReduce = 'R',
  kNewObj = 0x81,
  kBuild = 'b',
  kBinPersId = 'Q',
  kStop = '.',
};

class PickleWriter {
 public:
  PickleWriter();

  void Op(PickleOp op) { out_.push_back(static_cast<char>(op)); }
  void None() { Op(PickleOp::kNoneValue); }
  void Bool(bool value) { Op(value ? PickleOp::kNewTrue : PickleOp::kNewFalse); }
  void Int(int64_t value);
  void Float(double value);
  void String(std::string_view text);
  void Global(TorchGlobalId id);
  // A tuple of `size` values: BeginTuple, the values, EndTuple with the same size.
  void BeginTuple(size_t size);
  void EndTuple(size_t size);
  void IntTuple(const std::vector<int64_t>& values);
  // A dict or list: Begin, its values, End. An empty one is told at both, and is an opcode alone.
  void BeginDict(bool empty = false) { Begin(PickleOp::kEmptyDict, empty); }
  void EndDict(bool empty = false) { End(PickleOp::kSetItems, empty); }
  void BeginList(bool empty = false) { Begin(PickleOp::kEmptyList, empty); }
  void EndList(bool empty = false) { End(PickleOp::kAppends, empty); }
  // An object of a class without arguments; a state may follow with kBuild.
  void NewObject(TorchGlobalId id);
  void Size(const std::vector<int64_t>& values);
  // A contiguous tensor that is all of storage `key`. The dtype is one of torch's (CanPickle).
  void Tensor(DType dtype, const std::vector<int64_t>& shape, std::string_view key);

  // The pickle, closed by STOP. The writer is spent.
  std::string Finish();

 private:
  void Begin(PickleOp op, bool empty);
  void End(PickleOp op, bool empty);
  // An opcode with an argument of so many bytes, little-endian.
  void Op(PickleOp op, uint64_t argument, int bytes);
  void Put();
  void Get(uint32_t index);

  std::string out_;
  uint32_t memo_size_ = 0;
  struct TextHash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };
  std::unordered_map<std::string, uint32_t, TextHash, std::equal_to<>> strings_;
  std::vector<std::pair<TorchGlobalId, uint32_t>> globals_;  // few
};

// Whether torch has tensors of this dtype (F4 and F6 it has not, or not one element each).
bool CanPickle(DType dtype);

}  // namespace mimo
