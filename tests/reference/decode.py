"""Decodes a checkpoint directory into logical tensors: q/k/v split with heads ascending, everything quantized as
float32.

`checkpoint(directory)` -> {name: Value}; `stored_as(values, "bf16")` -> what `--dtype bf16 --qkv split` must store.
`attention(...)` keeps codes, scales and cells apart, for judging a re-layout cell by cell.
"""
import json
import os
import re
from collections import namedtuple

import numpy as np

from reference import codecs, container, layouts, quantize

# dtype: as stored ("F8_E4M3" and "U8" when quantized). array: raw stored array, None when quantized. values: float32.
Value = namedtuple("Value", "dtype array values")
# Of one letter of one attention, in logical row order. codes is None when not FP8; cell numbers the scale rows.
Logical = namedtuple("Logical", "values codes scales cell")

TARGETS = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}


def geometry(config, prefix):
    """(heads, KV heads) of an attention: MTP layers are window-shaped, decoder layers follow the pattern."""
    match = re.match(r"model\.layers\.(\d+)\.", prefix)
    window = match is None or config["hybrid_layer_pattern"][int(match.group(1))] == 1
    start = "swa_" if window else ""
    return config[start + "num_attention_heads"], config[start + "num_key_value_heads"]


def stored_layout(tensors, prefix, heads, kv, chunks):
    """Which of the layouts the stored shapes of this attention fit, given the chunk count."""
    if any(f"{prefix}.qkv_proj.weight{packed}" in tensors for packed in ("", "_packed")):
        return layouts.fused(heads, kv, chunks)
    scales = {n: scales_of(tensors, f"{prefix}.{n}_proj.weight") for n in layouts.LETTERS}
    if scales["k"] is None:
        return layouts.independent(heads, kv)
    rows = {n: tensors[scales[n]][1].shape[0] for n in layouts.LETTERS}
    for candidate in (layouts.cut(heads, kv, chunks), layouts.independent(heads, kv)):
        if all(candidate[n].scale_rows == rows[n] for n in layouts.LETTERS):
            return candidate
    raise AssertionError(f"{prefix}: scale rows {rows} fit neither cut:{chunks} nor independent")


def scales_of(tensors, weight):
    """The name of a block FP8 weight's scales, or None: weight_scale_inv, or weight_scale where that is F32."""
    if weight + "_scale_inv" in tensors:
        return weight + "_scale_inv"
    return weight + "_scale" if tensors.get(weight + "_scale", ("",))[0] == "F32" else None


def quantized_by_rows(tensors, weight):
    """float32 values of an MXFP4, MXFP8 or NVFP4 weight, whose scales lie in its own rows; None for any other."""
    if weight + "_packed" in tensors:                       # compressed-tensors
        packed, scale = tensors[weight + "_packed"][1], tensors[weight + "_scale"][1]
        if weight + "_global_scale" in tensors:
            return quantize.decode_nvfp4(packed, scale, tensors[weight + "_global_scale"][1], divides=True)
        return codecs.decode_mxfp4(packed, scale)
    if weight not in tensors or weight + "_scale" not in tensors:
        return None
    (dtype, codes), (scale_dtype, scale) = tensors[weight], tensors[weight + "_scale"]
    if dtype == "U8" and scale_dtype == "F8_E4M3":
        return quantize.decode_nvfp4(codes, scale, tensors[weight + "_scale_2"][1])
    if dtype == "U8":
        return codecs.decode_mxfp4(codes, scale)
    return quantize.decode_mxfp8(codes, scale) if scale_dtype == "U8" else None


def attention(tensors, prefix, stored, heads, kv):
    """-> {letter name: Logical}. Replicated KV heads must be byte-equal copies; the first one is returned."""
    offsets, total = {}, 0
    for name, part in stored.items():
        offsets[name] = total
        total += part.scale_rows
    weights = {name: f"{prefix}.{name}_proj.weight" for name in stored}
    scale_name = {name: scales_of(tensors, weights[name]) for name in stored}
    quantized = scale_name[next(iter(stored))] is not None
    pieces = {letter: [] for letter in range(3)}
    for name, part in stored.items():
        by_rows = quantized_by_rows(tensors, weights[name])
        dtype, array = ("by rows", by_rows) if by_rows is not None else tensors[weights[name]]
        assert array.shape[0] == part.row.size, f"{prefix}.{name}_proj: {array.shape[0]} rows, not {part.row.size}"
        if quantized:
            assert dtype == "F8_E4M3", f"{prefix}.{name}_proj: {dtype} with a scale"
            for owner in stored:
                found = tensors[scale_name[owner]][1].shape[0]
                assert found == stored[owner].scale_rows, f"{scale_name[owner]}: {found} != {stored[owner].scale_rows}"
            scales = np.stack([tensors[scale_name[o]][1][r] for o, r in zip(part.owner, part.scale_row)])
            cell = np.array([offsets[o] for o in part.owner]) + part.scale_row
            values = codecs.decode_fp8(array, scales, np.arange(part.row.size))
        else:
            scales = cell = None
            values = array if by_rows is not None else codecs.decode_plain(dtype, array)
        for letter in range(3):
            mine = part.letter == letter
            pieces[letter].append((part.row[mine], values[mine], array[mine] if quantized else None,
                                   scales[mine] if quantized else None, cell[mine] if quantized else None))
    result = {}
    for letter, found in pieces.items():
        found = [f for f in found if f[0].size]
        assert len(found) == 1
        row, values, codes, scales, cell = found[0]
        unique, first = np.unique(row, return_index=True)
        count = (heads if letter == layouts.Q else kv) * layouts.head_rows(letter)
        assert np.array_equal(unique, np.arange(count)), f"{prefix}: rows missing in {layouts.LETTERS[letter]}"
        if row.size > count:                              # replicas
            where = np.searchsorted(unique, row)
            assert np.array_equal(values, values[first][where]), f"{prefix}: replicated KV heads differ"
        result[layouts.LETTERS[letter]] = Logical(values[first], *(
            (codes[first], scales[first], cell[first]) if quantized else (None, None, None)))
    return result


def load(directory):
    """-> (tensors of all top-level files, config, index or None)"""
    with open(os.path.join(directory, "config.json")) as f:
        config = json.load(f)
    path = os.path.join(directory, "model.safetensors.index.json")
    index = None
    if os.path.exists(path):
        with open(path) as f:
            index = json.load(f)
    return container.read_directory(directory), config, index


def chunk_count(config, index):
    declared = ((index or {}).get("metadata") or {}).get("tp_size")
    if not declared and (config.get("quantization_config") or {}).get("quant_method") == "modelopt":
        return 1
    return int(declared) if declared else config["num_key_value_heads"]


def attention_prefixes(tensors):
    found = {re.sub(r"\.(qkv|q)_proj\.weight(_packed)?$", "", n) for n in tensors
             if re.search(r"^model\..*\.self_attn\.(qkv|q)_proj\.weight(_packed)?$", n)}
    return sorted(found)


COMPANIONS = ("_packed", "_scale", "_scale_inv", "_scale_2", "_global_scale")


def checkpoint(directory, chunks=None):
    tensors, config, index = load(directory)
    chunks = chunks or chunk_count(config, index)
    result, seen = {}, set()

    def take(weight):
        seen.update(n for n in (weight,) + tuple(weight + c for c in COMPANIONS) if n in tensors)

    for prefix in attention_prefixes(tensors):
        heads, kv = geometry(config, prefix)
        stored = stored_layout(tensors, prefix, heads, kv, chunks)
        for name in stored:
            weight = f"{prefix}.{name}_proj.weight"
            take(weight)
            dtype = tensors[weight if weight in tensors else weight + "_packed"][0]
        for name, logical in attention(tensors, prefix, stored, heads, kv).items():
            full = logical.values
            raw = None if dtype in ("F8_E4M3", "U8") else codecs.encode_as(dtype, full)
            result[f"{prefix}.{name}_proj.weight"] = Value(dtype, raw, full)
    for name in tensors:
        weight = name[:-len("_packed")] if name.endswith(".weight_packed") else name
        if name in seen or (not weight.endswith(".weight") and re.search(r"\.(weight_\w+|input_(global_)?scale)$",
                                                                         name)):
            continue
        dtype, array = tensors[name]
        by_rows, scales = quantized_by_rows(tensors, weight), scales_of(tensors, weight)
        if by_rows is not None:
            result[weight] = Value(dtype, None, by_rows)
        elif dtype == "F8_E4M3":
            values = codecs.decode_fp8(array, tensors[scales][1], np.arange(array.shape[0]) // 128)
            result[weight] = Value(dtype, None, values)
        else:
            result[weight] = Value(dtype, array, None)
    return result


def stored_as(values, target):
    """What a conversion to bf16, fp16 or fp32 stores: quantized tensors and BF16 become the target, F32 stays, and the
    router keeps what it has."""
    wanted = TARGETS[target]
    result = {}
    for name, value in values.items():
        router = ".mlp.gate." in name
        if value.array is None:
            result[name] = (wanted, codecs.encode_as(wanted, value.values))
        elif value.dtype == "BF16" and wanted != "BF16" and not router:
            result[name] = (wanted, codecs.encode_as(wanted, codecs.f32_from_bf16(value.array)))
        else:
            result[name] = (value.dtype, value.array)
    return result
