#include "lib/base/crc32.h"

#include <libdeflate.h>
#include <zlib.h>

namespace mimo {

uint32_t Crc32(std::span<const std::byte> data) {
  return libdeflate_crc32(0, data.data(), data.size());
}

// CRC-32 is affine: of A followed by B it is that of A moved on by the length of B, xor that of B.
uint32_t Crc32OfPart(uint32_t crc_of_part, uint64_t bytes_after) {
  return static_cast<uint32_t>(crc32_combine(crc_of_part, 0, static_cast<z_off_t>(bytes_after)));
}

}  // namespace mimo
