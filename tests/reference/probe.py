"""What the generators of other families share: matrices, norms and block FP8 with known values, and the directory.

A generator derives from Probe, names its tensors in build() and says its config.json. Every block of FP8 has a scale of its own, no two
alike, and codes and scales are drawn, so values follow from their definition. Q, K and V, and gate and up, lie far apart in
magnitude, heads of a vector have means of their own: whatever is swapped, shows.
"""
import json
import os

import numpy as np

from reference import codecs, container

BLOCK = 128
F = np.float32


class Probe:
    """tensors: {name: (dtype, array)} as stored. values: {name: float32}, of quantized weights too. plain: dtype of
    what is not quantized ("BF16", "F32"), scales: that of block scales. fp8: "block", "row" (compressed-tensors, one
    per channel) or "" (nothing is quantized)."""

    def __init__(self, seed=1, fp8="block", plain="BF16", scales="F32"):
        self.random = np.random.default_rng([seed, 16])
        self.fp8, self.plain, self.scales = fp8, plain, scales
        self.tensors, self.values = {}, {}
        self.build()

    def put(self, name, values, dtype=None):
        dtype = dtype or self.plain
        array = codecs.encode_as(dtype, np.asarray(values, F))
        self.tensors[name] = (dtype, array)
        self.values[name] = codecs.decode_plain(dtype, array)

    def matrix(self, name, rows, cols, magnitude=0.02, dtype=None):
        self.put(name, self.random.standard_normal((rows, cols)) * magnitude, dtype)

    def norm(self, name, n):
        self.put(name, 1 + 0.1 * self.random.standard_normal(n))

    def heads(self, name, heads, dim, mean):
        """A vector by heads, each with a mean of its own, about `mean`."""
        means = mean * (1 + 0.125 * np.repeat(np.arange(heads), dim))
        self.put(name, means + 0.01 * mean * self.random.standard_normal(heads * dim))

    def linear(self, name, rows, cols, magnitude=0.02):
        """A weight that releases quantize."""
        if not self.fp8:
            return self.matrix(name, rows, cols, magnitude)
        codes = codecs.e4m3_encode(np.clip(self.random.standard_normal((rows, cols)) * 100, -447, 447))
        if self.fp8 == "row":
            scales = (magnitude / 448 * np.exp2(self.random.uniform(-2, 2, (rows, 1)))).astype(F)
            stored, full, part = scales, np.broadcast_to(scales, codes.shape), "_scale"
        else:
            grid = (-(-rows // BLOCK), -(-cols // BLOCK))
            wanted = magnitude / 448 * np.exp2(self.random.uniform(-2, 2, grid))
            stored = codecs.encode_as(self.scales, wanted.astype(F))
            scales = codecs.decode_plain(self.scales, stored)
            full = np.repeat(np.repeat(scales, BLOCK, 0), BLOCK, 1)[:rows, :cols]
            part = "_scale_inv"
            for block in np.ndindex(grid):                         # one code of the largest magnitude in each
                inside = [self.random.integers(b * BLOCK, min((b + 1) * BLOCK, n)) for b, n in zip(block, (rows, cols))]
                codes[tuple(inside)] = self.random.choice((0x7E, 0xFE))
        self.tensors[name] = ("F8_E4M3", codes)
        self.tensors[name + part] = ("F32" if self.fp8 == "row" else self.scales, stored)
        self.values[name] = codecs.E4M3[codes] * full.astype(F)

    def as_bf16(self):
        """What --dtype bf16 must store: what is quantized in BF16, the rest as it is."""
        return {name: ("BF16", codecs.bf16_from_f32(self.values[name])) if dtype == "F8_E4M3" else (dtype, array)
                for name, (dtype, array) in self.tensors.items() if name in self.values}

    def write(self, directory, files=3, config=None):
        """Weights and scales lie wherever the cut between files falls."""
        os.makedirs(directory)
        names, weight_map, total = sorted(self.tensors), {}, 0
        for i in range(files):
            file = f"model-{i + 1:05d}-of-{files:05d}.safetensors"
            part = names[i * len(names) // files:(i + 1) * len(names) // files]
            total += container.write(os.path.join(directory, file), {n: self.tensors[n] for n in part},
                                     {"format": "pt"})
            weight_map.update(dict.fromkeys(part, file))
        documents = {"model.safetensors.index.json": {"metadata": {"total_size": total}, "weight_map": weight_map},
                     "config.json": config or self.config()}
        for name, document in documents.items():
            with open(os.path.join(directory, name), "w") as f:
                json.dump(document, f, indent=2)
        return directory
