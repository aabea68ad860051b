#include "lib/recipe/codec_types.h"

#include "lib/recipe/codec_words.h"

namespace mimo {

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
  switch (codec) {
    case Codec::kFp32:
      return DType::kF32;
    case Codec::kFp16:
      return DType::kF16;
    case Codec::kBf16:
      return DType::kBF16;
    case Codec::kFp8Block:
    case Codec::kMxfp8:
      return DType::kF8E4M3;
    case Codec::kMxfp4:
    case Codec::kNvfp4:
      break;
  }
  return DType::kU8;
}

std::optional<DType> ScaleTypeOf(Codec codec) {
  switch (codec) {
    case Codec::kFp8Block:
      return DType::kF32;
    case Codec::kMxfp4:
    case Codec::kMxfp8:
      return DType::kU8;
    case Codec::kNvfp4:
      return DType::kF8E4M3;
    case Codec::kFp32:
    case Codec::kFp16:
    case Codec::kBf16:
      break;
  }
  return std::nullopt;
}

std::optional<Codec> ValueCodecOf(DType dtype) {
  for (const auto& [codec, word] : kCodecs) {
    if (IsValueCodec(codec) && DTypeOf(codec) == dtype) return codec;
  }
  return std::nullopt;
}

}  // namespace mimo
