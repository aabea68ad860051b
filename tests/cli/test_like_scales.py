"""--like a reference whose block scales are BF16, as Qwen3's releases store them: they are read as the values that they
are, kept while what a run made of a block fits under them, and rounded up to BF16 where a block gets one of its own.

By numpy: tests/reference/quantize.py and codecs.py.
"""
import unittest

import numpy as np

from harness import checkpoints, compare
from harness.breakage import replace
from harness.case import ToolCase
from reference import codecs, container
from reference.qwen3_moe import Qwen3Moe

F = np.float32
Q, DOWN = "model.layers.1.self_attn.q_proj.weight", "model.layers.0.mlp.experts.1.down_proj.weight"


def rounded_up(scales):
    """The least BF16 values that are no less."""
    cut = scales.view(np.uint32) >> 16
    return ((cut + ((scales.view(np.uint32) & 0xFFFF) != 0)) << 16).view(F)


def blocks_of(array):
    return [(r, c) for r in range(0, array.shape[0], 128) for c in range(0, array.shape[1], 128)]


def encoded(values, scales, kept):
    """Codes and scales under the rule, block by block; `scales`: the reference's. -> also how many were made anew"""
    codes, made, fresh = np.zeros(values.shape, np.uint8), scales.copy(), 0
    for r, c in blocks_of(values):
        block, at = values[r:r + 128, c:c + 128], (r // 128, c // 128)
        if not kept or np.abs(block / scales[at]).max() > 464:
            made[at] = rounded_up(np.maximum(np.abs(block).max(), F(1e-12)) / F(448))
            fresh += 1
        codes[r:r + 128, c:c + 128] = codecs.e4m3_encode(np.clip(block / made[at], -448, 448))
    return codes, made, fresh


class LikeScales(ToolCase):
    def source_and_run(self, change=lambda values: values):
        """A release, and its values in BF16 with Q and an expert's down projection changed."""
        model = Qwen3Moe(scales="BF16")
        source = model.write(self.at("source"))
        run = self.convert(source, "run", "--dtype", "bf16")
        for name in (Q, DOWN):
            replace(run, name, lambda t: ("BF16", codecs.bf16_from_f32(change(codecs.f32_from_bf16(t[1])))))
        return model, source, run

    def check(self, model, run, out, kept):
        found, values = container.read_directory(out), container.read_directory(run)
        fresh = 0
        for name, (dtype, array) in model.tensors.items():
            self.assertEqual((found[name][0], found[name][1].shape), (dtype, array.shape), name)
            if name + "_scale_inv" not in model.tensors:
                continue
            scales = codecs.f32_from_bf16(model.tensors[name + "_scale_inv"][1])
            codes, made, anew = encoded(codecs.f32_from_bf16(values[name][1]), scales, kept)
            np.testing.assert_array_equal(codecs.f32_from_bf16(found[name + "_scale_inv"][1]), made, name)
            np.testing.assert_array_equal(found[name][1], codes, name)
            fresh += anew
        self.run_tool("mimo-verify", "check", out)
        self.run_tool("mimo-verify", "compare", run, out, "--within-codec")
        return fresh

    def test_what_nobody_changed_comes_back(self):
        model, source, run = self.source_and_run()
        out = self.convert(run, "out", "--like", source)
        self.assert_same_tensors(model.tensors, out)
        self.assert_same_tensors(model.tensors, self.convert(run, "threads", "--like", source, "--threads", "5"))

    def test_blocks_that_outgrow_their_scale_get_one_that_bf16_holds(self):
        def larger(values):
            values = values.copy()
            values[:128, :128] *= F(1.7)
            values[128:, 128:] *= F(0.9)                               # these fit
            return values
        model, source, run = self.source_and_run(larger)
        out = self.convert(run, "out", "--like", source)
        self.assertEqual(self.check(model, run, out, kept=True), 2)
        blocks = compare.load_json(out, "mimo-manifest.json")["totals"]
        self.assertEqual(blocks["fresh_blocks"], 2)

    def test_fresh_scales(self):
        model, source, run = self.source_and_run()
        out = self.convert(run, "out", "--like", source, "--scale-policy", "fresh")
        self.assertGreater(self.check(model, run, out, kept=False), 20)

    def test_blocks_across_arrays_are_refused(self):
        """V2-Flash's: a scale of K and V is made of both, in F32 alone."""
        origin, _ = checkpoints.ours("v2-flash")
        source = self.convert(origin, "source")
        for name in [n for n in container.read_directory(source) if n.endswith("_scale_inv")]:
            replace(source, name, lambda t: ("BF16", codecs.bf16_from_f32(t[1])))
        run = self.convert(source, "run", "--dtype", "bf16")
        result = self.run_tool("mimo-convert", run, self.at("out"), "--like", source, code=2)
        self.assertIn("blocks across K and V under scales that are BF16", result.stderr)
        self.assert_nothing_published(self.at("out"))

    def test_the_plan_says_so(self):
        _, source, run = self.source_and_run()
        result = self.run_tool("mimo-convert", run, self.at("out"), "--like", source, "--dry-run")
        self.assertIn("rounded up", result.stdout + result.stderr)


if __name__ == "__main__":
    unittest.main()
