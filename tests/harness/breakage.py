"""Breaking checkpoints on purpose: edits of headers, data, config and index of a copied directory."""
import json
import os
import struct

import numpy as np

from reference import container


def split_file(path):
    """-> (header as a dict, data bytes)"""
    with open(path, "rb") as f:
        length = struct.unpack("<Q", f.read(8))[0]
        return json.loads(f.read(length)), f.read()


def join_file(path, header, data):
    """`header` is a dict or raw JSON bytes; nothing is checked."""
    with open(path, "wb") as f:
        f.write(container.pack_header(header) + data)


def file_of(directory, tensor):
    for file in container.tensor_files(directory):
        if tensor in container.read_header(os.path.join(directory, file))[0]:
            return os.path.join(directory, file)
    raise KeyError(tensor)


def edit_header(directory, tensor, change):
    """change(entry) edits the tensor's header entry in place; data stays."""
    path = file_of(directory, tensor)
    header, data = split_file(path)
    change(header[tensor])
    join_file(path, header, data)
    return path


def replace(directory, tensor, change):
    """Rewrites the tensor's file, well formed. change((dtype, array)) -> (dtype, array), or None to leave it out."""
    path = file_of(directory, tensor)
    tensors = {n: (d, a.copy()) for n, (d, a) in container.read(path).items()}
    changed = change(tensors[tensor])
    if changed is None:
        del tensors[tensor]
    else:
        tensors[tensor] = (changed[0], np.ascontiguousarray(changed[1]))
    container.write(path, tensors, {"format": "pt"})
    return path


def add(directory, file, tensor, dtype, array):
    path = os.path.join(directory, file)
    tensors = dict(container.read(path)) if os.path.exists(path) else {}
    tensors = {n: (d, a.copy()) for n, (d, a) in tensors.items()}
    tensors[tensor] = (dtype, array)
    container.write(path, tensors, {"format": "pt"})


def edit_json(directory, file, change):
    path = os.path.join(directory, file)
    with open(path) as f:
        document = json.load(f)
    change(document)
    with open(path, "w") as f:
        json.dump(document, f)


def truncate(path, size):
    with open(path, "r+b") as f:
        f.truncate(size if size >= 0 else os.path.getsize(path) + size)
