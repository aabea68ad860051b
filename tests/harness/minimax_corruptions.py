"""Corruptions of MiniMax-M2, of the same table (harness/corruption_table.py): what its own layouts invite, four engines'
K norms among it, and what is told of any family by the names and roles of this one."""
import re

import numpy as np

from harness import corruptions as c
from harness.corruptions import Corruption
from reference import codecs

F = np.float32
HEADS, GROUPS, SIZE = c.MINIMAX_SIZE["heads"], c.MINIMAX_SIZE["kv_heads"], 128
LAYER = "model.layers.{}.{}"
Q, K, V, O = (LAYER.format(0, f"self_attn.{x}_proj.weight") for x in "qkvo")
Q_NORM, K_NORM = (LAYER.format(0, f"self_attn.{x}_norm.weight") for x in "qk")
NORM, NORM2 = (LAYER.format(1, f"{x}.weight") for x in ("input_layernorm", "post_attention_layernorm"))
ROUTER, BIAS = (LAYER.format(1, f"block_sparse_moe.{x}") for x in ("gate.weight", "e_score_correction_bias"))
DECODED, STORED, RANKS = "minimax-decoded", "minimax", "minimax-ranks"


def expert(number, layer=1):
    return [LAYER.format(layer, f"block_sparse_moe.experts.{number}.{w}.weight") for w in ("w1", "w3", "w2")]


W1, W3, W2 = expert(3)


def places(names, kind):
    return {re.escape(n): kind for n in ([names] if isinstance(names, str) else names)}


def heads_taken(values, order):
    """Whole heads of a matrix's rows or of a vector, in another order."""
    return values.reshape((-1, SIZE) + values.shape[1:])[list(order)].reshape(values.shape)


def order(count, *moves):
    """0, 1, 2 ... but for (here, there): here is there."""
    taken = list(range(count))
    for here, there in moves:
        taken[here] = there
    return taken


def read_as_plain(w):
    """A group of query heads, its key and its value one after the other, cut as all of Q, all of K, all of V."""
    def groups(name):
        return np.split(w.true(name), GROUPS)
    fused = np.concatenate([part for group in zip(groups(Q), groups(K), groups(V)) for part in group])
    for name, rows in zip((Q, K, V), np.split(fused, [HEADS * SIZE, (HEADS + GROUPS) * SIZE])):
        w.set(name, rows)


def rope_in_pairs(values):
    """Rotated are the first 64 of 128 rows of a head."""
    heads = values.reshape(-1, SIZE, values.shape[1]).copy()
    heads[:, :64] = heads[:, :64].reshape(-1, 2, 32, values.shape[1]).transpose(0, 2, 1, 3).reshape(-1, 64, values.shape[1])
    return heads.reshape(values.shape)


def next_expert(w):
    count = c.MINIMAX_SIZE["experts"]
    before = {n: w.get(n) for e in range(count) for n in expert(e)}
    for e in range(count):
        for name, other in zip(expert(e), expert((e + 1) % count)):
            w.put(name, before[other])


def in_ranks(name, edit):
    """edit(rank, {rank: array}) -> the array of a rank."""
    def change(w):
        files = {int(re.search(r"rank-(\d+)", f).group(1)): f for f, t in w.state.files.items() if name in t}
        before = {rank: w.state.files[f][name][1] for rank, f in files.items()}
        for rank, file in files.items():
            dtype = w.state.files[file][name][0]
            w.state.files[file][name] = (dtype, np.ascontiguousarray(edit(rank, before)))
            w.state.changed.add(file)
    return change


def of_config(name, **changes):
    return Corruption(name, STORED, c.config(**changes), {key: f"config.{key}" for key in changes}, "others")


def to_bf16(values):
    return codecs.f32_from_bf16(codecs.bf16_from_f32(values))


TABLE = [
    # Norms over all heads: as long as they should be, whatever head stands where.
    Corruption("MiniMax: two heads of the norm of Q exchanged", DECODED,
               lambda w: w.change(Q_NORM, lambda v: heads_taken(v, order(HEADS, (3, 5), (5, 3)))),
               places(Q_NORM, "heads.swapped")),
    Corruption("MiniMax: two heads of the norm of Q exchanged, as stored", STORED,
               lambda w: w.change(Q_NORM, lambda v: heads_taken(v, order(HEADS, (0, 15), (15, 0)))),
               places(Q_NORM, "heads.swapped")),
    Corruption("MiniMax: the norm of K one head further", DECODED, lambda w: w.change(K_NORM, lambda v: np.roll(v, SIZE)),
               places(K_NORM, "heads.permuted")),
    Corruption("MiniMax: the norm of K is that of its first head", DECODED,
               lambda w: w.change(K_NORM, lambda v: heads_taken(v, [0] * GROUPS)), places(K_NORM, "heads.repeated")),
    Corruption("MiniMax: ranks all hold the norm of the first KV head", RANKS, in_ranks(K_NORM, lambda r, b: b[0]),
               places(K_NORM, "heads.repeated"), ""),
    Corruption("MiniMax: the norm of K by the rank and not by its KV head", RANKS,
               in_ranks(K_NORM, lambda r, b: b[r % GROUPS * 2]),
               {re.escape(K_NORM): "heads.repeated", rf"rank\d/{re.escape(K_NORM)}": "replica.differs"}, ""),
    Corruption("MiniMax: one of two copies of a KV head's norm", RANKS, in_ranks(K_NORM, lambda r, b: b[3] if r == 1 else b[r]),
               {rf"rank\d/{re.escape(K_NORM)}": "replica.differs"}, ""),
    Corruption("MiniMax: norms of Q cut in the other order of ranks", RANKS, in_ranks(Q_NORM, lambda r, b: b[7 - r]),
               places(Q_NORM, "heads.permuted"), ""),
    Corruption("MiniMax: the norm of Q plus one", DECODED, lambda w: w.change(Q_NORM, lambda v: v + 1),
               places(Q_NORM, "values.offset")),
    Corruption("MiniMax: the norm of Q never loaded", DECODED, lambda w: w.change(Q_NORM, np.ones_like),
               places(Q_NORM, "values.constant")),
    Corruption("MiniMax: the norm of Q is that of another layer", DECODED,
               lambda w: w.put(Q_NORM, w.get(Q_NORM.replace("layers.0", "layers.2"))), places(Q_NORM, "layers.repeated")),
    Corruption("MiniMax: the norm of K missing", DECODED, lambda w: w.state.remove(K_NORM), places(K_NORM, "refused"), ""),
    Corruption("MiniMax: the norm of Q in reverse within its heads", DECODED, lambda w: w.change(
        Q_NORM, lambda v: v.reshape(-1, SIZE)[:, ::-1].reshape(-1)), places(Q_NORM, "values.permuted")),
    # Rows and heads.
    Corruption("MiniMax: K is Q", DECODED, lambda w: w.set(K, w.true(Q)[:GROUPS * SIZE]), places(K, "rows.qkv-exchanged")),
    Corruption("MiniMax: Megatron's groups read as plain", DECODED, read_as_plain, places((Q, K, V), "rows.chunk-count")),
    Corruption("MiniMax: heads 3 and 5 of Q swapped", DECODED,
               lambda w: w.change(Q, lambda v: heads_taken(v, order(HEADS, (3, 5), (5, 3)))), places(Q, "heads.swapped")),
    Corruption("MiniMax: a head of Q twice", DECODED, lambda w: w.change(Q, lambda v: heads_taken(v, order(HEADS, (3, 5)))),
               places(Q, "heads.repeated")),
    Corruption("MiniMax: ranks hold V of the first KV head", DECODED,
               lambda w: w.change(V, lambda v: heads_taken(v, [0] * GROUPS)), places(V, "heads.repeated")),
    Corruption("MiniMax: RoPE rows in pairs", DECODED, lambda w: w.change(Q, rope_in_pairs), places(Q, "rows.permuted-in-heads")),
    Corruption("MiniMax: o_proj columns of heads in reverse", DECODED, lambda w: w.change(
        O, lambda v: v.reshape(v.shape[0], HEADS, SIZE)[:, ::-1].reshape(v.shape)), places(O, "heads.columns-permuted")),
    # Experts and the router.
    Corruption("MiniMax: w1 and w3 exchanged", STORED, lambda w: c.swap(w, [(W1 + s, W3 + s) for s in ("", "_scale_inv")]),
               places((W1, W3), "rows.gate-up-exchanged")),
    Corruption("MiniMax: w1 and w3 in turns", DECODED, lambda w: [w.set(n, v) for n, v in zip((W1, W3), np.split(
        np.concatenate([w.true(W1), w.true(W3)])[c.turns(1024, 1)], 2))], places((W1, W3), "rows.gate-up-in-turns")),
    Corruption("MiniMax: every expert is the next", DECODED, next_expert,
               {r"model\.layers\.1\.block_sparse_moe\.experts\.\d\.w\d\.weight": "experts.permuted"}),
    Corruption("MiniMax: an expert stands for another", DECODED,
               lambda w: [w.put(a, w.get(b)) for a, b in zip(expert(3), expert(6))], places(expert(3), "experts.repeated")),
    Corruption("MiniMax: w2 transposed", DECODED, lambda w: w.change(W2, lambda v: v.T), places(W2, "tensor.transposed")),
    Corruption("MiniMax: router bias as BF16", STORED, lambda w: w.put(BIAS, codecs.bf16_from_f32(w.true(BIAS)), "BF16"),
               places(BIAS, "values.f32-bits-lost"), "others"),
    Corruption("MiniMax: router through BF16", DECODED, lambda w: w.change(ROUTER, to_bf16),
               places(ROUTER, "values.f32-bits-lost")),
    Corruption("MiniMax: layers 1 and 2 exchanged", DECODED,
               lambda w: c.swap(w, c.rename_each(w, r"^model\.layers\.1\.", "model.layers.2.")),
               {r"model\.layers\.[12]\..*": "layers.exchanged"}, "others"),
    Corruption("MiniMax: norms of a layer exchanged", DECODED, lambda w: c.swap(w, [(NORM, NORM2)]),
               places((NORM, NORM2), "tensor.exchanged")),
    # Scales and bits.
    Corruption("MiniMax: scale rows of Q off by one", STORED, lambda w: w.recode(Q + "_scale_inv", lambda s: np.roll(s, 1, 0)),
               places(Q, "scale.rows-shifted")),
    Corruption("MiniMax: scale columns of o_proj off by one", STORED,
               lambda w: w.recode(O + "_scale_inv", lambda s: np.roll(s, -1, 1)), places(O, "scale.columns-shifted")),
    Corruption("MiniMax: scales of w1 inverted", STORED, lambda w: w.recode(W1 + "_scale_inv", lambda s: 1 / s),
               places(W1, "scale.inverted")),
    Corruption("MiniMax: one bit of a code", STORED, lambda w: w.recode(W2, lambda v: c.flipped(v, 12345, 6)),
               places(W2, "values.single"), "others"),
    Corruption("MiniMax: E4M3 codes clipped at 240", DECODED, lambda w: w.set(W2, codecs.decode_fp8(
        codecs.e4m3_encode(np.clip(codecs.E4M3[w.source(W2)[1]], -240, 240)), w.source(W2 + "_scale_inv")[1],
        np.arange(512) // 128)), places(W2, "values.clipped")),
    of_config("MiniMax: rotated dimensions", rotary_dim=128),
    of_config("MiniMax: RoPE base of another release", rope_theta=10000),
    of_config("MiniMax: softmax router", scoring_func="softmax"),
    of_config("MiniMax: fewer experts per token", num_experts_per_tok=4),
]
