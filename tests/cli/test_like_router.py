"""A run whose router was cast to BF16: --like keeps the F32 bits of the reference wherever they round to the run's."""
import json
import os
import unittest

import numpy as np

from harness import checkpoints
from harness.case import ToolCase
from reference import codecs, container

ROUTER = ("mlp.gate.weight", "mlp.gate.e_score_correction_bias")


class LikeRouter(ToolCase):
    def run_of(self, reference, change):
        """The reference dequantized, its router through change(name, F32 values) -> (dtype, array)."""
        run = self.convert(reference, "run", "--dtype", "bf16", "--qkv", "split")
        for name in ("mimo-manifest.json", "mimo-partial"):
            if os.path.exists(os.path.join(run, name)):
                os.remove(os.path.join(run, name))
        for file in container.tensor_files(run):
            path = os.path.join(run, file)
            tensors = {n: (d, np.array(a)) for n, (d, a) in container.read(path).items()}
            for name, (dtype, array) in tensors.items():
                if name.endswith(ROUTER) and "mtp" not in name:
                    tensors[name] = change(name, array)
            container.write(path, tensors, {"format": "pt"})
        return run

    def routers(self, directory):
        return {n: np.array(a) for n, (d, a) in container.read_directory(directory).items() if n.endswith(ROUTER)}

    def test_bits_come_back_and_what_was_lost_is_counted(self):
        reference, _ = checkpoints.ours("v2.5", **checkpoints.TINY)
        before = self.routers(reference)
        moved = {}

        def cast(name, values):
            bits = codecs.bf16_from_f32(values)
            flat = bits.reshape(-1)
            moved[name] = np.arange(1, flat.size, 7)
            flat[moved[name]] += 3
            return "BF16", bits
        run = self.run_of(reference, cast)
        for memory in ("1GiB", "16MiB"):
            out = self.convert(run, f"out-{memory}", "--like", reference, "--memory", memory)
            after = self.routers(out)
            self.assertEqual(sorted(after), sorted(before))
            stored = self.routers(run)
            with open(os.path.join(out, "mimo-manifest.json")) as f:
                manifest = {t["name"]: t for t in json.load(f)["tensors"]}
            for name in before:
                expected = before[name].view(np.uint32).reshape(-1).copy()
                widened = stored[name].reshape(-1).astype(np.uint32) << 16
                expected[moved[name]] = widened[moved[name]]
                self.assertTrue(np.array_equal(after[name].view(np.uint32).reshape(-1), expected), name)
                self.assertEqual(manifest[name]["inexact_codes"], len(moved[name]), name)
        self.run_tool("mimo-verify", "check", out)

    def test_a_constant_bias_of_bf16_is_that_of_the_reference_where_it_rounds_there(self):
        reference, _ = checkpoints.ours("v2.5", **checkpoints.TINY)
        before = self.routers(reference)
        run = self.run_of(reference, lambda name, values: ("BF16", codecs.bf16_from_f32(values)))
        plan = self.run_tool("mimo-convert", run, "--like", reference, "--dry-run").stdout
        self.assertIn("BF16 in the run and F32 in the reference", plan)
        out = self.convert(run, "out", "--like", reference)
        for name, values in self.routers(out).items():
            self.assertTrue(np.array_equal(values.view(np.uint32), before[name].view(np.uint32)), name)

    def test_f32_of_the_run_is_the_runs(self):
        reference, _ = checkpoints.ours("v2.5", **checkpoints.TINY)
        run = self.run_of(reference, lambda name, values: ("F32", values + np.float32(1e-6)))
        out = self.convert(run, "out", "--like", reference)
        for name, values in self.routers(out).items():
            self.assertTrue(np.array_equal(values.view(np.uint32), self.routers(run)[name].view(np.uint32)), name)


if __name__ == "__main__":
    unittest.main()
