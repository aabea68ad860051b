// What the pickles of PyTorch and Megatron checkpoints hold, as plain data. Written and read by pickle_writer.h and
// pickle_reader.h; nothing of it is ever executed.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "lib/io/dtype.h"

namespace mimo {

struct TorchValue;

// torch.Tensor of one storage. Strides and offset in elements.
struct TorchTensor {
  DType dtype = DType::kU8;
  std::string storage;  // its key: entry BASE/data/KEY of the zip
  int64_t storage_elements = 0;
  int64_t offset = 0;
  std::vector<int64_t> shape;
  std::vector<int64_t> strides;
  bool contiguous() const;  // C order; dimensions of size 1 may have any stride
};

// A class or function by name, or an object of a class that is known by name only: its arguments and state are data.
struct TorchRecord {
  std::string module;
  std::string name;
  std::vector<TorchValue> args;   // of NEWOBJ or REDUCE
  std::vector<TorchValue> state;  // of BUILD: none or one
  bool inert = false;             // of a class that is no name of ours (UnknownNames::kInert)
};

struct TorchValue {
  using List = std::vector<TorchValue>;
  using Dict = std::vector<std::pair<TorchValue, TorchValue>>;  // in the order of the pickle
  struct Tuple {
    List items;
  };
  // Defined where a pair of values is complete: clang needs that.
  TorchValue();
  TorchValue(const TorchValue& other);
  TorchValue(TorchValue&& other) noexcept;
  TorchValue& operator=(const TorchValue& other);
  TorchValue& operator=(TorchValue&& other) noexcept;
  ~TorchValue();
  // NOLINTBEGIN(bugprone-forwarding-reference-overload): TorchValue itself is left out
  template <class T>
  requires(!std::is_same_v<std::remove_cvref_t<T>, TorchValue>) explicit TorchValue(T&& value)
      : data(std::forward<T>(value)) {}
  // NOLINTEND(bugprone-forwarding-reference-overload)

  std::variant<std::monostate, bool, int64_t, double, std::string, Tuple, List, Dict, TorchTensor, TorchRecord> data;

  // The value of a string key of a dict; null when there is none or this is no dict.
  const TorchValue* Find(std::string_view key) const;
  // The same, null also for a value that is no T.
  template <class T>
  const T* Find(std::string_view key) const {
    const TorchValue* value = Find(key);
    return value == nullptr ? nullptr : std::get_if<T>(&value->data);
  }
};

// An inert record in a value, or in what a record, list, tuple or dict of it holds; null when there is none.
const TorchRecord* FindInert(const TorchValue& value);

}  // namespace mimo
