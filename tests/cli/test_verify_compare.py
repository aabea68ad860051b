"""mimo-verify compare and roundtrip on every form, recipe and padding: what must be the same is, with figures
that numpy confirms; what is not, is not. How differences are named: test_compare_corruptions."""
import json
import math
import os
import shutil
import unittest

import numpy as np

from harness import checkpoints, ranks, requant, tools
from harness.breakage import edit_json, file_of, replace
from harness.case import ToolCase
from reference import codecs, container, decode

try:
    import jsonschema
except ImportError:
    jsonschema = None

VARIANTS = ("v2-flash", "v2.5", "v2.5-pro", "v2.6", "plain")
SMALL = dict(experts=2, moe_intermediate=256, intermediate=512, pattern=(0, 1), mtp=1)
EXACT = (("--qkv", "split"), ("--dtype", "bf16"), ("--dtype", "fp32"), ("--dtype", "bf16", "--qkv", "fused:2"),
         ("--to", "megatron"), ("--to", "nxdi", "--dtype", "bf16"))
RANKED = (("--qkv", "fused:1"), ("--to", "vllm", "--format", "sharded-state", "--tp", "1"), ("--to", "vllm", "--tp", "4", "--pad"),
          ("--to", "sglang", "--tp", "8", "--pad"), ("--to", "vllm", "--format", "sharded-state", "--tp", "2", "--pad"))
RECIPES = ("nvfp4", "nvfp4-experts", "nvfp4-mlp", "mxfp4-experts", "mxfp8", "fp8-all")


class Comparing(ToolCase):
    tool = "mimo-verify"

    def source(self, variant="v2.5", **options):
        return ranks.ours(variant, **dict(SMALL, **options)).directory

    def compare(self, a, b, *options, code=0):
        return self.run_tool("mimo-verify", "compare", a, b, *options, code=code)

    def document(self, a, b, *options, code=(0, 1)):
        document = json.loads(self.compare(a, b, "--json", *options, code=code).stdout)
        self.validate(document, "compare")
        return document

    def validate(self, document, schema):
        if jsonschema is not None:
            with open(os.path.join(tools.SOURCE, "schemas", schema + ".schema.json")) as f:
                self.assertEqual(list(jsonschema.Draft202012Validator(json.load(f)).iter_errors(document)), [])


class Compare(Comparing):
    def test_every_variant_and_form(self):
        for variant in VARIANTS:
            source = self.source(variant)
            marked = ("--source-qkv", "fused:1") if variant == "plain" else ()      # a re-export says nothing of it
            for options in EXACT:
                with self.subTest(variant=variant, options=options):
                    out = self.convert(source, f"{variant}-{'-'.join(options)}", *options, *marked)
                    self.compare(source, out)
                    self.compare(out, source)

    def test_what_ranks_hold(self):
        """Cut for ranks, some blocks are re-quantized: within the codec, and nothing else."""
        for variant in ("v2.5", "v2-flash"):
            source = self.source(variant)
            for options in RANKED:
                with self.subTest(variant=variant, options=options):
                    out = self.convert(source, f"{variant}-{'-'.join(options)}", *options)
                    exact = ranks.manifest(out)["totals"]["requantized_blocks"] == 0
                    self.compare(source, out, *(() if exact else ("--within-codec",)))

    def test_every_recipe(self):
        source = self.source()
        for recipe in RECIPES:
            for more in ((), ("--dialect", "compressed-tensors"),
                         ("--to", "vllm", "--format", "sharded-state", "--tp", "2", "--pad")):
                if recipe in ("fp8-all", "mxfp8", "mxfp4-experts") and "--dialect" in more:
                    continue
                with self.subTest(recipe=recipe, more=more):
                    out = self.convert(source, f"{recipe}-{'-'.join(more)}", "--recipe", recipe, *more)
                    self.compare(source, out, "--within-codec")
                    found = self.document(source, out)
                    kinds = {d["kind"] for d in found["differences"]}
                    self.assertLessEqual(kinds, {"values.within-codec"}, found["differences"][:2])
                    if recipe != "fp8-all":
                        self.assertEqual(kinds, {"values.within-codec"})

    def test_figures(self):
        """SQNR, cosine and the largest error of what is quantized are those of numpy."""
        source = self.source()
        out = self.convert(source, "out", "--recipe", "nvfp4-experts")
        document = self.document(source, out, "--within-codec", code=0)
        true, found = (decode.checkpoint(d) for d in (source, self.convert(out, "values", "--dtype", "fp32", "--qkv", "split")))
        self.assertGreater(len(document["measured"]), 4)
        for entry in document["measured"]:
            x = true[entry["tensor"]].values.astype(np.float64)
            y = found[entry["tensor"]].array.astype(np.float64)
            error = y - x
            figures = entry["figures"]
            self.assertEqual(figures["differing"], int((x != y).sum()), entry["tensor"])
            self.assertAlmostEqual(figures["sqnr_db"], 10 * math.log10((x * x).sum() / (error * error).sum()), places=6)
            self.assertAlmostEqual(figures["cosine"], (x * y).sum() / math.sqrt((x * x).sum() * (y * y).sum()), places=9)
            self.assertAlmostEqual(figures["max_error"], np.abs(error).max(), places=9)

    def test_thresholds(self):
        source = self.source()
        out = self.convert(source, "out", "--recipe", "nvfp4-experts")
        self.compare(source, out, "--min-sqnr", "experts=15")
        self.compare(source, out, "--min-sqnr", "experts=60", code=1)
        self.compare(source, out, "--min-sqnr", "attention=15", code=1)     # says nothing of experts
        self.compare(source, out, "--min-sqnr", "experts=loud", code=2)

    def test_threads_and_memory_change_nothing(self):
        source = self.source()
        out = self.convert(source, "out", "--recipe", "nvfp4")
        documents = [self.document(source, out, *options) for options in
                     (("--threads", "1"), ("--threads", "5"), ("--memory", "24MiB"))]
        for document in documents[1:]:
            self.assertEqual(documents[0]["differences"], document["differences"])
        self.assertIn("--memory", self.compare(source, out, "--memory", "4KiB", code=2).stderr)

    def test_threads_change_nothing_of_how_it_differs(self):
        """Kinds, evidence and order of a second look, shared out among one worker or several."""
        source = self.source()
        out = self.convert(source, "out", "--dtype", "bf16", "--qkv", "split")
        expert = "model.layers.1.mlp.experts.{}.{}_proj.weight"
        before = {n: a.copy() for n, (_, a) in container.read_directory(out).items() if ".experts." in n}
        edits = {"model.layers.0.self_attn.q_proj.weight": lambda a: np.roll(a, 192, 0),
                 "model.layers.1.self_attn.v_proj.weight": lambda a: np.roll(a, 64, 0),
                 "model.layers.0.mlp.down_proj.weight": lambda a: codecs.bf16_from_f32(codecs.f32_from_bf16(a) * np.float32(2)),
                 "model.layers.1.input_layernorm.weight": lambda a: a[::-1],
                 expert.format(0, "gate"): lambda a: before[expert.format(0, "up")],
                 expert.format(0, "up"): lambda a: before[expert.format(0, "gate")],
                 expert.format(1, "down"): lambda a: np.zeros_like(a)}
        for name, edit in edits.items():
            replace(out, name, lambda t, edit=edit: (t[0], np.ascontiguousarray(edit(t[1]))))
        documents = [self.document(self.convert(source, f"whole-{n}", "--dtype", "bf16"), out, "--threads", n, code=1)
                     for n in (1, 2, 7)]
        self.assertEqual([d["place"] for d in documents[0]["differences"]], sorted(edits))
        self.assertGreater(len({d["kind"] for d in documents[0]["differences"]}), 4)
        for document in documents[1:]:
            self.assertEqual(documents[0]["differences"], document["differences"])

    def test_one_bit(self):
        source = self.source()
        name = "model.layers.1.mlp.experts.1.down_proj.weight"
        for form in ((), ("--dtype", "bf16", "--qkv", "split"), ("--recipe", "nvfp4-experts"), ("--to", "megatron")):
            with self.subTest(form):
                self.setUp()
                out = self.convert(source, "out", *form)
                before = self.convert(source, "before", *form)
                file, stored = self.codes_of(out, name)
                with open(file, "r+b") as f:
                    f.seek(stored)
                    byte = f.read(1)[0]
                    f.seek(stored)
                    f.write(bytes([byte ^ 1]))
                document = self.document(before, out, code=1)
                self.assertEqual([d["kind"] for d in document["differences"]], ["values.single"])
                if form[:1] != ("--to",):
                    self.assertIn("down_proj", document["differences"][0]["place"])

    def codes_of(self, directory, name):
        """A file and the place of a byte in the middle of a weight."""
        if not os.path.exists(os.path.join(directory, "model.safetensors.index.json")):
            files = [os.path.join(r, f) for r, _, names in os.walk(directory) for f in names if f.endswith(".distcp")]
            file = max(files, key=os.path.getsize)
            return file, os.path.getsize(file) // 4 * 2
        stored = name if name in container.read_directory(directory) else name + "_packed"
        file = file_of(directory, stored)
        with open(file, "rb") as f:
            length = int.from_bytes(f.read(8), "little")
            begin, end = json.loads(f.read(length))[stored]["data_offsets"]
        return file, 8 + length + begin + (end - begin) // 4 * 2

    def test_bits_that_the_model_has_in_f32(self):
        source = self.source()
        for name in ("model.layers.1.mlp.gate.weight", "model.layers.1.mlp.gate.e_score_correction_bias"):
            with self.subTest(name):
                self.setUp()
                out = self.convert(source, "out")
                replace(out, name, lambda t: ("BF16", codecs.bf16_from_f32(t[1])))
                document = self.document(source, out, code=1)
                found = {d["place"]: d["kind"] for d in document["differences"]}
                self.assertEqual(found.get(name), "values.f32-bits-lost")

    def test_goes_on_from_a_state(self):
        source = self.source()
        out, state = self.convert(source, "out", "--recipe", "nvfp4"), self.at("state")
        whole = self.document(source, out)
        self.assertEqual(self.document(source, out, "--state", state)["differences"], whole["differences"])
        with open(state) as f:
            lines = f.readlines()
        self.assertEqual(len(lines), 1 + whole["tensors"])
        for kept in (1, 7, len(lines) - 1, len(lines)):
            with open(state, "w") as f:
                f.write("".join(lines[:kept]) + ('{"name": "model.la' if kept < len(lines) else ""))
            again = self.document(source, out, "--state", state)
            self.assertEqual((again["differences"], again["counts"]), (whole["differences"], whole["counts"]))
            self.assertEqual(again["bytes_read"] == 0, kept == len(lines))
            with open(state) as f:
                self.assertEqual(sorted(f.readlines()), sorted(lines))
        self.assertIn("another comparison", self.compare(source, source, "--state", state, code=2).stderr)
        self.compare(source, out, "--state", os.path.join(source, "config.json"), code=2)

    def test_input_scales(self):
        source = self.source()
        recipe = ("--recipe", "nvfp4", "--w4a4", "--input-scale")
        half, quarter = (self.convert(source, f"input-{x}", *recipe, x) for x in ("0.5", "0.25"))
        plain = self.convert(source, "plain", "--recipe", "nvfp4")
        for other, kind in ((quarter, "input-scale.differs"), (plain, "input-scale.missing")):
            kinds = {d["kind"] for d in self.document(half, other, code=1)["differences"]}
            self.assertEqual(kinds, {kind})
        self.compare(half, self.convert(half, "again", "--qkv", "fused:4"))

    def test_another_model(self):
        a, b = self.source(), self.source(hidden=256)
        self.assertIn("not the same model", self.compare(a, b, code=3).stderr)
        self.compare(a, self.at("nothing"), code=3)

    def test_only_one_side_has_it(self):
        source = self.source(towers=True)
        out = self.convert(source, "out", "--text-only")
        self.compare(source, out)                              # it does not say that it has towers
        edit_json(out, "config.json", lambda c: c.update(vision_config={"depth": 1}))
        kinds = {d["kind"] for d in self.document(source, out, code=1)["differences"]}
        self.assertIn("tensor.missing", kinds)

    def test_round_trips(self):
        for variant in ("v2.5", "v2-flash"):
            source = self.source(variant)
            for options in EXACT + RANKED + (("--recipe", "nvfp4"), ("--recipe", "mxfp8"), ("--to", "nxdi")):
                with self.subTest(variant=variant, options=options):
                    before = sorted(os.listdir(self.tmp))
                    result = self.run_tool("mimo-verify", "roundtrip", source, *options)
                    self.assertIn("the round trip holds", result.stdout)
                    self.assertEqual(before, sorted(os.listdir(self.tmp)))

    def test_a_round_trip_that_loses_more_than_asked(self):
        result = self.run_tool("mimo-verify", "roundtrip", self.source(), "--recipe", "nvfp4", "--json")
        document = json.loads(result.stdout)
        self.assertTrue(document["holds"] and not document["lossless"])
        self.validate(document, "roundtrip")
        self.run_tool("mimo-verify", "roundtrip", self.source(), "--to", "vllm", "--tp", "4", "--ranks", "0", code=2)


def write(directory, name, content):
    path = os.path.join(directory, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f:
        f.write(content if isinstance(content, bytes) else content.encode())


class WhatTravelsAlong(Comparing):
    """How it is told apart: test_compare_corruptions. Here: what is no difference, and where there is no place for it."""

    def pair(self, **options):
        """Two copies of a checkpoint that may be edited."""
        a, b = self.at("a"), self.at("b")
        for directory in (a, b):
            shutil.copytree(self.source(**options), directory)
        return a, b

    def places(self, a, b, *options, code=1):
        return {(d["kind"], d["place"]) for d in self.document(a, b, *options, code=code)["differences"]}

    def test_what_changes_nothing_that_is_served(self):
        a, b = self.pair()
        merges = [["a", "b"], ["ab", "c"]]
        for directory, version, pairs in ((a, "4.57.1", [" ".join(m) for m in merges]), (b, "5.1.0", merges)):
            tokenizer = {"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": pairs}}
            write(directory, "tokenizer.json", json.dumps(tokenizer, indent=2 if directory == a else None))
            edit_json(directory, "generation_config.json", lambda c: c.update(transformers_version=version))
            write(directory, "README.md", version)
            write(directory, "figures/plot.py", version)
        os.remove(os.path.join(b, "merges.txt"))                      # tokenizer.json says it
        write(b, "special_tokens_map.json", "{}")
        with open(os.path.join(b, "chat_template.jinja")) as f:       # into the tokenizer's config, as older packages had it
            template = f.read()
        os.remove(os.path.join(b, "chat_template.jinja"))
        edit_json(b, "tokenizer_config.json", lambda c: c.update(chat_template=template))
        draft = os.path.join(b, "dflash", "dflash_draft_model.safetensors")
        os.rename(draft, os.path.join(b, "dflash", "model-00001-of-00001.safetensors"))
        document = self.document(a, b, code=0)
        self.assertEqual(document["differences"], [])
        notes = " ".join(document["notes"])
        self.assertTrue("merges.txt" in notes and "special_tokens_map.json" in notes, notes)

    def test_patterns_leave_it_out(self):
        a, b = self.pair()
        os.remove(os.path.join(b, "tokenizer.json"))
        shutil.rmtree(os.path.join(b, "dflash"))
        missing = {("carried.missing", "tokenizer.json"), ("carried.missing", "dflash/")}
        self.assertEqual(self.places(a, b), missing)
        self.assertEqual(self.places(b, a), {("carried.added", p) for _, p in missing})
        self.assertEqual(self.places(a, b, "--exclude", "^carried/tok"), {("carried.missing", "dflash/")})
        self.compare(a, b, "--exclude", "^carried/")
        self.compare(a, b, "--include", "experts")
        self.assertEqual(self.places(a, b, "--include", "^carried/"), missing)

    def test_forms_without_a_place_for_it(self):
        """What rank files, Neuron's directory and training checkpoints lack of it is a note; what they have is compared."""
        source = self.source()
        for options in (("--to", "vllm", "--format", "sharded-state", "--tp", "2", "--dtype", "bf16"), ("--to", "megatron"),
                        ("--to", "nxdi", "--dtype", "bf16")):
            with self.subTest(options):
                self.setUp()
                out = self.convert(source, "out", *options)
                write(out, "generation_config.json", '{"do_sample": false}')
                self.assertEqual(self.places(source, out), {("carried.generation", "generation_config.json")})
                for name in ("generation_config.json", "tokenizer.json", "dflash/config.json", "modeling_mimo_v2.py"):
                    os.remove(os.path.join(out, name))
                document = self.document(source, out, code=0)
                self.assertIn("which has no place for them", " ".join(document["notes"]))
                self.assertEqual(self.document(out, source, code=0)["differences"], [])

    def test_audio_without_its_tower(self):
        source = self.source(towers=True)
        out = self.convert(source, "out", "--text-only")
        self.assertFalse(os.path.exists(os.path.join(out, "audio_tokenizer")))
        self.compare(source, out)
        both = self.convert(source, "both", "--qkv", "split")
        shutil.rmtree(os.path.join(both, "audio_tokenizer"))
        self.assertEqual(self.places(source, both), {("carried.missing", "audio_tokenizer/")})

    def test_code_that_nobody_names(self):
        a, b = self.pair()
        write(b, "modeling_mimo_v2.py", "# other code\n")
        self.assertEqual(self.places(a, b), {("carried.code", "modeling_mimo_v2.py")})
        for directory in (a, b):
            edit_json(directory, "config.json", lambda c: c.pop("auto_map"))
        document = self.document(a, b, code=0)
        self.assertIn("modeling_mimo_v2.py", " ".join(document["notes"]))

    def test_large_tensors_by_several_threads(self):
        a, b = self.pair()
        random = np.random.default_rng(1)
        values = random.integers(0, 0x7F00, (3000, 2048)).astype(np.uint16)      # 12 MB: several takings
        other = values.copy()
        for row in (7, 1500, 2999):
            other[row, 3] ^= 1
        for directory, array in ((a, values), (b, other)):
            container.write(os.path.join(directory, "dflash", "dflash_draft_model.safetensors"), {"w": ("BF16", array)}, {})
        for threads in ("1", "4"):
            document = self.document(a, b, "--threads", threads, code=1)
            self.assertEqual([(d["kind"], d["place"]) for d in document["differences"]], [("carried.bytes", "dflash/w")])
            self.assertIn(f"3 of {values.size} elements of 2 bytes differ, element {7 * 2048 + 3} first",
                          document["differences"][0]["evidence"])


if __name__ == "__main__":
    unittest.main()
