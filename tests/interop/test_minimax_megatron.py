"""Proves with torch and megatron-core that the training checkpoints of MiniMax-M2 are what others load and save: dcp.load
into tensors full of NaN; two releases of megatron-core, whose processes build the sharded state dict as Megatron-Bridge's
modules do (norms of Q and K over all heads, K's shared by ranks beyond the KV heads) for several topologies, load what we
write and save what we read, layers stacked included; legacy rank files up to TP 16 with their replicas.
Runs in .venv-interop (scripts/setup.sh); MIMO_INTEROP=0 leaves it out.
"""
import argparse
import json
import os
import shutil
import unittest

import numpy as np

from harness import checkpoints, megatron_core, minimax_case, tools, torch_dist
from harness.minimax_case import SMALL, MiniMaxCase
from reference import minimax_forms

try:
    import torch
    import torch.distributed.checkpoint as dcp
    DTYPES = {"BF16": torch.bfloat16, "F32": torch.float32}
except ImportError:
    torch = None

# 16 query heads in 4 groups: ranks share KV heads from TP 8 on.
MODEL = dict(SMALL, heads=16, kv_heads=4, experts=4)
TOPOLOGIES = ((1, 1, 1), (2, 1, 2), (4, 1, 1), (8, 1, 1), (8, 1, 4), (4, 2, 2), (1, 2, 4))      # TP, PP, EP of 8


def setUpModule():
    tools.path("mimo-convert")


def to_torch(dtype, array):
    raw = torch.from_numpy(np.ascontiguousarray(array).copy())
    return raw.view(torch.bfloat16) if dtype == "BF16" else raw


def found(tensors):
    names = {v: k for k, v in DTYPES.items()}
    return {n: (names[t.dtype], t.contiguous().view(torch.int16).numpy().view(np.uint16) if t.element_size() == 2
                else t.numpy()) for n, t in tensors.items()}


@unittest.skipUnless(torch, "torch is not installed")
class Torch(MiniMaxCase):
    def test_load(self):
        for source in self.each(minimax_case.SIZES[:2]):
            run = self.convert(source.directory, "run", "--to", "megatron", "--tp", 2)
            truth = minimax_forms.megatron(source)
            state = {k: torch.full(a.shape, float("nan"), dtype=DTYPES[d]) for k, (d, a) in truth.items()}
            dcp.load(state, checkpoint_id=torch_dist.iteration_directory(run), no_dist=True)
            self.assert_same_tensors(truth, found(state))

    def test_run_config(self):
        try:
            import yaml
        except ImportError:
            raise unittest.SkipTest("PyYAML is not installed")
        run = self.convert(minimax_case.ours(**MODEL).directory, "run", "--to", "megatron")
        with open(os.path.join(torch_dist.iteration_directory(run), "run_config.yaml"), encoding="utf-8") as f:
            model = yaml.safe_load(f)["model"]
        self.assertEqual(model["transformer_layer_spec"], {
            "_target_": "megatron.bridge.models.minimax_m2.minimax_m2_provider.minimax_m2_layer_spec", "_call_": False})
        self.assertEqual((model["rotary_percent"], model["moe_router_pre_softmax"], model["moe_aux_loss_coeff"],
                          model["qk_layernorm"], model["layernorm_epsilon"]), (0.5, False, 1e-3, True, 1e-6))


@unittest.skipUnless(torch, "torch is not installed")
class Legacy(MiniMaxCase):
    def save(self, source, tp, ep=1, change=None):
        """A file to a rank of TP and EP, as Megatron writes them. -> the root"""
        root, model = self.at(f"saved{tp}.{ep}"), minimax_forms.megatron(source)
        for rank in range(tp):
            for expert_rank in range(ep):
                name = f"mp_rank_{rank:02d}" + (f"_{expert_rank:03d}" if ep > 1 else "")
                live = minimax_forms.live(source.geometry, model, tp, rank, ep, expert_rank)
                live = {n: to_torch(*v) for n, v in live.items()}
                if change:
                    change(name, live)
                directory = os.path.join(root, "iter_0000007", name)
                os.makedirs(directory)
                args = argparse.Namespace(num_layers=source.geometry.layers, tensor_model_parallel_size=tp,
                                          pipeline_model_parallel_size=1, num_query_groups=source.geometry.groups)
                torch.save({"args": args, "checkpoint_version": 3.0, "iteration": 7, "model": live},
                           os.path.join(directory, "model_optim_rng.pt"))
        with open(os.path.join(root, "latest_checkpointed_iteration.txt"), "w", encoding="ascii") as f:
            f.write("7")
        with open(os.path.join(root, "config.json"), "w", encoding="utf-8") as f:
            json.dump(source.config, f)
        return root

    def test_topologies(self):
        source = minimax_case.ours(**MODEL)
        for tp, ep in ((1, 1), (2, 1), (4, 2), (8, 1), (16, 1), (8, 4)):
            with self.subTest(tp=tp, ep=ep):
                root = self.save(source, tp, ep)
                self.assert_same_tensors(source.plain(), self.convert(root, f"split{tp}.{ep}", "--to", "hf"))
                like = self.convert(root, f"like{tp}.{ep}", "--to", "hf", "--like", source.directory)
                self.assert_same_tensors(source.directory, like)

    def test_real_heads_at_tp_16(self):
        """48 query heads, 8 KV heads: each K norm lies in two ranks' files."""
        source = minimax_case.ours(**minimax_case.SIZES[1])
        root = self.save(source, 16)
        like = self.convert(root, "like", "--to", "hf", "--like", source.directory)
        self.assert_same_tensors(source.directory, like)

    def test_replicas_that_disagree(self):
        name = "decoder.layers.0.self_attention.k_layernorm.weight"

        def change(directory, live):
            if directory == "mp_rank_05":              # the other of K head 2
                live[name][3] += 1
        root = self.save(minimax_case.ours(**MODEL), 8, change=change)
        self.refused(root, "k_layernorm", "--to", "hf", code=3)

    def test_norms_of_another_length(self):
        def change(directory, live):
            name = "decoder.layers.0.self_attention.q_layernorm.weight"
            live[name] = live[name][:-1].clone()
        root = self.save(minimax_case.ours(**MODEL), 2, change=change)
        self.refused(root, "q_layernorm", "--to", "hf", code=3)


class Session:
    """All that one release does, in one group of processes."""

    def __init__(self, version, at):
        self.source = minimax_case.ours(**MODEL)
        self.truth = minimax_forms.megatron(self.source)
        written = os.path.join(at, "written")
        done = tools.run("mimo-convert", self.source.directory, written, "--to", "megatron")
        assert done.code == 0, tools.describe(done)
        directory, geometry = torch_dist.iteration_directory(written), self.source.geometry
        extra = sorted(minimax_forms.extra_states(self.source))
        steps, self.saved = {}, {}
        for t in TOPOLOGIES:
            steps["load", t] = ("load", (directory, geometry, self.truth, extra, t))
        for what, t, homogeneous in (("TP 8", (8, 1, 1), False), ("TP 4, PP 2", (4, 2, 2), False),
                                     ("stacked", (8, 1, 2), True)):
            root = os.path.join(at, "saved" + str(len(self.saved)))
            os.makedirs(os.path.join(root, "iter_0000007"))
            with open(os.path.join(root, "latest_checkpointed_iteration.txt"), "w", encoding="ascii") as f:
                f.write("7")
            self.saved[what] = root
            steps["save", what] = ("save", (os.path.join(root, "iter_0000007"), geometry, self.truth, extra, t,
                                            homogeneous))
        key = "decoder.layers.1.self_attention.k_layernorm.weight"
        dtype, array = self.truth[key]
        heads = np.split(array, geometry.groups)
        wrong = dict(self.truth, **{key: (dtype, np.concatenate([heads[1], heads[0], *heads[2:]]))})
        steps["wrong"] = ("load", (os.path.join(self.saved["TP 8"], "iter_0000007"), geometry, wrong, extra, (2, 1, 1)))
        world = megatron_core.World(version, 8, "harness.minimax_ranks")
        self.results = dict(zip(steps, world.run(list(steps.values()))))


_sessions = {}


class Core(MiniMaxCase):
    def sessions(self):
        if not megatron_core.versions():
            self.fail("no megatron-core: run scripts/setup.sh, or set MIMO_INTEROP=0 to leave these tests out")
        for version in megatron_core.versions():
            if version not in _sessions:
                _sessions[version] = Session(version, os.path.join(checkpoints.root(), "minimax-core" + version))
            yield version, _sessions[version]

    def test_loads(self):
        """With the metadata that lies there, which says that layers have keys of their own."""
        for version, session in self.sessions():
            for t in TOPOLOGIES:
                with self.subTest(version, topology=t):
                    self.assertEqual(session.results["load", t], [""] * 8)

    def test_saves(self):
        for version, session in self.sessions():
            for what, root in session.saved.items():
                with self.subTest(version, what=what):
                    like = self.convert(root, f"{version} {what}", "--to", "hf", "--like", session.source.directory)
                    self.assert_same_tensors(session.source.directory, like)
                    copy = self.at(f"{version} {what} run")
                    shutil.copytree(root, copy)
                    with open(os.path.join(copy, "config.json"), "w", encoding="utf-8") as f:
                        json.dump(session.source.config, f)
                    self.assert_same_tensors(session.source.plain(), self.convert(copy, f"{version} {what} split",
                                                                                 "--to", "hf"))

    def test_mistakes_are_caught(self):
        for version, session in self.sessions():
            with self.subTest(version):
                self.assertTrue(any("differs" in s for s in session.results["wrong"]), session.results["wrong"])


if __name__ == "__main__":
    unittest.main()
