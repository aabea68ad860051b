"""MiniMax-M2 as a Hugging Face checkpoint: read, judged, decoded, quantized again, compared; and what its description
must keep from happening: arrays without a name, keys that the family has not, tensors that do not exist.

Ground truth: tests/reference/minimax.py and the external generator's where there is one; encoders of
tests/reference/quantize.py; published counts and bytes.
"""
import json
import os
import subprocess
import sys
import unittest

import numpy as np

from harness import checkpoints, compare
from harness.case import ToolCase
from reference import codecs, container, minimax, quantize

SIZES = (dict(), dict(heads=48, kv_heads=8, hidden=256, intermediate=384, experts=3, layers=1),
         dict(heads=8, kv_heads=1, hidden=384, intermediate=128, experts=5, vocab=200, layers=3))
ATTENTION = tuple(f"{letter}_proj" for letter in "qkvo")


def edited_config(directory):
    return compare.load_json(directory, "config.json")


class Own(ToolCase):
    def make(self, seed=0, **size):
        directory = self.at(f"source-{seed}")
        return directory, minimax.make_checkpoint(directory, seed, **size)

    def test_is_known_by_its_config(self):
        for seed, size in enumerate(SIZES):
            source, tensors = self.make(seed, **size)
            found = json.loads(self.run_tool("mimo-inspect", source, "--json").stdout)
            self.assertTrue(found["family"].startswith(("MiniMax", "minimax")), found["family"])
            self.assertEqual((found["qkv_layout"], found["tensor_count"]), ("split", len(tensors)))
            self.assertEqual([f["id"] for f in found["findings"] if f["severity"] != "note"], [])
            self.assertIn("declared.mtp_never", [f["id"] for f in found["findings"]])

    def test_decodes_to_the_bytes_of_numpy(self):
        for seed, size in enumerate(SIZES):
            source, tensors = self.make(seed, **size)
            for dtype, word in (("BF16", "bf16"), ("F16", "fp16"), ("F32", "fp32")):
                out = self.convert(source, f"{word}-{seed}", "--dtype", word)
                expected = minimax.decoded(tensors, dtype)
                for name, (kind, array) in list(expected.items()):  # plain weights follow, F32 ones of the router stay
                    pinned = name.endswith((".gate.weight", "_bias"))
                    if kind == "BF16" and dtype != "BF16" and not pinned:
                        expected[name] = (dtype, codecs.encode_as(dtype, codecs.decode_plain(kind, array)))
                self.assert_same_tensors(expected, out, word)
                self.assertNotIn("quantization_config", edited_config(out))
                self.assertEqual(edited_config(out)["num_mtp_modules"], 3)

    def test_a_copy_and_a_split_keep_every_byte(self):
        source, tensors = self.make()
        self.assert_same_tensors(tensors, self.convert(source, "copy", "--copy"))
        self.assert_same_tensors(tensors, self.convert(source, "split", "--qkv", "split"))

    def test_recipes_by_numpy(self):
        source, tensors = self.make(7)
        for recipe, quantized in (("nvfp4-experts", ("experts",)), ("mxfp4-experts", ("experts",))):
            out = self.convert(source, recipe, "--recipe", recipe)
            found = container.read_directory(out)
            for name in (n for n in tensors if n.endswith(".weight") and ".experts." in n):
                module = name[:-len(".weight")]
                values = minimax.values(tensors, name)
                if recipe == "mxfp4-experts":
                    made = quantize.mxfp4(values)
                    np.testing.assert_array_equal(found[name][1], made.codes, name)
                    continue
                partner = {"w1": "w3", "w3": "w1"}.get(module[-2:])
                together = [values] + ([minimax.values(tensors, f"{module[:-2]}{partner}.weight")] if partner else [])
                amax = quantize.amax_of(together)
                made = quantize.nvfp4(values, amax, "max")
                np.testing.assert_array_equal(found[name][1], made.codes, name)
                np.testing.assert_array_equal(found[name + "_scale"][1], made.scales, name)
                self.assertEqual(found[name + "_scale_2"][1].tobytes(),
                                 np.float32(quantize.nvfp4_global(amax, "max")).tobytes(), name)
            # q, k, v and o are block FP8 as before, or values that they stand for
            for name in (n for n in tensors if n.endswith(tuple(f"{a}.weight" for a in ATTENTION))):
                if found[name][0] == "F8_E4M3":
                    np.testing.assert_array_equal(found[name][1], tensors[name][1])
                else:
                    np.testing.assert_array_equal(found[name][1],
                                                  codecs.encode_as(found[name][0], minimax.values(tensors, name)))
            self.run_tool("mimo-verify", "check", out)
            self.run_tool("mimo-verify", "compare", source, out, "--within-codec")

    def test_every_recipe_is_the_same_model(self):
        source, _ = self.make(3)
        for recipe in ("nvfp4", "nvfp4-mlp", "mxfp8", "fp8-all", "bf16-attention", "nvfp4-experts+mxfp8-attention"):
            out = self.convert(source, recipe, "--recipe", recipe)
            self.run_tool("mimo-verify", "compare", source, out, "--within-codec")
            self.run_tool("mimo-verify", "check", out)
            found = json.loads(self.run_tool("mimo-inspect", out, "--json").stdout)
            self.assertEqual([f for f in found["findings"] if f["severity"] == "error"], [], recipe)

    def test_down_projections_kept_finer(self):
        source, tensors = self.make(4)
        with open(self.at("finer.json"), "w") as f:
            json.dump({"name": "finer", "summary": "w2 keeps finer steps", "dialect": "modelopt", "rules": [
                {"roles": ["expert.gate", "expert.up"], "to": "nvfp4"}, {"roles": ["expert.down"], "to": "mxfp8"}]}, f)
        out = self.convert(source, "finer", "--recipe", self.at("finer.json"))
        found = container.read_directory(out)
        for name in (n for n in tensors if ".experts." in n and n.endswith(".weight")):
            self.assertEqual(found[name][0], "F8_E4M3" if ".w2." in name else "U8", name)
        self.run_tool("mimo-verify", "compare", source, out, "--within-codec")

    def test_verification_knows_it(self):
        source, tensors = self.make(5)
        bf16 = self.convert(source, "bf16", "--dtype", "bf16")
        self.run_tool("mimo-verify", "compare", source, bf16)
        self.run_tool("mimo-verify", "layout", source)
        mtp = json.loads(self.run_tool("mimo-verify", "mtp", source, "--json").stdout)
        self.assertEqual((mtp["announced"], mtp["whole"], [f["id"] for f in mtp["findings"]]), (3, 0, ["mtp.never"]))
        self.run_tool("mimo-verify", "roundtrip", source, "--dtype", "bf16")
        hashes = self.run_tool("mimo-verify", "manifest", source).stdout
        with open(self.at("hashes.json"), "w") as f:
            f.write(hashes)
        self.run_tool("mimo-verify", "check", bf16, "--against", self.at("hashes.json"))
        # one head of the norm of queries in another's place
        damaged = self.convert(source, "damaged", "--copy")
        name = "model.layers.1.self_attn.q_norm.weight"
        file = compare.load_json(damaged, "model.safetensors.index.json")["weight_map"][name]
        path = os.path.join(damaged, file)
        inside = container.read(path)
        array = inside[name][1].copy()
        array[:128], array[128:256] = inside[name][1][128:256], inside[name][1][:128]
        inside[name] = ("BF16", array)
        os.remove(path)
        container.write(path, inside, {"format": "pt"})
        result = self.run_tool("mimo-verify", "compare", source, damaged, code=1)
        self.assertIn("q_norm", result.stdout)

    def test_scales_of_the_cache_travel(self):
        directory = self.at("cache")
        tensors = minimax.tensors_of(6)
        for layer in range(2):
            for letter in "kv":
                tensors[f"model.layers.{layer}.self_attn.{letter}_proj.{letter}_scale"] = (
                    "F32", np.array(0.01 + layer + (letter == "v") * 0.5, np.float32))
        config = minimax.config_of()
        config["quantization_config"]["kv_cache_scheme"] = {"num_bits": 8, "type": "float", "dynamic": False}
        minimax.write(directory, tensors, config)
        for options in (("--copy",), ("--dtype", "bf16"), ("--recipe", "nvfp4-experts"), ("--to", "vllm", "--tp", "2")):
            out = self.convert(directory, "out" + options[-1], *options)
            found = container.read_directory(out)
            for name in (n for n in tensors if n.endswith(("k_scale", "v_scale"))):
                self.assertEqual(found[name][1].tobytes(), tensors[name][1].tobytes(), (options, name))

    def test_layouts_that_have_no_name_are_refused(self):
        source, _ = self.make()
        for wish in ("fused", "fused:4", "fused:1"):
            result = self.run_tool("mimo-convert", source, self.at("fused"), "--qkv", wish, code=2)
            self.assertIn("fused", result.stderr)
        self.run_tool("mimo-convert", source, self.at("fused"), "--to", "vllm", "--tp", "2", "--attention", "fused", code=2)
        self.assertFalse(os.path.exists(self.at("fused")))

    def test_padding_edits_no_key_that_the_family_has_not(self):
        source, tensors = self.make(8, heads=16, kv_heads=4, intermediate=384)
        before = edited_config(source)
        out = self.convert(source, "padded", "--to", "vllm", "--tp", "4", "--pad")
        after = edited_config(out)
        self.assertEqual(set(after) - set(before), {"mimo_layout"})
        self.assertEqual((after["intermediate_size"], before["intermediate_size"]), (512, 384))
        found = container.read_directory(out)
        name = "model.layers.0.block_sparse_moe.experts.0.w1.weight"
        self.assertEqual(found[name][1].shape, (512, 256))
        np.testing.assert_array_equal(found[name][1][:384], tensors[name][1])
        self.assertFalse(found[name][1][384:].any())
        self.assertFalse([n for n in found if n == "" or ".mlp." in n or "mtp" in n])
        self.assert_same_tensors(tensors, self.convert(out, "back", "--qkv", "restore"))

    def test_heads_are_not_added_under_a_norm_over_all(self):
        """Heads of zeros would lower the mean square that the norms of Q and K divide by."""
        source, _ = self.make(9, heads=12, kv_heads=3)
        result = self.run_tool("mimo-convert", source, self.at("padded"), "--to", "vllm", "--tp", "2", "--pad", code=2)
        self.assertIn("mean square", result.stderr)
        self.assert_nothing_published(self.at("padded"))

    def test_tensors_of_other_kinds_are_named(self):
        directory = self.at("odd")
        tensors = minimax.tensors_of(1)
        tensors["model.layers.0.self_attn.q_proj.bias"] = ("BF16", np.zeros(2048, np.uint16))
        minimax.write(directory, tensors, minimax.config_of())
        result = self.run_tool("mimo-convert", directory, self.at("out"), "--dtype", "bf16", code=3)
        self.assertIn("MiniMax", result.stderr)
        self.assert_nothing_published(self.at("out"))

    def test_a_norm_that_is_switched_off_is_not_asked_for(self):
        directory = self.at("plain")
        tensors = {n: v for n, v in minimax.tensors_of(1).items() if "_norm." not in n or "layernorm" in n}
        minimax.write(directory, tensors, dict(minimax.config_of(), use_qk_norm=False))
        self.run_tool("mimo-inspect", directory)
        minimax.write(self.at("missing"), tensors, minimax.config_of())
        self.run_tool("mimo-inspect", self.at("missing"), code=3)


class Release(ToolCase):
    """The synthetic release has what was published, and is planned in seconds."""

    def test_counts_and_bytes(self):
        out = self.at("m2")
        self.run_tool("mimo-synth", "minimax-m2", out, "--sparse", timeout=900)
        found = json.loads(self.run_tool("mimo-inspect", out, "--json", timeout=900).stdout)
        self.assertEqual((found["tensor_count"], found["payload_bytes"], found["files"]),
                         (96103, 230121630720, 125))
        types = {}
        for path in container.tensor_files(out):
            for dtype, *_ in container.read_header(os.path.join(out, path))[0].values():
                types[dtype] = types.get(dtype, 0) + 1
        self.assertEqual(types, {"F8_E4M3": 47864, "F32": 47988, "BF16": 251})
        self.run_tool("mimo-convert", out, self.at("x"), "--dtype", "bf16", "--dry-run", timeout=900)


def external_generator():
    found = checkpoints.external_generator()
    path = found and os.path.join(os.path.dirname(found), "make_minimax_fixture.py")
    return path if path and os.path.isfile(path) else None


@unittest.skipUnless(external_generator(), "no external generator")
class External(ToolCase):
    def test_decodes_to_its_truth(self):
        for seed, flags in enumerate(([], ["--release", "m2.7", "--hidden", "384"], ["--experts", "5", "--layers", "2"],
                                      ["--bf16"])):
            out = self.at(f"external-{seed}")
            subprocess.run([sys.executable, external_generator(), out, "--seed", str(seed), *flags], check=True,
                           capture_output=True)
            bf16 = self.convert(os.path.join(out, "checkpoint"), f"bf16-{seed}", "--dtype", "bf16")
            self.assert_same_tensors(container.read(os.path.join(out, "truth", "truth.safetensors")), bf16, str(flags))


if __name__ == "__main__":
    unittest.main()
