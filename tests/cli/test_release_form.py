"""`--dtype fp8` makes of a family's values what its FP8 releases store, and no more: which weights those are is said by
the family's description. o_proj is FP8 in MiniMax-M2, Qwen3-MoE and GLM-4.5, and BF16 in MiMo-V2.

Ground truth: what tests/reference/{minimax,qwen3_moe,glm4_moe,model}.py store as a release, and the encoder of
tests/reference/quantize.py.
"""
import unittest

import numpy as np

from harness import checkpoints, compare
from harness.case import ToolCase
from reference import container, minimax, quantize
from reference.glm4_moe import Glm4Moe
from reference.qwen3_moe import Qwen3Moe


class ReleaseForm(ToolCase):
    def types(self, directory):
        return {name: dtype for name, (dtype, _) in container.read_directory(directory).items()}

    def check(self, values, made, released):
        """`made` has the names and types of `released`, and the codes that numpy makes of `values` {name: float32}."""
        self.assertEqual(self.types(made), self.types(released))
        found, count = container.read_directory(made), 0
        for name, (dtype, array) in found.items():
            if dtype != "F8_E4M3":
                continue
            expected = quantize.fp8_block(values[name])
            np.testing.assert_array_equal(array, expected.codes, name)
            np.testing.assert_array_equal(found[name + "_scale_inv"][1], expected.scales, name)
            count += 1
        self.assertGreater(count, 10)
        self.run_tool("mimo-verify", "check", made)
        config = compare.load_json(made, "config.json")["quantization_config"]
        listed = config.get("ignored_layers", config.get("modules_to_not_convert", []))
        self.assertEqual([m for m in listed if m + ".weight_scale_inv" in found], [])
        return found

    def test_minimax(self):
        source = self.at("source")
        minimax.make_checkpoint(source, 3)
        plain = self.convert(source, "plain", "--dtype", "bf16")
        values = {n: minimax.values(container.read_directory(plain), n) for n in container.read_directory(plain)}
        found = self.check(values, self.convert(plain, "fp8", "--dtype", "fp8"), source)
        self.assertEqual(found["model.layers.1.self_attn.o_proj.weight"][0], "F8_E4M3")
        self.assert_same_tensors(source, self.convert(source, "moved", "--dtype", "fp8"))

    def test_qwen3(self):
        released, plain = Qwen3Moe(scales="F32"), Qwen3Moe(fp8="")
        found = self.check(plain.values, self.convert(plain.write(self.at("plain")), "fp8", "--dtype", "fp8"),
                           released.write(self.at("released")))
        self.assertEqual(found["model.layers.1.self_attn.o_proj.weight"][0], "F8_E4M3")

    def test_glm(self):
        """Its releases have a scale per channel, of the same weights; the MTP layer's among them."""
        released, plain = Glm4Moe(fp8="block"), Glm4Moe()
        found = self.check(plain.values, self.convert(plain.write(self.at("plain")), "fp8", "--dtype", "fp8"),
                           released.write(self.at("released")))
        for layer in (1, plain.layers):
            self.assertEqual(found[f"model.layers.{layer}.self_attn.o_proj.weight"][0], "F8_E4M3")

    def test_mimo_keeps_its_output_projections(self):
        source, _ = checkpoints.ours("v2.5")
        plain = self.convert(source, "plain", "--dtype", "bf16", "--qkv", "keep")
        self.assertEqual(self.types(self.convert(plain, "fp8", "--dtype", "fp8")), self.types(source))


if __name__ == "__main__":
    unittest.main()
