"""The preprocessed Neuron directory in numpy: written from docs/reference/target-layouts.md, section 7.1, without a
look at the converter."""
import re
from collections import namedtuple

import numpy as np

from reference import codecs, sharding

NEURON_MAX = np.float32(240)
Neuron = namedtuple("Neuron", "tensors lost dropped")   # lost: expert codes that were rounded


def encode_rows(values):
    """-> (codes, scales [rows, 1]): one scale per row, values at most 240."""
    amax = np.abs(values).max(axis=1, keepdims=True)
    scales = np.maximum(amax / NEURON_MAX, np.float32(1e-10)).astype(np.float32)
    return codecs.e4m3_encode(values / scales), scales


def adjust_codes(codes, scales, rule):
    """Expert codes and their block scales. -> (codes, scales, codes whose value the new scale does not hold exactly)"""
    values = codecs.E4M3[codes]
    if rule == "halve":
        halved = codecs.e4m3_encode(values * np.float32(0.5))
        return halved, scales * np.float32(2), int((codecs.E4M3[halved] * 2 != values).sum())
    factor = np.float32(448 / 240)
    rescaled = codecs.e4m3_encode(codecs.f32_from_bf16(codecs.bf16_from_f32(values / factor)))
    exact = codecs.E4M3[rescaled].astype(np.float64) * 28 == values.astype(np.float64) * 15        # 448 / 240 = 28 / 15
    return rescaled, scales * factor, int((~exact).sum())


def file_of(name):
    match = re.match(r"layers\.(\d+)\.", name)
    return f"model_layer{match.group(1)}.safetensors" if match else "model_extras.safetensors"


def directory(config, tensors, values, rule="halve", bf16=False):
    """tensors: the source as stored, for expert codes; plain tensors keep their bytes."""
    result, lost = {}, 0
    dropped = {n for n in tensors if not re.match(r"model\.(layers|embed_tokens|norm)\b|lm_head\.", n)}
    plain = {"model.embed_tokens.weight": "embed_tokens.weight", "model.norm.weight": "norm.weight",
             "lm_head.weight": "lm_head.weight"}
    for name, value in values.items():
        name_out = name.removeprefix("model.")
        if name in plain:
            result[plain[name]] = tensors[name]
        elif not name.startswith("model.layers.") or sharding.EXPERT.fullmatch(name):
            continue
        elif ".mlp.gate." in name:
            suffix = "linear_router.weight" if name.endswith("weight") else "e_score_correction_bias"
            result[name_out.split(".gate.")[0] + ".router." + suffix] = tensors[name]
        elif re.search(r"([qkv]|gate|up|down)_proj\.weight$", name):
            if bf16:
                result[name_out] = ("BF16", codecs.bf16_from_f32(value))
                continue
            codes, scales = encode_rows(value)
            result[name_out] = ("F8_E4M3", codes)
            result[name_out.removesuffix("weight") + "scale"] = ("F32", scales)
        else:
            result[name_out] = tensors[name]
    for prefix in sorted({m.group(1) for m in map(sharding.EXPERT.fullmatch, values) if m}):
        base = prefix.removeprefix("model.").replace(".experts", ".expert_mlps.mlp_op")
        columns = {"gate_up_proj": ("gate", "up"), "down_proj": ("down",)}
        for target, letters in columns.items():
            stacks = []
            for expert in range(config["n_routed_experts"]):
                halves = []
                for letter in letters:
                    weight = f"{prefix}.{expert}.{letter}_proj.weight"
                    if bf16:
                        halves.append((codecs.bf16_from_f32(values[weight]).T,))
                        continue
                    codes, scales, count = adjust_codes(tensors[weight][1], tensors[weight + "_scale_inv"][1], rule)
                    lost += count
                    halves.append((codes.T, scales.T))
                stacks.append([np.concatenate(x, axis=1) for x in zip(*halves)])
            arrays = [np.stack(x) for x in zip(*stacks)]
            result[f"{base}.{target}.weight"] = ("BF16" if bf16 else "F8_E4M3", arrays[0])
            if not bf16:
                result[f"{base}.{target}.scale"] = ("F32", arrays[1])
    return Neuron(result, lost, dropped)
