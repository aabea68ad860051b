"""Proves that others read what we write: the safetensors package (through torch where it is installed, else numpy)
opens every shard and yields our bytes, and a loader that goes by the index, as transformers does, finds every tensor.
"""
import json
import os
import unittest

from harness import checkpoints, compare
from harness.case import ToolCase
from reference import container, decode

try:
    import safetensors
except ImportError:
    safetensors = None
try:
    import torch
except ImportError:
    torch = None

SMALL = dict(pattern=(0, 1), mtp=1, experts=2)
CONVERSIONS = (("v2.5", ("--dtype", "bf16", "--qkv", "split")), ("v2.5", ("--dtype", "fp16", "--qkv", "split")),
               ("v2.6", ("--dtype", "fp32", "--qkv", "split")), ("v2-flash", ("--dtype", "keep", "--qkv", "fused:4")),
               ("v2.5", ("--dtype", "bf16", "--qkv", "fused:8", "--max-shard-size", "2MB")), ("v2.6", ()))


@unittest.skipUnless(safetensors, "the safetensors package is not installed")
class Safetensors(ToolCase):
    def each_output(self):
        for variant, options in CONVERSIONS:
            with self.subTest(variant, options=options):
                self.setUp()
                source, model = checkpoints.ours(variant, extremes=False, **SMALL)
                yield source, self.convert(source, "out", *options)

    def test_headers_and_bytes(self):
        """deserialize() is the strict parser behind every front end; its bytes are compared with ours."""
        for _, out in self.each_output():
            for file in container.tensor_files(out):
                with open(os.path.join(out, file), "rb") as f:
                    theirs = dict(safetensors.deserialize(f.read()))
                ours = container.read(os.path.join(out, file))
                self.assertEqual(sorted(theirs), sorted(ours))
                for name, (dtype, array) in ours.items():
                    self.assertEqual(theirs[name]["dtype"], dtype, name)
                    self.assertEqual(tuple(theirs[name]["shape"]), array.shape, name)
                    self.assertEqual(bytes(theirs[name]["data"]), array.tobytes(), name)

    def test_safe_open(self):
        for _, out in self.each_output():
            for file in container.tensor_files(out):
                with safetensors.safe_open(os.path.join(out, file), framework="numpy") as f:
                    self.assertEqual(f.metadata()["format"], "pt")
                    for name, (dtype, array) in container.read(os.path.join(out, file)).items():
                        self.assertEqual(tuple(f.get_slice(name).get_shape()), array.shape)
                        if dtype in ("F16", "F32", "U8"):          # numpy has no bfloat16 nor float8
                            self.assertEqual(f.get_tensor(name).tobytes(), array.tobytes(), name)

    @unittest.skipUnless(torch, "torch is not installed")
    def test_torch(self):
        names = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F8_E4M3": "float8_e4m3fn", "U8": "uint8"}
        for _, out in self.each_output():
            for file in container.tensor_files(out):
                with safetensors.safe_open(os.path.join(out, file), framework="pt") as f:
                    for name, (dtype, array) in container.read(os.path.join(out, file)).items():
                        tensor = f.get_tensor(name)
                        self.assertEqual(tensor.dtype, getattr(torch, names[dtype]), name)
                        self.assertEqual(tensor.contiguous().view(torch.uint8).numpy().tobytes(), array.tobytes(), name)

    @unittest.skipUnless(torch, "torch is not installed")
    def test_torch_agrees_on_values(self):
        """torch's own casts of the FP8 codes give our BF16."""
        source, _ = checkpoints.ours("v2.5", extremes=False, **SMALL)
        out = container.read_directory(self.convert(source, "out", "--dtype", "bf16", "--qkv", "split"))
        tensors = container.read_directory(source)
        name = "model.layers.0.mlp.down_proj.weight"
        codes = torch.from_numpy(tensors[name][1].copy()).view(torch.float8_e4m3fn).float()
        scale = torch.from_numpy(tensors[name + "_scale_inv"][1].copy())
        scale = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)[:codes.shape[0], :codes.shape[1]]
        value = (codes * scale).to(torch.bfloat16).view(torch.uint8).numpy()
        self.assertEqual(value.tobytes(), out[name][1].tobytes())


class Index(ToolCase):
    """What transformers, vLLM and SGLang do first: config.json, then the index, then each file it names."""

    def test_every_tensor_is_found_through_the_index(self):
        for variant, options in CONVERSIONS:
            with self.subTest(variant, options=options):
                self.setUp()
                source, _ = checkpoints.ours(variant, extremes=False, **SMALL)
                out = self.convert(source, "out", *options)
                self.assertEqual(compare.index_problems(out), [])
                with open(os.path.join(out, "model.safetensors.index.json")) as f:
                    index = json.load(f)
                self.assertIsInstance(index["metadata"]["total_size"], int)
                for file in sorted(set(index["weight_map"].values())):
                    self.assertEqual(os.path.basename(file), file)
                    self.assertTrue(os.path.isfile(os.path.join(out, file)))
                self.assertEqual(list(index["weight_map"]), sorted(index["weight_map"]))

    def test_remote_code_still_resolves(self):
        for variant in ("v2-flash", "v2.5"):
            source, _ = checkpoints.ours(variant, extremes=False, **SMALL)
            out = self.convert(source, f"out-{variant}", "--dtype", "bf16", "--qkv", "split")
            config = compare.load_json(out, "config.json")
            self.assertTrue(config["architectures"])
            for reference in config["auto_map"].values():
                self.assertTrue(os.path.isfile(os.path.join(out, reference.split(".")[0] + ".py")), reference)

    def test_engines_that_glob_see_only_finished_shards(self):
        source, model = checkpoints.ours("v2.5", extremes=False, **SMALL)
        out = self.convert(source, "out", "--dtype", "bf16", "--qkv", "split", "--max-shard-size", "2MB")
        self.assert_same_tensors(decode.stored_as(model.values, "bf16"), container.read_directory(out))


if __name__ == "__main__":
    unittest.main()
