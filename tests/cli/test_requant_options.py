"""Proves what the options of re-quantization do to the bytes: scale rules, ties, scale types and block shapes, the passage
through BF16, dialects, input scales, users' recipes with shared q, k and v; and that threads and memory do nothing to
them, also where a fuse group is read twice because it exceeds --memory.
"""
import json
import unittest

import numpy as np

from harness import checkpoints, compare, requant
from harness.requant import Encoding
from harness.requant_case import RequantCase, chunks_of
from reference import container, hard_weights, make, quantize
from reference.codecs import bf16_from_f32
from reference.model import Model, Spec

SMALL = dict(pattern=(0, 1), mtp=1, experts=2, towers=False, extremes=False)
EXPERTS = ["expert.gate", "expert.up", "expert.down"]


class Options(RequantCase):
    def setUp(self):
        super().setUp()
        self.source, self.model = checkpoints.ours("v2.5", **SMALL)

    def recipe_file(self, name="mine", **members):
        path = self.at(name + ".json")
        with open(path, "w") as f:
            json.dump(dict({"name": name}, **members), f)
        return path


class Encodings(Options):
    def check_search(self, source, rule, **account):
        """Byte for byte, but for choices between candidates whose errors agree (quantize.as_good)."""
        out = self.convert(source, "out-" + rule, "--recipe", "nvfp4-experts", "--nvfp4-scale", rule)
        expected = requant.expected(source, "nvfp4-experts", Encoding(nvfp4=rule), **account)
        found = container.read_directory(out)
        self.assertEqual(sorted(found), sorted(expected.tensors))
        excused = blocks = 0
        for weight, made in expected.made.items():
            global_ = found[weight + "_scale_2"][1].reshape(())
            self.assertEqual(global_.tobytes(), expected.tensors[weight + "_scale_2"][1].tobytes(), weight)
            group_amax = max(np.abs(expected.made[w].values).max() for w in expected.made
                             if requant.group_key(w[:-7]) == requant.group_key(weight[:-7]))
            equal, near, outside = quantize.as_good(made.values, found[weight + "_scale"][1], made.encoded.scales,
                                                    global_, group_amax)
            self.assertTrue((equal | near | outside).all(), f"{weight}: a worse candidate was taken")
            same = np.repeat(equal, 8, axis=1)
            self.assertTrue(np.array_equal(found[weight][1][same], made.encoded.codes[same]), weight)
            excused, blocks = excused + int((~equal).sum()), blocks + equal.size
        return excused, blocks

    def test_nvfp4_rules(self):
        for rule in ("four-over-six", "sweep", "mse"):
            with self.subTest(rule):
                excused, blocks = self.check_search(self.source, rule)
                self.assertLess(excused, 0.002 * blocks)

    def test_hard_weights(self):
        """Zero tensors, ties, subnormals, large ratios and the rest, as experts of a BF16 checkpoint."""
        kinds = hard_weights.all_kinds(128, 256, 41), hard_weights.all_kinds(128, 256,
                                                                             42), hard_weights.all_kinds(256, 128, 43)
        model = Model(Spec("v2.5", hidden=256, moe_intermediate=128, intermediate=128, experts=len(kinds[0]), vocab=64,
                           pattern=(0, 1),
                           mtp=1, heads=8, towers=False, store="bf16"))
        for number, kind in enumerate(kinds[0]):
            for letter, made in zip(("gate", "up", "down"), kinds):
                model.tensors[f"model.layers.1.mlp.experts.{number}.{letter}_proj.weight"] = ("BF16",
                                                                                              bf16_from_f32(made[kind]))
        source = self.at("hard")
        make.write(source, model)
        for recipe in ("nvfp4-experts", "mxfp4-experts", "mxfp8", "fp8-all"):
            with self.subTest(recipe):
                out = self.convert(source, "out-" + recipe, "--recipe", recipe)
                self.assert_same_tensors(requant.expected(source, recipe).tensors, out, recipe)
        for rule in ("four-over-six", "sweep", "mse"):
            with self.subTest(rule):
                self.check_search(source, rule)

    def test_mx_rules_and_ties(self):
        for recipe, target in (("mxfp4-experts", 4), ("mxfp8", 8)):
            for rule in quantize.MX_RULES:
                for ties in ("even", "zero") if target == 4 else ("even",):
                    with self.subTest(recipe=recipe, rule=rule, ties=ties):
                        Options.setUp(self)
                        options = ("--mx-scale", rule) + (("--mx-ties", ties) if target == 4 else ())
                        self.check(self.source, recipe, options=options, encoding=Encoding(mx=rule, ties=ties))

    def test_via_bf16(self):
        for recipe in ("nvfp4", "mxfp4-experts", "mxfp8"):
            with self.subTest(recipe):
                Options.setUp(self)
                out, expected = self.check(self.source, recipe, options=("--via-bf16",),
                                           encoding=Encoding(via_bf16=True))
        direct = self.convert(self.source, "direct", "--recipe", "nvfp4")
        through = self.convert(self.source, "through", "--recipe", "nvfp4", "--via-bf16")
        changed = [n for n, (_, a) in container.read_directory(direct).items()
                   if a.tobytes() != container.read_directory(through)[n][1].tobytes()]
        self.assertTrue(changed and all(".experts." in n for n in changed), "it changes experts, and nothing else")

    def test_fp8_scales_and_blocks(self):
        source, _ = checkpoints.ours("v2.5", store="bf16", **dict(SMALL, hidden=320, moe_intermediate=160))
        rules = [{"roles": EXPERTS, "to": "fp8"}]
        for scale, block in (("f32", "128x128"), ("ue8m0", "128x128"), ("f32", "64x64"), ("ue8m0", "32x32"),
                             ("f32", "1x128")):
            with self.subTest(scale=scale, block=block):
                shape = tuple(int(x) for x in block.split("x"))
                path = self.recipe_file(dialect="native", rules=rules)
                out = self.convert(source, f"out-{scale}-{block}", "--recipe", path, "--fp8-scale", scale,
                                   "--fp8-block", block)
                expected = requant.expected(source, "mine", Encoding(power_of_two=scale == "ue8m0", block=shape),
                                            dialect="native", rules=rules)
                self.assert_same_tensors(expected.tensors, out)
                config = compare.load_json(out, "config.json")["quantization_config"]
                self.assertEqual(config["weight_block_size"], list(shape))
                self.assertEqual(config.get("scale_fmt"), "ue8m0" if scale == "ue8m0" else None)


class Dialects(Options):
    def test_compressed_tensors(self):
        for recipe in ("nvfp4", "nvfp4-mlp", "mxfp4-experts", "mxfp8", "nvfp4-experts+mxfp8-attention",
                       "nvfp4-experts"):
            with self.subTest(recipe):
                Options.setUp(self)
                self.check(self.source, recipe, options=("--dialect", "compressed-tensors"),
                           dialect="compressed-tensors")

    def test_input_scales(self):
        modules = [f"model.layers.1.mlp.experts.{e}.{x}_proj" for e in (0, 1) for x in ("gate", "up", "down")]
        some = {modules[0]: 0.0123, modules[1]: 0.0123, modules[5]: 2.5}
        with open(self.at("scales.json"), "w") as f:
            json.dump(some, f)
        for name, options, scale in (("one", (), 1.0), ("given", ("--input-scale", "0.25"), 0.25),
                                     ("file", ("--input-scales", self.at("scales.json")), lambda m: some.get(m, 1.0)),
                                     ("both", ("--input-scales", self.at("scales.json"), "--input-scale", "0.5"),
                                      lambda m: some.get(m, 0.5))):
            for dialect in ("modelopt", "compressed-tensors"):
                with self.subTest(name=name, dialect=dialect):
                    out = self.convert(self.source, f"out-{name}-{dialect}", "--recipe", "nvfp4", "--w4a4", "--dialect",
                                       dialect, *options)
                    expected = requant.expected(self.source, "nvfp4", input_scale=scale, dialect=dialect)
                    self.assert_same_tensors(expected.tensors, out)
                    config = compare.load_json(out, "config.json")["quantization_config"]
                    self.assertIn("input_activations", config["config_groups"]["group_0"])
                    if dialect == "modelopt":
                        self.assertEqual(config["quant_algo"], "NVFP4")
                        self.check_algorithms(compare.load_json(out, "hf_quant_config.json")["quantization"], expected,
                                              w4a4=True)

    def test_no_input_scales_by_default(self):
        out = self.convert(self.source, "out", "--recipe", "nvfp4")
        self.assertFalse([n for n in container.read_directory(out) if "input" in n.rsplit(".", 1)[1]])
        config = compare.load_json(out, "config.json")["quantization_config"]
        self.assertNotIn("input_activations", config["config_groups"]["group_0"])


class OwnRecipes(Options):
    def test_attention_shares_its_global(self):
        rules = [{"roles": ["attn.q", "attn.k", "attn.v"], "mtp": False, "to": "nvfp4"},
                 {"roles": EXPERTS, "to": "mxfp8"},
                 {"roles": ["mlp.gate", "mlp.up"], "to": "nvfp4"}, {"names": r"down_proj|self_attn", "to": "bf16"}]
        path = self.recipe_file(qkv="split", rules=rules)
        for variant in ("v2.5", "v2-flash", "v2.6"):
            with self.subTest(variant):
                source, model = checkpoints.ours(variant, **SMALL)
                out = self.convert(source, "out-" + variant, "--recipe", path)
                expected = requant.expected(source, "mine", rules=rules, qkv="split", chunks=chunks_of(model))
                self.assert_same_tensors(expected.tensors, out)
                self.check_globals(out)
                tensors = container.read_directory(out)
                globals_ = {n: a.tobytes() for n, (_, a) in tensors.items() if n.endswith("weight_scale_2")}
                for layer in (0, 1):
                    self.assertEqual(len({globals_[f"model.layers.{layer}.self_attn.{x}_proj.weight_scale_2"]
                                          for x in "qkv"}), 1)
                self.assertEqual(len(globals_), 2 * 3 + 2 + 2)
                self.check_config(out, expected, "modelopt")

    def test_by_name(self):
        rules = [{"names": r"experts\.0\.", "to": "mxfp8"}, {"roles": EXPERTS, "to": "nvfp4"},
                 {"roles": ["attn.qkv"], "to": "bf16"},
                 {"roles": ["mlp.gate", "mlp.up", "mlp.down"], "to": "bf16"}]
        path = self.recipe_file(rules=rules, qkv="split")
        out = self.convert(self.source, "out", "--recipe", path)
        expected = requant.expected(self.source, "mine", rules=rules, qkv="split")
        self.assert_same_tensors(expected.tensors, out)
        self.check_config(out, expected, "modelopt")

    def test_options_written_in_the_recipe(self):
        path = self.recipe_file(rules=[{"roles": EXPERTS, "to": "mxfp4"}], dialect="native", mx_rule="even",
                                mx_ties="toward-zero", via_bf16=True)
        out = self.convert(self.source, "out", "--recipe", path)
        rules = [{"roles": EXPERTS, "to": "mxfp4"}]
        expected = requant.expected(self.source, "mine", Encoding(mx="even", ties="zero", via_bf16=True),
                                    dialect="native", rules=rules)
        self.assert_same_tensors(expected.tensors, out)
        manifest = compare.load_json(out, "mimo-manifest.json")
        self.assertIn("even", json.dumps(manifest))


class SameBytes(Options):
    """Whatever the threads, the memory and the devices."""

    def test_threads_and_memory(self):
        source, _ = checkpoints.ours("v2.5", pattern=(0, 1), mtp=1, experts=2, towers=False, hidden=512,
                                     moe_intermediate=1024, heads=16)
        for recipe in ("nvfp4", "nvfp4-mlp", "mxfp8", "mxfp4-experts", "nvfp4+fp8-head"):
            with self.subTest(recipe):
                first = self.convert(source, "first-" + recipe, "--recipe", recipe, "--threads", 1, "--memory", "2GiB",
                                     "--error-report")
                for threads, memory in ((4, "2GiB"), (4, "64MiB"), (1, "16MiB"), (3, "4MiB"), (2, "1MiB")):
                    other = self.convert(source, f"{recipe}-{threads}-{memory}", "--recipe", recipe, "--threads",
                                         threads, "--memory", memory,
                                         "--error-report")
                    self.assert_same_trees(first, other, skip=("mimo-manifest.json",),
                                           note=f"{recipe}, {threads} threads, {memory}")
                    tensors = [[t.get("error") for t in compare.load_json(x, "mimo-manifest.json")["tensors"]]
                               for x in (first, other)]
                    self.assertEqual(tensors[0], tensors[1], "the error report, too")

    def test_a_plan_runs_again(self):
        plan = self.at("plan.json")
        first = self.convert(self.source, "first", "--recipe", "nvfp4", "--plan-out", plan)
        again = self.convert(self.source, "again", "--plan", plan)
        self.assert_same_trees(first, again, skip=("mimo-manifest.json",))


if __name__ == "__main__":
    unittest.main()
