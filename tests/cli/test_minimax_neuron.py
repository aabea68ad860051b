"""Proves that `--to nxdi` of MiniMax-M2 writes the directory that NxDI's preprocess script for it writes: every name,
shape, dtype and byte against numpy (tests/reference/minimax_forms.py): a scale per row for Q, K and V, the output
projection as BF16, experts turned over and stacked under their 128x128 grid, routers, biases and norms as they are;
and that it comes back, experts exactly where no code lost a bit.
"""
import json
import os
import unittest

import numpy as np

from harness import compare, minimax_case
from harness.minimax_case import SMALL, MiniMaxCase
from reference import codecs, container, minimax_forms
from reference.neuron import file_of

STACK = "layers.1.block_sparse_moe.expert_mlps.mlp_op."


class NeuronCase(MiniMaxCase):
    def check(self, source, out, rule="halve", attention="rows", values=False):
        wanted = minimax_forms.neuron(source, rule, attention, values)
        self.assert_same_tensors(wanted.tensors, out)
        for file in container.tensor_files(out):
            self.assertEqual({file_of(n) for n in container.read_header(os.path.join(out, file))[0]}, {file})
        self.assertEqual(compare.index_problems(out), [])
        manifest, config = self.manifest(out), compare.load_json(out, "config.json")
        self.assertEqual(manifest["dropped"], [])
        self.assertEqual(manifest["totals"].get("inexact_codes", 0), 0 if values else wanted.lost)
        self.assertEqual(config["architectures"], ["MiniMaxM2ForCausalLM"])
        for key in ("num_attention_heads", "num_key_value_heads", "num_local_experts", "rotary_dim"):
            self.assertEqual(config[key], source.config[key], key)
        self.assertEqual("quantization_config" in config, not values)
        for name, (dtype, array) in container.read_directory(out).items():
            self.assertFalse("Wqkv" in name or "qkv_proj" in name or name.endswith("o_proj.scale"), name)
            if dtype == "F8_E4M3":
                self.assertLessEqual(int((array & 0x7F).max()), 0x77, name)
        return wanted

    def neuron(self, source, *options, name="neuron"):
        return self.convert(source.directory, name, "--to", "nxdi", *options)


class Directories(NeuronCase):
    def test_sizes(self):
        for source in self.each():
            out = self.neuron(source)
            self.assertGreater(self.check(source, out).lost, 0, "the fixture has codes that lose a bit")
            self.run_tool("mimo-verify", "check", out)

    def test_inspect_says_what_its_script_does(self):
        source = minimax_case.ours(**SMALL).directory
        found = {e["id"]: e for e in json.loads(self.run_tool("mimo-inspect", source, "--json").stdout)["engines"]}
        self.assertEqual({o["outcome"] for o in found["nxdi"]["outcomes"] if 4 % o["tp"] == 0}, {"requantizes"})
        mxfp4 = self.convert(source, "mxfp4", "--recipe", "mxfp4-experts")
        found = {e["id"]: e for e in json.loads(self.run_tool("mimo-inspect", mxfp4, "--json").stdout)["engines"]}
        self.assertEqual({o["outcome"] for o in found["nxdi"]["outcomes"]}, {"refuses"})

    def test_published_rule_of_expert_codes(self):
        for source in self.each(minimax_case.SIZES[:2]):
            self.check(source, self.neuron(source, "--expert-codes", "rescale"), "rescale")

    def test_attention_as_values(self):
        for source in self.each(minimax_case.SIZES[:2]):
            self.check(source, self.neuron(source, "--attention", "bf16"), attention="values")

    def test_bf16(self):
        for quantized in (True, False):
            for source in self.each(quantized=quantized):
                self.check(source, self.neuron(source, "--dtype", "bf16"), values=True)

    @unittest.skipUnless(minimax_case.external_generator(), "no external generator")
    def test_external_generator(self):
        for flags in ((), ("--seed", "9", "--heads", "24", "--kv-heads", "4", "--layers", "2")):
            with self.subTest(flags):
                self.setUp()
                source, _ = minimax_case.external(*flags)
                self.check(source, self.neuron(source))

    def test_a_row_has_a_scale_of_its_own(self):
        """Of rows of one block: none is the block's."""
        source = minimax_case.ours(**SMALL)
        found = container.read_directory(self.neuron(source))
        for letter in "qkv":
            name = f"layers.0.self_attn.{letter}_proj."
            scales, values = found[name + "scale"][1], source.values(f"model.{name}weight")
            self.assertGreater(np.unique(scales).size, 8 * values.shape[0] // 128)
            largest = np.abs(codecs.E4M3[found[name + "weight"][1]]).max(1)
            self.assertTrue((largest == 240).all())

    def test_biases_of_routers(self):
        """F32 as the release has them; centred, what NxDI's cast to BF16 leaves of them is in order."""
        source = minimax_case.ours(**SMALL)
        out = self.neuron(source, "--router-bias", "centred", name="centred")
        for layer in (0, 1):
            biases = source.stored[f"model.layers.{layer}.block_sparse_moe.e_score_correction_bias"][1]
            made = container.read_directory(out)[f"layers.{layer}.block_sparse_moe.router.e_score_correction_bias"]
            mean = np.float32(sum(float(b) for b in biases) / biases.size)
            self.assertEqual((made[0], made[1].tobytes()), ("F32", (biases - mean).tobytes()))
            self.assertLess(np.unique(codecs.bf16_from_f32(biases)).size, biases.size)
            self.assertEqual(np.unique(codecs.bf16_from_f32(made[1])).size, biases.size)

    def test_what_is_said(self):
        source = minimax_case.ours(**SMALL)
        for options, says in (((), "must name o_proj"), (("--dtype", "bf16"), "--router-bias centred")):
            notes = self.manifest(self.neuron(source, *options, name="said" + "".join(options)))["notes"]
            self.assertTrue(any(says in n for n in notes), notes)
            self.assertFalse(any("MTP" in n or "V2.5" in n for n in notes), notes)

    def test_threads_change_nothing(self):
        source = minimax_case.ours(**SMALL)
        self.assert_same_trees(self.neuron(source, "--threads", 1, name="one"),
                               self.neuron(source, "--threads", 4, name="four"))


class Back(NeuronCase):
    def test_values(self):
        """Without the halves that lost a bit experts are the source's bytes; the rest is what the directory says."""
        for source in self.each():
            out = self.convert(self.neuron(source), "back", "--to", "hf")
            found, lost, exact = container.read_directory(out), 0, 0
            for name in source.names:
                if minimax_forms.EXPERT.fullmatch(name):
                    codes = source.stored[name][1]
                    halved = codecs.e4m3_encode(codecs.E4M3[codes] * np.float32(0.5))
                    doubled = codecs.e4m3_encode(codecs.E4M3[halved] * np.float32(2))
                    lost += int((doubled != codes).sum())
                    exact += int((doubled == codes).sum())
                    self.assertEqual(found[name][1].tobytes(), doubled.tobytes(), name)
                    scale = name + "_scale_inv"
                    self.assertEqual(found[scale][1].tobytes(), source.stored[scale][1].tobytes(), scale)
                elif source.stored[name][0] != "F8_E4M3":
                    self.assert_same_tensors({name: source.stored[name]}, {name: found[name]})
                elif name.endswith("o_proj.weight"):
                    self.assertEqual(found[name][1].tobytes(),
                                     codecs.bf16_from_f32(source.values(name)).tobytes(), name)
                else:
                    there = container.read_directory(self.at("neuron"))
                    base = name.removeprefix("model.")
                    codes, scales = there[base][1], there[base[:-len("weight")] + "scale"][1]
                    self.assertEqual(found[name][1].tobytes(),
                                     codecs.bf16_from_f32(codecs.E4M3[codes] * scales).tobytes(), name)
            self.assertLess(lost, exact // 50)
            self.run_tool("mimo-verify", "check", out)

    def test_exact_where_no_bit_is_lost(self):
        """Codes of normal numbers: there and back gives the bytes of the release."""
        source = self.without_small_codes(minimax_case.ours(**SMALL))
        wanted = minimax_forms.neuron(source)
        self.assertEqual(wanted.lost, 0)
        found = container.read_directory(self.convert(self.neuron(source), "back", "--to", "hf"))
        experts = {n: v for n, v in source.stored.items() if ".experts." in n}
        self.assertEqual(len(experts), 2 * 2 * 4 * 3)
        self.assert_same_tensors(experts, {n: found[n] for n in experts})

    def without_small_codes(self, source):
        copy = self.at("copy")
        os.makedirs(copy)
        for file in os.listdir(source.directory):
            path = os.path.join(source.directory, file)
            if not file.endswith(".safetensors"):
                with open(path, "rb") as a, open(os.path.join(copy, file), "wb") as b:
                    b.write(a.read())
                continue
            tensors = {n: (d, np.where((a & 0x7F) < 0x10, (a & 0x80) | 0x10, a).astype(np.uint8)
                           if d == "F8_E4M3" else a) for n, (d, a) in container.read(path).items()}
            container.write(os.path.join(copy, file), tensors, {"format": "pt"})
        return minimax_forms.Source(copy)

    def test_bf16(self):
        source = minimax_case.ours(**SMALL)
        self.assert_same_tensors(source.plain(), self.convert(self.neuron(source, "--dtype", "bf16"), "back", "--to", "hf"))


class Refused(NeuronCase):
    def test_fusing_is_the_loader_s(self):
        """modeling_minimax_m2.py joins q_proj, k_proj and v_proj itself, and finds none in a fused file."""
        source = minimax_case.ours(**SMALL)
        for option in (("--attention", "fused"), ("--qkv", "fused"), ("--qkv", "fused:2")):
            self.refused(source.directory, ("fused_qkv", " ".join(option)), "--to", "nxdi", *option, code=2)

    def test_promises(self):
        source = minimax_case.ours(**SMALL)
        for options in (("--lossless",), ("--tp", 8), ("--fp8-block", "1x128"), ("--dtype", "nvfp4")):
            self.refused(source.directory, "", "--to", "nxdi", *options, code=(1, 2))

    def test_damaged_directories(self):
        source = minimax_case.ours(**SMALL)
        out = self.neuron(source)
        path = os.path.join(out, "model_layer1.safetensors")
        tensors = {n: (d, a.copy()) for n, (d, a) in container.read(path).items()}
        for file in ("mimo-manifest.json", "model.safetensors.index.json"):
            os.remove(os.path.join(out, file))
        q, scale, k = ("layers.1.self_attn." + n for n in ("q_proj.weight", "q_proj.scale", "k_norm.weight"))
        stack = STACK + "gate_up_proj.scale"
        wrong = {"rows": {scale: ("F32", tensors[scale][1][:-1])}, "norm": {k: ("BF16", np.repeat(tensors[k][1], 2))},
                 "per row": {stack: ("F32", tensors[stack][1].reshape(4, -1))},
                 "fused": {q: None, "layers.1.self_attn.qkv_proj.Wqkv.weight": tensors[q]}}
        for what, change in wrong.items():
            with self.subTest(what):
                container.write(path, {n: v for n, v in {**tensors, **change}.items() if v}, {"format": "pt"})
                self.refused(out, "layers.1.", "--to", "hf", code=(2, 3))


if __name__ == "__main__":
    unittest.main()
