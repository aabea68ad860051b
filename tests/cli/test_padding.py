"""Proves that TP degrees which divide nothing (3, 6) are refused unless `--pad` is given, that a padded output is the
padded model of the recipe (virtual heads at the tail, zero weights, columns and sinks) on every rank, and that the way
back drops what was added.
"""
import os
import unittest

import numpy as np

from harness import checkpoints, compare, ranks
from harness.case import ToolCase
from reference import container, sharding

SMALL = dict(experts=2, intermediate=512, moe_intermediate=256)
DEGREES = (3, 6)
FORMS = {"directory": (), "ranks": ("--format", "sharded-state")}


class Padded:
    """The larger model that TP `tp` needs, as a judge sees it."""

    def __init__(self, fixture, tp, experts_quantum=128):
        self.config, self.values = sharding.padded(fixture.config, fixture.values, tp, experts_quantum)
        self.cells = {p: sharding.padded_cells(fixture.cells(p), self.config, p) for p in fixture.prefixes}

    def judge(self, case, fixture, stored, grid):
        return ranks.Rank(case, fixture, stored, grid, self.values, self.config, self.cells)


class PaddingCase(ToolCase):
    def pad(self, fixture, name, tp, *options):
        return self.convert(fixture.directory, name, "--to", "vllm", "--tp", tp, "--pad", *options)

    def check_directory(self, fixture, out, tp, experts_quantum=128):
        padded = Padded(fixture, tp, experts_quantum)
        tensors, config = container.read_directory(out), compare.load_json(out, "config.json")
        fused = any(n.endswith("qkv_proj.weight") for n in tensors if n.startswith("model."))
        judge = padded.judge(self, fixture, config, lambda _, tp: config["num_key_value_heads"] if fused else tp)
        for rank in range(tp):
            judge.check(sharding.load(tensors, config, tp, rank), tp, rank, note=f"padded {tp}")
        for key in ("num_attention_heads", "swa_num_attention_heads", "num_key_value_heads", "swa_num_key_value_heads",
                    "intermediate_size", "moe_intermediate_size", "vocab_size", "hidden_size"):
            self.assertEqual(config[key], padded.config[key], key)
        return judge

    def check_ranks(self, fixture, out, tp, experts_quantum=128):
        stored = compare.load_json(out, "config.json")
        judge = Padded(fixture, tp, experts_quantum).judge(self, fixture, stored, ranks.rank_grid(stored))
        for rank in range(tp):
            tensors, _ = ranks.read_rank(out, rank)
            wanted = sharding.rank_values(judge.config, judge.values, tp, rank)
            params = {n.replace("experts.e_score", "gate.e_score"): v for n, v in tensors.items()
                      if ".self_attn.attn." not in n}
            self.assertEqual(sorted(wanted), sorted(n for n in params if not ranks.SCALES.fullmatch(n)))
            judge.check(params, tp, rank, note=f"padded ranks {tp}")
        return judge


class Values(PaddingCase):
    def test_directories(self):
        for variant in ("v2-flash", "v2.5", "v2.5-pro", "plain"):
            fixture = ranks.ours(variant, **SMALL)
            for tp in DEGREES:
                with self.subTest(variant, tp=tp):
                    self.check_directory(fixture, self.pad(fixture, f"{variant}-{tp}", tp), tp)

    def test_microscaled_experts_pad_to_their_group(self):
        fixture = ranks.ours("v2.6", **dict(SMALL, hidden=256))
        for tp in DEGREES:
            with self.subTest(tp):
                self.check_directory(fixture, self.pad(fixture, f"v2.6-{tp}", tp), tp, 32)

    def test_rank_files(self):
        for variant in ("v2-flash", "v2.5", "v2.5-pro"):
            fixture = ranks.ours(variant, **SMALL)
            for tp in DEGREES:
                with self.subTest(variant, tp=tp):
                    out = self.pad(fixture, f"{variant}-{tp}", tp, *FORMS["ranks"])
                    self.check_ranks(fixture, out, tp)

    def test_a_degree_that_divides_is_not_padded(self):
        fixture = ranks.ours("v2.5", **SMALL)
        plain = self.convert(fixture.directory, "plain", "--to", "vllm", "--tp", 2)
        self.assert_same_tensors(plain, self.pad(fixture, "padded", 2))


class WayBack(PaddingCase):
    def test_the_source_again(self):
        """Six chunks are the source's own four and two of nothing: lossless. Only rank files of three may cut K and V:
        there K heads of two chunks lie together."""
        for variant in ("v2-flash", "v2.5"):
            fixture = ranks.ours(variant, **SMALL)
            for form, options in FORMS.items():
                for tp in DEGREES:
                    with self.subTest(variant, form=form, tp=tp):
                        name = f"{variant}-{form}-{tp}"
                        there = self.pad(fixture, name, tp, *options)
                        back = self.convert(there, name + "-back", "--to", "hf")
                        found = container.read_directory(back)
                        lossy = set()
                        if ranks.manifest(there)["totals"]["requantized_blocks"]:
                            self.assertEqual((form, tp), ("ranks", 3))
                            lossy = {n for n in fixture.tensors if ".self_attn." in n and "_proj.weight" in n
                                     and "o_proj" not in n}
                        self.assertEqual(set(found), set(fixture.tensors))
                        for n in lossy:
                            self.assertEqual(found[n][1].shape, fixture.tensors[n][1].shape, n)
                        self.assert_same_tensors({n: v for n, v in fixture.tensors.items() if n not in lossy},
                                                 {n: v for n, v in found.items() if n not in lossy})


class Refusals(PaddingCase):
    def test_named_with_the_nearest_degree(self):
        for variant in ("v2-flash", "v2.5-pro"):
            fixture = ranks.ours(variant, **SMALL)
            for tp, near in ((3, r"\b(2|4)\b"), (6, r"\b(4|8)\b")):
                for options in FORMS.values():
                    result = self.run_tool("mimo-convert", fixture.directory, self.at("out"), "--to", "vllm",
                                           "--tp", tp, *options, code=2)
                    self.assertRegex(result.stderr, near)
                    self.assertIn("--pad", result.stderr)
                    self.assert_nothing_published(self.at("out"))


class SelfCheck(unittest.TestCase):
    def test_the_published_recipe(self):
        """The table of target-layouts, 10, for TP 3, but for the widths, whose quantum here is a whole FP8 block."""
        released = dict(num_attention_heads=64, swa_num_attention_heads=64, num_key_value_heads=4,
                        swa_num_key_value_heads=8, intermediate_size=16384, moe_intermediate_size=2048,
                        vocab_size=152576)
        config, _ = sharding.padded(released, {}, 3)
        self.assertEqual([config[k] for k in released], [96, 96, 6, 12, 16512, 2304, 152640])
        self.assertEqual(sharding.padded(released, {}, 3, 32)[0]["moe_intermediate_size"], 2112)

    def test_padding_adds_only_zeros_at_the_tail(self):
        fixture = ranks.ours("v2.5", **SMALL)
        config, values = sharding.padded(fixture.config, fixture.values, 3)
        for name, value in fixture.values.items():
            grown = values[name]
            self.assertTrue(ranks.same_bits(grown[tuple(slice(n) for n in value.shape)], value), name)
            self.assertEqual(np.count_nonzero(grown), np.count_nonzero(value), name)
        for name in ("model.layers.0.self_attn.", "model.layers.1.self_attn."):
            heads, kv = sharding.heads_of(config, name)
            old_heads, old_kv = sharding.heads_of(fixture.config, name)
            self.assertEqual(heads / kv, old_heads / old_kv)
            last = sharding.head_rows(config, name, 3, 2)          # the last rank holds virtual heads only
            self.assertGreaterEqual(last["q"].min(), old_heads * 192)
            self.assertGreaterEqual(last["k"].min(), old_kv * 192)


class Vocabulary(PaddingCase):
    """Rows that --pad added are zeros; where somebody has filled them, the way back says so before it cuts them off."""

    def fill(self, directory, holds):
        """Of the embedding: of the rows beyond the 64, the third and the last; -0 in the fourth. holds(name) chooses files."""
        for file in filter(holds, container.tensor_files(directory)):
            path = f"{directory}/{file}"
            tensors = {n: (d, np.array(a)) for n, (d, a) in container.read(path).items()}
            if "model.embed_tokens.weight" not in tensors:
                continue
            rows = tensors["model.embed_tokens.weight"][1]
            self.assertEqual(np.count_nonzero(rows[-60:]), 0)
            rows[-60 + 2, 5] = rows[-1, 0] = 0x3F80
            rows[-60 + 3, 1] = 0x8000
            container.write(path, tensors, container.read_header(path)[1])
        os.remove(f"{directory}/mimo-manifest.json")

    def test_filled_rows_are_counted(self):
        source, _ = checkpoints.ours("v2.5", **checkpoints.TINY)
        for form, holds, back in (("directory", lambda f: True, "restore"), ("ranks", lambda f: "rank-2-" in f, "keep")):
            with self.subTest(form):
                out = self.convert(source, form, "--to", "vllm", "--tp", 3, "--pad", *FORMS[form])
                silent = self.run_tool("mimo-convert", out, self.at(form + "-silent"), "--to", "hf", "--qkv", back)
                self.assertNotIn("travel.vocabulary_rows", silent.stderr)
                self.fill(out, holds)
                said = self.run_tool("mimo-convert", out, self.at(form + "-said"), "--to", "hf", "--qkv", back)
                self.assertIn("travel.vocabulary_rows: model.embed_tokens.weight: 2 of 128 rows", said.stderr)
                self.assert_same_tensors(self.at(form + "-silent"), self.at(form + "-said"))


if __name__ == "__main__":
    unittest.main()
