// CRC-32 (the one of zip, gzip and PNG), whole and put together from parts that are known in any order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace mimo {

uint32_t Crc32(std::span<const std::byte> data);

// What a part contributes to the CRC-32 of a whole in which `bytes_after` bytes follow it: the CRC-32 of the whole is
// the exclusive or of what its parts contribute, in any order.
uint32_t Crc32OfPart(uint32_t crc_of_part, uint64_t bytes_after);

}  // namespace mimo
