#include "lib/forms/cut_rows.h"

#include <algorithm>
#include <span>

#include "lib/io/dtype.h"
#include "lib/model/catalogue.h"

namespace mimo {
namespace {

constexpr uint64_t kBufferBytes = 4u << 20;

// The byte of an element that has its sign: the last one. 0: types without a sign of their own.
size_t SignedElement(DType dtype) {
  if (dtype == DType::kF32) return 4;
  return dtype == DType::kBF16 || dtype == DType::kF16 ? 2 : 0;
}

bool IsZero(std::span<const std::byte> row, size_t element) {
  for (size_t i = 0; i < row.size(); ++i) {
    const bool sign = element > 0 && i % element == element - 1;
    if ((row[i] & (sign ? std::byte{0x7f} : std::byte{0xff})) != std::byte{0}) return false;
  }
  return true;
}

}  // namespace

Status CountCutRows(FileSystem& fs, const Catalogue& stored, std::vector<CutRows>* cut) {
  std::string buffer;
  for (CutRows& rows : *cut) {
    const StoredArray& array = stored.arrays[rows.array];
    const uint64_t row_bytes = array.row_bytes();
    if (row_bytes == 0) continue;
    MIMO_ASSIGN_OR_RETURN(const auto file, fs.OpenForRead(stored.PathOf(stored.files[array.file])));
    const int64_t at_once = static_cast<int64_t>(std::max<uint64_t>(kBufferBytes / row_bytes, 1));
    rows.nonzero = 0;
    for (int64_t done = 0; done < rows.rows; done += at_once) {
      const int64_t count = std::min(at_once, rows.rows - done);
      buffer.resize(static_cast<size_t>(count) * row_bytes);
      const std::span<std::byte> bytes = std::as_writable_bytes(std::span(buffer));
      MIMO_RETURN_IF_ERROR(file->ReadAt(array.begin + static_cast<uint64_t>(rows.first + done) * row_bytes, bytes));
      for (int64_t row = 0; row < count; ++row)
        rows.nonzero +=
            IsZero(bytes.subspan(static_cast<size_t>(row) * row_bytes, row_bytes), SignedElement(array.dtype)) ? 0 : 1;
    }
  }
  return {};
}

}  // namespace mimo
