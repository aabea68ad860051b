"""Proves what FP8 re-layouts promise: where the plan is lossless (`--lossless` succeeds) a round trip gives back the
same bytes, and always every target block whose source cells agree is moved as it is (codes and scale), while a block
that straddles is re-quantized to within half an E4M3 step, with no more squared error than a fresh scale would leave.

The judge decodes both sides by the definition of their layouts (tests/reference/layouts.py), element by element.
"""
import unittest

import numpy as np

from harness import checkpoints, compare
from harness.case import ToolCase
from reference import codecs, container, decode, layouts
from reference.model import VARIANTS

NATIVE = {"v2-flash": "split", "plain": "fused:1", "v2.5-pro": "fused:8", "v2.5": "fused:4", "v2.6": "fused:4"}
SMALL = dict(pattern=(0, 1), mtp=1, towers=False, experts=2)


def judge(source, out, chunks_in, chunks_out, case):
    """Compares the attention of two FP8 checkpoints. -> (moved cells, re-quantized cells)"""
    (a, config_a, _), (b, config_b, _) = decode.load(source), decode.load(out)
    prefixes = decode.attention_prefixes(a)
    case.assertEqual(prefixes, decode.attention_prefixes(b))
    counts = [0, 0]
    for prefix in prefixes:
        sides = []
        for tensors, config, chunks in ((a, config_a, chunks_in), (b, config_b, chunks_out)):
            heads, kv = decode.geometry(config, prefix)
            stored = decode.stored_layout(tensors, prefix, heads, kv, chunks)
            sides.append((decode.attention(tensors, prefix, stored, heads, kv), kv))
        (before, kv), (after, kv_out) = sides
        before = {name: repeat_heads(name, part, kv, kv_out) for name, part in before.items()}
        judge_cells(prefix, before, after, counts, case)
    return tuple(counts)


def repeat_heads(name, part, kv, kv_out):
    if name == "q" or kv == kv_out:
        return part
    size = layouts.head_rows(layouts.LETTERS.index(name))
    rows = np.concatenate([np.arange(size) + (h * kv // kv_out) * size for h in range(kv_out)])
    return decode.Logical(*(field[rows] for field in part))


def judge_cells(prefix, before, after, counts, case):
    def joined(parts, field):
        return np.concatenate([getattr(parts[name], field) for name in layouts.LETTERS])
    values, codes, scales = (joined(before, f) for f in ("values", "codes", "scales"))
    new_values, new_codes, new_scales, cells = (joined(after, f) for f in ("values", "codes", "scales", "cell"))
    for cell in np.unique(cells):
        rows = np.flatnonzero(cells == cell)
        for block in range(scales.shape[1]):
            at = np.ix_(rows, np.arange(block * 128, min(block * 128 + 128, values.shape[1])))
            sources = np.unique(scales[rows, block].view(np.uint32))
            scale = new_scales[rows[0], block]
            where = f"{prefix} scale row {cell} block {block}"
            if sources.size == 1:
                counts[0] += 1
                case.assertEqual(scale.tobytes(), scales[rows[0], block].tobytes(), f"{where}: scale not moved")
                case.assertTrue(np.array_equal(codes[at], new_codes[at]), f"{where}: codes not moved")
                continue
            counts[1] += 1
            judge_requantized(values[at], new_values[at], float(scale), where, case)


def judge_requantized(x, y, scale, where, case):
    x, y = x.astype(np.float64), y.astype(np.float64)
    case.assertGreater(scale, 0, where)
    fits = np.abs(x) <= codecs.E4M3_MAX * scale
    bound = 0.5 * codecs.e4m3_step(np.abs(x) / scale) * scale * (1 + 1e-5)
    worst = np.abs(x - y)[fits] - bound[fits]
    case.assertLessEqual(worst.max(initial=-1.0), 0, f"{where}: off by more than half a step")
    fresh = np.float32(max(np.abs(x).max(), 1e-12)) / np.float32(448)
    again = (codecs.E4M3[codecs.e4m3_encode(x.astype(np.float32) / fresh)] * fresh).astype(np.float64)
    best = ((x - again) ** 2).sum()
    case.assertLessEqual(((x - y) ** 2).sum(), best * (1 + 1e-6), f"{where}: worse than a fresh scale")


class Lossless(ToolCase):
    def round_trip(self, source, there, back, name=""):
        """source -> there -> back, both with --lossless; tensors equal byte for byte."""
        flags = ("--dtype", "keep", "--lossless")
        middle = self.convert(source, f"middle{name}", "--qkv", there, *flags, code=0)
        out = self.convert(middle, f"back{name}", "--qkv", back, *flags, code=0)
        self.assert_same_tensors(source, out, f"{there} and back to {back}")
        return middle

    def test_native_to_split_and_back(self):
        for variant in ("v2.5", "v2.5-pro", "v2.6"):
            with self.subTest(variant):
                self.setUp()
                source, model = checkpoints.ours(variant)
                middle = self.round_trip(source, "split", NATIVE[variant])
                values = decode.checkpoint(middle, decode.chunk_count(*decode.load(source)[1:]))
                self.assert_same_tensors(decode.stored_as(model.values, "fp32"), decode.stored_as(values, "fp32"))

    def test_split_to_fused_and_back(self):
        source, model = checkpoints.ours("v2-flash")
        middle = self.round_trip(source, "fused:4", "split")
        values = decode.checkpoint(middle, 4)
        self.assert_same_tensors(decode.stored_as(model.values, "fp32"), decode.stored_as(values, "fp32"))
        default = self.convert(source, "default", "--dtype", "keep", "--qkv", "fused")
        self.assert_same_tensors(middle, default, "fused without a number is the model's own chunk count")

    def test_real_head_counts(self):
        for variant, heads in (("v2.5", 64), ("v2.5-pro", 128)):
            with self.subTest(variant):
                self.setUp()
                source, _ = checkpoints.ours(variant, heads=heads, pattern=(0, 1), mtp=1, towers=False, experts=2)
                self.round_trip(source, "split", NATIVE[variant])
        self.setUp()
        source, _ = checkpoints.ours("v2-flash", heads=64, pattern=(0, 1), mtp=1, experts=2)
        self.round_trip(source, "fused:4", "split")

    def test_window_layers_regroup_without_loss(self):
        """A chunk of two window-attention KV heads is whole blocks: 4 chunks to 2 or 1 and back moves everything."""
        source, _ = checkpoints.ours("v2.5", pattern=(1, 1), towers=False, experts=2, seed=2)
        for there in ("fused:2", "fused:1"):
            with self.subTest(there):
                self.round_trip(source, there, "fused:4", name=there[-1])

    def test_keep_changes_nothing(self):
        for variant in VARIANTS:
            with self.subTest(variant):
                self.setUp()
                source, _ = checkpoints.ours(variant, **({} if variant in ("v2.5", "v2.6") else SMALL))
                out = self.convert(source, "out", "--lossless")
                self.assert_same_tensors(source, out)
                before, after = (compare.load_json(d, "config.json") for d in (source, out))
                after.pop("mimo_layout", None)                # the marker of the layout, and a completed ignore list
                quantization, kept = before.pop("quantization_config"), after.pop("quantization_config")
                self.assertLessEqual(set(quantization.pop("ignored_layers")), set(kept["ignored_layers"]))
                self.assertEqual(quantization, {key: kept[key] for key in quantization})
                self.assertEqual(before, after)

    def test_whatever_calls_itself_lossless_is(self):
        """Every pair of chunk counts: refused with exit 1 and nothing published, or byte-identical both ways."""
        for variant, counts in (("v2.5", (1, 2, 4)), ("v2.5-pro", (1, 2, 4, 8)), ("plain", (1, 2, 4))):
            source, _ = checkpoints.ours(variant, **SMALL)
            for there in counts:
                with self.subTest(variant, there=there):
                    self.setUp()
                    result = self.run_tool("mimo-convert", source, self.at("middle"), "--dtype", "keep", "--lossless",
                                           "--qkv", f"fused:{there}", code=(0, 1))
                    if result.code == 1:
                        self.assert_nothing_published(self.at("middle"))
                        self.assertTrue(result.stderr.strip())
                        self.assertNotEqual(f"fused:{there}", NATIVE[variant])
                        continue
                    out = self.run_tool("mimo-convert", self.at("middle"), self.at("back"), "--dtype", "keep",
                                        "--lossless", "--qkv", NATIVE[variant], code=(0, 1))
                    if out.code == 0:
                        self.assert_same_tensors(source, self.at("back"))


class Judged(ToolCase):
    """Re-layouts with straddling blocks."""

    def check(self, variant, target, straddles, *options, **spec):
        source, _ = checkpoints.ours(variant, **dict(SMALL, **spec))
        out = self.convert(source, "out", "--dtype", "keep", "--qkv", target, *options)
        chunks_in = int(decode.chunk_count(*decode.load(source)[1:])) if variant != "plain" else 1
        number = target.partition(":")[2]
        chunks_out = int(number) if number.isdigit() else chunks_in
        moved, requantized = judge(source, out, chunks_in, chunks_out, self)
        self.assertGreater(moved, 0)
        self.assertEqual(requantized > 0, straddles, f"{requantized} cells re-quantized")
        if straddles:
            refused = self.run_tool("mimo-convert", source, self.at("refused"), "--dtype", "keep", "--qkv", target,
                                    "--lossless", code=1)
            self.assertTrue(refused.stderr.strip())
            self.assert_nothing_published(self.at("refused"))
        others = {n: v for n, v in container.read_directory(source).items() if "self_attn" not in n or "o_proj" in n}
        found = container.read_directory(out)
        self.assert_same_tensors(others, {n: found[n] for n in others if n in found}, "outside of q, k and v")
        many = self.convert(source, "many", "--dtype", "keep", "--qkv", target, "--threads", 4, *options)
        self.assert_same_trees(out, many)

    def test_fewer_chunks(self):
        self.check("v2.5", "fused:2", True)

    def test_one_chunk(self):
        self.check("v2.5", "fused:1", True)

    def test_pro_to_four(self):
        self.check("v2.5-pro", "fused:4", True)

    def test_plain_to_the_family_s_own(self):
        self.check("plain", "fused:4", True)

    def test_split_to_two(self):
        self.check("v2-flash", "fused:2", True)

    def test_moves_only(self):
        self.check("v2.5", "split", False)

    def test_moves_only_pro(self):
        self.check("v2.5-pro", "split", False)

    def test_independent_grids(self):
        self.check("v2.5", "split:independent", True)

    def test_straddling_layers_as_bf16(self):
        """--on-straddle bf16: layers with straddles hold the exact BF16 values, the others stay FP8 and exact."""
        source, model = checkpoints.ours("v2.5", **SMALL)
        out = self.convert(source, "out", "--dtype", "keep", "--qkv", "fused:2", "--on-straddle", "bf16")
        found = container.read_directory(out)
        self.assertEqual(found["model.layers.0.self_attn.qkv_proj.weight"][0], "BF16")
        self.assertEqual(found["model.layers.1.self_attn.qkv_proj.weight"][0], "F8_E4M3")
        self.assert_same_tensors(decode.stored_as(model.values, "bf16"),
                                 decode.stored_as(decode.checkpoint(out, 2), "bf16"))
        listed = compare.load_json(out, "config.json")["quantization_config"]["ignored_layers"]
        self.assertIn("model.layers.0.self_attn.qkv_proj", listed)
        refused = self.run_tool("mimo-convert", source, self.at("refused"), "--qkv", "fused:2",
                                "--on-straddle", "refuse", code=1)
        self.assertIn("layers 0", refused.stderr)
        self.assert_nothing_published(self.at("refused"))

    def test_fresh_scales_on_request(self):
        self.check("v2.5", "fused:2", True, "--scale-policy", "fresh")

    def test_more_chunks_than_heads(self):
        """Window layers have two KV heads per chunk: at 8 chunks their K blocks are cut, elsewhere nothing."""
        self.check("v2.5", "fused:8", True)


@unittest.skipUnless(checkpoints.external_generator(), "no external generator")
class External(ToolCase):
    def test_round_trips(self):
        for variant, there, back in (("v2-flash", "fused:4", "split"), ("v2.5", "split", "fused:4"),
                                     ("v2.5-pro", "split", "fused:8"), ("v2.6", "split", "fused:4")):
            with self.subTest(variant):
                self.setUp()
                source, _ = checkpoints.external(variant, seed=1)
                middle = self.convert(source, "middle", "--dtype", "keep", "--qkv", there, "--lossless")
                out = self.convert(middle, "out", "--dtype", "keep", "--qkv", back, "--lossless")
                self.assert_same_tensors(source, out)


if __name__ == "__main__":
    unittest.main()
