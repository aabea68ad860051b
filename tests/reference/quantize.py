"""Encoders of the quantized formats in numpy, from their published rules, with every float32 step spelled out.

Input is float32 [m, n]; a matrix comes back as codes (packed two per byte for 4 bits, low nibble = even column) and its
scales. Search modes follow ModelOpt's calibration (candidates ascending, the first of the least errors wins), with the
errors in float64 of the values that the written bytes decode to.

Deliberate choices where the public tools give garbage: an all-zero NVFP4 tensor has global 1, codes 0 and scales 1.0
(the sweep: its first candidate, as for any group of zeros); NaN and infinities are refused, as the tool refuses them.
"""
from collections import namedtuple

import numpy as np

from reference import codecs

F = np.float32

# codes, scales: as stored. blocks: groups or cells. exact: how many of them were moved without arithmetic.
Encoded = namedtuple("Encoded", "codes scales blocks exact")

NVFP4_RULES = ("max", "four-over-six", "sweep", "mse")
MX_RULES = ("rceil", "floor", "even", "ceil")
LARGEST_SCALE = {"max": F(448), "sweep": F(448), "mse": F(448), "four-over-six": F(256)}   # of the block with the amax
_E2M1_BOUNDS = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0], F)
_E2M1_ODD_BOUNDS = _E2M1_BOUNDS[1::2]
# 39 multipliers from 0.25 to 4: torch.linspace, whose step is a float32 and whose halves are counted from either end.
_MSE_STEP = float(F(3.75) / F(38))
MSE_MULTIPLIERS = np.array([0.25 + i * _MSE_STEP if i < 19 else 4.0 - (38 - i) * _MSE_STEP for i in range(39)], F)


def _checked(values):
    values = np.ascontiguousarray(values, F)
    if not np.isfinite(values).all():
        raise ValueError("values are not finite")
    return values


def via_bf16(values):
    return codecs.f32_from_bf16(codecs.bf16_from_f32(values))


# ---- elements ------------------------------------------------------------------------------------------------------

def e2m1_encode(scaled, ties="even"):
    """float32 -> nibbles 0..15. The sign bit says x < 0, so negative zero becomes 0 and a tiny negative 8."""
    scaled = np.asarray(scaled, F)
    magnitude = np.abs(scaled)
    index = np.searchsorted(_E2M1_BOUNDS, magnitude, side="left").astype(np.uint8)  # a tie stays below
    if ties == "even":
        index += np.isin(magnitude, _E2M1_ODD_BOUNDS).astype(np.uint8)
    return index | ((scaled < 0).astype(np.uint8) << 3)


def pack(nibbles):
    return nibbles[:, 0::2] | (nibbles[:, 1::2] << 4)


def unpack(packed):
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(packed.shape[0], -1)


def _groups(values, size):
    rows, cols = values.shape
    if cols % size:
        raise ValueError(f"{cols} columns are not a multiple of {size}")
    return values.reshape(rows, cols // size, size)


# ---- NVFP4 ---------------------------------------------------------------------------------------------------------

def nvfp4_global(amax, rule="max"):
    """The multiplier of a fuse group (weight_scale_2) from the largest magnitude in it."""
    amax = F(amax)
    if amax == 0:
        return F(1)
    return amax / (F(6) * LARGEST_SCALE[rule])


def amax_of(matrices):
    return max((F(np.abs(m).max()) for m in matrices), default=F(0))


def _scale_code(ratio):
    return codecs.e4m3_encode(np.clip(ratio, F(2.0**-9), F(448)))


def _nvfp4_nibbles(groups, scales, multiplier):
    """groups [..., 16], scale codes [...] -> nibbles"""
    unit = codecs.E4M3[scales] * multiplier
    with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
        return e2m1_encode(groups / unit[..., None])


def _nvfp4_loss(groups, scales, multiplier):
    unit = codecs.E4M3[scales] * multiplier
    decoded = codecs.E2M1[_nvfp4_nibbles(groups, scales, multiplier)] * unit[..., None]
    return np.square(groups.astype(np.float64) - decoded.astype(np.float64)).sum(axis=-1)


def _static_code(block_amax, group_amax, rule):
    """E4M3 of a block whose amax is taken to be `block_amax`, when amaxes are calibrated (ModelOpt's static path)."""
    ratio = block_amax / F(6)
    ratio = np.where(ratio == 0, F(1), ratio)
    with np.errstate(over="ignore", under="ignore"):
        return _scale_code(ratio * LARGEST_SCALE[rule] / (F(group_amax) / F(6)))


def nvfp4_candidates(groups, group_amax, rule):
    """Scale codes that a search rule chooses from, in its order: [candidates, rows, groups]."""
    block_amax = np.abs(groups).max(axis=-1)
    if rule == "sweep":
        every = np.arange(1, 127, dtype=np.uint8)
        return np.broadcast_to(every[:, None, None], (126,) + block_amax.shape)
    multipliers = MSE_MULTIPLIERS if rule == "mse" else np.array([1.0, 1.5], F)
    return np.stack([_static_code(block_amax * m, group_amax, rule) for m in multipliers])


def nvfp4(values, group_amax=None, rule="max"):
    """`group_amax`: over the whole fuse group (default: these values alone). -> Encoded"""
    groups = _groups(_checked(values), 16)
    group_amax = amax_of([values]) if group_amax is None else F(group_amax)
    multiplier = nvfp4_global(group_amax, rule)
    if group_amax == 0:
        scales = np.full(groups.shape[:2], 0x01 if rule == "sweep" else 0x38, np.uint8)
    elif rule == "max":
        with np.errstate(over="ignore", under="ignore", divide="ignore"):
            ratio = np.abs(groups).max(axis=-1) / (F(6) * multiplier)
        scales = _scale_code(np.where(ratio == 0, F(1), ratio))
    else:
        candidates = nvfp4_candidates(groups, group_amax, rule)
        scales, least = None, None
        for codes in candidates:
            loss = _nvfp4_loss(groups, codes, multiplier)
            if scales is None:
                scales, least = codes.copy(), loss
            else:
                better = loss < least
                scales, least = np.where(better, codes, scales), np.where(better, loss, least)
    nibbles = _nvfp4_nibbles(groups, scales, multiplier)
    return Encoded(pack(nibbles.reshape(values.shape)), scales, scales.size, 0)


def nvfp4_loss(values, scales, multiplier):
    """Squared error per block under given scale codes."""
    return _nvfp4_loss(_groups(_checked(values), 16), scales, F(multiplier))


def as_good(values, scales, others, multiplier, group_amax):
    """Per block, whether two choices of a search are equal, or excused: FP32 losses may decide otherwise where they agree
    within 1e-5, where they leave the range of FP32 (squares of values beyond 2^-55 .. 2^55), and where ModelOpt judges
    the scales unscaled (a tensor amax of at most 6 * 2^-24). -> (equal, near tie, out of range), disjoint"""
    equal = scales == others
    losses = [nvfp4_loss(values, s, multiplier) for s in (scales, others)]
    amax = np.abs(_groups(values, 16)).max(axis=-1).astype(np.float64)
    outside = ~equal & ((amax < 2.0**-55) | (amax > 2.0**55) | (F(group_amax) <= 6 * 2.0**-24))
    near = ~equal & ~outside & (np.abs(losses[0] - losses[1]) <= 1e-5 * losses[1])
    return equal, near, outside


def decode_nvfp4(packed, scales, stored_global, divides=False):
    """float32 element * (float32 scale * multiplier), or scale / divisor for compressed-tensors' globals."""
    stored_global = F(np.asarray(stored_global).reshape(()))
    with np.errstate(over="ignore", under="ignore"):
        unit = codecs.E4M3[scales] / stored_global if divides else codecs.E4M3[scales] * stored_global
        return codecs.E2M1[unpack(packed)] * np.repeat(unit, 16, axis=1)


# ---- MXFP4 and MXFP8 -----------------------------------------------------------------------------------------------

_MX = {4: (F(6), 2, 1), 8: (F(448), 8, 3)}   # largest value, its exponent, mantissa bits


def mx_scale(amax, bits, rule, mantissa_bits=None):
    """E8M0 byte of groups with these largest magnitudes. `mantissa_bits`: what "even" rounds to (default: the element's)."""
    largest, exponent, own_bits = _MX[bits]
    mantissa_bits = mantissa_bits or own_bits
    amax = np.ascontiguousarray(amax, F)
    if rule == "rceil":
        quotient = (amax / largest).view(np.uint32)
        field, mantissa = quotient >> 23, quotient & 0x7FFFFF
        return (field + np.where(field == 0, mantissa > 0x400000, mantissa != 0)).astype(np.uint8)
    pattern = amax.view(np.uint32).astype(np.int64)
    if rule == "even":
        pattern = pattern + (1 << (22 - mantissa_bits))
    field = (pattern >> 23) - exponent
    if rule == "ceil":
        field += (pattern & 0x7FFFFF) != 0
    return np.clip(field, 0, 254).astype(np.uint8)


def _mx_scaled(values, bits, rule):
    groups = _groups(_checked(values), 32)
    scales = mx_scale(np.abs(groups).max(axis=-1), bits, rule)
    with np.errstate(over="ignore", under="ignore"):
        return (groups / codecs.E8M0[scales][..., None]).reshape(values.shape), scales


def mxfp4(values, rule="rceil", ties="even"):
    scaled, scales = _mx_scaled(values, 4, rule)
    return Encoded(pack(e2m1_encode(scaled, ties)), scales, scales.size, 0)


def mxfp8(values, rule="rceil"):
    scaled, scales = _mx_scaled(values, 8, rule)
    return Encoded(codecs.e4m3_encode(scaled), scales, scales.size, 0)


def decode_mxfp8(codes, scales):
    with np.errstate(over="ignore", under="ignore"):
        return codecs.E4M3[codes] * np.repeat(codecs.E8M0[scales], 32, axis=1)


# ---- block FP8 -----------------------------------------------------------------------------------------------------

def _cells(array, block_rows, block_cols, reduce):
    rows, cols = (-(-extent // block) for extent, block in zip(array.shape, (block_rows, block_cols)))
    padded = np.zeros((rows * block_rows, cols * block_cols), array.dtype)
    padded[:array.shape[0], :array.shape[1]] = array
    return reduce(padded.reshape(rows, block_rows, cols, block_cols), axis=(1, 3))


def spread(cells, shape, block_rows, block_cols):
    return np.repeat(np.repeat(cells, block_rows, 0), block_cols, 1)[:shape[0], :shape[1]]


def fp8_block(values, block_rows=128, block_cols=128, power_of_two=False):
    values = _checked(values)
    amax = _cells(np.abs(values), block_rows, block_cols, np.max)
    if power_of_two:
        quotient = (np.maximum(amax, F(1e-4)) / F(448)).view(np.uint32)
        scales = codecs.E8M0[(quotient >> 23) + ((quotient & 0x7FFFFF) != 0)]
    else:
        scales = np.maximum(amax, F(1e-12)) / F(448)
    codes = codecs.e4m3_encode(values / spread(scales, values.shape, block_rows, block_cols))
    return Encoded(codes, scales, scales.size, 0)


# ---- exact paths ---------------------------------------------------------------------------------------------------

def mxfp4_exponents(packed, scales):
    """(least, largest) scale byte of groups that hold a non-zero element; None when there is none."""
    used = scales[(_groups(unpack(packed), 32) & 7).any(axis=-1)]
    return (int(used.min()), int(used.max())) if used.size else None


def nvfp4_exact_range(exponents):
    """Whether a fuse group of MXFP4 with these (least, largest) bytes becomes NVFP4 without a rounding."""
    return exponents is not None and exponents[1] - exponents[0] <= 17 and exponents[1] <= 252


def nvfp4_from_mxfp4(packed, scales, largest):
    """`largest` scale byte of the fuse group. Codes stay, each scale becomes two; the multiplier is 2^(largest-135)."""
    power = np.clip(scales.astype(np.int64) - largest + 8, -9, 8)
    code = codecs.e4m3_encode(np.exp2(power).astype(F))       # groups of zeros may lie outside: clamped
    return Encoded(packed, np.repeat(code, 2, axis=1), 2 * scales.size, 2 * scales.size)


def nvfp4_exact_global(largest):
    return F(2.0 ** (largest - 127 - 8))


def fp8_from_mxfp4(packed, scales, block_rows=128, block_cols=128, power_of_two=False):
    """Cells whose non-zero groups lie within 14 binades are exact: scale 2^(largest - 6). The others are encoded."""
    values = codecs.decode_mxfp4(packed, scales)
    encoded = fp8_block(values, block_rows, block_cols, power_of_two)
    used = (_groups(unpack(packed), 32) & 7).any(axis=-1)
    per_cell = block_cols // 32
    largest = _cells(np.where(used, scales, 0).astype(np.int64), block_rows, per_cell, np.max)
    least = 255 - _cells(np.where(used, 255 - scales.astype(np.int64), 0), block_rows, per_cell, np.max)
    any_used = _cells(used.astype(np.uint8), block_rows, per_cell, np.max) > 0
    exact = any_used & (largest - least <= 14) & (largest <= 252)
    exact_scales = np.ldexp(F(1), (largest - 127 - 6)).astype(F)
    cell_scales = np.where(exact, exact_scales, encoded.scales)
    with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
        moved = codecs.e4m3_encode(values / spread(cell_scales, values.shape, block_rows, block_cols))
    codes = np.where(spread(exact, values.shape, block_rows, block_cols), moved, encoded.codes)
    return Encoded(codes, cell_scales, cell_scales.size, int(exact.sum()))


def exact_for_mxfp8(scales):
    """Which F32 block scales are powers of two that E8M0 holds."""
    bits = np.ascontiguousarray(scales, F).view(np.uint32)
    normal = ((bits & 0x7FFFFF) == 0) & (bits >> 23 > 0) & (bits >> 23 < 255)
    return normal | (bits == 0x00400000)


def mxfp8_from_fp8(codes, scales, scale_row, rule="rceil", column_block=128, bf16=False):
    """Block FP8 [m, n] with scales [s, n / column_block], scale row per row -> Encoded: codes under a power-of-two
    scale are moved, the others re-encoded (through BF16 when asked)."""
    values = codecs.decode_fp8(codes, scales, scale_row, column_block)
    encoded = mxfp8(via_bf16(values) if bf16 else values, rule)
    columns = np.arange(codes.shape[1] // 32) * 32 // column_block
    own = scales[scale_row][:, columns]
    exact = exact_for_mxfp8(own)
    bits = np.ascontiguousarray(own, F).view(np.uint32)
    byte = np.where(bits == 0x00400000, 0, bits >> 23).astype(np.uint8)
    return Encoded(np.where(np.repeat(exact, 32, axis=1), codes, encoded.codes), np.where(exact, byte, encoded.scales),
                   encoded.blocks, int(exact.sum()))


# ---- error figures -------------------------------------------------------------------------------------------------

def figures(values, decoded):
    """How far a decoded tensor is from its source, in float64: sums first, then what follows from them."""
    x, y = (np.asarray(v, np.float64).reshape(-1) for v in (values, decoded))
    error, source, target, product = (float(np.dot(*v)) for v in ((y - x, y - x), (x, x), (y, y), (x, y)))
    largest, amax = float(np.abs(y - x).max(initial=0)), float(np.abs(x).max(initial=0))
    return {"squared_error": error, "squared_source": source, "squared_target": target, "product": product,
            "max_error": largest, "amax": amax, "elements": x.size,
            "sqnr_db": 10 * np.log10(source / error) if error else None,        # None: no error at all
            "relative_rms": np.sqrt(error / source) if error else 0.0,
            "max_error_by_amax": largest / amax if largest else 0.0,
            "cosine": product / (np.sqrt(source) * np.sqrt(target)) if error else 1.0}


def corners(values, encoded, unit, group):
    """Counts beside the sums: `unit` is what each element's code is multiplied by, `group` (rows, columns) of a scale."""
    largest = F(448) if encoded.codes.shape == values.shape else F(6)
    with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
        saturated = np.abs(values / unit) > largest
    zero = _cells(np.abs(values), *group, np.max) == 0
    bytes_ = encoded.scales.dtype == np.uint8
    least, greatest = (0x01, 0x7E) if group == (1, 16) else (0x00, 0xFE)
    return {"zero_blocks": int(zero.sum()), "saturated": int(saturated.sum()),
            "least_scales": int(((encoded.scales == least) & ~zero).sum()) if bytes_ else 0,
            "largest_scales": int((encoded.scales == greatest).sum()) if bytes_ else 0, "nan_codes": 0}
