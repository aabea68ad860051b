"""Proves that our encoders give the bytes of the public packages on the same weights: nvidia-modelopt (NVFP4 max,
four-over-six, scale sweep, mse; MXFP4; MXFP8; block FP8) and compressed-tensors (NVFP4, MXFP4, MXFP8, block FP8); and
that both packages, and torch's own 8-bit types, read ours back to the values our decoder says.

Once for tests/reference/quantize.py, the numpy ground truth of all other tests, and once for mimo-convert on a
checkpoint that holds the same weights. Where the packages do something else, DIFFERENCES says what and why, and the
tests prove that the difference is that and nothing more.

Runs in .venv-interop (scripts/setup.sh); MIMO_INTEROP=0 leaves it out.
"""
import os
import unittest
import warnings

import numpy as np

from harness import peers
from harness.case import ToolCase
from reference import codecs, container, hard_weights, make, quantize
from reference.model import Model, Spec

F = np.float32

# What the packages do otherwise than we do, and why. Assertions about a difference carry its text.
DIFFERENCES = {
    "modelopt nvfp4 zeros":
        "a tensor of zeros is 0/0: global 0, scales NaN, codes 7. Ours: global 1, codes 0, scales 1.0 (sweep: 0x01)",
    "modelopt nvfp4 searches":
        "its losses are FP32 sums, as are ours, in another order: where two candidates' losses agree within 1e-5, or leave "
        "the range of FP32 (squares of values beyond 2^-55 .. 2^55), the other may be taken; below a tensor amax of "
        "6 * 2^-24 it judges block scales unscaled; and it judges a scale computed in other steps than the one it writes, "
        "which is another code where the quotient lies midway between two",
    "modelopt mxfp4 zeros":
        "its sign formula gives exact zeros of either sign the nibble 8; ours is 0 for both",
    "modelopt cast zeros":
        "it decodes MXFP4 and encodes NVFP4, so that -0 loses its sign; ours keeps the nibble",
    "modelopt block fp8":
        "no floor: a cell of zeros is 0/0, NaN codes under a scale of 0. Ours: amax at least 1e-12, zeros become codes 0",
    "compressed-tensors nvfp4":
        "its arithmetic: global = (1 / amax) * 2688, scale = global * (amax_b / 6), element / (scale / global); scale code "
        "0x20 where that rounds to 0 (ours: 0x38 for a block of zeros, else 0x01). Restated in numpy, byte for byte",
    "compressed-tensors bf16":
        "it computes scales in the dtype of the weights: amax/6, 2688/amax and amax/448 of BF16 weights are rounded to BF16",
    "compressed-tensors mxfp8":
        "its even rule rounds amax to the mantissa of FP4 (1 bit) for 8 bits too; ours to that of E4M3 (3 bits)",
    "compressed-tensors 2^128":
        "amax that its even rule rounds up to 2^128 becomes infinite",
    "compressed-tensors -0":
        "x + zero_point makes -0.0 positive before FP8 codes; ours keep the sign",
    "compressed-tensors block fp8":
        "no floor: the scale of a cell of zeros is the dtype's epsilon. Ours: amax at least 1e-12. Codes are 0 in both",
}


def compressed_tensors_nvfp4(group, values):
    """What compressed-tensors computes from FP32 weights -> (codes, scales, global)."""
    amax = max(F(np.abs(v).max()) for v in group)
    with np.errstate(over="ignore"):
        global_ = F(1) / max(amax, np.finfo(F).tiny) * F(2688)
    global_ = global_ if np.isfinite(global_) else F(1)
    blocks = values.reshape(values.shape[0], -1, 16)
    with np.errstate(over="ignore", under="ignore"):
        scales = codecs.e4m3_encode(np.minimum(global_ * (np.abs(blocks).max(axis=-1) / F(6)), F(448)))
        scales = np.where(codecs.E4M3[scales] == 0, np.uint8(0x20), scales)
        nibbles = quantize.e2m1_encode(np.clip(blocks / (codecs.E4M3[scales] / global_)[..., None], F(-6), F(6)))
    return quantize.pack(nibbles.reshape(values.shape)), scales, global_


def midway(block_amax, group_amax, largest, factors=(1.0,)):
    """Blocks of which a quotient amax * factor / tensor amax * largest is, within 2^-20, midway between E4M3 codes."""
    positive = codecs.E4M3[:0x7F].astype(np.float64)
    middles = (positive[1:] + positive[:-1]) / 2
    quotient = np.asarray(block_amax, np.float64)[..., None] * np.asarray(factors) * (largest / float(group_amax))
    at = np.clip(np.searchsorted(middles, quotient), 1, middles.size - 1)
    near = np.minimum(np.abs(middles[at] - quotient), np.abs(middles[at - 1] - quotient))
    return (near <= 2.0**-20 * quotient).any(axis=-1)


class Encoders:
    """What every source of our bytes must satisfy. weights(): {kind: [matrices that share a global]};
    ours(format, **options): {kind: [(codes, scales, global or None) per matrix]}."""

    def same(self, expected, found, note):
        self.assertEqual(expected.shape, found.shape, note)
        self.assertEqual(int((expected != found).sum()), 0, f"{note}: of {expected.size} bytes")

    def each(self, format_, **options):
        weights = self.weights()
        for kind, results in self.ours(format_, **options).items():
            for number, result in enumerate(results):
                self.context = f"{format_} {options}, {kind}, matrix {number}"
                yield kind, weights[kind], weights[kind][number], result
        self.context = ""

    context = ""

    def _formatMessage(self, message, standard):
        return f"{self.context}: {super()._formatMessage(message, standard)}"

    # ---- NVFP4 -----------------------------------------------------------------------------------------------------

    def test_nvfp4_max_is_modelopts(self):
        for kind, group, values, (codes, scales, global_) in self.each("nvfp4"):
            if not any(v.any() for v in group):
                self.assertEqual((float(global_), set(scales.ravel()), set(codes.ravel())), (1.0, {0x38}, {0}),
                                 DIFFERENCES["modelopt nvfp4 zeros"])
                continue
            for bf16 in (False, True):
                theirs = peers.modelopt_nvfp4(values, "max", group, bf16)
                self.assertEqual(theirs[2].tobytes(), global_.tobytes(), "weight_scale_2")
                self.same(theirs[1], scales, "weight_scale")
                self.same(theirs[0], codes, "weight")

    def check_search(self, rule):
        near_ties = blocks = 0
        for kind, group, values, (codes, scales, global_) in self.each("nvfp4", rule=rule):
            if not any(v.any() for v in group):
                self.assertEqual((float(global_), set(scales.ravel()), set(codes.ravel())),
                                 (1.0, {0x01 if rule == "sweep" else 0x38}, {0}), DIFFERENCES["modelopt nvfp4 zeros"])
                continue
            theirs = peers.modelopt_nvfp4(values, rule, group)
            self.assertEqual(theirs[2].tobytes(), global_.tobytes(), "weight_scale_2")
            equal, near, outside = quantize.as_good(values, scales, theirs[1], global_, quantize.amax_of(group))
            block_amax = np.abs(values.reshape(values.shape[0], -1, 16)).max(axis=-1)
            factors = {"four-over-six": (1.0, 1.5), "mse": quantize.MSE_MULTIPLIERS.astype(np.float64), "sweep": ()}[rule]
            excused = midway(block_amax, quantize.amax_of(group), float(quantize.LARGEST_SCALE[rule]), factors)
            self.assertTrue((equal | near | outside | excused).all(), "another choice, and not " + DIFFERENCES["modelopt nvfp4 searches"])
            near_ties += int((~equal & ~outside).sum())
            blocks += equal.size
            equal = np.repeat(equal, 8, axis=1)
            self.same(theirs[0][equal], codes[equal], "weight, in blocks of equal scales")
        self.assertLess(near_ties, 0.005 * blocks, "near ties are rare")
        print(f"\n{type(self).__name__}, nvfp4 {rule}: {near_ties} near ties decided otherwise in {blocks} blocks")

    def test_nvfp4_four_over_six_is_modelopts(self):
        self.check_search("four-over-six")

    def test_nvfp4_sweep_is_modelopts(self):
        self.check_search("sweep")

    def test_nvfp4_mse_is_modelopts(self):
        self.check_search("mse")

    def test_nvfp4_and_compressed_tensors(self):
        differ = total = 0
        for kind, group, values, (codes, scales, _) in self.each("nvfp4"):
            theirs = peers.compressed("NVFP4A16", values, group)
            expected = compressed_tensors_nvfp4(group, values)
            self.assertEqual(theirs["weight_global_scale"].tobytes(), expected[2].tobytes(), "weight_global_scale")
            self.same(theirs["weight_scale"], expected[1], DIFFERENCES["compressed-tensors nvfp4"])
            self.same(theirs["weight_packed"], expected[0], DIFFERENCES["compressed-tensors nvfp4"])
            used = np.abs(values.reshape(values.shape[0], -1, 16)).max(axis=-1) > 0
            floored = used & (theirs["weight_scale"] == 0x20) & (scales == 0x01)
            other = used & ~floored & (theirs["weight_scale"] != scales)
            block_amax = np.abs(values.reshape(values.shape[0], -1, 16)).max(axis=-1)
            at_midpoints = midway(block_amax, quantize.amax_of(group), 448.0) if other.any() else other
            self.assertFalse((other & ~at_midpoints).any(), DIFFERENCES["compressed-tensors nvfp4"])
            same = np.repeat(used & ~floored & ~other, 8, axis=1)
            differ += int((theirs["weight_packed"] != codes)[same].sum())
            total += int(same.sum())
            if kind == "gaussian":
                rounded = peers.compressed("NVFP4A16", values, group, bf16=True)
                self.assertEqual(float(rounded["weight_global_scale"][0]),
                                 float(quantize.via_bf16(np.array([expected[2]], F))[0]))
                self.assertLess((rounded["weight_scale"] != theirs["weight_scale"]).mean(), 0.06,
                                DIFFERENCES["compressed-tensors bf16"])
        self.assertLess(differ, 0.003 * total, "bytes that differ under equal scales, at decision points of E2M1")

    # ---- MX --------------------------------------------------------------------------------------------------------

    def test_mxfp4_is_modelopts(self):
        for kind, _, values, (codes, scales, _) in self.each("mxfp4", rule="rceil", ties="zero"):
            for bf16 in (False, True):
                packed, own = peers.modelopt_mxfp4(values, bf16)
                self.same(own, scales, "weight_scale")
                theirs, mine = quantize.unpack(packed), quantize.unpack(codes)
                self.same(theirs[values != 0], mine[values != 0], "weight")
                self.assertLessEqual(set(theirs[values == 0]), {8}, DIFFERENCES["modelopt mxfp4 zeros"])
                self.assertLessEqual(set(mine[values == 0]), {0})

    def test_mxfp4_is_compressed_tensors(self):
        for kind, _, values, (codes, scales, _) in self.each("mxfp4", rule="even"):
            for bf16 in (False, True):
                theirs = peers.compressed("MXFP4A16", values, bf16=bf16)
                sane = np.abs(values.reshape(values.shape[0], -1, 32)).max(axis=-1) < 1.75 * 2.0**127
                self.same(theirs["weight_scale"][sane], scales[sane], "weight_scale")
                self.same(theirs["weight_packed"][np.repeat(sane, 16, axis=1)], codes[np.repeat(sane, 16, axis=1)],
                          "weight_packed")
                self.assertTrue(sane.all() or kind.startswith("huge"), DIFFERENCES["compressed-tensors 2^128"])

    def test_mxfp8_is_modelopts(self):
        for kind, _, values, (codes, scales, _) in self.each("mxfp8", rule="rceil"):
            for bf16 in (False, True):
                theirs, own = peers.modelopt_mxfp8(values, bf16)
                self.same(own, scales, "weight_scale")
                self.same(theirs, codes, "weight")

    def test_mxfp8_and_compressed_tensors(self):
        for kind, _, values, (codes, scales, _) in self.each("mxfp8", rule="even"):
            theirs = peers.compressed("MXFP8A16", values)
            amax = np.abs(values.reshape(values.shape[0], -1, 32)).max(axis=-1)
            sane = amax < 1.75 * 2.0**127
            coarse = quantize.mx_scale(amax, 8, "even", mantissa_bits=1)
            self.same(theirs["weight_scale"][sane], coarse[sane], DIFFERENCES["compressed-tensors mxfp8"])
            same = np.repeat(sane & (coarse == scales), 32, axis=1) & ~((values == 0) & np.signbit(values))
            self.same(theirs["weight"][same], codes[same], "weight, under equal scales")

    # ---- block FP8 -------------------------------------------------------------------------------------------------

    def cells(self, values):
        amax = quantize._cells(np.abs(values), 128, 128, np.max)
        return amax, quantize.spread(amax, values.shape, 128, 128)

    def test_block_fp8_is_modelopts(self):
        for kind, _, values, (codes, scales, _) in self.each("fp8"):
            if values.shape[0] % 128 or values.shape[1] % 128:
                continue
            amax, spread = self.cells(values)
            theirs, own = peers.modelopt_fp8_block(values)
            self.same(own.reshape(scales.shape)[amax >= 1e-12], scales[amax >= 1e-12], "scales")
            self.same(theirs[spread >= 1e-12], codes[spread >= 1e-12], "codes")
            self.assertTrue((scales[amax < 1e-12] == F(1e-12) / F(448)).all(), DIFFERENCES["modelopt block fp8"])

    def test_block_fp8_is_compressed_tensors(self):
        for kind, _, values, (codes, scales, _) in self.each("fp8"):
            amax, spread = self.cells(values)
            theirs = peers.compressed("FP8_BLOCK", values)
            self.same(theirs["weight_scale"][amax >= 1e-12], scales[amax >= 1e-12], "weight_scale")
            same = (spread >= 1e-12) & (codes != 0x80)      # floor; -0
            self.same(theirs["weight"][same], codes[same], "weight")
            self.assertLessEqual(set(theirs["weight"][(spread >= 1e-12) & ~same]), {0, 0x80},
                                 DIFFERENCES["compressed-tensors -0"])
            if kind == "gaussian":
                rounded = peers.compressed("FP8_BLOCK", values, bf16=True)
                expected = quantize.via_bf16(amax / F(448))
                self.assertTrue((rounded["weight_scale"] == expected).all())

    # ---- reading back ----------------------------------------------------------------------------------------------

    def test_packages_read_our_values(self):
        for kind, _, values, (codes, scales, global_) in self.each("nvfp4"):
            decoded = quantize.decode_nvfp4(codes, scales, global_)
            theirs = peers.raw(peers.modelopt_decode_nvfp4(codes, scales, global_))
            self.assertTrue(np.array_equal(theirs, decoded))                         # -0 and 0 are equal here
            divisor = np.array([F(1) / global_], F)
            state = {"weight_packed": codes, "weight_scale": scales, "weight_global_scale": divisor}
            self.assertTrue(np.array_equal(peers.decompressed("NVFP4A16", state),
                                           quantize.via_bf16(quantize.decode_nvfp4(codes, scales, divisor,
                                                                                   divides=True))))
        for kind, _, values, (codes, scales, _) in self.each("mxfp4", rule="rceil", ties="even"):
            decoded = codecs.decode_mxfp4(codes, scales)
            self.assertTrue(np.array_equal(peers.modelopt_decode_mxfp4(codes, scales), decoded))
            theirs = peers.decompressed("MXFP4A16", {"weight_packed": codes, "weight_scale": scales})
            self.assertTrue(np.array_equal(theirs, quantize.via_bf16(decoded)))
        for kind, _, values, (codes, scales, _) in self.each("mxfp8", rule="rceil"):
            decoded = quantize.decode_mxfp8(codes, scales)
            self.assertTrue(np.array_equal(peers.modelopt_decode_mxfp8(codes, scales), decoded))
            by_torch = peers.torch_values(codes, "float8_e4m3fn") * np.repeat(peers.torch_values(scales,
                                                                                                 "float8_e8m0fnu"), 32,
                                                                                                 axis=1)
            self.assertTrue(np.array_equal(by_torch, decoded))
        for kind, _, values, (codes, scales, _) in self.each("fp8"):
            decoded = codecs.decode_fp8(codes, scales, np.arange(codes.shape[0]) // 128)
            self.assertTrue(np.array_equal(peers.decompressed("FP8_BLOCK", {"weight": codes, "weight_scale": scales}),
                                           decoded))


class Reference(Encoders, unittest.TestCase):
    """tests/reference/quantize.py."""

    @classmethod
    def setUpClass(cls):
        peers.require()
        warnings.simplefilter("ignore")
        first, second = hard_weights.all_kinds(128, 256, 21), hard_weights.all_kinds(128, 256, 22)
        cls._weights = {kind: [first[kind], second[kind]] for kind in first}

    def weights(self):
        return self._weights

    def ours(self, format_, rule=None, ties="even"):
        result = {}
        for kind, group in self._weights.items():
            amax = quantize.amax_of(group)
            found = result[kind] = []
            for values in group:
                if format_ == "nvfp4":
                    made = quantize.nvfp4(values, amax, rule or "max")
                    found.append((made.codes, made.scales, np.asarray(quantize.nvfp4_global(amax, rule or "max"), F)))
                    continue
                made = {"mxfp4": lambda: quantize.mxfp4(values, rule, ties),
                        "mxfp8": lambda: quantize.mxfp8(values, rule),
                        "fp8": lambda: quantize.fp8_block(values)}[format_]()
                found.append((made.codes, made.scales, None))
        return result

    def test_mxfp4_cast_to_nvfp4_is_modelopts(self):
        random = np.random.default_rng(4)
        packed = random.integers(0, 256, (32, 64), dtype=np.uint8)
        packed[:, ::16] |= 7
        for spread in (3, 17):
            scales = random.integers(115 - spread, 116, (32, 4), dtype=np.uint8)
            scales[0, :2] = 115 - spread, 115
            theirs = peers.modelopt_mxfp4_cast(packed, scales)
            ours = quantize.nvfp4_from_mxfp4(packed, scales, int(scales.max()))
            self.assertEqual(float(theirs[2]), float(quantize.nvfp4_exact_global(int(scales.max()))))
            self.same(theirs[1], ours.scales, "weight_scale")
            mine, other = quantize.unpack(ours.codes), quantize.unpack(theirs[0])
            self.same(other[mine != 8], mine[mine != 8], "weight")
            self.assertLessEqual(set(other[mine == 8]), {0}, DIFFERENCES["modelopt cast zeros"])


class Tool(Encoders, ToolCase):
    """mimo-convert, on a BF16 checkpoint whose experts hold the same weights: gate and up share a global."""

    @classmethod
    def setUpClass(cls):
        ToolCase.setUpClass.__func__(cls)
        peers.require()
        warnings.simplefilter("ignore")
        kinds = [kind.__name__ for kind in hard_weights.KINDS]
        spec = Spec("v2.5", hidden=256, moe_intermediate=128, intermediate=128, experts=len(kinds), vocab=64,
                    pattern=(0, 1), mtp=1,
                    towers=False, store="bf16", heads=8)
        cls.model = Model(spec)
        matrices = {"gate": hard_weights.all_kinds(128, 256, 31), "up": hard_weights.all_kinds(128, 256, 32),
                    "down": hard_weights.all_kinds(256, 128, 33)}
        cls._weights, cls.names = {}, {}
        for number, kind in enumerate(kinds):
            for letter, made in matrices.items():
                name = f"model.layers.1.mlp.experts.{number}.{letter}_proj"
                cls.model.tensors[name + ".weight"] = ("BF16", codecs.bf16_from_f32(made[kind]))
                group = kind if letter != "down" else kind + ", down"
                cls._weights.setdefault(group, []).append(made[kind])
                cls.names.setdefault(group, []).append(name)
        cls.made = {}

    def setUp(self):
        super().setUp()
        self.source = self.at("checkpoint")
        make.write(self.source, self.model)

    def weights(self):
        return self._weights

    def ours(self, format_, rule=None, ties=None):
        options = ["--recipe",
                   {"nvfp4": "nvfp4-experts", "mxfp4": "mxfp4-experts", "mxfp8": "mxfp8", "fp8": "fp8-all"}[format_]]
        if rule:
            options += ["--nvfp4-scale" if format_ == "nvfp4" else "--mx-scale", rule]
        if ties:
            options += ["--mx-ties", ties]
        out = self.at("-".join(["out", format_, rule or "", ties or ""]))
        if not os.path.exists(out):
            self.run_tool("mimo-convert", self.source, out, *options)
        tensors = container.read_directory(out)
        result = {}
        for group, names in self.names.items():
            for name in names:
                codes = tensors[name + ".weight"][1]
                scales = tensors.get(name + ".weight_scale", tensors.get(name + ".weight_scale_inv"))[1]
                global_ = tensors[name + ".weight_scale_2"][1].reshape(()) if format_ == "nvfp4" else None
                result.setdefault(group, []).append((codes, scales, global_))
        return result





if __name__ == "__main__":
    unittest.main()
