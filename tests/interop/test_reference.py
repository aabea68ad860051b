"""Proves that the tests' own encoders (tests/reference/quantize.py) give the published golden vectors and the expected
signal-to-noise ratios: what the tools are judged by is itself judged. Needs numpy only.

The vectors are those of docs/reference/quantization-formats.md, sections 9.4 to 9.9 and 7.2.
"""
import os
import tempfile
import unittest

import numpy as np

from reference import codecs, decode, make, quantize
from reference.model import STORES, VARIANTS

F = np.float32

A = [5.25, -5.25, 0.21875, 0.65625, 1.09375, 1.53125, 2.1875, 3.0625, 4.375, -0.21875, -0.65625, -0.0, 0, 0.1, 3.9375,
     4.8125]
B = [0.02, -0.02, 0.001, 0.003, -0.005, 0.007, -0.009, 0.011, 0.013, -0.015, 0.017, -0.019, 0.0025, -0.0075, 0.0125, 0]
C = [0.0] * 16
D = [1e-6, -1e-6] + [5e-7] * 6 + [-3e-7] * 4 + [0] * 4
E = [3, -2.9, 2.8, 2.1, -2, 1.9, 1.4, -1.3, 1, 0.9, -0.8, 0.6, 0.45, -0.3, 0.2, 0.05]
SIX = [6, -4.5, 4.4, 3, 1.5, -1.5, 0.75, 0.7, 4.6, -4.4, 0.1, 0, 2.2, -2.9, 3.1, 4.5]
FOUR = [6, -4, 4.1, 3, 1, -1, 0.5, 0.6, 1.5, -1.6, 0.1, 0, 2.2, -2.9, 3.1, 4]
M = [7, -6.5, 5, 3.5, 2.5, 1.75, 1.25, 0.75, 0.25, -0.25, -0.1, 0, 6, -6, 4.5, -3.5, 0.3, -0.6, 0.9, -1.2, 1.8, -2.1,
     2.7, -3.3, 4.2, -4.8, 5.4, -5.6, 0.05, -0.05, 1, -1]


def rows(*lists):
    return np.array(lists, F)


def hexed(array):
    return np.ascontiguousarray(array).tobytes().hex()


class Nvfp4(unittest.TestCase):
    def test_max(self):
        global_ = quantize.nvfp4_global(5.25)
        self.assertEqual(hexed(global_.view(np.uint32)), "0000003b")
        found = quantize.nvfp4(rows(A, B, C, D, E), 5.25)
        self.assertEqual(hexed(found.scales), "7e3e380178")
        self.assertEqual([hexed(r) for r in found.codes],
                         ["f7204264860a0076", "f7214b5de6f6c106", "00" * 8, "9100000088880000", "f7676ed5442b9201"])
        decoded = quantize.decode_nvfp4(found.codes, found.scales, global_)
        expected = rows([5.25, -5.25, 0, 0.875, 0.875, 1.75, 1.75, 3.5, 3.5, -0.0, -0.875, 0, 0, 0, 3.5, 5.25])
        self.assertEqual(hexed(decoded[:1]), hexed(expected))

    def test_decode(self):
        packed = np.arange(16, dtype=np.uint8).repeat(8).reshape(16, 8) * 17
        decoded = quantize.decode_nvfp4(packed, np.full((16, 1), 0x3B, np.uint8),
                                        np.array(0x3C4985F0, np.uint32).view(F))
        expected = ["00000000", "3c0a8c15", "3c8a8c15", "3ccfd220", "3d0a8c15", "3d4fd220", "3d8a8c15", "3dcfd220"]
        self.assertEqual(["%08x" % v for v in decoded[:8, 0].copy().view(np.uint32)], expected)
        self.assertEqual("%08x" % decoded[8, 3].view(np.uint32), "80000000")

    def test_four_over_six(self):
        found = quantize.nvfp4(rows(SIX, FOUR), 12, "four-over-six")
        self.assertEqual(hexed(quantize.nvfp4_global(12, "four-over-six").view(np.uint32)), "0000003c")
        self.assertEqual(hexed(found.scales), "7470")
        self.assertEqual([hexed(r) for r in found.codes], ["d645a211d500c354", "e756a211b300d465"])
        for codes, losses in (([0x70, 0x70], (1.3525, 0.1)), ([0x74, 0x74], (0.065, 0.9125))):
            loss = quantize.nvfp4_loss(rows(SIX, FOUR), np.array(codes, np.uint8)[:, None], 2.0**-7)
            np.testing.assert_allclose(loss[:, 0], losses, rtol=1e-5)

    def test_sweep(self):
        found = quantize.nvfp4(rows(E, SIX, FOUR), 12, "sweep")
        self.assertEqual(hexed(found.scales), "6e7a76")
        loss = quantize.nvfp4_loss(rows(E, SIX, FOUR), found.scales, quantize.nvfp4_global(12))
        np.testing.assert_allclose(loss[:, 0], (0.1525, 0.4045, 0.1), atol=5e-5)

    def test_nothing_but_zeros(self):
        for rule in quantize.NVFP4_RULES:
            found = quantize.nvfp4(np.zeros((2, 32), F), rule=rule)
            self.assertEqual((hexed(found.scales), hexed(found.codes)),
                             (("01" if rule == "sweep" else "38") * 4, "00" * 32))
            self.assertEqual(quantize.nvfp4_global(0, rule), 1)

    def test_exact_from_mxfp4(self):
        """Every nibble under every scale within the range: the decoded values are equal, bit for bit."""
        self.assertEqual(quantize.nvfp4_exact_global(127).view(np.uint32), 0x3B800000)
        packed = np.tile(np.arange(256, dtype=np.uint8).reshape(16, 16), (2, 1))
        packed[-1] = 0x17                                     # no row without a non-zero element
        packed[0] = 0x71
        for largest in (127, 60, 200):
            scales = (largest - np.arange(32) % 18).astype(np.uint8)[:, None]
            found = quantize.nvfp4_from_mxfp4(packed, scales, largest)
            value = quantize.decode_nvfp4(found.codes, found.scales, quantize.nvfp4_exact_global(largest))
            self.assertEqual(hexed(value), hexed(codecs.decode_mxfp4(packed, scales)))
        found = quantize.nvfp4_from_mxfp4(packed[:3], np.array([[127], [120], [110]], np.uint8), 127)
        self.assertEqual(hexed(found.scales), "787840400101")
        self.assertFalse(quantize.nvfp4_exact_range((109, 127)))


class Mx(unittest.TestCase):
    def test_mxfp4(self):
        cases = {("floor", "even"): ("7f", "f766442280 08f7e691a2c4d5e6f780a2"),
                 ("floor", "zero"): ("7f", "f756341280 08f7d691a2c4d5e6f780a2"),
                 ("rceil", "even"): ("80", "d644221180 08d5c49091a2b3c4d58091"),
                 ("rceil", "zero"): ("80", "d534221180 08d5b49091a2b3c4d58091")}
        for rule in ("even", "ceil"):
            cases[rule, "even"] = cases["rceil", "even"]
        for (rule, ties), (scale, codes) in cases.items():
            found = quantize.mxfp4(rows(M), rule, ties)
            self.assertEqual((hexed(found.scales), hexed(found.codes)), (scale, codes.replace(" ", "")), (rule, ties))

    def test_mxfp8(self):
        values = rows([500, -448, 300, 100, -33, 17, 1.1, 0.01] + [0] * 24)
        for rule, scale, codes in (("floor", "7f", "7efe796ce0583905"), ("rceil", "80", "78f67164d8503103")):
            found = quantize.mxfp8(values, rule)
            self.assertEqual((hexed(found.scales), hexed(found.codes[0, :8])), (scale, codes))

    def test_scale_bytes(self):
        """amax: FP4 floor, even, ceil, rceil; FP8 floor, even, ceil, rceil (section 4.1)."""
        table = {0: (0,) * 8, 1: (125,) * 4 + (119,) * 4, 3: (126, 126, 127, 126, 120, 120, 121, 120),
                 4: (127,) * 4 + (121,) * 4, 5: (127, 127, 128, 127, 121, 121, 122, 121),
                 6: (127, 127, 128, 127, 121, 121, 122, 121), 6.5: (127, 127, 128, 128, 121, 121, 122, 121),
                 7: (127, 128, 128, 128, 121, 121, 122, 121), 7.999: (127, 128, 128, 128, 121, 122, 122, 122),
                 8: (128,) * 4 + (122,) * 4, 150: (132, 132, 133, 132, 126, 126, 127, 126),
                 448: (133, 134, 134, 134, 127, 127, 128, 127), 480: (133, 134, 134, 134, 127, 127, 128, 128),
                 500: (133, 134, 134, 134, 127, 128, 128, 128), 512: (134,) * 4 + (128,) * 4,
                 1e-38: (0,) * 8, 3e38: (252, 253, 253, 253, 246, 246, 247, 247)}
        for amax, expected in table.items():
            found = [int(quantize.mx_scale([amax], bits, rule)[0]) for bits in (4, 8)
                     for rule in ("floor", "even", "ceil", "rceil")]
            self.assertEqual(tuple(found), expected, amax)
        above = np.nextafter(F(6), F(7))          # one step above a power of two times six: the exact rule sees it
        self.assertEqual(int(quantize.mx_scale([above], 4, "rceil")[0]), 128)


class BlockFp8(unittest.TestCase):
    VALUES = rows([1, -2, 0.01, 0.02], [3, 0.5, -0.03, 0.005], [0, 0, 0.001, 448], [0, 0, -7, 0.1])

    def test_f32(self):
        found = quantize.fp8_block(self.VALUES, 2, 2)
        self.assertEqual(hexed(found.codes), "71f971797e69fe690000017e0000ce1d")
        self.assertEqual(["%08x" % s for s in found.scales.view(np.uint32).ravel()],
                         ["3bdb6db7", "388c6f2d", "2720d7c5", "3f800000"])

    def test_ue8m0(self):
        found = quantize.fp8_block(self.VALUES, 2, 2, power_of_two=True)
        self.assertEqual(hexed(found.codes), "70f86a727c68f7620000017e0000ce1d")
        self.assertEqual(["%08x" % s for s in found.scales.view(np.uint32).ravel()],
                         ["3c000000", "39000000", "34800000", "3f800000"])

    def test_exact_paths(self):
        """MXFP4 within 14 binades is exact in FP8; power-of-two FP8 is exact in MXFP8."""
        random = np.random.default_rng(3)
        packed = random.integers(0, 256, (130, 80), dtype=np.uint8)
        scales = random.integers(100, 115, (130, 5), dtype=np.uint8)
        found = quantize.fp8_from_mxfp4(packed, scales)
        value = codecs.decode_fp8(found.codes, found.scales, np.arange(130) // 128)
        self.assertEqual(hexed(value), hexed(codecs.decode_mxfp4(packed, scales)))
        self.assertEqual((found.blocks, found.exact), (4, 4))
        scales[3, 1] = 130
        self.assertEqual(quantize.fp8_from_mxfp4(packed, scales).exact, 3)

        fp8 = quantize.fp8_block(random.standard_normal((130, 160)).astype(F), power_of_two=True)
        found = quantize.mxfp8_from_fp8(fp8.codes, fp8.scales, np.arange(130) // 128)
        self.assertEqual(hexed(quantize.decode_mxfp8(found.codes, found.scales)),
                         hexed(codecs.decode_fp8(fp8.codes, fp8.scales, np.arange(130) // 128)))
        self.assertEqual((found.blocks, found.exact), (650, 650))


class Quality(unittest.TestCase):
    """Section 7.2: decibels on Gaussian weights rounded to BF16. Their deviation is 0.02: power-of-two scales care."""

    def check(self, expected, decoded):
        found = quantize.figures(self.values, decoded)["sqnr_db"]
        self.assertAlmostEqual(found, expected, delta=0.1)

    def test_expected_ratios(self):
        self.values = quantize.via_bf16(np.random.default_rng(5).standard_normal((512, 1024)).astype(F) * F(0.02))
        for rule, expected in (("max", 20.43), ("four-over-six", 21.21)):
            found = quantize.nvfp4(self.values, rule=rule)
            global_ = quantize.nvfp4_global(np.abs(self.values).max(), rule)
            self.check(expected, quantize.decode_nvfp4(found.codes, found.scales, global_))
        for rule, expected in (("floor", 18.86), ("even", 19.0), ("rceil", 18.53), ("ceil", 17.29)):
            found = quantize.mxfp4(self.values, rule)
            self.check(expected, codecs.decode_mxfp4(found.codes, found.scales))
        for rule, expected in (("floor", 30.67), ("even", 31.11), ("rceil", 31.50)):
            found = quantize.mxfp8(self.values, rule)
            self.check(expected, quantize.decode_mxfp8(found.codes, found.scales))
        for power_of_two, expected in ((False, 31.55), (True, 31.50)):
            found = quantize.fp8_block(self.values, power_of_two=power_of_two)
            self.check(expected, codecs.decode_fp8(found.codes, found.scales, np.arange(512) // 128))

    def test_searches(self):
        self.values = quantize.via_bf16(np.random.default_rng(6).standard_normal((96, 1024)).astype(F))
        for rule, expected in (("sweep", 21.80), ("mse", 21.69)):
            found = quantize.nvfp4(self.values, rule=rule)
            global_ = quantize.nvfp4_global(np.abs(self.values).max(), rule)
            self.assertAlmostEqual(quantize.figures(self.values,
                                                    quantize.decode_nvfp4(found.codes, found.scales,
                                                                          global_))["sqnr_db"],
                                   expected, delta=0.15)


class Generator(unittest.TestCase):
    """The decoder, which goes by names and shapes, finds the values that the generator stored, in every form."""

    def test_every_store(self):
        for variant in VARIANTS:
            for store in STORES:
                with self.subTest(variant=variant, store=store), tempfile.TemporaryDirectory() as directory:
                    out = os.path.join(directory, "made")
                    model = make.make(out, variant, store=store, pattern=(0, 1), mtp=1, experts=2, hidden=128, vocab=64,
                                      heads=8)
                    found = decode.checkpoint(os.path.join(out, "checkpoint"), int(model.spec.qkv.partition(":")[2]))
                    a, b = decode.stored_as(found, "bf16"), decode.stored_as(model.values, "bf16")
                    self.assertEqual(sorted(a), sorted(b))
                    for name, (dtype, array) in a.items():
                        self.assertEqual((dtype, array.tobytes()), (b[name][0], b[name][1].tobytes()), name)


if __name__ == "__main__":
    unittest.main()
