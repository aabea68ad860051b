"""Proves that FP8 with scales of rows, of tensors, of blocks in any type decodes to code * float32(scale), moves with its
rows under any layout without a bit lost, is described as it is stored, and is refused where it has no place. Truth is
numpy's (harness/fp8_scales.py), from what lies in the files."""
import json
import unittest
from pathlib import Path

import numpy as np

from harness import checkpoints, fp8_scales
from harness.case import ToolCase
from harness.fp8_scales import form
from reference import container

SMALL = dict(hidden=256, experts=2, heads=8, intermediate=256, moe_intermediate=256, vocab=64, pattern=(0, 1), mtp=1,
             towers=False, sidecars=False)
FORMS = {
    "rows f32": form("row"), "rows bf16": form("row", "BF16"), "rows f16 inv": form("row", "F16", part="weight_scale_inv"),
    "rows e8m0": form("row", "F8_E8M0"), "vector f32": form("vector"), "vector bf16": form("vector", "BF16"),
    "vector f16": form("vector", "F16", part="weight_scale_inv"), "tensor f32 static": form("tensor", input=True),
    "tensor bf16": form("tensor", "BF16"), "one f32": form("one"), "one f16 static": form("one", "F16", input=True),
    "cell f32": form("cell"), "blocks bf16": form("block", "BF16", part="weight_scale_inv"),
    "blocks f16": form("block", "F16"), "blocks e8m0": form("block", "F8_E8M0", part="weight_scale_inv"),
    "blocks u8 exponents": form("block", "U8", part="weight_scale_inv"),
    "u8 codes in blocks": form("block", part="weight_scale_inv", codes="U8"),
    "u8 codes in rows": form("row", "BF16", codes="U8"),
}
VARIANTS = {"v2.5": {}, "v2-flash": {}, "plain": {}, "v2.5-pro": dict(heads=16)}


class Scales(ToolCase):
    def source(self, name, choose, variant="v2.5", strategy=None, declared=True, **options):
        made, self.model = checkpoints.ours(variant, **{**SMALL, **VARIANTS[variant], **options})
        self.qkv = self.model.spec.qkv
        self.known = ("--source-qkv", "fused:1") if variant == "plain" else ()    # which nothing else says
        out = fp8_scales.copy(made, self.at(name))
        fp8_scales.rewrite(out, choose if callable(choose) else lambda weight: choose)
        if declared:
            span = "row" if callable(choose) else choose["span"]
            fp8_scales.declare(out, strategy or {"block": "block", "row": "channel", "vector": "channel"}.get(span, "tensor"))
        return out

    def check_values(self, truth, out, to="bf16"):
        """Every tensor of a split, decoded output is the truth's, and there is no other."""
        got = container.read_directory(out)
        self.assertEqual(sorted(truth), sorted(got))
        for name, (dtype, array) in truth.items():
            if dtype == "F32" and name.endswith("_proj.weight") or name.endswith("eh_proj.weight") and dtype == "F32":
                dtype, array = fp8_scales.rounded(array, to)
            elif dtype == "BF16" and to != "bf16":
                continue
            self.assertEqual(got[name][0], dtype, name)
            self.assertEqual(got[name][1].tobytes(), np.ascontiguousarray(array).tobytes(), name)

    def check_same_values(self, a, b, qkv_a=None, qkv_b=None):
        a, b = fp8_scales.decode(a, qkv_a), fp8_scales.decode(b, qkv_b)
        self.assertEqual(sorted(a), sorted(b))
        for name in a:
            self.assertEqual(a[name][0], b[name][0], name)
            self.assertEqual(a[name][1].tobytes(), b[name][1].tobytes(), name)


class Decoded(Scales):
    def test_every_form_in_every_layout(self):
        for variant in VARIANTS:
            for what, one in FORMS.items():
                with self.subTest(variant=variant, form=what):
                    source = self.source(f"{variant} {what}", one, variant)
                    truth = fp8_scales.decode(source, self.qkv)
                    self.check_values(truth, self.convert(source, f"o {variant} {what}", "--dtype", "bf16", "--qkv",
                                                          "split", *self.known))

    def test_other_types(self):
        for to in ("fp16", "fp32"):
            for what in ("rows bf16", "vector f16", "tensor f32 static", "blocks e8m0"):
                with self.subTest(to=to, form=what):
                    source = self.source(f"{to} {what}", FORMS[what])
                    truth = fp8_scales.decode(source, self.qkv)
                    self.check_values(truth, self.convert(source, f"o {to} {what}", "--dtype", to, "--qkv", "split"), to)

    def test_layers_of_different_forms(self):
        """One layer by rows, the next in blocks, MTP by tensors, experts in BF16 blocks."""
        def choose(weight):
            if ".mtp." in weight:
                return FORMS["one f32"]
            if ".experts." in weight:
                return FORMS["blocks bf16"]
            return FORMS["vector bf16"] if ".layers.0." in weight else None
        for variant in ("v2.5", "v2-flash"):
            with self.subTest(variant):
                source = self.source(variant, choose, variant, declared=False)
                truth = fp8_scales.decode(source, self.qkv)
                self.check_values(truth, self.convert(source, f"o {variant}", "--dtype", "bf16", "--qkv", "split"))
                # No native config describes them: what is written would be read as blocks.
                refused = self.run_tool("mimo-convert", source, self.at("no"), "--qkv", "split", code=2)
                self.assertIn("fp8.no_words", refused.stderr)
                fp8_scales.declare(source, "block")
                kept = self.convert(source, f"k {variant}", "--qkv", "split")
                self.check_same_values(source, kept, self.qkv)

    def test_recipes_encode_the_same_values(self):
        """What is made from FP8 by rows is what is made from its values in F32."""
        for what in ("rows bf16", "vector f32", "tensor f32 static", "u8 codes in blocks"):
            source = self.source(what, FORMS[what])
            values = self.convert(source, f"values {what}", "--dtype", "fp32", "--qkv", "split")
            for recipe in ("nvfp4", "mxfp4", "mxfp8", "fp8"):
                if (what, recipe) in (("u8 codes in blocks", "fp8"), ("rows bf16", "mxfp8")):
                    continue                  # kept; and moved where a scale happens to be a power of two
                with self.subTest(form=what, recipe=recipe):
                    rows = recipe == "mxfp4" and what != "u8 codes in blocks"      # which native has no words for
                    more = ("--dialect", "compressed-tensors") if rows else ()
                    made = self.convert(source, f"{recipe} {what}", "--dtype", recipe, "--qkv",
                                        "split" if recipe == "mxfp4" else "split:independent", *more)
                    again = self.convert(values, f"{recipe} v {what}", "--dtype", recipe, *more)
                    made, again = container.read_directory(made), container.read_directory(again)
                    for name in made:
                        if ".experts." in name:
                            self.assertEqual(made[name][0], again[name][0], name)
                            self.assertEqual(made[name][1].tobytes(), again[name][1].tobytes(), name)

    def test_a_dialect_without_words_for_rows(self):
        source = self.source("rows", form("row"))
        result = self.run_tool("mimo-convert", source, self.at("no"), "--dtype", "mxfp4", code=2)
        self.assertIn("[fp8.no_words]", result.stderr)
        self.assertIn("--dialect compressed-tensors", result.stderr)
        said = fp8_scales.config_of(self.convert(source, "out", "--dtype", "mxfp4", "--dialect", "compressed-tensors"))
        groups = said["quantization_config"]["config_groups"].values()
        self.assertEqual(sorted(g["weights"]["strategy"] for g in groups), ["channel", "group"])

    def test_blocks_become_those_of_a_release(self):
        """--dtype fp8: codes as they are, as F8_E4M3 under F32 scales of the same values."""
        for variant in ("v2.5", "v2-flash"):
            for what in ("blocks bf16", "blocks f16", "blocks e8m0", "u8 codes in blocks"):
                for qkv in ((), ("--qkv", "split")):
                    with self.subTest(variant=variant, form=what, qkv=qkv):
                        source = self.source(f"{variant} {what} {len(qkv)}", FORMS[what], variant, declared=False)
                        out = self.convert(source, f"o {variant} {what} {len(qkv)}", "--dtype", "fp8", *qkv)
                        self.check_same_values(source, out, self.qkv)
                        for name, (dtype, array) in container.read_directory(out).items():
                            if name.endswith("_scale_inv"):
                                self.assertEqual((dtype, container.read_directory(out)[name[:-10]][0]), ("F32", "F8_E4M3"))

    def test_bytes_get_their_type_back(self):
        source = self.source("u8", FORMS["u8 codes in blocks"], declared=False)
        out = self.convert(source, "out", "--dtype", "fp8")
        name = "model.layers.1.mlp.experts.0.up_proj.weight"
        stored = container.read_directory(out)
        self.assertEqual(stored[name][0], "F8_E4M3")
        self.assertEqual(stored[name][1].tobytes(), container.read_directory(source)[name][1].tobytes())


class Kept(Scales):
    def test_every_form_moves_with_its_rows(self):
        for variant in VARIANTS:
            for what, one in FORMS.items():
                with self.subTest(variant=variant, form=what):
                    source = self.source(f"{variant} {what}", one, variant)
                    before = container.read_directory(source)
                    split = self.convert(source, f"split {variant} {what}", "--qkv", "split", *self.known)
                    self.check_same_values(source, split, self.qkv)
                    after = container.read_directory(split)
                    for name, (dtype, array) in after.items():
                        old = name if name in before else name.replace(".q_proj.", ".qkv_proj.").replace(
                            ".k_proj.", ".qkv_proj.").replace(".v_proj.", ".qkv_proj.")
                        self.assertEqual(dtype, before[old][0], name)
                        self.assertEqual(array.ndim, before[old][1].ndim, name)

    def test_there_and_back(self):
        for what in ("rows f32", "rows bf16", "vector f16", "tensor f32 static", "one f16 static", "blocks bf16",
                     "blocks e8m0", "u8 codes in rows"):
            with self.subTest(what):
                source = self.source(what, dict(FORMS[what], equal=True))
                split = self.convert(source, f"split {what}", "--qkv", "split")
                fused = self.convert(split, f"fused {what}", "--qkv", "fused:4")
                self.assert_same_tensors(source, fused, what)
                self.assertEqual(fp8_scales.config_of(fused)["quantization_config"]["config_groups"],
                                 fp8_scales.config_of(source)["quantization_config"]["config_groups"])

    def test_fused_to_other_chunks(self):
        for what in ("rows f32", "vector bf16", "tensor bf16", "one f32"):
            for chunks in (1, 2, 8):
                with self.subTest(form=what, chunks=chunks):
                    source = self.source(f"{what} {chunks}", FORMS[what])
                    out = self.convert(source, f"o {what} {chunks}", "--qkv", f"fused:{chunks}")
                    a, b = fp8_scales.decode(source, self.qkv), fp8_scales.decode(out, f"fused:{chunks}")
                    for name in a:
                        value = b[name][1]
                        if chunks == 8 and ".layers.0.self_attn.k" in name and ".mtp." not in name:
                            value = value.reshape(8, 192, -1)[::2].reshape(a[name][1].shape)      # each head twice
                        if chunks == 8 and ".layers.0.self_attn.v" in name and ".mtp." not in name:
                            value = value.reshape(8, 128, -1)[1::2].reshape(a[name][1].shape)
                        self.assertEqual(value.tobytes(), a[name][1].tobytes(), name)

    def test_tensor_scales_become_one_only_where_they_are_equal(self):
        equal = self.source("equal", form("tensor", equal=True), "v2-flash")
        out = self.convert(equal, "fused", "--qkv", "fused:4", "--lossless")
        self.check_same_values(equal, out, self.qkv)
        differ = self.source("differ", form("tensor"), "v2-flash")
        self.run_tool("mimo-convert", differ, self.at("no"), "--qkv", "fused:4", "--lossless", code=1)
        result = self.run_tool("mimo-convert", differ, self.at("no"), "--qkv", "fused:4", "--on-straddle", "refuse", code=1)
        self.assertIn("straddle", result.stderr)
        values = self.convert(differ, "values", "--qkv", "fused:4", "--on-straddle", "bf16")
        self.assertEqual(container.read_directory(values)["model.layers.0.self_attn.qkv_proj.weight"][0], "BF16")
        requantized = self.convert(differ, "requantized", "--qkv", "fused:4")
        a, b = fp8_scales.decode(differ, self.qkv), fp8_scales.decode(requantized, "fused:4")
        for name in a:
            if ".self_attn.q_proj" in name:
                x, y = (np.asarray(t[name][1], np.float64) for t in (a, b))
                self.assertGreater((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()), 0.95, name)

    def test_tensor_scales_that_differ_and_become_one_are_said(self):
        """Named are the layers whose three scales differ, as the files say, and where nothing is rounded there is nothing."""
        source = self.source("source", lambda weight: form("tensor", equal=".layers.0." in weight), "v2-flash",
                             pattern=(0, 1, 1))
        stored = container.read_directory(source)
        layers = sorted({n.rsplit(".", 2)[0] for n in stored if n.endswith(".q_proj.weight_scale")})
        differ = [layer for layer in layers
                  if len({stored[f"{layer}.{p}_proj.weight_scale"][1].tobytes() for p in "qkv"}) > 1]
        self.assertTrue(0 < len(differ) < len(layers), layers)

        def findings(out, *options):
            run = self.run_tool("mimo-convert", source, self.at(out), "--json", *options)
            return [f for f in json.loads(run.stdout)["findings"] if f["id"] == "fp8.joined_scales"]
        said, = findings("fused", "--qkv", "fused:4")
        self.assertEqual((said["severity"], said["count"]), ("warning", len(differ)))
        self.assertEqual(said["place"], ", ".join(differ))
        text = self.run_tool("mimo-convert", source, self.at("again"), "--qkv", "fused:4").stderr
        self.assertIn("warning fp8.joined_scales: " + differ[0], text)
        for i, options in enumerate((("--max-shard-size", "1MB"), ("--qkv", "fused:4", "--on-straddle", "bf16"),
                                     ("--qkv", "fused:4", "--include", r"layers\.0\."), ("--dtype", "bf16"))):
            self.assertEqual(findings(f"o{i}", *options), [], options)
        self.run_tool("mimo-convert", source, self.at("no"), "--qkv", "fused:4", "--lossless", code=1)

    def test_input_scales_become_one_only_where_they_are_equal(self):
        source = self.source("source", form("tensor", input=True, equal=True), "v2-flash")
        fp8_scales.breakage.replace(source, "model.layers.1.self_attn.k_proj.input_scale",
                                    lambda value: (value[0], value[1] * np.float32(2)))
        result = self.run_tool("mimo-convert", source, self.at("no"), "--qkv", "fused:4", code=2)
        self.assertIn("fp8.unequal_scales", result.stderr)
        self.convert(source, "kept", "--max-shard-size", "1MB")

    def test_input_scales_go_with_their_weights(self):
        source = self.source("source", FORMS["tensor f32 static"])
        before, after = (container.read_directory(d) for d in (source, self.convert(source, "split", "--qkv", "split")))
        for letter in "qkv":
            name = f"model.layers.0.self_attn.{letter}_proj.input_scale"
            self.assertEqual(after[name][1].tobytes(), before["model.layers.0.self_attn.qkv_proj.input_scale"][1].tobytes())
        self.convert(source, "values", "--dtype", "bf16", "--qkv", "split")
        self.assertIn("for the activations of a weight that is not kept as FP8",
                      Path(self.at("values", "mimo-manifest.json")).read_text())

    def test_plans_from_files(self):
        """A plan that was written and read back makes the same bytes, decoded and moved, in every form."""
        for what in ("rows bf16", "vector f16", "tensor f32 static", "blocks e8m0", "u8 codes in rows"):
            for options in (("--qkv", "split"), ("--dtype", "bf16", "--qkv", "split")):
                with self.subTest(form=what, options=options):
                    source = self.source(f"{what} {len(options)}", FORMS[what])
                    out, again = self.at(f"a {what} {len(options)}"), self.at(f"b {what} {len(options)}")
                    plan = self.at(f"plan {what} {len(options)}.json")
                    self.run_tool("mimo-convert", source, out, *options, "--dry-run", "--plan-out", plan)
                    self.run_tool("mimo-convert", source, out, *options)
                    self.run_tool("mimo-convert", source, again, "--plan", plan)
                    self.assert_same_tensors(out, again)

    def test_a_config_of_blocks_is_not_told_of_rows(self):
        """quant_method fp8 without a block size, which means one scale per tensor: none is added."""
        source = self.source("source", form("tensor", part="weight_scale"), declared=False)
        fp8_scales.edit_config(source, lambda c: c["quantization_config"].pop("weight_block_size"))
        said = fp8_scales.config_of(self.convert(source, "out", "--qkv", "split"))["quantization_config"]
        self.assertNotIn("weight_block_size", said)
        self.assertEqual(said["quant_method"], "fp8")

    def test_modelopt(self):
        source = self.source("source", form("tensor", input=True))
        fp8_scales.edit_config(source, lambda c: c.update(quantization_config={
            "quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["lm_head"], "producer": {"name": "modelopt"}}))
        out = self.convert(source, "out", "--qkv", "split", "--source-qkv", "fused:4")
        self.check_same_values(source, out, self.qkv)
        self.assertEqual(fp8_scales.config_of(out)["quantization_config"]["quant_algo"], "FP8")

    def test_config_follows_the_names(self):
        for variant, wish, gone in (("v2.5", "split", "qkv_proj"), ("v2-flash", "fused:4", "q_proj")):
            with self.subTest(variant):
                source = self.source(f"s {variant}", form("row"), variant)
                layer = "model.layers.0.self_attn"
                values = {}

                def plain(config):
                    ignore = config["quantization_config"]["ignore"]
                    names = [f"{layer}.{x}_proj" for x in (("qkv",) if variant == "v2.5" else "qkv")]
                    ignore += names
                    values["names"] = names
                fp8_scales.edit_config(source, plain)
                for module in values["names"]:
                    name = f"{module}.weight"
                    tensors = container.read_directory(source)
                    codes = tensors[name][1]
                    fp8_scales.breakage.replace(source, name, lambda _, c=codes: ("BF16", (c.astype(np.uint16) << 4)))
                    fp8_scales.breakage.replace(source, f"{module}.weight_scale", lambda _: None)
                fp8_scales.reindex(source)
                out = self.convert(source, f"o {variant}", "--qkv", wish)
                said = fp8_scales.config_of(out)["quantization_config"]
                was = fp8_scales.config_of(source)["quantization_config"]
                self.assertEqual({k: v for k, v in said.items() if k != "ignore"},
                                 {k: v for k, v in was.items() if k != "ignore"})
                self.assertEqual(said["ignore"][:3], was["ignore"][:3])
                stored = container.read_directory(out)
                new = [n[:-len(".weight")] for n in stored if n.startswith(layer) and n.endswith("_proj.weight")]
                for module in new:
                    if not module.endswith("o_proj"):
                        self.assertIn(module, said["ignore"])
                quantized = [n[:-len(".weight")] for n in stored if n + "_scale" in stored]
                self.assertFalse(set(quantized) & set(said["ignore"]))
                self.assertFalse([n for n in said["ignore"] if gone in n and n.startswith("model.layers.1")])


class NoPlace(Scales):
    def test_rank_files_and_neuron_and_like(self):
        source = self.source("rows", form("row", part="weight_scale_inv"), declared=False)
        for options in (("--to", "vllm", "--tp", "2", "--format", "sharded-state"), ("--to", "nxdi")):
            with self.subTest(options):
                result = self.run_tool("mimo-convert", source, self.at("no"), *options, code=2)
                self.assertIn("[fp8.no_place]", result.stderr)
                self.assertIn("--dtype bf16", result.stderr)
                self.convert(source, f"values {options[1]}", *options, "--dtype", "bf16")

    def test_what_the_refusals_advise(self):
        for what in ("rows bf16", "vector f32", "tensor f32 static", "blocks bf16", "blocks e8m0", "u8 codes in blocks"):
            with self.subTest(what):
                source = self.source(what, FORMS[what], declared=False)
                result = self.run_tool("mimo-convert", source, self.at("no"), "--to", "nxdi", code=2)
                self.assertIn("--to hf --dtype fp8 first", result.stderr)
                blocks = self.convert(source, f"b {what}", "--to", "hf", "--dtype", "fp8")
                self.convert(blocks, f"n {what}", "--to", "nxdi")
                self.convert(blocks, f"r {what}", "--to", "vllm", "--tp", "2", "--format", "sharded-state")

    def test_bf16_blocks_are_widened_for_ranks(self):
        options = ("--to", "vllm", "--tp", "2", "--format", "sharded-state")
        narrow = self.source("narrow", FORMS["blocks bf16"], declared=False, tp_size=4)
        wide = fp8_scales.copy(narrow, self.at("wide"))
        for name, (dtype, array) in container.read_directory(narrow).items():
            if name.endswith("weight_scale_inv"):
                fp8_scales.breakage.replace(wide, name, lambda v: ("F32", fp8_scales.widen(*v)))
        a, b = self.convert(narrow, "a", *options), self.convert(wide, "b", *options)
        for file in container.tensor_files(a):
            self.assertEqual(*(Path(d, file).read_bytes() for d in (a, b)), file)

    def test_projections_of_different_types(self):
        def choose(weight):
            return form("row") if ".layers.1.self_attn.k_proj" in weight else form("vector", "BF16")
        source = self.source("mixed", choose, "v2-flash")
        result = self.run_tool("mimo-convert", source, self.at("no"), "--qkv", "fused:4", code=2)
        self.assertIn("fp8.mixed_attention", result.stderr)
        out = self.convert(source, "out", "--dtype", "bf16", "--qkv", "fused:4")
        self.assertTrue(out)
        self.check_values(fp8_scales.decode(source, self.qkv), self.convert(source, "values", "--dtype", "bf16"))

    def test_one_of_three_in_blocks(self):
        """V takes blocks of K in chunks of a release: what its own scales are cannot be known."""
        source = self.source("mixed", lambda w: form("row") if "k_proj" in w else None, "v2-flash", declared=False)
        self.run_tool("mimo-convert", source, self.at("no"), "--dtype", "bf16", code=(2, 3))


    def test_like_makes_no_scales_of_rows(self):
        source = self.source("source", form("tensor"))
        run = self.convert(source, "run", "--dtype", "bf16", "--qkv", "split")
        self.run_tool("mimo-convert", run, self.at("no"), "--like", source, code=(1, 2, 3))


class Nibbles(Scales):
    """Packed FP4 under the type that safetensors has for it: F4 counts codes, the bytes are those of U8."""

    def as_f4(self, source, name):
        out = fp8_scales.copy(source, self.at(name))
        for tensor, (dtype, array) in container.read_directory(source).items():
            if ".experts." in tensor and dtype == "U8" and not tensor.endswith("_scale"):
                edit_header(out, tensor, lambda entry: entry.update(
                    dtype="F4", shape=[entry["shape"][0], 2 * entry["shape"][1]]))
        return out

    def test_values_are_those_of_bytes(self):
        for variant, store in (("v2.6", "fp8"), ("v2.5", "nvfp4"), ("v2.5", "nvfp4-ct")):
            with self.subTest(variant=variant, store=store):
                source, _ = checkpoints.ours(variant, store=store, **SMALL)
                f4 = self.as_f4(source, f"f4 {store}")
                options = ("--dtype", "bf16", "--qkv", "split")
                self.assert_same_tensors(self.convert(source, f"a {store}", *options),
                                         self.convert(f4, f"b {store}", *options))
                for recipe in ("fp8", "mxfp8"):
                    self.assert_same_tensors(
                        self.convert(source, f"a {store} {recipe}", "--dtype", recipe),
                        self.convert(f4, f"b {store} {recipe}", "--dtype", recipe))

    def test_kept_as_they_are(self):
        source, _ = checkpoints.ours("v2.6", **SMALL)
        f4 = self.as_f4(source, "f4")
        out = self.convert(f4, "out", "--qkv", "split")
        name = "model.layers.1.mlp.experts.1.up_proj.weight"
        for directory in (f4, out):
            header, data = fp8_scales.breakage.split_file(file_of(directory, name))
            begin, end = header[name]["data_offsets"]
            self.assertEqual((header[name]["dtype"], header[name]["shape"]), ("F4", [256, 256]))
            self.assertEqual(data[begin:end], container.read_directory(source)[name][1].tobytes())


def edit_header(directory, tensor, change):
    path = file_of(directory, tensor)
    header, data = fp8_scales.breakage.split_file(path)
    change(header[tensor])
    fp8_scales.breakage.join_file(path, header, data)


def file_of(directory, tensor):
    for path in sorted(Path(directory).glob("*.safetensors")):
        if tensor in fp8_scales.breakage.split_file(path)[0]:
            return path
    raise KeyError(tensor)


class Told(Scales):
    def inspect(self, source):
        return json.loads(self.run_tool("mimo-inspect", source, "--json").stdout)

    def test_inspect(self):
        for what, said in (("rows bf16", "bf16 per row"), ("vector f32", "f32 per row"),
                           ("tensor f32 static", "f32 per tensor"), ("blocks e8m0", "f8_e8m0 per block"),
                           ("u8 codes in blocks", "f32 per block, codes stored as u8")):
            with self.subTest(what):
                source = self.source(what, FORMS[what])
                text = self.run_tool("mimo-inspect", source, "--verbose").stdout
                self.assertIn(said, text)
                roles = {r["role"]: r for r in self.roles(source)}
                self.assertEqual(roles["attn.qkv"]["storage"], "fp8")
                self.assertEqual(roles["attn.qkv"]["scales"], said)

    def roles(self, source):
        found = []

        def walk(node):
            if isinstance(node, dict):
                if "role" in node and "storage" in node:
                    found.append(node)
                for value in node.values():
                    walk(value)
            elif isinstance(node, list):
                for value in node:
                    walk(value)
        walk(self.inspect(source))
        return found

    def test_releases_say_nothing_new(self):
        source, _ = checkpoints.ours("v2.5", **SMALL)
        self.assertFalse([r for r in self.roles(source) if "scales" in r])


if __name__ == "__main__":
    unittest.main()
