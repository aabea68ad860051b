#include "lib/base/hash.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace mimo {
namespace {

Hash128 FromXxh(XXH128_hash_t hash) {
  return {hash.low64, hash.high64};
}

XXH3_state_t* AsState(void* state) {
  return static_cast<XXH3_state_t*>(state);
}

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

}  // namespace

Hash128& Hash128::operator+=(const Hash128& other) {
  low += other.low;
  high += other.high + (low < other.low ? 1 : 0);
  return *this;
}

std::string Hash128::Hex() const {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string out(32, '0');
  for (int i = 0; i < 16; ++i) {
    out[15 - i] = kDigits[(high >> (4 * i)) & 15];
    out[31 - i] = kDigits[(low >> (4 * i)) & 15];
  }
  return out;
}

bool Hash128::FromHex(std::string_view text, Hash128* out) {
  if (text.size() != 32) return false;
  Hash128 hash;
  for (size_t i = 0; i < 32; ++i) {
    const int digit = HexDigit(text[i]);
    if (digit < 0) return false;
    uint64_t& half = i < 16 ? hash.high : hash.low;
    half = half << 4 | static_cast<uint64_t>(digit);
  }
  *out = hash;
  return true;
}

Hash128 HashBytes(std::span<const std::byte> data, uint64_t seed) {
  return FromXxh(XXH3_128bits_withSeed(data.data(), data.size(), seed));
}

Hash128 HashRows(std::span<const std::byte> data, uint64_t row_bytes, uint64_t first_row) {
  Hash128 sum;
  if (row_bytes == 0) return sum;  // rows without bytes: nothing to tell apart
  const uint64_t rows = data.size() / row_bytes;
  for (uint64_t i = 0; i < rows; ++i) sum += HashBytes(data.subspan(i * row_bytes, row_bytes), first_row + i);
  return sum;
}

StreamHash::StreamHash() : state_(XXH3_createState()) {
  XXH3_128bits_reset(AsState(state_));
}

StreamHash::~StreamHash() {
  XXH3_freeState(AsState(state_));
}

void StreamHash::Update(std::span<const std::byte> data) {
  // An empty span may hold a null pointer, which xxHash reports as an error.
  if (!data.empty()) XXH3_128bits_update(AsState(state_), data.data(), data.size());
}

void StreamHash::Update(std::string_view text) {
  Update(std::as_bytes(std::span(text)));
}

Hash128 StreamHash::Digest() const {
  return FromXxh(XXH3_128bits_digest(AsState(state_)));
}

}  // namespace mimo
