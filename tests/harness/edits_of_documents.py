"""Random edits of what stands beside the arrays: config.json, the index, and which file holds what.

An edit is a function of (random.Random, edited.State) that changes the state and says what it did, or returns None where
there is nothing for it to change.
"""
import fnmatch
import json

import numpy as np

from harness import edited


# ---- config keys ---------------------------------------------------------------------------------------------------

def config_key(random, state):
    heads = state.config["num_key_value_heads"]
    key, value = random.choice((
        ("num_nextn_predict_layers", 0), ("num_nextn_predict_layers", 1), ("num_nextn_predict_layers", 3),
        ("num_key_value_heads", heads * 2), ("num_key_value_heads", max(1, heads // 2)),
        ("swa_num_key_value_heads", 4), ("tie_word_embeddings", True), ("attention_projection_layout", None),
        ("attention_projection_layout", "fused_qkv"), ("attention_projection_layout", "split"),
        ("torch_dtype", "float16"), ("torch_dtype", "float32"), ("dtype", "bfloat16"), ("torch_dtype", None),
        ("hybrid_layer_pattern", [1] * 3), ("hybrid_layer_pattern", [0] * 3), ("hybrid_layer_pattern", [0, 1]),
        ("num_hidden_layers", 2), ("num_hidden_layers", 4), ("n_routed_experts", 1), ("n_routed_experts", 4),
        ("moe_layer_freq", [1, 1, 1]), ("vocab_size", 63), ("hidden_size", 256),
        ("add_swa_attention_sink_bias", False), ("num_attention_heads", 16)))
    if key in ("torch_dtype", "dtype"):
        state.config.pop("torch_dtype", None)
        state.config.pop("dtype", None)
    if state.config.get(key) == value:
        return None
    if value is None:
        state.config.pop(key, None)
    else:
        state.config[key] = value
    return f"config.json: {key} = {json.dumps(value)}"


def quantization_key(random, state):
    quantization = state.quantization()
    if quantization is None:
        state.config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
        return "config.json: a quantization_config added"
    what = random.choice(("gone", "gone", "weight_block_size", "no weight_block_size", "store_dtype", "scale_fmt",
                          "quant_method", "kv_cache_scheme", "kv_cache_scheme", "empty"))
    if what == "gone":
        del state.config["quantization_config"]
    elif what == "empty":
        state.config["quantization_config"] = {}
    elif what == "no weight_block_size":
        quantization.pop("weight_block_size", None)
    else:
        quantization[what] = {"weight_block_size": random.choice(([64, 128], [128, 64], [1, 128], [128])),
                              "store_dtype": random.choice(("mxfp4", "fp8", "bf16")), "scale_fmt": "ue8m0",
                              "quant_method": random.choice(("fp8", "modelopt", "compressed-tensors", "gptq")),
                              "kv_cache_scheme": {"num_bits": 8, "type": "float", "dynamic": False}}[what]
        return f"config.json: quantization_config.{what} = {json.dumps(quantization[what])}"
    return f"config.json: quantization_config: {what}"


def ignore_list(random, state):
    quantization = state.quantization() or {}
    key = next((k for k in ("ignored_layers", "ignore") if k in quantization), None)
    if key is None:
        return None
    names = list(quantization[key])
    how = random.choice(("shortened", "emptied", "extended", "patterned"))
    if how == "shortened" and names:
        names.remove(random.choice(names))
    elif how == "emptied":
        names = []
    elif how == "extended":
        module = random.choice([n[:n.rindex(".")] for n in state.names(r"_proj\.weight$")] + ["lm_head"])
        names.append(module)
        how += f" by {module}"
    else:
        pattern = random.choice(("re:.*o_proj$", "*o_proj", "model.layers.*.self_attn.o_proj", "o_proj"))
        names = [n for n in names if not fnmatch.fnmatchcase(n, "*o_proj")] + [pattern]
        how += f" as {pattern}"
    quantization[key] = names
    return f"config.json: {key} {how}"


# ---- files and the index -------------------------------------------------------------------------------------------

def moved(random, state):
    """A tensor in another file, the index right or wrong."""
    name, right = random.choice(state.names()), random.random() < 0.5
    target = random.choice(sorted(set(state.files) - {state.file_of(name)}) + ["model_extra.safetensors"])
    dtype, array = state.get(name)
    state.remove(name, from_index=False)
    state.put(name, dtype, array, target)
    if right:
        state.index["weight_map"][name] = target
    return f"{name} moved to {target}, the index {'right' if right else 'wrong'}"


def unindexed(random, state):
    names = edited.some(random, [n for n in state.names() if n in state.index["weight_map"]])
    for name in names:
        state.index["weight_map"].pop(name, None)
    return f"{edited.said(names)} not in the index" if names else None


def file_unindexed(random, state):
    file = random.choice(sorted(state.files))
    names = [n for n in state.files[file] if state.index["weight_map"].get(n) == file]
    for name in names:
        state.index["weight_map"].pop(name, None)
    return f"{file} not in the index" if names else None


def stale_file(random, state):
    """A file that the index does not name, with copies of tensors: equal, or of an older state."""
    names = edited.some(random, state.names(), 12)
    older, file = random.random() < 0.6, random.choice(("model.safetensors", "consolidated.00.safetensors"))
    for name in names:
        dtype, array = state.get(name)
        state.files.setdefault(file, {})[name] = (dtype, np.zeros_like(array) if older else array)
    state.changed.add(file)
    return f"{file} with {'older' if older else 'equal'} copies of {edited.said(names)}, not in the index"


def listed_twice(random, state):
    """A copy in another file that the index names for other tensors."""
    name, older = random.choice(state.names()), random.random() < 0.6
    others = sorted(set(state.files) - {state.file_of(name)})
    if not others:
        return None
    dtype, array = state.get(name)
    file = random.choice(others)
    state.files[file][name] = (dtype, np.zeros_like(array) if older else array)
    state.changed.add(file)
    return f"{'an older' if older else 'an equal'} copy of {name} in {file} too"


def index_metadata(random, state):
    metadata = state.index["metadata"]
    key, value = random.choice((("tp_size", None), ("tp_size", 1), ("tp_size", 2), ("tp_size", 4), ("tp_size", 8),
                                ("total_size", 12345), ("save_format", "bf16"), ("total_size", None)))
    if metadata.get(key) == value:
        return None
    if value is None:
        metadata.pop(key, None)
    else:
        metadata[key] = value
        if key == "total_size":
            state.total_size = value
    return f"index: metadata.{key} = {value}"


def index_name(random, state):
    """The index names a tensor or a file that is not there."""
    if random.random() < 0.5:
        state.index["weight_map"]["model.layers.0.mlp.shared.weight"] = random.choice(sorted(state.files))
        return "index: a tensor that no file holds"
    if not state.index["weight_map"]:
        return None
    name = random.choice(sorted(state.index["weight_map"]))
    state.index["weight_map"][name] = "model-00001-of-00009.safetensors"
    return f"index: {name} in a file that is not there"


def no_index(_, state):
    state.has_index = False
    return "no index"
