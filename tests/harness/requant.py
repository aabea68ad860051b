"""What a re-quantized checkpoint must hold, tensor by tensor: an account of recipes of its own, in numpy.

expected(source directory, recipe, ...) -> Expected: every tensor of the output with its bytes, which modules are
quantized, and how many blocks were encoded and moved. Dialects, rules and shared globals follow the published formats
and schemas/recipes; nothing here asks the tools.
"""
import json
import os
import re
from collections import namedtuple

import numpy as np

from harness import tools
from reference import codecs, decode, layouts, quantize

F = np.float32

# tensors: {name: (dtype, array)}. quantized: {module: "nvfp4" ...}. encoded, exact: blocks, in lists of one. made: {weight:
# Made}, of what was encoded.
Expected = namedtuple("Expected", "tensors quantized encoded exact made")
# values: float32 of the source. unit: what each element's code is multiplied by. group: (rows, columns) under a scale.
# seen: `values` as they were encoded, after BF16 when asked.
Made = namedtuple("Made", "target values seen encoded decoded unit group")

ROLES = (("embed", r"model\.embed_tokens"), ("lm_head", r"lm_head"), ("attn.q", r".*\.self_attn\.q_proj"),
         ("attn.k", r".*\.self_attn\.k_proj"),
         ("attn.v", r".*\.self_attn\.v_proj"), ("attn.qkv", r".*\.self_attn\.qkv_proj"),
         ("attn.o", r".*\.self_attn\.o_proj"),
         ("router", r".*\.mlp\.gate"), ("expert.gate", r".*\.experts\.\d+\.gate_proj"),
         ("expert.up", r".*\.experts\.\d+\.up_proj"),
         ("expert.down", r".*\.experts\.\d+\.down_proj"), ("mlp.gate", r".*\.mlp\.gate_proj"),
         ("mlp.up", r".*\.mlp\.up_proj"),
         ("mlp.down", r".*\.mlp\.down_proj"), ("mtp.eh_proj", r"model\.mtp\..*\.eh_proj"))
# What the releases quantize: not o_proj.
QUANTIZED = re.compile(r".*\.(self_attn\.(q|k|v|qkv)_proj|mlp\.(experts\.\d+\.)?(gate|up|down)_proj)")
ATTENTION = {"attn.q", "attn.k", "attn.v", "attn.qkv"}


def role_of(module):
    if not module.startswith(("model.", "lm_head")):
        return None                                        # towers
    return next((role for role, pattern in ROLES if re.fullmatch(pattern, module)), None)


def recipe(name):
    """A recipe of schemas/recipes by name."""
    with open(os.path.join(tools.SOURCE, "schemas", "recipes", name + ".json")) as f:
        return json.load(f)


def target_of(rules, module):
    role, mtp = role_of(module), module.startswith("model.mtp.")
    if role is None:
        return "keep"
    for rule in rules:
        wanted = set(rule.get("roles", ()))
        if wanted and role not in wanted and not (role in ATTENTION and wanted & ATTENTION):
            continue
        if "mtp" in rule and rule["mtp"] != mtp:
            continue
        if rule.get("names") and not re.search(rule["names"], module + ".weight"):
            continue
        if rule.get("released") and not QUANTIZED.fullmatch(module):
            continue
        return rule["to"]
    return "keep"


# ---- the source ----------------------------------------------------------------------------------------------------

class Origin:
    """One logical weight of the source: its values, and what of it could be moved."""

    def __init__(self, values, kind, codes=None, scales=None, extra=None):
        self.values, self.kind, self.codes, self.scales, self.extra = values, kind, codes, scales, extra


def origin_of(tensors, weight):
    by_rows, scales = decode.quantized_by_rows(tensors, weight), decode.scales_of(tensors, weight)
    if by_rows is not None:
        packed = weight + "_packed" in tensors
        dtype, codes = tensors[weight + "_packed" if packed else weight]
        kind = "mxfp8" if dtype == "F8_E4M3" else \
            "nvfp4" if any(weight + x in tensors for x in ("_scale_2", "_global_scale")) else "mxfp4"
        extra = tensors.get(weight + "_global_scale" if packed else weight + "_scale_2")
        return Origin(by_rows, kind, codes, tensors[weight + "_scale"][1], (packed, extra))
    dtype, array = tensors[weight]
    if scales is not None:
        rows = np.arange(array.shape[0]) // 128
        return Origin(codecs.decode_fp8(array, tensors[scales][1], rows), "fp8", array, tensors[scales][1], rows)
    return Origin(codecs.decode_plain(dtype, array), "plain")


def split_attention(tensors, config, prefix, chunks):
    """-> {weight: Origin} of q, k and v with heads ascending."""
    heads, kv = decode.geometry(config, prefix)
    stored = decode.stored_layout(tensors, prefix, heads, kv, chunks)
    result = {}
    for letter, logical in decode.attention(tensors, prefix, stored, heads, kv).items():
        rows = None if logical.codes is None else np.arange(logical.codes.shape[0])
        kind = "plain" if logical.codes is None else "fp8"
        result[f"{prefix}.{letter}_proj.weight"] = Origin(logical.values, kind, logical.codes, logical.scales, rows)
    return result


# ---- one weight ----------------------------------------------------------------------------------------------------

def block_fp8_rows(values, cell, columns=128, power_of_two=False):
    """FP8 whose blocks of rows are given by `cell` (any numbering). -> codes, {cell: scales of its column blocks}"""
    codes, scales = np.empty(values.shape, np.uint8), {}
    for number in np.unique(cell):
        rows = np.flatnonzero(cell == number)
        made = quantize.fp8_block(values[rows], len(rows), columns, power_of_two)
        codes[rows], scales[int(number)] = made.codes, made.scales[0]
    return codes, scales


class Encoding:
    """How the tool was asked to encode."""

    def __init__(self, nvfp4="max", mx="rceil", ties="even", power_of_two=False, block=(128, 128), via_bf16=False):
        self.nvfp4, self.mx, self.ties = nvfp4, mx, ties
        self.power_of_two, self.block, self.via_bf16 = power_of_two, block, via_bf16

    def seen(self, origin):
        return quantize.via_bf16(origin.values) if self.via_bf16 else origin.values

    def nvfp4_group(self, origins):
        """-> [(Encoded, global)] of matrices that share a global"""
        spans = [quantize.mxfp4_exponents(o.codes, o.scales) if o.kind == "mxfp4" else None for o in origins]
        if all(o.kind == "mxfp4" for o in origins) and any(spans):
            span = (min(s[0] for s in spans if s), max(s[1] for s in spans if s))
            if quantize.nvfp4_exact_range(span):
                global_ = quantize.nvfp4_exact_global(span[1])
                return [(quantize.nvfp4_from_mxfp4(o.codes, o.scales, span[1]), global_) for o in origins]
        amax = quantize.amax_of([self.seen(o) for o in origins])
        global_ = quantize.nvfp4_global(amax, self.nvfp4)
        return [(quantize.nvfp4(self.seen(o), amax, self.nvfp4), global_) for o in origins]

    def one(self, target, origin):
        """MXFP4, MXFP8 or block FP8 on a grid of its own. -> Encoded"""
        if target == "mxfp4":
            return quantize.mxfp4(self.seen(origin), self.mx, self.ties)
        if target == "mxfp8":
            if origin.kind == "fp8":
                return quantize.mxfp8_from_fp8(origin.codes, origin.scales, origin.extra, self.mx, bf16=self.via_bf16)
            return quantize.mxfp8(self.seen(origin), self.mx)
        if origin.kind == "mxfp4":
            return quantize.fp8_from_mxfp4(origin.codes, origin.scales, *self.block, self.power_of_two)
        return quantize.fp8_block(self.seen(origin), *self.block, self.power_of_two)


def made_of(target, values, seen, encoded, global_, block):
    if target == "fp8":
        unit = quantize.spread(encoded.scales, values.shape, *block)
        return Made(target, values, seen, encoded, codecs.E4M3[encoded.codes] * unit, unit, block)
    if target == "nvfp4":
        unit = np.repeat(codecs.E4M3[encoded.scales] * F(global_), 16, axis=1)
        return Made(target, values, seen, encoded, quantize.decode_nvfp4(encoded.codes, encoded.scales, global_), unit,
                    (1, 16))
    unit = np.repeat(codecs.E8M0[encoded.scales], 32, axis=1)
    decoder = codecs.decode_mxfp4 if target == "mxfp4" else quantize.decode_mxfp8
    return Made(target, values, seen, encoded, decoder(encoded.codes, encoded.scales), unit, (1, 32))


def figures(made):
    """The members of a tensor's error report."""
    result = quantize.figures(made.values, made.decoded)
    if made.group is not None:
        result.update(quantize.corners(made.seen, made.encoded, made.unit, made.group))
    return result


def named(dialect, target, weight, made, global_, input_scale=None):
    """The arrays of a weight as the dialect names and types them."""
    if dialect == "compressed-tensors":
        four = target in ("nvfp4", "mxfp4")
        scale_dtype = {"nvfp4": "F8_E4M3", "mxfp4": "U8", "mxfp8": "U8", "fp8": "F32"}[target]
        result = {weight + ("_packed" if four else ""): ("U8" if four else "F8_E4M3", made.codes),
                  weight + "_scale": (scale_dtype, made.scales)}
        if target == "nvfp4":
            result[weight + "_global_scale"] = ("F32", np.array([F(1) / global_], F))
            if input_scale is not None:
                result[weight[:-len("weight")] + "input_global_scale"] = ("F32", np.array([F(1) / F(input_scale)], F))
        return result
    if target == "fp8":
        return {weight: ("F8_E4M3", made.codes), weight + "_scale_inv": ("F32", made.scales)}
    if target == "mxfp8":
        return {weight: ("F8_E4M3", made.codes), weight + "_scale": ("U8", made.scales)}
    if target == "mxfp4":
        return {weight: ("U8", made.codes), weight + "_scale": ("U8", made.scales)}
    result = {weight: ("U8", made.codes), weight + "_scale": ("F8_E4M3", made.scales),
              weight + "_scale_2": ("F32", np.array(global_, F))}
    if input_scale is not None:
        result[weight[:-len("weight")] + "input_scale"] = ("F32", np.array(input_scale, F))
    return result


def kept(dialect, raw):
    """Arrays that keep their bytes: compressed-tensors knows block FP8 scales under another name."""
    if dialect != "compressed-tensors":
        return raw
    return {name.replace(".weight_scale_inv", ".weight_scale"): value for name, value in raw.items()}


# ---- the whole -----------------------------------------------------------------------------------------------------

def group_key(module):
    """Matrices that share an NVFP4 global: gate and up; q, k and v."""
    return re.sub(r"\.(gate|up)_proj$", ".gate+up", re.sub(r"\.[qkv]_proj$", ".q+k+v", module))


def expected(source, name, encoding=None, chunks=None, dialect=None, qkv=None, input_scale=None, rules=None):
    """`input_scale`: of every NVFP4 module, or a function of the module (W4A4); None without."""
    made = recipe(name) if rules is None else {"rules": rules, "dialect": "modelopt"}
    dialect, encoding = dialect or made["dialect"], encoding or Encoding()
    split = (qkv or made.get("qkv", "")) == "split"
    tensors, config, index = decode.load(source)
    chunks = chunks or decode.chunk_count(config, index)
    result = Expected({}, {}, [0], [0], {})
    left, groups = dict(tensors), {}

    def take(weight):
        parts = [n for n in left if n == weight
                 or (n.startswith(weight + "_") and n[len(weight):] in decode.COMPANIONS)]
        return {n: left.pop(n) for n in parts}

    def place(weight, target, one, global_, origin):
        scale = input_scale(weight[:-len(".weight")]) if callable(input_scale) else input_scale
        result.tensors.update(named(dialect, target, weight, one, global_, scale if target == "nvfp4" else None))
        result.quantized[weight[:-len(".weight")]] = target
        result.encoded[0] += one.blocks
        result.exact[0] += one.exact
        result.made[weight] = made_of(target, origin.values, encoding.seen(origin), one, global_, encoding.block)

    def put(weight, origin, raw):
        """`raw`: the arrays as the source has them, for what is kept or moved; None where rows were reordered."""
        module = weight[:-len(".weight")]
        target = target_of(made["rules"], module)
        if raw is not None and (target == "keep"
                                or (target == origin.kind and _may_move(target, origin, dialect, encoding))):
            result.tensors.update(kept(dialect, raw))
            if origin.kind != "plain":
                result.quantized[module] = origin.kind
        elif target in ("bf16", "fp16", "fp32"):
            dtype = decode.TARGETS[target]
            result.tensors[weight] = (dtype, codecs.encode_as(dtype, origin.values))
        elif target == "keep":
            assert origin.kind == "plain", weight
            result.tensors[weight] = ("BF16", codecs.bf16_from_f32(origin.values))
        elif target == "nvfp4":
            groups.setdefault(group_key(module), []).append((weight, origin))
        else:
            place(weight, target, encoding.one(target, origin), None, origin)

    for prefix in decode.attention_prefixes(tensors):
        present = [n for n in ("qkv", "q", "k", "v") if f"{prefix}.{n}_proj.weight" in tensors]
        raw = {n: take(f"{prefix}.{n}_proj.weight") for n in present}
        if split:
            was_split = present != ["qkv"]
            for weight, origin in split_attention(tensors, config, prefix, chunks).items():
                put(weight, origin, raw[weight.split(".")[-2][0]] if was_split and origin.kind == "plain" else None)
            continue
        target = target_of(made["rules"], f"{prefix}.{present[0]}_proj")
        kinds = {"fp8" if decode.scales_of(tensors, f"{prefix}.{n}_proj.weight") else "plain" for n in present}
        if target == "keep" or kinds == {target}:
            for n in present:
                result.tensors.update(kept(dialect, raw[n]))
                if kinds != {"plain"}:
                    result.quantized[f"{prefix}.{n}_proj"] = "fp8"
        elif target == "fp8":
            _fused_fp8(result, tensors, config, prefix, chunks, present, encoding, dialect)
        else:
            for n in present:
                weight = f"{prefix}.{n}_proj.weight"
                put(weight, origin_of(tensors, weight), raw[n])
    for weight in [n[:-len("_packed")] if n.endswith(".weight_packed") else n for n in tensors
                   if re.search(r"\.weight(_packed)?$", n)]:
        if weight not in left and weight + "_packed" not in left:
            continue
        if role_of(weight[:-len(".weight")]) is None:
            continue
        origin = origin_of(tensors, weight)
        put(weight, origin, take(weight))
    for members in groups.values():
        for (weight, origin), (one, global_) in zip(members, encoding.nvfp4_group([o for _, o in members])):
            place(weight, "nvfp4", one, global_, origin)
    result.tensors.update(left)
    return result


def _may_move(target, origin, dialect, encoding):
    if target == "fp8":
        return encoding.block == (128, 128) and not encoding.power_of_two
    return (dialect == "compressed-tensors") == bool(origin.extra and origin.extra[0])


def _fused_fp8(result, tensors, config, prefix, chunks, present, encoding, dialect):
    """Plain attention -> block FP8 in the layout it has: the grid restarts in every chunk, or in every split projection."""
    heads, kv = decode.geometry(config, prefix)
    for name in present:
        weight = f"{prefix}.{name}_proj.weight"
        values = codecs.decode_plain(*tensors[weight])
        stored = layouts.fused(heads, kv, chunks)["qkv"] if name == "qkv" else layouts.independent(heads, kv)[name]
        origin = Origin(values, "plain")
        codes, scales = block_fp8_rows(encoding.seen(origin), stored.scale_row, encoding.block[1],
                                       encoding.power_of_two)
        array = np.stack([scales[row] for row in range(stored.scale_rows)])
        made = quantize.Encoded(codes, array, array.size, 0)
        result.tensors.update(named(dialect, "fp8", weight, made, None))
        result.quantized[f"{prefix}.{name}_proj"] = "fp8"
        result.encoded[0] += made.blocks
        unit = np.repeat(array, encoding.block[1], axis=1)[stored.scale_row][:, :values.shape[1]]
        result.made[weight] = Made("fp8", values, encoding.seen(origin), made, codecs.E4M3[codes] * unit, unit, None)


def linear_modules(tensors):
    """Every module of a checkpoint with a matrix that is no embedding: {module: whether it is stored quantized}."""
    result = {}
    for name, (dtype, array) in tensors.items():
        match = re.fullmatch(r"(.*)\.weight(_packed)?", name)
        if not match or array.ndim != 2 or "embed" in match.group(1):
            continue
        weight = match.group(1) + ".weight"
        result[match.group(1)] = any(weight + c in tensors for c in decode.COMPANIONS)
    return result


def listed(patterns, module):
    """Whether an ignore list names a module: by its name, a wildcard, or a regular expression after "re:"."""
    for pattern in patterns:
        if pattern.startswith("re:"):
            if re.match(pattern[3:], module):
                return True
        elif pattern == module or ("*" in pattern and re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), module)):
            return True
    return False
