// A data-only interpreter of pickles, protocols 2 to 5. It knows the opcodes that the files of PyTorch and Megatron use
// and the names of lib/io/torch/globals.h; any other opcode or name is an error that says which. Calls of known
// functions and objects of known classes become records of what was given to them: nothing is ever run or looked up.
//
// A value that a pickle refers to several times is one node, so that a pickle of n bytes makes at most n nodes however
// often it refers to them. Nodes point into the pickle, which must outlive them.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lib/base/status.h"
#include "lib/io/torch/globals.h"
#include "lib/io/torch/value.h"

namespace mimo {

inline constexpr int kMaxPickleDepth = 40;            // of values within values, and of open marks
inline constexpr size_t kMaxPickleBytes = 1U << 30U;  // places in it and among items fit 32 bits
inline constexpr uint32_t kMaxDimensions = 64;        // of a tensor, as in torch
inline constexpr size_t kMaxPickleNodes = 1U << 25U;  // 1 GiB of nodes

using PickleId = uint32_t;

enum class PickleKind : uint8_t {
  kNone,
  kBool,
  kInt,
  kFloat,
  kString,
  kBytes,
  kTuple,
  kList,
  kDict,
  kGlobal,
  kObject,
  kStorage,
  kTensor
};

// 32 bytes; what it holds is asked of its Pickle.
struct PickleNode {
  PickleKind kind = PickleKind::kNone;
  uint8_t depth = 0;      // of what is within, at most kMaxPickleDepth
  uint32_t first = 0;     // kString, kBytes, inert kGlobal (its name): byte of the pickle; others: index of an item
  uint32_t count = 0;     // of bytes, or of items
  uint32_t capacity = 0;  // items there is room for
  union {
    int64_t integer = 0;  // kBool, kInt; kGlobal: TorchGlobalId; kStorage: its elements; kTensor: its offset
    double real;          // kFloat
  };
};

class Pickle {
 public:
  const PickleNode& root() const { return nodes_[root_]; }
  const PickleNode& at(PickleId id) const { return nodes_[id]; }
  uint64_t bytes() const { return bytes_.size(); }
  size_t nodes() const { return nodes_.size(); }  // tests/fuzz/fuzz_pickle.cc holds it to the promise above
  std::string_view TextOf(const PickleNode& node) const { return bytes_.substr(node.first, node.count); }
  // kTuple, kList: values. kDict: key, value, key, value ... kObject: name, arguments (a tuple) and, after BUILD,
  // state. kStorage: its class, its key. kTensor: storage, shape and strides (tuples of integers >= 0, of equal
  // length), and the dtype if given.
  std::span<const PickleId> ItemsOf(const PickleNode& node) const {
    return std::span(items_).subspan(node.first, node.count);
  }

  // Name of a kGlobal or of the class of a kObject; none for others.
  std::optional<TorchGlobalId> GlobalOf(const PickleNode& node) const;
  // State that BUILD gave to an object of this class; null when it is none, or has none.
  const PickleNode* StateOf(const PickleNode& node, TorchGlobalId id) const;
  // Value of a string key of a dict; null when there is none, or no dict. The last one, as in Python.
  const PickleNode* Find(const PickleNode* dict, std::string_view key) const;
  // Integers of a tuple or list that holds nothing else, and at most kMaxDimensions; none of null.
  std::optional<std::vector<int64_t>> Integers(const PickleNode* node) const;
  // None when it is one that we do not have.
  std::optional<DType> TensorDType(const PickleNode& tensor) const;

 private:
  friend class PickleMachine;
  std::string_view bytes_;
  std::vector<PickleNode> nodes_;
  std::vector<PickleId> items_;
  PickleId root_ = 0;
};

// What becomes of names that are none of lib/io/torch/globals.h.
enum class UnknownNames : uint8_t {
  kRefuse,
  // Objects of such classes are records (TorchRecord::inert), for what nobody looks at; what is appended to them, or
  // set in them, is left out. Traps (IsTrap) are refused all the same.
  kInert,
};

// kBadInput, naming `path` and the byte where the pickle goes wrong.
Result<Pickle> ReadPickle(std::string_view bytes, const std::string& path,
                          UnknownNames unknown = UnknownNames::kRefuse);

// The whole value as data. kBadInput when it would be much larger than the pickle (shared values are copied), is nested
// too deeply or holds itself, or when a dict has a string key twice. torch.Size is a tuple, OrderedDict a dict, bytes
// a string, a tensor of a dtype that we do not have a record.
Result<TorchValue> ValueOf(const Pickle& pickle, const std::string& path);

}  // namespace mimo
