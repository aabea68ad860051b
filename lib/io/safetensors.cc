#include "lib/io/safetensors.h"

#include "lib/base/checked.h"

namespace mimo {

std::optional<uint64_t> TensorBytes(DType dtype, std::span<const int64_t> shape) {
  // A zero anywhere makes the tensor empty, but the other sizes must still make sense: code that multiplies only some
  // of them (rows, strides) may rely on every partial product fitting.
  uint64_t elements = 1;
  bool empty = false;
  for (const int64_t size : shape) {
    if (size < 0) return std::nullopt;
    if (size == 0) {
      empty = true;
      continue;
    }
    const auto product = CheckedMul(elements, static_cast<uint64_t>(size));
    if (!product) return std::nullopt;
    elements = *product;
  }
  const auto bits = CheckedMul(elements, BitsPerElement(dtype));
  if (!bits) return std::nullopt;
  if (empty) return 0;
  if (*bits % 8 != 0) return std::nullopt;
  return *bits / 8;
}

}  // namespace mimo
