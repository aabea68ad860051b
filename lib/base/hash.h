// Hashes of bytes and of tensors (design: docs/formats.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace mimo {

// Unsigned 128-bit sum modulo 2^128; printed as 32 lower-case hex digits, most significant first.
struct Hash128 {
  uint64_t low = 0;
  uint64_t high = 0;
  Hash128& operator+=(const Hash128& other);
  bool operator==(const Hash128&) const = default;
  std::string Hex() const;
  static bool FromHex(std::string_view text, Hash128* out);
};

// XXH3-128 of `data` with `seed`.
Hash128 HashBytes(std::span<const std::byte> data, uint64_t seed = 0);

// The hash of a tensor is the sum over its rows of HashBytes(row, row number), so rows may be added in any order and
// from several partial sums. A row is one run of the last dimension (MatrixRows, lib/io/dtype.h). This is the sum of
// rows [first_row, first_row + data.size()/row_bytes).
Hash128 HashRows(std::span<const std::byte> data, uint64_t row_bytes, uint64_t first_row);

// A stream hash for files that are carried along.
class StreamHash {
 public:
  StreamHash();
  ~StreamHash();
  StreamHash(const StreamHash&) = delete;
  StreamHash& operator=(const StreamHash&) = delete;
  void Update(std::span<const std::byte> data);
  void Update(std::string_view text);
  Hash128 Digest() const;

 private:
  void* state_;
};

}  // namespace mimo
