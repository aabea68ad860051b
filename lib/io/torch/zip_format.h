// Signatures and fixed numbers of zip files, for torch_zip_write.cc and torch_zip_read.cc.
#pragma once

#include <cstdint>

namespace mimo::zip {

inline constexpr uint32_t kLocalSignature = 0x04034b50;
inline constexpr uint32_t kCentralSignature = 0x02014b50;
inline constexpr uint32_t kEndSignature = 0x06054b50;
inline constexpr uint32_t kZip64EndSignature = 0x06064b50;
inline constexpr uint32_t kZip64LocatorSignature = 0x07064b50;

inline constexpr uint64_t kLocalBytes = 30;
inline constexpr uint64_t kCentralBytes = 46;
inline constexpr uint64_t kEndBytes = 22;
inline constexpr uint64_t kZip64EndBytes = 56;
inline constexpr uint64_t kZip64LocatorBytes = 20;
inline constexpr uint64_t kDescriptorBytes = 16;  // with signature and 32-bit sizes

inline constexpr uint16_t kZip64Extra = 0x0001;
inline constexpr uint16_t kPaddingExtra = 0x4246;  // "FB"
inline constexpr uint64_t kAlignment = 64;

inline constexpr uint16_t kUtf8Flag = 0x0800;
inline constexpr uint16_t kDescriptorFlag = 0x0008;
inline constexpr uint16_t kZip64Version = 45;

// A field of this value says that zip64 fields have the real one.
inline constexpr uint64_t kFull32 = 0xffffffff;
inline constexpr uint64_t kFull16 = 0xffff;

}  // namespace mimo::zip
