"""Proves that what was laid out for an engine can be turned back: byte-identical tensors, scales included, in the
source's files with the source's config and index wherever no block was cut on the way, and for the others equal
outside the blocks that were.

Which degrees cut nothing is not asked of the converter: it follows from docs/reference/mimo-checkpoints.md, section
3.4, counted block by block by reference/sharding.py.
"""
import unittest

import numpy as np

from harness import checkpoints, compare, ranks
from harness.case import ToolCase
from reference import codecs, container, decode, layouts, sharding

SMALL = dict(experts=2, moe_intermediate=4096, intermediate=4096)
GLOBAL = dict(SMALL, pattern=(0, 0), mtp=0)
WINDOW = dict(SMALL, pattern=(1, 1), mtp=1)
FORMS = {"auto": (), "split": ("--attention", "split"), "ranks": ("--format", "sharded-state")}
LOSSLESS = {
    "auto": [("v2-flash", SMALL, (1, 4)), ("v2.5", SMALL, (2, 4)), ("v2.6", dict(SMALL, hidden=256), (4,)),
             ("v2.5-pro", SMALL, (1, 8, 32)), ("v2.5", GLOBAL, (8, 16)), ("v2-flash", GLOBAL, (32,)),
             ("plain", WINDOW, (1, 4))],
    "split": [("v2-flash", SMALL, (4,)), ("v2.5", SMALL, (4,)), ("v2.5", GLOBAL, (8, 32)), ("v2.5-pro", SMALL, (16,)),
              ("v2.5", WINDOW, (1, 2)), ("plain", SMALL, (1, 2))],
    "ranks": [("v2-flash", SMALL, (4,)), ("v2.5", SMALL, (4,)), ("v2.6", dict(SMALL, hidden=256), (4,)),
              ("v2.5-pro", SMALL, (8, 16)), ("v2.5", GLOBAL, (8, 32)), ("v2-flash", WINDOW, (1, 2))]}
LOSSY = {
    "auto": [("v2.5", SMALL, (8,)), ("v2-flash", SMALL, (16,)), ("plain", SMALL, (2, 4))],
    "split": [("v2.5", SMALL, (1,)), ("v2-flash", SMALL, (2,)), ("v2.5-pro", SMALL, (4,))],
    "ranks": [("v2.5", SMALL, (8,)), ("v2-flash", SMALL, (1, 2)), ("v2.5-pro", SMALL, (1,)), ("plain", SMALL, (4,))]}


def cut_cells(form, fixture, tp, stored):
    """-> {prefix: source cells with a row in a block that the form's grid cuts}. stored: config of the output."""
    result, ranked = {}, ranks.rank_grid(stored)
    for prefix in fixture.prefixes:
        wide = max(tp, fixture.config["num_key_value_heads"])
        chunks = {"split": tp, "auto": wide, "ranks": ranked(prefix, tp)}[form]
        cells, result[prefix] = fixture.cells(prefix), set()
        for chunk in range(chunks):
            rows = sharding.head_rows(fixture.config, prefix + ".", chunks, chunk)
            mask = sharding.straddling(cells, rows)[0]
            result[prefix] |= set(np.concatenate([cells[x][rows[x]] for x in "qkv"])[mask].tolist())
    return result


class RoundTrip(ToolCase):
    def there_and_back(self, fixture, name, *options):
        there = self.convert(fixture.directory, name, *options)
        return there, self.convert(there, name + "-back", "--to", "hf")

    def check_restored(self, fixture, back):
        """Config and index of the source, but for our marker and ignore lists that may have become complete."""
        before, after = (compare.load_json(d, "config.json") for d in (fixture.directory, back))
        after.pop("mimo_layout", None)
        lists = [c.get("quantization_config", {}) for c in (before, after)]
        self.assertLessEqual(set(lists[0].pop("ignored_layers", [])), set(lists[1].pop("ignored_layers", [])))
        lists[1].pop("modules_to_not_convert", None)
        self.assertEqual(before, after)
        a, b = (compare.load_json(d, "model.safetensors.index.json") for d in (fixture.directory, back))
        self.assertEqual(a["metadata"], b["metadata"])
        self.assertEqual([(n, f, b["weight_map"].get(n)) for n, f in a["weight_map"].items()
                          if b["weight_map"].get(n) != f], [], "tensors in another file")

    def check_lossless(self, fixture, name, *options):
        there, back = self.there_and_back(fixture, name, *options)
        self.assertEqual(ranks.manifest(there)["totals"]["requantized_blocks"], 0)
        self.assertEqual(ranks.manifest(back)["totals"]["requantized_blocks"], 0)
        self.assert_same_tensors(fixture.tensors, back, name)
        self.check_restored(fixture, back)
        return back

    def check_lossy(self, fixture, name, form, tp):
        """Outside attention all bytes; inside it all rows of source blocks that no cut block took a row from."""
        there, back = self.there_and_back(fixture, name, "--to", "vllm", "--tp", tp, *FORMS[form])
        tensors = container.read_directory(back)
        others = {n: v for n, v in fixture.tensors.items() if not self.projections(n)}
        self.assert_same_tensors(others, {n: v for n, v in tensors.items() if not self.projections(n)}, name)
        equal, cut = 0, cut_cells(form, fixture, tp, compare.load_json(there, "config.json"))
        for prefix in fixture.prefixes:
            heads, kv = decode.geometry(fixture.config, prefix)
            stored = layouts.parse(fixture.qkv, heads, kv)
            found = decode.attention(tensors, prefix, stored, heads, kv)
            largest = max(float(part.scales.max()) for part in found.values())
            cells = fixture.cells(prefix)
            for letter in "qkv":
                true = fixture.values[f"{prefix}.{letter}_proj.weight"]
                kept = ~np.isin(cells[letter], sorted(cut[prefix]))
                equal += int(kept.sum())
                self.assertTrue(ranks.same_bits(true[kept], found[letter].values[kept]), f"{name} {prefix} {letter}")
                self.check_close(true[~kept], found[letter].values[~kept], largest, f"{name} {prefix} {letter}")
        self.assertGreater(equal, 0)
        self.check_restored(fixture, back)

    @staticmethod
    def projections(name):
        return name.startswith("model.") and ".self_attn." in name and any(
            f".{x}_proj." in name for x in ("q", "k", "v", "qkv"))

    def check_close(self, true, found, scale, where):
        """Two roundings by half a step of scales that are at most the attention's largest: a 16th of the value each, or
        half of the smallest step."""
        error = np.abs(true.astype(np.float64) - found)
        self.assertTrue((error <= np.abs(true) / 7.5 + scale * 2.0**-9).all(), where)


class Tables(RoundTrip):
    def lossless(self, form):
        for variant, options, degrees in LOSSLESS[form]:
            fixture = ranks.ours(variant, **options)
            for tp in degrees:
                with self.subTest(variant, tp=tp, pattern=options.get("pattern")):
                    self.setUp()
                    self.check_lossless(fixture, "out", "--to", "vllm", "--tp", tp, *FORMS[form], "--lossless")

    def lossy(self, form):
        for variant, options, degrees in LOSSY[form]:
            fixture = ranks.ours(variant, **options)
            for tp in degrees:
                with self.subTest(variant, tp=tp):
                    self.setUp()
                    self.check_lossy(fixture, "out", form, tp)


class Directories(Tables):
    def test_lossless(self):
        self.lossless("auto")

    def test_lossless_split(self):
        self.lossless("split")

    def test_lossy(self):
        self.lossy("auto")

    def test_lossy_split(self):
        self.lossy("split")


class RankFiles(Tables):
    FORM = ("--to", "vllm", "--format", "sharded-state")

    def test_lossless(self):
        self.lossless("ranks")

    def test_lossy(self):
        self.lossy("ranks")

    def test_lossless_with_experts_dealt(self):
        for variant, tp in (("v2.5", 4), ("v2.5-pro", 32), ("v2.6", 4)):
            fixture = ranks.ours(variant, **dict(SMALL, experts=32, moe_intermediate=128))
            with self.subTest(variant):
                self.setUp()
                self.check_lossless(fixture, "out", *self.FORM, "--tp", tp, "--ep", tp)

    def test_with_towers(self):
        fixture = ranks.ours("v2.5", **dict(SMALL, experts=4, moe_intermediate=128, towers=True))
        back = self.check_lossless(fixture, "out", *self.FORM, "--tp", 4, "--ep", 4)
        skip = ("config.json", "mimo-manifest.json")
        self.assertEqual(sorted(compare.tree(fixture.directory, skip)), sorted(compare.tree(back, skip)))

    def test_into_another_layout(self):
        """The way back need not end where it began: ranks of eight as BF16, split."""
        fixture = ranks.ours("v2.5-pro", **dict(SMALL, experts=8, moe_intermediate=128))
        there = self.convert(fixture.directory, "ranks", *self.FORM, "--tp", 8, "--ep", 8)
        out = self.convert(there, "out", "--to", "hf", "--dtype", "bf16", "--qkv", "split")
        wanted = self.convert(fixture.directory, "wanted", "--to", "hf", "--dtype", "bf16", "--qkv", "split")
        self.assert_same_tensors(wanted, out)


class Neuron(RoundTrip):
    def test_values_come_back(self):
        """BF16 gives BF16 back; FP8 the experts but for lost bits, and attention and dense within their rounding."""
        fixture = ranks.ours("v2.5", experts=4, moe_intermediate=256, intermediate=512)
        wanted = {n: v for n, v in fixture.values.items() if ".mtp." not in n}
        for options in (("--dtype", "bf16"), ()):
            with self.subTest(options):
                self.setUp()
                _, back = self.there_and_back(fixture, "out", "--to", "nxdi", *options)
                found = ranks.float_values(decode.checkpoint(back))
                self.assertEqual(sorted(wanted), sorted(found))
                for name, true in wanted.items():
                    self.check_value(fixture, name, true, found[name], bool(options))

    def check_value(self, fixture, name, true, found, bf16):
        if bf16:
            self.assertTrue(ranks.same_bits(codecs.f32_from_bf16(codecs.bf16_from_f32(true)) if name + "_scale_inv"
                                            in fixture.tensors or "self_attn" in name else true, found), name)
        elif sharding.EXPERT.fullmatch(name):
            codes = codecs.E4M3[fixture.tensors[name][1]]
            exact = codecs.E4M3[codecs.e4m3_encode(codes * np.float32(0.5))] * 2 == codes
            self.assertTrue(np.array_equal(true[exact], found[exact]), name)
            self.assertLess((~exact).mean(), 0.05)
        elif name.endswith("proj.weight") and "o_proj" not in name:
            amax = np.abs(true).max(axis=1, keepdims=True)
            self.assertTrue((np.abs(true - found) <= np.abs(true) * 0.14 + amax * 2.0**-8).all(), name)
        else:
            self.assertTrue(ranks.same_bits(true, found), name)


@unittest.skipUnless(checkpoints.external_generator(), "no external generator")
class External(RoundTrip):
    def test_lossless(self):
        ranks_of_four = ("--format", "sharded-state", "--ep", 4)
        for variant, tp, options in (("v2-flash", 4, ()), ("v2.5", 4, ranks_of_four), ("v2.5-pro", 16, ())):
            with self.subTest(variant):
                self.setUp()
                fixture = ranks.external(variant, experts=8)
                _, back = self.there_and_back(fixture, "out", "--to", "vllm", "--tp", tp, *options)
                self.assert_same_tensors(fixture.tensors, back)


class SelfCheck(unittest.TestCase):
    def test_lists_above_are_right(self):
        for table, lossless in ((LOSSLESS, True), (LOSSY, False)):
            for form, entries in table.items():
                for variant, options, degrees in entries:
                    fixture = ranks.ours(variant, **options)
                    for tp in degrees:
                        plain = {k: v for k, v in fixture.config.items() if k != "attention_projection_layout"}
                        found = sum(map(len, cut_cells(form, fixture, tp, plain).values()))
                        self.assertEqual(found == 0, lossless, (form, variant, tp, options))


if __name__ == "__main__":
    unittest.main()
