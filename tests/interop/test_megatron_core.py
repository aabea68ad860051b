"""Proves that Megatron-Core loads what `--to megatron` writes and that we read what it saves, with two of its releases
as published: groups of gloo processes build the sharded state dicts of the model's modules for many
topologies (TP x PP x EP x ETP), load at default strictness into tensors full of NaN, extra states and common state
included, and compare every share with tests/reference/megatron.py; and save, with optimizer and generators of random
numbers, under each of the key schemes.
Runs in .venv-interop (scripts/setup.sh); MIMO_INTEROP=0 leaves it out.
"""
import json
import os
import shutil
import unittest

import numpy as np

from harness import checkpoints, megatron_case, megatron_core, tools, torch_dist
from harness.megatron_case import TINY, MegatronCase
from reference import codecs, container, megatron
from reference.megatron import Topology

SMALL = dict(TINY, towers=False)
MODEL = dict(SMALL, pattern=(0, 1, 1, 0), mtp=2)
# TP, PP, EP, ETP of 8 processes; what is left is data parallel.
TOPOLOGIES = [Topology(*t, 8) for t in (
    (1, 1, 1, 1), (2, 1, 1, 2), (4, 1, 1, 4), (1, 2, 1, 1), (2, 2, 1, 2), (4, 2, 1, 4), (1, 1, 4, 1), (2, 1, 4, 2),
    (4, 1, 4, 1), (1, 2, 4, 1), (2, 2, 4, 1), (4, 2, 4, 1), (4, 1, 2, 4), (2, 1, 2, 1))]


def setUpModule():
    tools.path("mimo-convert")
    if not megatron_core.versions():
        raise AssertionError("no megatron-core: run scripts/setup.sh, or set MIMO_INTEROP=0 to leave these tests out")


def swapped_halves(array):
    return np.concatenate(np.split(array, 2, axis=-2)[::-1], axis=-2)


def wrong_models(config, truth):
    """{mistake: truth with that mistake}"""
    fc1, fc2 = ("decoder.layers.1.mlp.experts.experts.linear_fc%d.weight" % i for i in (1, 2))
    qkv = "decoder.layers.1.self_attention.linear_qkv.weight"
    groups = np.split(truth[qkv][1], config["swa_num_key_value_heads"])

    def but(key, array):
        return dict(truth, **{key: (truth[key][0], np.ascontiguousarray(array))})
    k_and_v = [np.concatenate([g[:-320], g[-128:], g[-320:-128]]) for g in groups]
    return {"gate and up": but(fc1, swapped_halves(truth[fc1][1])),
            "dense gate and up": but("decoder.layers.0.mlp.linear_fc1.weight",
                                     swapped_halves(truth["decoder.layers.0.mlp.linear_fc1.weight"][1])),
            "experts": but(fc2, truth[fc2][1][[1, 0, 2, 3]]), "groups": but(qkv, np.concatenate(groups[::-1])),
            "k and v": but(qkv, np.concatenate(k_and_v)),
            "one bit": but(fc2, truth[fc2][1] ^ (np.arange(truth[fc2][1].size).reshape(truth[fc2][1].shape) == 99))}


def conversions(at):
    """-> {what: (fixture, truth, iteration directory)} that the tool wrote"""
    result = {}
    for what, variant, spec, options, dtype, pad in (
            ("plain", "v2.5", MODEL, (), "bf16", 0), ("split", "v2-flash", SMALL, (), "bf16", 0),
            ("mxfp4, cut for TP 4", "v2.6", SMALL, ("--tp", 4, "--etp", 2), "bf16", 0),
            ("padded", "v2.5-pro", SMALL, ("--pad", "--tp", 4), "bf16", 4),
            ("fp32", "v2.5", SMALL, ("--dtype", "fp32"), "fp32", 0)):
        fixture, out = megatron_case.ours(variant, **spec), os.path.join(at, f"written{len(result)}")
        done = tools.run("mimo-convert", fixture.directory, out, "--to", "megatron", *options)
        assert done.code == 0, tools.describe(done)
        truth = fixture.megatron(dtype)
        result[what] = (fixture, megatron.with_padded_vocabulary(truth, pad) if pad else truth,
                        torch_dist.iteration_directory(out))
    return result


def saves(at):
    """-> {what: (fixture, topology, scheme)} that megatron-core saves"""
    small, whole = megatron_case.ours("v2.5", **SMALL), megatron_case.ours("v2.5", **MODEL)
    result = {"PP 2, EP 4": (whole, Topology(1, 2, 4, 1, 8), ""), "TP 4, ETP 4": (whole, Topology(4, 1, 2, 4, 8), ""),
              "split": (megatron_case.ours("v2-flash", **SMALL), Topology(2, 2, 2, 1, 8), ""),
              "mxfp4": (megatron_case.ours("v2.6", **SMALL), Topology(2, 2, 2, 1, 8), ""),
              "singleton": (small, Topology(2, 1, 4, 2, 8), "singleton")}
    for window in (0, 1):
        fixture = megatron_case.uniform(os.path.join(at, f"uniform{window}"), layers=2, window=window, towers=False)
        result[f"homogeneous, window {window}"] = (fixture, Topology(2, 2, 2, 1, 8), "homogeneous")
    return result


class Session:
    """All that one release does, in one group of processes: importing it costs more than all the rest."""

    def __init__(self, version, at):
        self.written, self.saved = conversions(at), saves(at)
        self.roots = {what: os.path.join(at, f"saved{n}") for n, what in enumerate(self.saved)}
        steps = {}
        for what, (fixture, topology, scheme) in self.saved.items():
            directory = os.path.join(self.roots[what], "iter_0000007")
            os.makedirs(directory)
            with open(os.path.join(self.roots[what], "latest_checkpointed_iteration.txt"), "w", encoding="ascii") as f:
                f.write("7")
            model = fixture.megatron()
            steps["save", what] = ("save", (directory, fixture.config, model, topology, fixture.mtp, scheme))
        fixture, truth, directory = self.written["plain"]
        for t in TOPOLOGIES:
            steps["load", t] = ("load", (directory, fixture.config, truth, t, fixture.mtp))
        steps["inspect"] = ("inspect", (directory, truth))
        steps["padded job"] = ("load", (directory, fixture.config, truth, Topology(2, 1, 1, 1, 8), fixture.mtp, 512))
        for what, (one, values, place) in list(self.written.items())[1:]:
            steps["load", what] = ("load", (place, one.config, values, Topology(4, 1, 2, 2, 8), one.mtp))
        saved, topology = os.path.join(self.roots["PP 2, EP 4"], "iter_0000007"), Topology(2, 1, 2, 2, 8)
        steps["right"] = ("load", (saved, fixture.config, truth, topology, fixture.mtp))
        self.wrong = wrong_models(fixture.config, truth)
        for mistake, model in self.wrong.items():
            steps["wrong", mistake] = ("load", (saved, fixture.config, model, topology, fixture.mtp))
        steps["more"] = ("load", (saved, fixture.config, truth, topology, fixture.mtp + 1))
        self.results = dict(zip(steps, megatron_core.World(version, 8).run(list(steps.values()))))


_sessions = {}


class CoreCase(MegatronCase):
    def sessions(self):
        for version in megatron_core.versions():
            if version not in _sessions:
                try:
                    _sessions[version] = Session(version, os.path.join(checkpoints.root(), "core" + version))
                except AssertionError as error:             # once, not once per test
                    _sessions[version] = error
            if isinstance(_sessions[version], AssertionError):
                self.fail(f"megatron-core {version}: {_sessions[version]}")
            yield version, _sessions[version]


class Loads(CoreCase):
    def test_every_topology(self):
        for version, session in self.sessions():
            for topology in TOPOLOGIES:
                with self.subTest(version, topology=topology):
                    self.assertEqual(session.results["load", topology], [""] * 8)

    def test_variants(self):
        """Split and fused sources, MXFP4, 128 heads; padded and cut for TP 4; FP32."""
        for version, session in self.sessions():
            for what in list(session.written)[1:]:
                with self.subTest(version, what=what):
                    self.assertEqual(session.results["load", what], [""] * 8)

    def test_a_padded_job(self):
        """One that asks for more rows of the vocabulary than are stored."""
        for version, session in self.sessions():
            with self.subTest(version):
                self.assertEqual(session.results["padded job"], [""] * 8)

    def test_other_readers(self):
        """load_tensors_metadata, load_plain_tensors, load_content_metadata"""
        for version, session in self.sessions():
            with self.subTest(version):
                self.assertEqual(session.results["inspect"], [len(session.written["plain"][1])] * 8)


class Saves(CoreCase):
    """Topologies, variants, and the other schemes of keys: per expert with gate and up apart (singleton), all layers of
    a kind in one tensor (homogeneous, which only models with layers all alike have)."""

    def each(self):
        for version, session in self.sessions():
            for what, (fixture, _, _) in session.saved.items():
                yield version, what, fixture, session.roots[what]

    def test_with_the_source(self):
        """--like SOURCE: its own bytes."""
        for version, what, fixture, root in self.each():
            with self.subTest(version, what=what):
                out = self.convert(root, f"{version} {what}", "--to", "hf", "--like", fixture.directory)
                self.assert_same_tensors(container.read_directory(fixture.directory), out)

    def test_with_a_config(self):
        """By the config.json that lies there: split, as stored; routers stay F32."""
        for version, what, fixture, root in self.each():
            with self.subTest(version, what=what):
                copy = self.at(f"{version} {what} run")
                shutil.copytree(root, copy)
                with open(os.path.join(copy, "config.json"), "w", encoding="utf-8") as f:
                    json.dump(fixture.config, f)
                expected = fixture.split()
                for name in [n for n in expected if n.endswith(".mlp.gate.weight")]:
                    expected[name] = ("F32", codecs.decode_plain(*expected[name]))
                self.assert_same_tensors(expected, self.convert(copy, f"{version} {what}", "--to", "hf"))


class Judge(CoreCase):
    def test_mistakes_are_caught(self):
        """Of a checkpoint that megatron-core saved, and so is right: every wrong truth is told apart."""
        for version, session in self.sessions():
            with self.subTest(version):
                self.assertEqual(session.results["right"], [""] * 8)
                for mistake in session.wrong:
                    said = session.results["wrong", mistake]
                    self.assertTrue(any("differs" in s for s in said), f"{mistake} is not noticed")
                self.assertTrue(all("_extra_state" in s for s in session.results["more"]), "a state that is missing")


if __name__ == "__main__":
    unittest.main()
