// The codecs, and what everyone asks about them. Each question is one exhaustive switch, so that the compiler names
// what a new codec leaves unanswered (docs/adding-a-model.md, "A new codec").
#pragma once

#include <cstdint>

namespace mimo::kernels {

enum class Codec : uint8_t {
  kFp32,      // 4 bytes per element
  kFp16,      // 2
  kBf16,      // 2
  kFp8Block,  // E4M3FN codes, 1 byte; one F32 multiplier per column block of the band
  kMxfp4,     // E2M1, two per byte, low nibble = even column; per row one E8M0 byte per 32 columns
  kMxfp8,     // E4M3FN codes, 1 byte; per row one E8M0 byte per 32 columns
  kNvfp4,     // E2M1 as in kMxfp4; per row one E4M3FN byte per 16 columns, and one F32 for the whole tensor
};

// Bits of a stored element, be it a value or a code.
constexpr uint32_t ElementBits(Codec codec) {
  switch (codec) {
    case Codec::kFp32:
      return 32;
    case Codec::kFp16:
    case Codec::kBf16:
      return 16;
    case Codec::kFp8Block:
    case Codec::kMxfp8:
      return 8;
    case Codec::kMxfp4:
    case Codec::kNvfp4:
      return 4;
  }
  return 0;
}

// Two elements per byte.
constexpr bool IsPacked(Codec codec) {
  return ElementBits(codec) == 4;
}

enum class ElementKind : uint8_t { kValue, kE4m3, kE2m1 };
constexpr ElementKind ElementOf(Codec codec) {
  switch (codec) {
    case Codec::kFp32:
    case Codec::kFp16:
    case Codec::kBf16:
      return ElementKind::kValue;
    case Codec::kFp8Block:
    case Codec::kMxfp8:
      return ElementKind::kE4m3;
    case Codec::kMxfp4:
    case Codec::kNvfp4:
      return ElementKind::kE2m1;
  }
  return ElementKind::kValue;
}

// How the scales of a codec lie.
enum class ScaleKind : uint8_t {
  kNone,    // elements are values
  kBlocks,  // F32, one per rectangle of a grid that the weight or the encoding brings along
  kGroups,  // one byte per GroupOf(codec) columns of each row
};
constexpr ScaleKind ScaleKindOf(Codec codec) {
  switch (codec) {
    case Codec::kFp32:
    case Codec::kFp16:
    case Codec::kBf16:
      return ScaleKind::kNone;
    case Codec::kFp8Block:
      return ScaleKind::kBlocks;
    case Codec::kMxfp4:
    case Codec::kMxfp8:
    case Codec::kNvfp4:
      return ScaleKind::kGroups;
  }
  return ScaleKind::kNone;
}
constexpr bool IsValueCodec(Codec codec) {
  return ScaleKindOf(codec) == ScaleKind::kNone;
}
constexpr bool HasBlockScales(Codec codec) {
  return ScaleKindOf(codec) == ScaleKind::kBlocks;
}

// Columns of a row that share a byte of scales; 0 unless ScaleKind::kGroups.
constexpr uint32_t GroupOf(Codec codec) {
  switch (codec) {
    case Codec::kMxfp4:
    case Codec::kMxfp8:
      return 32;
    case Codec::kNvfp4:
      return 16;
    case Codec::kFp32:
    case Codec::kFp16:
    case Codec::kBf16:
    case Codec::kFp8Block:
      break;
  }
  return 0;
}

// Whether all scales of a tensor are multiplied by one F32 of its own.
constexpr bool HasGlobal(Codec codec) {
  switch (codec) {
    case Codec::kNvfp4:
      return true;
    case Codec::kFp32:
    case Codec::kFp16:
    case Codec::kBf16:
    case Codec::kFp8Block:
    case Codec::kMxfp4:
    case Codec::kMxfp8:
      break;
  }
  return false;
}

}  // namespace mimo::kernels
