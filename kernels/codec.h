// The codecs, and what everyone asks about them: all answers in one exhaustive switch, so that the compiler names a new
// codec that is not there (docs/adding-a-model.md, "A new codec").
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

enum class ElementKind : uint8_t { kValue, kE4m3, kE2m1 };

// How the scales of a codec lie.
enum class ScaleKind : uint8_t {
  kNone,    // elements are values
  kBlocks,  // F32, one per rectangle of a grid that the weight or the encoding brings along
  kGroups,  // one byte per GroupOf(codec) columns of each row
};

struct CodecTraits {
  uint32_t bits = 0;  // of a stored element, be it a value or a code
  ElementKind element = ElementKind::kValue;
  ScaleKind scales = ScaleKind::kNone;
  uint32_t group = 0;   // columns of a row that share a byte of scales; 0 unless ScaleKind::kGroups
  bool global = false;  // all scales of a tensor are multiplied by one F32 of its own
};
constexpr CodecTraits TraitsOf(Codec codec) {
  switch (codec) {
    case Codec::kFp32:
      return {32, ElementKind::kValue, ScaleKind::kNone, 0, false};
    case Codec::kFp16:
    case Codec::kBf16:
      return {16, ElementKind::kValue, ScaleKind::kNone, 0, false};
    case Codec::kFp8Block:
      return {8, ElementKind::kE4m3, ScaleKind::kBlocks, 0, false};
    case Codec::kMxfp4:
      return {4, ElementKind::kE2m1, ScaleKind::kGroups, 32, false};
    case Codec::kMxfp8:
      return {8, ElementKind::kE4m3, ScaleKind::kGroups, 32, false};
    case Codec::kNvfp4:
      return {4, ElementKind::kE2m1, ScaleKind::kGroups, 16, true};
  }
  return {};
}

constexpr uint32_t ElementBits(Codec codec) {
  return TraitsOf(codec).bits;
}
// Two elements per byte.
constexpr bool IsPacked(Codec codec) {
  return ElementBits(codec) == 4;
}
constexpr ElementKind ElementOf(Codec codec) {
  return TraitsOf(codec).element;
}
constexpr ScaleKind ScaleKindOf(Codec codec) {
  return TraitsOf(codec).scales;
}
constexpr bool IsValueCodec(Codec codec) {
  return ScaleKindOf(codec) == ScaleKind::kNone;
}
constexpr bool HasBlockScales(Codec codec) {
  return ScaleKindOf(codec) == ScaleKind::kBlocks;
}
constexpr uint32_t GroupOf(Codec codec) {
  return TraitsOf(codec).group;
}
constexpr bool HasGlobal(Codec codec) {
  return TraitsOf(codec).global;
}

}  // namespace mimo::kernels
