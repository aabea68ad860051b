"""Proves that quantized checkpoints are sources too, and that what needs no rounding is not rounded: MXFP4 -> NVFP4 and
block FP8, power-of-two FP8 -> MXFP8, and same-codec moves keep their values bit for bit and are counted; NVFP4 and MXFP8
(of ModelOpt and compressed-tensors, written by others or by us) dequantize and re-quantize as the numpy codecs say.
"""
import shutil
import unittest

import numpy as np

from harness import breakage, checkpoints, compare
from harness.requant_case import RequantCase
from reference import container, decode

SMALL = dict(pattern=(0, 1), mtp=1, experts=2, towers=False, extremes=False)


class Exact(RequantCase):
    def check_exact(self, source, recipe, what, **account):
        """Every weight stored as `what` decodes to the source's values, and all its blocks were moved."""
        out, expected = self.check(source, recipe, **account)
        made = {w: m for w, m in expected.made.items() if what(w)}
        self.assertTrue(made)
        for weight, one in made.items():
            self.assertTrue(np.array_equal(one.values, one.decoded), weight)
            self.assertEqual(one.encoded.blocks, one.encoded.exact, weight)
        return out

    def test_mxfp4_to_nvfp4(self):
        source, _ = checkpoints.ours("v2.6", **SMALL)
        out = self.check_exact(source, "nvfp4", lambda w: ".experts." in w)
        back = self.convert(out, "back", "--dtype", "bf16")
        values = decode.stored_as(decode.checkpoint(source), "bf16")
        self.assert_same_tensors(values, back, "MXFP4 -> NVFP4 -> BF16")

    def test_mxfp4_beyond_the_range(self):
        """One group 18 binades below the largest: its expert's gate and up are encoded instead, the others still moved."""
        source, model = checkpoints.ours("v2.6", seed=12, **SMALL)
        tensors = container.read_directory(source)
        wide = self.copy_with(source, {"model.layers.1.mlp.experts.0.up_proj.weight_scale": lambda a: self.widen(a)})
        out, expected = self.check(wide, "nvfp4-experts")
        exact = {w.split("experts.")[1]: m.encoded.exact for w, m in expected.made.items()}
        self.assertEqual([exact[f"0.{x}_proj.weight"] > 0 for x in ("gate", "up", "down")], [False, False, True])
        self.assertTrue(all(n > 0 for w, n in exact.items() if w.startswith("1.")))
        self.assertEqual(len(tensors), len(container.read_directory(wide)))

    @staticmethod
    def widen(scale):
        scale[0], scale[1] = 90, 108
        return scale

    def copy_with(self, source, changes):
        copy = self.at("changed")
        shutil.copytree(source, copy)
        for name, change in changes.items():
            breakage.replace(copy, name, lambda value, change=change: (value[0], change(value[1].copy())))
        return copy

    def test_mxfp4_to_block_fp8(self):
        source, _ = checkpoints.ours("v2.6", **SMALL)
        self.check_exact(source, "fp8-all", lambda w: ".experts." in w)

    def test_powers_of_two_to_mxfp8(self):
        for variant in ("v2.5", "v2-flash", "v2.5-pro"):
            with self.subTest(variant):
                self.setUp()
                source, model = checkpoints.ours(variant, store="ue8m0", **SMALL)
                out = self.check_exact(source, "mxfp8", lambda w: "mtp" not in w)
                values = decode.checkpoint(source)
                back = decode.checkpoint(out)
                for name in back:
                    if name.endswith("_proj.weight") and ".self_attn." in name and back[name].values is not None:
                        self.assertTrue(np.array_equal(values[name].values, back[name].values), name)

    def test_same_codec_is_moved(self):
        for store, recipe in (("nvfp4", "nvfp4-experts"), ("nvfp4", "nvfp4"), ("mxfp8", "mxfp8"), ("fp8", "fp8-all")):
            with self.subTest(store=store, recipe=recipe):
                self.setUp()
                source, _ = checkpoints.ours("v2.5", store=store, **SMALL)
                out, expected = self.check(source, recipe)
                before = container.read_directory(source)
                moved = {n: v for n, v in before.items() if ".experts." in n}
                self.assert_same_tensors(moved, {n: v for n, v in container.read_directory(out).items() if n in moved})


class Again(RequantCase):
    """From NVFP4 and MXFP8."""

    def test_to_bf16(self):
        for store in ("nvfp4", "nvfp4-ct", "mxfp8", "ue8m0"):
            for variant in ("v2.5", "v2-flash"):
                with self.subTest(store=store, variant=variant):
                    self.setUp()
                    source, model = checkpoints.ours(variant, store=store, **SMALL)
                    out = self.convert(source, "out", "--dtype", "bf16", "--qkv", "split")
                    self.assert_same_tensors(decode.stored_as(model.values, "bf16"), out, f"{variant} {store}")
                    config = compare.load_json(out, "config.json")
                    self.assertNotIn("quantization_config", config)
                    for target in ("fp32", "fp16") if store != "fp8" else ():
                        other = self.convert(source, "out-" + target, "--dtype", target, "--qkv", "split")
                        self.assert_same_tensors(decode.stored_as(model.values, target), other,
                                                 f"{variant} {store} {target}")

    def test_to_another_format(self):
        for store in ("nvfp4", "nvfp4-ct", "mxfp8", "ue8m0"):
            for recipe in ("mxfp4-experts", "mxfp8", "nvfp4-mlp", "fp8-all"):
                if (store, recipe) in (("nvfp4-ct", "nvfp4-mlp"),):
                    continue                               # the same codec under other names: below
                with self.subTest(store=store, recipe=recipe):
                    self.setUp()
                    source, _ = checkpoints.ours("v2.5", store=store, **SMALL)
                    self.check(source, recipe)

    def test_between_the_dialects(self):
        """The same codes and scales under other names, the global inverted; the values move by its rounding at most."""
        for store, dialect in (("nvfp4", "compressed-tensors"), ("nvfp4-ct", "modelopt")):
            with self.subTest(store=store):
                self.setUp()
                source, model = checkpoints.ours("v2.5", store=store, **SMALL)
                out = self.convert(source, "out", "--recipe", "nvfp4", "--dialect", dialect)
                values = decode.checkpoint(out)
                for name, value in model.values.items():
                    if ".experts." in name:
                        np.testing.assert_allclose(values[name].values, value.values, rtol=2.0**-20)
                before, after = container.read_directory(source), container.read_directory(out)
                names = ("_packed", "") if store == "nvfp4-ct" else ("", "_packed")
                for weight in (n for n in model.values if ".experts." in n):
                    self.assertEqual(before[weight + names[0]][1].tobytes(), after[weight + names[1]][1].tobytes())
                    self.assertEqual(before[weight + "_scale"][1].tobytes(), after[weight + "_scale"][1].tobytes())

    def test_ours_read_back(self):
        """decode(our output) by the tool equals decode(our output) by numpy, for every quantized form we write."""
        source, _ = checkpoints.ours("v2.5", **SMALL)
        for recipe, dialect in (("nvfp4", ""), ("nvfp4-mlp", "compressed-tensors"), ("mxfp8", ""),
                                ("mxfp8", "compressed-tensors"),
                                ("nvfp4-experts+mxfp8-attention", ""), ("mxfp4-experts", ""),
                                ("mxfp4-experts", "compressed-tensors"),
                                ("nvfp4+fp8-head", ""), ("fp8-all", "compressed-tensors")):
            with self.subTest(recipe=recipe, dialect=dialect):
                self.setUp()
                options = ("--dialect", dialect) if dialect else ()
                out = self.convert(source, "out", "--recipe", recipe, *options)
                back = self.convert(out, "back", "--dtype", "bf16", "--qkv", "split")
                self.assert_same_tensors(decode.stored_as(decode.checkpoint(out), "bf16"), back, f"{recipe} {dialect}")


if __name__ == "__main__":
    unittest.main()
