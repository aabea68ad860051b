"""The table of corruptions that `mimo-verify compare` must tell apart (docs/comparing.md lists the kinds)."""
import re

import numpy as np

from harness import corruptions as c
from harness import minimax_corruptions
from harness.corruptions import Corruption
from judge.directory import INDEX
from reference import codecs

F = np.float32
Q0, K0, V0 = c.q_k_v(0)
Q1, K1, V1 = c.q_k_v(1)
O0 = "model.layers.0.self_attn.o_proj.weight"
GATE, UP, DOWN = (f"model.layers.0.mlp.{x}_proj.weight" for x in ("gate", "up", "down"))
SCALE = GATE + "_scale_inv"
EXPERT = "model.layers.1.mlp.experts.3"
BIAS = "model.layers.1.mlp.gate.e_score_correction_bias"
ROUTER = "model.layers.1.mlp.gate.weight"
SINKS = "model.layers.1.self_attn.attention_sink_bias"
NORM, NORM2 = (f"model.layers.1.{x}.weight" for x in ("input_layernorm", "post_attention_layernorm"))
EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
VALUE_SCALE = 0.707


def at(*names):
    """Exactly these places."""
    return "|".join(re.escape(n) for n in names)


def one(name, kind):
    return {at(name): kind}


def all_of(names, kind):
    return {at(n): kind for n in names}


def swapped_rows(values, first, second, size):
    order = np.arange(values.shape[0])
    order[first * size:(first + 1) * size], order[second * size:(second + 1) * size] = (
        order[second * size:(second + 1) * size].copy(), order[first * size:(first + 1) * size].copy())
    return values[order]


def shifted(values, rows):
    result = np.zeros_like(values)
    result[rows:] = values[:-rows]
    return result


def rope_order(values):
    """The 64 rotated rows of every head as pairs of neighbours, not as halves."""
    heads = values.reshape(-1, 192, values.shape[1]).copy()
    heads[:, :64] = heads[:, :64].reshape(-1, 2, 32, values.shape[1]).transpose(0, 2, 1, 3).reshape(-1, 64,
        values.shape[1])
    return heads.reshape(values.shape)


def columns_of_heads(values, order, size=128):
    return values.reshape(values.shape[0], -1, size)[:, list(order)].reshape(values.shape)


# ---- rows and heads of attention -----------------------------------------------------------------------------------

ROWS = [
    Corruption("K is Q", "decoded", lambda w: w.set(K0, w.true(Q0)[:768]), one(K0, "rows.qkv-exchanged")),
    Corruption("K and V are Q's rows of each rank", "decoded",
               lambda w: (w.set(K0, w.true(Q0)[768:1536]), w.set(V0, w.true(Q0)[1536:2048])),
               all_of([K0, V0], "rows.qkv-exchanged")),
    Corruption("heads 3 and 5 of Q swapped", "decoded", lambda w: w.change(Q0, lambda v: swapped_rows(v, 3, 5, 192)),
               one(Q0, "heads.swapped")),
    Corruption("KV heads 1 and 2 swapped", "bf16", lambda w: w.change(V0, lambda v: swapped_rows(v, 1, 2, 128)),
               one(V0, "heads.swapped")),
    Corruption("heads of Q in reverse", "decoded", lambda w: w.change(Q1,
               lambda v: c.heads_moved(v, 192, range(15, -1, -1))),
               one(Q1, "heads.permuted")),
    Corruption("KV heads one further round", "decoded", lambda w: w.change(K1, lambda v: np.roll(v, 192, 0)),
               one(K1, "heads.permuted")),
    Corruption("rows of V shifted by 64", "decoded", lambda w: w.change(V0, lambda v: shifted(v, 64)),
               one(V0, "rows.shifted")),
    Corruption("rows of K rolled by 64", "fused",
               lambda w: w.recode("model.layers.0.self_attn.qkv_proj.weight", lambda v: np.concatenate(
        [v[:768], np.roll(v[768:960], 64, 0), v[960:]])), one(K0, "rows.permuted-in-heads")),
    Corruption("RoPE rows in pairs", "decoded", lambda w: w.change(Q0, rope_order), one(Q0, "rows.permuted-in-heads")),
    Corruption("QKV never loaded", "decoded", lambda w: w.change(Q0, np.zeros_like), one(Q0, "rows.zero"), "others"),
    Corruption("virtual heads are zeros", "decoded", lambda w: w.change(Q0,
               lambda v: np.where(np.arange(3072)[:, None] < 2304, v, F(0))),
               one(Q0, "rows.zero")),
    Corruption("fused(4) read as fused(1)", "decoded", lambda w: c.read_as(w, 0, 4, 1),
               all_of(c.q_k_v(0), "rows.chunk-count")),
    Corruption("fused(1) read as fused(4)", "decoded", lambda w: c.read_as(w, 0, 1, 4),
               all_of(c.q_k_v(0), "rows.chunk-count")),
    Corruption("chunk(tp) of fused(4) at TP 2", "decoded", lambda w: c.read_as(w, 1, 4, 2),
               all_of(c.q_k_v(1), "rows.chunk-count")),
    Corruption("a group per KV head", "decoded", lambda w: c.read_as(w, 1, 4, 8),
               all_of(c.q_k_v(1), "rows.chunk-count")),
    Corruption("o_proj columns of heads in reverse", "decoded",
               lambda w: w.change(O0, lambda v: columns_of_heads(v, range(15, -1, -1))),
               one(O0, "heads.columns-permuted")),
    Corruption("o_proj columns of two heads swapped", "decoded",
               lambda w: w.change(O0, lambda v: columns_of_heads(v, [1, 0] + list(range(2, 16)))),
               one(O0, "heads.columns-permuted")),
    Corruption("o_proj columns 64 further", "decoded", lambda w: w.change(O0, lambda v: np.roll(v, 64, 1)),
               one(O0, "columns.shifted")),
]

# ---- scales --------------------------------------------------------------------------------------------------------

SCALES = [
    Corruption("96-row K blocks", "flash-decoded", lambda w: c.under_rows(w, 0, lambda x, r, n: r * n // r.size, "kv"),
               {at(K0): "scale.block-height", at(V0): "scale.grid"}),
    Corruption("K scale rows 0-5 of 8", "flash-decoded", lambda w: c.under_rows(w, 0, lambda x, r, n: r // 128, "k"),
               one(K0, "scale.block-height")),
    Corruption("K and V by row / 128 each", "flash-decoded", lambda w: c.under_rows(w, 0,
               lambda x, r, n: r // 128, "kv"),
               {at(K0): "scale.block-height", at(V0): "scale.grid"}),
    Corruption("row / 128 over the fused array", "decoded", lambda w: c.fused_under_rows(w, 0, lambda r, s: r // 128),
               {at(Q0): ("scale.grid", "scale.rows-shifted"), at(K0, V0): ("scale.grid", "scale.rows-shifted")}),
    Corruption("the grid restarts at K and V", "decoded",
               lambda w: c.fused_under_rows(w, 0, lambda r, s: np.where(s.letter == 2, r // 1088 * 9 + 8, s.scale_row)),
               one(V0, "scale.grid")),
    Corruption("Q scales one row further", "fused",
               lambda w: w.recode("model.layers.0.self_attn.qkv_proj.weight_scale_inv", lambda s: s[
                   np.where(np.arange(36) % 9 < 6, np.arange(36) + 1, np.arange(36))]), one(Q0, "scale.rows-shifted")),
    Corruption("scale rows off by one", "fused", lambda w: w.recode(SCALE, lambda s: np.roll(s, 1, 0)),
               one(GATE, "scale.rows-shifted")),
    Corruption("scale rows off by one, decoded", "decoded", lambda w: w.set(GATE, codecs.decode_fp8(
        w.source(GATE)[1], np.roll(w.source(SCALE)[1], -1, 0), np.arange(512) // 128)),
        one(GATE, "scale.rows-shifted")),
    Corruption("scale columns off by one", "fused", lambda w: w.recode(SCALE, lambda s: np.roll(s, -1, 1)),
               one(GATE, "scale.columns-shifted")),
    Corruption("scales transposed", "fused", lambda w: w.recode(SCALE, lambda s: s.T), one(GATE, "scale.transposed")),
    Corruption("scales all one", "fused", lambda w: w.recode(SCALE, np.ones_like), one(GATE, "scale.dropped")),
    Corruption("codes taken as values", "decoded", lambda w: w.set(DOWN, codecs.E4M3[w.source(DOWN)[1]]),
               one(DOWN, "scale.dropped")),
    Corruption("divided by the inverse scale", "fused", lambda w: w.recode(SCALE, lambda s: 1 / s),
               one(GATE, "scale.inverted")),
    Corruption("scales applied twice", "decoded", lambda w: w.set(GATE, codecs.decode_fp8(
        w.source(GATE)[1], w.source(SCALE)[1]**2, np.arange(512) // 128)), one(GATE, "scale.twice")),
    Corruption("scales rounded up to powers of two", "fused", lambda w: w.recode(SCALE,
               lambda s: np.exp2(np.ceil(np.log2(s))).astype(F)),
               one(GATE, "scale.powers-of-two")),
    Corruption("one bit of a scale", "fused", lambda w: w.recode(SCALE, lambda s: c.flipped(s, 5, 24)),
               one(GATE, "scale.single")),
    Corruption("scales of blocks in disorder", "fused",
               lambda w: w.recode(SCALE,
               lambda s: (s.reshape(-1) * np.linspace(2, 5, 16)).astype(F).reshape(4, 4)), one(GATE, "scale.blocks")),
    Corruption("scales of rows permuted", "decoded", lambda w: w.change(GATE, lambda v: v * np.exp2(
        np.random.default_rng(5).uniform(-2, 2, (512, 1))).astype(F)), one(GATE, "rows.scaled")),
    Corruption("a norm folded into the columns", "decoded", lambda w: w.change(Q0, lambda v: v * (
        1 + np.random.default_rng(6).random((1, 512)) * 8).astype(F)), one(Q0, "columns.scaled")),
    Corruption("MXFP4 exponents one up", "mxfp4", lambda w: w.recode(f"{EXPERT}.up_proj.weight_scale",
               lambda s: np.where(s > 0, s + 1, s).astype(np.uint8)),
               one(f"{EXPERT}.up_proj.weight", "values.scaled")),
    Corruption("MXFP4 exponents as numbers", "mxfp4-decoded", lambda w: w.set(
        f"{EXPERT}.up_proj.weight", codecs.decode_mxfp4(w.source(f"{EXPERT}.up_proj.weight")[1], np.full((128, 16),
            127, np.uint8))
        * np.repeat(w.source(f"{EXPERT}.up_proj.weight_scale")[1].astype(F), 32, 1)),
        one(f"{EXPERT}.up_proj.weight", "scale.as-numbers")),
    Corruption("MXFP4 scales one column further", "mxfp4", lambda w: w.recode(f"{EXPERT}.up_proj.weight_scale",
               lambda s: np.roll(s, -1, 1)),
               one(f"{EXPERT}.up_proj.weight", "scale.columns-shifted")),
    Corruption("MXFP4 scales one row further", "mxfp4", lambda w: w.recode(f"{EXPERT}.up_proj.weight_scale",
               lambda s: np.roll(s, -1, 0)),
               one(f"{EXPERT}.up_proj.weight", "scale.rows-shifted")),
    Corruption("one bit of an MXFP4 scale", "mxfp4", lambda w: w.recode(f"{EXPERT}.up_proj.weight_scale",
               lambda s: c.flipped(s, 100, 1)),
               one(f"{EXPERT}.up_proj.weight", "scale.single"), "others"),
    Corruption("MXFP4 nibbles swapped", "mxfp4", lambda w: w.recode(f"{EXPERT}.down_proj.weight",
               lambda v: v << 4 | v >> 4),
               one(f"{EXPERT}.down_proj.weight", "codes.pairs-exchanged")),
    Corruption("NVFP4 nibbles swapped", "nvfp4", lambda w: w.recode(f"{EXPERT}.up_proj.weight",
               lambda v: v << 4 | v >> 4),
               one(f"{EXPERT}.up_proj.weight", "codes.pairs-exchanged")),
    Corruption("NVFP4 global scale dropped", "nvfp4",
               lambda w: w.recode(f"{EXPERT}.down_proj.weight_scale_2", np.ones_like),
               one(f"{EXPERT}.down_proj.weight", "scale.global-dropped")),
    Corruption("NVFP4 global scale dropped, compressed-tensors", "nvfp4-ct", lambda w: w.recode(
        f"{EXPERT}.down_proj.weight_global_scale", np.ones_like),
        one(f"{EXPERT}.down_proj.weight", "scale.global-dropped")),
    Corruption("NVFP4 global scale inverted", "nvfp4", lambda w: w.recode(f"{EXPERT}.down_proj.weight_scale_2",
               lambda s: 1 / s),
               one(f"{EXPERT}.down_proj.weight", "scale.global-inverted")),
    Corruption("NVFP4 group scales one further", "nvfp4", lambda w: w.recode(f"{EXPERT}.up_proj.weight_scale",
               lambda s: np.roll(s, -1, 1)),
               one(f"{EXPERT}.up_proj.weight", "scale.columns-shifted")),
    Corruption("E4M3 codes as E5M2", "decoded", lambda w: w.set(GATE, e5m2(w.source(GATE)[1]) * np.repeat(np.repeat(
        w.source(SCALE)[1], 128, 0), 128, 1)), one(GATE, "codes.e5m2")),
]


def e5m2(codes):
    """E5M2 is FP16 cut after two bits of mantissa."""
    return (codes.astype(np.uint16) << 8).view(np.float16).astype(F)


# ---- MLP, experts, layers ------------------------------------------------------------------------------------------

def expert_names(expert, layer=1):
    return [f"model.layers.{layer}.mlp.experts.{expert}.{x}_proj.weight" for x in ("gate", "up", "down")]


def copy_each(w, pattern, replacement):
    """What matches becomes what the other name has."""
    for name, other in c.rename_each(w, pattern, replacement):
        w.put(name, w.get(other))


def drop(w, pattern):
    for name in w.names(pattern):
        w.state.remove(name)


def rotate_experts(w):
    before = {n: w.get(n) for e in range(8) for n in expert_names(e)}
    for e in range(8):
        for name, other in zip(expert_names(e), expert_names((e + 1) % 8)):
            w.put(name, before[other])


LAYERS = [
    Corruption("gate and up exchanged", "decoded", lambda w: c.gate_and_up(w, "model.layers.0.mlp",
               lambda v: np.roll(v, 512, 0)),
               all_of([GATE, UP], "rows.gate-up-exchanged")),
    Corruption("gate and up of an expert exchanged", "fused", lambda w: c.swap(w, [
        (f"{EXPERT}.gate_proj.weight{s}", f"{EXPERT}.up_proj.weight{s}") for s in ("", "_scale_inv")]),
        all_of(expert_names(3)[:2], "rows.gate-up-exchanged")),
] + [
    Corruption(f"gate and up in turns of {turn}", "decoded", lambda w, turn=turn: c.gate_and_up(w, EXPERT,
               lambda v: v[c.turns(256, turn)]),
               all_of(expert_names(3)[:2], "rows.gate-up-in-turns")) for turn in (1, 2, 32)
] + [
    Corruption("read as if gate and up took turns", "decoded", lambda w: c.gate_and_up(w, EXPERT,
               lambda v: v[np.argsort(c.turns(256, 1))]),
               all_of(expert_names(3)[:2], "rows.gate-up-in-turns")),
    Corruption("half the rows of gate are up's", "decoded", lambda w: w.set(GATE, np.where(
        np.arange(512)[:, None] % 2, w.true(GATE), w.true(UP)[np.random.default_rng(7).permutation(512)])),
        one(GATE, "rows.gate-up-mixed")),
    Corruption("every expert is the next", "decoded", rotate_experts,
               {r"model\.layers\.1\.mlp\.experts\.\d\.\w+_proj\.weight": "experts.permuted"}),
    Corruption("an expert stands for another", "decoded",
               lambda w: [w.put(a, w.get(b)) for a, b in zip(expert_names(3), expert_names(6))],
               all_of(expert_names(3), "experts.repeated")),
    Corruption("layers 1 and 2 exchanged", "decoded",
               lambda w: c.swap(w, c.rename_each(w, r"^model\.layers\.1\.", "model.layers.2.")),
               {r"model\.layers\.[12]\..*": "layers.exchanged"}, "others"),
    Corruption("MTP layer 1 is layer 0", "decoded",
               lambda w: copy_each(w, r"^model\.mtp\.layers\.1\.", "model.mtp.layers.0."),
               {r"model\.mtp\.layers\.1\..*": "layers.repeated"}, "others"),
    Corruption("MTP layer dropped", "decoded", lambda w: drop(w, r"^model\.mtp\.layers\.1\."),
               {r"model\.mtp\.layers\.1\..*": "tensor.missing"}),
    Corruption("MTP dropped", "fused", lambda w: drop(w, r"^model\.mtp\."), {r"model\.mtp\..*": "tensor.missing"}),
    Corruption("a decoder layer dropped", "decoded", lambda w: (drop(w, r"^model\.layers\.2\."), w.config.update(
        num_hidden_layers=2, hybrid_layer_pattern=[0, 1], moe_layer_freq=[0, 1])),
        {r"model\.layers\.2\..*": "tensor.missing", "num_hidden_layers": "config.num_hidden_layers",
         "hybrid_layer_pattern": "config.hybrid_layer_pattern", "moe_layer_freq": "config.moe_layer_freq"}),
    Corruption("an expert's tensor missing", "decoded", lambda w: drop(w, re.escape(f"{EXPERT}.up_proj.weight")),
               one(f"{EXPERT}.up_proj.weight", "refused"), ""),
    Corruption("a tensor too many", "bf16",
               lambda w: w.state.put("model.layers.1.self_attn.q_norm.weight", "BF16", np.full(192, 0x3F80, np.uint16),
                                                               w.state.file_of(NORM)),
               one("model.layers.1.self_attn.q_norm.weight", "tensor.added"), "others"),
    Corruption("columns of down in disorder", "decoded", lambda w: w.change(DOWN,
               lambda v: v[:, np.random.default_rng(3).permutation(512)]),
               one(DOWN, "columns.permuted")),
    Corruption("columns of down by ranks in reverse", "decoded", lambda w: w.change(DOWN,
               lambda v: columns_of_heads(v, range(3, -1, -1))),
               one(DOWN, "columns.permuted")),
    Corruption("rows of gate in disorder", "decoded", lambda w: w.change(GATE,
               lambda v: v[np.random.default_rng(4).permutation(512)]),
               one(GATE, "rows.permuted")),
    Corruption("a square matrix transposed", "decoded", lambda w: w.change(GATE, lambda v: v.T),
               one(GATE, "tensor.transposed")),
    Corruption("transposed under the old shape", "decoded", lambda w: w.change(O0,
               lambda v: v.T.reshape(v.shape)), one(O0, "tensor.transposed")),
    Corruption("lm_head tied to the embedding", "decoded", lambda w: w.put(HEAD, w.get(EMBED)),
               one(HEAD, "tensor.repeated")),
    Corruption("lm_head and embedding exchanged", "decoded", lambda w: c.swap(w, [(HEAD, EMBED)]),
               all_of([HEAD, EMBED], "tensor.exchanged")),
    Corruption("embedding rows one further", "decoded", lambda w: w.change(EMBED, lambda v: np.roll(v, 1, 0)),
               one(EMBED, "rows.shifted")),
    Corruption("vocabulary cut", "decoded",
               lambda w: ([w.put(n, w.get(n)[:256]) for n in (EMBED, HEAD)], w.config.update(vocab_size=256)),
               {at(EMBED, HEAD): "tensor.shape", "vocab_size": "config.vocab_size"}, "others"),
    Corruption("blocks of the vision tower exchanged", "many", lambda w: c.swap(w, [
        (f"visual.blocks.0.mlp.{x}_proj.weight", f"visual.blocks.1.mlp.{x}_proj.weight") for x in ("gate", "up", "down")]),
        {r"visual\.blocks\.[01]\.mlp\.\w+_proj\.weight": "tensor.exchanged"}, "others"),
    Corruption("norms of a layer exchanged", "decoded", lambda w: c.swap(w, [(NORM, NORM2)]),
               all_of([NORM, NORM2], "tensor.exchanged")),
]

# ---- values --------------------------------------------------------------------------------------------------------


def truncated(values):
    return (np.ascontiguousarray(values, F).view(np.uint32) >> 16).astype(np.uint16)


def to_bf16(values):
    return codecs.f32_from_bf16(codecs.bf16_from_f32(values))


VALUES = [
    Corruption("BF16 by truncation", "decoded", lambda w: w.put(Q0, truncated(w.true(Q0))),
               one(Q0, "values.truncated")),
    Corruption("router cut to BF16", "fused",
               lambda w: w.put(ROUTER, codecs.f32_from_bf16(truncated(w.true(ROUTER)))),
               one(ROUTER, "values.truncated")),
    Corruption("router bias as BF16", "many", lambda w: w.put(BIAS, codecs.bf16_from_f32(w.true(BIAS)), "BF16"),
               one(BIAS, "values.f32-bits-lost")),
    Corruption("router bias through BF16", "many", lambda w: w.change(BIAS, to_bf16),
               one(BIAS, "values.f32-bits-lost")),
    Corruption("router as BF16", "many", lambda w: w.put(ROUTER, codecs.bf16_from_f32(w.true(ROUTER)), "BF16"),
               one(ROUTER, "values.f32-bits-lost")),
    Corruption("router through BF16", "many", lambda w: w.change(ROUTER, to_bf16), one(ROUTER, "values.f32-bits-lost")),
    Corruption("router bias all 71", "many", lambda w: w.change(BIAS, lambda v: np.full_like(v, 71.25)),
               one(BIAS, "values.constant")),
    Corruption("router bias centred", "many", lambda w: w.change(BIAS, lambda v: v - F(70.9)),
               one(BIAS, "values.offset")),
    Corruption("router bias permuted", "many", lambda w: w.change(BIAS,
               lambda v: v[np.random.default_rng(2).permutation(256)]), one(BIAS, "values.permuted")),
    Corruption("rows of the router permuted", "many", lambda w: w.change(ROUTER,
               lambda v: v[np.random.default_rng(2).permutation(256)]),
               one(ROUTER, "rows.permuted")),
    Corruption("sinks permuted", "decoded", lambda w: w.change(SINKS, lambda v: v[::-1]),
               one(SINKS, "values.permuted")),
    Corruption("sinks dropped", "decoded", lambda w: drop(w, re.escape(SINKS)), one(SINKS, "refused"), ""),
    Corruption("sinks dropped, in the config as well", "decoded",
               lambda w: (drop(w, "attention_sink_bias"), w.config.update(add_swa_attention_sink_bias=False)),
               {r"model\..*attention_sink_bias": "tensor.missing",
               "add_swa_attention_sink_bias": "config.add_swa_attention_sink_bias"}),
    Corruption("sinks in the base of exp2", "decoded", lambda w: w.change(SINKS, lambda v: v * F(1.442695)),
               one(SINKS, "values.scaled")),
    Corruption("norm plus one", "decoded", lambda w: w.change(NORM, lambda v: v + 1), one(NORM, "values.offset")),
    Corruption("norm minus one", "bf16", lambda w: w.change(NORM, lambda v: v - 1), one(NORM, "values.offset")),
    Corruption("norms all one", "decoded", lambda w: w.change(NORM, np.ones_like), one(NORM, "values.constant")),
    Corruption("one bit of a code", "fused", lambda w: w.recode(GATE, lambda v: c.flipped(v, 12345, 6)),
               one(GATE, "values.single"), "others"),
    Corruption("one bit of a BF16 value", "decoded", lambda w: w.recode(DOWN, lambda v: c.flipped(v, 777, 13)),
               one(DOWN, "values.single"), "others"),
    Corruption("one bit of a norm", "bf16", lambda w: w.recode(NORM, lambda v: c.flipped(v, 77, 12)),
               one(NORM, "values.single"), "others"),
    Corruption("a matrix of NaN", "decoded", lambda w: w.change(UP, lambda v: v * F("nan")),
               one(UP, "values.non-finite"), "others"),
    Corruption("codes clipped at 240", "decoded",
               lambda w: w.set(GATE, np.clip(codecs.E4M3[w.source(GATE)[1]], -240, 240)
                                                              * np.repeat(np.repeat(w.source(SCALE)[1], 128, 0),
                                                              128, 1)), one(GATE, "values.clipped")),
    Corruption("the other sign", "decoded", lambda w: w.change(UP, lambda v: -v), one(UP, "values.negated")),
    Corruption("something else entirely", "decoded", lambda w: w.change(UP,
               lambda v: np.random.default_rng(1).standard_normal(v.shape) * F(0.02)),
               one(UP, "values.other")),
    Corruption("through four bits", "decoded", lambda w: w.set(UP, four_bits(w.true(UP))),
               one(UP, "values.noise")),
    Corruption("a quarter lost", "decoded", lambda w: w.change(UP, lambda v: np.where(
        np.arange(512)[:, None] % 16 == 5, np.random.default_rng(8).standard_normal(v.shape) * F(0.02), v)),
               one(UP, "values.damaged")),
    Corruption("a little less everywhere", "decoded", lambda w: w.change(UP, lambda v: v * F(0.99)),
               one(UP, "values.within-codec"), "others"),
    Corruption("value scale folded into V", "decoded", lambda w: w.change(V0, lambda v: v * F(VALUE_SCALE)),
               one(V0, "value-scale.folded")),
    Corruption("value scale folded into o_proj", "decoded", lambda w: w.change(O0, lambda v: v * F(VALUE_SCALE)),
               one(O0, "value-scale.folded")),
    Corruption("value scale folded twice", "fused", lambda w: fold(w, VALUE_SCALE**2), one(V0, "value-scale.twice")),
    Corruption("value scale taken out", "decoded", lambda w: w.change(V0, lambda v: v / F(VALUE_SCALE)),
               one(V0, "value-scale.taken-out")),
    Corruption("value scale folded, and gone from the config", "decoded", lambda w: (
        w.change(V0, lambda v: v * F(VALUE_SCALE)), w.config.pop("attention_value_scale")),
        {at(V0): "value-scale.folded", "attention_value_scale": "config.attention_value_scale"}),
    Corruption("half the heads of V scaled", "decoded", lambda w: w.change(V1,
               lambda v: np.where(np.arange(1024)[:, None] < 512, v * F(2), v)),
               one(V1, "values.scaled-part")),
    Corruption("embedding scaled", "decoded", lambda w: w.change(EMBED, lambda v: v * F(22.6)),
               one(EMBED, "values.scaled")),
]


def four_bits(values):
    """NVFP4 without its codes: what a requantization leaves."""
    from reference import quantize
    made = quantize.nvfp4(values.astype(F))
    return quantize.decode_nvfp4(made.codes, made.scales, quantize.nvfp4_global(np.abs(values).max()))


def fold(w, factor):
    """V's rows in the fused array of layer 0: under scales of their own in windowed layers alone, so codes change."""
    name = "model.layers.0.self_attn.qkv_proj.weight"
    from reference import decode, layouts
    heads, kv = decode.geometry(w.base.config, name)
    stored = layouts.parse(w.base.layout, heads, kv)["qkv"]
    code = w.get(name)
    mine = stored.letter == 2
    code[mine] = codecs.e4m3_encode(codecs.E4M3[code[mine]] * F(factor))
    w.put(name, code)


# ---- documents -----------------------------------------------------------------------------------------------------

def of_config(name, **changes):
    return Corruption(name, "fused", c.config(**changes), {key: f"config.{key}" for key in changes}, "others")


def stale_index(w):
    """As V2.5 was released: names of split arrays, in files that do not exist."""
    names = {}
    for name, file in w.index["weight_map"].items():
        file = re.sub(r"model_pp0_ep(\d).*", r"model_\1-00001-of-00002.safetensors", file)
        for letter in "qkv" if "qkv_proj" in name else ("qkv",):
            names[name.replace("qkv_proj", letter + "_proj") if "qkv_proj" in name else name] = file
    w.index["weight_map"] = names


def wrong_files(w):
    files = sorted(set(w.index["weight_map"].values()))
    w.index["weight_map"] = {n: files[(files.index(f) + 1) % len(files)] for n, f in w.index["weight_map"].items()}


def old_names(w):
    w.index["weight_map"] = {n.replace("experts.3.", "experts.03."): f for n, f in w.index["weight_map"].items()}


def split_names(w):
    w.index["weight_map"] = {n.replace("qkv_proj", x + "_proj"): f for n, f in w.index["weight_map"].items()
                             for x in ("qkv" if "qkv_proj" in n else "q")}


def another_replica(w):
    """V of chunk 3 is V of chunk 2 again, but for one row."""
    name = "model.layers.0.self_attn.qkv_proj.weight"
    code = w.get(name)
    code[3 * 704 + 604] = code[0]
    w.put(name, code)


def another_in_rank(name, file, edit):
    def change(w):
        dtype, array = w.state.files[file][name]
        w.state.files[file][name] = (dtype, edit(array.copy()))
        w.state.changed.add(file)
    return change


DOCUMENTS = [
    of_config("value scale missing", attention_value_scale=None),
    of_config("value scale of another model", attention_value_scale=0.612),
    of_config("rope bases swapped", rope_theta=10000, swa_rope_theta=10000000),
    of_config("window halved", sliding_window=64, sliding_window_size=64),
    of_config("router scaling factor", routed_scaling_factor=2.5),
    of_config("groups of experts", n_group=8, topk_group=4),
    of_config("fewer experts per token", num_experts_per_tok=4),
    of_config("softmax router", scoring_func="softmax"),
    of_config("top-k without normalization", norm_topk_prob=False),
    of_config("epsilon of another release", layernorm_epsilon=1e-06),
    of_config("rotary factor", partial_rotary_factor=0.5),
    Corruption("sinks where there are none", "fused", lambda w: w.config.update(add_full_attention_sink_bias=True),
               {r"model\.layers\.0\.self_attn\.attention_sink_bias": "refused"}, ""),
    Corruption("tied embeddings with a head", "fused", lambda w: w.config.update(tie_word_embeddings=True),
               one(HEAD, "refused"), ""),
    Corruption("head dropped for tied embeddings", "decoded",
               lambda w: (drop(w, re.escape(HEAD)), w.config.update(tie_word_embeddings=True)),
               {at(HEAD): "tensor.missing", "tie_word_embeddings": "config.tie_word_embeddings"}, "others"),
    of_config("positions", max_position_embeddings=32768),
    Corruption("YaRN in the config", "fused", lambda w: w.config.update(rope_scaling={"type": "yarn", "factor": 4.0}),
               {"rope_scaling": "config.rope_scaling"}, "others"),
    Corruption("another patch of the vision tower", "many", lambda w: w.config["vision_config"].update(window_size=112),
               {"vision_config": "config.vision_config"}, ""),
    of_config("missing auto_map", auto_map=None),
    of_config("empty auto_map", auto_map={}),
    Corruption("MTP layers unsaid", "mxfp4", c.config(num_nextn_predict_layers=1),
               {"num_nextn_predict_layers": "config.num_nextn_predict_layers"}, "others"),
    Corruption("stale index", "fused", stale_index, {r"index\.lists_absent": "refused"}, ""),
    Corruption("index of split names, all files there", "fused", split_names, {r"index\.lists_absent": "refused"}, ""),
    Corruption("index names other files", "fused", wrong_files, {INDEX: "index.stale"}, "others"),
    Corruption("index of old names", "decoded", old_names, {r"index\.lists_absent": "refused"}, ""),
    Corruption("index total of another checkpoint", "decoded", lambda w: setattr(w.state, "total_size", 12345),
               {INDEX: "index.stale"}, "others"),
    Corruption("one replica of a KV head differs", "replicas", another_replica,
               {r"model\.layers\.0\.self_attn\.qkv_proj\.weight": "replica.differs"}, "others"),
    Corruption("a norm of one rank differs", "ranks", another_in_rank(
        "model.layers.0.input_layernorm.weight", "model-rank-2-part-1.safetensors", lambda v: c.flipped(v, 9, 13)),
        {r"rank2/model\.layers\.0\.input_layernorm\.weight": "replica.differs"}, ""),
    Corruption("o_proj columns of a rank by heads", "ranks", another_in_rank(
        "model.layers.0.self_attn.o_proj.weight", "model-rank-1-part-1.safetensors",
        lambda v: columns_of_heads(v, range(3, -1, -1))), one(O0, "heads.columns-permuted"), ""),
]

# ---- what no table knows, what is not looked at, and what travels along ---------------------------------------------

EXPERTS = sorted(map(str, range(256)))       # as names are; of their three projections 256 are looked at, each in turn


def every_expert_doubled(w):
    for name in w.names(r"\.experts\.\d+\.\w+_proj\.weight_scale_inv$"):
        w.recode(name, lambda s: s * F(2))


def of_experts(numbers, projections=r"\w+"):
    return rf"model\.layers\.1\.mlp\.experts\.({'|'.join(numbers)})\.{projections}_proj\.weight"


OTHERS = [
    Corruption("bytes that are no values", "unknown",
               lambda w: w.recode("model.layers.1.self_attn.position_table", lambda v: c.flipped(v.view(np.uint32), 50, 3).view(
                   np.int64)), one("model.layers.1.self_attn.position_table", "bytes.differ"), "others"),
    Corruption("counts of another type", "unknown",
               lambda w: w.put("model.expert_counts", w.get("model.expert_counts").view(np.float32), "F32"),
               one("model.expert_counts", "tensor.type"), "others"),
    Corruption("more than is looked at", "many", every_expert_doubled, {
        of_experts(EXPERTS[:85]): "values.scaled", of_experts(EXPERTS[85:86]): ("values.scaled", "values.unexplained"),
        of_experts(EXPERTS[86:]): "values.unexplained"}, ""),
    Corruption("inputs calibrated anew under old codes", "w4a4",
               lambda w: w.recode(f"{EXPERT}.up_proj.input_scale", lambda s: s * F(2)),
               one(f"{EXPERT}.up_proj.weight", "input-scale.differs"), "others"),
    Corruption("input scales dropped", "w4a4", lambda w: drop(w, r"\.1\.mlp\.experts\.3\..*input_scale$"),
               all_of(expert_names(3), "input-scale.missing"), "others"),
]

DRAFT, DRAFT_Q = "dflash/dflash_draft_model.safetensors", "layers.0.q_proj.weight"


def of_text(name, file, kind, edit):
    return Corruption(name, "fused", lambda w: w.carry(file, edit), one(file, kind), "others")


def draft_renamed(w):
    w.carry_tensors(DRAFT, lambda t: {"model." + n: v for n, v in t.items()})


TRAVELLING = [
    Corruption("drafter dropped", "decoded", lambda w: [
        w.carry(n, None) for n in (DRAFT, "dflash/config.json", "dflash/dflash.py", "dflash/mask_embedding.pt")],
        one("dflash/", "carried.missing"), "others"),
    Corruption("drafter under other names", "fused", draft_renamed,
               {at("dflash/" + DRAFT_Q): "carried.missing", at("dflash/model." + DRAFT_Q): "carried.added"}, "others"),
    Corruption("drafter in F32", "fused", lambda w: w.carry_tensors(DRAFT, lambda t: {
        n: ("F32", codecs.f32_from_bf16(v)) for n, (_, v) in t.items()}), one("dflash/" + DRAFT_Q, "carried.tensor-type"),
        "others"),
    Corruption("one bit of the drafter", "fused", lambda w: w.carry_tensors(DRAFT, lambda t: {
        n: (d, c.flipped(v, 17, 3)) for n, (d, v) in t.items()}), one("dflash/" + DRAFT_Q, "carried.bytes"), "others"),
    Corruption("header of the drafter damaged", "fused", lambda w: w.carry_bytes(DRAFT, lambda b: b[:8] + "}" + b[9:]),
               one(DRAFT, "carried.bytes"), "others"),
    Corruption("mask of the drafter cut short", "fused", lambda w: w.carry_bytes("dflash/mask_embedding.pt",
               lambda b: b[:-1]), one("dflash/mask_embedding.pt", "carried.bytes"), "others"),
    Corruption("one byte of the drafter's mask", "fused", lambda w: w.carry_bytes("dflash/mask_embedding.pt",
               lambda b: b[:100] + chr(ord(b[100]) ^ 1) + b[101:]), one("dflash/mask_embedding.pt", "carried.bytes"), "others"),
    of_text("block size of the drafter", "dflash/config.json", "carried.settings", lambda t: t.replace("8", "16")),
    of_text("code of the drafter", "dflash/dflash.py", "carried.code", lambda t: t + "x = 1\n"),
    Corruption("audio tokenizer of another training", "many", lambda w: w.carry_tensors("audio_tokenizer/model.safetensors",
               lambda t: {n: (d, v * F(1.001)) for n, (d, v) in t.items()}),
               one("audio_tokenizer/encoder.conv.weight", "carried.bytes"), ""),
    of_text("tokenizer of another release", "tokenizer.json", "carried.tokenizer", lambda t: t.replace("1.0", "2.0")),
    of_text("tokenizer dropped", "tokenizer.json", "carried.missing", None),
    of_text("longest prompt of the tokenizer", "tokenizer_config.json", "carried.tokenizer", lambda t: t.replace("262144", "4096")),
    of_text("merges of another tokenizer", "merges.txt", "carried.tokenizer", lambda t: t + "l o\n"),
    of_text("chat template edited", "chat_template.jinja", "carried.chat-template", lambda t: t + "{{ more }}"),
    of_text("chat template dropped", "chat_template.jinja", "carried.missing", None),
    Corruption("another chat template in the tokenizer's config", "fused", lambda w: (
        w.carry("chat_template.jinja", None), w.carry("tokenizer_config.json",
        lambda t: t.replace("{", '{"chat_template": "{{ other }}", ', 1))),
        one("chat_template.jinja", "carried.chat-template"), "others"),
    of_text("sampling of another release", "generation_config.json", "carried.generation", lambda t: t.replace("true", "false")),
    of_text("a processor that was not there", "preprocessor_config.json", "carried.added", lambda t: '{"patch_size": 14}'),
    of_text("code edited", "modeling_mimo_v2.py", "carried.code", lambda t: t + "# another line\n"),
    of_text("code dropped", "configuration_mimo_v2.py", "carried.missing", None),
    Corruption("tokenizer of ranks", "ranks", lambda w: w.carry("tokenizer.json", lambda t: t.replace("1.0", "2.0")),
               one("tokenizer.json", "carried.tokenizer"), ""),
]

TABLE = ROWS + SCALES + LAYERS + VALUES + DOCUMENTS + OTHERS + TRAVELLING + minimax_corruptions.TABLE
