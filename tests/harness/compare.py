"""Comparing checkpoints tensor by tensor and directory trees byte by byte."""
import hashlib
import json
import os

import numpy as np

from reference import container


def differences(expected, found, limit=8):
    """Lines that say how two {name: (dtype, array)} differ; empty when names, dtypes, shapes and bytes are equal."""
    lines = [f"missing: {n}" for n in sorted(set(expected) - set(found))]
    lines += [f"unexpected: {n}" for n in sorted(set(found) - set(expected))]
    for name in sorted(set(expected) & set(found)):
        (dtype, a), (other, b) = expected[name], found[name]
        if dtype != other or a.shape != b.shape:
            lines.append(f"{name}: expected {dtype} {a.shape}, found {other} {b.shape}")
        elif a.tobytes() != b.tobytes():
            x, y = (np.ascontiguousarray(v).reshape(v.shape[0] if v.ndim else 1, -1).view(np.uint8) for v in (a, b))
            rows = np.flatnonzero((x != y).any(axis=1))
            lines.append(f"{name}: {rows.size} of {x.shape[0]} rows differ, first {rows[:6].tolist()}")
        if len(lines) > limit:
            break
    return lines[:limit]


def tree(directory, skip=()):
    """{relative path: digest} of all files, links followed; `skip` are relative paths or first path components."""
    result = {}
    for root, _, files in os.walk(directory):
        for file in files:
            path = os.path.join(root, file)
            relative = os.path.relpath(path, directory)
            if relative in skip or relative.split(os.sep)[0] in skip:
                continue
            digest = hashlib.sha256()
            with open(path, "rb") as f:
                for chunk in iter(lambda: f.read(1 << 20), b""):
                    digest.update(chunk)
            result[relative] = digest.hexdigest()
    return result


def identity(directory):
    """{relative path: (inode, size, mtime)}: changes when anything in a source directory was touched."""
    result = {}
    for root, _, files in os.walk(directory):
        for file in files:
            path = os.path.join(root, file)
            info = os.stat(path) if os.path.exists(path) else os.lstat(path)
            result[os.path.relpath(path, directory)] = (info.st_ino, info.st_size, info.st_mtime_ns)
    return result


def published(directory):
    """What of a result lies where an engine would find it."""
    if not os.path.isdir(directory):
        return []
    return sorted(f for f in os.listdir(directory)
                  if f in ("config.json", "mimo-manifest.json") or f.endswith((".safetensors", ".index.json")))


def index_problems(directory):
    """Lines that say where the index disagrees with the files."""
    with open(os.path.join(directory, "model.safetensors.index.json")) as f:
        index = json.load(f)
    lines, where, total = [], {}, 0
    for file in container.tensor_files(directory):
        tensors, metadata, _ = container.read_header(os.path.join(directory, file))
        if metadata.get("format") != "pt":
            lines.append(f"{file}: __metadata__ lacks format: pt")
        for name, (_, _, begin, end) in tensors.items():
            where[name] = file
            total += end - begin
    if where != index["weight_map"]:
        odd = set(where.items()) ^ set(index["weight_map"].items())
        lines.append(f"weight_map differs from the headers: {sorted(odd)[:4]}")
    if index["metadata"].get("total_size") != total:
        lines.append(f"total_size {index['metadata'].get('total_size')}, payload {total}")
    return lines


def load_json(*parts):
    with open(os.path.join(*parts)) as f:
        return json.load(f)
