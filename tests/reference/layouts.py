"""QKV layouts as index arrays: for every stored row, which logical row it is and which scale row applies to it.

A logical row is (letter, row of that letter with heads ascending). Stored tensors are described by `Stored`.
  fused(heads, kv, C)        one tensor of C chunks [Q_c; K_c; V_c]; the 128-row grid restarts at each chunk and is
                             padded at its end; with C > kv, chunk c holds KV head floor(c * kv / C).
  cut(heads, kv, C)          q, k, v cut out of fused(C): codes and scales are those of the chunk; a scale row that K
                             and V (or Q and K) share lies in the array of the first of the two.
  independent(heads, kv)     q, k, v each with its own grid.
"""
from collections import namedtuple

import numpy as np

HEAD_DIM, V_HEAD_DIM, BLOCK = 192, 128, 128
Q, K, V = 0, 1, 2
LETTERS = "qkv"

# letter, row: per stored row. owner: which stored tensor's scale array holds the scale; scale_row: which row of it.
# scale_rows: rows of this tensor's own scale array.
Stored = namedtuple("Stored", "letter row owner scale_row scale_rows")


def head_rows(letter):
    return V_HEAD_DIM if letter == V else HEAD_DIM


def _chunks(heads, kv, chunks):
    """Per chunk: (letter, first head, heads) for Q, K, V."""
    if heads % chunks or (kv % chunks and chunks % kv):
        raise ValueError(f"{chunks} chunks do not fit {heads} heads and {kv} KV heads")
    result = []
    for c in range(chunks):
        first, count = (c * kv // chunks, 1) if chunks > kv else (c * (kv // chunks), kv // chunks)
        result.append(((Q, c * (heads // chunks), heads // chunks), (K, first, count), (V, first, count)))
    return result


def _rows_of(letter, first, count):
    size = head_rows(letter)
    rows = np.arange(first * size, (first + count) * size)
    return np.full(rows.size, letter), rows


def _chunk_rows(parts):
    pieces = [_rows_of(*part) for part in parts]
    return np.concatenate([p[0] for p in pieces]), np.concatenate([p[1] for p in pieces])


def fused(heads, kv, chunks):
    """-> {"qkv": Stored}"""
    letters, rows, scale = [], [], []
    blocks = 0
    for parts in _chunks(heads, kv, chunks):
        letter, row = _chunk_rows(parts)
        letters.append(letter)
        rows.append(row)
        scale.append(blocks + np.arange(row.size) // BLOCK)
        blocks += -(-row.size // BLOCK)
    stored = Stored(np.concatenate(letters), np.concatenate(rows), np.full(sum(map(len, rows)), "qkv"),
                    np.concatenate(scale), blocks)
    return {"qkv": stored}


def cut(heads, kv, chunks):
    """-> {"q": Stored, "k": Stored, "v": Stored}"""
    collected = {name: ([], [], []) for name in LETTERS}
    used = dict.fromkeys(LETTERS, 0)
    for parts in _chunks(heads, kv, chunks):
        letter, row = _chunk_rows(parts)
        block = np.arange(row.size) // BLOCK
        first_of_block = letter[np.unique(block, return_index=True)[1]]      # whose scale array stores the block
        slot = np.zeros(first_of_block.size, np.int64)
        for value, name in enumerate(LETTERS):
            mine = first_of_block == value
            slot[mine] = used[name] + np.arange(mine.sum())
            used[name] += int(mine.sum())
        for value, name in enumerate(LETTERS):
            mine = letter == value
            collected[name][0].append(row[mine])
            collected[name][1].append(np.array(list(LETTERS))[first_of_block[block[mine]]])
            collected[name][2].append(slot[block[mine]])
    result = {}
    for value, name in enumerate(LETTERS):
        rows, owners, slots = (np.concatenate(x) for x in collected[name])
        result[name] = Stored(np.full(rows.size, value), rows, owners, slots, used[name])
    return result


def independent(heads, kv):
    result = {}
    for value, name in enumerate(LETTERS):
        rows = np.arange((heads if value == Q else kv) * head_rows(value))
        result[name] = Stored(np.full(rows.size, value), rows, np.full(rows.size, name), rows // BLOCK,
                              -(-rows.size // BLOCK))
    return result


def parse(text, heads, kv):
    """"fused:C", "cut:C" or "independent"."""
    kind, _, chunks = text.partition(":")
    if kind == "independent":
        return independent(heads, kv)
    return {"fused": fused, "cut": cut}[kind](heads, kv, int(chunks))
