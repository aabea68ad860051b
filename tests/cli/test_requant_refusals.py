"""Proves that what cannot be quantized is refused, with words that say why, and that nothing is published: NaN codes,
infinities, bad scales, columns that are no multiple of 16 or 32, bad recipes, contradicting options, rules that match
nothing, input scales that are no scales.
"""
import json
import shutil
import unittest

import numpy as np

from harness import breakage, checkpoints, requant
from harness.case import ToolCase
from reference import codecs, container, quantize

SMALL = dict(pattern=(0, 1), mtp=1, experts=2, towers=False, extremes=False)
EXPERT = "model.layers.1.mlp.experts.1.up_proj.weight"
EXPERTS = ["expert.gate", "expert.up", "expert.down"]


class Refusals(ToolCase):
    def setUp(self):
        super().setUp()
        self.source, _ = checkpoints.ours("v2.5", **SMALL)

    def refused(self, source, *options, code, words):
        result = self.run_tool("mimo-convert", source, self.at("out"), *options, code=code)
        for word in words:
            self.assertIn(word, result.stderr)
        self.assert_nothing_published(self.at("out"))

    def broken(self, tensor, change, **spec):
        source, _ = checkpoints.ours(spec.pop("variant", "v2.5"), **dict(SMALL, **spec))
        self.copies = getattr(self, "copies", 0) + 1
        copy = self.at(f"broken{self.copies}")
        shutil.copytree(source, copy)

        def edit(value):
            array = value[1].copy()
            change(array)
            return value[0], array

        breakage.replace(copy, tensor, edit)
        return copy

    def recipe(self, text):
        self.recipes = getattr(self, "recipes", 0) + 1
        path = self.at(f"recipe{self.recipes}.json")
        with open(path, "w") as f:
            f.write(text if isinstance(text, str) else json.dumps(text))
        return path


def put(index, value):
    def change(array):
        array[index] = value
    return change


class Sources(Refusals):
    def test_nan_codes(self):
        for variant, tensor, change in (("v2.5", EXPERT, put((5, 77), 0x7F)), ("v2.5", EXPERT, put((0, 0), 0xFF)),
                                        ("v2.6", EXPERT + "_scale", put((3, 2), 255)),
                                        ("v2.5", "model.layers.0.self_attn.qkv_proj.weight", put((9, 9), 0x7F))):
            for recipe in ("nvfp4", "mxfp8", "nvfp4-experts+mxfp8-attention"):
                if "qkv" in tensor and recipe == "nvfp4-experts":
                    continue
                with self.subTest(tensor=tensor, recipe=recipe):
                    source = self.broken(tensor, change, variant=variant)
                    self.refused(source, "--recipe", recipe, code=3,
                                 words=(tensor.split(".weight")[0].split(".qkv")[0], "NaN"))

    def test_nan_and_infinity_of_plain_sources(self):
        for value, word in ((0x7FC0, "NaN"), (0x7F80, "infinit"), (0xFF80, "infinit")):
            for recipe in ("nvfp4", "mxfp4-experts", "mxfp8", "fp8-all"):
                with self.subTest(value=hex(value), recipe=recipe):
                    source = self.broken(EXPERT, put((5, 77), value), store="bf16")
                    self.refused(source, "--recipe", recipe, code=3, words=(EXPERT, word))

    def test_bad_block_scales(self):
        for value in (np.nan, np.inf, -1.0):
            with self.subTest(value):
                source = self.broken(EXPERT + "_scale_inv", put((0, 0), value))
                self.refused(source, "--recipe", "nvfp4", code=3, words=("model.layers.1.mlp.experts.1.up_proj",))

    def test_zero_scales_under_codes(self):
        source = self.broken(EXPERT + "_scale_inv", put((0, 0), 0.0))
        self.refused(source, "--recipe", "nvfp4", code=3, words=("model.layers.1.mlp.experts.1.up_proj",))

    def test_bad_globals(self):
        for value in (np.nan, np.inf, -1.0, 0.0):
            with self.subTest(value):
                source = self.broken(EXPERT + "_scale_2", put((), value), store="nvfp4")
                self.refused(source, "--dtype", "bf16", code=3, words=("model.layers.1.mlp.experts.1.up_proj",))

    def test_nan_scales_of_nvfp4(self):
        source = self.broken(EXPERT + "_scale", put((0, 0), 0x7F), store="nvfp4")
        self.refused(source, "--dtype", "bf16", code=3, words=("model.layers.1.mlp.experts.1.up_proj", "NaN"))

    def test_allowed(self):
        """--allow-anomalies: counted; the largest code under the sign; nothing else of the tensor is disturbed."""
        source = self.broken(EXPERT, put((5, 77), 0x7FC0), store="bf16")
        out = self.convert(source, "out", "--recipe", "mxfp8", "--allow-anomalies")
        with open(self.at("out", "mimo-manifest.json")) as f:
            manifest = json.load(f)
        self.assertEqual(manifest["totals"]["anomalies"]["nan_codes"], 1)
        tensors = container.read_directory(out)
        values = codecs.f32_from_bf16(container.read_directory(source)[EXPERT][1]).copy()
        self.assertEqual(tensors[EXPERT][1][5, 77], 0x7F)
        values[5, 77] = 0
        made = quantize.mxfp8(values)
        found = tensors[EXPERT][1].copy()
        found[5, 77] = made.codes[5, 77]
        self.assertTrue(np.array_equal(found, made.codes))
        self.assertTrue(np.array_equal(tensors[EXPERT + "_scale"][1], made.scales))

    def test_columns(self):
        """No multiple of the group: NVFP4 needs 16, MX 32."""
        for extra, recipe, words in ((dict(moe_intermediate=136), "nvfp4-experts", ("16", "136")),
                                     (dict(moe_intermediate=144), "mxfp4-experts", ("32", "144")),
                                     (dict(moe_intermediate=144), "mxfp8", ("32", "144")),
                                     (dict(hidden=264), "nvfp4-experts", ("16", "264"))):
            with self.subTest(recipe=recipe, **extra):
                source, _ = checkpoints.ours("v2.5", **dict(SMALL, **extra))
                self.refused(source, "--recipe", recipe, code=(2, 3), words=words)
        source, _ = checkpoints.ours("v2.5", **dict(SMALL, moe_intermediate=144))
        out = self.convert(source, "fine", "--recipe", "nvfp4-experts")                    # 144 = 9 * 16
        self.assert_same_tensors(requant.expected(source, "nvfp4-experts").tensors, out)


class Words(Refusals):
    def test_unknown_names(self):
        self.refused(self.source, "--recipe", "nvfp5", code=2, words=("nvfp5",))
        self.refused(self.source, "--recipe", self.at("none.json"), code=(2, 3, 4), words=("none.json",))
        for option, value in (("--nvfp4-scale", "best"), ("--mx-scale", "nearest"), ("--mx-ties", "away"),
                              ("--fp8-scale", "e8m0"),
                              ("--fp8-block", "128"),
                              ("--dialect", "gguf")):
            with self.subTest(option=option, value=value):
                self.refused(self.source, "--recipe", "fp8-all", option, value, code=2, words=(value,))

        for value in ("0x128", "128x100", "128x0", "-1x128", "128x128x1"):
            with self.subTest(value):
                self.refused(self.source, "--recipe", "fp8-all", "--fp8-block", value, code=2, words=("block",))

    def test_recipes(self):
        rules = [{"roles": EXPERTS, "to": "nvfp4"}]
        for text, words in (("{", ("syntax",)), ([], ("object",)), ({"rules": rules}, ("name",)),
                            ({"name": "x"}, ("rules",)),
                            ({"name": "x", "rules": rules, "colour": 1}, ("colour",)),
                            ({"name": "x", "rules": [{"roles": ["expert.gate"], "to": "nvfp4", "layers": 3}]},
                             ("layers",)),
                            ({"name": "x", "rules": [{"roles": ["expert.gait"], "to": "nvfp4"}]}, ("expert.gait",)),
                            ({"name": "x", "rules": [{"roles": EXPERTS, "to": "int4"}]}, ("int4",)),
                            ({"name": "x", "rules": [{"names": "(", "to": "nvfp4"}]}, ("(",)),
                            ({"name": "x", "rules": rules, "nvfp4_rule": "best"}, ("best",)),
                            ({"name": "x", "rules": rules, "dialect": "gguf"}, ("gguf",)),
                            ({"name": "x", "rules": rules, "qkv": "woven"}, ("woven",))):
            with self.subTest(text=text):
                self.refused(self.source, "--recipe", self.recipe(text), code=2, words=words)

    def test_rules_that_match_nothing(self):
        for rule, word in (({"names": "no_such_thing", "to": "nvfp4"}, "no_such_thing"),
                           ({"roles": ["attn.o"], "mtp": True, "names": "layers.7", "to": "bf16"}, "attn.o")):
            with self.subTest(rule=rule):
                path = self.recipe({"name": "x", "qkv": "split", "rules": [{"roles": EXPERTS, "to": "nvfp4"},
                                                                          {"roles": ["attn.q", "mlp.gate", "mlp.up",
                                                                                     "mlp.down"], "to": "bf16"}, rule]})
                self.refused(self.source, "--recipe", path, code=2, words=("rule 3", word))

    def test_contradictions(self):
        for options, words in ((("--recipe", "nvfp4", "--dtype", "mxfp8"), ("--recipe",)),
                               (("--recipe", "mxfp8", "--nvfp4-scale", "sweep"), ("nvfp4",)),
                               (("--recipe", "nvfp4", "--mx-scale", "floor"), ("mx",)),
                               (("--recipe", "mxfp8", "--mx-ties", "zero"), ("ties",)),
                               (("--recipe", "nvfp4", "--fp8-scale", "ue8m0"), ("fp8",)),
                               (("--recipe", "nvfp4", "--input-scale", "1.0"), ("--w4a4",)),
                               (("--recipe", "mxfp8", "--w4a4"), ("w4a4",)),
                               (("--recipe", "mxfp8", "--dialect", "native"), ("native",)),
                               (("--recipe", "nvfp4", "--dialect", "native"), ("native",)),
                               (("--recipe", "mxfp4-experts", "--dialect", "modelopt"), ("modelopt",)),
                               (("--dtype", "keep", "--nvfp4-scale", "sweep"), ("nvfp4",))):
            with self.subTest(options=options):
                self.refused(self.source, *options, code=2, words=words)

    def test_lossless(self):
        self.refused(self.source, "--recipe", "nvfp4", "--lossless", code=1, words=("lossless",))
        source, _ = checkpoints.ours("v2.6", **SMALL)
        rules = [{"roles": EXPERTS, "to": "nvfp4"}]
        path = self.recipe({"name": "exact", "rules": rules})
        out = self.convert(source, "exact", "--recipe", path)
        self.assert_same_tensors(requant.expected(source, "exact", rules=rules).tensors, out)

    def test_input_scales(self):
        good = "model.layers.1.mlp.experts.0.up_proj"
        for scales, word in (({good: 0}, good), ({good: -1.0}, good), ({good: "1"}, good), ("[1]", "scales"),
                             ("{", "scales"),
                             ({good + ".weight": 1.0}, good + ".weight"),
                             ({"model.layers.9.mlp.experts.0.up_proj": 1.0}, "layers.9"),
                             ({"model.layers.0.mlp.up_proj": 1.0}, "layers.0.mlp.up_proj"), ('{"%s": NaN}' % good, ""),
                             ('{"%s": 1e39}' % good, "")):
            with self.subTest(scales=scales):
                path = self.recipe(scales)
                self.refused(self.source, "--recipe", "nvfp4", "--w4a4", "--input-scales", path, code=2, words=(word,))
        for value in ("0", "-1", "nan", "inf", "x"):
            with self.subTest(value):
                self.refused(self.source, "--recipe", "nvfp4", "--w4a4", "--input-scale", value, code=2, words=())


if __name__ == "__main__":
    unittest.main()
