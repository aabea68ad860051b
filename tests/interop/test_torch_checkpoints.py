"""Proves with torch itself that what `--to megatron` writes is a torch.distributed checkpoint (its pickles, dcp.load
into tensors full of NaN, dcp_to_torch_save, the .pt files at weights_only, run_config.yaml), and that we read what
torch saves: fsdp_dtensor keys, and the rank files of the legacy format in several topologies.
Runs in .venv-interop (scripts/setup.sh); MIMO_INTEROP=0 leaves it out.
"""
import argparse
import json
import os
import pickle
import unittest

import numpy as np

from harness import checkpoints, compare, megatron_case, torch_dist
from harness.megatron_case import TINY, MegatronCase
from reference import codecs, container, megatron
from reference.megatron import Topology

try:
    import torch
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
    from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata, TensorStorageMetadata
    DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
except ImportError:
    torch = None

SMALL = dict(TINY, towers=False)


def to_torch(dtype, array):
    raw = torch.from_numpy(np.ascontiguousarray(array).copy())
    return raw.view(DTYPES[dtype]) if dtype in ("BF16", "F16") else raw


def found(tensors):
    """{name: tensor} -> {name: (dtype, array)}"""
    names = {v: k for k, v in DTYPES.items()}
    return {n: (names[t.dtype], t.contiguous().view(torch.int16).numpy().view(np.uint16) if t.element_size() == 2
                else t.numpy()) for n, t in tensors.items()}


@unittest.skipUnless(torch, "torch is not installed")
class Written(MegatronCase):
    _made = {}

    def each(self):
        """-> (fixture, root, iteration directory, truth), made once"""
        for variant, options, dtype in (("v2.5", (), "bf16"), ("v2-flash", ("--tp", 4, "--etp", 2), "bf16"),
                                        ("v2.6", ("--dtype", "fp32"), "fp32")):
            if variant not in self._made:
                fixture = megatron_case.ours(variant, **SMALL)
                out = os.path.join(checkpoints.root(), "torch-" + variant)
                self.run_tool("mimo-convert", fixture.directory, out, "--to", "megatron", *options)
                self._made[variant] = (fixture, out, torch_dist.iteration_directory(out), fixture.megatron(dtype))
            yield self._made[variant]

    def test_metadata(self):
        """torch's own objects come out of the pickle, and say what our reader of it says."""
        for fixture, _, directory, truth in self.each():
            with open(os.path.join(directory, ".metadata"), "rb") as f:
                top = pickle.load(f)
            self.assertIsInstance(top, Metadata)
            self.assertEqual((top.planner_data, top.storage_meta), ({}, None))
            ours = torch_dist.Checkpoint(directory)
            keys = set()
            for key, entry in top.state_dict_metadata.items():
                if isinstance(entry, BytesStorageMetadata):
                    keys.add(key)
                    continue
                self.assertIsInstance(entry, TensorStorageMetadata)
                dtype, array = truth[key]
                self.assertEqual((entry.properties.dtype, tuple(entry.size)), (DTYPES[dtype], array.shape))
                self.assertEqual([(tuple(c.offsets), tuple(c.sizes)) for c in entry.chunks],
                                 [(c.offsets, c.sizes) for c in ours.tensors[key].chunks])
            self.assertEqual(keys, megatron.extra_states(fixture.config, fixture.mtp))
            self.assertEqual(set(top.state_dict_metadata) - keys, set(truth))
            indices = {(i.fqn, None if i.offset is None else tuple(i.offset)) for i in top.storage_data}
            self.assertEqual(len(indices), len(top.storage_data))

    def test_load(self):
        for _, _, directory, truth in self.each():
            state = {key: torch.full(array.shape, float("nan"), dtype=DTYPES[dtype])
                     for key, (dtype, array) in truth.items()}
            dcp.load(state, checkpoint_id=directory, no_dist=True)
            self.assert_same_tensors(truth, found(state))

    def test_load_casts(self):
        """Into the dtypes of a running model: a BF16 router from our F32, F32 masters from our BF16."""
        fixture = megatron_case.ours("v2.5", **SMALL)
        directory = torch_dist.iteration_directory(self.to_megatron(fixture, "out"))
        truth = fixture.megatron()
        router, norm = "decoder.layers.1.mlp.router.weight", "decoder.final_layernorm.weight"
        state = {router: torch.full(truth[router][1].shape, float("nan"), dtype=torch.bfloat16),
                 norm: torch.full(truth[norm][1].shape, float("nan"))}
        dcp.load(state, checkpoint_id=directory, no_dist=True)
        self.assert_same_tensors({router: ("BF16", codecs.bf16_from_f32(truth[router][1])),
                                  norm: ("F32", codecs.f32_from_bf16(truth[norm][1]))}, found(state))

    def test_to_torch_save(self):
        for fixture, _, directory, truth in self.each():
            path = self.at("whole.pt")                  # replaced each time
            dcp_to_torch_save(directory, path)
            state = torch.load(path, weights_only=True)
            tensors = {k: v for k, v in state.items() if isinstance(v, torch.Tensor)}
            self.assert_same_tensors(truth, found(tensors))
            self.assertEqual(set(state) - set(tensors), megatron.extra_states(fixture.config, fixture.mtp))

    def test_state_files(self):
        for _, out, directory, _ in self.each():
            common = torch.load(os.path.join(directory, "common.pt"), weights_only=True)
            self.assertEqual((common["checkpoint_version"], common["iteration"]), (3.0, 0))
            for path in (os.path.join(directory, "train_state.pt"), os.path.join(out, "latest_train_state.pt")):
                for mapped in (False, True):
                    state = torch.load(path, weights_only=True, mmap=mapped)
                    self.assertTrue(all(v.shape == () for v in state.values()))
                    self.assertEqual((state["step"].dtype, int(state["step"])), (torch.int64, 0))
                    self.assertEqual(state["do_train"].dtype, torch.bool)
                    self.assertTrue(state["floating_point_operations_so_far"].is_floating_point())

    def test_run_config(self):
        try:
            import yaml
        except ImportError:
            raise unittest.SkipTest("PyYAML is not installed")
        for fixture, _, directory, _ in self.each():
            with open(os.path.join(directory, "run_config.yaml"), encoding="utf-8") as f:
                run = yaml.safe_load(f)
            config, model = fixture.config, run["model"]
            self.assertLessEqual({"save_rng", "save_optim", "fully_parallel_save"}, set(run["checkpoint"]))
            expected = {
                "_target_": "megatron.bridge.models.mimo_v2_flash.mimo_v2_flash_provider.MiMoV2FlashModelProvider",
                "num_layers": config["num_hidden_layers"], "hidden_size": config["hidden_size"],
                "ffn_hidden_size": config["intermediate_size"], "num_attention_heads": config["num_attention_heads"],
                "num_query_groups": config["num_key_value_heads"],
                "full_attn_num_query_groups": config["num_key_value_heads"],
                "swa_num_query_groups": config["swa_num_key_value_heads"], "kv_channels": 192, "v_head_dim": 128,
                "attention_value_scale": config["attention_value_scale"],
                "hybrid_attention_pattern": config["hybrid_layer_pattern"], "window_size": 128,
                "rotary_base": [config["swa_rope_theta"], config["rope_theta"]], "rotary_percent": 0.334,
                "moe_layer_freq": config["moe_layer_freq"], "num_moe_experts": config["n_routed_experts"],
                "moe_router_topk": config["num_experts_per_tok"],
                "moe_ffn_hidden_size": config["moe_intermediate_size"],
                "moe_router_score_function": "sigmoid", "moe_router_enable_expert_bias": True,
                "moe_router_pre_softmax": True, "moe_router_load_balancing_type": "none", "moe_grouped_gemm": True,
                "mtp_num_layers": fixture.mtp, "vocab_size": config["vocab_size"], "normalization": "RMSNorm",
                "gated_linear_unit": True, "add_bias_linear": False, "position_embedding_type": "rope",
                "share_embeddings_and_output_weights": False, "layernorm_epsilon": config["layernorm_epsilon"],
                "seq_length": config["max_position_embeddings"],
                "activation_func": {"_target_": "torch.nn.functional.silu", "_call_": False}}
            self.assertEqual({k: model.get(k) for k in expected}, expected)
            self.assertTrue(all(isinstance(model[f"{x}_model_parallel_size"], int) for x in ("tensor", "pipeline")))
            self.assertEqual(config["vocab_size"] % model["make_vocab_size_divisible_by"], 0)


class SavedCase(MegatronCase):
    def root_of(self, fixture, text="7", config=True):
        """-> (root, iteration directory)"""
        root = self.at("saved")
        directory = os.path.join(root, text if text == "release" else f"iter_{int(text):07d}")
        os.makedirs(directory)
        with open(os.path.join(root, "latest_checkpointed_iteration.txt"), "w", encoding="ascii") as f:
            f.write(text)
        if config:
            with open(os.path.join(root, "config.json"), "w", encoding="utf-8") as f:
                json.dump(fixture.config, f)
        return root, directory

    def check_reading(self, fixture, root):
        """Without --like routers keep the F32 that the run has, where the source has BF16 too."""
        expected = fixture.split()
        for name in [n for n in expected if n.endswith(".mlp.gate.weight")]:
            expected[name] = ("F32", codecs.decode_plain(*expected[name]))
        self.assert_same_tensors(expected, self.convert(root, "split", "--to", "hf"))
        out = self.convert(root, "like", "--to", "hf", "--like", fixture.directory)
        self.assert_same_tensors(container.read_directory(fixture.directory), out)


@unittest.skipUnless(torch, "torch is not installed")
class Fsdp(SavedCase):
    def save(self, directory, state):
        dcp.save(state, checkpoint_id=directory, no_dist=True)

    def test_fsdp_keys(self):
        """model.module., per expert, gate and up apart; MTP's inner name of either fashion; optimizer beside."""
        for variant, inner in (("v2.5", "transformer_layer"), ("v2-flash", "mtp_model_layer"),
                               ("v2.6", "transformer_layer")):
            with self.subTest(variant, inner=inner):
                self.setUp()
                fixture = megatron_case.ours(variant, **SMALL)
                root, directory = self.root_of(fixture)
                state = {key: to_torch(*value) for key, value in megatron.fsdp(fixture.megatron(), inner).items()}
                state.update({"optimizer.state.module.embedding.word_embeddings.weight.exp_avg": torch.ones(320, 256),
                              "optimizer.param_groups.0.lr": 1e-4, "checkpoint_version": 3.0, "iteration": 7,
                              "args": "opaque", "rng_state.0": torch.zeros(8, dtype=torch.uint8)})
                self.save(directory, state)
                self.assertFalse(os.path.exists(os.path.join(directory, "metadata.json")))
                self.check_reading(fixture, root)
                given = self.convert(directory, "given", "--to", "hf", "--like", fixture.directory)
                self.assert_same_tensors(container.read_directory(fixture.directory), given)

    def test_missing_half(self):
        fixture = megatron_case.ours("v2.5", **SMALL)
        root, directory = self.root_of(fixture)
        state = {key: to_torch(*value) for key, value in megatron.fsdp(fixture.megatron()).items()}
        missing = "model.module.decoder.layers.1.mlp.experts.linear_fc1.weight2_v"
        del state[missing]
        self.save(directory, state)
        result = self.run_tool("mimo-convert", root, self.at("out"), "--to", "hf", code=3)
        self.assertRegex(result.stderr, r"(layers\.1\..*experts)")

    def test_router_in_bf16(self):
        """As running models hold it: what is the reference's rounded is the reference's, what was trained is rounded."""
        fixture = megatron_case.ours("v2.5", **SMALL)
        root, directory = self.root_of(fixture)
        state = {key: to_torch(*value) for key, value in megatron.fsdp(fixture.megatron()).items()}
        key = "model.module.decoder.layers.1.mlp.router.weight"
        trained = state[key].clone()
        trained[0] *= 1.25
        state[key] = trained.to(torch.bfloat16)
        self.save(directory, state)
        expected = dict(container.read_directory(fixture.directory))
        name = "model.layers.1.mlp.gate.weight"
        gate = expected[name][1].copy()
        gate[0] = codecs.f32_from_bf16(codecs.bf16_from_f32(trained[0].float().numpy()))
        expected[name] = ("F32", gate)
        self.assert_same_tensors(expected, self.convert(root, "like", "--to", "hf", "--like", fixture.directory))


@unittest.skipUnless(torch, "torch is not installed")
class Legacy(SavedCase):
    def save(self, fixture, directory, topology, virtual=1, inner="mtp_model_layer", change=None, optimizer=True):
        saved = {}
        for rank in range(topology.world):
            name = megatron.rank_directory(topology, rank)
            models = megatron.legacy(fixture.config, fixture.megatron(), topology, rank, virtual, inner)
            models = [{n: to_torch(*v) for n, v in m.items()} for m in models]
            if name in saved:                       # data parallel: the file is there
                continue
            saved[name] = models
        if change:
            change(saved)
        for name, models in saved.items():
            args = argparse.Namespace(num_layers=fixture.config["num_hidden_layers"], hidden_size=TINY["hidden"],
                                      tensor_model_parallel_size=topology.tp, pipeline_model_parallel_size=topology.pp,
                                      num_attention_heads=16, add_position_embedding=False, data_path=None)
            state = {"args": args, "checkpoint_version": 3.0, "iteration": 7,
                     "num_floating_point_operations_so_far": 5}
            for v, model in enumerate(models):
                model = dict(model)
                model["decoder.layers.0.self_attention.linear_qkv._extra_state"] = torch.empty(0, dtype=torch.uint8)
                state["model" if virtual == 1 else f"model{v}"] = model
            if optimizer:
                state["optimizer"] = {"optimizer": {"param_groups": [{"lr": 1e-4, "betas": (0.9, 0.95)}],
                                                    "state": {0: {"exp_avg": torch.ones(3)}}}}
                state["opt_param_scheduler"] = {"max_lr": 1e-4}
                state["rng_state"] = [{"cuda_rng_state": torch.zeros(16, dtype=torch.uint8),
                                       "np_rng_state": ("MT19937", [1, 2], 3)}]
            os.makedirs(os.path.join(directory, name))
            torch.save(state, os.path.join(directory, name, "model_optim_rng.pt"))
        return sorted(saved)

    def test_topologies(self):
        layers = dict(SMALL, pattern=(0, 1, 1, 0), mtp=2)
        for variant, topology, virtual, names in (
                ("v2.5", Topology(2, 1, 1, 2, 2), 1, ["mp_rank_00", "mp_rank_01"]),
                ("v2.5", Topology(1, 2, 1, 1, 2), 1, ["mp_rank_00_000", "mp_rank_00_001"]),
                ("v2.5", Topology(1, 1, 2, 1, 2), 1, ["mp_rank_00_000", "mp_rank_00_001"]),
                ("v2-flash", Topology(2, 2, 2, 1, 4), 1, None), ("v2.6", Topology(2, 2, 2, 2, 8), 1, None),
                ("v2.5", Topology(2, 2, 1, 2, 4), 2, None)):
            with self.subTest(variant, topology=topology, virtual=virtual):
                self.setUp()
                fixture = megatron_case.ours(variant, **layers)
                root, directory = self.root_of(fixture)
                saved = self.save(fixture, directory, topology, virtual,
                                  "transformer_layer" if variant == "v2.6" else "mtp_model_layer")
                self.assertIn(saved, [names] if names else [saved])
                self.check_reading(fixture, root)

    def test_release(self):
        fixture = megatron_case.ours("v2.5", **SMALL)
        root, directory = self.root_of(fixture, "release")
        self.save(fixture, directory, Topology(1, 1, 1, 1, 1), optimizer=False)
        self.check_reading(fixture, root)

    def refused(self, change, word, topology=Topology(2, 1, 2, 1, 2)):
        fixture = megatron_case.ours("v2.5", **SMALL)
        root, directory = self.root_of(fixture)
        self.save(fixture, directory, topology, change=change)
        result = self.run_tool("mimo-convert", root, self.at("out"), "--to", "hf", code=3)
        self.assertIn(word, result.stderr)
        self.assertEqual(compare.published(self.at("out")), [])

    def test_replicas_that_disagree(self):
        name = "decoder.layers.1.pre_mlp_layernorm.weight"

        def change(saved):
            saved["mp_rank_01_001"][0][name][7] += 1
        self.refused(change, "pre_mlp_layernorm")

    def test_a_rank_is_missing(self):
        def change(saved):
            del saved["mp_rank_01_001"]
        self.refused(change, "")

    def test_a_tensor_is_missing(self):
        name = "decoder.layers.1.self_attention.linear_proj.weight"

        def change(saved):
            del saved["mp_rank_01_001"][0][name]
        self.refused(change, "linear_proj")

    def test_a_shape_differs(self):
        name = "decoder.layers.1.self_attention.linear_proj.weight"

        def change(saved):
            model = saved["mp_rank_01_001"][0]
            model[name] = model[name][:, :-1].clone()
        self.refused(change, "linear_proj")


if __name__ == "__main__":
    unittest.main()
