"""Tensor files that the index does not name: what it forgot is read, what is held elsewhere stays behind, what nobody
knows is refused unless told. And tensors of a run that no table knows, named as what they are.

Inputs are made by moving tensors between files and editing the index; what must come out is what the whole checkpoint
gives (an MTP file that the index forgot is as good as one that it names), or names written down here.
"""
import json
import os
import shutil

import numpy as np

from harness import checkpoints, compare, megatron_case, torch_dist
from harness.case import ToolCase
from harness.megatron_case import MegatronCase
from reference import container

TINY = checkpoints.TINY
SPLIT = ("--dtype", "bf16", "--qkv", "split")


class StrayCase(ToolCase):
    def source(self, name="source"):
        directory = self.at(name)
        shutil.copytree(checkpoints.ours("v2.5", **TINY)[0], directory)
        return directory

    def whole(self):
        return self.convert(self.source("whole"), "of-whole", *SPLIT)

    def index(self, directory, change):
        path = os.path.join(directory, "model.safetensors.index.json")
        index = compare.load_json(path)
        change(index)
        with open(path, "w", encoding="utf-8") as f:
            json.dump(index, f)

    def forget(self, directory, wanted):
        def change(index):
            for name in [n for n in index["weight_map"] if wanted(n)]:
                del index["weight_map"][name]
        self.index(directory, change)

    def move(self, directory, wanted, file):
        """Tensors into a file of their own, which the index does not name."""
        moved = {}
        for old in container.tensor_files(directory):
            path = os.path.join(directory, old)
            tensors = {n: (d, np.array(a)) for n, (d, a) in container.read(path).items()}
            taken = {n: v for n, v in tensors.items() if wanted(n)}
            if not taken:
                continue
            metadata = container.read_header(path)[1]
            moved.update(taken)
            rest = {n: v for n, v in tensors.items() if n not in taken}
            os.remove(path)
            if rest:
                container.write(path, rest, metadata)
        container.write(os.path.join(directory, file), moved, {"format": "pt"})
        self.forget(directory, wanted)

    def put(self, directory, file, tensors):
        path = os.path.join(directory, file)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        container.write(path, tensors, {"format": "pt"})

    def some(self, directory, wanted, fill=0):
        return {n: (d, np.full_like(a, fill)) for n, (d, a) in container.read_directory(directory).items() if wanted(n)}

    def refused(self, directory, finding, *options, says=()):
        result = self.run_tool("mimo-convert", directory, self.at("refused"), *SPLIT, *options, code=3)
        for text in (f"[{finding}]", *says):
            self.assertIn(text, result.stderr)
        self.assert_nothing_published(self.at("refused"))
        self.assertIn(finding, self.run_tool("mimo-inspect", directory, code=(0, 3)).stdout)


class Forgotten(StrayCase):
    def test_what_the_index_forgot_is_read(self):
        """MTP in its own file or in one with layers of the model; under any name; and everything is in the new index."""
        expected = self.whole()
        for i, (file, wanted) in enumerate((
                ("mtp.safetensors", lambda n: ".mtp." in n),
                ("zz-extra.safetensors", lambda n: ".mtp." in n or n == "lm_head.weight"),
                ("a.safetensors", lambda n: n.startswith("model.layers.1.mlp.experts.0.")))):
            with self.subTest(file):
                source = self.source(f"source{i}")
                self.move(source, wanted, file)
                out = self.at(f"out{i}")
                run = self.run_tool("mimo-convert", source, out, *SPLIT)
                self.assertIn(f"travel.forgotten_file: {file}", run.stderr)
                self.assert_same_tensors(expected, out)
                self.assertEqual(compare.index_problems(out), [])
                self.assertIn("travel.forgotten_file", self.run_tool("mimo-inspect", source).stdout)
                kept = self.convert(source, f"kept{i}", "--max-shard-size", "1MB")
                self.assertEqual(compare.index_problems(kept), [])
                self.assert_same_tensors(source, kept)

    def test_unknown_tensors_in_it_are_unknown(self):
        source = self.source()
        self.move(source, lambda n: ".mtp." in n, "mtp.safetensors")
        tensors = {n: (d, np.array(a)) for n, (d, a) in container.read(os.path.join(source, "mtp.safetensors")).items()}
        self.put(source, "mtp.safetensors", {**tensors, "model.mtp.odd": ("F32", np.zeros(3, np.float32))})
        result = self.run_tool("mimo-convert", source, self.at("refused"), *SPLIT, code=3)
        self.assertIn("[unknown.tensor]", result.stderr)
        self.convert(source, "dropped", *SPLIT, "--unknown", "drop")

    def test_two_that_hold_the_same_are_refused(self):
        source = self.source()
        self.move(source, lambda n: ".mtp." in n, "mtp.safetensors")
        shutil.copy(os.path.join(source, "mtp.safetensors"), os.path.join(source, "model-mtp.safetensors"))
        result = self.run_tool("mimo-convert", source, self.at("refused"), *SPLIT, code=3)
        for text in ("[travel.stored_twice]", "mtp.safetensors", "model-mtp.safetensors"):
            self.assertIn(text, result.stderr)
        # As the advice has it: an index that names the right one.
        self.index(source, lambda index: index["weight_map"].update(
            {n: "mtp.safetensors" for n in container.read(os.path.join(source, "mtp.safetensors"))}))
        self.assert_same_tensors(self.whole(), self.convert(source, "out", *SPLIT))


class UnderAPrefix(StrayCase):
    """What lies beside the index is called as what the index names is: it is judged under the names of the release."""

    def prefixed(self, name):
        directory = self.source(name)
        for file in container.tensor_files(directory):
            path = os.path.join(directory, file)
            tensors = {"language_model." + n: (d, np.array(a)) for n, (d, a) in container.read(path).items()}
            container.write(path, tensors, container.read_header(path)[1])
        self.index(directory, lambda index: index.update(
            weight_map={"language_model." + n: f for n, f in index["weight_map"].items()}))
        return directory

    def test_forgotten(self):
        expected, source = self.whole(), self.prefixed("forgotten")
        self.move(source, lambda n: ".mtp." in n, "mtp.safetensors")
        run = self.run_tool("mimo-convert", source, self.at("out"), *SPLIT)
        self.assertIn("travel.forgotten_file: mtp.safetensors", run.stderr)
        self.assert_same_tensors(expected, self.at("out"))

    def test_stale(self):
        expected, source = self.whole(), self.prefixed("stale")
        self.put(source, "old.safetensors", self.some(source, lambda n: ".layers.1." in n))
        run = self.run_tool("mimo-convert", source, self.at("out"), *SPLIT)
        self.assertIn("travel.stale_file: old.safetensors", run.stderr)
        self.assert_same_tensors(expected, self.at("out"))
        self.assertNotIn("old.safetensors", os.listdir(self.at("out")))

    def test_partly_listed_and_partly_unknown(self):
        for name, more, finding in (("partly", lambda n: ".mtp." in n, "travel.partly_listed_file"),
                                    ("mixed", lambda n: False, "travel.partly_unknown_file")):
            source = self.prefixed(name)
            moved = {n: t for n, t in container.read_directory(source).items() if more(n)}
            self.move(source, more, "beside.safetensors")
            odd = {"language_model.odd": ("F32", np.zeros(3, np.float32))} if not moved else {}
            self.put(source, "beside.safetensors",
                     {**moved, **odd, **self.some(source, lambda n: n.endswith("model.norm.weight"))})
            self.refused(source, finding, says=("beside.safetensors",))


class Stale(StrayCase):
    def test_what_is_held_elsewhere_stays_behind(self):
        """Whatever it is called, at the top or in a directory that is no model of its own."""
        expected = self.whole()
        for i, file in enumerate(("model.safetensors", "consolidated.safetensors", "zz.safetensors",
                                  "original/consolidated.safetensors")):
            with self.subTest(file):
                source = self.source(f"source{i}")
                self.put(source, file, self.some(source, lambda n: ".layers.1." in n))
                out = self.at(f"out{i}")
                run = self.run_tool("mimo-convert", source, out, *SPLIT)
                self.assertIn(f"travel.stale_file: {file}", run.stderr)
                self.assertFalse(os.path.exists(os.path.join(out, file)))
                self.assert_same_tensors(expected, out)
                self.assertIn("travel.stale_file", self.run_tool("mimo-inspect", source).stdout)

    def test_a_model_in_a_subdirectory_is_its_own(self):
        source = self.source()
        self.put(source, "draft/model.safetensors", self.some(source, lambda n: "norm" in n))
        with open(os.path.join(source, "draft", "config.json"), "w", encoding="utf-8") as f:
            f.write("{}")
        self.put(source, "other/model.safetensors", {"encoder.weight": ("F32", np.zeros(3, np.float32))})
        out = self.convert(source, "out", *SPLIT)
        for file in ("draft/model.safetensors", "other/model.safetensors"):
            self.assertEqual(container.read(os.path.join(out, file)).keys(),
                             container.read(os.path.join(source, file)).keys())

    def test_a_part_of_it_is_undecidable(self):
        """Tensors of listed files beside some that only this one has: no rule says which are right."""
        source = self.source()
        self.move(source, lambda n: ".mtp." in n, "mtp.safetensors")
        tensors = {n: (d, np.array(a)) for n, (d, a) in container.read(os.path.join(source, "mtp.safetensors")).items()}
        double = self.some(source, lambda n: n == "model.norm.weight")
        self.put(source, "mtp.safetensors", {**tensors, **double})
        holder = next(f for f in container.tensor_files(source)
                      if f != "mtp.safetensors" and "model.norm.weight" in container.read(os.path.join(source, f)))
        for options in ((), ("--unknown", "drop"), ("--unknown", "carry")):
            self.refused(source, "travel.partly_listed_file", *options, says=("mtp.safetensors", holder))
        # As the advice has it: elsewhere, or with its own tensors alone.
        os.rename(os.path.join(source, "mtp.safetensors"), self.at("moved"))
        self.convert(source, "without", *SPLIT)
        self.put(source, "mtp.safetensors", tensors)
        self.assert_same_tensors(self.whole(), self.convert(source, "out", *SPLIT))

    def test_copies_beside_unknown_ones(self):
        source = self.source()
        self.put(source, "old.safetensors", {**self.some(source, lambda n: n == "model.norm.weight"),
                                             "model.rotary_emb.inv_freq": ("F32", np.zeros(3, np.float32))})
        self.refused(source, "travel.partly_unknown_file", says=("old.safetensors",))
        self.refused(source, "travel.partly_unknown_file", "--unknown", "carry")
        out = self.convert(source, "out", *SPLIT, "--unknown", "drop")
        self.assertNotIn("old.safetensors", os.listdir(out))


class Unknown(StrayCase):
    def test_only_when_told(self):
        for i, (file, content) in enumerate((
                ("adapter_model.safetensors", {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight":
                                               ("F32", np.zeros((2, 3), np.float32))}),
                ("vae.safetensors", {"decoder.conv.weight": ("F32", np.zeros(3, np.float32))}),
                ("broken.safetensors", None), ("pytorch_model.bin", None), ("MiMo.Q4_K_M.gguf", None))):
            with self.subTest(file):
                source = self.source(f"source{i}")
                if content is None:
                    with open(os.path.join(source, file), "wb") as f:
                        f.write(b"GGUF or something")
                else:
                    self.put(source, file, content)
                self.refused(source, "travel.unknown_file", says=(file,))
                carried = self.convert(source, f"carried{i}", *SPLIT, "--unknown", "carry")
                dropped = self.convert(source, f"dropped{i}", *SPLIT, "--unknown", "drop")
                with open(os.path.join(source, file), "rb") as a, open(os.path.join(carried, file), "rb") as b:
                    self.assertEqual(a.read(), b.read())
                self.assertNotIn(file, os.listdir(dropped))
                self.assertEqual(compare.index_problems(dropped), [])

    def test_other_small_files_travel(self):
        source = self.source()
        for file in ("training_args.bin", "notes.pt", "model.py"):
            with open(os.path.join(source, file), "wb") as f:
                f.write(b"x")
        out = self.convert(source, "out", *SPLIT)
        self.assertLessEqual({"training_args.bin", "notes.pt", "model.py"}, set(os.listdir(out)))


class MtpCount(StrayCase):
    def test_the_config_follows_what_is_written(self):
        source = self.source()
        self.forget(source, lambda n: ".mtp." in n)
        os.remove(os.path.join(source, "model_mtp.safetensors"))
        path = os.path.join(source, "config.json")
        config = compare.load_json(path)
        with open(path, "w", encoding="utf-8") as f:
            json.dump(dict(config, num_nextn_predict_layers=3), f)
        out = self.convert(source, "out", *SPLIT)
        self.assertEqual(compare.load_json(out, "config.json")["num_nextn_predict_layers"], 0)
        self.assertIn("num_nextn_predict_layers", self.run_tool("mimo-inspect", source).stdout)


STRANGERS = (("unknown.lora", "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", (4, 8)),
             ("unknown.lora", "model.layers.0.mlp.down_proj.lora_B.default.weight", (8, 4)),
             ("unknown.bias", "model.layers.0.self_attn.q_proj.bias", (8,)),
             ("unknown.qk_norm", "model.layers.0.self_attn.q_norm.weight", (8,)),
             ("unknown.shared_expert", "model.layers.1.mlp.shared_experts.up_proj.weight", (4, 8)),
             ("unknown.shared_expert", "model.layers.1.mlp.shared_expert_gate.weight", (1, 8)),
             ("unknown.buffer", "model.rotary_emb.inv_freq", (8,)),
             ("unknown.tensor", "model.layers.0.mystery.weight", (8,)))


class Strangers(StrayCase, MegatronCase):
    def with_tensor(self, directory, name, shape):
        file = container.tensor_files(directory)[0]
        path = os.path.join(directory, file)
        tensors = {n: (d, np.array(a)) for n, (d, a) in container.read(path).items()}
        value = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        self.put(directory, file, {**tensors, name: ("F32", value)})
        self.index(directory, lambda index: index["weight_map"].update({name: file}))
        return value

    def test_of_a_checkpoint(self):
        for i, (finding, name, shape) in enumerate(STRANGERS):
            with self.subTest(name):
                source = self.source(f"source{i}")
                self.with_tensor(source, name, shape)
                result = self.run_tool("mimo-convert", source, self.at("refused"), *SPLIT, code=3)
                self.assertIn(f"[{finding}]", result.stderr)
                self.assertIn(name, result.stderr)

    def test_of_a_run_under_like(self):
        """Never lost without a word: refused by name, left out when told, carried beside the reference's when told."""
        reference = checkpoints.ours("v2.5", **TINY)[0]
        plain = container.read_directory(self.convert(self.convert(reference, "run", *SPLIT), "plain", "--like", reference))
        for i, (finding, name, shape) in enumerate(STRANGERS):
            with self.subTest(name):
                run = self.convert(reference, f"run{i}", *SPLIT)
                value = self.with_tensor(run, name, shape)
                result = self.run_tool("mimo-convert", run, self.at("refused"), "--like", reference, code=3)
                for text in (f"[{finding}]", name, run):
                    self.assertIn(text, result.stderr)
                dropped = self.convert(run, f"dropped{i}", "--like", reference, "--unknown", "drop")
                self.assert_same_tensors(plain, dropped)
                self.assertIn("--unknown drop", json.dumps(compare.load_json(dropped, "mimo-manifest.json")))
                carried = self.convert(run, f"carried{i}", "--like", reference, "--unknown", "carry")
                self.assert_same_tensors({**plain, name: ("F32", value)}, carried)
                self.assertEqual(compare.index_problems(carried), [])

    def test_of_a_saved_run_under_like(self):
        """torch_dist: adapters, q/k norms and shared experts, in one part or several. What the run has of MTP gets their
        keys; the reference's takes its place."""
        fixture = megatron_case.ours("v2.5", **TINY)
        truth = fixture.megatron("bf16")
        for i, (finding, module) in enumerate((("unknown.lora", "self_attention.linear_proj.adapter"),
                                               ("unknown.qk_norm", "self_attention.q_layernorm"),
                                               ("unknown.shared_expert", "mlp.shared_experts"))):
            with self.subTest(module):
                run = self.to_megatron(fixture, f"run{i}", "--tp", 2)
                keys = torch_dist.rename(torch_dist.iteration_directory(run),
                                         lambda key: key.replace("mtp.layers.0.", f"decoder.layers.0.{module}."))
                new = {key: old for old, key in keys.items() if old != key}
                like = ("--to", "hf", "--like", fixture.directory)
                result = self.run_tool("mimo-convert", run, self.at(f"refused{i}"), *like, code=3)
                self.assertIn(f"[{finding}]", result.stderr)
                self.assertIn(f"{len(new)} unknown", result.stderr)
                dropped = self.convert(run, f"dropped{i}", *like, "--unknown", "drop")
                self.assertEqual(compare.index_problems(dropped), [])
                carried = self.convert(run, f"carried{i}", *like, "--unknown", "carry")
                self.assertEqual(compare.index_problems(carried), [])
                self.assert_same_tensors({**container.read_directory(dropped), **{key: truth[new[key]] for key in new}},
                                         carried)

    def test_rows_beyond_the_vocabulary(self):
        """Megatron pads the vocabulary; what training put there is cut off, counted and said. Zeros are not."""
        fixture = megatron_case.ours("v2.5", **TINY)
        run = self.to_megatron(fixture, "run", "--tp", 2, "--pad")
        silent = self.run_tool("mimo-convert", run, self.at("silent"), "--to", "hf", "--like", fixture.directory)
        self.assertNotIn("travel.", silent.stderr)
        key, vocab = "embedding.word_embeddings.weight", TINY["vocab"]
        checkpoint = torch_dist.Checkpoint(torch_dist.iteration_directory(run))
        padded = checkpoint.tensors[key].shape[0]
        self.assertGreater(padded, vocab + 3)

        def fill(rows):
            rows[vocab + 1] = 0x3F80
            rows[padded - 1, 5] = 0x3F80
            rows[vocab, 3] = 0x8000            # -0
            return rows

        checkpoint.edit(key, fill)
        said = self.run_tool("mimo-convert", run, self.at("said"), "--to", "hf", "--like", fixture.directory)
        self.assertIn("travel.vocabulary_rows: model.embed_tokens.weight: 2 of "
                      f"{padded - vocab} rows beyond the vocabulary", said.stderr)
        self.assert_same_tensors(self.at("silent"), self.at("said"))
