"""A real engine on our BF16 output: mlx-lm loads every variant strictly and computes the model that the source holds.

The source is FP8 (MXFP4 experts in V2.6) whose values the generator knows; `mimo-convert --dtype bf16 --qkv split`
makes the directory; mlx-lm reads it with its own loader. Its logits and greedy tokens are held against a float64
forward of the generator's values, rounded to BF16 as the conversion promises (reference/forward.py).

What is not as a user would have it: mlx-lm 0.32.2 knows `mimo_v2_flash` alone, so it is told that `model_type` for
the other variants, and nothing else of config.json is overridden. The weights are loaded in BF16 and computed with in
FP32: sums in BF16 would be much coarser than the tolerance, and mlx multiplies experts on a CPU in FP32 alone.
mx.compile is off: on a CPU it calls a compiler when it runs.
"""
import functools
import json
import os
import unittest
from pathlib import Path

# Read when these are imported. One thread: ctest runs other tests beside this one, and threads that wait for it spin.
os.environ["HF_HUB_OFFLINE"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.generate import generate_step
from mlx_lm.utils import load_model

from harness import checkpoints, tools
from reference import codecs, container, decode, forward
from reference.model import VARIANTS

KNOWN = "mimo_v2_flash"
TOLERANCE = 1e-3       # of logits whose standard deviation is 1, or LEAST_SPREAD where another generator makes them
LEAST_SPREAD = 0.2
PLAIN_TO_SEE = 100 * TOLERANCE
# What a prompt must be for its tokens and logits to be one answer: no expert chosen by less than FP32 resolves (see
# forward.LanguageModel), no token by less than the tolerance of two logits.
LEAST_MARGIN, LEAST_LEAD = 2e-5, 2 * TOLERANCE
PROMPTS = ((1, 0), (33, 16), (90, 0))   # tokens, greedy tokens after them
SIZES = dict(experts=16, moe_intermediate=128, mtp=1, mild=True)

mx.disable_compile()


def read_json(*path):
    with open(os.path.join(*path)) as f:
        return json.load(f)


def source(variant, generator):
    """-> (checkpoint directory, its config)"""
    made = checkpoints.ours(variant, **SIZES) if generator == "own" else checkpoints.external(variant, mild=True)
    return made[0], read_json(made[0], "config.json")


@functools.lru_cache(maxsize=1)     # the largest is 0.2 GB
def meaning(variant, generator):
    """The model that the source holds, to compute with."""
    if generator == "own":
        truth = decode.stored_as(checkpoints.ours(variant, **SIZES)[1].values, "bf16")
    else:
        truth = checkpoints.external(variant, mild=True)[1]
    text = {name: tensor for name, tensor in truth.items() if name.startswith(("model.layers.", "model.embed_tokens.",
                                                                               "model.norm.", "lm_head."))}
    return forward.LanguageModel(source(variant, generator)[1], text)


@functools.cache
def converted(variant, generator):
    directory, config = source(variant, generator)
    towers = ["--text-only"] if "vision_config" in config else []      # mlx-lm has none, and refuses their tensors
    done = tools.run("mimo-convert", directory, directory + "-bf16", "--dtype", "bf16", "--qkv", "split", *towers)
    assert done.code == 0, tools.describe(done)
    return directory + "-bf16"


def loaded(directory):
    """mlx-lm's model of a directory, strictly: every tensor has a parameter of its shape, every parameter a tensor."""
    known = {} if read_json(directory, "config.json")["model_type"] == KNOWN else {"model_type": KNOWN}
    return load_model(Path(directory), strict=True, model_config=known)[0]


def in_fp32(model):
    model.set_dtype(mx.float32)
    return model


def logits_of(model, tokens):
    return np.array(model(mx.array(tokens)[None])[0]).astype(np.float64)


@functools.cache
def prompt(variant, generator, length, steps=0):
    """The first random prompt that has one answer. -> tokens, logits, the greedy tokens that follow"""
    language_model = meaning(variant, generator)
    random = np.random.default_rng(length)
    for _ in range(40):
        tokens = [int(token) for token in random.integers(0, language_model.config["vocab_size"], length)]
        language_model.margin = np.inf
        logits = language_model.logits(tokens)
        following, lead = language_model.greedy(tokens, steps) if language_model.margin > LEAST_MARGIN else ([], 0.0)
        if language_model.margin > LEAST_MARGIN and lead > LEAST_LEAD:
            return tokens, logits, following
    raise AssertionError(f"{variant}: no prompt of {length} tokens is decided")


class Case(unittest.TestCase):
    generator = "own"

    def difference(self, model, variant, length, steps=0):
        tokens, expected, _ = prompt(variant, self.generator, length, steps)
        return np.abs(logits_of(model, tokens) - expected).max()

    def check(self, variant):
        model = loaded(converted(variant, self.generator))
        kept = {name for name, value in tree_flatten(model.parameters()) if value.dtype != mx.bfloat16}
        self.assertTrue(all(".mlp.gate." in name for name in kept), kept)
        in_fp32(model)
        for length, steps in PROMPTS:
            with self.subTest(variant=variant, prompt=length):
                self.assertLess(self.difference(model, variant, length, steps), TOLERANCE)
        tokens, expected, following = prompt(variant, self.generator, *PROMPTS[1])
        self.assertGreater(expected.std(), LEAST_SPREAD)
        found = generate_step(mx.array(tokens), model, max_tokens=len(following))   # with its caches, as it generates
        self.assertEqual([int(token) for token, _ in found], following)


class OurCheckpoints(Case):
    def test_v2_flash(self):
        self.check("v2-flash")

    def test_v2_5(self):
        self.check("v2.5")

    def test_v2_5_pro(self):
        self.check("v2.5-pro")

    def test_v2_6(self):
        self.check("v2.6")

    def test_plain(self):
        self.check("plain")

    def test_a_prompt_longer_than_the_window(self):
        self.assertLess(self.difference(in_fp32(loaded(converted("v2.5", self.generator))), "v2.5", 150), TOLERANCE)


@unittest.skipUnless(checkpoints.external_generator(), "no external generator (MIMO_FIXTURES)")
class ExternalCheckpoints(Case):
    generator = "external"

    def test_every_variant(self):
        for variant in VARIANTS:
            self.check(variant)


class WhatIsWrongShows(Case):
    """The same comparison on outputs with one fault: what these differ by is what the tolerance tells apart."""

    def edited(self, variant, edit):
        """The output with edit(tensors) done to it, loaded."""
        out = converted(variant, self.generator)
        tensors = container.read_directory(out)
        edit(tensors)
        directory = f"{out}-{self.id().rpartition('.')[2]}"
        os.makedirs(directory)
        container.write(os.path.join(directory, "model.safetensors"), tensors, {"format": "pt"})
        with open(os.path.join(directory, "config.json"), "w") as f:
            json.dump(read_json(out, "config.json"), f)
        return loaded(directory)

    def assert_shows(self, variant, edit):
        self.assertGreater(self.difference(in_fp32(self.edited(variant, edit)), variant, 90), PLAIN_TO_SEE)

    def test_an_output_written_again_is_right(self):
        model = in_fp32(self.edited("v2.5", lambda tensors: None))
        self.assertLess(self.difference(model, "v2.5", 90), TOLERANCE)

    def test_a_head_of_k_and_one_of_v_exchanged(self):
        def exchange(tensors):
            k, v = (f"model.layers.1.self_attn.{letter}_proj.weight" for letter in "kv")
            (_, keys), (_, values) = tensors[k], tensors[v]
            tensors[k] = ("BF16", np.concatenate([values[:128], keys[128:]]))
            tensors[v] = ("BF16", np.concatenate([keys[:128], values[128:]]))
        self.assert_shows("v2.5", exchange)

    def test_v_under_its_own_scale_rows_where_k_holds_them(self):
        """Half of every V head of a full-attention layer, as `row / 128` reads V2-Flash."""
        def misread(tensors):
            name = "model.layers.0.self_attn.v_proj.weight"
            stored = container.read_directory(source("v2-flash", self.generator)[0])
            codes, scales = stored[name][1], stored[name + "_scale_inv"][1]
            values = codecs.decode_fp8(codes, scales, np.arange(len(codes)) // 128)
            tensors[name] = ("BF16", codecs.bf16_from_f32(values))
        self.assert_shows("v2-flash", misread)

    def test_the_released_form_which_the_engine_misreads(self):
        """mlx-lm decodes FP8 itself, without an error, and wrongly: why V2-Flash has to be converted for it."""
        model = in_fp32(loaded(source("v2-flash", self.generator)[0]))
        self.assertGreater(self.difference(model, "v2-flash", 90), PLAIN_TO_SEE)

    def test_a_router_bias_rounded_to_bf16(self):
        def rounded(tensors):
            for name in [name for name in tensors if name.endswith("e_score_correction_bias")]:
                tensors[name] = ("BF16", codecs.bf16_from_f32(tensors[name][1]))
        self.assert_shows("v2.5-pro", rounded)

    def test_a_tensor_too_few_is_refused(self):
        with self.assertRaisesRegex(ValueError, "Missing 1 parameters"):
            self.edited("plain", lambda tensors: tensors.pop("model.layers.1.self_attn.attention_sink_bias"))

    def test_a_tensor_too_many_is_refused(self):
        def add(tensors):
            tensors["model.layers.0.self_attn.attention_sink_bias"] = ("BF16", np.zeros(16, np.uint16))
        with self.assertRaisesRegex(ValueError, "parameters not in model"):
            self.edited("plain", add)


if __name__ == "__main__":
    unittest.main()
