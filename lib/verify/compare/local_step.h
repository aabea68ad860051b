// How far apart neighbouring values of a codec are.
#pragma once

#include "kernels/codec.h"

namespace mimo {

// Codecs from fine to coarse: of two sides the one of the higher number decides how far values may be apart.
int Coarseness(kernels::Codec codec);

// Half the distance from `value`, one of `codec` times `multiplier`, to its neighbour towards `other`: what rounding
// `other` to the nearest may move it. Beyond the largest value, as from the one before it.
double HalfStep(kernels::Codec codec, float value, float multiplier, float other);

// Whether `value` is the largest of the codec under its multiplier, and `other` lies beyond: a rule of scales that
// clips made it so.
bool IsClipped(kernels::Codec codec, float value, float multiplier, float other);

}  // namespace mimo
