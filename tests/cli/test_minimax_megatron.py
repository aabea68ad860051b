"""Proves that `--to megatron` of MiniMax-M2 writes the torch_dist checkpoint that tests/reference/minimax_forms.py
describes (every key, shape, dtype and byte, norms of Q and K over all heads, extra states, what makes loaders ask layer
by layer), and that it comes back: as split values, and with --like in the source's own bytes. What a run changed
changes alone, what does not descend is told by name, and names of other families stay unknown.
"""
import json
import os
import re
import shutil
import unittest

import numpy as np

from harness import compare, minimax_case, torch_dist
from harness.minimax_case import SMALL, MiniMaxCase
from reference import codecs, container, minimax_forms

Q_NORM, K_NORM = ("decoder.layers.1.self_attention.%s_layernorm.weight" % x for x in "qk")


class RunCase(MiniMaxCase):
    def run_of(self, source, *options, name="run"):
        return self.convert(source.directory, name, "--to", "megatron", *options)

    def found(self, out):
        return torch_dist.Checkpoint(torch_dist.iteration_directory(out))

    def check(self, source, out, dtype="BF16"):
        found = self.found(out)
        torch_dist.check_backend(found.directory)
        self.assert_same_tensors(minimax_forms.megatron(source, dtype), found.arrays(), out)
        self.assertEqual(set(found.objects), minimax_forms.extra_states(source))
        self.assertEqual(self.manifest(out)["dropped"], [])
        return found

    def settings(self, out):
        """What stands below `model:` in run_config.yaml, scalars and lists."""
        with open(os.path.join(torch_dist.iteration_directory(out), "run_config.yaml"), encoding="utf-8") as f:
            lines = f.read().split("\n")
        pairs = [re.fullmatch(r"  (\w+): (.+)", line) for line in lines]
        return {m[1]: json.loads(m[2]) for m in pairs if m}


class Values(RunCase):
    def test_sizes(self):
        for source in self.each():
            out = self.run_of(source)
            self.check(source, out)
            self.run_tool("mimo-verify", "check", out)

    def test_plain_sources(self):
        for source in self.each(quantized=False):
            self.check(source, self.run_of(source))

    def test_other_dtypes(self):
        source = minimax_case.ours(**SMALL)
        for option, dtype in (("fp32", "F32"), ("fp16", "F16")):
            self.check(source, self.run_of(source, "--dtype", option, name=option), dtype)

    @unittest.skipUnless(minimax_case.external_generator(), "no external generator")
    def test_external_generator(self):
        """Its own truth: Bridge's names, an array to an expert."""
        for flags in ((), ("--seed", "9", "--heads", "24", "--kv-heads", "4", "--layers", "2", "--release", "m2.7"),
                      ("--seed", "11", "--experts", "11", "--hidden", "128", "--bf16")):
            with self.subTest(flags):
                self.setUp()
                source, truth = minimax_case.external(*flags)
                arrays = self.check(source, self.run_of(source)).arrays()
                apart = {}
                for key, (dtype, array) in arrays.items():
                    if ".experts.experts." not in key:
                        apart[key] = (dtype, array)
                        continue
                    for expert in range(array.shape[0]):
                        apart[key.replace(".experts.experts.", ".experts.") + str(expert)] = (dtype, array[expert])
                self.assert_same_tensors(truth, apart)

    def test_cuts_change_no_value(self):
        """TP beyond the KV heads cuts linear_qkv by rows, as ranks that share them hold it."""
        source = minimax_case.ours(**dict(SMALL, heads=16, kv_heads=4))
        rows, key = (16 + 8) * 128, "decoder.layers.0.self_attention.linear_qkv.weight"
        for tp, parts in ((1, 4), (2, 4), (4, 4), (8, 8), (16, 16)):
            found = self.check(source, self.run_of(source, "--tp", tp, name=f"tp{tp}"))
            starts = sorted(c.offsets[0] for c in found.tensors[key].chunks)
            self.assertEqual(starts, [i * rows // parts for i in range(parts)])
            self.assertEqual(len(found.tensors[K_NORM].chunks), 1)
        self.refused(source.directory, "--tp 32", "--to", "megatron", "--tp", 32)
        self.refused(source.directory, "--tp 3", "--to", "megatron", "--tp", 3)

    def test_threads_change_nothing(self):
        source = minimax_case.ours(**SMALL)
        self.assert_same_trees(self.run_of(source, "--threads", 1, name="one"),
                               self.run_of(source, "--threads", 4, name="four"))


class States(RunCase):
    def test_loaders_ask_layer_by_layer(self):
        """Layers are all alike, and one array of all of them is what core asks for otherwise."""
        source = minimax_case.ours(**SMALL)
        out = self.run_of(source)
        common = torch_dist.load_file(os.path.join(torch_dist.iteration_directory(out), "common.pt"))
        self.assertEqual(common["content_metadata"], {"singleton_local_shards": False,
                                                      "chained_optim_avoid_prefix": True,
                                                      "non_homogeneous_layers": True})
        self.assertEqual(self.settings(out)["moe_layer_freq"], [1, 1])

    def test_run_config(self):
        source = minimax_case.ours(**SMALL)
        out = self.run_of(source, "--tp", 4, "--ep", 2, "--pp", 2, "--etp", 2)
        said = self.settings(out)
        expected = {"num_layers": 2, "hidden_size": 128, "ffn_hidden_size": 128, "num_attention_heads": 12,
                    "num_query_groups": 4, "kv_channels": 128, "qk_layernorm": True, "rotary_base": 5000000,
                    "rotary_percent": 0.5, "num_moe_experts": 4, "moe_router_topk": 4, "moe_ffn_hidden_size": 128,
                    "moe_router_score_function": "sigmoid", "moe_router_enable_expert_bias": True,
                    "moe_router_pre_softmax": False, "moe_router_load_balancing_type": "aux_loss",
                    "moe_aux_loss_coeff": 1e-3, "moe_token_dispatcher_type": "alltoall", "vocab_size": 256,
                    "seq_length": 196608, "layernorm_epsilon": 1e-6, "tensor_model_parallel_size": 4,
                    "pipeline_model_parallel_size": 2, "expert_model_parallel_size": 2,
                    "expert_tensor_parallel_size": 2, "share_embeddings_and_output_weights": False,
                    "_target_": "megatron.bridge.models.gpt_provider.GPTModelProvider"}
        self.assertEqual({k: said.get(k) for k in expected}, expected)
        self.assertNotIn("mtp_num_layers", said)
        with open(os.path.join(torch_dist.iteration_directory(out), "run_config.yaml"), encoding="utf-8") as f:
            self.assertIn("  transformer_layer_spec:\n    _target_: \"megatron.bridge.models.minimax_m2."
                          "minimax_m2_provider.minimax_m2_layer_spec\"\n    _call_: false\n", f.read())

    def test_rope_of_newer_configs(self):
        """transformers 5 keeps RoPE in rope_parameters, with a factor in place of the dimensions."""
        source = minimax_case.ours(**SMALL)
        copy = self.at("copy")
        for rope, percent in (({"rope_theta": 4000000, "rope_type": "default", "partial_rotary_factor": 0.25}, 0.25),
                              ({"rope_theta": 4000000, "rotary_dim": 32}, 0.25)):
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(source.directory, copy)
            config = {k: v for k, v in source.config.items() if k not in ("rope_theta", "rotary_dim")}
            with open(os.path.join(copy, "config.json"), "w", encoding="utf-8") as f:
                json.dump(dict(config, rope_parameters=rope), f)
            said = self.settings(self.convert(copy, "run" + str(len(rope)), "--to", "megatron"))
            self.assertEqual((said["rotary_base"], said["rotary_percent"]), (4000000, percent))
        with open(os.path.join(copy, "config.json"), "w", encoding="utf-8") as f:
            json.dump(config, f)
        self.refused(copy, "rope_theta", "--to", "megatron")


class Back(RunCase):
    def back(self, run, name, *options):
        return self.convert(run, name, "--to", "hf", *options)

    def test_split(self):
        for source in self.each():
            out = self.back(self.run_of(source), "back")
            self.assert_same_tensors(source.plain(), out)
            self.assertEqual(compare.index_problems(out), [])
            self.assertNotIn("quantization_config", compare.load_json(out, "config.json"))
            self.run_tool("mimo-verify", "check", out)

    def test_like(self):
        for quantized in (True, False):
            for source in self.each(quantized=quantized):
                out = self.back(self.run_of(source), "back", "--like", source.directory)
                self.assert_same_trees(source.directory, out, skip=self.OURS)

    @unittest.skipUnless(minimax_case.external_generator(), "no external generator")
    def test_like_of_the_external_generator(self):
        source, _ = minimax_case.external()
        out = self.back(self.run_of(source, "--tp", 16), "back", "--like", source.directory)
        self.assert_same_trees(source.directory, out, skip=self.OURS)

    def test_cut_padded_fp32(self):
        source = minimax_case.ours(**dict(SMALL, heads=16, vocab=320))
        run = self.run_of(source, "--tp", 8, "--etp", 2, "--pad", "--iteration", 30, "--dtype", "fp32")
        self.assert_same_trees(source.directory, self.back(run, "like", "--like", source.directory), skip=self.OURS)

    def test_only_what_changed(self):
        """Norms of other heads, and codes under the scales that they had."""
        source = minimax_case.ours(**SMALL)
        wanted, run = self.at("wanted"), self.run_of(source)
        shutil.copytree(source.directory, wanted)
        random = np.random.default_rng(8)
        for file in container.tensor_files(wanted):
            tensors = {n: (d, a.copy()) for n, (d, a) in container.read(os.path.join(wanted, file)).items()}
            for name, (dtype, array) in tensors.items():
                if re.search(r"layers\.1\..*[qk]_norm", name):
                    tensors[name] = (dtype, array + random.integers(0, 2, array.shape).astype(np.uint16))
                elif dtype == "F8_E4M3" and "layers.1." in name:
                    moved = (random.integers(0, 40, array.shape) == 0) & (array & 0x7F < 0x7E)      # 0x7F is NaN
                    tensors[name] = (dtype, array ^ moved.astype(np.uint8))
            container.write(os.path.join(wanted, file), tensors, {"format": "pt"})
        after = minimax_forms.megatron(minimax_forms.Source(wanted))
        before, checkpoint = minimax_forms.megatron(source), self.found(run)
        changed = [k for k in before if before[k][1].tobytes() != after[k][1].tobytes()]
        self.assertEqual({k for k in changed if "layers.1." not in k}, set())
        self.assertLessEqual({Q_NORM, K_NORM}, set(changed))
        for key in changed:
            checkpoint.edit(key, lambda _, key=key: after[key][1])
        out = self.back(run, "back", "--like", source.directory, "--scale-policy", "sticky")
        self.assert_same_tensors(wanted, out)

    def test_of_other_forms(self):
        """A Neuron directory becomes a training checkpoint in one run: what two give."""
        source = minimax_case.ours(**SMALL)
        neuron = self.convert(source.directory, "neuron", "--to", "nxdi")
        once = self.found(self.convert(neuron, "once", "--to", "megatron")).arrays()
        twice = self.convert(self.convert(neuron, "hf", "--to", "hf", "--dtype", "bf16"), "twice", "--to", "megatron")
        self.assert_same_tensors(self.found(twice).arrays(), once)


class Judged(RunCase):
    def setUp(self):
        super().setUp()
        self.source = minimax_case.ours(**SMALL)
        self.training = self.run_of(self.source)

    def edit(self, key, change):
        self.found(self.training).edit(key, change)

    def test_a_head_of_a_norm_is_zero(self):
        for key, head, says in ((Q_NORM, 7, "Q head 7"), (K_NORM, 2, "K head 2")):
            self.setUp()

            def change(array, head=head):
                array[head * 128:(head + 1) * 128] = 0
                return array
            self.edit(key, change)
            name = "model.layers.1.self_attn." + ("q_norm" if "q_" in key else "k_norm")
            self.refused(self.training, ("descent.zero", name, says), "--like", self.source.directory)

    def test_groups_are_exchanged(self):
        def change(array):
            groups = np.split(array, 4)
            return np.concatenate([groups[1], groups[0], *groups[2:]])
        self.edit("decoder.layers.1.self_attention.linear_qkv.weight", change)
        self.refused(self.training, ("descent.heads", "Q head"), "--like", self.source.directory)

    def test_gate_and_up_are_exchanged(self):
        self.edit("decoder.layers.0.mlp.experts.experts.linear_fc1.weight",
                  lambda array: np.concatenate(np.split(array, 2, axis=1)[::-1], axis=1))
        self.refused(self.training, ("descent.gate_up", "w1"), "--like", self.source.directory)

    def test_another_model(self):
        other = minimax_case.ours(**dict(SMALL, kv_heads=2))
        self.refused(self.training, ("num_query_groups", "descent.arguments"), "--like", other.directory)

    def test_names_of_other_families(self):
        """Dense layers, sinks, MTP: what this family has not is unknown, whatever others have."""
        directory = torch_dist.iteration_directory(self.training)
        keys = torch_dist.rename(directory, lambda key: key)
        self.assertIn(Q_NORM, keys)
        for wrong in ("decoder.layers.1.self_attention.core_attention.softmax_offset",
                      "mtp.layers.0.enorm.weight", "decoder.layers.1.mlp.linear_fc1.layer_norm_weight",
                      "decoder.layers.1.self_attention.qk_layernorm.weight"):
            with self.subTest(wrong):
                copy = self.at("copy")
                shutil.rmtree(copy, ignore_errors=True)
                shutil.copytree(self.training, copy)
                torch_dist.rename(torch_dist.iteration_directory(copy), lambda key, wrong=wrong: wrong if key == Q_NORM
                                  else key)
                self.refused(copy, wrong, "--to", "hf")

    def test_a_run_without_the_norms(self):
        """Releases of Bridge before pull request 3458 trained without them: that is no run of this model."""
        directory = torch_dist.iteration_directory(self.training)
        torch_dist.rename(directory, lambda key: "optimizer." + key if "_layernorm.weight" in key and "self_" in key
                          else key)
        for like in ((), ("--like", self.source.directory)):
            self.refused(self.training, ("q_norm", "model.missing_tensor"), "--to", "hf", *like)


class SelfCheck(unittest.TestCase):
    def test_places(self):
        """Two groups of three query heads of two rows: q q q k v, q q q k v."""
        g = minimax_forms.Geometry(1, 6, 2, 2, 1, 1)
        order = [(x, r // 2) for x, rows in (("q", 12), ("k", 4), ("v", 4)) for r in range(0, rows, 2)]
        by_place = sorted(order, key=lambda one: minimax_forms.place_in_qkv(g, one[0], one[1] * 2))
        self.assertEqual("".join(f"{x}{h}" for x, h in by_place), "q0q1q2k0v0q3q4q5k1v1")

    def test_shares_of_norms(self):
        g = minimax_forms.Geometry(1, 48, 8, 128, 1, 1)
        k = [minimax_forms.norm_share(g, K_NORM, 16, r) for r in range(16)]
        self.assertEqual(k, [(r // 2, 8) for r in range(16)])
        self.assertEqual(minimax_forms.norm_share(g, Q_NORM, 16, 5), (5, 16))

    def test_fp32_is_not_rounded(self):
        source = minimax_case.ours(**SMALL)
        array = source.plain("F32")["model.layers.0.self_attn.v_proj.weight"][1]
        self.assertFalse(np.array_equal(array, codecs.f32_from_bf16(codecs.bf16_from_f32(array))))


if __name__ == "__main__":
    unittest.main()
