"""Checkpoints whose attention has a chosen layout, quantized here from drawn weights, or drawn so that nothing tells.

The layouts come from reference.layouts, weights and quantizers are of this file: nothing is shared with what is tested.
"""
import json
import os
import shutil

import numpy as np

from reference import codecs, container, layouts, make

INDEX = "model.safetensors.index.json"
ATTENTION = "attention.safetensors"
BLOCK = layouts.BLOCK


def base(directory, variant="v2.5", **options):
    """A tiny checkpoint without attention projections, which write() adds. -> the Model"""
    options = dict(dict(experts=2, intermediate=128, moe_intermediate=128, vocab=64, towers=False, sidecars=False, mtp=1,
                        pattern=(0, 1), hidden=256), **options)
    model = make.make(directory, variant, **options)
    checkpoint = os.path.join(directory, "checkpoint")
    for file in container.tensor_files(checkpoint):
        path = os.path.join(checkpoint, file)
        tensors = {n: (d, np.array(a)) for n, (d, a) in container.read(path).items()
                   if not any(f"self_attn.{p}_proj.weight" in n for p in ("qkv", "q", "k", "v"))}
        if tensors:
            container.write(path, tensors, {"format": "pt"})
        else:
            os.remove(path)
    return model


def attention_layers(model):
    """[(prefix, KV heads)]"""
    spec = model.spec
    found = [(f"model.layers.{i}.self_attn", spec.kv[w]) for i, w in enumerate(spec.pattern)]
    return found + [(f"model.mtp.layers.{i}.self_attn", spec.kv[1]) for i in range(spec.mtp)]


def stored(text, heads, kv):
    """"fused:C", "cut:C", "independent"; the first two with " apart": the grid begins anew at Q, K and V of a chunk."""
    kind, _, apart = text.partition(" ")
    result = layouts.parse(kind, heads, kv)
    if not apart:
        return result
    chunks = int(kind.partition(":")[2])
    anew = {}
    for name, part in result.items():
        scale_row, used, start = np.zeros(part.row.size, np.int64), 0, 0
        per_chunk = {letter: (heads if letter == layouts.Q else kv) // chunks * layouts.head_rows(letter)
                     for letter in range(3)}
        while start < part.row.size:
            count = per_chunk[part.letter[start]]
            scale_row[start:start + count] = used + np.arange(count) // BLOCK
            used += -(-count // BLOCK)
            start += count
        anew[name] = layouts.Stored(part.letter, part.row, np.full(part.row.size, name), scale_row, used)
    return anew


def name_of(text):
    """As mimo-verify layout calls it."""
    kind, _, apart = text.partition(" ")
    kind, _, chunks = kind.partition(":")
    name = "split(independent)" if kind == "independent" else f"{'fused' if kind == 'fused' else 'split'}({chunks})"
    return name + (" with grids apart" if apart else "")


def draw(spec, kv, magnitudes, heavy, random):
    """{letter: float32 rows}: norms of Q, K and V as `magnitudes`, columns and rows that differ as those of models do."""
    columns = np.exp(random.standard_normal(spec.hidden) * 0.4)
    result = {}
    for letter in range(3):
        rows = (spec.heads if letter == layouts.Q else kv) * layouts.head_rows(letter)
        values = random.standard_t(4, (rows, spec.hidden)) if heavy else random.standard_normal((rows, spec.hidden))
        values *= columns * np.exp(random.standard_normal((rows, 1)) * 0.05) * 0.02 * magnitudes[letter]
        result[letter] = values.astype(np.float32)
    return result


def quantize(values, cell, cells, rule, random):
    """values [m, n], cell [m] -> (codes, scales [cells, n / 128]).

    amax: the largest of a block becomes 448. slack: scales are larger than that, by a different factor each. noise: codes
    and scales have nothing to do with one another or with anything."""
    columns = -(-values.shape[1] // BLOCK)
    if rule == "noise":
        codes = random.integers(0, 0x7C, values.shape, dtype=np.uint8) | random.choice(np.array([0, 0x80], np.uint8),
                                                                                      values.shape)
        return codes, np.exp2(random.uniform(-14, -8, (cells, columns))).astype(np.float32)
    amax = np.zeros((cells, columns), np.float32)
    by_column = np.stack([np.abs(values[:, c * BLOCK:(c + 1) * BLOCK]).max(1) for c in range(columns)], 1)
    np.maximum.at(amax, cell, by_column)
    scales = np.maximum(amax, 1e-12) / np.float32(448)
    if rule == "slack":
        scales *= random.uniform(1.3, 4, scales.shape).astype(np.float32)
    spread = np.repeat(scales[cell], BLOCK, axis=1)[:, :values.shape[1]]
    return codecs.e4m3_encode(values / spread), scales


def damage(codes, scales, cell, share, random):
    """`share` of all blocks, at least one: other codes, zeros or halves of them, and a scale off by up to 16."""
    rows, columns = scales.shape
    for which in random.choice(rows * columns, max(1, int(share * rows * columns)), replace=False):
        row, column = divmod(int(which), columns)
        place = np.ix_(np.flatnonzero(cell == row), np.arange(column * BLOCK, min((column + 1) * BLOCK,
                                                                                   codes.shape[1])))
        kind = random.integers(3)
        if kind == 0:
            codes[place] = random.integers(0, 0x7F, codes[place].shape, dtype=np.uint8)
        elif kind == 1:
            codes[place] = 0
        else:
            codes[place] = np.where(codes[place] & 0x7F >= 8, codes[place] - 8, codes[place])  # half of each
        scales[row, column] *= np.float32(np.exp2(random.uniform(-4, 4)))


def write(source, out, model, layout, seed, rule="amax", magnitudes=(1, 1, 1), heavy=False, damaged=0.0, tp_size=None,
          declared="auto"):
    """Copies (links) `source` to `out` with attention in `layout`. rule: that of quantize(), or constant, or bf16."""
    random, spec = np.random.default_rng([seed, 77]), model.spec
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(os.path.join(source, "checkpoint"), out, copy_function=os.link)
    tensors = {}
    for prefix, kv in attention_layers(model):
        parts = stored(layout, spec.heads, kv)
        values = draw(spec, kv, magnitudes, heavy, random)
        if rule == "constant":
            values = {letter: np.full_like(v, 0.02) for letter, v in values.items()}
        rows = {name: np.concatenate([values[letter] for letter in range(3)])[
            np.array([0, len(values[0]), len(values[0]) + len(values[1])])[part.letter] + part.row]
                for name, part in parts.items()}
        if rule == "bf16":
            tensors.update({f"{prefix}.{n}_proj.weight": ("BF16", codecs.bf16_from_f32(r)) for n, r in rows.items()})
            continue
        first = dict(zip(parts, np.cumsum([0] + [p.scale_rows for p in parts.values()])))
        cells = sum(p.scale_rows for p in parts.values())
        cell = np.concatenate([np.array([first[o] for o in p.owner]) + p.scale_row for p in parts.values()])
        codes, scales = quantize(np.concatenate(list(rows.values())), cell, cells,
                                 "amax" if rule == "constant" else rule, random)
        if damaged:
            damage(codes, scales, cell, damaged, random)
        begin = 0
        for name, part in parts.items():
            weight = f"{prefix}.{name}_proj.weight"
            tensors[weight] = ("F8_E4M3", np.ascontiguousarray(codes[begin:begin + part.row.size]))
            tensors[weight + "_scale_inv"] = (
                "F32", np.ascontiguousarray(scales[first[name]:first[name] + part.scale_rows]))
            begin += part.row.size
    container.write(os.path.join(out, ATTENTION), tensors, {"format": "pt"})
    describe(out, tensors, layout, tp_size, declared, rule)


def describe(out, tensors, layout, tp_size, declared, rule):
    """config.json and the index of what was written, in files of their own."""
    def change(index):
        index["metadata"].pop("tp_size", None)
        if tp_size is not None:
            index["metadata"]["tp_size"] = tp_size
        index["weight_map"] = {n: f for n, f in index["weight_map"].items()
                               if not any(f"self_attn.{p}_proj.weight" in n for p in ("qkv", "q", "k", "v"))}
        index["weight_map"].update({name: ATTENTION for name in tensors})

    def configure(config):
        config.pop("attention_projection_layout", None)
        said = ("fused_qkv" if layout.startswith("fused") else None) if declared == "auto" else declared
        if said:
            config["attention_projection_layout"] = said
        if rule == "bf16" and "quantization_config" in config:
            config["quantization_config"]["ignored_layers"] = ["re:.*self_attn.*"]

    edit(out, INDEX, change)
    edit(out, "config.json", configure)


def edit(directory, file, change):
    """change(document), in a copy of a file that may be linked."""
    path = os.path.join(directory, file)
    with open(path) as f:
        document = json.load(f)
    change(document)
    os.remove(path)
    with open(path, "w") as f:
        json.dump(document, f)
