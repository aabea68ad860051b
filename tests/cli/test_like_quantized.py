"""Proves that `--like` takes runs that are quantized themselves: codes that lie as the reference's do are moved, byte for
byte, under whatever scales the run has; and under a reference of values they are decoded as `--dtype bf16` decodes them,
blocks that K and V share included.
"""
import os
import shutil
import unittest

import numpy as np

from harness import breakage, checkpoints
from harness.case import ToolCase
from reference import container
from reference.make import VARIANTS

SMALL = checkpoints.TINY
NAME = "model.layers.1.mlp.experts.0.up_proj.weight"


class QuantizedRuns(ToolCase):
    def test_a_run_that_is_stored_as_its_reference(self):
        for variant in VARIANTS:
            with self.subTest(variant):
                reference = checkpoints.ours(variant, **SMALL)[0]
                run = self.at(f"run-{variant}")
                shutil.copytree(reference, run)
                scale = NAME + ("_scale" if variant == "v2.6" else "_scale_inv")

                def other(stored):           # twice the values, which the reference has not
                    return stored[0], (stored[1] + np.uint8(1) if stored[0] == "U8" else stored[1] * np.float32(2))
                breakage.replace(run, scale, other)
                out = self.convert(run, f"out-{variant}", "--to", "hf", "--like", reference)
                self.assert_same_tensors(run, out)
                self.assertFalse(np.array_equal(container.read_directory(out)[scale][1],
                                                container.read_directory(reference)[scale][1]))
                self.run_tool("mimo-verify", "check", out)

    def test_codes_of_nvfp4(self):
        reference = checkpoints.ours("v2.5", **dict(SMALL, store="nvfp4"))[0]
        self.assert_same_tensors(reference, self.convert(reference, "out", "--to", "hf", "--like", reference))

    def test_a_reference_of_values(self):
        for variant in ("v2-flash", "v2.5", "v2.5-pro", "v2.6"):
            with self.subTest(variant):
                run = checkpoints.ours(variant, **dict(SMALL, pattern=(0, 1, 0)))[0]
                reference = self.convert(run, f"reference-{variant}", "--dtype", "bf16", "--qkv", "split")
                out = self.convert(run, f"out-{variant}", "--to", "hf", "--like", reference)
                self.assert_same_tensors(reference, out)

    def test_files_are_the_run_s_and_not_links_to_the_reference(self):
        reference = checkpoints.ours("v2.5", **SMALL)[0]
        run = self.at("run")
        shutil.copytree(reference, run)
        breakage.replace(run, NAME + "_scale_inv", lambda t: (t[0], t[1] * np.float32(2)))
        out = self.convert(run, "out", "--to", "hf", "--like", reference, "--link", "hard")
        self.assert_same_tensors(run, out)
        file = os.path.basename(breakage.file_of(out, NAME))
        self.assertNotEqual(os.stat(os.path.join(out, file)).st_ino, os.stat(os.path.join(reference, file)).st_ino)


if __name__ == "__main__":
    unittest.main()
