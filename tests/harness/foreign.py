"""Small checkpoints as other tools leave them: edits of a checkpoint of ours, written with numpy alone. What is in the
arrays matters not; names, types, shapes, config keys and files are as their writers have them.
"""
import json
import os
import shutil
import struct

import numpy as np

from reference import container

U8 = np.uint8


def save(path, tensors, metadata=None):
    """{name: (dtype, array)} or (dtype, array, shape of the header); any dtype text."""
    header, offset = {}, 0
    if metadata is not None:
        header["__metadata__"] = metadata
    for name in sorted(tensors):
        dtype, array, *shape = tensors[name]
        header[name] = {"dtype": dtype, "shape": list(shape[0] if shape else array.shape),
                        "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    with open(path, "wb") as f:
        f.write(container.pack_header(header))
        for name in sorted(tensors):
            f.write(np.ascontiguousarray(tensors[name][1]).tobytes())
    return offset


def zeros(dtype, *shape):
    """(dtype, array): raw bytes of a tensor of any type, as its header says."""
    bits = {"I64": 64, "F64": 64, "F32": 32, "I32": 32, "U32": 32, "BF16": 16, "F16": 16, "F4": 4,
            "F6_E2M3": 6}.get(dtype, 8)
    return dtype, np.zeros(max(1, int(np.prod(shape)) * bits // 8), U8), list(shape)


class Box:
    """A checkpoint taken apart: tensors, the file of each, config and index metadata; the rest is copied as it is."""

    def __init__(self, directory):
        self.source = directory
        self.tensors, self.files = {}, {}
        for file in container.tensor_files(directory):
            for name, (dtype, array) in container.read(os.path.join(directory, file)).items():
                self.tensors[name], self.files[name] = (dtype, np.array(array)), file
        with open(os.path.join(directory, "config.json")) as f:
            self.config = json.load(f)
        with open(os.path.join(directory, "model.safetensors.index.json")) as f:
            self.metadata = json.load(f)["metadata"]
        self.index = "model.safetensors.index.json"
        self.header = {"format": "pt"}
        self.extra = {}  # name: text or bytes

    def rename(self, change):
        self.tensors = {change(n): t for n, t in self.tensors.items()}
        self.files = {change(n): f for n, f in self.files.items()}

    def linears(self, *kinds):
        """Names of quantized weights (of these projections)."""
        return [n[:-len("_scale_inv")] for n in sorted(self.tensors) if n.endswith(".weight_scale_inv")
                and (not kinds or any(k in n for k in kinds))]

    def replace(self, weight, /, **parts):
        """weight and its scale make way for arrays beside it, named by their last component."""
        file = self.files[weight]
        for name in (weight, weight + "_scale_inv"):
            self.tensors.pop(name, None)
        for part, tensor in parts.items():
            name = weight[:-len("weight")] + part.replace("__", ".")
            self.tensors[name], self.files[name] = tensor, file

    def decode(self):
        """Every quantized weight as BF16, without scales."""
        for weight in self.linears():
            self.replace(weight, weight=("BF16", np.zeros(self.tensors[weight][1].shape, np.uint16)))
        self.config.pop("quantization_config", None)

    def write(self, out):
        skipped = set(self.files.values()) | set(container.tensor_files(self.source)) | {
            "config.json", "model.safetensors.index.json"}
        shutil.copytree(self.source, out, ignore=lambda d, names: skipped if d == self.source else ())
        by_file, size = {}, 0
        for name, tensor in self.tensors.items():
            by_file.setdefault(self.files.get(name, "model-extra.safetensors"), {})[name] = tensor
        for file, tensors in by_file.items():
            size += save(os.path.join(out, file), tensors, self.header)
        if self.config is not None:
            with open(os.path.join(out, "config.json"), "w") as f:
                json.dump(self.config, f, indent=1)
        if self.index:
            document = {"metadata": dict(self.metadata, total_size=size),
                        "weight_map": {n: f for f in sorted(by_file) for n in sorted(by_file[f])}}
            with open(os.path.join(out, self.index), "w") as f:
                json.dump(document, f)
        for name, content in self.extra.items():
            os.makedirs(os.path.dirname(os.path.join(out, name)), exist_ok=True)
            with open(os.path.join(out, name), "wb") as f:
                f.write(content if isinstance(content, bytes) else content.encode())
        return out


def method(box, name, **more):
    box.config["quantization_config"] = dict(quant_method=name, **more)


def each(box, make, *kinds):
    for weight in box.linears(*kinds):
        rows, cols = box.tensors[weight][1].shape
        box.replace(weight, **make(rows, cols))


# ---- quantizations: (what makes it of a box, the id, a word that must be said) ----------------------------------------

def gptq(box):
    each(box, lambda r, c: dict(qweight=zeros("I32", c // 8, r), qzeros=zeros("I32", c // 128, r // 8),
                                scales=zeros("F16", c // 128, r), g_idx=zeros("I32", c)))
    method(box, "gptq", bits=4, group_size=128, desc_act=False)


def gptq_without_config(box):
    gptq(box)
    box.config.pop("quantization_config")


def gptq_old_config(box):
    gptq_without_config(box)
    box.tensors = {n: t for n, t in box.tensors.items() if not n.endswith("g_idx")}
    box.extra["quantize_config.json"] = json.dumps({"bits": 4, "group_size": 128})


def awq(box):
    each(box, lambda r, c: dict(qweight=zeros("I32", c, r // 8), qzeros=zeros("I32", c // 128, r // 8),
                                scales=zeros("F16", c // 128, r)))
    method(box, "awq", bits=4, group_size=128, version="gemm", zero_point=True)


def awq_experts_only(box):
    for weight in box.linears("experts"):
        r, c = box.tensors[weight][1].shape
        box.replace(weight, qweight=zeros("I32", c, r // 8), qzeros=zeros("I32", 1, r // 8), scales=zeros("F16", 1, r))
    box.config["quantization_config"] = {"quant_method": "AWQ", "bits": 4}


def packed_integers(box):
    awq(box)
    box.config.pop("quantization_config")


def auto_round(box):
    gptq(box)
    method(box, "auto-round", bits=4, packing_format="auto_round:auto_gptq")


def compressed_int4(box):
    each(box, lambda r, c: dict(weight_packed=zeros("I32", r, c // 8), weight_scale=zeros("BF16", r, c // 128),
                                weight_shape=zeros("I64", 2)))
    method(box, "compressed-tensors", format="pack-quantized")


def compressed_int8(box):
    each(box, lambda r, c: dict(weight=zeros("I8", r, c), weight_scale=zeros("BF16", r, 1)))
    method(box, "compressed-tensors", format="int-quantized")


def compressed_int8_mixed(box):
    for weight in box.linears("down_proj"):
        r, c = box.tensors[weight][1].shape
        box.replace(weight, weight=zeros("I8", r, c), weight_scale=zeros("F32", r, 1))
    method(box, "compressed-tensors", format="mixed-precision")


def modelslim(box):
    each(box, lambda r, c: dict(weight=zeros("I8", r, c), weight_scale=zeros("F32", r, 1),
                                weight_offset=zeros("F32", r, 1)))
    box.index = "quant_model_weight_w8a8_dynamic.safetensors.index.json"
    box.extra["quant_model_description_w8a8_dynamic.json"] = json.dumps({"model_quant_type": "W8A8_DYNAMIC"})
    box.config.pop("quantization_config")


def modelslim_bare(box):
    modelslim(box)
    box.extra, box.index = {}, None


def mlx_quantized(box):
    each(box, lambda r, c: dict(weight=zeros("U32", r, c // 8), scales=zeros("BF16", r, c // 64),
                                biases=zeros("BF16", r, c // 64)))
    box.config["quantization"] = {"group_size": 64, "bits": 4}
    box.config["quantization_config"] = {"group_size": 64, "bits": 4}


def mlx_mxfp4(box):
    each(box, lambda r, c: dict(weight=zeros("U32", r, c // 8), scales=zeros("U8", r, c // 32)))
    box.config["quantization"] = {"group_size": 32, "bits": 4, "mode": "mxfp4"}


def mlx_stacked(box):
    stack(box, "mlp.switch_mlp.{}.weight", bf16=True)


def exl3(box):
    each(box, lambda r, c: dict(trellis=zeros("I16", c // 16, r // 16, 64), suh=zeros("F16", c), svh=zeros("F16", r)))
    method(box, "exl3", version="0.0.6", bits=4.0)


def exl2(box):
    each(box, lambda r, c: dict(q_weight=zeros("I32", c // 8, r), q_scale=zeros("I32", 8, r // 8),
                                q_groups=zeros("I16", 16), q_invperm=zeros("I16", c), q_scale_max=zeros("F16", 8)))
    box.config.pop("quantization_config")


def bitsandbytes_nf4(box):
    each(box, lambda r, c: {"weight": zeros("U8", r * c // 2, 1), "weight__absmax": zeros("U8", r * c // 64),
                            "weight__quant_map": zeros("F32", 16), "weight__nested_absmax": zeros("F32", 4),
                            "weight__quant_state__bitsandbytes__nf4": zeros("U8", 80)})
    method(box, "bitsandbytes", load_in_4bit=True)


def bitsandbytes_int8(box):
    each(box, lambda r, c: dict(weight=zeros("I8", r, c), SCB=zeros("F32", r)))
    box.config.pop("quantization_config")


def hqq(box):
    each(box, lambda r, c: dict(W_q=zeros("U8", r // 2, c), scale=zeros("BF16", r, 1), zero=zeros("BF16", r, 1)))
    method(box, "hqq")


def torchao(box):
    each(box, lambda r, c: dict(_weight_qdata=zeros("I8", r, c), _weight_scale=zeros("F32", r, 1)))
    method(box, "torchao")


def quanto(box):
    each(box, lambda r, c: dict(weight___data=zeros("I8", r, c), weight___scale=zeros("BF16", r, 1)))
    box.rename(lambda n: n.replace("weight_.data", "weight._data").replace("weight_.scale", "weight._scale"))
    box.config.pop("quantization_config")


def aqlm(box):
    each(box, lambda r, c: dict(codes=zeros("I16", r, c // 8, 1), codebooks=zeros("F16", 1, 256, 1, 8),
                                scales=zeros("F16", r, 1, 1, 1)))
    method(box, "aqlm")


def modelopt_awq(box):
    each(box, lambda r, c: dict(weight=zeros("U8", r // 2, c), weight_scale=zeros("F32", r, c // 128),
                                pre_quant_scale=zeros("BF16", c)))
    method(box, "modelopt", quant_algo="W4A16_AWQ")


def int8(box):
    each(box, lambda r, c: dict(weight=zeros("I8", r, c), weight_scale=zeros("F32", r)))
    box.config.pop("quantization_config")


def e5m2(box):
    for weight in box.linears():
        box.tensors[weight] = ("F8_E5M2", box.tensors[weight][1])


def fnuz(box):
    for weight in box.linears():
        box.tensors[weight] = ("F8_E4M3FNUZ", box.tensors[weight][1])


def fnuz_one_layer(box):
    for weight in box.linears(".layers.1."):
        box.tensors[weight] = ("F8_E5M2FNUZ", box.tensors[weight][1])


def f6(box):
    each(box, lambda r, c: dict(weight=zeros("F6_E2M3", r, c), weight_scale=zeros("U8", r, c // 32)))


# ---- names and containers --------------------------------------------------------------------------------------------

def stack(box, name, bf16=False, fuse=None):
    """Experts of a layer in one array, projection by projection; `fuse`: gate and up in one of this name."""
    if bf16:
        box.decode()
    experts = box.config["n_routed_experts"]
    for layer, moe in enumerate(box.config["moe_layer_freq"]):
        if not moe:
            continue
        prefix, made = f"model.layers.{layer}.", {}
        for projection in ("gate_proj", "up_proj", "down_proj"):
            names = [f"{prefix}mlp.experts.{e}.{projection}.weight" for e in range(experts)]
            made[projection] = (box.tensors[names[0]][0], np.stack([box.tensors.pop(n)[1] for n in names]))
        if fuse:
            dtype, gate = made.pop("gate_proj")
            made[fuse] = (dtype, np.concatenate([gate, made.pop("up_proj")[1]], 1))
        for projection, tensor in made.items():
            box.tensors[prefix + name.format(projection)] = tensor


def transformers5(box):
    stack(box, "mlp.experts.{}", bf16=True, fuse="gate_up_proj")


def engine_memory(box):
    stack(box, "mlp.experts.{}", bf16=True, fuse="w13_weight")
    box.rename(lambda n: n.replace("experts.down_proj", "experts.w2_weight"))


def native(box):
    box.decode()
    box.rename(lambda n: n.replace("attention_sink_bias", "sinks"))
    pattern, moe = box.config.pop("hybrid_layer_pattern"), box.config.pop("moe_layer_freq")
    box.config["layer_types"] = ["sliding_attention" if p else "full_attention" for p in pattern]
    box.config["mlp_layer_types"] = ["sparse" if m else "dense" for m in moe]


def native_config_only(box):
    pattern, moe = box.config.pop("hybrid_layer_pattern"), box.config.pop("moe_layer_freq")
    box.config["layer_types"] = ["sliding_attention" if p else "full_attention" for p in pattern]
    box.config["mlp_layer_types"] = ["sparse" if m else "dense" for m in moe]


def nested_config(box):
    box.config = {"model_type": "mimo_v2_omni", "architectures": ["MiMoV2OmniForCausalLM"], "text_config": box.config}
    box.rename(lambda n: "language_model." + n)


def unknown_prefix(box):
    box.rename(lambda n: "thinker.brain." + n)


def base_model(box):
    del box.tensors["lm_head.weight"]
    box.rename(lambda n: n.removeprefix("model."))
    box.index = None


def megatron_names(box):
    box.rename(lambda n: n.replace("model.layers.", "decoder.layers.").replace("self_attn.qkv_proj",
                                                                              "self_attention.linear_qkv"))


def mtp_alone(box):
    box.tensors = {n: t for n, t in box.tensors.items() if ".mtp." in n}


def dcp_safetensors(box):
    box.header = {"format": "pt", "DCP_SHARDING_INFO": json.dumps({"x": {"saved_offsets": [0, 0]}})}
    box.files = {n: "shard-00001-model-00001-of-00001.safetensors" for n in box.tensors}


def dcp_safetensors_two(box):
    """Halves of ranks under one name in two files."""
    dcp_safetensors(box)
    half = {"lm_head.weight": (box.tensors["lm_head.weight"][0], box.tensors["lm_head.weight"][1][:8])}
    box.second = ("shard-00002-model-00001-of-00001.safetensors", half)
    box.index = None


def stale_scale(box):
    weight = box.linears("down_proj")[0]
    box.tensors[weight] = ("BF16", np.zeros(box.tensors[weight][1].shape, np.uint16))


def raw_codes(box):
    del box.tensors[box.linears("down_proj")[0] + "_scale_inv"]


def two_scales(box):
    weight = box.linears("down_proj")[0]
    box.tensors[weight + "_scale"] = box.tensors[weight + "_scale_inv"]


def original_names(*pairs):
    """As the code of DeepSeek or of Meta calls them, without "model." in front."""
    def edit(box):
        def rename(name):
            name = name.removeprefix("model.")
            for old, new in pairs:
                name = name.replace(old, new)
            return name
        box.rename(rename)
    return edit


def other_model(model_type, architecture, dense=False):
    def edit(box):
        for key in ("hybrid_layer_pattern", "attention_value_scale"):
            box.config.pop(key, None)
        box.config.update(model_type=model_type, architectures=[architecture])
        if dense:
            box.config.pop("moe_layer_freq")
    return edit


def of_files(**content):
    """A directory of these files alone."""
    def make(source, out):
        os.makedirs(out)
        for name, text in content.items():
            path = os.path.join(out, name.replace("__", "/").replace("_dot_", "."))
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as f:
                f.write(text if isinstance(text, bytes) else text.encode())
    return make


GGUF = b"GGUF" + struct.pack("<IQQ", 3, 0, 0)
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 123456789\n"
