"""One stored weight by its arrays: which codec it is in, which values it has, and what is odd about it.

Sources of the forms: quantization formats of the model cards and of ModelOpt, compressed-tensors and DeepSeek-V3; all
scales are multipliers but compressed-tensors' globals.
"""
from collections import namedtuple

import numpy as np

from reference import codecs, quantize

PLAIN = ("BF16", "F16", "F32")
BLOCK = 128
BLOCK_ROWS = (128, 64, 32)
SCALES = (".weight_scale_inv", ".weight_scale", ".weight_scale_2", ".weight_global_scale")
E5M2 = (np.arange(256, dtype=np.uint16) << 8).view(np.float16).astype(np.float32)

# kind: plain, block, row, tensor, mxfp4, mxfp8, nvfp4, or None where nobody can say. values, unit (what a code is
# multiplied by): float32 [rows, columns], None for a block weight, whose rows find their scales through a layout.
# elements: float32 values of the codes of a block weight, [rows, columns]; scales: float32 [scale rows, scale columns].
Stored = namedtuple("Stored", "kind dtype array values unit elements scales doubts ills")


def scale_values(dtype, array):
    """float32 of a scale array of any type that scales are stored in; None for others."""
    if dtype in PLAIN:
        return codecs.decode_plain(dtype, array)
    if dtype in ("U8", "F8_E8M0"):
        return codecs.E8M0[array]
    return None


def companions(tensors, module):
    return [module + suffix for suffix in SCALES if module + suffix in tensors]


def _result(kind, dtype, array, values=None, unit=None, elements=None, scales=None, doubts=(), ills=()):
    return Stored(kind, dtype, array, values, unit, elements, scales, list(doubts), list(ills))


def read(tensors, module):
    """-> Stored of MODULE.weight, or of MODULE.weight_packed."""
    scales = companions(tensors, module)
    if module + ".weight_packed" in tensors:
        if module + ".weight" in tensors:
            return _result(None, None, None, doubts=["both weight and weight_packed"])
        return _packed(tensors, module, scales)
    dtype, array = tensors[module + ".weight"]
    if dtype in PLAIN:
        doubts = [f"{dtype} values beside {name}" for name in scales]
        values = codecs.decode_plain(dtype, array)
        ills = [] if np.isfinite(values).all() else ["values that are not finite"]
        return _result("plain", dtype, array, values, doubts=doubts, ills=ills)
    main = [name for name in scales if name.endswith(("_scale", "_scale_inv")) and "global" not in name]
    if dtype not in ("F8_E4M3", "F8_E5M2", "U8", "I8") or array.ndim != 2:
        return _result(None, dtype, array, doubts=[f"stored as {dtype} {array.shape}"])
    if len(main) != 1:
        return _result(None, dtype, array, doubts=[f"{dtype} codes with {len(main)} scale arrays"])
    scale_dtype, scale = tensors[main[0]]
    globals_ = [name for name in scales if name not in main]
    codes = array.view(np.uint8)
    if scale_dtype == "F8_E4M3":
        if dtype != "U8" or globals_ != [module + ".weight_scale_2"]:
            return _result(None, dtype, array, doubts=["E4M3 scales that no NVFP4 weight has"])
        return _nvfp4(codes, scale, tensors[globals_[0]], False)
    doubts = [f"{name} beside {main[0]}" for name in globals_]
    if scale_dtype in ("U8", "F8_E8M0") and scale.ndim == 2 and dtype in ("U8", "I8") and \
            scale.shape == (codes.shape[0], codes.shape[1] * 2 // 32):
        if dtype == "I8":
            doubts.append("packed codes stored as I8")
        return _mxfp4(codes, scale, doubts)
    if dtype == "I8":
        doubts.append("I8: INT8 values, or FP8 codes by another name")
    return _fp8(dtype, codes, scale_dtype, scale, doubts)


def _packed(tensors, module, scales):
    dtype, array = tensors[module + ".weight_packed"]
    wanted = {module + ".weight_scale"}
    if dtype != "U8" or array.ndim != 2 or module + ".weight_scale" not in tensors:
        return _result(None, dtype, array, doubts=[f"packed {dtype} with {scales}"])
    scale_dtype, scale = tensors[module + ".weight_scale"]
    if scale_dtype == "F8_E4M3" and module + ".weight_global_scale" in tensors:
        wanted.add(module + ".weight_global_scale")
        result = _nvfp4(array, scale, tensors[module + ".weight_global_scale"], True)
    elif scale_dtype in ("U8", "F8_E8M0"):
        result = _mxfp4(array, scale, [])
    else:
        result = _result(None, dtype, array, doubts=[f"packed codes under {scale_dtype} scales"])
    extra = [f"{name} beside packed codes" for name in scales if name not in wanted]
    return result._replace(doubts=result.doubts + extra)


def _nvfp4(codes, scale, stored_global, divides):
    dtype, value = stored_global
    if scale.shape != (codes.shape[0], codes.shape[1] * 2 // 16) or value.size != 1 or dtype not in PLAIN:
        return _result(None, "U8", codes, doubts=[f"NVFP4 scales {scale.shape}, global {dtype} {value.shape}"])
    number = np.float32(codecs.decode_plain(dtype, value).reshape(()))
    ills = [] if np.isfinite(number) and number > 0 else [f"global scale {number}"]
    scale_numbers = codecs.E4M3[scale]
    if np.isnan(scale_numbers).any() or (scale_numbers < 0).any():
        ills.append("NaN or negative block scales")
    with np.errstate(all="ignore"):
        unit = np.repeat(scale_numbers / number if divides else scale_numbers * number, 16, axis=1)
    elements = codecs.E2M1[quantize.unpack(codes)]
    if ((unit == 0) & (elements != 0)).any():
        ills.append("zero scales over codes")
    with np.errstate(all="ignore"):
        return _result("nvfp4", "U8", codes, elements * unit, unit, ills=ills)


def _mxfp4(codes, scale, doubts):
    if scale.shape != (codes.shape[0], codes.shape[1] * 2 // 32):
        return _result(None, "U8", codes, doubts=doubts + [f"E8M0 scales {scale.shape}"])
    unit = np.repeat(codecs.E8M0[scale], 32, axis=1)
    ills = ["NaN scales"] if np.isnan(unit).any() else []
    with np.errstate(all="ignore"):
        values = codecs.E2M1[quantize.unpack(codes)] * unit
    return _result("mxfp4", "U8", codes, values, unit, doubts=doubts, ills=ills)


def _fp8(dtype, codes, scale_dtype, scale, doubts):
    rows, cols = codes.shape
    numbers = scale_values(scale_dtype, scale)
    if numbers is None:
        return _result(None, dtype, codes, doubts=doubts + [f"FP8 codes under {scale_dtype} scales"])
    elements = (E5M2 if dtype == "F8_E5M2" else codecs.E4M3)[codes]
    ills = [] if np.isfinite(elements).all() else ["NaN codes"]
    if not np.isfinite(numbers).all() or (numbers < 0).any():
        ills.append("scales that are not finite or negative")
    elif (numbers == 0).any():
        ills.append("scales that are zero")
    grid = numbers.ndim == 2 and numbers.shape[1] == -(-cols // BLOCK)
    if numbers.size == 1 and not (grid and rows <= BLOCK):
        kind, unit = "tensor", np.broadcast_to(numbers.reshape(1, 1), codes.shape)
    elif rows > 1 and numbers.shape in ((rows,), (rows, 1)):
        kind, unit = "row", np.broadcast_to(numbers.reshape(rows, 1), codes.shape)
    elif numbers.shape == (rows, cols // 32) and scale_dtype in ("U8", "F8_E8M0"):
        kind, unit = "mxfp8", np.repeat(numbers, 32, axis=1)
    elif grid:
        return _result("block", dtype, codes, elements=elements, scales=numbers, doubts=doubts, ills=ills)
    else:
        return _result(None, dtype, codes, doubts=doubts + [f"scales {scale_dtype} {scale.shape} for {codes.shape}"])
    with np.errstate(all="ignore"):
        return _result(kind, dtype, codes, elements * unit, unit, doubts=doubts, ills=ills)


def under_rows(stored, scale_rows):
    """Values and unit of a block weight whose row i lies under the scales scale_rows[i], float32 [rows, grid columns]."""
    unit = np.repeat(scale_rows, BLOCK, axis=1)[:, :stored.elements.shape[1]]
    with np.errstate(all="ignore"):
        return stored.elements * unit, unit


def on_plain_grid(stored):
    """values, unit of a block weight whose grid begins at its first row; None where the scale rows do not fit."""
    rows = stored.elements.shape[0]
    for height in BLOCK_ROWS:
        if stored.scales.shape[0] == -(-rows // height):
            return under_rows(stored, stored.scales[np.arange(rows) // height])
    return None
