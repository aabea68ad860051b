"""Proves that `mimo-verify mtp` tells whole MTP layers from others: every released variant, every form of ours, and
checkpoints that were broken here tensor by tensor; that each fault has its own id and its place; and that the command
it names, run on the very input, gives the checkpoint back.

What is expected is the fault that was made, and after a repair the checkpoint as it was before, array by array.
"""
import json
import os
import re
import shlex
import shutil
import unittest

import numpy as np

from harness import breakage, checkpoints, compare, tools
from harness.case import ToolCase
from reference import codecs, container
from reference.make import VARIANTS
from reference.model import STORES

try:
    import jsonschema
except ImportError:
    jsonschema = None

SMALL = dict(checkpoints.TINY, mtp=3)
LAYERS = len(SMALL["pattern"])
INDEX = "model.safetensors.index.json"
RELEASED = re.compile(r"model\.mtp\.layers\.(\d+)\.(.*)")
MEGATRON = {"self_attn.qkv_proj.weight": "self_attention.linear_qkv.weight",
            "self_attn.o_proj.weight": "self_attention.linear_proj.weight",
            "self_attn.attention_sink_bias": "self_attention.core_attention.softmax_offset",
            "input_layernorm.weight": "self_attention.linear_qkv.layer_norm_weight",
            "pre_mlp_layernorm.weight": "mlp.linear_fc1.layer_norm_weight",
            "mlp.down_proj.weight": "mlp.linear_fc2.weight"}


def rewrite(directory, change, index=True):
    """change(name, dtype, array) -> {name: (dtype, array)} for every tensor, in its file and, if told, in the index."""
    where = compare.load_json(directory, INDEX)["weight_map"]
    for file in container.tensor_files(directory):
        path = os.path.join(directory, file)
        metadata = container.read_header(path)[1]
        old = {n: (d, np.array(a)) for n, (d, a) in container.read(path).items()}
        new = {}
        for name, (dtype, array) in old.items():
            new.update(change(name, dtype, array))
        if sorted(new) == sorted(old) and all(new[n][1] is old[n][1] for n in new):
            continue
        os.remove(path)
        if new:
            container.write(path, new, metadata)
        where = {n: f for n, f in where.items() if f != file}
        where.update({n: file for n in new})
    if index:
        breakage.edit_json(directory, INDEX, lambda document: document.update(weight_map=where))


def dropping(pattern):
    return lambda n, d, a: {} if re.search(pattern, n) else {n: (d, a)}


def renaming(rename):
    """rename(layer, rest) -> the new name of a tensor of an MTP layer."""
    def change(n, d, a):
        match = RELEASED.fullmatch(n)
        return {rename(int(match.group(1)), match.group(2)) if match else n: (d, a)}
    return change


def after_decoder(layer, rest):
    return f"model.layers.{LAYERS + layer}.{rest}"


class MtpCase(ToolCase):
    tool = "mimo-verify"

    def source(self, variant="v2.5", name="source", **options):
        directory = self.at(name)
        shutil.copytree(checkpoints.ours(variant, **dict(SMALL, **options))[0], directory)
        return directory

    def report(self, directory, code, *options):
        document = json.loads(self.run_tool("mimo-verify", "mtp", directory, "--json", *options, code=code).stdout)
        if jsonschema is not None:
            rules = compare.load_json(tools.SOURCE, "schemas", "mtp.schema.json")
            jsonschema.Draft202012Validator.check_schema(rules)
            self.assertEqual(list(jsonschema.Draft202012Validator(rules).iter_errors(document)), [])
        self.assertEqual(document["complete"], code == 0)
        return document

    def errors(self, document):
        return sorted(f["id"] for f in document["findings"] if f["severity"] == "error")

    def engine(self, document, name):
        return next(e["outcome"] for e in document["engines"] if e["id"] == name)

    def repair(self, directory, reference, name="repaired"):
        """Runs the first command that is named for `directory`. -> its output, which is whole."""
        document = self.report(directory, 1, "--like", reference)
        out = self.at(name)
        places = {"OUT": out, "HF": self.at(name + "-first")}
        words = shlex.split(document["repairs"][0]["command"])
        while words:
            end = words.index("&&") if "&&" in words else len(words)
            self.run_tool(words[0], *[places.get(word, word) for word in words[1:end]], "--no-progress")
            words = words[end + 1:]
        self.assertEqual(self.errors(self.report(out, 0)), [])
        self.run_tool("mimo-verify", "check", out)
        return out


class Whole(MtpCase):
    def test_every_variant_and_store(self):
        made = [(v, {}) for v in VARIANTS] + [("v2.5", dict(store=s)) for s in STORES if s != "fp8"]
        for variant, options in made:
            with self.subTest(variant=variant, **options):
                document = self.report(checkpoints.ours(variant, **dict(SMALL, **options))[0], 0)
                self.assertEqual([(n["number"], n["convention"], n["whole"], n["listed"]) for n in document["layers"]],
                                 [(i, "released", True, "all") for i in range(3)])
                split = variant == "v2-flash"
                self.assertEqual({n["qkv"] for n in document["layers"]}, {"split" if split else "fused"})
                plain = options.get("store") not in (None, "ue8m0")
                self.assertEqual({n["attention"] for n in document["layers"]}, {"unquantized" if plain else "fp8"})
                self.assertEqual({n["tensors"] for n in document["layers"]},
                                 {(14 if split else 12) + (0 if plain else 6 if split else 4)})
                self.assertEqual(document["announced"], 3 if variant == "v2.6" else None)
                self.assertEqual((document["whole"], document["wanted"], document["repairs"]), (3, 3, []))

    @unittest.skipUnless(checkpoints.external_generator(), "no external generator")
    def test_every_variant_of_the_external_generator(self):
        for variant in ("v2-flash", "v2.5", "v2.5-pro", "v2.6", "plain"):
            with self.subTest(variant):
                directory, _ = checkpoints.external(variant)
                stored = {int(m.group(1)) for n in compare.load_json(directory, INDEX)["weight_map"]
                          if (m := RELEASED.fullmatch(n))}
                copy = self.at(variant)
                shutil.copytree(directory, copy)
                breakage.edit_json(copy, "config.json", lambda c: c.update(num_nextn_predict_layers=len(stored)))
                document = self.report(copy, 0)
                self.assertEqual([n["number"] for n in document["layers"] if n["whole"]], sorted(stored))

    def test_none_where_none_is_announced(self):
        for variant in ("v2.5", "v2-flash"):
            source = self.source(variant, name=variant, mtp=0)
            breakage.edit_json(source, "config.json", lambda c: c.update(num_nextn_predict_layers=0))
            document = self.report(source, 0)
            self.assertEqual((document["layers"], document["repairs"]), ([], []))
            self.assertEqual(self.engine(document, "vllm-0.33.0"), "none")

    def test_none_where_the_config_is_silent(self):
        document = self.report(self.source(mtp=0), 1)
        self.assertEqual(self.errors(document), ["mtp.absent"])

    def test_text_only(self):
        source = checkpoints.ours("v2.5", **dict(SMALL, towers=True))[0]
        self.report(source, 0)
        self.report(self.convert(source, "text", "--text-only"), 0)

    def test_what_was_made_of_it(self):
        source = checkpoints.ours("v2.5", **SMALL)[0]
        for options in (("--dtype", "bf16"), ("--to", "vllm", "--tp", "1"), ("--qkv", "split"),
                        ("--qkv", "fused:8"), ("--to", "vllm", "--tp", "3", "--pad"), ("--max-shard-size", "1MB", "--copy")):
            with self.subTest(options):
                self.report(self.convert(source, "-".join(options).replace("--", ""), *options), 0)

    def test_tensors_under_a_prefix(self):
        source = self.source()
        rewrite(source, lambda n, d, a: {"language_model." + n: (d, a)})
        document = self.report(source, 0)
        self.assertEqual({n["listed"] for n in document["layers"]}, {"all"})


class Forms(MtpCase):
    def forms(self, mtp):
        source = checkpoints.ours("v2.5", **dict(SMALL, mtp=mtp))[0]
        yield "sharded-state", self.convert(source, f"ranks{mtp}", "--to", "vllm", "--format", "sharded-state", "--tp", 1)
        yield "torch_dist", self.convert(source, f"megatron{mtp}", "--to", "megatron")

    def test_rank_files_and_megatron(self):
        for form, directory in self.forms(3):
            with self.subTest(form):
                document = self.report(directory, 0)
                self.assertEqual(document["form"], form)
                self.assertEqual([(n["whole"], n["listed"]) for n in document["layers"]], [(True, "no-index")] * 3)
                self.assertEqual(document["engines"], [])
        for form, directory in self.forms(2):
            with self.subTest(form, layers=2):
                self.assertEqual(self.errors(self.report(directory, 1)), ["mtp.absent"])

    def test_megatron_without_a_config(self):
        source = checkpoints.ours("v2.5", **SMALL)[0]
        saved = self.convert(source, "saved", "--to", "megatron")
        os.remove(os.path.join(saved, "config.json"))
        self.run_tool("mimo-verify", "mtp", saved, code=3)
        self.report(saved, 0, "--like", source)

    def test_megatron_is_repaired(self):
        for source in (checkpoints.ours(v, **SMALL)[0] for v in ("v2-flash", "v2.5")):
            two = self.at("two")
            shutil.copytree(source, two)
            rewrite(two, dropping(r"mtp\.layers\.2"))
            saved = self.convert(two, "saved", "--to", "megatron")
            self.repair(saved, source, "back")
            for made in (two, saved, self.at("back")):
                shutil.rmtree(made)

    def test_rank_files_are_repaired(self):
        wide = dict(SMALL, heads=16, intermediate=512, moe_intermediate=512, vocab=256)
        reference = checkpoints.ours("v2.5", **wide)[0]
        source = self.source(**dict(wide, mtp=2))
        for tp in (2, 4):
            ranks = self.convert(source, f"ranks{tp}", "--to", "vllm", "--format", "sharded-state", "--tp", tp)
            out = self.repair(ranks, reference, f"back{tp}")
            if tp == 4:                                  # a rank for each chunk: nothing was re-quantized
                self.assert_same_tensors(reference, out)

    def test_another_layout_is_changed_first(self):
        reference = checkpoints.ours("v2.5", **SMALL)[0]
        out = self.convert(self.source(mtp=2), "eight", "--qkv", "fused:8")
        document = self.report(out, 1, "--like", reference)
        self.assertIn("--qkv fused:4 &&", document["repairs"][0]["command"])
        self.repair(out, reference)

    def test_neuron_has_no_place_for_them(self):
        document = self.report(self.convert(checkpoints.ours("v2.5", **SMALL)[0], "nxdi", "--to", "nxdi"), 1)
        self.assertEqual(document["form"], "nxdi")
        self.assertEqual(self.errors(document), ["mtp.absent"])
        self.assertIn("mtp.form", [f["id"] for f in document["findings"]])
        self.assertEqual(document["repairs"], [])


class Faults(MtpCase):
    """Each is made, named, and repaired by the command that is named."""

    def check(self, source, reference, errors, place=None, same=True):
        document = self.report(source, 1)
        self.assertEqual(self.errors(document), errors)
        if place is not None:
            places = [f["place"] + f["evidence"] for f in document["findings"] if f["severity"] == "error"]
            self.assertTrue(any(place in p for p in places), places)
        out = self.repair(source, reference)
        if same:
            self.assert_same_tensors(reference, out)
        for made in (source, out):
            shutil.rmtree(made)
        return document

    def test_a_layer_is_gone(self):
        for variant in ("v2.5", "v2-flash", "v2.5-pro", "v2.6"):
            reference = checkpoints.ours(variant, **SMALL)[0]
            for layers in ("0", "1", "2", "[012]"):
                with self.subTest(variant=variant, layers=layers):
                    source = self.source(variant)
                    rewrite(source, dropping(rf"mtp\.layers\.{layers}\."))
                    document = self.check(source, reference, ["mtp.absent"])
                    self.assertEqual(document["whole"], 0 if len(layers) > 1 else 2)
                    self.assertEqual(self.engine(document, "sglang-0.5.23"),
                                     "none" if len(layers) > 1 else "all" if layers == "2" else "unfit")
                    self.assertEqual(self.engine(document, "vllm-0.33.0"),
                                     "none" if len(layers) > 1 else "unfit" if layers == "0" else "first")

    def test_a_tensor_is_gone(self):
        reference = checkpoints.ours("v2.5", **SMALL)[0]
        for rest, error in (("enorm.weight", "mtp.incomplete"), ("eh_proj.weight", "mtp.incomplete"),
                            ("self_attn.attention_sink_bias", "mtp.incomplete"),
                            ("final_layernorm.weight", "mtp.incomplete"),
                            ("self_attn.qkv_proj.weight_scale_inv", "mtp.weight"),
                            ("mlp.up_proj.weight", "mtp.weight")):
            with self.subTest(rest):
                source = self.source()
                rewrite(source, dropping(r"mtp\.layers\.1\." + re.escape(rest) + "$"))
                document = self.check(source, reference, [error], "model.mtp.layers.1." + rest.split("_scale")[0])
                self.assertEqual([n["whole"] for n in document["layers"]], [True, False, True])

    def test_the_announced_number_is_wrong(self):
        reference = checkpoints.ours("v2.5", **SMALL)[0]
        for number, error in ((0, "mtp.unannounced"), (1, "mtp.unannounced"), (5, "mtp.absent")):
            with self.subTest(number):
                source = self.source()
                breakage.edit_json(source, "config.json", lambda c: c.update(num_nextn_predict_layers=number))
                document = self.check(source, reference, [error], "num_nextn_predict_layers")
                self.assertEqual((document["announced"], document["wanted"]), (number, number))

    def test_the_index_does_not_name_them(self):
        reference = checkpoints.ours("v2.5", **SMALL)[0]
        source = self.source()
        self.forget_mtp(source)
        document = self.check(source, reference, ["mtp.unindexed"] * 3, "model_mtp.safetensors")
        self.assertEqual({n["listed"] for n in document["layers"]}, {"none"})
        self.assertEqual(self.engine(document, "vllm-0.33.0"), "drops")
        self.assertIn("--copy", document["repairs"][0]["command"])

    def test_the_index_names_one_of_them(self):
        source = self.source()
        breakage.edit_json(source, INDEX, lambda i: i.update(
            weight_map={n: f for n, f in i["weight_map"].items() if "mtp" not in n or "mtp.layers.0" in n}))
        document = self.check(source, checkpoints.ours("v2.5", **SMALL)[0], ["mtp.unindexed"] * 2)
        self.assertEqual([n["listed"] for n in document["layers"]], ["all", "none", "none"])

    def test_the_index_names_what_is_not_there(self):
        reference = checkpoints.ours("v2.5", **SMALL)[0]
        source = self.source()
        os.remove(os.path.join(source, "model_mtp.safetensors"))
        self.check(source, reference, ["mtp.absent", "mtp.listed_absent"], "model_mtp.safetensors")
        source = self.source()
        rewrite(source, dropping(r"mtp\.layers\.2"), index=False)
        self.check(source, reference, ["mtp.absent", "mtp.listed_absent"])

    def test_names_of_other_projects(self):
        reference = checkpoints.ours("v2.5", **SMALL)[0]
        for convention, rename in (("decoder", after_decoder),
                                   ("mtp-layers", lambda layer, rest: f"model.mtp_layers.{layer}.{rest}")):
            for index in (True, False):
                with self.subTest(convention, index=index):
                    source = self.source()
                    rewrite(source, renaming(rename), index=index)
                    self.forget_mtp(source, not index)
                    document = self.check(source, reference, sorted(["mtp.names"] * 3 +
                                                                    ["mtp.unindexed"] * (0 if index else 3)))
                    self.assertEqual([(n["convention"], n["whole"]) for n in document["layers"]], [(convention, True)] * 3)
                    self.assertEqual(document["whole"], 0)
                    self.assertEqual(self.engine(document, "vllm-0.33.0"), "drops")

    def forget_mtp(self, source, wanted=True):
        if wanted:
            breakage.edit_json(source, INDEX, lambda i: i.update(
                weight_map={n: f for n, f in i["weight_map"].items() if "mtp" not in n}))

    def test_names_of_megatron(self):
        """With gate and up as one tensor, in safetensors of their own that the index does not name."""
        reference = checkpoints.ours("v2.5", **dict(SMALL, store="bf16"))[0]
        for inner in ("mtp_model_layer", "transformer_layer"):
            source = self.source(store="bf16")
            stored = container.read_directory(source)

            def change(n, d, a):
                match = RELEASED.fullmatch(n)
                if match is None:
                    return {n: (d, a)}
                rest = match.group(2)
                if rest == "mlp.up_proj.weight":
                    return {}
                if rest == "mlp.gate_proj.weight":
                    rest, a = "mlp.linear_fc1.weight", np.concatenate([a, stored[n.replace("gate", "up")][1]])
                return {f"mtp.layers.{match.group(1)}.{inner}.{MEGATRON.get(rest, rest)}": (d, a)}
            rewrite(source, change, index=False)
            self.forget_mtp(source)
            document = self.check(source, reference, ["mtp.names"] * 3 + ["mtp.unindexed"] * 3, "mtp.layers.0")
            self.assertEqual([(n["convention"], n["whole"]) for n in document["layers"]], [("megatron", True)] * 3)
            self.assertIn("--unknown drop", document["repairs"][0]["command"])

    def test_full_attention_in_place_of_windows(self):
        for variant in ("v2.5", "v2-flash"):
            reference = checkpoints.ours(variant, **SMALL)[0]
            wrong = r"mtp\.layers\.0\.self_attn\.(qkv|k|v)_proj\.weight"
            spec = checkpoints.ours(variant, **SMALL)[1].spec
            config = compare.load_json(reference, "config.json")
            rows = {"qkv": spec.heads * 192 + 4 * (192 + 128), "k": 4 * 192, "v": 4 * 128}
            self.assertEqual((config["num_key_value_heads"], config["swa_num_key_value_heads"]), (4, 8))

            def change(n, d, a):
                match = re.search(wrong, n)
                if match is None:
                    return {n: (d, a)}
                wanted = rows[match.group(1)]
                return {n: (d, a[:-(-wanted // 128)] if n.endswith("_inv") else a[:wanted])}
            source = self.source(variant)
            rewrite(source, change)
            self.check(source, reference, ["mtp.geometry"], "model.mtp.layers.0")

    def test_another_shape(self):
        reference = checkpoints.ours("v2.5", **SMALL)[0]
        source = self.source()
        breakage.replace(source, "model.mtp.layers.2.eh_proj.weight", lambda t: (t[0], t[1][:, :256]))
        self.check(source, reference, ["mtp.shape"], "expected [256, 512], found [256, 256]")

    def test_what_every_release_has_unquantized(self):
        reference = checkpoints.ours("v2.5", **SMALL)[0]
        for module in ("self_attn.o_proj", "eh_proj"):
            with self.subTest(module):
                name = f"model.mtp.layers.1.{module}.weight"

                def change(n, d, a):
                    if n != name:
                        return {n: (d, a)}
                    values, scale = codecs.decode_plain(d, a), np.float32(2.0**-12)
                    scales = np.full((-(-a.shape[0] // 128), -(-a.shape[1] // 128)), scale)
                    return {n: ("F8_E4M3", codecs.e4m3_encode(values / scale)), n + "_scale_inv": ("F32", scales)}
                source = self.source()
                rewrite(source, change)
                document = self.report(source, 1)
                self.assertEqual(self.errors(document), ["mtp.quantized"])
                self.assertEqual(document["layers"][1]["quantized"], [name])
                self.assertEqual(self.engine(document, "vllm-0.33.0"), "unfit")
                self.assertEqual(self.engine(document, "sglang-0.5.23"), "unfit" if module == "eh_proj" else "all")
                found = container.read_directory(self.repair(source, reference))
                wanted = container.read_directory(reference)
                self.assertEqual(found[name][0], "BF16")
                self.assert_same_tensors({n: v for n, v in wanted.items() if n != name},
                                         {n: v for n, v in found.items() if n != name})
                shutil.rmtree(source)
                shutil.rmtree(self.at("repaired"))

    def test_a_file_that_cannot_be_read(self):
        source = self.source()
        breakage.truncate(os.path.join(source, "model_mtp.safetensors"), -7)
        document = self.report(source, 1)
        self.assertEqual(self.errors(document), ["mtp.absent", "mtp.listed_absent", "mtp.unreadable"])
        os.rename(os.path.join(source, "model_mtp.safetensors"), self.at("aside"))
        reference = checkpoints.ours("v2.5", **SMALL)[0]
        self.assert_same_tensors(reference, self.repair(source, reference))

    def test_the_rest_is_told_from_them(self):
        source = self.source()
        rewrite(source, dropping(r"model\.norm\.weight"))
        document = self.report(source, 0)
        self.assertIn("mtp.rest", [f["id"] for f in document["findings"]])

    def test_a_file_below_the_directory(self):
        source = self.source()
        os.makedirs(os.path.join(source, "mtp"))
        os.rename(os.path.join(source, "model_mtp.safetensors"), os.path.join(source, "mtp", "weights.safetensors"))
        document = self.report(source, 1)
        self.assertIn(("mtp.nested", "mtp/weights.safetensors"),
                      [(f["id"], f["place"]) for f in document["findings"]])


class Words(MtpCase):
    def test_text(self):
        source = self.source()
        text = self.run_tool("mimo-verify", "mtp", source).stdout
        self.assertIn("complete: 3 of 3 MTP layers whole; config.json is silent, releases have 3", text.splitlines()[0])
        rewrite(source, dropping(r"mtp\.layers\.2"))
        lines = self.run_tool("mimo-verify", "mtp", source, code=1).stdout.splitlines()
        self.assertIn("not complete: 2 of 3", lines[0])
        kinds = [line.split()[0] for line in lines[1:] if not line.startswith(" ")]
        self.assertEqual(sorted(set(kinds), key=kinds.index), ["layer", "engine", "error", "repair"])
        self.assertEqual(self.run_tool("mimo-verify", "mtp", source, "--quiet", code=1).stdout, "")

    def test_other_exit_codes(self):
        self.run_tool("mimo-verify", "mtp", code=2)
        self.run_tool("mimo-verify", "mtp", self.at("nothing"), code=3)
        source = self.source()
        os.remove(os.path.join(source, "config.json"))
        self.run_tool("mimo-verify", "mtp", source, code=3)

    def test_a_path_that_a_shell_would_take_apart(self):
        source = self.source(name="it's a $model")
        rewrite(source, dropping(r"mtp\.layers\.2"))
        self.repair(source, checkpoints.ours("v2.5", **SMALL)[0])


if __name__ == "__main__":
    unittest.main()
