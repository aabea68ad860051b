"""The engines' own models of MiMo-V2 and MiniMax-M2 on the CPU: real classes, parameters and loaders out of the wheels,
no kernels.

vLLM: MiMoV2ForCausalLM, MiMoV2MTP and MiniMaxM2ForCausalLM with their linear layers, expert container, quantization
methods and loaders. SGLang: the attention layers with their QKV linear and the functions that load them.
What is stubbed chooses or runs kernels, routes tokens or talks to other ranks. Call require() first; one engine per
process or both, each installed once.
"""
import collections
import glob
import importlib
import json
import os
import re
import types
from types import SimpleNamespace

from harness import engine_stub

PARALLEL = SimpleNamespace(tp=1, rank=0, config=None)


def read(directory):
    """name -> tensor of all top-level files, as the loaders offer them: file by file, names sorted."""
    from safetensors.torch import load_file
    for file in sorted(glob.glob(os.path.join(directory, "*.safetensors"))):
        yield from sorted(load_file(file).items())


def as_bf16(values):
    """float32 values rounded to BF16 by torch."""
    import torch
    return torch.from_numpy(values.copy()).bfloat16().float().numpy()


class Platform:
    """current_platform of vLLM: the CPU, and no to every other question."""

    def is_cpu(self):
        return True

    def fp8_dtype(self):
        import torch
        return torch.float8_e4m3fn

    def __getattr__(self, name):
        return lambda *args, **kwargs: False


def divide(a, b):
    assert a % b == 0, f"{a} is not divisible by {b}"
    return a // b


def _vllm_stubs():
    import torch
    engine_stub.install("vllm", "all")
    provide, package = engine_stub.provide, "vllm.model_executor.layers."

    class Module(torch.nn.Module):
        @classmethod
        def register(cls, name):
            return lambda made: made

    class RMSNorm(torch.nn.Module):
        def __init__(self, size, eps):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(size))

    class Eplb:
        @staticmethod
        def build_initial_global_physical_to_logical_map(experts, redundant):
            return list(range(experts))

    def group():
        return SimpleNamespace(world_size=PARALLEL.tp, rank_in_group=PARALLEL.rank,
                               device_group=SimpleNamespace(size=lambda: PARALLEL.tp))

    alone = SimpleNamespace(world_size=1, rank_in_group=0, is_first_rank=True, is_last_rank=True)
    provide("vllm.distributed", get_tensor_model_parallel_rank=lambda: PARALLEL.rank, divide=divide,
            get_tensor_model_parallel_world_size=lambda: PARALLEL.tp, get_pp_group=lambda: alone, get_tp_group=group,
            get_ep_group=group, get_dp_group=lambda: alone, get_pcp_group=lambda: alone,
            get_pipeline_model_parallel_rank=lambda: 0)
    provide("vllm.distributed.parallel_state", get_tensor_model_parallel_rank=lambda: PARALLEL.rank,
            get_tensor_model_parallel_world_size=lambda: PARALLEL.tp, get_pp_group=lambda: alone)
    provide("vllm.distributed.utils", get_pp_indices=lambda layers, rank, size: (0, layers))
    provide("vllm.distributed.eplb.eplb_state", EplbState=Eplb)
    provide("vllm.platforms", current_platform=Platform())
    provide("vllm.config", get_current_vllm_config=lambda: PARALLEL.config,
            get_current_vllm_config_or_none=lambda: PARALLEL.config,
            str_dtype_to_torch_dtype=lambda name: getattr(torch, name))
    provide("vllm.utils.import_utils", PlaceholderModule=lambda name: engine_stub.Nothing())
    provide("vllm.model_executor.custom_op", PluggableLayer=Module, CustomOp=Module)
    provide("vllm.model_executor.offloader", get_offloader=lambda: SimpleNamespace(wrap_modules=list))
    provide(package + "layernorm", RMSNorm=RMSNorm)
    provide(package + "fused_moe.all2all_utils", maybe_roundup_layer_hidden_size=lambda hidden, *args: hidden)
    provide(package + "fused_moe.expert_substitution", make_expert_substitution=lambda *args: None)
    engine_stub.reexport(package + "minimax_rms_norm", rms_norm_tp="MiniMaxText01RMSNormTP")
    engine_stub.reexport(package + "quantization",
                         base_config="resolve_quant_method QuantizationConfig QuantizeMethodBase")
    engine_stub.reexport(
        package + "fused_moe", layer="FusedMoEFactory fused_moe_make_expert_params_mapping", config="FusedMoEConfig",
        routed_experts="RoutedExperts FusedMoeWeightScaleSupported", fused_moe_method_base="FusedMoEMethodBase",
        unquantized_fused_moe_method="UnquantizedFusedMoEMethod", activation="MoEActivation")
    router = importlib.import_module(package + "fused_moe.router.fused_moe_router").FusedMoERouter
    made = types.new_class("Router", (router,), {}, lambda space: space.update(
        kernel_routing_method_type=None, supports_monolithic_kernels=True))
    made.__abstractmethods__ = frozenset()
    provide(package + "fused_moe.router.router_factory", create_fused_moe_router=lambda **kwargs: made())
    attention = importlib.import_module(package + "attention.attention")

    class Attention(attention.Attention):
        """Its scales and nothing else."""

        def __init__(self, *args, quant_config=None, prefix="", **kwargs):
            torch.nn.Module.__init__(self)
            self.kv_cache_dtype = "auto"
            attention._init_kv_cache_quant(self, quant_config, prefix)

    provide(package + "attention", Attention=Attention)
    fp8 = importlib.import_module(package + "quantization.fp8")
    fp8.select_fp8_moe_backend = lambda **kwargs: (None, None)
    plain = importlib.import_module(package + "fused_moe.unquantized_fused_moe_method")
    plain.select_unquantized_moe_backend = lambda **kwargs: (None, None)
    plain.unquantized_round_up_hidden_size_and_intermediate_size = lambda backend, hidden, width: (hidden, width)
    mxfp4 = importlib.import_module(package + "quantization.mxfp4")
    mxfp4.select_deepseek_v4_mxfp4_moe_backend = lambda moe: (None, None)
    mxfp4.mxfp4_round_up_hidden_size_and_intermediate_size = lambda backend, hidden, width, **kwargs: (hidden, width)
    return fp8, _modelopt()


def _modelopt():
    """vLLM's ModelOpt classes; what chooses their kernels is not there."""
    import torch
    provide, package = engine_stub.provide, "vllm.model_executor.layers."
    provide("vllm.config.quantization", QuantSpec=collections.namedtuple("QuantSpec", "weight activation"))
    provide(package + "quantization.utils.mxfp8_utils", MXFP8_BLOCK_SIZE=32, MXFP8_VALUE_DTYPE=torch.float8_e4m3fn,
            MXFP8_SCALE_DTYPE=torch.uint8)
    provide(package + "fused_moe.oracle.nvfp4", select_nvfp4_moe_backend=lambda **kwargs: (None, None),
            is_global_sf_supported_for_nvfp4_backend=lambda backend: False)
    provide(package + "fused_moe.oracle.mxfp8", select_mxfp8_moe_backend=lambda **kwargs: (None, None))
    modelopt = importlib.import_module(package + "quantization.modelopt")
    modelopt.select_linear_kernel = lambda *args, **kwargs: SimpleNamespace(supports_pre_processed_weights=False)
    return modelopt


class Vllm:
    name = "vllm"
    _made = None

    def __new__(cls):
        if cls._made is None:
            cls._made = super().__new__(cls)
            cls._made.fp8, cls._made.modelopt = _vllm_stubs()
            cls._made.source = importlib.import_module("vllm.model_executor.models.mimo_v2")
            cls._made.drafter = importlib.import_module("vllm.model_executor.models.mimo_v2_mtp")
            cls._made.minimax = importlib.import_module("vllm.model_executor.models.minimax_m2")
            cls._made.sharded = importlib.import_module("vllm.model_executor.model_loader.sharded_state_loader")
        return cls._made

    def parser(self, quantization):
        """Whoever takes this config."""
        base = self.modelopt.ModelOptQuantConfigBase
        found = [c for c in vars(self.modelopt).values() if isinstance(c, type) and issubclass(c, base) and c is not base
                 and c.override_quantization_method(quantization, None)]
        assert len(found) <= 1, found
        return found[0] if found else self.fp8.Fp8Config

    def build(self, directory, tp, rank, ep=1, drafter=False):
        """The model that a rank builds for config.json, before anything is loaded."""
        import torch
        with open(os.path.join(directory, "config.json"), encoding="utf-8") as f:
            fields = json.load(f)
        config = SimpleNamespace(**fields)
        config.get_text_config = lambda: config
        name = fields["architectures"][0]
        source = self.minimax if hasattr(self.minimax, name) else self.source
        made_by = self.drafter.MiMoV2MTP if drafter else getattr(source, name)
        if source is self.minimax and not hasattr(config, "rope_parameters"):
            config.rope_parameters = {"rope_type": "default", "rope_theta": config.rope_theta}  # as transformers has it
        quantization = None
        if fields.get("quantization_config"):
            quantization = self.parser(fields["quantization_config"]).from_config(
                {**fields["quantization_config"], "_online_quantization_args": None})
            quantization.online_quantization_config = None
            quantization.packed_modules_mapping = getattr(made_by, "packed_modules_mapping", {})
        parallel = SimpleNamespace(use_sequence_parallel_moe=False, enable_eplb=False, enable_expert_parallel=ep > 1,
                                   eplb_config=SimpleNamespace(num_redundant_experts=0), enable_dbo=False,
                                   expert_placement_strategy="linear", elastic_ep_max_dp_size=None,
                                   all2all_backend="none", tensor_parallel_size=tp, data_parallel_size=1)
        PARALLEL.tp, PARALLEL.rank = tp, rank
        PARALLEL.config = SimpleNamespace(
            model_config=SimpleNamespace(hf_config=config, hf_text_config=config, dtype=torch.bfloat16,
                                         model=directory, model_weights=None),
            parallel_config=parallel, quant_config=quantization, cache_config=SimpleNamespace(sliding_window=None),
            attention_config=SimpleNamespace(backend=None), speculative_config=SimpleNamespace(),
            scheduler_config=SimpleNamespace(max_num_batched_tokens=64), lora_config=None,
            kernel_config=SimpleNamespace(moe_backend="auto", linear_backend="auto"),
            device_config=SimpleNamespace(device="cpu"),
            compilation_config=SimpleNamespace(max_cudagraph_capture_size=1, static_forward_context={},
                                               static_all_moe_layers=[]))
        torch.set_default_dtype(torch.bfloat16)                # as the engine does around construction
        try:
            return made_by(vllm_config=PARALLEL.config)
        finally:
            torch.set_default_dtype(torch.float32)

    def load(self, directory, tp, rank, **options):
        model = self.build(directory, tp, rank, **options)
        model.load_weights(read(directory))
        return model

    def load_ranks(self, directory, tp, rank, ep=1):
        """What --load-format sharded_state makes of a directory."""
        model = self.build(directory, tp, rank, ep)
        options = SimpleNamespace(model_loader_extra_config=None, load_format="sharded_state")
        loader = self.sharded.ShardedStateLoader(options)
        loader.load_config = options
        loader.load_weights(model, PARALLEL.config.model_config)
        return model

    def state(self, model):
        """{name: tensor} that sharded_state stores."""
        return self.sharded.ShardedStateLoader._filter_subtensors(model.state_dict())

    def split(self, attention, rows):
        """[rows of qkv_proj, ...] -> those of Q, K and V, as forward() cuts the projection."""
        parts = self.source._split_qkv(rows.T, attention.q_size, attention.k_size, attention.v_size,
                                       attention.kv_chunk_rows)
        return [part.T for part in parts]


# ---- SGLang --------------------------------------------------------------------------------------------------------

def _sglang_stubs():
    import dataclasses
    import sys

    engine_stub.install("sglang", "all")
    provide = engine_stub.provide

    class Struct:
        """msgspec.Struct, which holds the number of a rank."""

        def __init_subclass__(cls, **kwargs):
            dataclasses.dataclass(cls)

    sys.modules.setdefault("msgspec", types.ModuleType("msgspec")).Struct = Struct

    def parallel():
        group = SimpleNamespace(rank_in_group=PARALLEL.rank, world_size=PARALLEL.tp)
        return SimpleNamespace(tp_group=group, attn_tp_group=group, tp_size=PARALLEL.tp, attn_tp_size=PARALLEL.tp,
                               tp_rank=PARALLEL.rank, attn_tp_rank=PARALLEL.rank)

    def set_weight_attrs(weight, attributes):
        for name, value in (attributes or {}).items():
            setattr(weight, name, value)

    def layer_id(name):
        found = re.search(r"layers\.(\d+)\.", name)
        return int(found.group(1)) if found else None

    provide("sglang.srt.layers.utils", get_layer_id=layer_id)
    provide("sglang.srt.runtime_context", get_parallel=parallel)
    provide("sglang.srt.distributed", divide=divide)
    provide("sglang.srt.utils.hf_transformers_utils", get_rope_config=lambda config: (config.rope_theta, None))
    provide("sglang.srt.lora.layers", unwrap_lora_layer=lambda layer: layer)
    provide("sglang.srt.utils", set_weight_attrs=set_weight_attrs, ceil_align=lambda a, b: -(-a // b) * b,
            add_prefix=lambda name, prefix: f"{prefix}.{name}" if prefix else name)


class Sglang:
    name = "sglang"
    _made = None

    def __new__(cls):
        if cls._made is None:
            cls._made = super().__new__(cls)
            _sglang_stubs()
            cls._made.fp8 = importlib.import_module("sglang.srt.layers.quantization.fp8")
            cls._made.source = importlib.import_module("sglang.srt.models.mimo_v2")
            cls._made.drafter = importlib.import_module("sglang.srt.models.mimo_v2_nextn")
            cls._made.minimax = importlib.import_module("sglang.srt.models.minimax_m2")
        return cls._made

    def _attention(self, config, quantization, window, prefix):
        start = "swa_" if window else ""
        return self.source.MiMoV2Attention(
            hidden_size=config.hidden_size, num_heads=getattr(config, start + "num_attention_heads"),
            num_kv_heads=getattr(config, start + "num_key_value_heads"), head_dim=getattr(config, start + "head_dim"),
            v_head_dim=getattr(config, start + "v_head_dim"), quant_config=quantization,
            attention_sink_bias=window and config.add_swa_attention_sink_bias, prefix=prefix)

    def load(self, directory, tp, rank, drafter=False):
        """A model of attention layers and dense MLPs alone: its own load_weights fills it and passes over the rest."""
        import torch
        from torch import nn
        with open(os.path.join(directory, "config.json"), encoding="utf-8") as f:
            config = SimpleNamespace(**json.load(f), encoder_only=False)
        quantization = None
        if getattr(config, "quantization_config", None):
            quantization = self.fp8.Fp8Config.from_config(dict(config.quantization_config))
        made_by = self.drafter.MiMoV2MTP if drafter else self.source.MiMoV2ForCausalLM
        PARALLEL.tp, PARALLEL.rank = tp, rank
        model = made_by.__new__(made_by)
        nn.Module.__init__(model)
        model.config, model._is_multimodal = config, False
        model.model = nn.Module()
        torch.set_default_dtype(torch.bfloat16)
        try:
            def layer(window, dense, prefix):
                made = nn.Module()
                made.self_attn = self._attention(config, quantization, window, prefix + ".self_attn")
                if dense:
                    made.mlp = self.source.MiMoV2MLP(config.hidden_size, config.intermediate_size, "silu", quantization,
                                                     prefix=prefix + ".mlp")
                return made

            if drafter:
                model.model.mtp_block = layer(True, True, "model.decoder")      # as MiMoV2ModelNextN calls it
            else:
                model.model.start_layer, model.model.end_layer = 0, config.num_hidden_layers
                model.model.layers = nn.ModuleList(
                    layer(bool(window), not moe, f"model.layers.{n}") for n, (window, moe) in
                    enumerate(zip(config.hybrid_layer_pattern, config.moe_layer_freq)))
        finally:
            torch.set_default_dtype(torch.float32)
        weights = ((n, t) for n, t in read(directory) if ".experts." not in n and ".gate." not in n)
        if drafter:                                   # the loader passes on one layer, for draft_model_idx
            weights = ((n, t) for n, t in weights if n.startswith("model.mtp.layers.0."))
        model.load_weights(weights)
        return model

    def load_minimax(self, directory, tp, rank):
        """The same of MiniMax-M2: attention with its norms."""
        import torch
        from torch import nn
        with open(os.path.join(directory, "config.json"), encoding="utf-8") as f:
            config = SimpleNamespace(**json.load(f))
        quantization = None
        if getattr(config, "quantization_config", None):
            quantization = self.fp8.Fp8Config.from_config(dict(config.quantization_config))
        PARALLEL.tp, PARALLEL.rank = tp, rank
        model = self.minimax.MiniMaxM2ForCausalLM.__new__(self.minimax.MiniMaxM2ForCausalLM)
        nn.Module.__init__(model)
        model.config, model.model = config, nn.Module()
        model.model.start_layer, model.model.end_layer = 0, config.num_hidden_layers
        model.model.layers = nn.ModuleList()
        torch.set_default_dtype(torch.bfloat16)
        try:
            for n in range(config.num_hidden_layers):
                layer = nn.Module()
                layer.self_attn = self.minimax.MiniMaxM2Attention(config, n, quantization, f"model.layers.{n}.self_attn")
                model.model.layers.append(layer)
        finally:
            torch.set_default_dtype(torch.float32)
        model.load_weights((n, t) for n, t in read(directory) if ".self_attn." in n)
        return model

    @staticmethod
    def split(attention, rows):
        return list(rows.split([attention.q_size, attention.k_size, attention.v_size]))
