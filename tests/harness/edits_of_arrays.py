"""Random edits of arrays: types, names, scales, weights decoded in place, and tensors that no release has.

An edit is a function of (random.Random, edited.State) that changes the state and says what it did, or returns None where
there is nothing for it to change.
"""
import re

import numpy as np

from harness import edited
from judge import weights
from reference import codecs


# ---- types ---------------------------------------------------------------------------------------------------------

def weight_type(random, state):
    """Unquantized tensors in another floating type."""
    names = [n for n in state.names() if state.get(n)[0] in weights.PLAIN and "scale" not in n]
    names = [n for n in names if re.search(edited.pick(random, list(edited.KINDS.values()) + [r"norm", r"mlp\.gate\."]), n)]
    wanted = random.choice(weights.PLAIN)
    names = [n for n in edited.some(random, names) if state.get(n)[0] != wanted]
    if not names:
        return None
    for name in names:
        state.put(name, wanted, codecs.encode_as(wanted, codecs.decode_plain(*state.get(name))))
    return f"{edited.said(names)} stored as {wanted}"


def norm_f32(random, state):
    name = edited.pick(random, [n for n in state.names(r"norm.*\.weight$") if state.get(n)[0] == "BF16"])
    if name is None:
        return None
    state.put(name, "F32", codecs.decode_plain(*state.get(name)))
    return f"{name} stored as F32"


def router_bias_16(random, state):
    names = edited.some(random, [n for n in state.names(r"e_score_correction_bias$") if state.get(n)[0] == "F32"])
    wanted = random.choice(("BF16", "F16"))
    for name in names:
        state.put(name, wanted, codecs.encode_as(wanted, state.get(name)[1]))
    return f"{edited.said(names)} stored as {wanted}" if names else None


def code_label(random, state):
    """Codes under another label, the bytes as they were."""
    wanted = random.choice(("U8", "I8", "F8_E5M2", "F8_E4M3"))
    names = [n for n in state.names(r"\.weight(_packed)?$") if state.get(n)[0] in edited.CODES and state.get(n)[0] != wanted]
    names = edited.some(random, names)
    for name in names:
        state.put(name, wanted, state.get(name)[1].view(np.int8 if wanted == "I8" else np.uint8))
    return f"{edited.said(names)} labelled {wanted}" if names else None


def scale_type(random, state):
    wanted = random.choice(("BF16", "F16", "F32", "F8_E8M0"))
    names = [n for n in edited.some(random, edited.scale_names(state)) if state.get(n)[0] in weights.PLAIN and state.get(n)[0] != wanted]
    for name in names:
        values = codecs.decode_plain(*state.get(name))
        if wanted == "F8_E8M0":
            with np.errstate(divide="ignore", invalid="ignore"):
                state.put(name, wanted, np.clip(np.rint(np.log2(values)) + 127, 0, 254).astype(np.uint8))
        else:
            state.put(name, wanted, codecs.encode_as(wanted, values))
    return f"{edited.said(names)} stored as {wanted}" if names else None


# ---- names ---------------------------------------------------------------------------------------------------------

def rename(random, state):
    name = random.choice(state.names())
    new = random.choice((name.replace("_proj", "_porj"), name.replace("experts", "expert"), name + "_old",
                         name.replace("self_attn", "attention"), name.replace(".weight", ".wieght"),
                         name.replace("weight_scale_inv", "scale"), name.replace("model.layers", "model.layer")))
    if new == name or state.has(new):
        return None
    state.rename(name, new)
    return f"{name} renamed {new}"


def prefix(random, state):
    """One prefix before every name; `torch.compile` and multimodal wrappers leave these."""
    before = random.choice(("language_model.", "model.language_model.", "_orig_mod.", "module."))
    if state.names(r"^(visual|audio_encoder|speech_embeddings)\."):
        return None
    for file in state.files:
        state.files[file] = {before + name: value for name, value in state.files[file].items()}
        state.changed.add(file)
    state.index["weight_map"] = {before + name: file for name, file in state.index["weight_map"].items()}
    return f"every name with the prefix {before}"


def layer_shifted(random, state):
    layer, by = random.choice((0, 1, 2)), random.choice((1, 5, -1))
    names = [n for n in state.names(rf"^model\.layers\.{layer}\.")]
    names = names if random.random() < 0.5 else edited.some(random, names)
    moved = [(n, n.replace(f"layers.{layer}.", f"layers.{layer + by}.", 1)) for n in names]
    moved = [(old, new) for old, new in moved if layer + by >= 0 and not state.has(new)]
    for old, new in moved:
        state.rename(old, new)
    return f"{edited.said([m[0] for m in moved])}: layer number {layer} -> {layer + by}" if moved else None


# ---- scales --------------------------------------------------------------------------------------------------------

def scale_dropped(random, state):
    names = edited.some(random, state.names(r"(weight_scale(_inv|_2)?|weight_global_scale)$"))
    for name in names:
        state.remove(name)
    return f"{edited.said(names)} dropped" if names else None


def scale_duplicated(random, state):
    """Under the other name too, sometimes halved."""
    name = edited.pick(random, edited.scale_names(state))
    if name is None:
        return None
    other = name[:-4] if name.endswith("_inv") else name + "_inv"
    if state.has(other):
        return None
    dtype, array = state.get(name)
    halved = dtype == "F32" and random.random() < 0.5
    state.put(other, dtype, array * np.float32(0.5) if halved else array, state.file_of(name))
    return f"{name} also as {other}{', halved' if halved else ''}"


def scale_shape(random, state):
    """Transposed, flattened, or with a row or column too many or too few."""
    name = edited.pick(random, [n for n in edited.scale_names(state) if state.get(n)[1].ndim == 2])
    if name is None:
        return None
    dtype, array = state.get(name)
    how = random.choice(("transposed", "flattened", "a row less", "a row more", "a column more"))
    array = {"transposed": array.T, "flattened": array.reshape(-1), "a row less": array[:-1],
             "a row more": np.concatenate([array, array[-1:]]),
             "a column more": np.concatenate([array, array[:, -1:]], axis=1)}[how]
    if not array.size:
        return None
    state.put(name, dtype, array)
    return f"{name} {how}"


def _fp8(values, scales):
    with np.errstate(all="ignore"):
        return codecs.e4m3_encode(np.nan_to_num(values / scales))


def _stored_values(state, module):
    """float32 of a quantized module in its stored row order; None where its own arrays do not say."""
    stored = weights.read(state.tensors(), module)
    if stored.kind == "block":
        found = None
        rows = stored.elements.shape[0]
        layout = state.layout
        if re.search(r"(qkv|q|k|v)_proj$", module) and module.startswith("model.") and layout != "independent":
            if not layout.startswith("fused") or rows % int(layout[6:]):
                return None
            chunk, blocks = rows // int(layout[6:]), stored.scales.shape[0] // int(layout[6:])
            if blocks != -(-chunk // 128) or stored.scales.shape[0] % int(layout[6:]):
                return None
            place = np.arange(rows)
            found = weights.under_rows(stored, stored.scales[place // chunk * blocks + place % chunk // 128])
        return (found or weights.on_plain_grid(stored) or (None,))[0]
    return stored.values


def rescale(state, modules, shape, dtype, suffix):
    """Block FP8 modules under one scale per row, or one at all. -> those that it was done to"""
    done = []
    for module in modules:
        values = _stored_values(state, module)
        if values is None:
            continue
        amax = np.abs(values).max(axis=1, keepdims=True) if "rows" in shape else np.abs(values).max().reshape(1, 1)
        made = codecs.encode_as(dtype, np.maximum(amax, 1e-12) / np.float32(448))
        state.put(module + ".weight", "F8_E4M3", _fp8(values, codecs.decode_plain(dtype, made)))
        file = state.file_of(module + ".weight_scale_inv")
        state.remove(module + ".weight_scale_inv")
        made = {"[rows, 1]": made, "[rows]": made.reshape(-1), "[1]": made.reshape(-1)}.get(shape, made.reshape(-1)[:1])
        state.put(module + suffix, dtype, made.reshape(()) if shape == "[]" else made, file)
        done.append(module)
    return done


def _block_modules(state):
    return [m for m in edited.quantized_modules(state) if state.has(m + ".weight") and state.has(m + ".weight_scale_inv")]


def requantized(random, state):
    """FP8 with a scale per row, or one per tensor, in the place of block scales."""
    shape, dtype = random.choice(("[rows, 1]", "[rows]", "[1]", "[]")), random.choice(("F32", "F32", "BF16"))
    suffix = random.choice((".weight_scale", ".weight_scale_inv"))
    done = rescale(state, edited.some(random, _block_modules(state)), shape, dtype, suffix)
    return f"{edited.said(done)} with {suffix[1:]} {dtype} {shape}" if done else None


def per_channel(state):
    """A whole model with a scale per row, declared as compressed-tensors has it."""
    rescale(state, _block_modules(state), "[rows, 1]", "F32", ".weight_scale")
    weights_of = {"num_bits": 8, "type": "float", "strategy": "channel", "dynamic": False, "symmetric": True}
    state.config["quantization_config"] = {
        "quant_method": "compressed-tensors", "format": "float-quantized", "ignore": [
            "lm_head", "re:.*o_proj$", "re:.*mlp.gate$", "re:.*eh_proj$"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights_of}}, "kv_cache_scheme": None}


def scale_value(random, state):
    name = edited.pick(random, state.names(r"(weight_scale(_inv|_2)?|weight_global_scale)$"))
    if name is None or state.get(name)[0] not in weights.PLAIN:
        return None
    dtype, array = state.get(name)
    value = random.choice((np.nan, np.inf, -1.0, 0.0))
    array = array.copy()
    array.reshape(-1)[random.randrange(array.size)] = codecs.encode_as(dtype, np.array([value], np.float32))[0]
    state.put(name, dtype, array)
    return f"{name}: one value is {value}"


# ---- weights decoded in place --------------------------------------------------------------------------------------

def _unlist(state, module):
    quantization = state.quantization() or {}
    for key in ("ignored_layers", "modules_to_not_convert", "ignore"):
        if key in quantization:
            quantization[key] = list(quantization[key]) + [module]


def decoded(random, state):
    """Codes become BF16 in the stored row order; scales go or stay, the ignore list is kept or completed."""
    kind = random.choice(sorted(edited.KINDS) + ["one", "a layer"])
    modules = edited.quantized_modules(state)
    if kind == "one":
        modules = [edited.pick(random, modules)] if modules else []
    elif kind == "a layer":
        modules = [m for m in modules if m.startswith(f"model.layers.{random.choice((0, 1, 2))}.")]
    else:
        modules = [m for m in modules if re.search(edited.KINDS[kind], m + ".")]
    keep, listed, wanted, done = random.random() < 0.25, random.random() < 0.5, random.choice(("BF16", "BF16", "F16")), []
    values = {m: _stored_values(state, m) for m in modules}
    for module in modules:
        if values[module] is None or not np.isfinite(values[module]).all():
            continue
        name = module + (".weight" if state.has(module + ".weight") else ".weight_packed")
        file = state.file_of(name)
        state.remove(name)
        state.put(module + ".weight", wanted, codecs.encode_as(wanted, values[module]), file)
        for scale in [] if keep else weights.companions(state.tensors(), module):
            state.remove(scale)
        if listed:
            _unlist(state, module)
        done.append(module)
    return f"{edited.said(done)} decoded to {wanted}{', scales left' if keep else ''}{', listed' if listed else ''}" \
        if done else None


# ---- more tensors --------------------------------------------------------------------------------------------------

def kv_scales(random, state):
    prefixes = sorted({n[:n.index(".self_attn.") + 10] for n in state.names(r"^model\.layers\.\d+\.self_attn\.o_proj")})
    fused = bool(state.names(r"qkv_proj\.weight"))
    names = random.choice((("k_scale", "v_scale"), ("k_proj.k_scale", "v_proj.v_scale"),
                           ("qkv_proj.k_scale", "qkv_proj.v_scale") if fused else ("k_scale", "v_scale"), ("kv_scale",)))
    shape, layers = random.choice(((), (1,))), prefixes if random.random() < 0.7 else edited.some(random, prefixes)
    for number, at in enumerate(layers):
        for i, name in enumerate(names):
            if not state.has(f"{at}.{name}"):
                state.put(f"{at}.{name}", "F32", np.full(shape, 0.01 * (number + 1) + i, np.float32),
                          state.file_of(at + ".o_proj.weight"))
    if state.quantization() and random.random() < 0.5:
        state.quantization()["kv_cache_scheme"] = {"num_bits": 8, "type": "float", "dynamic": False}
    return f"{' and '.join(names)} in {len(layers)} layers" if layers else None


def unknown_tensor(random, state):
    name, shape = random.choice((("model.layers.1.self_attn.q_norm.weight", (192,)),
                                 ("model.layers.1.self_attn.o_proj.bias", (state.config["hidden_size"],)),
                                 ("model.layers.0.mlp.up_proj.lora_A.weight", (8, state.config["hidden_size"])),
                                 ("model.layers.1.mlp.shared_experts.up_proj.weight", (64, 64)), ("alpha", ())))
    if state.has(name):
        return None
    state.put(name, "BF16", np.full(shape, 0x3C00, np.uint16), sorted(state.files)[0])
    return f"{name} added"
