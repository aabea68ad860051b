// Between codecs and what is stored of them; one place each way.
#pragma once

#include <optional>

#include "kernels/codec.h"
#include "lib/io/dtype.h"
#include "lib/model/inventory.h"

namespace mimo {

using kernels::Codec;

// The codec that a storage is decoded as; nullopt for plain values, whose dtype says it.
std::optional<Codec> CodecOf(Storage storage);
// The type of stored elements: values or codes.
DType DTypeOf(Codec codec);
// The type of the scales, as we write them; nullopt for values.
std::optional<DType> ScaleTypeOf(Codec codec);
// The codec of plain values; nullopt for types that are none: such arrays are moved, never decoded.
std::optional<Codec> ValueCodecOf(DType dtype);

}  // namespace mimo
