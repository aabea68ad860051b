"""Proves that --like takes references of any block: fused and split attention, dense layers and experts in blocks of
64 x 64, 128 x 64, 64 x 128, 32 x 256 and 1 x 128 get, under both policies, the codes and scales that numpy computes
from the run's BF16 values by the rules alone; blocks that span K and V included.
"""
import unittest

import numpy as np

from harness import compare, ranks, rl_step
from harness.case import ToolCase
from reference import codecs, container, decode, layouts, quantize

BLOCKS = ("64x64", "128x64", "64x128", "32x256", "1x128")
# 1 x 128 shows nothing in rows of 128 elements: those are scales of whole rows.
SMALL = dict(hidden=320, intermediate=384, moe_intermediate=192, experts=2, pattern=(0, 1), mtp=0)


def stored_rows(name, tensors, config, block_rows, chunks):
    """-> (names of the split weights, (letter, row) of each stored row or None, its row of scales)"""
    rows = tensors[name][1].shape[0]
    if not name.endswith("qkv_proj.weight"):
        return None, np.arange(rows) // block_rows
    prefix = name.removesuffix(".qkv_proj.weight")
    part, = layouts.fused(*decode.geometry(config, prefix), chunks).values()
    each = rows // chunks
    return part, np.arange(rows) // each * -(-each // block_rows) + np.arange(rows) % each // block_rows


class LikeBlocks(ToolCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.fixture = ranks.ours("v2.5", **SMALL)

    def make(self, block, qkv):
        """-> (reference, run, {name: values of the run}): of the run, some values are the reference's and some larger"""
        plain = self.convert(self.fixture.directory, "plain", "--dtype", "bf16", "--qkv", "split")
        shape = ("--qkv", "fused:2") if qkv == "fused" else ()
        ref = self.convert(plain, "ref", "--recipe", "fp8-all", "--fp8-block", block, *shape)
        run = self.convert(ref, "run", "--dtype", "bf16", "--qkv", "split")
        random, values = np.random.default_rng(5), {}
        for file in container.tensor_files(run):
            path = f"{run}/{file}"
            tensors = {n: (d, a.copy()) for n, (d, a) in container.read(path).items()}
            for name, (dtype, array) in tensors.items():
                if rl_step.TRAINED.search(name):
                    flat = array.reshape(-1)                     # BF16: 3 exponents up, or one step
                    at = random.choice(flat.size, max(2, flat.size // 3000), replace=False)
                    flat[at[::2]] += 3 << 7
                    flat[at[1::2]] ^= 1
                values[name] = (dtype, array)
            container.write(path, tensors, {"format": "pt"})
        return ref, run, values

    def matrix(self, name, tensors, config, values, block, chunks):
        rows, cols = map(int, block.split("x"))
        part, cell = stored_rows(name, tensors, config, rows, chunks)
        codes, scales = tensors[name][1], tensors[name + "_scale_inv"][1]
        matrix = rl_step.Matrix([name], [codes.shape[0]], codes, scales, cell, cols, "F8_E4M3")
        if part is None:
            return matrix, codecs.decode_plain(*values[name])
        prefix, wanted = name.removesuffix("qkv_proj.weight"), np.empty(codes.shape, np.float32)
        for number, letter in enumerate(layouts.LETTERS):
            mine = part.letter == number
            wanted[mine] = codecs.decode_plain(*values[f"{prefix}{letter}_proj.weight"])[part.row[mine]]
        return matrix, wanted

    def check(self, block, qkv):
        ref, run, values = self.make(block, qkv)
        config, before = compare.load_json(ref, "config.json"), container.read_directory(ref)
        self.assertEqual(config["quantization_config"]["weight_block_size"], [int(n) for n in block.split("x")])
        for policy in ("sticky", "fresh"):
            out = self.convert(run, policy, "--like", ref, "--scale-policy", policy)
            found, seen, rescaled, kept = container.read_directory(out), set(), 0, 0
            self.assertEqual({n: (d, a.shape) for n, (d, a) in found.items()},
                             {n: (d, a.shape) for n, (d, a) in before.items()})
            for name, (dtype, codes) in found.items():
                if dtype != "F8_E4M3":
                    continue
                matrix, wanted = self.matrix(name, before, config, values, block, 2)
                made = getattr(rl_step, policy)(matrix, wanted)
                where = f"{block} {qkv} {policy} {name}"
                np.testing.assert_array_equal(found[name + "_scale_inv"][1], made.scales, where)
                np.testing.assert_array_equal(codes & 0x7F, made.codes & 0x7F, where)
                np.testing.assert_array_equal(codes[codes & 0x7F != 0], made.codes[codes & 0x7F != 0], where)
                rescaled, kept = rescaled + np.count_nonzero(~made.kept), kept + np.count_nonzero(made.kept)
                seen.add(name.rsplit(".", 2)[1])
            self.assertLessEqual({"qkv_proj" if qkv == "fused" else "k_proj", "up_proj", "down_proj"}, seen)
            self.assertTrue(rescaled and (kept or policy == "fresh"), f"{block}: {rescaled} {kept}")
            totals = ranks.manifest(out)["totals"]
            self.assertEqual((totals["kept_blocks"], totals["fresh_blocks"]), (kept, rescaled))
            self.run_tool("mimo-verify", "check", out)

    def test_scales_that_are_powers_of_two(self):
        """A reference of such scales gets no others: attention included, whole or in chunks."""
        for qkv, chunks in (("split", 1), ("fused:2", 2)):
            with self.subTest(qkv):
                self.setUp()
                plain = self.convert(self.fixture.directory, "plain", "--dtype", "bf16", "--qkv", "split")
                ref = self.convert(plain, "ref", "--recipe", "fp8-all", "--fp8-scale", "ue8m0", "--fp8-block", "64x64",
                                   "--qkv", "split:independent" if qkv == "split" else qkv)
                values, stored = container.read_directory(plain), container.read_directory(ref)
                config = compare.load_json(ref, "config.json")
                # `plain` is what REF was made from: both policies give REF again.
                for policy in ("sticky", "fresh"):
                    out = self.convert(plain, policy, "--like", ref, "--scale-policy", policy)
                    found = container.read_directory(out)
                    for name in stored:
                        if stored[name][0] != "F8_E4M3":
                            continue
                        _, wanted = self.matrix(name, stored, config, values, "64x64", chunks)
                        parts = np.split(wanted, chunks if "qkv" in name else 1)
                        made = [quantize.fp8_block(part, 64, 64, power_of_two=True) for part in parts]
                        np.testing.assert_array_equal(found[name + "_scale_inv"][1],
                                                      np.concatenate([m.scales for m in made]), name)
                        codes = np.concatenate([m.codes for m in made])
                        np.testing.assert_array_equal(codecs.E4M3[found[name][1]], codecs.E4M3[codes], name)

    def test_split(self):
        for block in BLOCKS:
            with self.subTest(block):
                self.setUp()
                self.check(block, "split")

    def test_fused(self):
        for block in BLOCKS:
            with self.subTest(block):
                self.setUp()
                self.check(block, "fused")


if __name__ == "__main__":
    unittest.main()
