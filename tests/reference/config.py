"""config.json and index metadata of a generated checkpoint, field for field as the released ones have them."""
VISION = {"depth": 2, "fullatt_block_indexes": [0], "hidden_act": "silu", "hidden_size": 64, "in_chans": 3,
          "intermediate_size": 96, "num_heads": 2, "num_key_value_heads": 1, "num_query_groups": 1, "patch_size": 4,
          "spatial_merge_size": 2, "spatial_patch_size": 4, "temporal_patch_size": 2, "tokens_per_second": 2,
          "use_sink": True, "visual_token_window_size": 64, "vit_window_attn_types": [-1, 0], "window_size": 128}
# The string integers are Xiaomi's.
AUDIO = {"add_post_norm": True, "audio_channels": 2, "audio_segment_size": 6000, "group_size": 4,
         "input_full_attention": True, "input_local_attn_heads": 1, "input_local_dim": 64, "input_local_head_dim": 64,
         "input_local_hidden_dropout": 0.0, "input_local_intermediate_size": 96, "input_local_layers": 1,
         "partial_rotary_factor": 1.0, "projection_layers": 2, "rope_theta": 640000, "speech_vocab_size": "20",
         "speech_zeroemb_idx": "16"}


def config(spec):
    flash, new = spec.variant == "v2-flash", spec.variant == "v2.6"
    stem, name = ("mimo_v2_flash", "MiMoV2Flash") if flash else ("mimo_v2", "MiMoV2")
    layers = len(spec.pattern)
    result = {
        "architectures": [name + "ForCausalLM"],
        "auto_map": {"AutoConfig": f"configuration_{stem}.{name}Config",
                     "AutoModelForCausalLM": f"modeling_{stem}.{name}ForCausalLM"},
        "model_type": stem, "num_hidden_layers": layers, "hidden_size": spec.hidden, "vocab_size": spec.vocab,
        "num_attention_heads": spec.heads, "swa_num_attention_heads": spec.heads,
        "num_key_value_heads": spec.stored_kv[0], "swa_num_key_value_heads": spec.stored_kv[1],
        "head_dim": 192, "swa_head_dim": 192, "v_head_dim": 128, "swa_v_head_dim": 128,
        "hybrid_layer_pattern": spec.pattern, "moe_layer_freq": spec.moe,
        "intermediate_size": spec.intermediate, "moe_intermediate_size": spec.moe_intermediate,
        "n_routed_experts": spec.experts, "n_shared_experts": None, "num_experts_per_tok": min(8, spec.experts),
        "scoring_func": "sigmoid", "topk_method": "noaux_tc", "n_group": 1, "topk_group": 1, "norm_topk_prob": True,
        "routed_scaling_factor": None, "tie_word_embeddings": False, "attention_bias": False,
        "add_full_attention_sink_bias": False, "add_swa_attention_sink_bias": True, "attention_dropout": 0.0,
        "attention_value_scale": 0.612 if spec.variant == "v2.5-pro" else 0.707, "partial_rotary_factor": 0.334,
        "rope_theta": 5000000 if flash else 10000000, "swa_rope_theta": 10000, "sliding_window": 128,
        "sliding_window_size": 128, "attention_chunk_size": 128, "hidden_act": "silu",
        "layernorm_epsilon": 1e-06 if new else 1e-05, "max_position_embeddings": 262144 if flash else 1048576,
        "torch_dtype" if flash else "dtype": "bfloat16", "use_cache": True,
    }
    if spec.fused:
        result["attention_projection_layout"] = "fused_qkv"
    if new:
        result.update(moe_router_dtype="bfloat16", num_nextn_predict_layers=3)
    if spec.towers:
        result["vision_config"] = dict(VISION, out_hidden_size=spec.hidden)
        result["audio_config"] = dict(AUDIO, out_hidden_size=spec.hidden)
        result["processor_config"] = {"patch_size": VISION["patch_size"], "merge_size": 2}
    if not spec.dequantized:
        quantization = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
                        "weight_block_size": [128, 128]}
        quantization["ignored_layers"] = [f"model.layers.{n}.self_attn.o_proj" for n in range(layers)]
        quantization["ignored_layers"].append("model.decoder.self_attn.o_proj")
        if new:
            quantization.update(store_dtype="mxfp4", mxfp4_block_size=32)
        if spec.store == "ue8m0":
            quantization["scale_fmt"] = "ue8m0"
        result["quantization_config"] = quantization
    elif spec.store != "bf16":
        result["quantization_config"] = requantized(spec)
    return result


def requantized(spec):
    """quantization_config of a checkpoint whose routed experts alone are quantized, as the tools write it."""
    bits, group = (8, 32) if spec.store == "mxfp8" else (4, 16)
    weights = {"dynamic": False, "num_bits": bits, "type": "float", "group_size": group}
    ignore = ["lm_head", "model.mtp*"]
    for layer in range(len(spec.pattern)):
        ignore += [f"model.layers.{layer}.self_attn*", f"model.layers.{layer}.mlp.gate"]
    ignore += [f"model.layers.{n}.mlp.{x}_proj" for n,
               moe in enumerate(spec.moe) if not moe for x in ("gate", "up", "down")]
    if spec.store == "nvfp4-ct":
        weights.update(strategy="tensor_group", symmetric=True, scale_dtype="torch.float8_e4m3fn")
        return {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized",
                "config_groups": {"group_0": {"weights": weights, "targets": ["Linear"]}},
                "ignore": [name if "*" not in name else "re:" + name.replace(".", "\\.").replace("*", ".*")
                           for name in ignore], "quantization_status": "compressed"}
    return {"quant_method": "modelopt", "quant_algo": "MXFP8" if spec.store == "mxfp8" else "W4A16_NVFP4",
            "config_groups": {"group_0": {"weights": weights, "targets": ["Linear"]}}, "ignore": ignore,
            "producer": {"name": "modelopt", "version": "0.47.0"}}


def index_metadata(spec, total_size):
    result = {"total_size": total_size}
    if spec.variant != "plain":
        result["save_format"] = "bf16" if spec.dequantized else "mxfp4" if spec.variant == "v2.6" else "fp8"
    if spec.tp_size is not None:
        result["tp_size"] = spec.tp_size
    return result
