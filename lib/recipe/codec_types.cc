#include "lib/recipe/codec_types.h"

#include <algorithm>
#include <iterator>

#include "lib/recipe/codec_words.h"

namespace mimo {
namespace {

struct Types {
  DType elements;
  std::optional<DType> scales;
};

constexpr std::pair<Codec, Types> kTypes[] = {
    {Codec::kFp32, {DType::kF32, {}}},
    {Codec::kFp16, {DType::kF16, {}}},
    {Codec::kBf16, {DType::kBF16, {}}},
    {Codec::kFp8Block, {DType::kF8E4M3, DType::kF32}},
    {Codec::kMxfp4, {DType::kU8, DType::kU8}},
    {Codec::kMxfp8, {DType::kF8E4M3, DType::kU8}},
    {Codec::kNvfp4, {DType::kU8, DType::kF8E4M3}},
};
static_assert(NamesEach(kTypes));

const Types& TypesOf(Codec codec) {
  return std::find_if(std::begin(kTypes), std::end(kTypes), [&](const auto& row) { return row.first == codec; })
      ->second;
}

}  // namespace

std::optional<Codec> CodecOf(Storage storage) {
  switch (storage) {
    case Storage::kFp8Block:
      return Codec::kFp8Block;
    case Storage::kMxfp4:
      return Codec::kMxfp4;
    case Storage::kMxfp8:
      return Codec::kMxfp8;
    case Storage::kNvfp4:
      return Codec::kNvfp4;
    case Storage::kPlain:
      break;
  }
  return std::nullopt;
}

DType DTypeOf(Codec codec) {
  return TypesOf(codec).elements;
}

std::optional<DType> ScaleTypeOf(Codec codec) {
  return TypesOf(codec).scales;
}

std::optional<Codec> ValueCodecOf(DType dtype) {
  for (const auto& [codec, word] : kCodecs) {
    if (IsValueCodec(codec) && DTypeOf(codec) == dtype) return codec;
  }
  return std::nullopt;
}

}  // namespace mimo
