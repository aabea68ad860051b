"""FP8 as others store it: one of our block-FP8 checkpoints rewritten with scales of rows, of tensors or of blocks, in
any type and under any name, and what its values then are. Numpy and the layouts of tests/reference only.

A form is a dict: span "block", "row", "vector", "tensor", "one" ([1]) or "cell" ([1, 1]); type "F32", "BF16", "F16",
"F8_E8M0" or "U8" (exponents); part "weight_scale" or "weight_scale_inv"; input: there is an input_scale; codes: the type
that codes are stored as; equal: q, k and v of a layer share their tensor scale.
"""
import json
import os
import re
import shutil
import zlib

import numpy as np

from harness import breakage
from reference import codecs, container, layouts

FORM = dict(span="row", type="F32", part="weight_scale", input=False, codes="F8_E4M3", equal=False)
SHAPES = {"tensor": (), "one": (1,), "cell": (1, 1)}


def form(span, type="F32", **more):
    return dict(FORM, span=span, type=type, **more)


def narrow(type, values):
    """-> (stored array, the float32 that it means)"""
    values = np.asarray(values, np.float32)
    if type == "BF16":
        stored = codecs.bf16_from_f32(values)
        return stored, codecs.f32_from_bf16(stored)
    if type == "F16":
        half = values.astype(np.float16)
        return half.view(np.uint16), half.astype(np.float32)
    if type in ("F8_E8M0", "U8"):
        byte = (127 + np.floor(np.log2(values))).astype(np.uint8)
        return byte, np.ldexp(np.float32(1), byte.astype(np.int32) - 127).astype(np.float32)
    return values, values


def widen(type, stored):
    if type == "BF16":
        return codecs.f32_from_bf16(stored)
    if type == "F16":
        return np.ascontiguousarray(stored, np.uint16).view(np.float16).astype(np.float32)
    if type in ("F8_E8M0", "U8"):
        return np.ldexp(np.float32(1), stored.astype(np.int32) - 127).astype(np.float32)
    return np.asarray(stored, np.float32)


def draw(rng, shape):
    """Scales over some binades, all of them normal numbers in every type."""
    return np.exp2(rng.uniform(-9, -3, shape)).astype(np.float32)


def rewrite(directory, choose):
    """Gives the FP8 weights of a copied checkpoint other scales. choose(weight name) -> a form, or None: as it is."""
    rows_of = {n: a.shape[0] for n, (_, a) in container.read_directory(directory).items() if a.ndim}
    quantized = {n[:-len("_scale_inv")] for n in rows_of if n.endswith(".weight_scale_inv")}
    for file in container.tensor_files(directory):
        path = os.path.join(directory, file)
        tensors = {n: (d, a.copy()) for n, (d, a) in container.read(path).items()}
        for weight in [n for n in tensors if n in quantized and choose(n)]:
            tensors[weight] = (choose(weight)["codes"], tensors[weight][1])
        for name in [n for n in tensors if n.endswith(".weight_scale_inv")]:
            weight = name[:-len("_scale_inv")]
            wanted = choose(weight)
            if wanted is None:
                continue
            blocks = tensors.pop(name)[1]
            shared = re.sub(r"\.[qkv]_proj\.", ".qkv_proj.", weight)
            seed = zlib.crc32((shared if wanted["equal"] else weight).encode())
            rng = np.random.default_rng(seed)
            span, rows = wanted["span"], rows_of[weight]
            shape = {"block": blocks.shape, "row": (rows, 1), "vector": (rows,)}.get(span) or SHAPES.get(span, ())
            tensors[weight[:-len("weight")] + wanted["part"]] = (wanted["type"],
                                                               narrow(wanted["type"], draw(rng, shape))[0])
            if wanted["input"]:
                tensors[weight[:-len("weight")] + "input_scale"] = ("F32", np.array(0.0125, np.float32))
        container.write(path, tensors, {"format": "pt"})
    reindex(directory)


def reindex(directory):
    path = os.path.join(directory, "model.safetensors.index.json")
    with open(path) as f:
        index = json.load(f)
    index["weight_map"] = {n: f for f in container.tensor_files(directory)
                           for n in container.read_header(os.path.join(directory, f))[0]}
    with open(path, "w") as f:
        json.dump(index, f)


def declare(directory, strategy="channel", ignore=("lm_head", "re:.*o_proj$", "re:.*mlp.gate$"), **more):
    """quantization_config as llm-compressor writes it."""
    def edit(config):
        weights = {"num_bits": 8, "type": "float", "strategy": strategy, "dynamic": False, "symmetric": True}
        if strategy == "block":
            weights["block_structure"] = [128, 128]
        config["quantization_config"] = {
            "quant_method": "compressed-tensors", "format": "float-quantized",
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": {
                "num_bits": 8, "type": "float", "strategy": "token", "dynamic": True}}},
            "ignore": list(ignore), "kv_cache_scheme": None, "quantization_status": "compressed", "x_theirs": 1, **more}
    edit_config(directory, edit)


def edit_config(directory, edit):
    path = os.path.join(directory, "config.json")
    with open(path) as f:
        config = json.load(f)
    edit(config)
    with open(path, "w") as f:
        json.dump(config, f, indent=2)


def config_of(directory):
    with open(os.path.join(directory, "config.json")) as f:
        return json.load(f)


def scale_of(tensors, weight):
    for part in ("_scale_inv", "_scale"):
        if weight + part in tensors:
            return weight + part
    return None


def per_element(tensors, weight, block_row, owner=None, own=True):
    """float32 scales of the rows of one stored FP8 weight, [rows, cols]. block_row: per row, of the array of `owner`."""
    codes = tensors[weight][1]
    rows, cols = codes.shape
    type, stored = tensors[scale_of(tensors, weight)]
    scale = widen(type, stored)
    if scale.ndim == 2 and scale.shape == (rows, 1) and rows > 1:
        return np.broadcast_to(scale, codes.shape)
    if scale.ndim == 1 and scale.shape[0] == rows:
        return np.broadcast_to(scale[:, None], codes.shape)
    if scale.size == 1:
        return np.broadcast_to(scale.reshape(1, 1), codes.shape)
    columns = np.arange(cols) // 128
    if owner is None:
        return scale[block_row][:, columns]
    result = np.empty(codes.shape, np.float32)
    for name in set(owner):
        mine = np.asarray(owner) == name
        other = re.sub(r"[a-z]+_proj\.weight$", f"{name}_proj.weight", weight)
        result[mine] = widen(*tensors[scale_of(tensors, other)])[np.asarray(block_row)[mine]][:, columns]
    return result


def decode(directory, qkv=None):
    """{name in split naming: (dtype, array)}: FP8 as float32 ("F32"), everything else as it is stored. `qkv`: the layout
    as tests/reference/layouts.parse takes it; default: by what is stored."""
    tensors = container.read_directory(directory)
    config = config_of(directory)
    with open(os.path.join(directory, "model.safetensors.index.json")) as f:
        chunks = json.load(f)["metadata"].get("tp_size")
    marker = config.get("mimo_layout", {})
    kind = qkv or (f"fused:{marker.get('chunks') or chunks or 4}" if any("qkv_proj" in n for n in tensors)
                   else "independent" if marker.get("grid") == "independent" else f"cut:{marker.get('chunks') or 4}")
    result = {}
    for name, (dtype, array) in tensors.items():
        if re.search(r"(weight_scale(_inv)?|input_scale)$", name):
            continue
        attention = re.search(r"\.self_attn\.(qkv|q|k|v)_proj\.weight$", name)
        scale = scale_of(tensors, name)
        if attention:
            letter = attention.group(1)
            heads, kv = geometry(config, name)
            part = layouts.parse(kind, heads, kv)[letter]
            values = array
            if scale:
                values = (codecs.E4M3[array] * per_element(tensors, name, part.scale_row, part.owner)).astype(np.float32)
                dtype = "F32"
            for number, split in enumerate("qkv"):
                mine = np.flatnonzero(part.letter == number)
                if mine.size == 0:
                    continue
                rows = np.empty((part.row[mine].max() + 1,) + values.shape[1:], values.dtype)
                rows[part.row[mine][::-1]] = values[mine[::-1]]
                result[name.replace(f".{letter}_proj.", f".{split}_proj.")] = (dtype, rows)
        elif scale:
            block = np.arange(array.shape[0]) // 128
            result[name] = ("F32", (codecs.E4M3[array] * per_element(tensors, name, block)).astype(np.float32))
        else:
            result[name] = (dtype, array)
    return result


def geometry(config, name):
    match = re.match(r"model\.layers\.(\d+)\.", name)
    window = match is None or config["hybrid_layer_pattern"][int(match.group(1))] == 1
    start = "swa_" if window else ""
    return config[start + "num_attention_heads"], config[start + "num_key_value_heads"]


def rounded(values, to):
    """What --dtype bf16, fp16 or fp32 makes of decode()'s values: F32 arrays of the model stay F32."""
    convert = {"bf16": ("BF16", codecs.bf16_from_f32), "fp16": ("F16", codecs.fp16_from_f32),
               "fp32": ("F32", lambda x: x)}[to]
    return convert[0], convert[1](values)


def copy(source, destination):
    shutil.copytree(source, destination)
    return destination


__all__ = ["breakage", "copy", "declare", "decode", "edit_config", "form", "narrow", "rewrite", "rounded", "widen"]
