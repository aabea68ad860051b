"""Proves that mimo-inspect says what is on disk: counts and bytes equal to the headers, layout, chunks and MTP as
generated, for every layout the family is stored in; and that it never writes.
"""
import json
import unittest

from harness import checkpoints, compare
from harness.case import ToolCase
from reference.model import VARIANTS

SMALL = dict(pattern=(0, 1), towers=False, experts=2)
EXPECTED = {"v2-flash": ("split", 4), "v2.5": ("fused", 4), "v2.5-pro": ("fused", 8), "v2.6": ("fused", 4),
            "plain": ("fused", 1)}


class Inspect(ToolCase):
    tool = "mimo-inspect"

    def inspect(self, source, *options):
        before = compare.identity(source)
        result = self.run_tool("mimo-inspect", source, "--json", *options)
        self.assertEqual(before, compare.identity(source), "inspecting changed the checkpoint")
        return json.loads(result.stdout)

    def check(self, source, model, layout, chunks):
        found = self.inspect(source)
        self.assertEqual(found["tensor_count"], len(model.tensors))
        self.assertEqual(found["payload_bytes"], sum(a.nbytes for _, a in model.tensors.values()))
        self.assertEqual(found["mtp_layers"], model.spec.mtp)
        self.assertEqual((found["qkv_layout"], found["qkv_chunks"]), (layout, chunks))
        return found

    def test_every_variant(self):
        for variant in VARIANTS:
            with self.subTest(variant):
                source, model = checkpoints.ours(variant, **SMALL)
                self.assertTrue(self.check(source, model, *EXPECTED[variant])["family"])

    def test_towers_are_counted(self):
        source, model = checkpoints.ours("v2.5")
        self.check(source, model, "fused", 4)

    def test_layouts(self):
        for spec, expected in ((dict(qkv="fused:2"), ("fused", 2)), (dict(replicate=8), ("fused", 8)),
                               (dict(store="bf16"), ("fused", 4))):
            with self.subTest(**spec):
                source, model = checkpoints.ours("v2.5", **dict(SMALL, **spec))
                self.check(source, model, *expected)

    def test_no_mtp(self):
        source, model = checkpoints.ours("v2.5", **dict(SMALL, mtp=0))
        self.check(source, model, "fused", 4)

    def test_after_conversion(self):
        source, _ = checkpoints.ours("v2.5", **SMALL)
        out = self.convert(source, "out", "--dtype", "bf16", "--qkv", "split")
        found = self.inspect(out)
        self.assertEqual(found["qkv_layout"], "split")
        index = compare.load_json(out, "model.safetensors.index.json")
        self.assertEqual(found["payload_bytes"], index["metadata"]["total_size"])

    def test_text_output(self):
        source, model = checkpoints.ours("v2.5", **SMALL)
        text = self.run_tool("mimo-inspect", source).stdout
        for word in ("fused", "MTP", "4"):
            self.assertIn(word.lower(), text.lower())

    def test_help_and_version(self):
        for tool in ("mimo-inspect", "mimo-convert", "mimo-synth"):
            text = self.run_tool(tool, "--help").stdout
            self.assertIn(f"  {tool} ", text, "no example")
            self.assertRegex(self.run_tool(tool, "--version").stdout, r"\d+\.\d+\.\d+")

    def test_not_a_checkpoint(self):
        self.run_tool("mimo-inspect", self.tmp, code=3)
        self.run_tool("mimo-inspect", self.at("nothing"), code=(3, 4))
        self.run_tool("mimo-inspect", code=2)


if __name__ == "__main__":
    unittest.main()
