"""config.json, hf_quant_config.json and the index of a directory against its arrays.

disagreements(directory, meaning) -> [(id, text)]. `codec`: engines take codes for values, values for codes, or one codec
for another; `layout`, `count`, `index`: likewise in their matters; `dtype`, `tied`, `kv`: less than that.
"""
import re
from collections import Counter

import numpy as np

from judge import matching
from reference import layouts

LINEAR = re.compile(r"model\.(layers|mtp\.layers)\.\d+\.(self_attn\.(q|k|v|qkv|o)_proj|eh_proj"
                    r"|mlp\.(experts\.\d+\.)?(gate|up|down)_proj|mlp\.gate)$|lm_head$")
MTP = re.compile(r"model\.mtp\.layers\.(\d+)\.")
# What native lists need not name: no reader of these checkpoints quantizes a router or the head, and the releases leave
# o_proj and eh_proj of MTP layers out.
UNSAID = re.compile(r"lm_head$|.*\.mlp\.gate$|model\.mtp\..*(o_proj|eh_proj)$")
TYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


def disagreements(directory, meaning):
    config = directory.config
    found = _codecs(config.get("quantization_config"), directory.hf_quant, meaning)
    found += _layout(config, directory, meaning)
    found += _counts(config, meaning)
    found += _geometry(config, meaning)
    found += _index(directory)
    found += _types(config, directory, meaning)
    return found


def _codecs(quantization, hf_quant, meaning):
    found, native = [], (quantization or {}).get("quant_method") == "fp8"
    for module, stored in sorted(meaning.modules.items()):
        if not LINEAR.match(module) or stored.kind is None:
            continue
        said = matching.declared(quantization, module)
        if native and stored.kind == "plain" and UNSAID.match(module):
            continue
        if said != stored.kind:
            found.append(("codec", f"{module} is {stored.kind}, config.json says {said}"))
        if hf_quant is not None:
            said = matching.declared_by_hf_quant(hf_quant, module)
            if said != stored.kind:
                found.append(("codec", f"{module} is {stored.kind}, hf_quant_config.json says {said}"))
    if (quantization or {}).get("scale_fmt") == "ue8m0":
        for module, stored in meaning.modules.items():
            if stored.kind == "block" and (stored.scales.view(np.uint32) & 0x7FFFFF).any():
                found.append(("codec", f"{module}: scales that are no powers of two"))
    if hf_quant is not None and (quantization or {}).get("quant_method") != "modelopt":
        found.append(("codec", "hf_quant_config.json beside another quant_method"))
    return found + _kv(quantization, hf_quant, meaning)


def _kv(quantization, hf_quant, meaning):
    scheme = (quantization or {}).get("kv_cache_scheme") or ((hf_quant or {}).get("quantization") or {}).get(
        "kv_cache_quant_algo")
    stored = any(re.search(r"\.self_attn\.(k|v|kv)_scale$", name) for name in meaning.logical)
    if scheme and not stored:
        return [("kv", "kv_cache_scheme without scales")]
    return []


def _layout(config, directory, meaning):
    found = []
    fused = {m for m in meaning.modules if re.match(r"model\..*self_attn\.qkv_proj$", m)}
    split = {m for m in meaning.modules if re.match(r"model\..*self_attn\.q_proj$", m)}
    said = config.get("attention_projection_layout") or "split"
    for modules, word in ((fused, "fused_qkv"), (split, "split")):
        if modules and said != word:
            found.append(("layout", f"attention_projection_layout {said}, stored {sorted(modules)[0]}"))
    marker = config.get("mimo_layout") or {}
    if marker and marker.get("qkv") != ("fused" if fused else "split"):
        found.append(("layout", f"mimo_layout says {marker.get('qkv')}"))
    tp_size = directory.metadata.get("tp_size")
    if fused and marker and tp_size is not None and int(tp_size) != marker.get("chunks"):
        found.append(("layout", f"tp_size {tp_size}, mimo_layout {marker.get('chunks')} chunks"))
    return found


def _numbers(meaning, pattern):
    return {int(m.group(1)) for m in (re.match(pattern, name) for name in meaning.logical) if m}


def _counts(config, meaning):
    found = []
    layers = _numbers(meaning, r"model\.layers\.(\d+)\.")
    mtp = _numbers(meaning, r"model\.mtp\.layers\.(\d+)\.")
    if layers != set(range(config.get("num_hidden_layers") or 0)):
        found.append(("count", f"num_hidden_layers {config.get('num_hidden_layers')}, stored {sorted(layers)}"))
    for key in ("hybrid_layer_pattern", "moe_layer_freq"):
        if len(config.get(key) or ()) != len(layers):
            found.append(("count", f"{key} has {len(config.get(key) or ())} entries for {len(layers)} layers"))
    said = config.get("num_nextn_predict_layers")
    if said is not None and said != len(mtp):
        found.append(("mtp", f"num_nextn_predict_layers {said}, stored {len(mtp)}"))
    for layer, moe in zip(sorted(layers), config.get("moe_layer_freq") or ()):
        experts = _numbers(meaning, rf"model\.layers\.{layer}\.mlp\.experts\.(\d+)\.")
        if experts != set(range(config.get("n_routed_experts") or 0) if moe else ()):
            found.append(("count", f"layer {layer}: {len(experts)} experts, n_routed_experts"
                                   f" {config.get('n_routed_experts')}, moe_layer_freq {moe}"))
    return found


def _geometry(config, meaning):
    found, pattern = [], config.get("hybrid_layer_pattern") or []
    for name, value in meaning.logical.items():
        match = re.match(r"model\.(mtp\.)?layers\.(\d+)\.self_attn\.(q|k|v)_proj\.weight$", name)
        if not match:
            continue
        mtp, layer, letter = match.group(1), int(match.group(2)), match.group(3)
        window = bool(mtp) or (layer < len(pattern) and pattern[layer] == 1)
        start = "swa_" if window else ""
        heads = config.get(start + ("num_attention_heads" if letter == "q" else "num_key_value_heads")) or 0
        rows = heads * (layouts.V_HEAD_DIM if letter == "v" else layouts.HEAD_DIM)
        if value.values.shape[0] != rows:
            found.append(("count", f"{name} has {value.values.shape[0]} rows, config.json means {rows}"))
        sink = re.sub(r"(q|k|v)_proj\.weight", "attention_sink_bias", name)
        if letter == "q" and (sink in meaning.logical) != bool(
                config.get("add_swa_attention_sink_bias" if window else "add_full_attention_sink_bias")):
            found.append(("count", f"{sink}: config.json says otherwise"))
    embed, head = (meaning.logical.get(n) for n in ("model.embed_tokens.weight", "lm_head.weight"))
    if config.get("tie_word_embeddings") and head is not None and embed is not None and not np.array_equal(
            head.values, embed.values):
        found.append(("tied", "tie_word_embeddings, and a lm_head of its own"))
    if embed is not None and embed.values.shape != (config.get("vocab_size"), config.get("hidden_size")):
        found.append(("count", f"embeddings {embed.values.shape}"))
    return found


def _index(directory):
    if directory.index is None:
        return [("index", "several files and no index")] if len(directory.files) > 1 else []
    found = []
    for name, files in directory.holders.items():
        if len(files) > 1:
            found.append(("index", f"{name} is in {' and '.join(files)}"))
        if directory.weight_map.get(name) not in files:
            found.append(("index", f"{name} is in {files[0]}, the index says {directory.weight_map.get(name)}"))
    found += [("index", f"{name} is in no file") for name in directory.weight_map if name not in directory.holders]
    total = sum(array.nbytes for tensors in directory.files.values() for _, array in tensors.values())
    if directory.metadata.get("total_size", total) != total:
        found.append(("index", f"total_size {directory.metadata.get('total_size')}, stored {total}"))
    return found


def _types(config, directory, meaning):
    found, said = [], TYPES.get(config.get("torch_dtype") or config.get("dtype"))
    # Of the model's parameters, however they are stored: fused attention is three. The router has a type of its own.
    counts = Counter(value.dtype for name, value in meaning.logical.items() if value.kind == "plain"
                     and ".mlp.gate." not in name and name.startswith(("model.", "lm_head")))
    if said and counts and counts[said] < max(counts.values()):
        found.append(("dtype", f"declared {said}, stored {dict(counts)}"))
    kinds = {stored.kind for stored in meaning.modules.values()}
    saved = directory.metadata.get("save_format")
    if saved in ("fp8", "mxfp4") and ("mxfp4" in kinds) != (saved == "mxfp4"):
        found.append(("dtype", f"save_format {saved}, stored {sorted(map(str, kinds))}"))
    return found
