"""Proves that quantizing and cutting (or padding) in one run is what the parts are: `--to vllm --format sharded-state
--recipe` writes for every rank exactly the rows and columns that are its own of what the numpy encoders make of the
whole weights (tests/harness/requant.py, tests/reference/quantize.py), in the arrays of vLLM's own classes and of its
ModelOpt classes, one global scale for all ranks of a fuse group; block FP8 of attention begins its grid with the rank's
chunk. The same bytes come of two runs, and go back to the Hugging Face form; a directory of ranks or of Neuron is
quantized, decoded and cut in one run as in two.
"""
import os
import re
import unittest

import numpy as np

from harness import checkpoints, compare, ranks, requant
from harness.case import ToolCase
from harness.requant_case import chunks_of
from reference import codecs, container, decode, quantize, sharding

WIDTHS = dict(hidden=256, heads=64, intermediate=1024, moe_intermediate=1024, experts=4, vocab=300, pattern=(0, 1), mtp=1,
              towers=False)
RECIPES = ("nvfp4", "nvfp4-mlp", "nvfp4-experts", "mxfp8", "fp8-all", "mxfp4-experts", "nvfp4-experts+mxfp8-attention")
KEEP_ATTENTION = ("fp8-all", "mxfp4-experts", "nvfp4-experts", "nvfp4-mlp")     # what is block FP8 already
GLOBALS = ("weight_scale_2", "input_scale")
ONE = np.ones((), np.float32)


def part(array, count, index, axis):
    return np.split(array, count, axis)[index]


class Dealer:
    """The arrays of one rank, from those of a whole Hugging Face checkpoint with split attention."""

    def __init__(self, tensors, config, tp, rank, ep):
        self.tensors, self.config, self.tp, self.rank, self.ep = tensors, config, tp, rank, ep
        self.made = {}

    def part(self, array, axis):
        return part(array, self.tp, self.rank, axis)

    def deal(self):
        experts = {}
        for name, (dtype, array) in self.tensors.items():
            match = re.fullmatch(r"(.*\.mlp\.experts)\.(\d+)\.(gate|up|down)_proj\.(\w+)", name)
            if match:
                experts.setdefault((match[1], match[4], match[3] == "down"), {})[int(match[2]), match[3]] = (dtype, array)
            else:
                self.deal_one(name, dtype, array)
        for (base, suffix, down), members in experts.items():
            self.stack(base, suffix, down, members)
        self.add_input_scales()
        return self.made

    def deal_one(self, name, dtype, array):
        base, _, last = name.rpartition(".self_attn.")
        if base and last.startswith("qkv_proj."):
            pass                                           # kept as it is: tests/cli/test_sharded_state.py
        elif base and last.startswith("q_proj."):
            self.fuse_attention(base, last[len("q_proj."):])
        elif base and last.startswith(("k_proj.", "v_proj.")):
            pass
        elif ".mlp.gate_proj." in name:
            both = [self.tensors[name], self.tensors[name.replace("gate_proj", "up_proj")]]
            fused = name.replace("gate_proj", "gate_up_proj")
            if name.endswith(GLOBALS):
                self.made[fused] = ("F32", np.array([float(a) for _, a in both], np.float32))
            else:
                self.made[fused] = (dtype, np.concatenate([self.part(a, 0) for _, a in both]))
        elif ".mlp.up_proj." in name:
            pass
        elif name.endswith(GLOBALS):
            self.made[name] = ("F32", array.reshape(1))
        elif ".mlp.down_proj." in name or ".o_proj." in name:
            self.made[name] = (dtype, self.part(array, 1))
        elif name.endswith("attention_sink_bias"):
            self.made[name] = (dtype, self.part(array, 0))
        elif name in ("model.embed_tokens.weight", "lm_head.weight"):
            rows = sharding.padded_vocabulary(array.shape[0], self.tp)
            self.made[name] = (dtype, self.part(np.pad(array, [(0, rows - array.shape[0]), (0, 0)]), 0))
        else:
            self.made[name] = (dtype, array)

    def fuse_attention(self, base, suffix):
        parts = {x: self.tensors[f"{base}.self_attn.{x}_proj.{suffix}"] for x in "qkv"}
        fused = f"{base}.self_attn.qkv_proj.{suffix}"
        if suffix in GLOBALS:
            self.made[fused] = ("F32", np.array([float(parts[x][1]) for x in "qkv"], np.float32))
        elif suffix != "weight_scale_inv":                 # each row by itself; the grids of FP8 are made by the test
            rows = sharding.head_rows(self.config, base + ".self_attn.", self.tp, self.rank)
            self.made[fused] = (parts["q"][0], np.concatenate([parts[x][1][rows[x]] for x in "qkv"]))

    def stack(self, base, suffix, down, members):
        """experts [E, rows, columns]; of each, rows of gate and up or columns of down."""
        count = max(e for e, _ in members) + 1
        own = sharding.experts_of(count, self.ep, self.rank) if self.ep > 1 else range(count)
        name = f"{base}.{'w2' if down else 'w13'}_{suffix}"
        dtype = next(iter(members.values()))[0]
        if suffix in GLOBALS:
            found = [[float(members[e, x][1]) for x in (("down",) if down else ("gate", "up"))] for e in own]
            self.made[name] = ("F32", np.array(found, np.float32).reshape((-1,) if down else (-1, 2)))
            return
        cut = (lambda a, axis: a) if self.ep > 1 else self.part
        each = [np.concatenate([cut(members[e, x][1], 1 if down else 0) for x in (("down",) if down else ("gate", "up"))])
                for e in own]
        self.made[name] = (dtype, np.stack(each))

    def add_input_scales(self):
        """ModelOpt's NVFP4 classes have them, used or not."""
        for name in [n for n in self.made if n.endswith("weight_scale_2")]:
            shape = self.made[name][1].shape
            unused = ("F32", np.ones(shape, np.float32)) if ".experts." in name else ("BF16", np.full(shape, 0x7FC0, np.uint16))
            self.made.setdefault(name.replace("weight_scale_2", "input_scale"), unused)


class QuantizedRanks(ToolCase):
    def ranks_of(self, source, name, tp, ep, *options):
        return self.convert(source, name, "--to", "vllm", "--format", "sharded-state", "--tp", tp, "--ep", ep, *options)

    def check_rank(self, out, expected, config, tp, rank, ep, values=None):
        """values: of q, k and v, where attention is made block FP8."""
        found, _ = ranks.read_rank(out, rank)
        dealt = Dealer(expected.tensors, config, tp, rank, ep).deal()
        for name, (dtype, array) in dealt.items():
            where = f"TP {tp} EP {ep} rank {rank}: {name}"
            name = name.replace(".gate.e_score_correction_bias", ".experts.e_score_correction_bias")
            self.assertIn(name, found, where)
            if name.endswith("e_score_correction_bias") or name.endswith("mlp.gate.weight"):
                continue                                    # types of their own: tests/cli/test_sharded_state.py
            if name.endswith("qkv_proj.weight") and dtype == "F8_E4M3" and name + "_scale" not in dealt:
                if values:
                    self.check_chunk(name, found, config, values, tp, rank, where)
                continue
            self.assertEqual((found[name][0], found[name][1].shape), (dtype, array.shape), where)
            self.assertEqual(found[name][1].tobytes(), np.ascontiguousarray(array).tobytes(), where)
        scales = {n for n in found if n.endswith(("weight_scale", "weight_scale_2", "input_scale"))}
        self.assertEqual(scales, {n for n in dealt if n in scales}, "scales that nothing asked for")

    def check_chunk(self, name, found, config, values, tp, rank, where):
        base = name[:-len(".self_attn.qkv_proj.weight")]
        rows = sharding.head_rows(config, base + ".self_attn.", tp, rank)
        chunk = np.concatenate([values[f"{base}.self_attn.{x}_proj.weight"][rows[x]] for x in "qkv"])
        made = quantize.fp8_block(chunk)
        self.assertEqual(found[name][1].tobytes(), made.codes.tobytes(), where)
        self.assertEqual(found[name + "_scale_inv"][1].tobytes(), made.scales.tobytes(), where)

    def check(self, variant, recipe, tp, ep, store=None):
        options = dict(WIDTHS, **({"store": store} if store else {}))
        source, model = checkpoints.ours(variant, **options)
        out = self.ranks_of(source, "ranks", tp, ep, "--recipe", recipe)
        split = "split" if store or recipe not in KEEP_ATTENTION else None
        expected = requant.expected(source, recipe, chunks=chunks_of(model), qkv=split)
        values = ranks.float_values(model.values) if store else None
        config = compare.load_json(source, "config.json")
        for rank in range(tp):
            self.check_rank(out, expected, config, tp, rank, ep, values)
        manifest = compare.load_json(out, "mimo-manifest.json")
        if "fp8" not in recipe:
            replicas = sum(tp / decode.geometry(config, n.rpartition(".")[0])[1] > 1 for n in expected.made)
            if not replicas:
                self.assertEqual(manifest["totals"]["encoded_blocks"], expected.encoded[0])
        self.run_tool("mimo-verify", "check", out)
        return source, out

    def test_every_recipe(self):
        for recipe in RECIPES:
            for tp, ep in ((2, 1), (4, 4)):
                with self.subTest(recipe=recipe, tp=tp, ep=ep):
                    self.setUp()
                    self.check("v2.5", recipe, tp, ep)

    def test_every_variant(self):
        for variant in ("v2-flash", "v2.6", "plain"):
            for recipe in ("nvfp4", "mxfp8"):
                with self.subTest(variant=variant, recipe=recipe):
                    self.setUp()
                    self.check(variant, recipe, 4, 1)

    def test_block_fp8_of_values_begins_with_the_chunk_of_the_rank(self):
        for tp in (1, 2, 8):                                # 8: KV heads of full attention are repeated
            with self.subTest(tp=tp):
                self.setUp()
                self.check("v2.5", "fp8-all", tp, 1, store="bf16")

    def test_two_runs_and_the_way_back(self):
        for recipe in RECIPES:
            with self.subTest(recipe=recipe):
                self.setUp()
                source, once = self.check("v2.5", recipe, 4, 1)
                first = self.convert(source, "first", "--to", "hf", "--qkv", "fused:4", "--recipe", recipe)
                twice = self.ranks_of(first, "twice", 4, 1)
                self.assert_same_ranks(once, twice)
                back = self.convert(once, "back", "--to", "hf", "--qkv", "fused:4")
                self.assert_same_tensors(first, back, recipe)

    def assert_same_ranks(self, a, b):
        files = container.tensor_files(a)
        self.assertEqual(files, container.tensor_files(b))
        for file in files:
            self.assert_same_tensors(container.read(os.path.join(a, file)), container.read(os.path.join(b, file)), file)

    def test_input_scales_are_stacked_and_told_from_those_that_nothing_uses(self):
        source, _ = checkpoints.ours("v2.5", **WIDTHS)
        first = self.convert(source, "first", "--recipe", "nvfp4", "--w4a4", "--input-scale", "0.25", "--qkv", "fused:2")
        out = self.ranks_of(first, "ranks", 2, 1)
        for name, (_, array) in ranks.read_rank(out, 1)[0].items():
            if name.endswith("input_scale"):
                self.assertEqual(set(array.ravel().tolist()), {0.25}, name)
        self.assert_same_tensors(first, self.convert(out, "back", "--to", "hf", "--qkv", "fused:2"))
        plain = self.convert(source, "plain", "--recipe", "nvfp4", "--qkv", "fused:2")
        back = self.convert(self.ranks_of(plain, "plain-ranks", 2, 1), "plain-back", "--to", "hf", "--qkv", "fused:2")
        self.assertFalse([n for n in container.read_directory(back) if n.endswith("input_scale")])

    def test_padded_and_quantized(self):
        """TP 3: what the encoders make of the padded values, which a run without a recipe wrote."""
        for recipe in ("nvfp4", "mxfp8", "mxfp4-experts"):
            with self.subTest(recipe=recipe):
                self.setUp()
                source, _ = checkpoints.ours("v2.5", **dict(WIDTHS, experts=3, store="bf16"))
                pad = ("--to", "vllm", "--tp", "3", "--pad")
                padded = self.convert(source, "padded", *pad)
                once = self.convert(source, "once", *pad, "--recipe", recipe)
                self.assert_same_tensors(self.convert(padded, "twice", *pad, "--recipe", recipe), once, recipe)
                expected = requant.expected(padded, recipe, qkv="split")
                self.assert_same_tensors(expected.tensors, once, recipe)
                self.assert_same_ranks(self.ranks_of(source, "ranks", 3, 1, "--pad", "--recipe", recipe),
                                       self.ranks_of(padded, "of-padded", 3, 1, "--pad", "--recipe", recipe))

    def test_what_ranks_hold_is_quantized_in_one_run(self):
        source, _ = checkpoints.ours("v2.5", **WIDTHS)
        held = self.ranks_of(source, "held", 4, 1)
        back = self.convert(held, "back", "--to", "hf")
        for recipe in RECIPES:
            with self.subTest(recipe=recipe):
                once = self.convert(held, "once-" + recipe, "--to", "hf", "--qkv", "fused:4", "--recipe", recipe)
                twice = self.convert(back, "twice-" + recipe, "--to", "hf", "--qkv", "fused:4", "--recipe", recipe)
                self.assert_same_tensors(twice, once, recipe)

    def test_experts_of_ranks_are_quantized_as_those_of_the_checkpoint(self):
        """Codes and scales of experts were moved into the ranks, so what is made of them is the same, byte for byte: also at TP 2, where
        the columns of a rank's down projection are as many as the bytes of a row of 4-bit codes."""
        source, _ = checkpoints.ours("v2.5", **WIDTHS)
        for dtype in ("nvfp4", "mxfp4", "mxfp8"):
            expected = container.read_directory(self.convert(source, dtype, "--dtype", dtype))
            for tp in (1, 2, 4, 8):
                with self.subTest(dtype, tp=tp):
                    cut = self.at(f"ranks{tp}")
                    if not os.path.exists(cut):
                        self.convert(source, f"ranks{tp}", "--to", "vllm", "--format", "sharded-state", "--tp", tp)
                    found = container.read_directory(self.convert(cut, f"{dtype}-{tp}", "--to", "hf", "--dtype", dtype))
                    experts = [name for name in expected if ".experts." in name]
                    self.assertGreater(len(experts), 20)
                    for name in experts:
                        self.assertEqual(found[name][0], expected[name][0], name)
                        np.testing.assert_array_equal(found[name][1], expected[name][1], name)

    def test_a_part_of_an_array_of_a_rank_is_refused(self):
        """A stack without one expert would hold zeros in its place."""
        source, _ = checkpoints.ours("v2.5", **WIDTHS)
        ranked = ("--to", "vllm", "--format", "sharded-state", "--tp", "2")
        for options in (ranked, (*ranked, "--dtype", "bf16"), (*ranked, "--recipe", "mxfp8"), ("--to", "nxdi"),
                        (*ranked, "--ep", "2"), ("--to", "megatron")):
            for pattern in (r".*experts\.3\.up_proj.*", r".*experts\.3\..*", r".*layers\.0\.mlp\.gate_proj.*"):
                if options == ("--to", "nxdi") and "gate_proj" in pattern:
                    continue                                # an array of its own
                with self.subTest(options=options, pattern=pattern):
                    result = self.run_tool("mimo-convert", source, self.at("out"), *options, "--exclude", pattern, code=2)
                    self.assertRegex(result.stderr, "part|all of its|left out")
                    self.assertFalse(os.path.exists(self.at("out")))
        self.ranks_of(source, "whole-layer", 2, 1, "--exclude", r".*layers\.1\..*")

    def test_refusals_say_what_the_second_run_is(self):
        source, _ = checkpoints.ours("v2.5", **WIDTHS)
        ranked = ("--to", "vllm", "--format", "sharded-state", "--tp", "2")
        for options, found in (((*ranked, "--recipe", "nvfp4", "--ranks", "0"), "two runs"),
                               ((*ranked, "--recipe", "nvfp4", "--dialect", "compressed-tensors"), "modelopt")):
            with self.subTest(options=options):
                result = self.run_tool("mimo-convert", source, self.at("out"), *options, code=2)
                self.assertIn(found, result.stderr)


if __name__ == "__main__":
    unittest.main()
