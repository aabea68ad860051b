"""A run descends from its reference, or is refused before anything is written: what training moves a little passes with
room; heads, experts, layers, gate and up that stand in each other's place are named, as is what is known to put them
there. What saved arguments say about gate and up is undone, and arguments of another model are refused.

Runs are the fixture's own values, changed in numpy. The orders of gate and up are made here as trainers make them, by
cutting and joining (sources: lib/layout/gate_up.h), with nothing of the library's.
"""
import argparse
import io
import json
import os
import pickle
import re
import shutil
import struct
import sys
import types
import unittest
import zipfile

import numpy as np

from harness import compare, megatron_case, rl_step, torch_dist
from harness.megatron_case import TINY, MegatronCase
from reference import codecs, container

FIGURES = re.compile(r"descent: (\d+) heads, strips and vectors, (\d+) values compared, least cosine (-?[\d.]+)")
LAYER = "model.layers.1."  # of experts; layer 0 is dense
EXPERT = LAYER + "mlp.experts.{}.{}_proj.weight"


def in_turns(gate, up, size):
    """What a trainer with moe_mlp_glu_interleave_size has in memory, cut into the halves that are saved."""
    blocks = [block for pair in zip(np.split(gate, len(gate) // size), np.split(up, len(up) // size)) for block in pair]
    return np.split(np.concatenate(blocks), 2)


def in_halves(gate, up, ranks):
    """What FSDP2 saved: every rank has rows of [gate; up], and gives the first half of them for gate."""
    shards = np.split(np.concatenate([gate, up]), ranks)
    pieces = [np.split(shard, 2) for shard in shards]
    return np.concatenate([p[0] for p in pieces]), np.concatenate([p[1] for p in pieces])


def edit_in_place(directory, changed):
    """Other values for tensors of a Hugging Face directory, of the same size."""
    changed = dict(changed)
    for file in sorted(os.listdir(directory)):
        if not file.endswith(".safetensors"):
            continue
        with open(os.path.join(directory, file), "r+b") as f:
            length, = struct.unpack("<Q", f.read(8))
            header = json.loads(f.read(length))
            for name in set(header) & set(changed):
                begin, end = header[name]["data_offsets"]
                data = np.ascontiguousarray(changed.pop(name)).tobytes()
                assert len(data) == end - begin, name
                f.seek(8 + length + begin)
                f.write(data)
    assert not changed, sorted(changed)



def torch_save(value, base="common"):
    """torch.save(value) of what has no tensors; classes of any name."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(base + "/data.pkl", pickle.dumps(value, 2))
        archive.writestr(base + "/byteorder", "little")
        archive.writestr(base + "/version", "3\n")
    return out.getvalue()


def foreign(module, name, **state):
    """An object of a class that only the trainer has."""
    parts = module.split(".")
    for i in range(len(parts)):  # pickle imports it
        sys.modules.setdefault(".".join(parts[:i + 1]), types.ModuleType(".".join(parts[:i + 1])))
    cls = type(name, (), {"__module__": module})
    setattr(sys.modules[module], name, cls)
    made = cls()
    made.__dict__.update(state)
    return made


class DescentCase(MegatronCase):
    VARIANT = "v2.5"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.fixture = megatron_case.ours(cls.VARIANT, **TINY)
        cls.values = cls.fixture.split()

    def judged(self, run, *options, code=0):
        return self.run_tool("mimo-convert", run, "--to", "hf", "--like", self.fixture.directory, "--dry-run", *options,
                             code=code)

    def figures(self, run, *options):
        found = FIGURES.search(self.judged(run, "--verbose", *options).stderr)
        return int(found[1]), int(found[2]), float(found[3])

    def refused(self, run, finding, *words):
        result = self.judged(run, code=3)
        for word in (f"[{finding}]",) + words:
            self.assertIn(word, result.stderr)
        return result.stderr


class SplitRuns(DescentCase):
    """Runs as Hugging Face checkpoints of BF16 values."""

    def setUp(self):
        super().setUp()
        self.plain = self.convert(self.fixture.directory, "plain", "--dtype", "bf16", "--qkv", "split")

    def run_with(self, changed):
        run = self.at("run")
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(self.plain, run)
        edit_in_place(run, changed)
        return run

    def array(self, name):
        return self.values[name][1].copy()

    def swapped_rows(self, name, rows, a, b):
        array = self.array(name)
        array[a * rows:(a + 1) * rows], array[b * rows:(b + 1) * rows] = (array[b * rows:(b + 1) * rows].copy(),
                                                                         array[a * rows:(a + 1) * rows].copy())
        return {name: array}

    def swapped(self, a, b):
        return {a: self.array(b), b: self.array(a)}

    def test_light_training_passes_with_room(self):
        for steps in (1, 96):
            after, _ = rl_step.step(self.values, steps=steps)
            run = self.run_with({n: v[1] for n, v in after.items() if v is not self.values[n]})
            units, elements, least = self.figures(run)
            self.assertGreater(units, 100)
            self.assertGreater(elements, 4096 * 20)
            self.assertGreater(least, 0.9, steps)  # 0.5 is what is asked for

    def test_what_was_not_trained_is_the_same(self):
        self.assertEqual(self.figures(self.plain)[2], 1.0)

    def permutations(self):
        config = self.fixture.config
        head, v_head = config["head_dim"], config["v_head_dim"]
        gate, up = EXPERT.format(2, "gate"), EXPERT.format(2, "up")
        experts = {}
        for projection in ("gate", "up", "down"):
            experts.update(self.swapped(EXPERT.format(0, projection), EXPERT.format(3, projection)))
        columns = self.array("model.layers.0.self_attn.o_proj.weight")
        columns[:, :2 * v_head] = np.roll(columns[:, :2 * v_head], v_head, 1)
        turns = dict(zip((gate, up), in_turns(self.array(gate), self.array(up), 32)))
        halves = dict(zip((gate, up), in_halves(self.array(gate), self.array(up), 4)))
        embed = self.array("model.embed_tokens.weight")
        embed[:64] = np.roll(embed[:64], 32, 0)
        noise = np.random.default_rng(3).integers(0x3C00, 0x3D00, self.array(gate).shape, np.uint16)
        noise ^= np.random.default_rng(4).integers(0, 2, noise.shape, np.uint16) << 15
        q, k, v, o = (f"model.layers.{{}}.self_attn.{x}_proj.weight" for x in "qkvo")
        return {
            "two Q heads": (self.swapped_rows(q.format(1), head, 2, 3), "descent.heads", q.format(1), "Q head 3 of the"),
            "two K heads": (self.swapped_rows(k.format(1), head, 0, 1), "descent.heads", k.format(1), "K head 1 of the"),
            "two V heads": (self.swapped_rows(v.format(1), v_head, 0, 1), "descent.heads", v.format(1), "V head 1 of"),
            "heads of the output": ({o.format(0): columns}, "descent.heads", o.format(0), "columns of head 1 of"),
            "two experts": (experts, "descent.experts", EXPERT.format(0, "down"), "expert 3 of the same layer"),
            "one matrix of two experts": (self.swapped(EXPERT.format(1, "up"), EXPERT.format(3, "up")),
                                          "descent.experts", EXPERT.format(1, "up"), "expert 3 of the same layer"),
            "rows of the router": (self.swapped_rows(LAYER + "mlp.gate.weight", 1, 1, 2), "descent.experts",
                                   "mlp.gate.weight, row 1", "row 2 of the same matrix"),
            "gate and up": (self.swapped(gate, up), "descent.gate_up", gate, "up of the same expert"),
            "turns": (turns, "descent.interleaved", gate, "turns of 32 rows", "moe_mlp_glu_interleave_size 32",
                      "--source-gate-up experts=turns:32"),
            "halves": (halves, "descent.halves", gate, "over 4 ranks", "FSDP2", "--source-gate-up experts=halves:4"),
            "two layers": (self.swapped("model.layers.0.self_attn.o_proj.weight", "model.layers.1.self_attn.o_proj.weight"),
                           "descent.layers", "model.layers.0.self_attn.o_proj.weight", "with layer 1"),
            "rows of the embedding": ({"model.embed_tokens.weight": embed}, "descent.rows", "rows 0 to 31",
                                      "rows 32 to 63 of the same matrix"),
            "zeros": ({gate: np.zeros_like(self.array(gate))}, "descent.zero", gate),
            "sinks of zero": ({LAYER + "self_attn.attention_sink_bias":
                               np.zeros_like(self.array(LAYER + "self_attn.attention_sink_bias"))}, "descent.zero",
                              "attention_sink_bias"),
            "noise": ({gate: noise}, "descent.unrelated", gate),
        }

    def test_permutations_are_named(self):
        for name, (changed, finding, *words) in self.permutations().items():
            with self.subTest(name):
                run = self.run_with(changed)
                self.refused(run, finding, *words)
                self.judged(run, "--allow-divergence")  # nothing else finds it

    def test_parts_share_out_what_is_compared(self):
        """The part whose share holds the fault refuses, and nothing can be joined."""
        out, parts = self.at("parts"), 3
        options = ("--to", "hf", "--like", self.fixture.directory)

        def make(run):
            shutil.rmtree(out, ignore_errors=True)
            made = [self.run_tool("mimo-convert", run, out, *options, "--part", f"{i}/{parts}", code=(0, 3)) for i in range(parts)]
            return [result.stderr for result in made if result.code == 3]

        for name, (changed, finding, *words) in self.permutations().items():
            with self.subTest(name):
                refusals = make(self.run_with(changed))
                self.assertTrue(any(all(word in said for word in (f"[{finding}]", *words)) for said in refusals), refusals)
                self.run_tool("mimo-convert", "--join", out, code=(2, 3, 4))
                if name in ("noise", "two V heads", "sinks of zero"):
                    self.assertEqual(len(refusals), 1, "others have looked at it too")
        self.assertEqual(make(self.plain), [])
        guards = [f for f in os.listdir(os.path.join(out, ".mimo-partial", "units")) if f.startswith("guard-")]
        self.assertEqual(len(guards), parts)
        self.run_tool("mimo-convert", "--join", out)
        self.assert_same_trees(self.convert(self.plain, "whole", *options), out)

    def test_a_join_looks_at_what_no_part_has_seen(self):
        out, options = self.at("parts"), ("--to", "hf", "--like", self.fixture.directory)
        run = self.run_with(self.permutations()["noise"][0])
        shutil.rmtree(out, ignore_errors=True)
        for i in range(2):
            self.run_tool("mimo-convert", self.plain, out, *options, "--part", f"{i}/2")
        units = os.path.join(out, ".mimo-partial", "units")
        for name in os.listdir(units):
            if name.startswith("guard-"):
                os.remove(os.path.join(units, name))
        for name in os.listdir(run):                      # the run becomes another under the same times and names
            kept, other = os.path.join(self.plain, name), os.path.join(run, name)
            if name.endswith(".safetensors"):
                times = os.stat(kept)
                with open(other, "rb") as f, open(kept, "r+b") as g:
                    g.write(f.read())
                os.utime(kept, ns=(times.st_atime_ns, times.st_mtime_ns))
        self.assertIn("[descent.unrelated]", self.run_tool("mimo-convert", "--join", out, code=3).stderr)
        self.assert_nothing_published(out)

    def blended(self, values, cosine):
        """Of the same norm, under this cosine to `values`, in every piece of a row that may be compared."""
        noise = np.random.default_rng(5).standard_normal(values.shape)
        noise -= values * (noise * values).sum(-1, keepdims=True) / (values * values).sum(-1, keepdims=True)
        noise *= np.sqrt((values * values).sum(-1, keepdims=True) / (noise * noise).sum(-1, keepdims=True))
        return cosine * values + np.sqrt(1 - cosine * cosine) * noise

    def with_strip(self, name, change):
        """{name: the tensor with change(rows 32 to 63)}, which gets them in pieces of 128 columns."""
        values = codecs.f32_from_bf16(self.array(name)).astype(np.float64)
        pieces = values[32:64].reshape(32, -1, 128)
        values[32:64] = change(pieces).reshape(32, -1)
        return {name: codecs.bf16_from_f32(values.astype(np.float32))}

    def test_a_cosine_of_a_half_is_the_least(self):
        gate = EXPERT.format(2, "gate")
        for cosine, code in ((0.52, 0), (0.48, 3)):
            run = self.run_with(self.with_strip(gate, lambda pieces: self.blended(pieces, cosine)))
            result = self.judged(run, code=code)
            if code:
                self.assertIn("rows 32 to 63", result.stderr)

    def test_what_is_small_in_the_reference_may_be_anything(self):
        """Below a 64th of the norm that rows have there on average."""
        gate = EXPERT.format(2, "gate")
        usual = np.sqrt((codecs.f32_from_bf16(self.array(gate)).astype(np.float64) ** 2).mean())
        for share, code in ((1 / 90, 0), (1 / 45, 3)):
            def small(pieces):
                return pieces * share * usual / np.sqrt((pieces ** 2).mean(-1, keepdims=True))
            reference = self.run_with(self.with_strip(gate, small))
            shutil.rmtree(self.at("reference"), ignore_errors=True)
            os.rename(reference, self.at("reference"))
            run = self.run_with(self.with_strip(gate, lambda pieces: -small(pieces)))
            result = self.run_tool("mimo-convert", run, "--to", "hf", "--like", self.at("reference"), "--dry-run", code=code)
            if code:
                self.assertIn("rows 32 to 63", result.stderr)

    def test_vectors_of_a_few_values_may_move_as_a_whole(self):
        sinks = LAYER + "self_attn.attention_sink_bias"
        self.judged(self.run_with({sinks: self.array(sinks) ^ np.array(0x8000, self.array(sinks).dtype)}))

    def test_what_is_let_through_is_recorded(self):
        run = self.run_with(self.swapped(EXPERT.format(0, "up"), EXPERT.format(3, "up")))
        result = self.run_tool("mimo-convert", run, self.at("out"), "--like", self.fixture.directory, code=3)
        self.assertIn("[descent.experts]", result.stderr)
        self.assert_nothing_published(self.at("out"))
        out = self.convert(run, "out", "--like", self.fixture.directory, "--allow-divergence")
        notes = [n for n in compare.load_json(out, "mimo-manifest.json")["notes"] if "--allow-divergence" in n]
        self.assertEqual(len(notes), 1)
        self.assertIn("descent.experts", notes[0])
        self.assertIn("expert 3", notes[0])
        self.run_tool("mimo-verify", "check", out)

    def test_flags_without_a_use(self):
        self.run_tool("mimo-convert", self.plain, "--dry-run", "--allow-divergence", code=2)
        self.run_tool("mimo-convert", self.plain, "--dry-run", "--source-gate-up", "turns:32", code=2)
        for word in ("turns", "turns:0", "turns:x", "halves:-1", "dense:plain", ""):
            self.run_tool("mimo-convert", self.plain, "--dry-run", "--source-gate-up", word, code=2)


class SplitRunsOfFlash(SplitRuns):
    VARIANT = "v2-flash"


class MegatronRuns(DescentCase):
    """Runs that Megatron saved, with gate and up in other orders and with arguments."""

    def setUp(self):
        super().setUp()
        self.root = self.to_megatron(self.fixture, "run")
        self.iteration = torch_dist.iteration_directory(self.root)

    def arrange(self, arrange, number, dense=False):
        """Gate and up of all experts, or of the dense MLP too, as they are saved in another order."""
        checkpoint = torch_dist.Checkpoint(self.iteration)

        def change(array):
            flat = array.reshape(-1, *array.shape[-2:])
            return np.stack([np.concatenate(arrange(*np.split(one, 2), number)) for one in flat]).reshape(array.shape)

        for key in checkpoint.tensors:
            if key.endswith("linear_fc1.weight") and ("experts" in key or dense):
                checkpoint.edit(key, change)

    def save(self, **values):
        with open(os.path.join(self.iteration, "common.pt"), "wb") as f:
            f.write(torch_save({"args": argparse.Namespace(**values), "iteration": 0}))

    def configure(self, *lines):
        path = os.path.join(self.iteration, "run_config.yaml")
        with open(path, encoding="utf-8") as f:
            text = f.read()
        with open(path, "w", encoding="utf-8") as f:
            f.write(text.replace("model:\n", "model:\n" + "".join(f"  {line}\n" for line in lines), 1))

    def unconfigure(self):
        os.remove(os.path.join(self.iteration, "run_config.yaml"))

    def check(self, *options):
        """The run comes back as its reference, byte for byte. -> what its manifest notes"""
        shutil.rmtree(self.at("out"), ignore_errors=True)
        out = self.convert(self.root, "out", "--to", "hf", "--like", self.fixture.directory, *options)
        self.assert_same_trees(self.fixture.directory, out, skip=("mimo-manifest.json",))
        return "\n".join(compare.load_json(out, "mimo-manifest.json")["notes"])

    def test_turns_are_refused_and_the_advice_helps(self):
        self.arrange(in_turns, 32)
        said = self.refused(self.root, "descent.interleaved", "moe_mlp_glu_interleave_size 32", "turns of 32 rows")
        self.assertIn("turns:32", self.check("--source-gate-up", re.search(r"--source-gate-up (\S+)", said)[1]))

    def test_halves_are_refused_and_the_advice_helps(self):
        self.arrange(in_halves, 4, dense=True)
        self.refused(self.root, "descent.halves", "FSDP2", "over 4 ranks")
        self.check("--source-gate-up", "halves:4")

    def test_turns_of_which_the_arguments_tell(self):
        self.arrange(in_turns, 32)
        self.unconfigure()  # Megatron-LM has none
        self.save(moe_mlp_glu_interleave_size=32, expert_tensor_parallel_size=1, tensor_model_parallel_size=2,
                  odd=foreign("my_trainer.arguments", "Schedule", warmup=3), hidden_size=TINY["hidden"])
        self.assertIn("moe_mlp_glu_interleave_size 32 of common.pt", self.check())
        self.save(moe_mlp_glu_interleave_size=64)  # a wrong word is not believed against the values
        self.refused(self.root, "descent.interleaved", "pass --source-gate-up experts=turns:32")
        self.check("--source-gate-up", "experts=turns:32")

    def test_turns_of_each_rank(self):
        """Where ranks share out an expert, each has turns of its own, and its halves lie apart."""
        def of_ranks(gate, up, size):
            ranks = [in_turns(g, u, size) for g, u in zip(np.split(gate, 2), np.split(up, 2))]
            return np.concatenate([r[0] for r in ranks]), np.concatenate([r[1] for r in ranks])

        self.arrange(of_ranks, 16)
        self.unconfigure()
        self.save(moe_mlp_glu_interleave_size=16, tensor_model_parallel_size=4, expert_tensor_parallel_size=2)
        self.check()

    def test_what_bridge_saves_lies_in_its_place(self):
        """It says how the weights lay in memory, and puts them in their places when it saves. Where it did not, the
        reference tells."""
        self.configure("moe_mlp_glu_interleave_size: 32")
        self.assertIn("Megatron-Bridge", self.check())
        self.arrange(in_turns, 32)
        self.assertIn("turns:32: so they descend", self.check())

    def test_arguments_that_the_values_contradict(self):
        self.unconfigure()
        self.save(moe_mlp_glu_interleave_size=32)
        self.assertIn("plain: so they descend", self.check())
        out = self.at("parts")
        for i in range(3):
            self.run_tool("mimo-convert", self.root, out, "--to", "hf", "--like", self.fixture.directory, "--part", f"{i}/3")
        self.run_tool("mimo-convert", "--join", out)
        self.assert_same_trees(self.at("out"), out)

    def test_arguments_of_another_model(self):
        for name, value in (("hidden_size", 128), ("num_layers", 4), ("num_experts", 8), ("num_attention_heads", 3),
                            ("swiglu", False)):
            with self.subTest(name):
                self.save(**{name: value})
                self.refused(self.root, "descent.arguments", name, f"{int(value)} in common.pt")
        self.save(num_layers=2, swiglu=True, num_experts=None)
        self.judged(self.root)
        self.configure("moe_ffn_hidden_size: 999")
        text = self.refused(self.root, "descent.arguments", "999 in run_config.yaml")
        self.assertIn(str(TINY["moe_intermediate"]), text)

    def test_arguments_that_cannot_be_read_are_none(self):
        for data in (b"", b"x", torch_save({"args": 3}), torch_save([]), torch_save({"args": argparse.Namespace()})[:-30]):
            with open(os.path.join(self.iteration, "common.pt"), "wb") as f:
                f.write(data)
            self.judged(self.root)

    def test_arguments_in_an_item(self):
        """megatron-core 0.19 has them in the distributed checkpoint itself, as the item common_state."""
        self.arrange(in_turns, 32)
        self.unconfigure()
        os.remove(os.path.join(self.iteration, "common.pt"))
        self.refused(self.root, "descent.interleaved")
        item = torch_save([{"args": argparse.Namespace(moe_mlp_glu_interleave_size=32), "iteration": 0}], "archive")
        file = "__0_0.distcp"
        with open(os.path.join(self.iteration, file), "ab") as f:
            begin = f.tell()
            f.write(item)
        self.add_item("common_state/shard_0_1", file, begin, len(item))
        self.assertIn("common_state/shard_0_1", self.check())

    def add_item(self, key, file, begin, length):
        """One more object in .metadata: opcodes in front of the last of each dict, memo left alone."""
        path = os.path.join(self.iteration, ".metadata")
        with open(path, "rb") as f:
            data = f.read()

        def text(value):
            return b"X" + struct.pack("<I", len(value)) + value.encode()

        def state(**values):
            return b"}(" + b"".join(text(k) + v for k, v in values.items()) + b"ub"

        def number(value):
            return b"\x8a\x08" + struct.pack("<q", value)

        meta, files = torch_dist.METADATA, torch_dist.FILESYSTEM
        entry = text(key) + f"c{meta}\nBytesStorageMetadata\n)\x81".encode("latin-1")
        place = (f"c{meta}\nMetadataIndex\n)\x81".encode("latin-1") + state(fqn=text(key), index=b"N") +
                 f"c{files}\n_StorageInfo\n)\x81".encode("latin-1") +
                 state(relative_path=text(file), offset=number(begin), length=number(length)))
        # Both dicts begin with "}(" behind their names.
        for name, added in (("state_dict_metadata", entry), ("storage_data", place)):
            at = data.index(b"}(", data.index(text(name))) + 2
            data = data[:at] + added + data[at:]
        with open(path, "wb") as f:
            f.write(data)


if __name__ == "__main__":
    unittest.main()
