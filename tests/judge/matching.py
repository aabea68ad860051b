"""quantization_config, module by module: what a module is declared to be stored as.

Rules of the readers: native lists are exact names (vLLM and SGLang, is_layer_skipped; an expert also by the name of all
experts); ModelOpt's are names with wildcards; those of compressed-tensors are exact names, or patterns after `re:`
that match from the start.
"""
import fnmatch
import re

PLAIN = "plain"
UNKNOWN = "unknown"


def _listed(module, names):
    return module in names or any(module.startswith(name + ".") for name in names if name.endswith(".experts"))


def native(config, module):
    ignored = list(config.get("ignored_layers") or []) + list(config.get("modules_to_not_convert") or [])
    if _listed(module, ignored):
        return PLAIN
    if config.get("store_dtype") == "mxfp4" and ".experts." in module:
        return "mxfp4"
    block = config.get("weight_block_size")
    if block is None:
        return "tensor"
    return "block" if list(block) == [128, 128] else f"block {block}"


_ALGORITHMS = {"NVFP4": "nvfp4", "W4A16_NVFP4": "nvfp4", "MXFP8": "mxfp8", "FP8_PB_WO": "block", "FP8_PB": "block",
               "FP8": "tensor", "FP8_PER_CHANNEL_PER_TOKEN": "row", None: PLAIN}


def modelopt(algorithm, excluded, layers, module):
    if any(fnmatch.fnmatchcase(module, name) for name in excluded):
        return PLAIN
    if algorithm == "MIXED_PRECISION":
        for name in (module, re.sub(r"(\.experts)\..*", r"\1", module)):
            if name in layers:
                return _ALGORITHMS.get(layers[name].get("quant_algo"), UNKNOWN)
        return PLAIN
    return _ALGORITHMS.get(algorithm, UNKNOWN)


def _matches(module, names, of_class=None):
    for name in names:
        if name.startswith("re:"):
            if re.match(name[3:], module):
                return True
        elif name == module or name == of_class:
            return True
    return False


def _group(group):
    weights = group.get("weights") or {}
    strategy, bits, size = weights.get("strategy"), weights.get("num_bits"), weights.get("group_size")
    if weights.get("type") != "float":
        return UNKNOWN
    if bits == 8 and strategy in ("channel", "tensor", "block"):
        if strategy == "block" and list(weights.get("block_structure") or ()) != [128, 128]:
            return UNKNOWN
        return {"channel": "row"}.get(strategy, strategy)
    if size == 32 and strategy in ("group", None):
        return {8: "mxfp8", 4: "mxfp4"}.get(bits, UNKNOWN)
    if bits == 4 and size == 16:
        return "nvfp4"
    return UNKNOWN


def compressed_tensors(config, module):
    if _matches(module, config.get("ignore") or []):
        return PLAIN
    for group in (config.get("config_groups") or {}).values():
        if _matches(module, group.get("targets") or [], "Linear"):
            return _group(group)
    return PLAIN


def declared(quantization, module):
    """What config.json says of a linear module: plain, block, row, tensor, mxfp4, mxfp8, nvfp4, or another word."""
    if not quantization:
        return PLAIN
    method = quantization.get("quant_method")
    if method == "fp8":
        return native(quantization, module)
    if method == "modelopt":
        return modelopt(quantization.get("quant_algo"), quantization.get("ignore") or [],
                        quantization.get("quantized_layers") or {}, module)
    if method == "compressed-tensors":
        return compressed_tensors(quantization, module)
    return UNKNOWN


def declared_by_hf_quant(document, module):
    """The same by hf_quant_config.json."""
    quantization = document.get("quantization") or {}
    return modelopt(quantization.get("quant_algo"), quantization.get("exclude_modules") or [],
                    quantization.get("quantized_layers") or {}, module)
