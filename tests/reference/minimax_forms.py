"""MiniMax-M2 as Megatron-Core and as NxDI hold it, in numpy: written from docs/reference (minimax-checkpoints.md 6,
target-layouts.md 1, 2 and 7.1), without a look at the converter. Everything is told by the place of a row, never by
joining what the converter would join.

  Source(directory)          a checkpoint as it is stored, and the float32 values of its weights
  megatron(source, ...)      {torch_dist key: (dtype, global array)}
  extra_states(source)       the byte keys that the modules of the model ask for
  live(model, ...)           the `model` dict of a legacy rank, where ranks that outnumber KV heads share them
  neuron(source, ...)        what the preprocessed directory holds
"""
import json
import os
import re
from collections import namedtuple

import numpy as np

from reference import codecs, container
from reference.neuron import adjust_codes, encode_rows

EXPERT = re.compile(r"(model\.layers\.\d+\.block_sparse_moe\.experts)\.(\d+)\.w([123])\.weight")
TOP = {"model.embed_tokens.weight": "embedding.word_embeddings.weight", "lm_head.weight": "output_layer.weight",
       "model.norm.weight": "decoder.final_layernorm.weight"}
LAYER = {"input_layernorm.weight": "self_attention.linear_qkv.layer_norm_weight",
         "post_attention_layernorm.weight": "pre_mlp_layernorm.weight",
         "self_attn.o_proj.weight": "self_attention.linear_proj.weight",
         "self_attn.q_norm.weight": "self_attention.q_layernorm.weight",
         "self_attn.k_norm.weight": "self_attention.k_layernorm.weight",
         "block_sparse_moe.gate.weight": "mlp.router.weight",
         "block_sparse_moe.e_score_correction_bias": "mlp.router.expert_bias"}
PINNED = ("mlp.router.weight", "mlp.router.expert_bias")          # F32 whatever the rest is
NEURON = {"block_sparse_moe.gate.weight": "block_sparse_moe.router.linear_router.weight",
          "block_sparse_moe.e_score_correction_bias": "block_sparse_moe.router.e_score_correction_bias"}
Geometry = namedtuple("Geometry", "layers heads groups dim experts inner")
Neuron = namedtuple("Neuron", "tensors lost")                   # lost: expert codes that were rounded


class Source:
    def __init__(self, directory):
        self.directory = directory
        with open(os.path.join(directory, "config.json"), encoding="utf-8") as f:
            self.config = json.load(f)
        self.stored = container.read_directory(directory)
        c = self.config
        self.geometry = Geometry(c["num_hidden_layers"], c["num_attention_heads"], c["num_key_value_heads"],
                                 c["head_dim"], c["num_local_experts"], c["intermediate_size"])
        self.names = [n for n in self.stored if not n.endswith("_scale_inv")]

    def values(self, name):
        dtype, array = self.stored[name]
        if dtype != "F8_E4M3":
            return codecs.decode_plain(dtype, array)
        return codecs.decode_fp8(array, self.stored[name + "_scale_inv"][1], np.arange(array.shape[0]) // 128)

    def plain(self, dtype="BF16"):
        """What a split checkpoint of values holds: routers and their biases stay F32."""
        result = {}
        for name in self.names:
            stored = self.stored[name]
            pinned = ".gate." in name or name.endswith("_bias")
            result[name] = stored if stored[0] == dtype or pinned else (dtype, codecs.encode_as(dtype, self.values(name)))
        return result


# ---- Megatron ------------------------------------------------------------------------------------------------------

def place_in_qkv(geometry, letter, row):
    """Row of linear_qkv of a row of Q, K or V: groups of their query heads, their key head, their value head."""
    head, within = divmod(row, geometry.dim)
    each = geometry.heads // geometry.groups
    group, slot = divmod(head, each) if letter == "q" else (head, each + (letter == "v"))
    return (group * (each + 2) + slot) * geometry.dim + within


def linear_qkv(geometry, q, k, v):
    rows = (geometry.heads + 2 * geometry.groups) * geometry.dim
    result = np.zeros((rows, q.shape[1]), q.dtype)
    filled = np.zeros(rows, int)
    for letter, array in zip("qkv", (q, k, v)):
        for row in range(array.shape[0]):
            at = place_in_qkv(geometry, letter, row)
            result[at] = array[row]
            filled[at] += 1
    assert (filled == 1).all()
    return result


def megatron(source, dtype="BF16"):
    plain, g, result = source.plain(dtype), source.geometry, {}
    result.update({key: plain[name] for name, key in TOP.items()})
    for layer in range(g.layers):
        here, there = f"model.layers.{layer}.", f"decoder.layers.{layer}."
        result.update({there + key: plain[here + name] for name, key in LAYER.items() if here + name in plain})
        for key in PINNED:
            result[there + key] = ("F32", codecs.decode_plain(*result[there + key]))
        attention = [plain[f"{here}self_attn.{x}_proj.weight"][1] for x in "qkv"]
        result[there + "self_attention.linear_qkv.weight"] = (dtype, linear_qkv(g, *attention))
        first = plain[f"{here}block_sparse_moe.experts.0.w1.weight"][1]
        hidden = first.shape[1]
        fc1 = np.zeros((g.experts, 2 * g.inner, hidden), first.dtype)
        fc2 = np.zeros((g.experts, hidden, g.inner), first.dtype)
        for expert in range(g.experts):
            w1, w2, w3 = (plain[f"{here}block_sparse_moe.experts.{expert}.w{i}.weight"][1] for i in (1, 2, 3))
            fc1[expert, :g.inner], fc1[expert, g.inner:], fc2[expert] = w1, w3, w2
        result[there + "mlp.experts.experts.linear_fc1.weight"] = (dtype, fc1)
        result[there + "mlp.experts.experts.linear_fc2.weight"] = (dtype, fc2)
    return result


def extra_states(source):
    keys = {"decoder.final_layernorm._extra_state/shard_0_1"}
    for layer in range(source.geometry.layers):
        base = f"decoder.layers.{layer}."
        keys |= {f"{base}{module}._extra_state/shard_0_1" for module in
                 ("self_attention.linear_qkv", "self_attention.linear_proj", "pre_mlp_layernorm")}
        keys |= {f"{base}mlp.experts.experts.linear_fc{i}._extra_state/shard_{e}_{source.geometry.experts}"
                 for i in (1, 2) for e in range(source.geometry.experts)}
    return keys


def norm_share(geometry, key, tp, rank):
    """(part, parts) of a norm of Q or K: K's heads are shared by ranks that follow each other where these are more."""
    heads = geometry.heads if key.endswith("q_layernorm.weight") else geometry.groups
    parts = min(tp, heads)
    return rank * parts // tp, parts


def live(geometry, model, tp, rank, ep=1, ep_rank=0):
    """What rank `rank` of TP `tp` (experts whole, of `ep` ranks) holds, under its live names."""
    result = {}
    for key, (dtype, array) in model.items():
        if ".experts.experts." in key:
            count = geometry.experts // ep
            for e in range(count):
                name = key.replace(".experts.experts.", ".experts.") + str(e)
                result[name] = (dtype, array[ep_rank * count + e])
            continue
        axis, part, parts = None, rank, tp
        if re.search(r"linear_qkv\.weight$|word_embeddings|output_layer", key):
            axis = 0
        elif key.endswith("linear_proj.weight"):
            axis = 1
        elif re.search(r"[qk]_layernorm\.weight$", key):
            axis, (part, parts) = 0, norm_share(geometry, key, tp, rank)
        if axis is not None:
            assert array.shape[axis] % parts == 0, key
            array = np.split(array, parts, axis)[part]
        result[key] = (dtype, array)
    return result


# ---- Neuron --------------------------------------------------------------------------------------------------------

def neuron(source, rule="halve", attention="rows", values=False):
    """attention: `rows`, a scale per row, or `values`; values: nothing is quantized."""
    result, lost = {}, 0
    for name in source.names:
        if EXPERT.fullmatch(name):
            continue
        there = name.removeprefix("model.")
        for end, other in NEURON.items():
            if there.endswith(end):
                there = there[:-len(end)] + other
        if re.search(r"self_attn\.[qkv]_proj\.weight$", name) and attention == "rows" and not values:
            codes, scales = encode_rows(source.values(name))
            result[there] = ("F8_E4M3", codes)
            result[there[:-len("weight")] + "scale"] = ("F32", scales)
        elif source.stored[name][0] == "F8_E4M3":
            result[there] = ("BF16", codecs.bf16_from_f32(source.values(name)))
        else:
            result[there] = source.stored[name]
    g = source.geometry
    for layer in range(g.layers):
        base = f"model.layers.{layer}.block_sparse_moe.experts."
        stack = f"layers.{layer}.block_sparse_moe.expert_mlps.mlp_op."
        hidden = source.config["hidden_size"]
        arrays = {"gate_up_proj": np.zeros((g.experts, hidden, 2 * g.inner), np.uint16 if values else np.uint8),
                  "down_proj": np.zeros((g.experts, g.inner, hidden), np.uint16 if values else np.uint8)}
        blocks, inner = -(-hidden // 128), -(-g.inner // 128)
        scales = {"gate_up_proj": np.zeros((g.experts, blocks, 2 * inner), np.float32),
                  "down_proj": np.zeros((g.experts, inner, blocks), np.float32)}
        for expert in range(g.experts):
            for number, target, begin in ((1, "gate_up_proj", 0), (3, "gate_up_proj", 1), (2, "down_proj", 0)):
                name = f"{base}{expert}.w{number}.weight"
                if values:
                    part = codecs.bf16_from_f32(source.values(name)).T
                else:
                    codes, scale, count = adjust_codes(source.stored[name][1], source.stored[name + "_scale_inv"][1], rule)
                    part, lost = codes.T, lost + count
                    width = scale.shape[0]
                    scales[target][expert, :, begin * width:(begin + 1) * width] = scale.T
                width = part.shape[1]
                arrays[target][expert, :, begin * width:(begin + 1) * width] = part
        for target, array in arrays.items():
            result[f"{stack}{target}.weight"] = ("BF16" if values else "F8_E4M3", array)
            if not values:
                result[f"{stack}{target}.scale"] = ("F32", scales[target])
    return Neuron(result, lost)
