"""The changed inputs of tests/golden: each function edits a private copy of an earlier row's output, in place.

No random numbers: what a function writes follows from what it finds.
"""
import json
import os

import numpy as np

from harness import breakage
from reference import container

QKV = "model.layers.1.self_attn.qkv_proj.weight"
GATE = "model.layers.0.mlp.gate_proj.weight"
EXPERT = "model.layers.1.mlp.experts.1.up_proj.weight"
NORM = "model.norm.weight"
INDEX = "model.safetensors.index.json"


def _first_shard(directory):
    return os.path.join(directory, container.tensor_files(directory)[0])


def _config(directory, **values):
    breakage.edit_json(directory, "config.json", lambda config: config.update(values))


def _put(directory, tensor, index, value):
    def change(tensor):
        tensor[1][index] = value
        return tensor
    breakage.replace(directory, tensor, change)


def _iteration(root):
    return os.path.join(root, next(name for name in sorted(os.listdir(root)) if name.startswith("iter_")))


# Inputs that the tools take


def towers(directory):
    """Vision, audio and speech tensors of a few KB, in a file of their own, and the config keys that announce them."""
    tensors = {"visual.blocks.0.norm1.weight": (32,), "visual.blocks.0.attn.qkv.weight": (96, 32),
               "visual.blocks.0.attn.qkv.bias": (96,), "visual.merger.mlp.2.weight": (128, 64),
               "audio_encoder.projection.mlp.2.weight": (128, 64), "speech_embeddings.0.weight": (16, 32)}
    values = {name: ("BF16", (0x3C00 + np.arange(np.prod(shape)) % 509).astype(np.uint16).reshape(shape))
              for name, shape in tensors.items()}
    container.write(os.path.join(directory, "model_towers.safetensors"), values, {"format": "pt"})
    breakage.edit_json(directory, INDEX, lambda index: index["weight_map"].update(
        {name: "model_towers.safetensors" for name in values}))
    _config(directory, vision_config={"depth": 1, "hidden_size": 32}, audio_config={"input_local_layers": 1},
            processor_config={"patch_size": 16})
    os.makedirs(os.path.join(directory, "audio_tokenizer"))
    container.write(os.path.join(directory, "audio_tokenizer", "model.safetensors"), {
        "encoder.conv1.weight": ("F32", np.arange(48, dtype=np.float32).reshape(4, 4, 3))})


def step(directory):
    """A training step: of BF16 matrices one element in 97 moves by 40 BF16 steps, and one in 4001 doubles, so that
    codes change and some blocks outgrow their scale."""
    for file in container.tensor_files(directory):
        path = os.path.join(directory, file)
        tensors = {n: (d, a.copy()) for n, (d, a) in container.read(path).items()}
        for dtype, array in tensors.values():
            if dtype == "BF16" and array.ndim == 2:
                flat = array.reshape(-1)
                flat[::97] += 40
                flat[::4001] += 0x80
        container.write(path, tensors, {"format": "pt"})


def unknown_tensor(directory):
    breakage.add(directory, container.tensor_files(directory)[0], "model.layers.0.mystery.weight", "BF16",
                 np.arange(4, dtype=np.uint16))


def no_index(directory):
    os.unlink(os.path.join(directory, INDEX))


def no_chunk_count(directory):
    """Nothing says how fused attention without scales is laid out."""
    breakage.edit_json(directory, INDEX, lambda index: index["metadata"].pop("tp_size", None))
    breakage.edit_json(directory, "config.json", lambda config: config.pop("mimo_layout", None))
    for file in container.tensor_files(directory):
        header, data = breakage.split_file(os.path.join(directory, file))
        header["__metadata__"] = {"format": "pt"}
        breakage.join_file(os.path.join(directory, file), header, data)


def stray_file(directory):
    container.write(os.path.join(directory, "consolidated.safetensors"), {NORM: ("BF16", np.ones(128, np.uint16))})


def no_marker(directory):
    """A directory of another tool's: its form and layout follow from names and shapes."""
    os.unlink(os.path.join(directory, "mimo-manifest.json"))
    breakage.edit_json(directory, "config.json", lambda config: config.pop("mimo_layout", None))


def no_tracker(directory):
    for name in ("latest_checkpointed_iteration.txt", "latest_train_state.pt"):
        os.unlink(os.path.join(directory, name))


def template(directory):
    """template.json: what scripts/dump_template.py would say of an engine that puts a prefix before its names."""
    rows = []
    for file in container.tensor_files(directory):
        if file.startswith("model-rank-0-"):
            header, _, _ = container.read_header(os.path.join(directory, file))
            rows += [{"name": "language_model." + name, "dtype": dtype, "shape": list(shape)}
                     for name, (dtype, shape, _, _) in header.items()]
    with open(os.path.join(directory, "template.json"), "w") as f:
        json.dump({"engine": "vllm", "version": "0.0.test", "tp": 2, "ep": 1, "rank": 0,
                   "tensors": sorted(rows, key=lambda row: row["name"])}, f)


def other_template(directory):
    """A template of another model: one shape is not this one's."""
    template(directory)
    breakage.edit_json(directory, "template.json", lambda dump: dump["tensors"][0]["shape"].append(7))


def retyped_template(directory):
    """A template of another build: one array has another type."""
    template(directory)
    breakage.edit_json(directory, "template.json", lambda dump: dump["tensors"][0].update(dtype="F16"))


# Inputs that they refuse


def truncated(directory):
    breakage.truncate(_first_shard(directory), -100)


def short_header(directory):
    breakage.truncate(_first_shard(directory), 200)


def overlong_header(directory):
    with open(_first_shard(directory), "r+b") as f:
        f.write(b"\xff" * 8)


def overlapping(directory):
    breakage.edit_header(directory, GATE, lambda entry: entry.update(
        data_offsets=[x + 1 for x in entry["data_offsets"]]))


def wrong_dtype(directory):
    breakage.edit_header(directory, GATE, lambda entry: entry.update(dtype="F7"))


def missing_tensor(directory):
    breakage.replace(directory, NORM, lambda _: None)


def missing_scale(directory):
    breakage.replace(directory, GATE + "_scale_inv", lambda _: None)


def missing_shard(directory):
    os.unlink(_first_shard(directory))


def twice(directory):
    container.write(os.path.join(directory, "model_again.safetensors"), {NORM: ("BF16", np.zeros(128, np.uint16))},
                    {"format": "pt"})
    breakage.edit_json(directory, INDEX, lambda index: index["weight_map"].update(
        {"again": "model_again.safetensors"}))


def nan_code(directory):
    _put(directory, EXPERT, (5, 77), 0x7F)


def nan_attention(directory):
    _put(directory, QKV, (9, 9), 0xFF)


def negative_scale(directory):
    _put(directory, GATE + "_scale_inv", (0, 0), -1)


def nan_mxfp4_scale(directory):
    _put(directory, EXPERT + "_scale", (2, 1), 255)


def infinite(directory):
    _put(directory, EXPERT, (3, 3), 0x7F80)


def large(directory):
    """Finite in BF16, beyond FP16."""
    _put(directory, EXPERT, (3, 3), 0x4B80)


def no_config(directory):
    os.unlink(os.path.join(directory, "config.json"))


def other_hidden_size(directory):
    _config(directory, hidden_size=512)


def other_heads(directory):
    _config(directory, num_key_value_heads=8)


def other_block(directory):
    _config(directory, quantization_config={"quant_method": "fp8", "weight_block_size": [0, 128]})


def changed_byte(directory):
    path = os.path.join(directory, container.tensor_files(directory)[-1])
    with open(path, "r+b") as f:
        f.seek(-1, os.SEEK_END)
        last = f.read(1)[0]
        f.seek(-1, os.SEEK_END)
        f.write(bytes([last ^ 1]))


def changed_config(directory):
    _config(directory, rope_theta=5)


def missing_rank(directory):
    for file in container.tensor_files(directory):
        if file.startswith("model-rank-1-"):
            os.unlink(os.path.join(directory, file))


def unequal_replica(directory):
    """The final norm of rank 1 is not that of rank 0."""
    path = os.path.join(directory, "model-rank-1-part-0.safetensors")
    tensors = {n: (d, a.copy()) for n, (d, a) in container.read(path).items()}
    tensors[NORM][1][0] ^= 1
    container.write(path, tensors, {"format": "pt"})


def unknown_array(directory):
    path = os.path.join(directory, "model-rank-1-part-1.safetensors")
    tensors = {n: (d, a.copy()) for n, (d, a) in container.read(path).items()}
    tensors["model.layers.0.mystery"] = ("BF16", np.zeros(4, np.uint16))
    container.write(path, tensors, {"format": "pt"})


def no_metadata(root):
    os.unlink(os.path.join(_iteration(root), ".metadata"))


def hostile_pickle(root):
    """Where a Python unpickler would call os.system."""
    with open(os.path.join(_iteration(root), ".metadata"), "wb") as f:
        f.write(b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.")


def truncated_item(root):
    breakage.truncate(os.path.join(_iteration(root), "__0_2.distcp"), -1000)


def edited_plan(directory):
    """plan.json, which asks for another number of chunks than its digest was taken of."""
    with open(os.path.join(directory, "plan.json")) as f:
        text = f.read()
    with open(os.path.join(directory, "plan.json"), "w") as f:
        f.write(text.replace('"lossless":false', '"lossless":true', 1))
