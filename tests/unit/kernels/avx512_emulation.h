// The AVX-512 intrinsics that kernels/cpu/convert_avx512.cc uses, on SIMDe: proves its arithmetic and indexing on any
// x86-64.
#pragma once

// SIMDe 0.8 gives clang's mask another type of 64 bits than clang does, unless the name is a macro.
#include <immintrin.h>
#define __mmask64 __mmask64
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

#ifndef _mm512_stream_si512  // missing from older releases
#define _mm512_stream_si512(target, value) simde_mm512_storeu_si512((target), (value))
#endif
