"""A training step as a torch_dist checkpoint shows it, and an account of what it did to a quantized checkpoint.

  step(split, ...)           BF16 weights a few BF16 steps away from the given ones, in random places
  apply(root, config, ...)   puts them into a torch_dist root that was made of the given ones
  matrices(directory)        the quantized weights of a checkpoint as codes under scales, block by block
  sticky(matrix, values), fresh(matrix, values)
                             what these policies must store: numpy, from the rules alone
"""
import re
from collections import namedtuple

import numpy as np

from harness import torch_dist
from reference import codecs, decode, megatron, quantize

F = np.float32
TRAINED = re.compile(r"\.(q|k|v|o|gate|up|down)_proj\.weight$")
LARGEST_BF16 = 0x7F7F
# Quotients beyond these round past the largest code: then a block outgrows its scale.
LIMITS = {"F8_E4M3": 464.0, "U8": 7.0}

# names: of the weights whose rows (of codes, in logical order) lie one below the other, with their row counts.
# codes: one per element. scales: [cells, blocks], F32 or E8M0 bytes; cell: row of `scales` per row of codes; width: columns of a block.
Matrix = namedtuple("Matrix", "names rows codes scales cell width dtype")
Stored = namedtuple("Stored", "codes scales kept")     # kept [cells, blocks]: under the scale that was there
Account = namedtuple("Account", "elements blocks changed_codes changed_blocks rescaled_blocks squared_error "
                                "squared_sum")


# ---- the step ------------------------------------------------------------------------------------------------------

def moved(bits, where, ups, steps):
    """BF16 patterns, `steps` representable values up or down in magnitude where asked; zero and the largest value are
    not passed."""
    magnitude = (bits & 0x7FFF).astype(np.int32)
    target = magnitude + np.where(ups, steps, -steps)
    target = np.where((target < 0) | (target > LARGEST_BF16), magnitude + np.where(ups, -steps, steps), target)
    changed = (bits & 0x8000) | np.clip(target, 0, LARGEST_BF16).astype(np.uint16)
    return np.where(where, changed, bits).astype(np.uint16)


def step(split, fraction=0.01, steps=1, seed=1, pattern=TRAINED):
    """-> ({name: (dtype, array)} with BF16 weights of attention, dense MLP and experts changed, {name: where})"""
    random, changed, where = np.random.default_rng(seed), dict(split), {}
    for name in sorted(split):
        dtype, bits = split[name]
        if dtype != "BF16" or not pattern.search(name):
            continue
        chosen = random.random(bits.shape, np.float32) < fraction
        new = moved(bits, chosen, random.integers(0, 2, bits.shape, np.uint8) == 1, steps)
        changed[name], where[name] = (dtype, new), new != bits
    return changed, where


def apply(root, config, before, after):
    """Stores `after` in a root that holds `before`; both are split Hugging Face weights. -> the keys written"""
    checkpoint = torch_dist.Checkpoint(torch_dist.iteration_directory(root))
    old, new = (megatron.full(config, values) for values in (before, after))
    keys = [key for key in checkpoint.tensors if new[key][1].tobytes() != old[key][1].tobytes()]
    for key in keys:
        checkpoint.edit(key, lambda array, key=key: new[key][1])
    return keys


# ---- what is stored ------------------------------------------------------------------------------------------------

def matrices(directory):
    """-> [Matrix] of every block FP8 and MXFP4 weight; those of one attention are one matrix, because a block may lie
    across them."""
    tensors, config, index = decode.load(directory)
    result, taken = [], set()
    for prefix in decode.attention_prefixes(tensors):
        heads, kv = decode.geometry(config, prefix)
        stored = decode.stored_layout(tensors, prefix, heads, kv, decode.chunk_count(config, index))
        taken |= {f"{prefix}.{name}_proj.weight" for name in stored}
        parts = decode.attention(tensors, prefix, stored, heads, kv)
        if next(iter(parts.values())).codes is None:
            continue
        result.append(_attention(prefix, parts))
    for name, (dtype, array) in sorted(tensors.items()):
        if name in taken or not name.endswith(".weight"):
            continue
        if name + "_scale_inv" in tensors:
            result.append(Matrix([name], [array.shape[0]], array, tensors[name + "_scale_inv"][1],
                                 np.arange(array.shape[0]) // 128, 128, dtype))
        elif dtype == "U8" and tensors[name + "_scale"][0] == "U8":
            result.append(Matrix([name], [array.shape[0]], quantize.unpack(array), tensors[name + "_scale"][1],
                                 np.arange(array.shape[0]), 32, dtype))
    return result


def _attention(prefix, parts):
    names = [f"{prefix}.{letter}_proj.weight" for letter in parts]
    cells, numbers = np.unique(np.concatenate([p.cell for p in parts.values()]), return_inverse=True)
    rows = np.concatenate([p.scales for p in parts.values()])
    scales = np.empty((cells.size, rows.shape[1]), F)
    scales[numbers] = rows
    return Matrix(names, [p.codes.shape[0] for p in parts.values()],
                  np.concatenate([p.codes for p in parts.values()]), scales, numbers, 128, "F8_E4M3")


def scale_values(matrix, scales=None):
    scales = matrix.scales if scales is None else scales
    return codecs.E8M0[scales] if matrix.dtype == "U8" else scales


def spread(matrix, cells):
    """[cells, blocks] -> one per element"""
    columns = np.arange(matrix.codes.shape[1]) // matrix.width
    return cells[matrix.cell][:, columns]


def over_blocks(matrix, elements, reduce):
    """One per element -> [cells, blocks], by np.maximum, np.logical_or, np.add ..."""
    starts = np.arange(0, elements.shape[1], matrix.width)
    by_row = reduce.reduceat(elements, starts, axis=1)
    order = np.argsort(matrix.cell, kind="stable")
    edges = np.flatnonzero(np.diff(matrix.cell[order], prepend=-1))
    return reduce.reduceat(by_row[order], edges, axis=0)


def values_of(matrix, codes=None, scales=None):
    table = codecs.E2M1 if matrix.dtype == "U8" else codecs.E4M3
    with np.errstate(under="ignore"):
        return table[matrix.codes if codes is None else codes] * spread(matrix, scale_values(matrix, scales))


def target(matrix, split):
    """float32 values that the matrix shall have."""
    return np.concatenate([codecs.decode_plain(*split[name]) for name in matrix.names])


# ---- what must be stored -------------------------------------------------------------------------------------------

def _codes(matrix, quotients):
    if matrix.dtype == "U8":
        return quantize.e2m1_encode(quotients)
    return codecs.e4m3_encode(quotients)


def fresh(matrix, values):
    """Every block anew: amax / 448, or the power of two that takes amax / 6."""
    amax = over_blocks(matrix, np.abs(values), np.maximum)
    scales = quantize.mx_scale(amax, 4, "rceil") if matrix.dtype == "U8" else np.maximum(amax, F(1e-12)) / F(448)
    with np.errstate(under="ignore", over="ignore"):
        codes = _codes(matrix, values / spread(matrix, scale_values(matrix, scales)))
    return Stored(codes, scales, np.zeros(scales.shape, bool))


def sticky(matrix, values):
    """Blocks keep their scale while their values fit under it; the others are made anew."""
    limit = LIMITS[matrix.dtype]
    with np.errstate(under="ignore", over="ignore"):
        quotients = values / spread(matrix, scale_values(matrix))
    largest = over_blocks(matrix, np.abs(quotients), np.maximum)
    kept = largest < limit if matrix.dtype == "U8" else largest <= limit
    codes = _codes(matrix, quotients)
    if matrix.dtype == "U8":
        codes |= (np.signbit(values) << 3).astype(np.uint8)
    anew = fresh(matrix, values)
    return Stored(np.where(spread(matrix, kept), codes, anew.codes), np.where(kept, matrix.scales, anew.scales), kept)


def account(matrix, codes, scales, values):
    """What `codes` and `scales` differ in from the matrix, and how far they decode from `values`."""
    different = codes != matrix.codes
    rescaled = scales != matrix.scales
    touched = over_blocks(matrix, different, np.logical_or) | rescaled
    wanted = values.astype(np.float64)
    error = values_of(matrix, codes, scales).astype(np.float64) - wanted
    return Account(codes.size, scales.size, int(different.sum()), int(touched.sum()), int(rescaled.sum()),
                   float(np.square(error).sum()), float(np.square(wanted).sum()))


def total(accounts):
    return Account(*(sum(column) for column in zip(*accounts)))


def relative_error(account_):
    return (account_.squared_error / account_.squared_sum) ** 0.5 if account_.squared_sum else 0.0
