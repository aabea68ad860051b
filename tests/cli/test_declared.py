"""Proves that what config.json declares is held against what is stored, in every module of every layer, and that what
is written says what it stores: on checkpoints in which somebody merged, decoded or relabelled a part. Right answers
are computed from the generator's values; config.json of outputs is judged by rules written here.

Also what is asked of a command line: fused attention that becomes values is split, a copy must be asked for, and a
flag that was typed must change something.
"""
import json
import os
import shutil
import unittest

import numpy as np

from harness import checkpoints, compare
from harness.case import ToolCase
from reference import codecs, container, decode

SPEC = dict(hidden=256, experts=2, heads=8, intermediate=512, moe_intermediate=256, vocab=64, pattern=(0, 1, 1), mtp=1,
            towers=False)
ATTENTION = "model.layers.2.self_attn.qkv_proj"
EXPERT = "model.layers.1.mlp.experts.1.down_proj"
DENSE = "model.layers.0.mlp.down_proj"


def fp8_modules(tensors):
    return sorted(n[:-len(".weight_scale_inv")] for n in tensors if n.endswith(".weight_scale_inv"))


class Edited(ToolCase):
    """A copy of a small V2.5 whose files are rewritten by an edit."""

    def setUp(self):
        super().setUp()
        self.source, self.model = checkpoints.ours("v2.5", **SPEC)
        self.values = decode.checkpoint(self.source)
        self.stored = container.read_directory(self.source)

    def edited(self, edit=None, config=None):
        """edit({name: (dtype, array)}) of each file; config(document)."""
        out = self.at("edited")
        shutil.copytree(self.source, out)
        for file in container.tensor_files(out):
            path = os.path.join(out, file)
            tensors = {n: (d, np.array(a)) for n, (d, a) in container.read(path).items()}  # the file is rewritten
            if edit:
                edit(tensors)
            container.write(path, tensors, {"format": "pt"})
        index = compare.load_json(out, "model.safetensors.index.json")
        index["weight_map"] = {n: f for f in container.tensor_files(out) for n in container.read(os.path.join(out, f))}
        index["metadata"]["total_size"] = sum(a.nbytes for d, a in container.read_directory(out).values())
        self.write(out, "model.safetensors.index.json", index)
        if config:
            document = compare.load_json(out, "config.json")
            config(document)
            self.write(out, "config.json", document)
        return out

    @staticmethod
    def write(directory, name, document):
        with open(os.path.join(directory, name), "w") as f:
            json.dump(document, f, indent=1)

    def decode(self, *modules):
        """An edit that stores these modules as BF16, without scales."""
        def edit(tensors):
            for module in modules:
                weight = module + ".weight"
                if weight not in tensors:
                    continue
                if module.endswith("qkv_proj"):
                    tensors[weight] = ("BF16", self.fused(tensors, weight))
                else:
                    tensors[weight] = ("BF16", codecs.bf16_from_f32(self.values[weight].values))
            for module in modules:
                tensors.pop(module + ".weight_scale_inv", None)
        return edit

    def fused(self, tensors, weight):
        """BF16 of a fused array in its stored rows: code times the scale of its block, whose rows begin anew per chunk."""
        code, scale = tensors[weight][1], self.stored[weight + "_scale_inv"][1]
        chunks, rows = 4, code.shape[0] // 4
        per = -(-rows // 128)
        spread = [scale[c * per:(c + 1) * per].repeat(128, 0)[:rows] for c in range(chunks)]
        spread = np.concatenate(spread).repeat(128, 1)[:, :code.shape[1]]
        return codecs.bf16_from_f32(codecs.E4M3[code] * spread)

    def findings(self, checkpoint, code=(0, 3), *options):
        run = self.run_tool("mimo-inspect", checkpoint, "--json", *options, code=code)
        return {f["id"]: f for f in json.loads(run.stdout)["findings"]}

    def assert_config_is_true(self, out):
        """Every quantized module of the layers is in no ignore list, every other one is in both."""
        tensors = container.read_directory(out)
        config = compare.load_json(out, "config.json")
        quantized = fp8_modules(tensors)
        if not quantized:
            self.assertNotIn("quantization_config", config)
            return
        for key in ("ignored_layers", "modules_to_not_convert"):
            ignored = set(config["quantization_config"][key])
            for module in quantized:
                self.assertNotIn(module, ignored, key)
            for name in tensors:
                kind = name.split(".")[-2]
                if kind not in ("q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj", "gate_proj", "up_proj", "down_proj"):
                    continue
                if name.endswith(".weight") and name[:-7] not in quantized:
                    self.assertIn(name[:-7], ignored, key)


class Sources(Edited):
    def test_a_release_has_no_warning(self):
        for variant in ("v2-flash", "v2.5", "v2.6", "v2.5-pro"):
            with self.subTest(variant):
                source, _ = checkpoints.ours(variant, **dict(SPEC, pattern=(0, 1), mtp=3, heads=16))
                found = self.findings(source, code=0)
                loud = {i: f for i, f in found.items() if f["severity"] != "note"}
                loud.pop("declared.unlisted_module", None) if variant == "v2-flash" else None
                self.assertEqual({k: v for k, v in loud.items() if not k.startswith("files.")}, {})

    def check_warned(self, identity, edit=None, config=None):
        source = self.edited(edit, config)
        found = self.findings(source, code=0)
        self.assertIn(identity, found)
        self.assertEqual(found[identity]["severity"], "warning")
        self.run_tool("mimo-inspect", source, "--strict", code=1)
        self.run_tool("mimo-verify", "check", source, code=1)
        return source

    def test_one_expert_decoded(self):
        source = self.check_warned("declared.unlisted_module", self.decode(EXPERT, DENSE))
        out = self.convert(source, "bf16", "--dtype", "bf16")
        self.assert_same_tensors(decode.stored_as(self.values, "bf16"), out)
        self.assert_config_is_true(out)

    def test_one_layers_attention_decoded(self):
        source = self.check_warned("declared.unlisted_module", self.decode(ATTENTION))
        out = self.convert(source, "bf16", "--dtype", "bf16")
        self.assert_same_tensors(decode.stored_as(self.values, "bf16"), out)
        engines = json.loads(self.run_tool("mimo-inspect", source, "--json").stdout)["engines"]
        by_id = {e["id"]: {o["tp"]: o["outcome"] for o in e["outcomes"]} for e in engines}
        self.assertNotEqual(by_id["vllm-57508"][4], "loads")

    def test_everything_decoded(self):
        modules = fp8_modules(container.read_directory(self.source))
        self.check_warned("declared.nothing_quantized", self.decode(*modules))

    def test_codes_without_a_config(self):
        self.check_warned("declared.no_config", config=lambda d: d.pop("quantization_config"))

    def test_codes_that_are_ignored(self):
        self.check_warned("declared.ignored_codes",
                          config=lambda d: d["quantization_config"]["ignored_layers"].append("model.layers.0.mlp"))

    def test_another_type_than_is_declared(self):
        source = self.edited(config=lambda d: d.update(torch_dtype="float16"))
        self.assertIn("declared.dtype", self.findings(source))

    def test_mtp_layers_that_are_not_there(self):
        source = self.edited(config=lambda d: d.update(num_nextn_predict_layers=3))
        self.assertIn("declared.mtp_count", self.findings(source))


class Outputs(Edited):
    OPTIONS = (("--copy",), ("--qkv", "split"), ("--qkv", "fused:2"), ("--to", "vllm", "--tp", "2"),
               ("--to", "sglang", "--tp", "2"))

    def test_kept_storage_is_described_as_it_is(self):
        modules = fp8_modules(container.read_directory(self.source))
        for name, edit in (("expert", self.decode(EXPERT, DENSE)), ("attention", self.decode(ATTENTION)),
                           ("all", self.decode(*modules))):
            shutil.rmtree(self.at("edited"), ignore_errors=True)
            source = self.edited(edit)
            for i, options in enumerate(self.OPTIONS):
                with self.subTest(name, options=options):
                    out = self.convert(source, f"{name}-{i}", *options)
                    self.assert_config_is_true(out)
                    if i < 2:  # others re-quantize blocks that straddle
                        self.assert_same_tensors(decode.stored_as(self.values, "bf16"),
                                                 self.convert(out, f"{name}-{i}-bf16", "--dtype", "bf16"))
                    self.run_tool("mimo-verify", "check", out)

    def test_ranks_list_the_layer_that_is_not_quantized(self):
        source = self.edited(self.decode(ATTENTION))
        out = self.convert(source, "ranks", "--to", "vllm", "--format", "sharded-state", "--tp", "2")
        ignored = compare.load_json(out, "config.json")["quantization_config"]["ignored_layers"]
        self.assertTrue({ATTENTION.replace("qkv", x) for x in ("q", "k", "v", "qkv")} <= set(ignored))

    def test_engines_get_a_mixed_attention_split(self):
        source = self.edited(self.decode(ATTENTION))
        out = self.convert(source, "vllm", "--to", "vllm", "--tp", "2")
        names = container.read_directory(out)
        self.assertFalse([n for n in names if "qkv_proj" in n])
        self.run_tool("mimo-convert", source, self.at("no"), "--to", "vllm", "--tp", "2", "--attention", "fused", code=2)


class Asked(Edited):
    def test_values_are_split_unless_kept(self):
        for dtype in ("bf16", "fp32"):
            with self.subTest(dtype):
                out = self.convert(self.source, dtype, "--dtype", dtype)
                self.assert_same_tensors(decode.stored_as(self.values, dtype), out)
        fused = self.convert(self.source, "kept", "--dtype", "bf16", "--qkv", "keep")
        self.assertTrue([n for n in container.read_directory(fused) if "qkv_proj" in n])
        recipe = self.convert(self.source, "recipe", "--dtype", "fp8")
        self.assertTrue([n for n in container.read_directory(recipe) if "qkv_proj" in n])

    def test_a_copy_is_to_be_asked_for(self):
        refused = self.run_tool("mimo-convert", self.source, self.at("none"), code=2)
        self.assertIn("[usage.nothing_asked]", refused.stderr)
        self.assertIn("--copy", refused.stderr)
        self.assertFalse(os.path.exists(self.at("none")))
        for i, options in enumerate((("--copy",), ("--link", "none"), ("--link", "hard"), ("--to", "hf"),
                                     ("--max-shard-size", "1MB"), ("--text-only",), ("--qkv", "keep"))):
            with self.subTest(options=options):
                result = self.run_tool("mimo-convert", self.source, self.at(f"copy{i}"), *options)
                out = self.at(f"copy{i}")
                self.assertEqual("what --to asks for already" in result.stderr, "--to" in options)
                self.assert_same_tensors(self.source, out)

    def test_a_flag_that_changes_nothing_is_refused_when_it_was_typed(self):
        for flags in (("--dtype", "nvfp4", "--mx-scale", "floor"), ("--dtype", "mxfp4", "--nvfp4-scale", "sweep"),
                      ("--dtype", "bf16", "--dialect", "modelopt"), ("--dtype", "nvfp4", "--fp8-scale", "ue8m0"),
                      ("--dtype", "mxfp8", "--mx-ties", "toward-zero"), ("--qkv", "split", "--via-bf16")):
            with self.subTest(flags=flags):
                refused = self.run_tool("mimo-convert", self.source, self.at("x"), *flags, code=2)
                self.assertEqual("a flag that adjusts a recipe, without one: " in refused.stderr,
                                 flags[0] == "--qkv" or flags[1] == "bf16")
                self.assertFalse(os.path.exists(self.at("x")))
        env = dict(os.environ, MIMO_CONVERT_MX_SCALE="floor", MIMO_CONVERT_FORCE="1")
        self.run_tool("mimo-convert", self.source, self.at("y"), "--qkv", "split", env=env)
        plain = self.convert(self.source, "plain", "--dtype", "nvfp4")
        self.assert_same_trees(plain, self.convert(self.source, "with-variable", "--dtype", "nvfp4", env=env))
        self.run_tool("mimo-convert", self.source, self.at("z"), "--to", "vllm", "--tp", "2", "--pad")

    def test_a_flag_that_the_recipe_has_a_use_for_and_the_source_none(self):
        """Each flag once, alone: what it adjusts is stored already, and is moved."""
        fp4, bf16 = (checkpoints.ours(*spec[:1], **dict(checkpoints.TINY, **spec[1]))[0]
                     for spec in (("v2.6", {}), ("v2.5", {"store": "bf16"})))
        nvfp4 = self.convert(self.source, "nvfp4", "--dtype", "nvfp4")
        with_inputs = self.convert(self.source, "with-inputs", "--dtype", "nvfp4", "--w4a4")
        experts = ["expert.gate", "expert.up", "expert.down"]
        for name, to, more in (("fp8", "fp8", {}), ("inputs", "nvfp4", {"w4a4": True})):
            self.write(self.tmp, name + ".json", dict(name=name, rules=[{"roles": experts, "to": to}], **more))
        self.write(self.tmp, "none.json", {})
        fp8, inputs = self.at("fp8.json"), self.at("inputs.json")
        for source, recipe, flag, value in ((nvfp4, "nvfp4-experts", "--nvfp4-scale", "mse"),
                                            (fp4, "mxfp4-experts", "--mx-scale", "floor"),
                                            (fp4, "mxfp4-experts", "--mx-ties", "zero"),
                                            (self.source, fp8, "--fp8-scale", "f32"),
                                            (self.source, fp8, "--fp8-block", "128x128"),
                                            (nvfp4, "nvfp4-experts", "--via-bf16", None),
                                            (with_inputs, "nvfp4-experts", "--w4a4", None),
                                            (with_inputs, inputs, "--input-scale", "0.5"),
                                            (with_inputs, inputs, "--input-scales", self.at("none.json")),
                                            (bf16, None, "--dialect", "modelopt")):
            with self.subTest(flag):
                options = ("--recipe", recipe) * (recipe is not None)
                refused = self.run_tool("mimo-convert", source, self.at("x"), *options, flag,
                                        *(() if value is None else (value,)), code=2)
                self.assertIn(f"{flag} changes nothing of this conversion", refused.stderr)
                self.assertIn("[usage.idle_flag]", refused.stderr)
                self.assertFalse(os.path.exists(self.at("x")))
                if recipe:  # the flag is all that is wrong
                    self.run_tool("mimo-convert", source, self.at("x"), "--dry-run", *options)

    def test_a_dialect_alone_renames_what_is_kept(self):
        out = self.convert(self.source, "modelopt", "--dialect", "modelopt")
        config = compare.load_json(out, "config.json")["quantization_config"]
        self.assertEqual(config["quant_method"], "modelopt")
        self.assertEqual(config["quant_algo"], "FP8_PB_WO")
        self.assert_same_tensors(decode.stored_as(self.values, "bf16"),
                                 self.convert(out, "back", "--dtype", "bf16"))

    def test_a_dialect_follows_from_the_arrays_where_the_config_is_silent(self):
        for dialect, method in (("modelopt", "modelopt"), ("compressed-tensors", "compressed-tensors")):
            with self.subTest(dialect):
                made = self.convert(self.source, dialect, "--dtype", "nvfp4", "--dialect", dialect)
                config = compare.load_json(made, "config.json")
                del config["quantization_config"]
                self.write(made, "config.json", config)
                if os.path.exists(os.path.join(made, "hf_quant_config.json")):
                    os.remove(os.path.join(made, "hf_quant_config.json"))
                os.remove(os.path.join(made, "mimo-manifest.json"))
                again = self.convert(made, dialect + "-kept", "--copy")
                config = compare.load_json(again, "config.json")
                self.assertEqual(config["quantization_config"]["quant_method"], method)


if __name__ == "__main__":
    unittest.main()
