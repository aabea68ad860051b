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

from reference import codecs, container, layouts

# dtype: as stored ("F8_E4M3" and "U8" when quantized). array: raw stored array, None when quantized. values: float32.
Value = namedtuple("Value", "dtype array values")
# Of one letter of one attention, in logical row order. codes is None when not FP8; cell numbers the scale rows.
Logical = namedtuple("Logical", "values codes scales cell")

SCALE = "weight_scale_inv"
TARGETS = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}


def geometry(config, prefix):
    """(heads, KV heads) of an attention: MTP layers are window-shaped, decoder layers follow the pattern."""
    match = re.match(r"model\.layers\.(\d+)\.", prefix)
    window = match is None or config["hybrid_layer_pattern"][int(match.group(1))] == 1
    start = "swa_" if window else ""
    return config[start + "num_attention_heads"], config[start + "num_key_value_heads"]


def stored_layout(tensors, prefix, heads, kv, chunks):
    """Which of the layouts the stored shapes of this attention fit, given the chunk count."""
    if f"{prefix}.qkv_proj.weight" in tensors:
        return layouts.fused(heads, kv, chunks)
    if f"{prefix}.k_proj.{SCALE}" not in tensors:
        return layouts.independent(heads, kv)
    rows = {n: tensors[f"{prefix}.{n}_proj.{SCALE}"][1].shape[0] for n in layouts.LETTERS}
    for candidate in (layouts.cut(heads, kv, chunks), layouts.independent(heads, kv)):
        if all(candidate[n].scale_rows == rows[n] for n in layouts.LETTERS):
            return candidate
    raise AssertionError(f"{prefix}: scale rows {rows} fit neither cut:{chunks} nor independent")


def attention(tensors, prefix, stored, heads, kv):
    """-> {letter name: Logical}. Replicated KV heads must be byte-equal copies; the first one is returned."""
    offsets, total = {}, 0
    for name, part in stored.items():
        offsets[name] = total
        total += part.scale_rows
    scale_name = {name: f"{prefix}.{name}_proj.{SCALE}" for name in stored}
    quantized = scale_name[next(iter(stored))] in tensors
    pieces = {letter: [] for letter in range(3)}
    for name, part in stored.items():
        dtype, array = tensors[f"{prefix}.{name}_proj.weight"]
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
            values = codecs.decode_plain(dtype, array)
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
    return int(declared) if declared else config["num_key_value_heads"]


def attention_prefixes(tensors):
    found = {re.sub(r"\.(qkv|q)_proj\.weight$", "", n) for n in tensors
             if re.search(r"^model\..*\.self_attn\.(qkv|q)_proj\.weight$", n)}
    return sorted(found)


def checkpoint(directory, chunks=None):
    tensors, config, index = load(directory)
    chunks = chunks or chunk_count(config, index)
    result, seen = {}, set()
    for prefix in attention_prefixes(tensors):
        heads, kv = geometry(config, prefix)
        stored = stored_layout(tensors, prefix, heads, kv, chunks)
        for name in stored:
            weight = f"{prefix}.{name}_proj.weight"
            seen.update(n for n in (weight, f"{prefix}.{name}_proj.{SCALE}") if n in tensors)
            dtype = tensors[weight][0]
        for name, logical in attention(tensors, prefix, stored, heads, kv).items():
            full = logical.values
            raw = None if dtype == "F8_E4M3" else codecs.encode_as(dtype, full)
            result[f"{prefix}.{name}_proj.weight"] = Value(dtype, raw, full)
    for name, (dtype, array) in tensors.items():
        if name in seen or name.endswith((".weight_scale_inv", ".weight_scale")):
            continue
        if dtype == "F8_E4M3":
            scales = tensors[name + "_scale_inv"][1]
            values = codecs.decode_fp8(array, scales, np.arange(array.shape[0]) // 128)
            result[name] = Value(dtype, None, values)
        elif dtype == "U8" and name + "_scale" in tensors:
            result[name] = Value(dtype, None, codecs.decode_mxfp4(array, tensors[name + "_scale"][1]))
        else:
            result[name] = Value(dtype, array, None)
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
