"""Reads torch.save files and torch_dist directories without torch, written from docs/reference/target-layouts.md,
section 3. Strict: what it reads is well formed, not merely readable.

Names in pickles become stand-ins of a closed list; anything else is refused. Arrays and dtypes are named as in
safetensors, 16-bit floats are uint16. edit() changes stored values in place, as a training run would have.
"""
import io
import json
import os
import pickle
import pickletools
import struct
import zipfile
import zlib
from collections import OrderedDict, namedtuple

import numpy as np

DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32", "float64": "F64", "int64": "I64", "int32": "I32",
          "int8": "I8", "uint8": "U8", "bool": "BOOL", "float8_e4m3fn": "F8_E4M3"}
STORAGES = {"BFloat16": "BF16", "Half": "F16", "Float": "F32", "Double": "F64", "Long": "I64", "Int": "I32",
            "Char": "I8", "Byte": "U8", "Bool": "BOOL"}
NUMPY = {"BF16": np.uint16, "F16": np.uint16, "F32": np.float32, "F64": np.float64, "I64": np.int64, "I32": np.int32,
         "I8": np.int8, "U8": np.uint8, "BOOL": np.uint8, "F8_E4M3": np.uint8}
METADATA = "torch.distributed.checkpoint.metadata"
FILESYSTEM = "torch.distributed.checkpoint.filesystem"
FOUR_KEYS = {"sharded_backend": "torch_dist", "sharded_backend_version": 1, "common_backend": "torch",
             "common_backend_version": 1}


class Malformed(AssertionError):
    pass


def require(condition, *what):
    if not condition:
        raise Malformed(" ".join(map(str, what)))


# ---- pickles -------------------------------------------------------------------------------------------------------

class Record:
    """An object of a listed class: its state is `state`."""
    state = None

    def __init__(self, *args):
        require(not args, type(self).__name__, "with arguments")

    def __setstate__(self, state):
        require(self.state is None, type(self).__name__, "built twice")
        self.state = state

    def __hash__(self):
        return hash((type(self).__name__, self.state["fqn"], self.state.get("offset")))

    def __eq__(self, other):
        return type(self) is type(other) and self.state == other.state

    def __getitem__(self, key):
        return self.state[key]


def _record(name):
    return type(name, (Record,), {})


RECORDS = {(module, name): _record(name) for module, names in (
    (METADATA, "Metadata TensorStorageMetadata BytesStorageMetadata ChunkStorageMetadata TensorProperties "
     "MetadataIndex"),
    (FILESYSTEM, "_StorageInfo"), ("argparse", "Namespace")) for name in names.split()}
Dtype = namedtuple("Dtype", "name")
Storage = namedtuple("Storage", "dtype key elements")
LAYOUT, CONTIGUOUS = "strided", "contiguous"


def _layout(name):
    require(name == "torch.strided", "layout", name)
    return LAYOUT


def _memory_format(number):
    require(number == 0, "memory format", number)
    return CONTIGUOUS


class _Unpickler(pickle.Unpickler):
    """Yields plain data; tensors by self.tensor(storage, offset, shape, strides)."""

    def __init__(self, data, storages=None):
        super().__init__(io.BytesIO(data))
        self.storages = storages

    def find_class(self, module, name):
        if (module, name) in RECORDS:
            return RECORDS[module, name]
        if module == "torch" and name.endswith("Storage") and name[:-7] in STORAGES:
            return Dtype(STORAGES[name[:-7]])
        if module == "torch" and name in DTYPES:
            return Dtype(DTYPES[name])
        known = {("torch._utils", "_rebuild_tensor_v2"): self.rebuild, ("collections", "OrderedDict"): OrderedDict,
                 ("torch", "Size"): tuple, ("torch.serialization", "_get_layout"): _layout,
                 (METADATA, "_MEM_FORMAT_ENCODING"): _memory_format}
        require((module, name) in known, "the pickle names", module, name)
        return known[module, name]

    def persistent_load(self, what):
        require(self.storages is not None, "a storage where none may be")
        word, dtype, key, device, elements = what
        require((word, device) == ("storage", "cpu"), what)
        return Storage(dtype.name, key, elements)

    def rebuild(self, storage, offset, shape, strides, grad, hooks):
        require(grad is False and hooks == OrderedDict(), "gradient or hooks")
        expected, step = [], 1
        for extent in reversed(shape):
            expected.append(step)
            step *= max(extent, 1)
        require(tuple(reversed(expected)) == tuple(strides), "strides", strides, "of shape", shape)
        element = np.dtype(NUMPY[storage.dtype])
        data = self.storages(storage.key)
        require(len(data) == storage.elements * element.itemsize, "storage", storage, "holds", len(data), "bytes")
        count = int(np.prod(shape, dtype=np.int64))
        array = np.frombuffer(data, element, count, offset * element.itemsize).reshape(shape)
        return storage.dtype, array


def unpickle(data, storages=None):
    require(data[:1] == b"\x80" and data[1] == 2 and data[-1:] == b".", "not one pickle of protocol 2")
    return _Unpickler(data, storages).load()


# ---- torch.save ----------------------------------------------------------------------------------------------------

def data_offset(data, info):
    name, extra = struct.unpack_from("<HH", data, info.header_offset + 26)
    return info.header_offset + 30 + name + extra


def load(data, base="archive"):
    """The object of a torch.save item; tensors as (dtype, array)."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        require(archive.testzip() is None, "CRC of", archive.testzip())
        entries, end = {}, 0
        for info in archive.infolist():
            require(info.compress_type == zipfile.ZIP_STORED, info.filename, "is compressed")
            require(info.header_offset == end, info.filename, "does not follow the entry before it")
            start = data_offset(data, info)
            require(start % 64 == 0, info.filename, "starts at", start)
            end = start + info.file_size
            local_crc, = struct.unpack_from("<I", data, info.header_offset + 14)
            require(local_crc == info.CRC, info.filename, "local CRC")
            require(info.filename.startswith(base + "/") and info.filename not in entries, info.filename)
            entries[info.filename[len(base) + 1:]] = data[start:end]
        require(archive.start_dir == end, "bytes between entries and directory")
    require(entries.get("byteorder") == b"little" and entries.get("version") == b"3\n", sorted(entries))
    storages = {n[5:]: d for n, d in entries.items() if n.startswith("data/")}
    require(len(entries) == 3 + len(storages), sorted(entries))
    used = set()

    def storage(key):
        used.add(key)
        return storages[key]
    value = unpickle(entries["data.pkl"], storage)
    require(used == set(storages), "storages that nothing uses")
    return value


def load_file(path, base=None):
    with open(path, "rb") as f:
        return load(f.read(), base or os.path.basename(path).rsplit(".", 1)[0])


# ---- directories ---------------------------------------------------------------------------------------------------

Chunk = namedtuple("Chunk", "offsets sizes file begin length")
Tensor = namedtuple("Tensor", "dtype shape chunks")


def iteration_directory(root):
    with open(os.path.join(root, "latest_checkpointed_iteration.txt"), encoding="ascii") as f:
        text = f.read().strip()
    return os.path.join(root, text if text == "release" else f"iter_{int(text):07d}")


class Checkpoint:
    """An iteration directory. tensors: {key: Tensor}; objects: {key: (file, begin, length)}."""

    def __init__(self, directory):
        self.directory = directory
        with open(os.path.join(directory, ".metadata"), "rb") as f:
            top = unpickle(f.read())
        require(type(top).__name__ == "Metadata", "top of .metadata is", type(top).__name__)
        require(top["planner_data"] == {}, "planner_data")
        places = {(i["fqn"], i.state.get("offset")): self._range(s) for i, s in top["storage_data"].items()}
        require(len(places) == len(top["storage_data"]), "two places for one chunk")
        self.tensors, self.objects = {}, {}
        for key, entry in top["state_dict_metadata"].items():
            if type(entry).__name__ == "BytesStorageMetadata":
                self.objects[key] = places.pop((key, None))
                continue
            require(type(entry).__name__ == "TensorStorageMetadata", key)
            dtype, layout, grad, memory, pinned = entry["properties"].state
            require((layout, grad, memory, pinned) == (LAYOUT, False, CONTIGUOUS, False), key, "properties")
            chunks = [Chunk(c["offsets"], c["sizes"], *places.pop((key, c["offsets"]))) for c in entry["chunks"]]
            self.tensors[key] = Tensor(dtype.name, entry["size"], chunks)
            check_tiling(key, self.tensors[key])
        require(not places, "places of unknown chunks:", sorted(places)[:3])
        self._check_files()

    def _range(self, info):
        path, begin, length = info["relative_path"], info["offset"], info["length"]
        require(os.path.basename(path) == path and path.endswith(".distcp"), path)
        return path, begin, length

    def _check_files(self):
        """Items lie one behind the other and fill their files."""
        ranges = {c[2:] for t in self.tensors.values() for c in t.chunks} | set(self.objects.values())
        files = {}
        for file, begin, length in sorted(ranges):
            require(begin == files.get(file, 0), file, "has a hole or an overlap at", files.get(file, 0))
            files[file] = begin + length
        present = {f: os.path.getsize(os.path.join(self.directory, f)) for f in os.listdir(self.directory)
                   if f.endswith(".distcp")}
        require(present == files, "files and items differ:", set(present.items()) ^ set(files.items()))

    def _read(self, file, begin, length):
        with open(os.path.join(self.directory, file), "rb") as f:
            f.seek(begin)
            return f.read(length)

    def object(self, key):
        return load(self._read(*self.objects[key]))

    def array(self, key):
        """-> (dtype, global array)"""
        tensor = self.tensors[key]
        result = np.zeros(tensor.shape, NUMPY[tensor.dtype])
        for chunk in tensor.chunks:
            dtype, array = load(self._read(*chunk[2:]))
            require((dtype, array.shape) == (tensor.dtype, chunk.sizes), key, chunk.offsets, dtype, array.shape)
            result[tuple(slice(o, o + s) for o, s in zip(chunk.offsets, chunk.sizes))] = array
        return tensor.dtype, result

    def arrays(self):
        return {key: self.array(key) for key in self.tensors}

    def edit(self, key, change):
        """change(global array) -> the new one; chunks, lengths and CRCs keep in step."""
        tensor = self.tensors[key]
        changed = np.ascontiguousarray(change(self.array(key)[1].copy()))
        require(changed.shape == tensor.shape and changed.dtype == NUMPY[tensor.dtype], key)
        for chunk in tensor.chunks:
            part = changed[tuple(slice(o, o + s) for o, s in zip(chunk.offsets, chunk.sizes))]
            item = bytearray(self._read(*chunk[2:]))
            with zipfile.ZipFile(io.BytesIO(bytes(item))) as archive:
                info, = (i for i in archive.infolist() if "/data/" in i.filename)
                directory = archive.start_dir
            start, raw = data_offset(item, info), part.tobytes()
            require(len(raw) == info.file_size, key)
            item[start:start + len(raw)] = raw
            struct.pack_into("<I", item, info.header_offset + 14, zlib.crc32(raw))
            entry = item.rindex(struct.pack("<I", info.header_offset) + info.filename.encode()) - 42
            require(entry >= directory, key)
            struct.pack_into("<I", item, entry + 16, zlib.crc32(raw))
            with open(os.path.join(self.directory, chunk.file), "r+b") as f:
                f.seek(chunk.begin)
                f.write(item)
        require(np.array_equal(self.array(key)[1], changed), key, "is not what was written")


def rename(directory, change):
    """Gives every tensor the key change(key). Files stay: only .metadata names tensors. -> {old key: new key}"""
    path = os.path.join(directory, ".metadata")
    keys = {key: change(key) for key in Checkpoint(directory).tensors}
    with open(path, "rb") as f:
        data = f.read()
    out, ops = [], list(pickletools.genops(data))
    for (op, value, begin), end in zip(ops, [o[2] for o in ops[1:]] + [len(data)]):
        if op.name == "BINUNICODE" and value in keys:
            text = keys[value].encode()
            out.append(b"X" + struct.pack("<I", len(text)) + text)
        else:
            out.append(data[begin:end])
    with open(path, "wb") as f:
        f.write(b"".join(out))
    require(set(Checkpoint(directory).tensors) == set(keys.values()), "renamed keys")
    return keys


def check_tiling(key, tensor):
    covered = np.zeros(tensor.shape, np.uint8)
    for chunk in tensor.chunks:
        require(len(chunk.offsets) == len(tensor.shape) == len(chunk.sizes), key, chunk)
        require(all(o >= 0 and s > 0 and o + s <= n for o, s, n in zip(chunk.offsets, chunk.sizes, tensor.shape)),
                key, chunk)
        covered[tuple(slice(o, o + s) for o, s in zip(chunk.offsets, chunk.sizes))] += 1
    require((covered == 1).all(), key, "is not tiled exactly once")


def check_backend(directory):
    with open(os.path.join(directory, "metadata.json"), encoding="utf-8") as f:
        require(json.load(f) == FOUR_KEYS, "metadata.json")
