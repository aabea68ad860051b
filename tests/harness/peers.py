"""What the public packages make of a matrix: nvidia-modelopt, compressed-tensors and torch, called as they are.

Arrays go in and come out as numpy. Import this module only where `require()` has been called: the packages are large
(scripts/setup.sh installs them into .venv-interop), and MIMO_INTEROP=0 does without.
"""
import os
import unittest
import warnings
from types import SimpleNamespace

import numpy as np


def require():
    """Skips the calling test class when the packages are not wanted; a missing package is an error otherwise."""
    if os.environ.get("MIMO_INTEROP") == "0":
        raise unittest.SkipTest("MIMO_INTEROP=0: nvidia-modelopt and compressed-tensors are not wanted")
    try:
        import compressed_tensors  # noqa: F401
        import torch  # noqa: F401
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import modelopt.torch.quantization  # noqa: F401
    except ImportError as problem:
        raise AssertionError(f"{problem}: run scripts/setup.sh, or set MIMO_INTEROP=0 to leave these tests out") from problem


def tensor(values, bf16=False):
    import torch
    made = torch.from_numpy(np.array(values, np.float32))
    return made.to(torch.bfloat16) if bf16 else made


def raw(made):
    """Bytes of an 8-bit tensor, values of any other."""
    import torch
    made = made.detach()
    if made.element_size() == 1:
        return made.contiguous().view(torch.uint8).numpy()
    return made.float().numpy()


# ---- ModelOpt ------------------------------------------------------------------------------------------------------

def _nvfp4_tensor():
    from modelopt.torch.quantization.qtensor.nvfp4_tensor import NVFP4QTensor
    return NVFP4QTensor


def _fake_quantized(values, block_amax, group_amax, largest):
    """The loss function's view of a candidate: modelopt's Triton kernel in eager steps, as there is no GPU here."""
    import torch
    from modelopt.torch.kernels.quantization.gemm.fp4_kernel import compute_fp4_scales
    kind = _nvfp4_tensor()
    scale = compute_fp4_scales(block_amax.view(-1), group_amax, True, fp8_max_for_normalization=largest).view(-1, 1)
    nothing = scale == 0
    safe = torch.where(nothing | ~torch.isfinite(scale), torch.ones_like(scale), scale)
    magnitude = kind.get_e2m1_values(values.device)[kind._cast_fp4((values.abs() / safe)).long()] * safe
    return torch.where(nothing, torch.zeros_like(magnitude), torch.where(values >= 0, magnitude, -magnitude))


def modelopt_nvfp4(values, rule="max", group=None, bf16=False):
    """-> (packed, scale bytes, weight_scale_2). `group`: all matrices that share the global (default: this one)."""
    import torch
    kind = _nvfp4_tensor()
    weight = tensor(values, bf16)
    group_amax = max(tensor(v, bf16).abs().max().float() for v in (group or [values]))
    if rule == "max":
        global_ = group_amax / (6.0 * 448.0)
        made, scales, global_ = kind.quantize(weight, 16, weights_scaling_factor_2=global_)
        return raw(made._quantized_data), raw(scales), raw(global_)
    from modelopt.torch.quantization.calib.mse import MseCalibrator, NVFP4MSECalibrator
    largest = 256.0 if rule == "four-over-six" else 448.0
    blocks = weight.float().reshape(-1, 16)
    amax = blocks.abs().amax(1, keepdim=True)

    def quantized(x, block_amax):
        return _fake_quantized(x, block_amax, group_amax, largest)

    if rule == "sweep":
        search = NVFP4MSECalibrator(amax, group_amax, axis=0, quant_func=quantized)
    elif rule == "mse":
        search = MseCalibrator(amax, axis=0, quant_func=quantized)
    else:
        search = MseCalibrator(amax, axis=0, step_size=0.5, start_multiplier=1.0, stop_multiplier=1.5,
                               quant_func=quantized)
    search.collect(blocks)
    block_sizes = {-1: 16, "four_over_six": True} if rule == "four-over-six" else {-1: 16}
    quantizer = SimpleNamespace(global_amax=group_amax, _amax=search.compute_amax(), block_sizes=block_sizes)
    scales, global_ = kind.get_weights_scaling_factor_from_quantizer(quantizer, weight)
    made, _, _ = kind.quantize(weight, 16, scales, global_)
    return raw(made._quantized_data), raw(scales), raw(global_)


def modelopt_decode_nvfp4(packed, scales, global_, dtype="float32"):
    import torch
    kind = _nvfp4_tensor()
    made = kind(torch.Size((packed.shape[0], 2 * packed.shape[1])), torch.float32, torch.from_numpy(packed.copy()))
    return made.dequantize(dtype=getattr(torch, dtype), scale=torch.from_numpy(scales.copy()).view(torch.float8_e4m3fn),
                           double_scale=torch.tensor(np.float32(global_)), block_sizes={-1: 16})


def modelopt_mxfp4(values, bf16=False):
    from modelopt.torch.quantization.qtensor.mxfp4_tensor import MXFP4QTensor
    made, scales = MXFP4QTensor.quantize(tensor(values, bf16), 32)
    return raw(made._quantized_data), raw(scales).reshape(values.shape[0], -1)


def modelopt_decode_mxfp4(packed, scales):
    import torch
    from modelopt.torch.quantization.qtensor.mxfp4_tensor import MXFP4QTensor
    made = MXFP4QTensor(torch.Size((packed.shape[0], 2 * packed.shape[1])), torch.float32,
                        torch.from_numpy(packed.copy()))
    return raw(made.dequantize(scale=torch.from_numpy(scales.copy()), block_sizes={-1: 32}))


def modelopt_mxfp8(values, bf16=False):
    from modelopt.torch.quantization.qtensor.mxfp8_tensor import MXFP8QTensor
    made, scales = MXFP8QTensor.quantize(tensor(values, bf16))
    return raw(made._quantized_data), raw(scales)


def modelopt_decode_mxfp8(codes, scales):
    import torch
    from modelopt.torch.quantization.qtensor.mxfp8_tensor import MXFP8QTensor
    made = MXFP8QTensor(torch.Size(codes.shape), torch.float32,
                        torch.from_numpy(codes.copy()).view(torch.float8_e4m3fn))
    return raw(made.dequantize(scale=torch.from_numpy(scales.copy())))


def modelopt_fp8_block(values, bf16=False):
    """-> (codes, scales float32), blocks of 128x128"""
    from modelopt.torch.quantization.qtensor.fp8_tensor import FP8QTensor
    made, scales = FP8QTensor.quantize(tensor(values, bf16), block_sizes={-1: 128, -2: 128})
    return raw(made._quantized_data), raw(scales)


def modelopt_mxfp4_cast(packed, scales):
    """modelopt's closed form of MXFP4 -> NVFP4. -> (packed, scale bytes, weight_scale_2)"""
    import torch
    from modelopt.torch.quantization.utils import numeric_utils
    kind = _nvfp4_tensor()
    bytes_ = torch.from_numpy(scales.copy())
    amax, info = numeric_utils.mxfp4_to_nvfp4_global_amax(bytes_)
    blocks = torch.from_numpy(packed.copy()).view(packed.shape[0], -1, 16)
    block_amax = numeric_utils.mxfp4_to_nvfp4_per_block_amax(blocks, bytes_)
    weight = torch.from_numpy(modelopt_decode_mxfp4(packed, scales))
    quantizer = SimpleNamespace(global_amax=torch.tensor(amax), _amax=block_amax, block_sizes={-1: 16})
    own, global_ = kind.get_weights_scaling_factor_from_quantizer(quantizer, weight)
    made, _, _ = kind.quantize(weight, 16, own, global_)
    return raw(made._quantized_data), raw(own), raw(global_)


# ---- compressed-tensors --------------------------------------------------------------------------------------------

def scheme(name):
    from compressed_tensors.quantization import QuantizationScheme, quant_scheme
    args = quant_scheme.PRESET_SCHEMES[name]["weights"]
    return QuantizationScheme(targets=["Linear"], weights=args)


def _compressor(name):
    from compressed_tensors.compressors.base import BaseCompressor
    return BaseCompressor.get_value_from_registry(
        {"NVFP4A16": "nvfp4-pack-quantized", "MXFP4A16": "mxfp4-pack-quantized", "MXFP8A16": "mxfp8-quantized",
         "FP8_BLOCK": "float-quantized"}[name])


def _group_extremes(made, name):
    import torch
    if name == "FP8_BLOCK":
        rows, cols = (-(-n // 128) for n in made.shape)
        padded = torch.nn.functional.pad(made, (0, cols * 128 - made.shape[1], 0, rows * 128 - made.shape[0]))
        cells = padded.reshape(rows, 128, cols, 128).transpose(1, 2).flatten(2)
        return cells.amin(-1), cells.amax(-1)
    groups = made.unflatten(-1, (-1, 16 if name == "NVFP4A16" else 32))
    return groups.amin(-1), groups.amax(-1)


def compressed(name, values, group=None, bf16=False):
    """A preset scheme's own path: min/max observer, calculate_qparams, compressor. -> {local name: array}"""
    import torch
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam
    made, rules = tensor(values, bf16), scheme(name)
    state = {"weight": made}
    if name == "NVFP4A16":
        members = [tensor(v, bf16) for v in (group or [values])]
        state["weight_global_scale"] = generate_gparam(min(m.min() for m in members), max(m.max() for m in members))
    low, high = _group_extremes(made, name)
    scale, zero = calculate_qparams(low, high, rules.weights, global_scale=state.get("weight_global_scale"))
    state.update(weight_scale=scale, weight_zero_point=zero)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {k: raw(v) for k, v in _compressor(name).compress(state, rules).items() if isinstance(v, torch.Tensor)}


def decompressed(name, arrays):
    """{local name: array as stored} -> float32 values, by the package's decompressor."""
    import torch
    state = {}
    for key, array in arrays.items():
        made = torch.from_numpy(np.array(array))
        if array.dtype == np.uint8 and (key == "weight" or (key == "weight_scale" and name == "NVFP4A16")):
            made = made.view(torch.float8_e4m3fn)
        state[key] = made
    return raw(_compressor(name).decompress(state, scheme(name))["weight"])


# ---- torch ---------------------------------------------------------------------------------------------------------

def torch_values(codes, dtype):
    """What torch's own 8-bit float types say of these bytes: "float8_e4m3fn", "float8_e8m0fnu"."""
    import torch
    return torch.from_numpy(codes.copy()).view(getattr(torch, dtype)).float().numpy()
