"""A checkpoint in memory that is edited and written again, and what edits need to choose from it."""
import copy
import json
import os
import re

import numpy as np

from harness import compare
from judge.directory import INDEX
from reference import container

KINDS = {"an expert": r"\.experts\.\d+\.", "dense": r"\.mlp\.(gate|up|down)_proj\.", "attention": r"\.self_attn\.",
         "MTP": r"\.mtp\.", "everything": r""}
CODES = ("F8_E4M3", "U8")


# At the top of a directory: written from what is edited, or speaking of it.
OWN = ("config.json", INDEX, "hf_quant_config.json", "mimo-manifest.json")


def travelling(directory):
    """Names of the files that lie beside a checkpoint's own, relative to its directory."""
    names = {os.path.normpath(os.path.join(os.path.relpath(folder, directory), name))
             for folder, _, files in os.walk(directory) for name in files}
    return {n for n in names if os.sep in n or not (n.endswith(".safetensors") or n in OWN)}


class State:
    """Files of a directory, as they will be written. Arrays are replaced, never changed in place."""

    def __init__(self, directory, layout):
        self.origin = directory
        self.files = {f: dict(container.read(os.path.join(directory, f))) for f in container.tensor_files(directory)}
        self.config = compare.load_json(directory, "config.json")
        self.index = compare.load_json(directory, INDEX)
        self.layout = layout                 # fused:C, cut:C or independent: what its attention is, whatever is edited
        self.changed = set()                 # tensor files
        self.has_index = True
        self.total_size = None               # what the index says, where that is not what is stored
        # What of the files that travel along is not the origin's: bytes, tensors {name: (dtype, array)}, None: not there.
        self.carried = {}

    def copy(self):
        made = copy.copy(self)
        made.files = {f: dict(t) for f, t in self.files.items()}
        made.config, made.index = copy.deepcopy(self.config), copy.deepcopy(self.index)
        made.changed, made.carried = set(self.changed), dict(self.carried)
        return made

    def names(self, pattern=""):
        return sorted({n for tensors in self.files.values() for n in tensors if re.search(pattern, n)})

    def file_of(self, name):
        held = [f for f in sorted(self.files) if name in self.files[f]]
        if not held:
            raise LookupError(name)
        return held[0]

    def get(self, name):
        return self.files[self.file_of(name)][name]

    def has(self, name):
        return any(name in tensors for tensors in self.files.values())

    def put(self, name, dtype, array, file=None):
        file = file or self.file_of(name)
        self.files.setdefault(file, {})[name] = (dtype, np.ascontiguousarray(array).reshape(np.shape(array)))
        self.changed.add(file)
        self.index["weight_map"].setdefault(name, file)

    def remove(self, name, from_index=True):
        file = self.file_of(name)
        del self.files[file][name]
        self.changed.add(file)
        if from_index:
            self.index["weight_map"].pop(name, None)

    def rename(self, old, new):
        file, (dtype, array) = self.file_of(old), self.get(old)
        self.remove(old)
        self.put(new, dtype, array, file)

    def tensors(self):
        return {n: v for f in sorted(self.files) for n, v in self.files[f].items()}

    def quantization(self):
        return self.config.get("quantization_config")

    def total(self):
        """Bytes of what the index names, where it names it."""
        return sum(a.nbytes for file, tensors in self.files.items() for name, (_, a) in tensors.items()
                   if self.index["weight_map"].get(name, file) == file)

    def write(self, directory):
        """As a directory; what was not edited is linked to the origin's files."""
        os.makedirs(directory)
        if "total_size" in self.index["metadata"]:
            self.index["metadata"]["total_size"] = self.total() if self.total_size is None else self.total_size
        for file, tensors in self.files.items():
            path = os.path.join(directory, file)
            if file in self.changed:
                if tensors:
                    container.write(path, tensors, {"format": "pt"})
            else:
                os.link(os.path.join(self.origin, file), path)
        for name, document in (("config.json", self.config), (INDEX, self.index))[:1 + self.has_index]:
            with open(os.path.join(directory, name), "w") as f:
                json.dump(document, f, indent=1)
        for name in travelling(self.origin) - set(self.carried):
            os.makedirs(os.path.dirname(os.path.join(directory, name)), exist_ok=True)
            os.link(os.path.join(self.origin, name), os.path.join(directory, name))
        for name, content in self.carried.items():
            path = os.path.join(directory, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if isinstance(content, dict):
                container.write(path, content, {"format": "pt"})
            elif content is not None:
                with open(path, "wb") as f:
                    f.write(content)


def pick(random, items):
    return random.choice(items) if items else None


def some(random, items, most=6):
    """One item, a few, or all."""
    if not items:
        return []
    count = random.choice((1, 1, min(len(items), random.randint(1, most)), len(items)))
    return sorted(random.sample(items, count))


def said(names):
    return names[0] if len(names) == 1 else f"{len(names)} tensors, {names[0]} first"


def quantized_modules(state):
    """Modules with codes."""
    return sorted({n[:n.rindex(".")] for n in state.names(r"\.weight(_packed)?$") if state.get(n)[0] in CODES})


def scale_names(state, pattern=r"\.weight_scale(_inv)?$"):
    return state.names(pattern)
