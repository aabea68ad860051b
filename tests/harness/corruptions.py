"""Checkpoints that are wrong on purpose: what is edited and how, damage on top, and what a comparison must say.

The arithmetic of an edit is tests/reference's or numpy's: nothing here asks the tools what is right.
"""
import json
import os
import re
from collections import namedtuple

import numpy as np

from harness import checkpoints, compare, edited, tools
from judge.directory import INDEX
from reference import codecs, container, decode, layouts, minimax

# name; base: one of BASES; edit(Work); expect: {regular expression on the place: kind, or several that are right};
# damage: "same" tensors too, "others" alone (an edit that is no larger than the damage would be), or "" for none.
Corruption = namedtuple("Corruption", "name base edit expect damage", defaults=("same",))

SMALL = dict(hidden=512, experts=8, heads=16, intermediate=512, moe_intermediate=128, vocab=320, pattern=(0, 1, 1),
             mtp=2, towers=False)
MANY = dict(hidden=128, experts=256, heads=16, intermediate=128, moe_intermediate=64, vocab=64, pattern=(0, 1), mtp=1,
            towers=True)
# variant; what is edited: the checkpoint itself (False), its values as BF16 with Q, K and V apart (True), what
# mimo-convert makes of it with these options, or what a function makes of its state; options of the generator
BASES = {"fused": ("v2.5", False, SMALL), "decoded": ("v2.5", True, SMALL),
         "flash": ("v2-flash", False, SMALL), "flash-decoded": ("v2-flash", True, SMALL),
         "bf16": ("v2-flash", False, dict(SMALL, store="bf16", qkv="independent")),
         "mxfp4": ("v2.6", False, SMALL), "mxfp4-decoded": ("v2.6", True, SMALL),
         "nvfp4": ("v2.5", False, dict(SMALL, store="nvfp4")), "nvfp4-ct": ("v2.5", False, dict(SMALL, store="nvfp4-ct")),
         "many": ("v2.5", False, MANY), "replicas": ("v2.5", ("--dtype", "bf16", "--qkv", "fused:8"), SMALL),
         "ranks": ("v2-flash", ("--to", "vllm", "--format", "sharded-state", "--tp", "4"),
                   dict(SMALL, store="bf16", qkv="independent")),
         "w4a4": ("v2.5", ("--recipe", "nvfp4", "--w4a4", "--input-scale", "0.5"), SMALL),
         "unknown": ("v2.5", lambda state: [state.put(n, t, a, state.file_of("model.norm.weight")) for n, t, a in UNKNOWN],
                     SMALL)}
# Compared with what they were before they were edited, not with what they were made from.
THEMSELVES = ("w4a4", "unknown")
# What no table knows, of types that hold no values.
UNKNOWN = [("model.layers.1.self_attn.position_table", "I64", np.arange(96).reshape(8, 12)),
           ("model.expert_counts", "I32", np.arange(8, dtype=np.int32))]
# What is damaged besides: never what an edit names.
BYSTANDERS = ("model.layers.1.self_attn.o_proj.weight", "model.layers.2.self_attn.o_proj.weight",
              "model.layers.2.mlp.experts.0.up_proj.weight")


class Base:
    """What an edit starts from: `directory` is compared with the edited copy of `state`."""

    def __init__(self, name):
        variant, made, options = BASES[name]
        self.directory, self.model = checkpoints.ours(variant, **dict(dict(extremes=False), **options))
        self.layout = self.model.spec.qkv
        self.tensors, self.config, self.index = decode.load(self.directory)
        self.values = {n: v.values if v.values is not None else codecs.decode_plain(v.dtype, v.array)
                       for n, v in self.model.values.items()}
        self.edited = self.directory
        if made:
            self.edited = os.path.join(checkpoints.root(), name)
            if made is True:
                write_decoded(self.edited, self.model.values, self.config, self.directory)
            elif callable(made):
                state = edited.State(self.directory, self.layout)
                made(state)
                state.write(self.edited)
            else:
                result = tools.run("mimo-convert", self.directory, self.edited, *made)
                assert result.code == 0, tools.describe(result)
        if name in THEMSELVES:
            self.directory = self.edited
        self.state = (RankState if name == "ranks" else edited.State)(self.edited, self.layout)


# What is edited: as in BASES.
MINIMAX_SIZE = dict(layers=3, hidden=512, experts=8, heads=16, kv_heads=4, intermediate=512, vocab=320)
MINIMAX_BASES = {"minimax": False, "minimax-decoded": True,
                 "minimax-ranks": ("--dtype", "bf16", "--to", "vllm", "--format", "sharded-state", "--tp", "8")}


class MiniMaxBase:
    """The same of another family: Q, K and V apart, experts' w1, w2 and w3, norms of Q and K over all heads."""

    def __init__(self, name):
        made = MINIMAX_BASES[name]
        self.directory = os.path.join(checkpoints.root(), name + "-source")
        self.tensors = minimax.make_checkpoint(self.directory, **MINIMAX_SIZE)
        self.layout, self.config = "independent", compare.load_json(self.directory, "config.json")
        self.values = {n: minimax.values(self.tensors, n) for n in self.tensors if not n.endswith("_scale_inv")}
        self.edited = os.path.join(checkpoints.root(), name) if made else self.directory
        if made is True:
            minimax.write(self.edited, minimax.decoded(self.tensors), minimax.config_of(**MINIMAX_SIZE, quantized=False))
        elif made:
            result = tools.run("mimo-convert", self.directory, self.edited, *made)
            assert result.code == 0, tools.describe(result)
        self.state = (RankState if name == "minimax-ranks" else edited.State)(self.edited, self.layout)


def base_of(name):
    return (MiniMaxBase if name in MINIMAX_BASES else Base)(name)


class RankState(edited.State):
    """Files of ranks: no index, and names that every rank has."""

    def __init__(self, directory, layout):
        self.origin, self.layout, self.changed, self.has_index, self.total_size = directory, layout, set(), False, None
        self.carried = {}
        self.files = {f: dict(container.read(os.path.join(directory, f))) for f in container.tensor_files(directory)}
        self.config, self.index = compare.load_json(directory, "config.json"), {"metadata": {}, "weight_map": {}}


def write_decoded(directory, values, config, origin):
    """The values as BF16 with Q, K and V apart, a file for every layer; beside them what lies beside those of `origin`."""
    for name in edited.travelling(origin):
        os.makedirs(os.path.dirname(os.path.join(directory, name)), exist_ok=True)
        os.link(os.path.join(origin, name), os.path.join(directory, name))
    files = {}
    for name, value in decode.stored_as(values, "bf16").items():
        layer = re.match(r"model\.(mtp\.)?layers\.\d+", name)
        files.setdefault(layer.group().replace(".", "_") if layer else "model", {})[name] = value
    total = sum(container.write(os.path.join(directory, f + ".safetensors"), t, {"format": "pt"})
                for f, t in files.items())
    index = {"metadata": {"total_size": total}, "weight_map": {n: f + ".safetensors" for f, t in files.items() for n in t}}
    config = {k: v for k, v in config.items() if k not in ("quantization_config", "attention_projection_layout")}
    for name, document in (("config.json", config), (INDEX, index)):
        with open(os.path.join(directory, name), "w") as f:
            json.dump(document, f)


class Work:
    """A copy of a base that is being edited."""

    def __init__(self, base):
        self.base, self.state, self.touched = base, base.state.copy(), []
        self.config, self.index = self.state.config, self.state.index

    def true(self, name):
        return self.base.values[name].copy()

    def source(self, name):
        """As the base stores it: (dtype, array)."""
        return self.base.tensors[name]

    def get(self, name):
        return self.state.get(name)[1].copy()

    def put(self, name, array, dtype=None):
        before = self.state.get(name)
        if dtype in (None, before[0]) and np.array_equal(before[1], array):
            return
        self.state.put(name, dtype or before[0], array)
        self.touched.append(name)

    def set(self, name, values):
        """Values, in the type that the edited side stores them in."""
        self.put(name, codecs.encode_as(self.state.get(name)[0], np.ascontiguousarray(values, np.float32)))

    def change(self, name, edit):
        self.set(name, edit(self.true(name)))

    def recode(self, name, edit):
        self.put(name, edit(self.get(name)))

    def names(self, pattern):
        return self.state.names(pattern)

    def carry(self, name, edit):
        """edit(text) of a file that travels along; None in its place takes it out."""
        self.state.carried[name] = edit and edit(self._carried(name)).encode()

    def carry_bytes(self, name, edit):
        self.state.carried[name] = edit(self._carried(name, "latin-1")).encode("latin-1")

    def carry_tensors(self, name, edit):
        self.state.carried[name] = edit(dict(container.read(os.path.join(self.state.origin, name))))

    def _carried(self, name, encoding="utf-8"):
        path = os.path.join(self.state.origin, name)
        if not os.path.exists(path):
            return ""
        with open(path, encoding=encoding, newline="") as f:
            return f.read()


# ---- damage --------------------------------------------------------------------------------------------------------

def damaged(array, packed, random):
    """1 % of the blocks of 128 x 128 elements, of small arrays 1 % of the rows of 128, drawn anew from the array's own
    elements; None where there is too little."""
    if array.ndim == 1:
        count = array.size // 100
        if array.size < 64:
            return None
        result = array.copy()
        result[random.choice(array.size, max(1, count), replace=False)] = random.choice(array, max(1, count))
        return result
    if array.ndim != 2:
        return None
    rows, cols = array.shape
    width = 64 if packed else 128
    height = 128 if (rows // 128) * (cols // width) >= 50 else 1
    places = [(r, c) for r in range(0, rows - height + 1, height) for c in range(0, cols - width + 1, width)]
    if not places:
        return None
    result = array.copy()
    for i in random.choice(len(places), max(1, len(places) // 100), replace=False):
        r, c = places[i]
        result[r:r + height, c:c + width] = random.choice(array.reshape(-1), (height, width))
    return result


def damage(work, random, same):
    """Damages bystanders, and with `same` what was edited. -> names of what is damaged and was not edited"""
    weights = {re.sub(r"_(scale(_inv|_2)?|global_scale)$", "", n) for n in work.touched}    # of scales those they are of
    edited_names = {n for w in weights for n in (w, w + "_packed") if work.state.has(n)}
    bystanders = [n for n in BYSTANDERS if work.state.has(n) and n not in edited_names]
    done = []
    for name in sorted(edited_names if same else ()) + bystanders:
        dtype, array = work.state.get(name)
        changed = damaged(array, dtype == "U8", random)
        if changed is not None:
            work.state.put(name, dtype, changed)
            done.append(name)
    return [n for n in done if n in bystanders]


# ---- helpers of edits ----------------------------------------------------------------------------------------------

ATTENTION = "model.layers.{}.self_attn.{}_proj.weight"
LETTERS = layouts.LETTERS


def q_k_v(layer):
    return [ATTENTION.format(layer, letter) for letter in LETTERS]


def heads_moved(values, size, order):
    return values.reshape(-1, size, values.shape[1])[list(order)].reshape(values.shape)


def read_as(work, layer, stored, read):
    """What Q, K and V are when rows that lie as fused(stored) are read as fused(read)."""
    heads, kv = decode.geometry(work.base.config, f"model.layers.{layer}.")
    values = [work.true(n) for n in q_k_v(layer)]
    lies, taken = (layouts.fused(heads, kv, c)["qkv"] for c in (stored, read))
    result = [v.copy() for v in values]
    for letter in range(3):
        mine = taken.letter == letter
        rows = [values[x][r] for x, r in zip(lies.letter[mine], lies.row[mine])]
        result[letter][taken.row[mine]] = rows
    for name, array in zip(q_k_v(layer), result):
        work.set(name, array)


def under_rows(work, layer, rows_of, letters=LETTERS):
    """Q, K and V decoded under other scale rows: rows_of(letter, rows, own scale rows) of V2-Flash's split arrays."""
    for name, letter in zip(q_k_v(layer), LETTERS):
        if letter in letters:
            code, scales = work.source(name)[1], work.source(name + "_scale_inv")[1]
            rows = rows_of(letter, np.arange(code.shape[0]), scales.shape[0])
            work.set(name, codecs.decode_fp8(code, scales, rows))


def fused_under_rows(work, layer, rows_of):
    """The fused array decoded under other scale rows: rows_of(rows, chunks, letters)."""
    prefix = f"model.layers.{layer}.self_attn"
    heads, kv = decode.geometry(work.base.config, prefix + ".")
    stored = layouts.parse(work.base.layout, heads, kv)["qkv"]
    codes, scales = (work.source(f"{prefix}.qkv_proj.weight{s}")[1] for s in ("", "_scale_inv"))
    values = codecs.decode_fp8(codes, scales, rows_of(np.arange(codes.shape[0]), stored))
    for letter, name in enumerate(q_k_v(layer)):
        mine, array = stored.letter == letter, np.zeros_like(work.true(name))
        array[stored.row[mine]] = values[mine]
        work.set(name, array)


def gate_and_up(work, prefix, edit):
    """edit([all of gate; all of up]) -> the same, of another order."""
    names = [f"{prefix}.{half}_proj.weight" for half in ("gate", "up")]
    for name, half in zip(names, np.split(edit(np.concatenate([work.true(n) for n in names])), 2)):
        work.set(name, half)


def turns(rows, turn):
    """Which row of [gate; up] lies where in turns of so many rows."""
    place = np.arange(rows)
    half = rows // 2
    return place // (2 * turn) * turn + place % turn + place // turn % 2 * half


def swap(work, pairs):
    before = {n: work.get(n) for pair in pairs for n in pair}
    for one, other in pairs:
        work.put(one, before[other])
        work.put(other, before[one])


def rename_each(work, pattern, replacement):
    return [(n, re.sub(pattern, replacement, n)) for n in work.names(pattern)]


def config(**changes):
    """An edit of config.json; None removes a key."""
    def edit(work):
        for key, value in changes.items():
            work.config.pop(key)
            if value is not None:
                work.config[key] = value
    return edit


def flipped(array, place, bit):
    result = array.copy()
    raw = result.reshape(-1).view({1: np.uint8, 2: np.uint16, 4: np.uint32}[array.itemsize])
    raw[place] ^= 1 << bit
    return result
