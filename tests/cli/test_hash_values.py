"""Hashes of values: what mimo-verify manifest prints and mimo-convert --hash-values records are sums that numpy and
libxxhash make of the values of a checkpoint, read by nothing of ours; they are of what was written, survive resharding,
and a wrong one is found."""
import functools
import json
import os
import re
import shutil
import unittest

import numpy as np

from harness import compare, ranks, tools
from harness.breakage import replace
from harness.case import ToolCase
from harness.xxh3 import digest, xxh3
from reference import codecs, container, decode

try:
    import jsonschema
except ImportError:
    jsonschema = None

SMALL = dict(experts=2, moe_intermediate=256, intermediate=512, pattern=(0, 1), mtp=1)
RANKS = ("--to", "vllm", "--format", "sharded-state")
EXACT = (("--qkv", "split"), ("--dtype", "bf16"), ("--dtype", "fp32"), ("--dtype", "bf16", "--qkv", "fused:2"),
         ("--to", "megatron"), ("--to", "nxdi", "--dtype", "bf16"), RANKS + ("--tp", "4", "--pad"))
MANIFEST = "mimo-manifest.json"


@functools.lru_cache(maxsize=4096)
def total_of(data, rows):
    """The sum over `rows` equal parts of `data`."""
    width = len(data) // max(rows, 1)
    return f"{sum(digest(data[n * width:(n + 1) * width], n) for n in range(rows)) % (1 << 128):032x}"


def total(array):
    return total_of(np.ascontiguousarray(array).tobytes(), 1 if array.ndim < 2 else array.size // array.shape[-1])


def hashes_of(values):
    """{name: float32 values} -> {name: (of FP32, of BF16)}"""
    return {name: (total(v.astype(np.float32)), total(codecs.bf16_from_f32(v.astype(np.float32))))
            for name, v in values.items()}


def rounded(values):
    """What is stored of them in BF16, where the model has no F32."""
    return {n: v if re.search(r"\.mlp\.gate\.|e_score_correction_bias", n) else codecs.f32_from_bf16(codecs.bf16_from_f32(v))
            for n, v in values.items()}


def neuron_values(out):
    """Of a Neuron directory, decoded by its codes and scales: rows, or blocks of stacked experts that are turned over."""
    stored, values = container.read_directory(out), {}
    plain = {"embed_tokens.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight",
             "lm_head.weight": "lm_head.weight"}

    def of(name):
        dtype, array = stored[name]
        scale = stored.get(name.removesuffix("weight") + "scale")
        if dtype != "F8_E4M3":
            return codecs.decode_plain(dtype, array)
        if array.ndim == 2:
            return codecs.E4M3[array] * scale[1]
        return np.stack([codecs.decode_fp8(c, s, np.arange(c.shape[0]) // 128) for c, s in zip(array, scale[1])])

    for name in stored:
        if name.endswith(".scale"):
            continue
        stack = re.fullmatch(r"(layers\.\d+\.mlp)\.expert_mlps\.mlp_op\.(gate_up|down)_proj\.weight", name)
        if stack is None:
            there = plain.get(name, "model." + name.replace(".router.linear_router.", ".gate.").replace(".router.", ".gate."))
            values[there] = of(name)
            continue
        for expert, matrix in enumerate(of(name)):
            parts = {"down": ("down",), "gate_up": ("gate", "up")}[stack[2]]
            for part, turned in zip(parts, np.split(matrix, len(parts), axis=1)):
                values[f"model.{stack[1]}.experts.{expert}.{part}_proj.weight"] = turned.T
    return values


class HashedValues(ToolCase):
    tool = "mimo-verify"

    def manifest(self, checkpoint, name="hashes.json"):
        with open(self.at(name), "w") as f:
            f.write(self.run_tool("mimo-verify", "manifest", checkpoint).stdout)
        return compare.load_json(self.at(name))["tensors"]

    def recorded(self, out):
        """What the manifest of an output holds of its values."""
        document = compare.load_json(out, MANIFEST)
        if jsonschema is not None:
            with open(os.path.join(tools.SOURCE, "schemas", "manifest.schema.json")) as f:
                self.assertEqual(list(jsonschema.Draft202012Validator(json.load(f)).iter_errors(document)), [])
        self.assertEqual(document["version"], 3)
        return document["logical_hashes"]

    def hashed(self, source, name, *options):
        """Converts with --hash-values, and holds the manifest against mimo-verify manifest and check."""
        out = self.convert(source, name, *options, "--hash-values")
        found = self.recorded(out)
        self.assertEqual(found, self.manifest(out))
        self.assertIn(f"values of {len(found)} tensors too", self.run_tool("mimo-verify", "check", out).stdout)
        return out, {t["name"]: t for t in found}

    def assert_hashes(self, found, values):
        """All that `values` holds, and nothing else."""
        self.assertEqual(sorted(found), sorted(values))
        for name, (fp32, bf16) in hashes_of(values).items():
            self.assertEqual((found[name]["fp32"], found[name]["bf16"]), (fp32, bf16), name)
            self.assertEqual(found[name]["shape"], list(values[name].shape), name)


@unittest.skipIf(xxh3() is None, "no libxxhash to ask")
class AgainstNumpy(HashedValues):
    def test_of_a_checkpoint(self):
        for variant in ("v2.5", "v2-flash"):
            fixture = ranks.ours(variant, **SMALL)
            self.assert_hashes({t["name"]: t for t in self.manifest(fixture.directory)}, fixture.values)

    def test_of_what_is_decoded(self):
        fixture = ranks.ours("v2.5", **SMALL)
        for dtype, values in (("fp32", fixture.values), ("bf16", rounded(fixture.values))):
            _, found = self.hashed(fixture.directory, dtype, "--dtype", dtype)
            self.assert_hashes(found, values)

    def test_of_what_is_moved(self):
        """In any layout: in files of its own, beside links, and in links alone."""
        for variant in ("v2.5", "v2-flash"):
            fixture = ranks.ours(variant, **SMALL)
            for i, options in enumerate((("--copy",), ("--qkv", "split", "--link", "sym"), ("--copy", "--link", "hard"))):
                _, found = self.hashed(fixture.directory, f"{variant}-{i}", *options)
                self.assert_hashes(found, fixture.values)

    def test_of_four_bits(self):
        """The codes that were written, decoded by numpy: in both dialects."""
        fixture = ranks.ours("v2.5", **SMALL)
        for dialect in ("modelopt", "compressed-tensors"):
            out, found = self.hashed(fixture.directory, dialect, "--recipe", "nvfp4", "--dialect", dialect)
            values = ranks.float_values(decode.checkpoint(out))
            self.assert_hashes(found, values)
            self.assertFalse(np.array_equal(*(v["model.layers.1.mlp.experts.0.up_proj.weight"]
                                              for v in (values, fixture.values))))

    def test_of_ranks(self):
        """Whole, padded, and of FP8 that no rank had to cut; what was padded with is left out."""
        fixture = ranks.ours("v2.5", **SMALL)
        for i, options in enumerate((RANKS + ("--tp", "4", "--pad"), RANKS + ("--tp", "2"),
                                     RANKS + ("--tp", "8", "--pad", "--dtype", "bf16"),
                                     ("--to", "sglang", "--tp", "8", "--pad", "--dtype", "bf16"))):
            with self.subTest(options):
                out, found = self.hashed(fixture.directory, f"ranks-{i}", *options)
                if "bf16" in options:
                    self.assert_hashes(found, rounded(fixture.values))
                    continue
                self.assertEqual(ranks.manifest(out)["totals"]["requantized_blocks"] > 0, "2" in options)
                exact = {n: v for n, v in fixture.values.items() if ".self_attn." not in n or "4" in options}
                self.assert_hashes({n: found[n] for n in exact}, exact)

    def test_of_four_bits_in_ranks(self):
        """Experts whose global scales are their own, in arrays of all: the values of the same recipe in one piece."""
        fixture = ranks.ours("v2.5", **SMALL)
        values = ranks.float_values(decode.checkpoint(self.convert(fixture.directory, "whole", "--recipe", "nvfp4-experts")))
        _, found = self.hashed(fixture.directory, "out", "--recipe", "nvfp4-experts", *RANKS, "--tp", "2")
        exact = {n: v for n, v in values.items() if ".self_attn." not in n}
        self.assert_hashes({n: found[n] for n in exact}, exact)

    def test_of_megatron(self):
        fixture = ranks.ours("v2.5", **SMALL)
        model = {n: v for n, v in fixture.values.items() if re.match(r"model\.|lm_head\.", n)}
        _, found = self.hashed(fixture.directory, "out", "--to", "megatron")
        self.assert_hashes({n: found[n] for n in model}, rounded(model))

    def test_of_neuron(self):
        """FP8 of Neuron's own, rows and turned blocks alike; and BF16."""
        fixture = ranks.ours("v2.5", **SMALL)
        for options in ((), ("--dtype", "bf16"), ("--expert-codes", "rescale")):
            with self.subTest(options):
                out, found = self.hashed(fixture.directory, "out" + "".join(options), "--to", "nxdi", *options)
                self.assert_hashes(found, neuron_values(out))


class Manifests(HashedValues):
    def setUp(self):
        super().setUp()
        self.source = ranks.ours("v2.5", **SMALL).directory

    def edit(self, out, change):
        """Edits the manifest of an output, and has it agree with itself again."""
        path = os.path.join(out, MANIFEST)
        with open(path) as f:
            text = f.read()
        text = change(text[:text.index(',\n"manifest_hash":')])
        with open(path, "w") as f:
            f.write(f'{text},\n"manifest_hash":"{digest(text.encode()):032x}"\n}}\n')

    @unittest.skipIf(xxh3() is None, "no libxxhash to ask")
    def test_a_wrong_hash_is_found(self):
        name = "model.layers.1.mlp.experts.1.up_proj.weight"
        for kind in ("fp32", "bf16"):
            with self.subTest(kind):
                out = self.convert(self.source, kind, "--recipe", "nvfp4", "--hash-values")
                right = next(t[kind] for t in self.recorded(out) if t["name"] == name)
                self.edit(out, lambda text: text)
                self.run_tool("mimo-verify", "check", out)
                self.edit(out, lambda text: text.replace(right, right[::-1]))
                result = self.run_tool("mimo-verify", "check", out, code=1)
                self.assertIn(f"{MANIFEST} {name}: hash of values", result.stderr)
                found = json.loads(self.run_tool("mimo-verify", "check", out, "--json", code=1).stdout)
                self.assertEqual([d["tensor"] for d in found["differences"]], [name])
                self.assertGreater(found["values"], 40)

    @unittest.skipIf(xxh3() is None, "no libxxhash to ask")
    def test_hashes_that_are_missing_or_too_many_are_found(self):
        for change in (lambda lines: lines[:-1], lambda lines: lines + [lines[-1].replace('norm.weight"', 'norm.weighty"')],
                       lambda lines: lines[:1] + lines):
            out = self.convert(self.source, "out", "--dtype", "bf16", "--hash-values", "--overwrite")

            def of_hashes(text):
                head, rest = text.split('"logical_hashes":[\n')
                body, tail = rest.split("\n]", 1)
                return head + '"logical_hashes":[\n' + ",\n".join(change(body.split(",\n"))) + "\n]" + tail
            self.edit(out, of_hashes)
            self.run_tool("mimo-verify", "check", out, code=(1, 3))

    def test_without_the_option_nothing_is_said(self):
        out = self.convert(self.source, "out", "--dtype", "bf16")
        document = compare.load_json(out, MANIFEST)
        self.assertEqual(document["version"], 2)
        self.assertNotIn("logical_hashes", document)
        self.assertNotIn("values", json.loads(self.run_tool("mimo-verify", "check", out, "--json").stdout))
        refused = self.run_tool("mimo-verify", "check", out, "--against", os.path.join(out, MANIFEST), code=3)
        self.assertIn("--hash-values", refused.stderr)

    def test_threads_and_memory_change_nothing(self):
        options = ("--recipe", "nvfp4", "--hash-values")
        one = self.convert(self.source, "one", *options, "--threads", 1)
        self.assert_same_trees(one, self.convert(self.source, "five", *options, "--threads", 5))
        self.assert_same_trees(one, self.convert(self.source, "little", *options, "--memory", "24MiB"))

    def test_what_cannot_be_hashed_is_refused_before_anything_is_written(self):
        for options in (("--include", r"layers\.0\."), RANKS + ("--tp", "2", "--ranks", "1"), ("--dtype", "bf16", "--memory", "64KiB")):
            with self.subTest(options):
                out = self.at("out")
                result = self.run_tool("mimo-convert", self.source, out, *options, "--hash-values", code=2)
                self.assertRegex(result.stderr, "--hash-values|--memory")
                self.assertFalse(os.path.exists(out))

    def test_a_complete_output_has_them_or_not(self):
        out = self.convert(self.source, "out", "--dtype", "bf16")
        refused = self.run_tool("mimo-convert", self.source, out, "--dtype", "bf16", "--resume", "--hash-values", code=2)
        self.assertIn("without --hash-values", refused.stderr)
        self.convert(self.source, "out", "--dtype", "bf16", "--overwrite", "--hash-values")
        before = self.recorded(out)
        self.convert(self.source, "out", "--dtype", "bf16", "--resume", "--hash-values")
        self.convert(self.source, "out", "--dtype", "bf16", "--resume")
        self.assertEqual(self.recorded(out), before)

    def test_of_a_run_merged_into_its_reference(self):
        run = self.convert(self.source, "run", "--to", "megatron")
        self.hashed(run, "merged", "--like", self.source)


class Recognised(HashedValues):
    def test_the_model_is_recognised_wherever_it_went(self):
        source = ranks.ours("v2.5", **SMALL).directory
        self.manifest(source)
        recorded = os.path.join(self.convert(source, "recorded", "--qkv", "split", "--hash-values"), MANIFEST)
        for options in EXACT:
            with self.subTest(options):
                out = self.convert(source, "-".join(options), *options)
                for manifest in (self.at("hashes.json"), recorded):
                    self.run_tool("mimo-verify", "check", out, "--against", manifest)
        out = self.convert(source, "four-bit", "--recipe", "nvfp4-experts")
        for manifest in (self.at("hashes.json"), recorded):
            result = self.run_tool("mimo-verify", "check", out, "--against", manifest, "--json", code=1)
            named = {d["tensor"] for d in json.loads(result.stdout)["against"]["differences"]}
            self.assertTrue(named and all(".experts." in n for n in named))

    def test_a_changed_value_is_not(self):
        source = ranks.ours("v2.5", **SMALL).directory
        self.manifest(source)
        out = self.at("changed")
        shutil.copytree(source, out)
        name = "model.layers.0.mlp.up_proj.weight"

        def change(tensor):
            codes = np.array(tensor[1])
            codes[5, 7] ^= 1
            return tensor[0], codes
        replace(out, name, change)
        result = self.run_tool("mimo-verify", "check", out, "--against", self.at("hashes.json"), code=1)
        self.assertIn(name + ": of other values", result.stdout)
        self.run_tool("mimo-verify", "check", out, "--against", os.path.join(out, "config.json"), code=3)


if __name__ == "__main__":
    unittest.main()
