"""Proves that `--to nxdi` writes the preprocessed Neuron directory: every name, shape, dtype and byte against numpy
written from docs/reference/target-layouts.md, section 7.1 (one scale per row and 240 as the largest value, experts
turned over and stacked), and that what it rounds or leaves out is counted and named.
"""
import os
import shutil
import unittest

import numpy as np

from harness import checkpoints, compare, ranks
from harness.case import ToolCase
from reference import codecs, container, neuron

EXPERTS = dict(experts=8, moe_intermediate=384, intermediate=512, pattern=(0, 1, 0), mtp=2)


class NeuronCase(ToolCase):
    def check(self, fixture, out, rule="halve", bf16=False):
        wanted = neuron.directory(fixture.config, fixture.tensors, fixture.values, rule, bf16)
        self.assert_same_tensors(wanted.tensors, out)
        for file in container.tensor_files(out):
            names = container.read_header(os.path.join(out, file))[0]
            self.assertEqual({neuron.file_of(n) for n in names}, {file})
        self.assertEqual(compare.index_problems(out), [])
        self.check_numbers(out)
        manifest = ranks.manifest(out)
        dropped = {d["name"]: d["reason"] for d in manifest["dropped"]}
        self.assertEqual(set(dropped), wanted.dropped)
        self.assertTrue(all(dropped.values()))
        self.assertEqual(self.lost(manifest), wanted.lost)
        self.check_config(fixture, out, bf16)
        return wanted

    @staticmethod
    def lost(manifest):
        """Expert codes that were rounded, as the manifest counts them."""
        by_tensor = sum(t.get("inexact_codes", 0) for t in manifest["tensors"])
        assert by_tensor == manifest["totals"].get("inexact_codes", 0)
        return by_tensor

    def check_numbers(self, out):
        """No code above 240, no NaN; no scale that would not multiply."""
        for name, (dtype, array) in container.read_directory(out).items():
            if dtype == "F8_E4M3":
                self.assertLessEqual(int((array & 0x7F).max()), 0x77, name)
            elif name.endswith(".scale"):
                self.assertTrue(np.isfinite(array).all() and (array > 0).all(), name)
            self.assertFalse(name.startswith("model.") or name.endswith("o_proj.scale"), name)

    def check_config(self, fixture, out, bf16):
        config = compare.load_json(out, "config.json")
        self.assertEqual(config["architectures"], ["MiMoV2FlashForCausalLM"])
        self.assertNotEqual(config.get("attention_projection_layout"), "fused_qkv")
        for key in ("num_attention_heads", "num_key_value_heads", "swa_num_key_value_heads", "n_routed_experts"):
            self.assertEqual(config[key], fixture.config[key], key)


class Directories(NeuronCase):
    def test_fp8(self):
        for variant in ("v2-flash", "v2.5", "v2.5-pro", "plain"):
            with self.subTest(variant):
                fixture = ranks.ours(variant, **EXPERTS)
                wanted = self.check(fixture, self.convert(fixture.directory, variant, "--to", "nxdi"))
                self.assertGreater(wanted.lost, 0, "the fixture has codes that lose a bit")

    def test_towers_are_dropped(self):
        fixture = ranks.ours("v2.5", **dict(EXPERTS, towers=True, pattern=(0, 1)))
        wanted = self.check(fixture, self.convert(fixture.directory, "out", "--to", "nxdi"))
        self.assertTrue(any(n.startswith("visual.") for n in wanted.dropped))
        self.assertTrue(any(n.startswith("model.mtp.") for n in wanted.dropped))

    def test_published_rule_of_expert_codes(self):
        fixture = ranks.ours("v2.5", **EXPERTS)
        out = self.convert(fixture.directory, "out", "--to", "nxdi", "--expert-codes", "rescale")
        self.check(fixture, out, "rescale")

    def test_bf16(self):
        for variant in ("v2-flash", "v2.5", "v2.6"):
            with self.subTest(variant):
                fixture = ranks.ours(variant, **EXPERTS)
                out = self.convert(fixture.directory, variant, "--to", "nxdi", "--dtype", "bf16")
                self.check(fixture, out, bf16=True)

    def test_threads_change_nothing(self):
        fixture = ranks.ours("v2.5", **EXPERTS)
        self.assert_same_trees(self.convert(fixture.directory, "one", "--to", "nxdi", "--threads", 1),
                               self.convert(fixture.directory, "four", "--to", "nxdi", "--threads", 4))

    @unittest.skipUnless(checkpoints.external_generator(), "no external generator")
    def test_external_generator(self):
        for variant in ("v2-flash", "v2.5"):
            with self.subTest(variant):
                fixture = ranks.external(variant)
                self.check(fixture, self.convert(fixture.directory, variant, "--to", "nxdi"))


class InOneRun(NeuronCase):
    """From and to other forms: what two runs by way of the Hugging Face form give."""

    RANKS = ("--to", "vllm", "--format", "sharded-state", "--tp", "4")

    def setUp(self):
        super().setUp()
        self.fixture = ranks.ours("v2.5", **dict(EXPERTS, moe_intermediate=1024))

    def test_of_rank_files(self):
        held = self.convert(self.fixture.directory, "held", *self.RANKS)
        for options in ((), ("--dtype", "bf16")):
            name = "".join(options)
            direct = self.convert(self.fixture.directory, "direct" + name, "--to", "nxdi", *options)
            self.check(self.fixture, direct, bf16=bool(options))
            self.assert_same_tensors(direct, self.convert(held, "of-ranks" + name, "--to", "nxdi", *options))

    def test_of_a_training_run(self):
        run = self.convert(self.fixture.directory, "run", "--to", "megatron", "--tp", "2")
        once = self.convert(run, "once", "--to", "nxdi")
        self.assert_same_tensors(self.convert(self.convert(run, "back", "--to", "hf"), "twice", "--to", "nxdi"), once)

    def test_experts_are_decoded_and_cut_where_they_are_stacked(self):
        for rule in ("halve", "rescale"):
            source = self.convert(self.fixture.directory, rule, "--to", "nxdi", "--expert-codes", rule)
            for options in (("--to", "hf", "--dtype", "bf16"), ("--to", "hf", "--dtype", "fp32"), self.RANKS,
                            (*self.RANKS, "--ep", "4"), (*self.RANKS, "--dtype", "bf16")):
                with self.subTest(rule=rule, options=options):
                    name = rule + "".join(options).replace("-", "")
                    once = self.convert(source, name, *options)
                    self.assert_decoded(once, source, options)

    def assert_decoded(self, once, source, options):
        """Its own experts are the truth: codes and scales of the stack, turned over by numpy."""
        back = self.convert(source, "back-" + os.path.basename(once), "--to", "hf")
        twice = self.convert(back, "twice-" + os.path.basename(once), *options)
        for file in container.tensor_files(twice):
            expected, made = (container.read(os.path.join(out, file)) for out in (twice, once))
            if "fp32" in options:                # what has a scale per row passes through BF16 on its way by the HF form
                expected, made = ({n: v for n, v in side.items() if ".experts." in n} for side in (expected, made))
            self.assert_same_tensors(expected, made, file)
        if "bf16" not in options or "--to" not in options or "hf" not in options:
            return
        stacks, found = container.read_directory(source), container.read_directory(once)
        codes = stacks["layers.1.mlp.expert_mlps.mlp_op.down_proj.weight"][1]
        scales = stacks["layers.1.mlp.expert_mlps.mlp_op.down_proj.scale"][1]
        for expert in range(codes.shape[0]):
            values = codecs.decode_fp8(codes[expert], scales[expert], np.arange(codes.shape[1]) // 128)
            made = found[f"model.layers.1.mlp.experts.{expert}.down_proj.weight"][1]
            self.assertEqual(made.tobytes(), np.ascontiguousarray(codecs.bf16_from_f32(values).T).tobytes())


class RouterBiases(NeuronCase):
    """--router-bias centred: those of V2.5-Pro lie at 70.9 with a spread of 3e-4, which BF16 has no place for."""

    def setUp(self):
        super().setUp()
        fixture = ranks.ours("v2.5-pro", **EXPERTS)
        self.source, random, self.biases = self.at("source"), np.random.default_rng(3), {}
        shutil.copytree(fixture.directory, self.source)
        for file in container.tensor_files(self.source):
            path = os.path.join(self.source, file)
            tensors = {n: (d, a.copy()) for n, (d, a) in container.read(path).items()}
            for name, (dtype, array) in tensors.items():
                if name.endswith("e_score_correction_bias"):
                    biases = (70.9 + 3e-4 * random.standard_normal(array.shape)).astype(np.float32)
                    tensors[name] = self.biases[name] = (dtype, biases)
            container.write(path, tensors, {"format": "pt"})
        self.assertEqual({d for d, _ in self.biases.values()}, {"F32"})

    @staticmethod
    def centred(biases):
        """Less the FP32 nearest to the mean; nothing is lost so close to it."""
        mean = np.float32(sum(float(b) for b in biases) / biases.size)
        made = biases - mean
        assert (made.astype(np.float64) == biases.astype(np.float64) - float(mean)).all()
        return made

    def found(self, out, renamed=True):
        tensors = container.read_directory(out)
        name = (lambda n: n.removeprefix("model.").replace(".gate.", ".router.")) if renamed else (lambda n: n)
        return {n: tensors[name(n)] for n in self.biases}

    def test_values(self):
        for options in ((), ("--dtype", "bf16")):
            with self.subTest(options):
                plain = self.convert(self.source, f"plain{len(options)}", "--to", "nxdi", *options)
                kept = self.convert(self.source, f"kept{len(options)}", "--to", "nxdi", "--router-bias", "keep", *options)
                out = self.convert(self.source, f"out{len(options)}", "--to", "nxdi", "--router-bias", "centred", *options)
                self.assert_same_tensors(plain, kept)
                self.assert_same_tensors(self.biases, self.found(plain))
                wanted = {n: (d, self.centred(a)) for n, (d, a) in self.biases.items()}
                self.assert_same_tensors(wanted, self.found(out))
                others = [{n: v for n, v in container.read_directory(d).items() if "correction_bias" not in n}
                          for d in (plain, out)]
                self.assert_same_tensors(*others)
                for name, (_, biases) in self.biases.items():
                    # What NxDI's cast leaves: one value for all, or the order that there was.
                    self.assertEqual(np.unique(codecs.bf16_from_f32(biases)).size, 1)
                    self.assertGreater(np.unique(codecs.bf16_from_f32(wanted[name][1])).size, biases.size // 2)
                self.check_said(plain, out)

    def check_said(self, plain, out):
        manifest = ranks.manifest(out)
        self.assertEqual(manifest["options"]["router_bias"], "centred")
        self.assertTrue(any("lack their mean" in note for note in manifest["notes"]))
        adjusted = {t["name"] for t in manifest["tensors"] if t.get("adjust") == "centre"}
        self.assertEqual(len(adjusted), len(self.biases))
        self.assertEqual(compare.load_json(out, "config.json")["mimo_layout"]["router_bias"], "centred")
        self.assertNotIn("router_bias", compare.load_json(plain, "config.json")["mimo_layout"])
        self.run_tool("mimo-verify", "check", out)

    def test_way_back(self):
        """The mean is gone, and the checkpoint that comes back says so."""
        there = self.convert(self.source, "there", "--to", "nxdi", "--dtype", "bf16", "--router-bias", "centred")
        back = self.convert(there, "back", "--to", "hf")
        self.assert_same_tensors({n: (d, self.centred(a)) for n, (d, a) in self.biases.items()},
                                 self.found(back, renamed=False))
        self.assertTrue(any("lack their mean" in note for note in ranks.manifest(back)["notes"]))

    def test_promises_and_refusals(self):
        bf16 = self.convert(self.source, "bf16", "--dtype", "bf16", "--qkv", "split")
        exact = ("--to", "nxdi", "--dtype", "bf16", "--lossless")
        self.convert(bf16, "exact", *exact)
        for source, options, code in (
                (bf16, (*exact, "--router-bias", "centred"), 1), (bf16, ("--router-bias", "keep"), 2),
                (bf16, ("--router-bias", "centred"), 2), (bf16, ("--to", "vllm", "--tp", 2, "--router-bias", "keep"), 2),
                (bf16, ("--to", "megatron", "--router-bias", "centred"), 2),
                (bf16, ("--like", self.source, "--router-bias", "centred"), 2),
                (bf16, ("--to", "nxdi", "--router-bias", "mean"), 2),
                (self.at("exact"), ("--to", "nxdi", "--router-bias", "centred"), 2)):
            with self.subTest(options):
                result = self.run_tool("mimo-convert", source, self.at("no"), *options, code=code)
                self.assertRegex(result.stderr, "router-bias|lossless|no option|two runs")
                self.assertFalse(os.path.exists(self.at("no")))

    def test_values_that_are_none(self):
        for value in (np.nan, np.inf):
            name, (dtype, biases) = next(iter(self.biases.items()))
            for file in container.tensor_files(self.source):
                path = os.path.join(self.source, file)
                tensors = {n: (d, a.copy()) for n, (d, a) in container.read(path).items()}
                if name in tensors:
                    broken = biases.copy()
                    broken[1] = value
                    container.write(path, dict(tensors, **{name: (dtype, broken)}), {"format": "pt"})
            options = ("--to", "nxdi", "--router-bias", "centred")
            self.run_tool("mimo-convert", self.source, self.at("no"), *options, code=3)
            out = self.convert(self.source, f"out{value}", *options, "--allow-anomalies")
            made, rest = self.found(out)[name][1], np.arange(biases.size) != 1
            np.testing.assert_array_equal(made[rest], self.centred(biases[rest]))
            self.assertFalse(np.isfinite(made[1]))


class SelfCheck(unittest.TestCase):
    def test_halving_is_exact_but_for_the_last_bit(self):
        codes = np.arange(256, dtype=np.uint8)
        codes = codes[~np.isnan(codecs.E4M3[codes])].reshape(1, -1)
        halved, scales, lost = neuron.adjust_codes(codes, np.ones((1, 1), np.float32), "halve")
        exact = codecs.E4M3[halved] * scales == codecs.E4M3[codes]
        self.assertEqual(lost, int((~exact).sum()))
        odd = codes[~exact] & 0x7F                      # odd mantissas of the two lowest binades, of either sign
        self.assertEqual(sorted(set(odd.tolist())), [1, 3, 5, 7, 9, 11, 13, 15])
        self.assertEqual(lost, 16)
        self.assertLessEqual(int((halved & 0x7F).max()), 0x77)

    def test_published_rule_stays_below_240(self):
        codes = np.arange(0x7F, dtype=np.uint8).reshape(1, -1)
        rescaled, scales, _ = neuron.adjust_codes(codes, np.ones((1, 1), np.float32), "rescale")
        self.assertEqual(int(rescaled.max()), 0x77)
        error = np.abs(codecs.E4M3[rescaled] * scales - codecs.E4M3[codes]) / np.maximum(codecs.E4M3[codes], 2.0**-6)
        self.assertLess(error.max(), 0.13)

    def test_rows_saturate_at_240(self):
        values = (np.random.default_rng(1).standard_normal((4, 256)) * [[1], [1e-3], [30], [0]]).astype(np.float32)
        codes, scales = neuron.encode_rows(values)
        self.assertEqual((codes & 0x7F).max(axis=1).tolist(), [0x77, 0x77, 0x77, 0])
        self.assertEqual(float(scales[3, 0]), float(np.float32(1e-10)))
        self.assertTrue((np.abs(codecs.E4M3[codes] * scales - values) <= np.abs(values) / 16 + scales * 2.0**-10).all())


if __name__ == "__main__":
    unittest.main()
