"""Proves what --to vllm|sglang makes of MiniMax-M2: directories that hold the model and nothing else, rank files that are,
byte for byte, what an independent numpy model of vLLM's ranks holds (reference/minimax.py), and the way back.

The norms of Q and K are vectors over all heads: they are cut with them, and repeated with KV heads where ranks outnumber
these. Sizes have fewer KV heads than ranks, as many, and more; experts whose blocks ranks cut; a vocabulary to pad.
"""
import json
import os
import shutil
import subprocess
import sys

import numpy as np

from harness import checkpoints, compare
from harness.case import ToolCase
from reference import codecs, container, minimax

# Head counts and expert width are the released ones; experts as many as the most ranks.
REAL = dict(layers=1, hidden=128, experts=48, heads=48, kv_heads=8, intermediate=1536, vocab=384)
SMALL = dict(layers=2, hidden=256, experts=16, heads=16, kv_heads=4, intermediate=512, vocab=300)
WIDE = dict(layers=1, hidden=128, experts=4, heads=16, kv_heads=8, head_dim=256, intermediate=2048, vocab=128)


def read_rank(directory, rank):
    found = {}
    for file in container.tensor_files(directory):
        if file.startswith(f"model-rank-{rank}-part-"):
            for name, value in container.read(os.path.join(directory, file)).items():
                assert name not in found, name
                found[name] = value
    return found


def loaded(path):
    """As container.read, for files that are then written."""
    return {name: (dtype, np.array(array)) for name, (dtype, array) in container.read(path).items()}


class MinimaxCase(ToolCase):
    made = {}

    def source(self, seed=0, **size):
        """-> (directory, tensors, config); read only."""
        key = (seed, repr(sorted(size.items())))
        if key not in self.made:
            directory = os.path.join(checkpoints.root(), f"minimax-ranks-{len(self.made)}")
            self.made[key] = (directory, minimax.make_checkpoint(directory, seed, **size), minimax.config_of(**size))
        return self.made[key]

    def ranks(self, source, name, tp, ep=1, *options):
        return self.convert(source, name, "--to", "vllm", "--format", "sharded-state", "--tp", tp, "--ep", ep, *options)

    def check_ranks(self, out, tensors, config, tp, ep=1, cache_scales=True, own=None):
        """own: arrays that hold other constants or scales of the KV cache."""
        for rank in range(tp):
            expected = minimax.rank_state(tensors, config, tp, rank, ep)
            expected.update(minimax.rank_constants(config["num_hidden_layers"], cache_scales))
            expected.update(own or {})
            self.assert_same_tensors(expected, read_rank(out, rank), f"rank {rank} of {tp}, ep {ep}")


class Ranks(MinimaxCase):
    def test_against_the_model_of_ranks(self):
        for seed, size, places in ((1, SMALL, ((1, 1), (2, 1), (4, 1), (2, 2), (8, 8), (16, 16))),
                                   (2, WIDE, ((2, 1), (8, 1), (16, 1), (4, 4))),
                                   (3, REAL, ((4, 1), (24, 24), (48, 48)))):
            source, tensors, config = self.source(seed, **size)
            for tp, ep in places:
                with self.subTest(seed=seed, tp=tp, ep=ep):
                    out = self.ranks(source, f"ranks-{seed}-{tp}-{ep}", tp, ep)
                    self.check_ranks(out, tensors, config, tp, ep)
                    self.check_back(source, out, f"back-{seed}-{tp}-{ep}")

    def check_back(self, source, out, name):
        """The source's files again, and its tensors where nothing is restored."""
        self.assert_same_trees(source, self.convert(out, name, "--qkv", "restore"), skip=("mimo-manifest.json",))
        self.run_tool("mimo-verify", "compare", source, out)
        self.run_tool("mimo-verify", "check", out)

    def test_values(self):
        """BF16, of a quantized source and of one that is BF16 already."""
        for name, size, options in (("decoded", SMALL, ("--dtype", "bf16")), ("bf16", dict(SMALL, quantized=False), ())):
            source, tensors, config = self.source(4, **size)
            for tp, ep in ((2, 1), (8, 1), (16, 1), (8, 8)):
                with self.subTest(name, tp=tp, ep=ep):
                    out = self.ranks(source, f"{name}-{tp}-{ep}", tp, ep, *options)
                    self.check_ranks(out, minimax.decoded(tensors), config, tp, ep, cache_scales=False)

    def test_recipes(self):
        """A rank holds a cut of what the same recipe makes of the whole model."""
        source, _, config = self.source(5, **SMALL)
        for recipe in ("nvfp4", "nvfp4-experts", "mxfp8", "nvfp4-experts+mxfp8-attention"):
            whole = self.convert(source, f"{recipe}-whole", "--recipe", recipe)
            tensors = container.read_directory(whole)
            for tp, ep in ((2, 1), (8, 1), (4, 4)):
                with self.subTest(recipe, tp=tp, ep=ep):
                    made = self.ranks(source, f"{recipe}-{tp}-{ep}", tp, ep, "--recipe", recipe)
                    kept = self.ranks(whole, f"{recipe}-{tp}-{ep}-kept", tp, ep)
                    for out in (made, kept):
                        for rank in (0, tp - 1):
                            expected = minimax.rank_state(tensors, config, tp, rank, ep)
                            found = read_rank(out, rank)
                            self.assert_same_tensors(expected, {n: v for n, v in found.items() if n in expected})
                            more = {n.rpartition(".")[2] for n in set(found) - set(expected)
                                    if ".attn." not in n}
                            self.assertLessEqual(more, {"input_scale", "w13_input_scale", "w2_input_scale"})
                    back = self.convert(made, f"{recipe}-{tp}-{ep}-back", "--qkv", "split")
                    self.assert_same_tensors(tensors, back, f"{recipe} back from {tp} ranks")

    def test_router_and_its_bias_are_f32(self):
        """Whatever the checkpoint has: public BF16 copies round them."""
        source, tensors, config = self.source(6, **SMALL)
        directory = self.at("rounded")
        shutil.copytree(source, directory)
        rounded = dict(tensors)
        for file in container.tensor_files(directory):
            path = os.path.join(directory, file)
            held = loaded(path)
            for name in held:
                if name.endswith(".gate.weight"):
                    held[name] = rounded[name] = ("BF16", codecs.bf16_from_f32(held[name][1]))
            container.write(path, held, {"format": "pt"})
        out = self.ranks(directory, "ranks", 4)
        self.check_ranks(out, rounded, config, 4)
        self.assert_same_tensors(rounded, self.convert(out, "back", "--qkv", "restore"))

    def test_replicas_are_compared(self):
        """Ranks of one KV head hold its norm, whole and the same."""
        source, tensors, _ = self.source(1, **SMALL)
        out = self.ranks(source, "ranks", 8, 8)
        norm = "model.layers.1.self_attn.k_norm.weight"
        for rank, wrong in ((5, lambda a: np.roll(a, 1)), (5, lambda a: a[:64]), (6, lambda a: a[::-1])):
            broken = self.at(f"broken{len(os.listdir(self.tmp))}")
            shutil.copytree(out, broken)
            path = os.path.join(broken, f"model-rank-{rank}-part-2.safetensors")
            held = loaded(path)
            dtype, array = held[norm]
            self.assertTrue(np.array_equal(array, tensors[norm][1][rank // 2 * 128:][:128]))
            held[norm] = (dtype, np.ascontiguousarray(wrong(array)))
            container.write(path, held, {"format": "pt"})
            os.remove(os.path.join(broken, "mimo-manifest.json"))
            back = self.at("back" + os.path.basename(broken))
            refused = self.run_tool("mimo-convert", broken, back, "--qkv", "restore", code=3)
            self.assertIn("k_norm", refused.stderr)
            self.assert_nothing_published(back)

    def test_scales_of_the_cache(self):
        source, tensors, config = self.source(7, **SMALL)
        directory = self.at("scaled")
        shutil.copytree(source, directory)
        numbers = {f"model.layers.{n}.self_attn.{x}_proj.{x}_scale": ("F32", np.float32(0.01 * n + (x == "v")).reshape(()))
                   for n in range(2) for x in "kv"}
        container.write(os.path.join(directory, "model-kv.safetensors"), numbers, {"format": "pt"})
        index = compare.load_json(directory, "model.safetensors.index.json")
        index["weight_map"].update(dict.fromkeys(numbers, "model-kv.safetensors"))
        index["metadata"]["total_size"] += 4 * len(numbers)
        stored = dict(config, quantization_config=dict(config["quantization_config"], kv_cache_scheme={
            "num_bits": 8, "type": "float", "dynamic": False}))
        for name, document in (("model.safetensors.index.json", index), ("config.json", stored)):
            with open(os.path.join(directory, name), "w") as f:
                json.dump(document, f)
        for engine in ("vllm", "sglang"):
            out = self.convert(directory, engine, "--to", engine, "--tp", 8, "--ep", 8)
            self.assert_same_tensors({**tensors, **numbers}, out, engine)
        out = self.ranks(directory, "ranks", 8, 8)
        own = {n.replace("k_proj.", "attn.").replace("v_proj.", "attn."): v for n, v in numbers.items()}
        self.check_ranks(out, tensors, config, 8, 8, own=own)
        self.assert_same_tensors({**tensors, **numbers}, self.convert(out, "back", "--qkv", "restore"))

    def test_padded_ranks(self):
        source, tensors, config = self.source(8, **dict(SMALL, intermediate=384))
        for tp, wide in ((2, 512), (4, 512), (8, 1024), (16, 2048)):
            with self.subTest(tp=tp):
                out = self.ranks(source, f"padded{tp}", tp, 1, "--pad")
                model = minimax.padded(tensors, config, wide)
                self.check_ranks(out, model, dict(config, intermediate_size=wide), tp)
                self.assertEqual(compare.load_json(out, "config.json")["intermediate_size"], wide)
                self.check_back(source, out, f"back{tp}")

    def test_refused(self):
        source = self.source(1, **SMALL)[0]
        cut = self.source(8, **dict(SMALL, intermediate=384))[0]
        for directory, options, says in (
                (cut, ("--tp", 2), "whole blocks"),               # scales whose shape the engine's kernels decide
                (source, ("--tp", 3, "--pad"), "over all heads"),
                (source, ("--tp", 32, "--pad"), "over all heads"),
                (source, ("--tp", 32), "TP 16, the nearest"),
                (source, ("--tp", 2, "--ep", 4), "--ep")):
            with self.subTest(options=options):
                result = self.run_tool("mimo-convert", directory, self.at("out"), "--to", "vllm", "--format",
                                       "sharded-state", *options, code=2)
                self.assertIn(says, result.stderr)
                self.assertFalse(os.path.exists(self.at("out")))


class Directories(MinimaxCase):
    def check(self, out, tensors, config):
        """These tensors, and a config of the source's keys with these values."""
        self.assert_same_tensors(tensors, out)
        self.assertEqual(compare.index_problems(out), [])
        found = compare.load_json(out, "config.json")
        marker = found.pop("mimo_layout", {"qkv": "split"})
        self.assertEqual(marker["qkv"], "split")
        lists = found["quantization_config"]
        self.assertEqual(lists.pop("ignored_layers", lists["modules_to_not_convert"]), lists["modules_to_not_convert"])
        self.assertEqual(found, config)

    def test_every_size_of_the_release(self):
        source, tensors, config = self.source(3, **REAL)
        for engine, plain in (("vllm", (1, 2, 4, 8, 16, 24, 48)), ("sglang", (1, 2, 4))):
            for tp in (1, 2, 4, 8, 16, 24, 48):
                with self.subTest(engine, tp=tp):
                    options = ("--to", engine, "--tp", tp)
                    self.check(self.convert(source, f"{engine}{tp}ep", *options, "--ep", tp), tensors, config)
                    if tp in plain:
                        self.check(self.convert(source, f"{engine}{tp}", *options), tensors, config)
                    else:
                        refused = self.run_tool("mimo-convert", source, self.at("refused"), *options, code=2)
                        self.assertIn("whole blocks", refused.stderr)
                    wide = -(-1536 // (128 * tp)) * 128 * tp
                    out = self.convert(source, f"{engine}{tp}pad", *options, "--pad")
                    self.check(out, minimax.padded(tensors, config, wide), dict(config, intermediate_size=wide))
                    if wide > 1536:
                        self.assert_same_trees(source, self.convert(out, f"{engine}{tp}back", "--qkv", "restore"),
                                               skip=("mimo-manifest.json",))
                        self.run_tool("mimo-verify", "check", out)

    def test_smaller_blocks_are_said(self):
        """vLLM repeats scales for blocks of 32 rows and more, SGLang does not."""
        source = self.source(8, **dict(SMALL, intermediate=384))[0]
        for tp, loads in ((2, True), (4, True), (8, False)):
            result = self.run_tool("mimo-convert", source, "--to", "vllm", "--tp", tp, "--dry-run", code=0 if loads else 2)
            text = result.stdout + result.stderr
            self.assertIn("Triton" if loads else f"{tp} x 32", text)

    def test_padded_vocabulary(self):
        source, tensors, config = self.source(9, **dict(REAL, experts=24, vocab=320))
        out = self.convert(source, "padded", "--to", "vllm", "--tp", 24, "--ep", 24, "--pad")
        self.check(out, minimax.padded(tensors, config, vocab=384), dict(config, vocab_size=384))

    def test_heads_are_never_padded(self):
        """Zeros would count in the mean square of a norm over all heads."""
        source = self.source(3, **REAL)[0]
        for tp in (5, 32, 64):
            result = self.run_tool("mimo-convert", source, self.at("out"), "--to", "vllm", "--tp", tp, "--pad", code=2)
            self.assertIn("over all heads", result.stderr)
            result = self.run_tool("mimo-convert", source, self.at("out"), "--to", "vllm", "--tp", tp, code=2)
            self.assertNotIn("--pad", result.stderr)


class SharedTruth(MinimaxCase):
    """The same against a generator that is not the project's, where it is there."""

    def fixture(self, *flags):
        script = os.path.join(os.path.dirname(checkpoints.external_generator() or ""), "make_minimax_fixture.py")
        if not os.path.isfile(script):
            self.skipTest("no make_minimax_fixture.py")
        out = self.at("fixture")
        subprocess.run([sys.executable, script, out, *flags], check=True)
        return out

    def test_ranks(self):
        fixture = self.fixture("--forms", "--layers", "1", "--hidden", "128", "--experts", "16", "--seed", "11")
        config = compare.load_json(os.path.join(fixture, "checkpoint"), "config.json")
        for tp, ep in ((2, 1), (8, 8), (16, 16)):
            with self.subTest(tp=tp):
                out = self.ranks(os.path.join(fixture, "checkpoint"), f"ranks{tp}", tp, ep, "--dtype", "bf16")
                truth = container.read(os.path.join(fixture, "truth", f"rank-{tp}.safetensors"))
                for rank in range(tp):
                    self.check_rank(read_rank(out, rank), {n.partition("/")[2]: v for n, v in truth.items()
                                                           if n.startswith(f"rank{rank}/")}, config, ep)

    def check_rank(self, found, truth, config, ep):
        at = "model.layers.0."
        part = {n.removeprefix(at): v[1] for n, v in truth.items()}
        attention = {n.removeprefix(at + "self_attn."): v for n, v in found.items() if ".self_attn." in n}
        fused = np.concatenate([part[f"self_attn.{x}_proj.weight"] for x in "qkv"])
        for name, expected in (("qkv_proj", fused), ("o_proj", part["self_attn.o_proj.weight"]),
                               ("q_norm", part["self_attn.q_norm.weight"]), ("k_norm", part["self_attn.k_norm.weight"])):
            self.assertTrue(np.array_equal(attention[f"{name}.weight"][1], expected), name)
        if ep > 1:
            return                                       # truth cuts every expert
        w13, w2 = (found[f"{at}block_sparse_moe.experts.routed_experts.{x}_weight"][1] for x in ("w13", "w2"))
        for expert in range(config["num_local_experts"]):
            prefix = f"block_sparse_moe.experts.{expert}."
            both = np.concatenate([part[f"{prefix}w1.weight"], part[f"{prefix}w3.weight"]])
            self.assertTrue(np.array_equal(w13[expert], both), prefix)
            self.assertTrue(np.array_equal(w2[expert], part[f"{prefix}w2.weight"]), prefix)
