"""An output against the meaning of its source.

What was asked for decides which values are right: moved ones to the bit, decoded ones rounded once to the type asked
for, encoded ones within half a step of their codes.
"""
import re

import numpy as np

from judge import declared
from judge.meaning import Geometry, Meaning
from reference import codecs, layouts

TOWER = re.compile(r"visual\.|audio_encoder\.|speech_embeddings\.")
ROUTER = re.compile(r".*\.mlp\.gate\.")
PROJECTION = re.compile(r"model\..*\.self_attn\.(q|k|v)_proj\.weight$")
LARGEST = {"mxfp4": 6.0, "nvfp4": 6.0}
# How far a value may lie beyond the largest code: NVFP4's block scales are rounded themselves, below 2^-6 coarsely.
BEYOND = {"nvfp4": 1.6}
LEAST_SQNR = {"nvfp4": 13.0, "mxfp4": 13.0, "block": 25.0, "mxfp8": 25.0, "row": 25.0, "tensor": 25.0}


class Asked:
    """plain: the type that decoded weights get, None where nothing is decoded. kinds: codecs that weights may be made
    in. exact: FP8 blocks are not made anew. text_only: towers are left out. copy: nothing at all is changed."""

    def __init__(self, plain=None, kinds=(), exact=True, text_only=False, copy=False):
        self.plain, self.kinds, self.exact, self.text_only, self.copy = plain, tuple(kinds), exact, text_only, copy


# ---- the geometry that an output declares --------------------------------------------------------------------------

def _fits(layout, heads, kv, rows):
    """Whether a layout has these scale rows, {projection: rows}."""
    try:
        parts = layouts.parse(layout, heads, kv)
    except ValueError:
        return False
    return all(name in parts and parts[name].scale_rows == count for name, count in rows.items())


def declared_geometry(directory, fallback):
    """What an output says of its attention: index tp_size, else the marker, else what config.json means without either;
    FP8 scale rows exclude what they do not fit. fallback: the layout of the source, for what was not marked because
    nothing was changed."""
    config, marker = directory.config, directory.config.get("mimo_layout") or {}
    kv = (config.get("num_key_value_heads"), config.get("swa_num_key_value_heads"))
    heads = (config.get("num_attention_heads"), config.get("swa_num_attention_heads"))
    said = [c for c in (directory.metadata.get("tp_size"), marker.get("chunks") if marker.get("qkv") == "fused" else 0)
            if c]
    guesses = [f"fused:{int(c)}" for c in said] or [fallback] * fallback.startswith("fused") + [f"fused:{kv[0]}"]

    def layout(_, names, rows, own_heads, own_kv):
        if names == {"qkv"}:
            return next((g for g in guesses if _fits(g, own_heads, own_kv, rows)), None)
        if not rows:
            return "independent"
        if marker.get("qkv") == "split":
            candidates = ["independent"] if marker.get("grid") == "independent" else [f"cut:{marker.get('chunks')}"]
        else:
            candidates = [fallback] if not fallback.startswith("fused") else []
            candidates += [f"cut:{kv[0]}", "independent"]
        return next((c for c in candidates if _fits(c, own_heads, own_kv, rows)), None)

    return Geometry(heads, kv, config.get("hybrid_layer_pattern") or [], layout)


# ---- values --------------------------------------------------------------------------------------------------------

def _equal_bits(a, b):
    return a.shape == b.shape and a.tobytes() == b.tobytes()


def _equal_values(a, b):
    return a.shape == b.shape and bool(((a == b) | (np.isnan(a) & np.isnan(b))).all())


def _same_codes(a, b):
    """NVFP4 under a global scale that another dialect stores as its inverse, which is rounded once or twice."""
    return bool((np.abs(a - b) <= 4e-7 * np.abs(a)).all())


def _replicated(name, want, rows):
    """K and V rows of an output that holds every KV head several times."""
    letter = re.search(r"\.self_attn\.(k|v)_proj\.weight$", name)
    if letter is None or want.shape[0] == rows or rows % want.shape[0]:
        return want
    size = layouts.V_HEAD_DIM if letter.group(1) == "v" else layouts.HEAD_DIM
    heads = want.reshape(want.shape[0] // size, size, -1)
    return np.repeat(heads, rows // want.shape[0], axis=0).reshape(rows, -1)


def _bounded(want, got, changed):
    """What is wrong with codes made from `want`: nothing where each value is the nearest that its unit allows."""
    with np.errstate(all="ignore"):
        scaled = np.abs(want.astype(np.float64) / got.unit)
        error = np.abs(want.astype(np.float64) - got.values) / got.unit
    largest = LARGEST.get(got.kind, codecs.E4M3_MAX)
    if not np.isfinite(error).all():
        return "values that are not finite, or under a scale of zero"
    inside = np.minimum(scaled, largest)
    step = codecs.e4m3_step(inside) if got.kind not in LARGEST else np.where(inside <= 2, 0.5, np.where(
        inside <= 4, 1.0, 2.0))
    beyond = np.maximum(scaled - largest, 0)
    wrong = (error > 0.501 * step + beyond) | (scaled > largest * BEYOND.get(got.kind, 1.07))
    if wrong.any():
        return f"{int(wrong.sum())} of {wrong.size} values further off than half a step"
    energy = float(np.square(want.astype(np.float64)).sum())
    noise = float(np.square(want.astype(np.float64) - got.values).sum())
    if changed and noise and energy and 10 * np.log10(energy / noise) < LEAST_SQNR[got.kind]:
        return f"SQNR {10 * np.log10(energy / noise):.1f} dB"
    return None


def compare(name, want, got, asked):
    """What is wrong with one tensor of an output; None where nothing is."""
    if want.kind == "scalar":
        return None if want.values.size == got.values.size and want.values.tobytes() == got.values.tobytes() else \
            f"{want.values.tolist()} became {got.values.tolist()}"
    values = _replicated(name, want.values, got.values.shape[0]) if want.values.ndim == 2 else want.values
    if values.shape != got.values.shape:
        return f"{want.values.shape} became {got.values.shape}"
    if got.kind == "plain":
        if want.kind == "plain" and got.dtype == "F32" and PROJECTION.match(name) and _equal_bits(got.values, values):
            return None                                            # fused with others of another type
        kept = want.kind == "plain" and got.dtype == want.dtype
        if not kept and (got.dtype != asked.plain or (want.kind == "plain" and (
                want.dtype == "F32" or ROUTER.match(name)))):
            return f"{want.kind} {want.dtype} became {got.dtype}"
        stored, wanted = (codecs.encode_as(got.dtype, x) for x in (got.values, values))
        if not _equal_bits(stored, wanted) and not _equal_values(got.values, codecs.decode_plain(got.dtype, wanted)):
            return f"{int((stored != wanted).sum())} of {stored.size} values differ"
        return None
    if want.kind == got.kind and _equal_values(values, got.values):
        return None
    if want.kind != got.kind and got.kind not in asked.kinds:
        return f"{want.kind} {want.dtype} became {got.kind}"
    if want.kind == got.kind == "nvfp4" and _same_codes(values, got.values):
        return None
    if want.kind == got.kind and (asked.exact or got.kind != "block"):
        return f"{int((values != got.values).sum())} of {values.size} values of what is moved differ"
    return _bounded(values, got, want.kind != got.kind)


# ---- the whole -----------------------------------------------------------------------------------------------------

def _may_vanish(name, truth, output, asked):
    if TOWER.match(name):
        return asked.text_only
    if name.endswith(".input_scale"):
        weight = name[:-len("input_scale")] + "weight"
        want, got = truth.logical.get(weight), output.logical.get(weight)
        return want is not None and got is not None and want.kind != got.kind
    return False


def judge(directory, truth, fallback, asked, doubted=()):
    """-> (the output's Meaning, [(id, text)], the output's disagreements with itself [(id, text)]). doubted: names of which the source does not
    say what they mean, and whose values are therefore not compared."""
    output = Meaning(directory, declared_geometry(directory, fallback))
    doubtful = tuple(sorted(set(doubted)))

    def about_doubt(name):
        return name.startswith(doubtful) if doubtful else False

    found = []
    if not asked.copy:
        found += [("unreadable", f"{about}: {text}") for about, text in output.doubts if not about_doubt(about)]
    for name, want in truth.logical.items():
        if about_doubt(name):
            continue
        got = output.logical.get(name)
        if got is None:
            if not _may_vanish(name, truth, output, asked):
                found.append(("vanished", name))
            continue
        if asked.text_only and TOWER.match(name):
            found.append(("kept", f"{name} in spite of --text-only"))
        text = compare(name, want, got, asked)
        if text:
            found.append(("values", f"{name}: {text}"))
    found += [("invented", name) for name in sorted(set(output.logical) - set(truth.logical)) if not about_doubt(name)]
    return output, found, declared.disagreements(directory, output)
