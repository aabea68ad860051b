#include "lib/io/torch/value.h"

#include <algorithm>

namespace mimo {

bool TorchTensor::contiguous() const {
  if (shape.size() != strides.size()) return false;
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return true;
  int64_t expected = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    if (shape[i] == 1) continue;
    if (strides[i] != expected) return false;
    if (__builtin_mul_overflow(expected, shape[i], &expected)) return false;
  }
  return true;
}

TorchValue::TorchValue() = default;
TorchValue::TorchValue(const TorchValue& other) = default;
TorchValue::TorchValue(TorchValue&& other) noexcept = default;
TorchValue& TorchValue::operator=(const TorchValue& other) = default;
TorchValue& TorchValue::operator=(TorchValue&& other) noexcept = default;
TorchValue::~TorchValue() = default;

const TorchValue* TorchValue::Find(std::string_view key) const {
  const auto* dict = std::get_if<Dict>(&data);
  if (dict == nullptr) return nullptr;
  for (const auto& [name, value] : *dict) {
    const auto* text = std::get_if<std::string>(&name.data);
    if (text != nullptr && *text == key) return &value;
  }
  return nullptr;
}

namespace {

const TorchRecord* FindInertIn(const TorchValue::List& list) {
  for (const TorchValue& value : list)
    if (const TorchRecord* found = FindInert(value)) return found;
  return nullptr;
}

}  // namespace

const TorchRecord* FindInert(const TorchValue& value) {  // as deep as pickles nest
  if (const auto* record = std::get_if<TorchRecord>(&value.data)) {
    if (record->inert) return record;
    const TorchRecord* found = FindInertIn(record->args);
    return found != nullptr ? found : FindInertIn(record->state);
  }
  if (const auto* list = std::get_if<TorchValue::List>(&value.data)) return FindInertIn(*list);
  if (const auto* tuple = std::get_if<TorchValue::Tuple>(&value.data)) return FindInertIn(tuple->items);
  if (const auto* dict = std::get_if<TorchValue::Dict>(&value.data))
    for (const auto& [key, held] : *dict)
      if (const TorchRecord* found = FindInert(held)) return found;
  return nullptr;
}

}  // namespace mimo
