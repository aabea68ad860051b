"""Proves the error report: the figures of every encoded tensor equal numpy's, aggregates follow from them, thresholds
decide the exit code and are recorded, documents validate; and what scripts/requantize.sh leaves behind when it accepts,
rejects and fails.
"""
import json
import math
import os
import subprocess
import unittest

from harness import checkpoints, compare, requant, tools
from harness.requant import Encoding
from harness.requant_case import RequantCase

try:
    import jsonschema
except ImportError:
    jsonschema = None

SMALL = dict(pattern=(0, 1), mtp=1, experts=2, towers=False, extremes=False)
SUMS = ("squared_error", "squared_source", "squared_target", "product")
RATIOS = ("sqnr_db", "relative_rms", "max_error_by_amax", "cosine", "max_error", "amax")
COUNTS = ("elements", "zero_blocks", "saturated", "least_scales", "largest_scales", "nan_codes")


class Figures(RequantCase):
    def assert_figures(self, expected, found, note):
        for key in SUMS + RATIOS:
            if expected[key] is None:
                self.assertIsNone(found[key], f"{note}: {key}")
            else:
                self.assertTrue(math.isclose(expected[key], found[key], rel_tol=1e-9, abs_tol=1e-300),
                                f"{note}: {key} {expected[key]} {found[key]}")
        for key in COUNTS:
            if key in expected:
                self.assertEqual(expected[key], found[key], f"{note}: {key}")

    def check_report(self, source, recipe, options=(), encoding=None):
        out, report = self.at("out"), self.at("report.json")
        self.run_tool("mimo-convert", source, out, "--recipe", recipe, "--error-report", "--report", report, *options)
        expected = requant.expected(source, recipe, encoding)
        manifest = compare.load_json(out, "mimo-manifest.json")
        found = {t["name"]: t["error"] for t in manifest["tensors"] if "error" in t}
        names = {weight if weight in found else weight + "_packed": weight for weight in expected.made}
        self.assertEqual(sorted(found), sorted(names))
        document = compare.load_json(report)
        listed = {t["name"]: t for t in document["tensors"]}
        self.assertEqual(sorted(listed), sorted(names))
        for name, weight in names.items():
            figures = requant.figures(expected.made[weight])
            self.assert_figures(figures, found[name], weight)
            self.assert_figures(figures, listed[name], weight)
        self.check_aggregates(document)
        return document

    def check_aggregates(self, document):
        self.assertTrue(document["accepted"])
        for kind, key in (("roles", lambda t: ("mtp " if ".mtp." in t["name"] else "") + t["role"]),
                          ("layers", lambda t: ".".join(t["name"].split(".")[:4 if ".mtp." in t["name"] else 3]))):
            grouped = {}
            for tensor in document["tensors"]:
                if kind == "roles" or tensor["name"].startswith("model."):
                    grouped.setdefault(key(tensor), []).append(tensor)
            found = {a[kind[:-1]]: a for a in document[kind]}
            self.assertEqual(sorted(found), sorted(grouped))
            for name, members in grouped.items():
                self.assertEqual(found[name]["tensors"], len(members))
                for sum_ in SUMS:
                    self.assertTrue(math.isclose(found[name][sum_], math.fsum(m[sum_] for m in members), rel_tol=1e-9))
                for count in COUNTS:
                    self.assertEqual(found[name][count], sum(m[count] for m in members))
                ratios = [math.inf if m["sqnr_db"] is None else m["sqnr_db"] for m in members]
                least = min(ratios)
                self.assertEqual(found[name]["min_sqnr_db"], None if least == math.inf else least)

    def test_every_format(self):
        for recipe in ("nvfp4-mlp", "mxfp4-experts", "mxfp8", "nvfp4+fp8-head", "fp8-all+head"):
            for variant in ("v2.5", "v2.6"):
                with self.subTest(recipe=recipe, variant=variant):
                    self.setUp()
                    source, _ = checkpoints.ours(variant, **SMALL)
                    self.check_report(source, recipe)

    def test_from_bf16_and_via_bf16(self):
        source, _ = checkpoints.ours("v2.5", store="bf16", **SMALL)
        self.check_report(source, "nvfp4-mlp")
        self.setUp()
        source, _ = checkpoints.ours("v2.5", **SMALL)
        self.check_report(source, "nvfp4", ("--via-bf16",), Encoding(via_bf16=True))

    def test_exact_paths_have_no_error(self):
        source, _ = checkpoints.ours("v2.6", **SMALL)
        document = self.check_report(source, "nvfp4")
        self.assertTrue(all(t["sqnr_db"] is None and t["exact_blocks"] == t["blocks"] for t in document["tensors"]))

    def test_off_by_default(self):
        source, _ = checkpoints.ours("v2.5", **SMALL)
        out = self.convert(source, "out", "--recipe", "nvfp4")
        self.assertFalse([t for t in compare.load_json(out, "mimo-manifest.json")["tensors"] if "error" in t])

    @unittest.skipIf(jsonschema is None, "jsonschema is not installed")
    def test_documents_validate(self):
        source, _ = checkpoints.ours("v2.5", **SMALL)
        report = self.at("report.json")
        out = self.convert(source, "out", "--recipe", "nvfp4", "--report", report, "--min-sqnr", "experts=15")
        recipe = os.path.join(tools.SOURCE, "schemas", "recipes", "nvfp4.json")
        for schema, path in (("report", report), ("manifest", os.path.join(out, "mimo-manifest.json")),
                             ("recipe", recipe)):
            rules = compare.load_json(tools.SOURCE, "schemas", schema + ".schema.json")
            jsonschema.Draft202012Validator.check_schema(rules)
            self.assertEqual(list(jsonschema.Draft202012Validator(rules).iter_errors(compare.load_json(path))), [],
                             schema)


class Thresholds(RequantCase):
    def setUp(self):
        super().setUp()
        self.source, _ = checkpoints.ours("v2.5", **SMALL)

    def test_accepted(self):
        out, report = self.at("out"), self.at("report.json")
        self.run_tool("mimo-convert", self.source, out, "--recipe", "nvfp4-mlp", "--min-sqnr", "experts=17",
                      "--min-sqnr", "dense=17",
                      "--min-sqnr", "mlp.down=17", "--min-sqnr", "all=10", "--report", report)
        manifest = compare.load_json(out, "mimo-manifest.json")
        self.assertIs(manifest["accepted"], True)
        self.assertEqual([t["role"] for t in manifest["thresholds"]], ["experts", "dense", "mlp.down", "all"])
        self.assertIs(compare.load_json(report)["accepted"], True)

    def test_rejected(self):
        out, report = self.at("out"), self.at("report.json")
        result = self.run_tool("mimo-convert", self.source, out, "--recipe", "nvfp4", "--min-sqnr", "experts=25",
                               "--report", report, code=1)
        self.assertIn("experts", result.stderr)
        manifest, document = compare.load_json(out, "mimo-manifest.json"), compare.load_json(report)
        for found in (manifest, document):
            self.assertIs(found["accepted"], False)
            self.assertEqual(len(found["rejections"]), 2 * 3)
            self.assertTrue(all("experts" in line and "25" in line for line in found["rejections"]))
        # The data is whole all the same: it is published, and says what it is.
        self.assertEqual(compare.index_problems(out), [])
        self.assert_same_tensors(requant.expected(self.source, "nvfp4").tensors, out)

    def test_one_role_among_many(self):
        """Only what the threshold speaks of decides: MXFP8 attention passes 25 dB where NVFP4 experts do not."""
        recipe = ("--recipe", "nvfp4-experts+mxfp8-attention")
        self.run_tool("mimo-convert", self.source, self.at("a"), *recipe, "--min-sqnr", "attention=25")
        self.run_tool("mimo-convert", self.source, self.at("b"), *recipe, "--min-sqnr", "expert.down=25", code=1)
        self.run_tool("mimo-convert", self.source, self.at("c"), *recipe, "--min-sqnr", "all=25", code=1)

    def test_bad_thresholds(self):
        for text in ("experts", "experts=", "experts=x", "experts=nan", "=3", "nobody=3", "experts=3dB"):
            with self.subTest(text):
                out = self.at("out")
                result = self.run_tool("mimo-convert", self.source, out, "--recipe", "nvfp4", "--min-sqnr", text,
                                       code=2)
                self.assertIn("--min-sqnr", result.stderr)
                self.assert_nothing_published(out)
        result = self.run_tool("mimo-convert", self.source, self.at("out"), "--recipe", "nvfp4", "--min-sqnr",
                               "attention=3", code=2)
        self.assertIn("attention", result.stderr)                       # of which nothing is quantized
        self.assert_nothing_published(self.at("out"))


class Script(RequantCase):
    """scripts/requantize.sh."""

    def setUp(self):
        super().setUp()
        self.source, _ = checkpoints.ours("v2.5", **SMALL)

    def script(self, *arguments, code=0):
        command = [os.path.join(tools.SOURCE, "scripts", "requantize.sh")] + [str(a) for a in arguments]
        done = subprocess.run(command, capture_output=True, text=True,
                              env=dict(tools.environment(), MIMO_BIN=tools.BIN), check=False)
        self.assertEqual(done.returncode, code, done.stderr + done.stdout)
        return done

    def test_accepted(self):
        out = self.at("out")
        self.script(self.source, out, "nvfp4", "--min-sqnr", "experts=17")
        self.assertIs(compare.load_json(out + ".report.json")["accepted"], True)
        self.assert_same_tensors(requant.expected(self.source, "nvfp4").tensors, out)
        self.assertEqual(sorted(os.listdir(self.tmp)), ["out", "out.report.json"])
        self.run_tool("mimo-verify", "check", out)  # the report is no part of the output

    def test_rejected(self):
        out = self.at("out")
        done = self.script(self.source, out, "nvfp4", "--min-sqnr", "experts=25", code=1)
        self.assertIn("rejected", done.stderr + done.stdout)
        self.assertEqual(sorted(os.listdir(self.tmp)), ["out.rejected", "out.rejected.report.json"])
        self.assertIs(compare.load_json(out + ".rejected.report.json")["accepted"], False)
        self.assertEqual(len(json.loads(open(os.path.join(out + ".rejected",
                                                          "mimo-manifest.json")).read())["rejections"]), 6)
        # A rejected output is in the way of nothing: the next run replaces it.
        self.script(self.source, out, "nvfp4", "--min-sqnr", "experts=17")
        self.assertEqual(sorted(os.listdir(self.tmp)), ["out", "out.report.json"])

    def test_usage_and_failures(self):
        self.script(code=2)
        self.script(self.source, code=2)
        self.script(self.source, self.at("out"), "no-such-recipe", code=2)
        self.script(self.at("nowhere"), self.at("out"), "nvfp4", code=3)
        self.assertEqual([f for f in os.listdir(self.tmp) if not f.startswith("out.partial")], [])
        os.makedirs(self.at("taken"))
        with open(self.at("taken", "file"), "w") as f:
            f.write("mine")
        self.script(self.source, self.at("taken"), "nvfp4", code=2)
        self.assertEqual(os.listdir(self.at("taken")), ["file"])


if __name__ == "__main__":
    unittest.main()
