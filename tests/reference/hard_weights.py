"""Weights that find the corners of an encoder: odd magnitudes, zero blocks, ties, subnormals, large ratios.

Every value is a BF16 value, so that a BF16 checkpoint holds them and tools that pass through BF16 see the same numbers.
"""
import numpy as np

from reference import codecs, quantize

F = np.float32


def bf16(values):
    return quantize.via_bf16(np.ascontiguousarray(values, F))


def gaussian(random, rows, cols, deviation=0.02):
    return bf16(random.standard_normal((rows, cols)) * deviation)


def heavy_tails(random, rows, cols):
    return bf16(random.standard_t(3, (rows, cols)) * 0.01)


def odd_magnitudes(random, rows, cols):
    """Every row and every 64 columns at a magnitude of their own, over twelve binades."""
    row = np.exp2(random.uniform(-6, 6, (rows, 1)))
    patch = np.repeat(np.exp2(random.uniform(-6, 6, (1, -(-cols // 64)))), 64, axis=1)[:, :cols]
    return bf16(random.standard_normal((rows, cols)) * row * patch * 0.003)


def zero_blocks(random, rows, cols):
    """Groups of 16 and 32 that hold nothing, or nothing but negative zeros; a row of zeros."""
    values = gaussian(random, rows, cols)
    blocks = values.reshape(rows, cols // 16, 16)
    empty = random.random(blocks.shape[:2]) < 0.2
    blocks[empty] = 0
    blocks[(random.random(blocks.shape[:2]) < 0.1) & empty] = F(-0.0)
    values = blocks.reshape(rows, cols)
    values[1] = 0
    values[:, ::37] = F(-0.0)
    return values


def zeros(random, rows, cols):
    return np.zeros((rows, cols), F)


def one_element(random, rows, cols):
    values = np.zeros((rows, cols), F)
    values[rows // 2, cols // 3] = F(-0.375)
    return values


def ties(random, rows, cols):
    """Multiples of a quarter of the unit under which each group is stored: all the midpoints of E2M1 and many of E4M3."""
    unit = np.exp2(random.integers(-9, 3, (rows, cols // 32, 1)))
    steps = random.integers(-24, 25, (rows, cols // 32, 32)) * 0.25
    steps[:, :, ::16] = 6.0
    return bf16((steps * unit).reshape(rows, cols))


def large_ratios(random, rows, cols):
    """Groups up to 2^40 apart in one tensor, and elements as far apart in one group."""
    magnitude = np.exp2(random.integers(-40, 1, (rows, cols // 16, 1)))
    within = np.exp2(random.integers(-30, 1, (rows, cols // 16, 16)) * (random.random((rows, cols // 16, 1)) < 0.5))
    return bf16((random.standard_normal((rows, cols // 16, 16)) * magnitude * within).reshape(rows, cols))


def tiny(random, rows, cols):
    """A whole tensor of normal values around 2^-100."""
    return bf16(random.standard_normal((rows, cols)) * 2.0**-100)


def subnormals(random, rows, cols):
    """BF16 subnormals beside ordinary groups, and groups of nothing else."""
    values = gaussian(random, rows, cols)
    odd = codecs.f32_from_bf16(random.integers(0, 0x80, (rows, cols), dtype=np.uint16)
                               | (random.integers(0, 2, (rows, cols), dtype=np.uint16) << 15))
    blocks = np.repeat(random.random((rows, cols // 32)) < 0.3, 32, axis=1)
    return np.where(blocks | (random.random((rows, cols)) < 0.05), odd, values)


def huge(random, rows, cols):
    """Up to the largest BF16 value."""
    values = bf16(random.standard_normal((rows, cols)) * 2.0**120)
    values[0, 0] = np.ldexp(255.0, 120)
    return values


KINDS = (gaussian, heavy_tails, odd_magnitudes, zero_blocks, zeros, one_element, ties, large_ratios, tiny, subnormals,
         huge)


def all_kinds(rows=64, cols=256, seed=11):
    """-> {name: float32 [rows, cols]}"""
    return {kind.__name__: kind(np.random.default_rng([seed, i]), rows, cols) for i, kind in enumerate(KINDS)}
