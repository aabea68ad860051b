"""The arrays of a checkpoint directory, from the headers of its tensor files."""
import json
import os

from reference import container

INDEX = "model.safetensors.index.json"


def _document(directory, name):
    path = os.path.join(directory, name)
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8") as f:
        return json.load(f)


class Directory:
    """Of a tensor that several files hold, the copy in the file that the index names is the model's; where the index
    names none of them, the copies must be equal, or nobody can say which is meant (a doubt)."""

    def __init__(self, path):
        self.path = path
        self.config = _document(path, "config.json") or {}
        self.index = _document(path, INDEX)
        self.hf_quant = _document(path, "hf_quant_config.json")
        self.files = {f: container.read(os.path.join(path, f)) for f in container.tensor_files(path)}
        self.holders = {}                    # name -> files
        for file, tensors in self.files.items():
            for name in tensors:
                self.holders.setdefault(name, []).append(file)
        self.weight_map = (self.index or {}).get("weight_map") or {}
        self.metadata = (self.index or {}).get("metadata") or {}
        self.tensors = {}                    # name -> (dtype, array)
        self.doubts = []                     # (what it is about, why nobody can say what it means)
        for name, files in self.holders.items():
            named = self.weight_map.get(name)
            if len(files) > 1 and named not in files and len({self._identity(f, name) for f in files}) > 1:
                self.doubts.append((name, f"differs between {' and '.join(files)}, and the index does not decide"))
            self.tensors[name] = self.files[named if named in files else files[0]][name]
        for name, file in self.weight_map.items():
            if name not in self.holders:
                self.doubts.append((name, f"the index has it in {file}, and no file does"))

    def _identity(self, file, name):
        dtype, array = self.files[file][name]
        return dtype, array.shape, array.tobytes()
