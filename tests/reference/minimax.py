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
    return codecs.e4m3_encode(np.clip(wanted, -448, 448).astype(F)), scales


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
