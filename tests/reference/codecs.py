"""Element codecs in numpy, straight from the definitions: E4M3FN, E2M1, E8M0, BF16, FP16.

Values are float32. Decoding FP8 blocks is float32(code) * float32(scale), one float32 rounding; rounding to BF16 or
FP16 afterwards is to nearest, ties to even.
"""
import math

import numpy as np


def _e4m3_value(code):
    sign = -1.0 if code & 0x80 else 1.0
    exponent, mantissa = (code >> 3) & 15, code & 7
    if exponent == 15 and mantissa == 7:
        return math.nan
    if exponent == 0:
        return math.copysign(math.ldexp(mantissa, -9), sign)
    return sign * math.ldexp(8 + mantissa, exponent - 10)


E4M3 = np.array([_e4m3_value(code) for code in range(256)], dtype=np.float32)
E4M3_MAX_CODE = 0x7E
E4M3_MAX = 448.0
_E4M3_POSITIVE = E4M3[:0x7F].astype(np.float64)

_E2M1_MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
E2M1 = np.array([math.copysign(m, s) for s in (1.0, -1.0) for m in _E2M1_MAGNITUDES], dtype=np.float32)

E8M0 = np.array([math.ldexp(1.0, b - 127) for b in range(255)] + [math.nan], dtype=np.float32)


def e4m3_step(magnitude):
    """Distance between neighbouring E4M3 values around each magnitude (float64, in units of the scale)."""
    exponent = np.floor(np.log2(np.maximum(np.asarray(magnitude, np.float64), 2.0**-6)))
    return np.exp2(np.clip(exponent, -6, 8) - 3)


def e4m3_encode(values):
    """float32 -> codes, saturating, to nearest even. Negative zero keeps its sign."""
    values = np.asarray(values, np.float32)
    magnitude = np.minimum(np.abs(values).astype(np.float64), E4M3_MAX)
    step = e4m3_step(magnitude)
    rounded = np.rint(magnitude / step) * step          # rint is half-to-even; a carry into the next binade is exact
    code = np.searchsorted(_E4M3_POSITIVE, rounded).astype(np.uint8)
    return np.where(np.signbit(values), code | 0x80, code).astype(np.uint8)


def bf16_from_f32(values):
    """float32 -> BF16 bit patterns, to nearest even. NaN stays a quiet NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    kept, lost = bits >> 16, bits & 0xFFFF
    up = (lost > 0x8000) | ((lost == 0x8000) & (kept & 1 == 1))
    nan = (bits & 0x7FFFFFFF) > 0x7F800000
    return np.where(nan, (kept & 0x8000) | 0x7FC0, kept + up).astype(np.uint16)


def f32_from_bf16(bits):
    return (np.ascontiguousarray(bits, np.uint16).astype(np.uint32) << 16).view(np.float32)


def fp16_from_f32(values):
    """float32 -> FP16 bit patterns; numpy's conversion rounds to nearest even, subnormals included."""
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(values, np.float32).astype(np.float16).view(np.uint16)


def decode_fp8(codes, scales, scale_row, column_block=128):
    """codes [m, n], scales [s, ceil(n/column_block)], scale_row [m] -> float32 [m, n]."""
    columns = np.arange(codes.shape[1]) // column_block
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return E4M3[codes] * scales[scale_row][:, columns]


def decode_mxfp4(packed, scale_bytes):
    """packed [m, n/2], low nibble first; E8M0 bytes [m, n/32] -> float32 [m, n]."""
    nibbles = np.stack([packed & 15, packed >> 4], axis=-1).reshape(packed.shape[0], -1)
    return E2M1[nibbles] * np.repeat(E8M0[scale_bytes], 32, axis=1)


def encode_as(dtype, values):
    """float32 values -> the array stored under a safetensors dtype name."""
    if dtype == "F32":
        return np.ascontiguousarray(values, np.float32)
    return {"BF16": bf16_from_f32, "F16": fp16_from_f32}[dtype](values)


def decode_plain(dtype, array):
    if dtype == "BF16":
        return f32_from_bf16(array)
    if dtype == "F16":
        return array.view(np.float16).astype(np.float32)
    return array.astype(np.float32)
