"""A strict safetensors reader and a writer, in numpy.

The reader refuses what the format forbids: so a file of ours that it opens is well formed, not merely readable.
"""
import json
import os
import struct

import numpy as np

DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.uint16, "BF16": np.uint16, "I64": np.int64, "I32": np.int32,
          "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.uint8, "F8_E4M3": np.uint8, "F8_E5M2": np.uint8,
          "F8_E8M0": np.uint8}


class FormatError(Exception):
    pass


def _unique(pairs):
    keys = [key for key, _ in pairs]
    if len(set(keys)) != len(keys):
        raise FormatError("duplicate key in header")
    return dict(pairs)


def read_header(path):
    """-> (tensors {name: (dtype, shape, begin, end)} in the order of their data, metadata, offset of the data)."""
    size = os.path.getsize(path)
    with open(path, "rb") as f:
        prefix = f.read(8)
        if len(prefix) != 8:
            raise FormatError(f"{path}: shorter than its length prefix")
        length = struct.unpack("<Q", prefix)[0]
        if length > 100_000_000 or 8 + length > size:
            raise FormatError(f"{path}: header of {length} bytes in a file of {size}")
        text = f.read(length)
    if not text.startswith(b"{"):
        raise FormatError(f"{path}: header does not start with a brace")
    header = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    metadata = header.pop("__metadata__", {})
    if not all(isinstance(v, str) for v in metadata.values()):
        raise FormatError(f"{path}: metadata values must be strings")
    rows = []
    for name, entry in header.items():
        if sorted(entry) != ["data_offsets", "dtype", "shape"] or entry["dtype"] not in DTYPES:
            raise FormatError(f"{path}: {name}: {entry}")
        begin, end = entry["data_offsets"]
        count = 1
        for extent in entry["shape"]:
            count *= extent
        if end - begin != count * np.dtype(DTYPES[entry["dtype"]]).itemsize:
            raise FormatError(f"{path}: {name}: shape and byte range disagree")
        rows.append((begin, end, name, entry["dtype"], tuple(entry["shape"])))
    rows.sort()
    position = 0
    for begin, end, name, _, _ in rows:
        if begin != position:
            raise FormatError(f"{path}: {name}: hole or overlap at {begin}, expected {position}")
        position = end
    if 8 + length + position != size:
        raise FormatError(f"{path}: data ends at {8 + length + position}, file at {size}")
    return {r[2]: (r[3], r[4], r[0], r[1]) for r in rows}, metadata, 8 + length


def read(path):
    """-> {name: (dtype, array)}; arrays are views of a read-only map of the file, 16-bit floats as uint16."""
    tensors, _, data = read_header(path)
    raw = np.memmap(path, np.uint8, "r") if os.path.getsize(path) else np.zeros(0, np.uint8)
    result = {}
    for name, (dtype, shape, begin, end) in tensors.items():
        piece = np.asarray(raw[data + begin:data + end])
        element = np.dtype(DTYPES[dtype])
        if (data + begin) % element.itemsize:
            piece = np.frombuffer(piece.tobytes(), np.uint8)
        result[name] = (dtype, piece.view(element).reshape(shape))
    return result


def read_directory(directory):
    """Every *.safetensors at the top level, merged. A tensor in two files is an error."""
    merged = {}
    for file in tensor_files(directory):
        for name, value in read(os.path.join(directory, file)).items():
            if name in merged:
                raise FormatError(f"{file}: {name} is in another file too")
            merged[name] = value
    return merged


def tensor_files(directory):
    return sorted(f for f in os.listdir(directory) if f.endswith(".safetensors"))


def write(path, tensors, metadata=None, order=None):
    """Writes {name: (dtype, array)}; `order` lists the names as they shall lie (default: by name). -> payload bytes."""
    names = list(order) if order is not None else sorted(tensors)
    entries, position = [], 0
    if metadata:
        entries.append(("__metadata__", metadata))
    for name in names:
        dtype, array = tensors[name]
        entries.append((name, {"dtype": dtype, "shape": list(array.shape),
                               "data_offsets": [position, position + array.nbytes]}))
        position += array.nbytes
    with open(path, "wb") as f:
        f.write(pack_header(dict(entries)))
        for name in names:
            f.write(np.ascontiguousarray(tensors[name][1]).tobytes())
    return position


def pack_header(header):
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
