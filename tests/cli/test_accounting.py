"""Proves that the model tables account for every byte: a full-size synthetic checkpoint of each released family has
exactly the published number of tensors and payload bytes, and mimo-inspect reports the layout facts an engine needs.
Measures (prints, does not assert) the cost of planning the largest one.

The files are sparse: a terabyte of holes. Skipped where the file system cannot hold such files.
"""
import json
import os
import shutil
import sys
import unittest

from harness.case import ToolCase
from harness.sparse import holds_large_sparse_files
from reference import decode

# preset: (tensors, payload bytes, layout, chunks). Published totals (docs/reference/mimo-checkpoints.md, section 9.1);
# V2-Flash's follows from its per-file key counts.
PUBLISHED = {
    "mimo-v2-flash": (72826, 313051659008, "split", 4),
    "mimo-v2.5": (73081, 315031102208, "fused", 4),
    "mimo-v2.5-pro": (159581, 1033369538304, "fused", 8),
    "mimo-v2.6-flash": (73081, 172923364096, "fused", 4),
    "mimo-v2.6-pro": (160040, 566027990784, "fused", 8),
}


class FullSize(ToolCase):
    tool = "mimo-synth"

    def setUp(self):
        super().setUp()
        if not holds_large_sparse_files(self.tmp):
            self.skipTest("no large sparse files here")

    def check(self, preset):
        tensors, payload, layout, chunks = PUBLISHED[preset]
        source = self.at("checkpoint")
        self.run_tool("mimo-synth", preset, source, "--sparse")
        result = self.run_tool("mimo-inspect", source, "--json", measure=True)
        found = json.loads(result.stdout)
        self.assertEqual(found["tensor_count"], tensors)
        self.assertEqual(found["payload_bytes"], payload)
        self.assertEqual(found["mtp_layers"], 3)
        self.assertEqual(found["qkv_layout"], layout)
        self.assertEqual(found["qkv_chunks"], chunks)
        self.assertTrue(found["family"])
        with open(os.path.join(source, "model.safetensors.index.json")) as f:
            index = json.load(f)
        self.assertEqual(index["metadata"]["total_size"], payload)
        self.assertEqual(len(index["weight_map"]), tensors)
        print(f"\n{preset}: {found['family']}, inspected in {result.seconds:.2f} s, {result.peak_bytes >> 20} MiB",
              file=sys.stderr)
        return source

    def test_v2_flash(self):
        self.check("mimo-v2-flash")

    def test_v2_5(self):
        self.check("mimo-v2.5")

    def test_v2_6_flash(self):
        self.check("mimo-v2.6-flash")

    def test_v2_6_pro(self):
        self.check("mimo-v2.6-pro")

    def test_v2_5_pro_and_its_plan(self):
        source = self.check("mimo-v2.5-pro")
        for options in (("--dtype", "bf16", "--qkv", "split"), ("--dtype", "keep", "--qkv", "split")):
            result = self.run_tool("mimo-convert", source, self.at("out"), "--dry-run", *options, measure=True)
            self.assertFalse(os.path.exists(self.at("out")), "a dry run writes nothing")
            print(f"\nplan of mimo-v2.5-pro {' '.join(options)}: {result.seconds:.2f} s, {result.peak_bytes >> 20} MiB",
                  file=sys.stderr)


class Scaled(ToolCase):
    """mimo-synth makes any scale, with data that the other tools accept."""

    tool = "mimo-synth"

    def test_small_presets_convert(self):
        for preset in sorted(PUBLISHED):
            with self.subTest(preset):
                self.setUp()
                source = self.at("checkpoint")
                options = ["--layers", "2", "--experts", "2", "--vocab", "256"]
                self.run_tool("mimo-synth", preset, source, "--sparse", *options)
                result = self.run_tool("mimo-inspect", source, "--json")
                self.assertEqual(json.loads(result.stdout)["mtp_layers"], 3)
                self.run_tool("mimo-convert", source, self.at("out"), "--dry-run", "--dtype", "bf16", "--qkv", "split")
                shutil.rmtree(self.tmp, ignore_errors=True)

    def test_same_seed_same_bytes(self):
        options = ("--layers", "2", "--experts", "2", "--hidden", "256", "--vocab", "256", "--intermediate", "256",
                   "--moe-intermediate", "128")
        for name in ("a", "b"):
            self.run_tool("mimo-synth", "mimo-v2-flash", self.at(name), *options, "--threads", 1 if name == "a" else 4)
        self.assert_same_trees(self.at("a"), self.at("b"))

    def test_data_converts(self):
        """Not only headers: the decoder of the tests reads a small synthetic checkpoint as the converter does."""
        for preset, chunks in (("mimo-v2-flash", 4), ("mimo-v2.5", 4), ("mimo-v2.5-pro", 8), ("mimo-v2.6-flash", 4)):
            with self.subTest(preset):
                self.setUp()
                self.run_tool("mimo-synth", preset, self.at("checkpoint"), "--layers", 2, "--experts", 2,
                              "--hidden", 256, "--vocab", 256, "--intermediate", 256,
                              "--moe-intermediate", 128, "--no-towers")
                out = self.convert(self.at("checkpoint"), "out", "--dtype", "bf16", "--qkv", "split")
                values = decode.checkpoint(self.at("checkpoint"), chunks)
                self.assert_same_tensors(decode.stored_as(values, "bf16"), out)

    def test_unknown_preset(self):
        result = self.run_tool("mimo-synth", "mimo-v9", self.at("out"), code=2)
        self.assertIn("mimo-v9", result.stderr)


if __name__ == "__main__":
    unittest.main()
