"""Proves what every built-in recipe makes of every variant, whole tensors at a time: each quantized weight has the codes,
scales and global that the numpy encoders give for the source's values, exactly the companions of its dialect, and a
global that gate and up share; everything else is kept, split or dequantized as the recipe says; the ignore list is the
set of unquantized linears in both config files; index, total_size and the block counts of the manifest are right.

Ground truth: tests/reference/quantize.py and tests/harness/requant.py, on our generator's checkpoints and the external
one's where there is one.
"""
import unittest

from harness import checkpoints
from harness.requant_case import RequantCase, chunks_of
from reference import container
from reference.model import VARIANTS

RECIPES = ("nvfp4", "nvfp4-experts", "nvfp4-mlp", "mxfp4-experts", "mxfp8", "fp8-all", "bf16-attention",
           "nvfp4-experts+mxfp8-attention", "nvfp4+fp8-head", "fp8-all+head")
SMALL = dict(pattern=(0, 1), mtp=1, experts=2, towers=False)
DTYPES = {"nvfp4": "nvfp4", "mxfp4": "mxfp4-experts", "mxfp8": "mxfp8", "fp8": "fp8-all"}


def each(variants=VARIANTS, recipes=RECIPES):
    return [(variant, recipe) for variant in variants for recipe in recipes]


class OwnGenerator(RequantCase):
    def test_every_variant_and_recipe(self):
        for variant, recipe in each():
            with self.subTest(variant=variant, recipe=recipe):
                self.setUp()
                source, model = checkpoints.ours(variant, **SMALL)
                self.check(source, recipe, chunks=chunks_of(model))

    def test_from_bf16(self):
        for variant, recipe in each(("v2.5", "v2-flash"),
                                    ("nvfp4", "mxfp8", "mxfp4-experts", "fp8-all", "fp8-all+head")):
            with self.subTest(variant=variant, recipe=recipe):
                self.setUp()
                source, model = checkpoints.ours(variant, store="bf16", **SMALL)
                self.check(source, recipe, chunks=chunks_of(model))

    def test_columns_that_do_not_fill_a_block(self):
        for recipe in ("nvfp4-mlp", "mxfp8", "mxfp4-experts"):
            with self.subTest(recipe=recipe):
                self.setUp()
                source, _ = checkpoints.ours("v2.5", hidden=320, moe_intermediate=160, intermediate=96, **SMALL)
                self.check(source, recipe)

    def test_scales_in_another_file_and_towers(self):
        source, _ = checkpoints.ours("v2.5", placement="apart", **dict(SMALL, towers=True))
        self.check(source, "nvfp4-mlp")
        self.setUp()
        source, _ = checkpoints.ours("v2.6", placement="random", **dict(SMALL, towers=True))
        self.check(source, "nvfp4")

    def test_dtype_is_a_recipe(self):
        source, _ = checkpoints.ours("v2.5", **SMALL)
        for dtype, recipe in DTYPES.items():
            a, b = self.convert(source, "a-" + dtype, "--dtype",
                                dtype), self.convert(source, "b-" + dtype, "--recipe", recipe)
            self.assert_same_trees(a, b, skip=("mimo-manifest.json",), note=dtype)


@unittest.skipUnless(checkpoints.external_generator(), "no external generator")
class ExternalGenerator(RequantCase):
    def test_every_variant_and_recipe(self):
        for variant, recipe in each():
            with self.subTest(variant=variant, recipe=recipe):
                self.setUp()
                source, truth = checkpoints.external(variant, experts=2, intermediate=128, moe_intermediate=128)
                chunks = {"plain": 1, "v2.5-pro": 8}.get(variant, 4)
                out, expected = self.check(source, recipe, chunks=chunks)
                if recipe == "nvfp4":                      # what is not quantized is the generator's own truth
                    kept = {n: v for n, v in container.read_directory(out).items() if n in truth
                            and n[:-7] not in expected.quantized}
                    self.assert_same_tensors({n: truth[n] for n in kept}, kept)


if __name__ == "__main__":
    unittest.main()
