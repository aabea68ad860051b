"""Checkpoints that other libraries write: transformers' own MiMoV2Flash and its save_pretrained, nvidia-modelopt's
quantize and export_hf_checkpoint, compressed-tensors' quantization and ModelCompressor. All from a directory of split
BF16 weights, on the CPU; each library names its arrays and writes its config itself.

Functions import what they need: callers ask harness.peers.require() first.
"""
import contextlib
import io
import json
import logging
import os
import shutil
import warnings

from reference import container

# Tokens to calibrate on: input scales come of them, weights do not.
TOKENS = 64


@contextlib.contextmanager
def quiet():
    """Without progress bars and advice of the libraries."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), \
                contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def linears(names):
    """Modules that are linear layers: what packages look for as torch.nn.Linear."""
    return {n[:-len(".weight")] for n in names if n.endswith("_proj.weight") or n == "lm_head.weight"}


def read(directory):
    """{name: tensor}, by the safetensors package."""
    from safetensors.torch import load_file
    state = {}
    for file in container.tensor_files(directory):
        state.update(load_file(os.path.join(directory, file)))
    return state


# ---- transformers --------------------------------------------------------------------------------------------------

def transformers_model(source):
    """MiMoV2FlashForCausalLM as from_pretrained() makes it: experts in stacks, without MTP layers."""
    from transformers import MiMoV2FlashForCausalLM
    with quiet():
        return MiMoV2FlashForCausalLM.from_pretrained(source, dtype="auto").eval()


def save_pretrained(model, out, **options):
    with quiet():
        model.save_pretrained(out, **options)
    return out


# ---- ModelOpt ------------------------------------------------------------------------------------------------------

def modelopt_export(source, out, preset):
    """mtq.quantize under a preset of the package, calibrated on a few tokens, and export_hf_checkpoint."""
    import torch
    with quiet():
        import modelopt.torch.quantization as mtq
        from modelopt.torch.export import export_hf_checkpoint
    model = transformers_model(source)
    with quiet(), torch.no_grad():
        tokens = torch.arange(TOKENS)[None] % model.config.vocab_size
        model = mtq.quantize(model, getattr(mtq, preset), lambda m: m(tokens))
        export_hf_checkpoint(model, export_dir=out)
    return out


# ---- compressed-tensors --------------------------------------------------------------------------------------------

def module_tree(state):
    """A torch module with a Linear for every linear layer, under the names of the checkpoint: one per expert, as the
    package wants them."""
    import torch
    root, matrices = torch.nn.Module(), linears(state)
    for name, tensor in state.items():
        *path, last = name.split(".")
        at = root
        for depth, part in enumerate(path):
            if part not in at._modules:
                linear = depth + 1 == len(path) and ".".join(path) in matrices
                at.add_module(part, torch.nn.Linear(tensor.shape[1], tensor.shape[0], bias=False, dtype=tensor.dtype)
                              if linear else torch.nn.Module())
            at = at._modules[part]
        at.register_parameter(last, torch.nn.Parameter(tensor, requires_grad=False))
    return root


def shared_global(name):
    """Modules that engines fuse share a global scale, as llm-compressor gives it to them."""
    for group in (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")):
        if name.endswith(group):
            return name.rsplit(".", 1)[0] + "." + "+".join(group)
    return name


def observe(modules):
    """What a min-max observer finds of every weight: scales by the package's own functions."""
    import torch
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam
    groups = {}
    for name, module in modules.items():
        groups.setdefault(shared_global(name), []).append(module.weight)
    for name, module in modules.items():
        weight, args = module.weight.data, module.quantization_scheme.weights
        strategy, more = str(getattr(args.strategy, "value", args.strategy)), {}
        if strategy == "channel":
            low, high = weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
        elif strategy == "tensor":
            low, high = weight.amin(), weight.amax()
        elif strategy == "block":
            rows, cols = (-(-n // 128) for n in weight.shape)
            padded = torch.nn.functional.pad(weight, (0, cols * 128 - weight.shape[1], 0, rows * 128 - weight.shape[0]))
            cells = padded.reshape(rows, 128, cols, 128).transpose(1, 2).flatten(2)
            low, high = cells.amin(-1), cells.amax(-1)
        else:
            cells = weight.unflatten(-1, (-1, args.group_size))
            low, high = cells.amin(-1), cells.amax(-1)
        if strategy == "tensor_group":
            members = groups[shared_global(name)]
            more["global_scale"] = generate_gparam(min(m.min() for m in members), max(m.max() for m in members))
            module.weight_global_scale.data.copy_(more["global_scale"])
        scale, zero = calculate_qparams(low, high, args, **more)
        module.weight_scale.data = scale.reshape(module.weight_scale.shape).to(module.weight_scale.dtype)
        if hasattr(module, "weight_zero_point"):
            held = module.weight_zero_point
            held.data = zero.reshape(held.shape).to(held.dtype)


def compressed_tensors_save(source, out, preset, f32=False, ignore=(), targets=("Linear",)):
    """A preset scheme on the linear layers but those to be ignored ("re:..."), compressed and saved as shards of
    safetensors with an index. f32: the model is in FP32, so that the package computes in it."""
    import compressed_tensors.quantization as ctq
    from compressed_tensors.compressors.model_compressors import ModelCompressor
    state = read(source)
    model = module_tree({n: t.float() for n, t in state.items()} if f32 else state)
    scheme = ctq.QuantizationScheme(targets=list(targets), **ctq.quant_scheme.PRESET_SCHEMES[preset])
    config = ctq.QuantizationConfig(config_groups={"group_0": scheme}, ignore=["lm_head", *ignore])
    with quiet():
        ctq.apply_quantization_config(model, config, show_progress=False)
        observe({n: m for n, m in model.named_modules() if hasattr(m, "quantization_scheme")})
        compressor = ModelCompressor.from_pretrained_model(model)
        compressor.compress_model(model)
    save_shards(model.state_dict(), out)
    shutil.copyfile(os.path.join(source, "config.json"), os.path.join(out, "config.json"))
    compressor.update_config(out)
    return out


def save_shards(state, out, limit=2 << 20):
    """As save_pretrained lays a state dict down: huggingface_hub splits, safetensors writes."""
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import save_file
    os.makedirs(out)
    split = split_torch_state_dict_into_shards(state, max_shard_size=limit)
    for file, names in split.filename_to_tensors.items():
        save_file({n: state[n].contiguous() for n in names}, os.path.join(out, file), metadata={"format": "pt"})
    if split.is_sharded:
        with open(os.path.join(out, "model.safetensors.index.json"), "w", encoding="utf-8") as f:
            json.dump({"metadata": split.metadata, "weight_map": split.tensor_to_filename}, f)
    return out


# ---- breaking them -------------------------------------------------------------------------------------------------

def edited(directory, out, change):
    """A copy whose {name: tensor} change() has edited in place; by the safetensors package."""
    state = read(directory)
    change(state)
    save_shards(state, out)
    for file in os.listdir(directory):
        if file.endswith(".json") and not file.endswith(".index.json"):
            shutil.copyfile(os.path.join(directory, file), os.path.join(out, file))
    return out
