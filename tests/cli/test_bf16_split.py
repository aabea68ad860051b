"""Proves that `--dtype bf16 --qkv split` gives every weight of every variant byte for byte: codes meet the right
scale (row maps, chunk tails, K/V rows that share a scale), heads come out in order, nothing else changes, on any
number of threads.

Ground truth: tests/reference (values known before anything is stored), and the external generator where there is one.
"""
import unittest

from harness import checkpoints, compare
from harness.case import ToolCase
from reference import decode
from reference.model import VARIANTS

REAL_HEADS = {"v2.5-pro": 128}


class OwnGenerator(ToolCase):
    def check(self, variant, *options, **spec):
        source, model = checkpoints.ours(variant, **spec)
        expected = decode.stored_as(model.values, "bf16")
        out = self.convert(source, "out", "--dtype", "bf16", "--qkv", "split", "--threads", 1, *options)
        self.assert_same_tensors(expected, out, f"{variant} {spec}")
        self.assertEqual(compare.index_problems(out), [])
        many = self.convert(source, "many", "--dtype", "bf16", "--qkv", "split", "--threads", 4, *options)
        self.assert_same_trees(out, many, note="1 and 4 threads")

    def test_every_variant(self):
        for variant in VARIANTS:
            with self.subTest(variant):
                self.setUp()
                self.check(variant)

    def test_real_head_counts(self):
        for variant in VARIANTS:
            with self.subTest(variant):
                self.setUp()
                self.check(variant, heads=REAL_HEADS.get(variant, 64), hidden=256, pattern=(0, 1), mtp=1, seed=7)

    def test_scales_in_another_file_than_their_weights(self):
        for variant in ("v2-flash", "v2.5", "v2.6"):
            with self.subTest(variant):
                self.setUp()
                self.check(variant, placement="apart", seed=3)

    def test_tensors_scattered_over_files(self):
        self.check("v2-flash", placement="random", seed=4)

    def test_columns_that_do_not_fill_a_block(self):
        for variant in ("v2-flash", "v2.5", "v2.6"):
            with self.subTest(variant):
                self.setUp()
                self.check(variant, hidden=320, moe_intermediate=160, pattern=(0, 1), mtp=1, seed=5)

    def test_other_layer_patterns(self):
        for pattern in ((1, 1, 0), (0, 0, 0), (1, 0)):
            with self.subTest(pattern=pattern):
                self.setUp()
                self.check("v2.5", pattern=pattern, towers=False, seed=6)

    def test_two_chunks(self):
        self.check("v2.5", qkv="fused:2", pattern=(0, 1), seed=8)

    def test_chunk_count_from_the_flag_without_the_index(self):
        self.check("v2.5", "--source-qkv", "fused:2", qkv="fused:2", tp_size=None, pattern=(0, 1), seed=8)

    def test_split_with_grids_of_its_own(self):
        self.check("v2-flash", qkv="independent", pattern=(0, 1), seed=9)

    def test_already_bf16(self):
        self.check("v2.5", store="bf16", pattern=(0, 1), seed=10)
        self.setUp()
        self.check("v2-flash", store="bf16", pattern=(0, 1), seed=10)


@unittest.skipUnless(checkpoints.external_generator(), "no external generator")
class ExternalGenerator(ToolCase):
    def check(self, variant, **options):
        source, truth = checkpoints.external(variant, **options)
        for threads in (1, 4):
            out = self.convert(source, f"out{threads}", "--dtype", "bf16", "--qkv", "split", "--threads", threads)
            self.assert_same_tensors(truth, out, f"{variant} {options}, {threads} threads")
        self.assert_same_trees(self.at("out1"), self.at("out4"))

    def test_every_variant(self):
        for variant in VARIANTS:
            for options in (dict(seed=1), dict(seed=2, hidden=384, experts=2, intermediate=128, moe_intermediate=128)):
                with self.subTest(variant, **options):
                    self.setUp()
                    self.check(variant, **options)

    def test_real_head_counts(self):
        for variant in VARIANTS:
            with self.subTest(variant):
                self.setUp()
                self.check(variant, seed=3, heads=REAL_HEADS.get(variant, 64), experts=2)


if __name__ == "__main__":
    unittest.main()
