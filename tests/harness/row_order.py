"""BF16 checkpoints whose fused attention has a chosen row order and a chosen contrast between rows of Q, K and V.

The order comes from reference.layouts, the rows are drawn here: nothing is shared with what is tested."""
import json
import os
import shutil

import numpy as np

from reference import codecs, container, layouts, make

INDEX = "model.safetensors.index.json"
ATTENTION = "attention.safetensors"


def base(directory, variant="v2.5", **options):
    """A dequantized fused checkpoint without towers; its attention is what write() replaces. -> the Model"""
    options = dict(dict(experts=2, intermediate=128, moe_intermediate=128, vocab=64, towers=False, sidecars=False,
                        store="bf16", mtp=1), **options)
    model = make.make(directory, variant, **options)
    checkpoint = os.path.join(directory, "checkpoint")
    for file in container.tensor_files(checkpoint):
        path = os.path.join(checkpoint, file)
        tensors = {n: (d, np.array(a)) for n, (d, a) in container.read(path).items() if "qkv_proj" not in n}
        container.write(path, tensors, {"format": "pt"})
    return model


def kinds(model):
    """[(tensor, KV heads)] of every fused attention tensor."""
    spec = model.spec
    found = [(f"model.layers.{i}.self_attn.qkv_proj.weight", spec.kv[w]) for i, w in enumerate(spec.pattern)]
    return found + [(f"model.mtp.layers.{i}.self_attn.qkv_proj.weight", spec.kv[1]) for i in range(spec.mtp)]


def draw(model, kv, contrast, rows, random):
    """{letter: BF16 rows}: K's norms are 1, those of Q `contrast` and of V 1 / `contrast`.

    rows: gauss (each element drawn), equal (every row of one norm), heads (heads differ by 10 %), heavy (few columns
    hold most of a row)."""
    spec, result = model.spec, {}
    columns = np.exp(random.standard_normal(spec.hidden) * 1.5)
    for letter in (layouts.Q, layouts.K, layouts.V):
        heads, size = (spec.heads if letter == layouts.Q else kv), layouts.head_rows(letter)
        values = random.standard_normal((heads * size, spec.hidden))
        if rows == "heavy":
            values *= columns
        if rows == "equal":
            values /= np.sqrt((values**2).mean(1, keepdims=True))
        if rows == "heads":
            values *= np.repeat(np.exp(random.standard_normal(heads) * 0.1), size)[:, None]
        values *= 0.02 * {layouts.Q: contrast, layouts.K: 1, layouts.V: 1 / contrast}[letter]
        result[letter] = codecs.bf16_from_f32(values.astype(np.float32))
    return result


def write(source, out, model, chunks, contrast, seed, rows="gauss", tp_size=None):
    """Copies (links) `source` to `out` with attention in fused(chunks). -> {split name: BF16 rows}, the truth"""
    random, spec = np.random.default_rng([seed, chunks]), model.spec
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(os.path.join(source, "checkpoint"), out, copy_function=os.link)
    tensors, truth = {}, {}
    for name, kv in kinds(model):
        values = draw(model, kv, contrast, rows, random)
        stored = layouts.fused(spec.heads, kv, chunks)["qkv"]
        array = np.empty((stored.row.size, spec.hidden), np.uint16)
        for letter, word in enumerate(layouts.LETTERS):
            mine = stored.letter == letter
            array[mine] = values[letter][stored.row[mine]]
            truth[name.replace("qkv_proj", f"{word}_proj")] = values[letter]
        tensors[name] = ("BF16", array)
    container.write(os.path.join(out, ATTENTION), tensors, {"format": "pt"})
    with open(os.path.join(out, INDEX)) as f:
        index = json.load(f)
    index["metadata"].pop("tp_size", None)
    if tp_size is not None:
        index["metadata"]["tp_size"] = tp_size
    index["weight_map"].update({name: ATTENTION for name in tensors})
    os.remove(os.path.join(out, INDEX))
    with open(os.path.join(out, INDEX), "w") as f:
        json.dump(index, f)
    return truth
