"""Small checkpoints of the MiniMax-M2 family in numpy, written from docs/reference/minimax-checkpoints.md.

make_checkpoint() writes config.json, tensor files counted from 0 under a total that is too large, and an index, and
returns what is stored; values() is what a weight stands for, one float32 product per element. Scales differ from block to
block and are no powers of two; Q, K and V, and gate and up, are of different magnitude; every head's norm has a mean of
its own, so that a head in another's place shows.
"""
import json
import os

import numpy as np

from reference import codecs, container

F = np.float32
BLOCK = 128


def _fp8(rng, rows, cols, magnitude):
    """Codes and the scales of their blocks, ceil(rows / 128) by ceil(cols / 128)."""
    shape = (-(-rows // BLOCK), -(-cols // BLOCK))
    scales = (magnitude / 448 * rng.uniform(0.5, 8, shape)).astype(F)
    wanted = rng.standard_normal((rows, cols)) * 100 * rng.uniform(0.5, 1.5, (rows, 1))
    return codecs.e4m3_encode(np.clip(wanted, -400, 400).astype(F)), scales    # a step more is no NaN


def _norm(rng, heads, each):
    means = 0.5 + rng.permutation(heads) / heads
    return codecs.bf16_from_f32((means[:, None] + 0.01 * rng.standard_normal((heads, each))).astype(F).ravel())


def tensors_of(seed=0, layers=2, hidden=256, experts=4, heads=16, kv_heads=4, head_dim=128, intermediate=256, vocab=320,
               quantized=True):
    """-> {name: (dtype, array)}"""
    rng = np.random.default_rng(seed)
    out = {}

    def linear(name, rows, cols, magnitude):
        if quantized:
            codes, scales = _fp8(rng, rows, cols, magnitude)
            out[name], out[name + "_scale_inv"] = ("F8_E4M3", codes), ("F32", scales)
        else:
            out[name] = ("BF16", codecs.bf16_from_f32((magnitude * rng.standard_normal((rows, cols))).astype(F)))

    def values(name, dtype, array):
        out[name] = (dtype, codecs.encode_as(dtype, array.astype(F)))

    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        values(name, "BF16", 0.02 * rng.standard_normal((vocab, hidden)))
    out["model.norm.weight"] = ("BF16", _norm(rng, 1, hidden))
    for layer in range(layers):
        at = f"model.layers.{layer}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            out[f"{at}{name}.weight"] = ("BF16", _norm(rng, 1, hidden))
        for letter, count, magnitude in (("q", heads, 0.03), ("k", kv_heads, 0.3), ("v", kv_heads, 0.004)):
            linear(f"{at}self_attn.{letter}_proj.weight", count * head_dim, hidden, magnitude)
        linear(f"{at}self_attn.o_proj.weight", hidden, heads * head_dim, 0.05)
        out[f"{at}self_attn.q_norm.weight"] = ("BF16", _norm(rng, heads, head_dim))
        out[f"{at}self_attn.k_norm.weight"] = ("BF16", _norm(rng, kv_heads, head_dim))
        values(f"{at}block_sparse_moe.gate.weight", "F32", 0.02 * rng.standard_normal((experts, hidden)))
        values(f"{at}block_sparse_moe.e_score_correction_bias", "F32", 8.5 + 0.01 * rng.standard_normal(experts))
        for expert in range(experts):
            for name, rows, cols, magnitude in (("w1", intermediate, hidden, 0.02), ("w3", intermediate, hidden, 0.2),
                                                ("w2", hidden, intermediate, 0.006)):
                linear(f"{at}block_sparse_moe.experts.{expert}.{name}.weight", rows, cols, magnitude)
    return out


def config_of(layers=2, hidden=256, experts=4, heads=16, kv_heads=4, head_dim=128, intermediate=256, vocab=320,
              quantized=True):
    config = {
        "architectures": ["MiniMaxM2ForCausalLM"], "attn_type_list": [1] * layers, "head_dim": head_dim,
        "hidden_act": "silu", "hidden_size": hidden, "intermediate_size": intermediate,
        "max_position_embeddings": 196608, "model_type": "minimax_m2", "mtp_transformer_layers": 1,
        "num_attention_heads": heads, "num_experts_per_tok": min(8, experts), "num_hidden_layers": layers,
        "num_key_value_heads": kv_heads, "num_local_experts": experts, "num_mtp_modules": 3,
        "qk_norm_type": "per_layer", "rms_norm_eps": 1e-06, "rope_theta": 5000000, "rotary_dim": head_dim // 2,
        "scoring_func": "sigmoid", "shared_intermediate_size": 0, "tie_word_embeddings": False, "use_mtp": True,
        "use_qk_norm": True, "use_routing_bias": True, "vocab_size": vocab,
        "auto_map": {"AutoConfig": "configuration_minimax_m2.MiniMaxM2Config"}}
    if quantized:
        config["quantization_config"] = {
            "activation_scheme": "dynamic", "fmt": "float8_e4m3fn", "quant_method": "fp8",
            "weight_block_size": [BLOCK, BLOCK],
            "modules_to_not_convert": ["gate", "e_score_correction_bias", "lm_head"]}
    else:
        config["torch_dtype"] = "bfloat16"
    return config


def write(directory, tensors, config, files=3):
    """Tensors by name in files of about equal count; a weight and its scales part where a file ends."""
    os.makedirs(directory)
    names, where = sorted(tensors), {}
    for i in range(files):
        part = names[i * len(names) // files:(i + 1) * len(names) // files]
        file = f"model-{i:05d}-of-{files + 5:05d}.safetensors"
        container.write(os.path.join(directory, file), {n: tensors[n] for n in part}, {"format": "pt"})
        where.update(dict.fromkeys(part, file))
    total = sum(array.nbytes for _, array in tensors.values())
    documents = {"config.json": config, "generation_config.json": {"top_k": 40},
                 "model.safetensors.index.json": {"metadata": {"total_size": total}, "weight_map": where}}
    for name, document in documents.items():
        with open(os.path.join(directory, name), "w") as f:
            json.dump(document, f, indent=2)
    with open(os.path.join(directory, "configuration_minimax_m2.py"), "w") as f:
        f.write("# stands for the model's code\n")


def make_checkpoint(directory, seed=0, **size):
    """-> {name: (dtype, array)} of what was written. `size`: see tensors_of."""
    tensors = tensors_of(seed, **size)
    write(directory, tensors, config_of(**size))
    return tensors


def values(tensors, name):
    """float32, of a weight, quantized or not."""
    dtype, array = tensors[name]
    if dtype != "F8_E4M3":
        return codecs.decode_plain(dtype, array)
    return codecs.decode_fp8(array, tensors[name + "_scale_inv"][1], np.arange(array.shape[0]) // BLOCK)


def decoded(tensors, dtype="BF16"):
    """What a checkpoint of plain values holds: everything quantized in `dtype`, everything else as it is."""
    return {name: (dtype, codecs.encode_as(dtype, values(tensors, name))) if kind == "F8_E4M3" else (kind, array)
            for name, (kind, array) in tensors.items() if not name.endswith("_scale_inv")}


# ---- ranks of vLLM 0.33.0 (docs/reference/minimax-checkpoints.md, section 5; docs/engines.md) --------------------------

VOCAB_MULTIPLE = 64
STACKED = (("qkv_proj", ("q_proj", "k_proj", "v_proj")), ("o_proj", ("o_proj",)))
EXPERT_STACKS = (("w13", ("w1", "w3")), ("w2", ("w2",)))
PARTS = ("weight", "weight_scale_inv", "weight_scale", "weight_scale_2", "input_scale")
SCALARS = ("weight_scale_2", "input_scale")


def rank_heads(heads, tp, rank):
    """The heads of a rank, by number; one that others have too where there are more ranks than heads."""
    return range(rank * heads // tp, rank * heads // tp + max(heads // tp, 1))


def rank_state(tensors, config, tp, rank, ep=1):
    """-> {name: (dtype, array)}: what vLLM's model of a rank holds of these tensors, constants left out. Works for any
    codec whose rows are whole: rows per head and columns per rank follow from each array's own shape."""
    heads, kv, experts = (config[k] for k in ("num_attention_heads", "num_key_value_heads", "num_local_experts"))
    held = {"q_proj": (heads, rank_heads(heads, tp, rank)), "k_proj": (kv, rank_heads(kv, tp, rank)),
            "v_proj": (kv, rank_heads(kv, tp, rank)), "q_norm": (heads, rank_heads(heads, tp, rank)),
            "k_norm": (kv, rank_heads(kv, tp, rank))}
    out = {}

    def by_heads(name, array):
        count, mine = held[name]
        assert array.shape[0] % count == 0, name
        each = array.shape[0] // count
        return np.concatenate([array[h * each:(h + 1) * each] for h in mine])

    def share(array, axis, of):
        assert array.shape[axis] % of == 0, array.shape
        each = array.shape[axis] // of
        return np.take(array, range(rank * each, (rank + 1) * each) if of > 1 else range(each), axis)

    def vocabulary(name):
        dtype, array = tensors[name]
        padded = -(-array.shape[0] // VOCAB_MULTIPLE) * VOCAB_MULTIPLE
        out[name] = (dtype, share(np.pad(array, [(0, padded - array.shape[0]), (0, 0)]), 0, tp))

    vocabulary("model.embed_tokens.weight")
    vocabulary("lm_head.weight")
    out["model.norm.weight"] = tensors["model.norm.weight"]
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        for name in ("input_layernorm.weight", "post_attention_layernorm.weight"):
            out[at + name] = tensors[at + name]
        for name in ("block_sparse_moe.gate.weight", "block_sparse_moe.e_score_correction_bias"):
            out[at + name] = ("F32", codecs.decode_plain(*tensors[at + name]))
        for name in ("q_norm", "k_norm"):
            dtype, array = tensors[f"{at}self_attn.{name}.weight"]
            out[f"{at}self_attn.{name}.weight"] = (dtype, by_heads(name, array))
        for stack, members in STACKED:
            for part in PARTS:
                found = [tensors[n] for n in (f"{at}self_attn.{m}.{part}" for m in members) if n in tensors]
                if not found:
                    continue
                if part in SCALARS:
                    arrays = [np.reshape(a, 1) for _, a in found]
                elif stack == "o_proj":
                    arrays = [share(a, 1, tp) for _, a in found]
                else:
                    arrays = [by_heads(m, a) for m, (_, a) in zip(members, found)]
                out[f"{at}self_attn.{stack}.{part}"] = (found[0][0], np.concatenate(arrays))
        local = range(rank * experts // ep, (rank + 1) * experts // ep) if ep > 1 else range(experts)
        for stack, members in EXPERT_STACKS:
            for part in PARTS:
                rows, dtype = [], None
                for expert in local:
                    names = [f"{at}block_sparse_moe.experts.{expert}.{m}.{part}" for m in members]
                    if names[0] not in tensors:
                        continue
                    dtype = tensors[names[0]][0]
                    found = [tensors[n][1] for n in names]
                    if part in SCALARS:
                        rows.append(np.array([np.reshape(a, ()) for a in found]) if len(found) > 1
                                    else np.reshape(found[0], ()))
                    else:
                        axis = 0 if stack == "w13" else 1
                        rows.append(np.concatenate([share(a, axis, 1 if ep > 1 else tp) for a in found]))
                if rows:
                    out[f"{at}block_sparse_moe.experts.routed_experts.{stack}_{part}"] = (dtype, np.stack(rows))
    return out


def rank_constants(layers, cache_scales):
    """What a rank holds that no checkpoint has."""
    out = {}
    for layer in range(layers):
        at = f"model.layers.{layer}.self_attn.attn."
        for name in ("q", "k", "v", "prob"):
            out[f"{at}_{name}_scale"] = ("F32", np.ones((), F))
            if cache_scales:
                out[f"{at}{name}_scale"] = ("BF16", np.array(0xBF80, np.uint16))
    return out


def padded(tensors, config, intermediate=None, vocab=None):
    """The same model with zeros behind what there was: experts of `intermediate` rows, under scales of one; `vocab` rows
    of embedding and output layer."""
    was, out = config["intermediate_size"], {}
    for name, (dtype, array) in tensors.items():
        if intermediate and ".experts." in name:
            scale = name.endswith("_scale_inv")
            more = (intermediate - was) // (BLOCK if scale else 1)
            assert not scale or (was % BLOCK == 0 and intermediate % BLOCK == 0)
            side = (0, 0) if array.ndim != 2 else ((0, 0), (0, more)) if ".w2." in name else ((0, more), (0, 0))
            array = np.pad(array, side, constant_values=1 if scale else 0)
        elif vocab and name in ("model.embed_tokens.weight", "lm_head.weight"):
            array = np.pad(array, ((0, vocab - array.shape[0]), (0, 0)))
        out[name] = (dtype, array)
    return out
