"""Scales of an FP8 KV cache: known under every name that they have, moved with the attention, never lost in silence.

Three places are in use: beside k_proj and v_proj (ModelOpt), beside the fused qkv_proj (llm-compressor), on the
attention itself; vLLM's maybe_remap_kv_scale_name reads all of them. What declares them, kv_cache_scheme of
quantization_config, is there exactly when they are. Expectations are names and numbers written down here.
"""
import json
import os
import shutil

import numpy as np

from harness import checkpoints, compare
from harness.case import ToolCase
from reference import container

TINY = checkpoints.TINY
SCHEME = {"num_bits": 8, "type": "float", "dynamic": False}
NAMES = {"split": {"k": "k_proj.k_scale", "v": "v_proj.v_scale", "q": "q_proj.q_scale"},
         "fused": {"k": "qkv_proj.k_scale", "v": "qkv_proj.v_scale", "q": "qkv_proj.q_scale"},
         "attention": {"k": "k_scale", "v": "v_scale", "q": "q_scale"},
         "engine": {"k": "attn.k_scale", "v": "attn.v_scale", "q": "attn.q_scale"}}
LAYERS = [f"model.layers.{n}.self_attn." for n in (0, 1)] + ["model.mtp.layers.0.self_attn."]


def is_scale(name):
    return name.endswith(("k_scale", "v_scale", "q_scale", "kv_scale"))


def scales(directory):
    return {n: v for n, v in container.read_directory(directory).items() if is_scale(n)}


class KvCase(ToolCase):
    size = TINY

    def source(self, name, variant="v2.5", place="fused", kinds="kv", dtype="F32", shape=(), scheme=SCHEME, layers=LAYERS,
               extra=()):
        """A checkpoint with scales in its first file. -> (directory, {(layer prefix, kind): bits})"""
        directory = self.at(name)
        shutil.copytree(checkpoints.ours(variant, **self.size)[0], directory)
        values, added = {}, {}
        for i, prefix in enumerate(layers):
            for j, kind in enumerate(kinds):
                bits = np.float32(0.013 * (i + 1) + j)
                if dtype == "BF16":
                    bits = np.uint16(bits.view(np.uint32) >> 16)
                elif dtype == "F16":
                    bits = np.float16(bits).view(np.uint16)
                values[prefix, kind] = np.asarray(bits).reshape(shape)
                added[prefix + NAMES[place][kind]] = (dtype, values[prefix, kind])
        for tensor in extra:
            added[tensor] = (dtype, np.asarray(np.float32(0.5)).reshape(shape))
        self.store(directory, added)
        self.config(directory, lambda c: c["quantization_config"].update(kv_cache_scheme=scheme) if scheme else None)
        return directory, values

    def store(self, directory, added):
        file = container.tensor_files(directory)[0]
        path = os.path.join(directory, file)
        tensors = {n: (d, np.array(a)) for n, (d, a) in container.read(path).items()}
        metadata = container.read_header(path)[1]
        container.write(path, {**tensors, **added}, metadata)
        path = os.path.join(directory, "model.safetensors.index.json")
        index = compare.load_json(path)
        index["weight_map"].update({n: file for n in added})
        index["metadata"]["total_size"] += sum(a.nbytes for _, a in added.values())
        with open(path, "w", encoding="utf-8") as f:
            json.dump(index, f)

    def replace(self, directory, values):
        for file in container.tensor_files(directory):
            path = os.path.join(directory, file)
            tensors = {n: (d, np.array(a)) for n, (d, a) in container.read(path).items()}
            tensors.update({n: v for n, v in values.items() if n in tensors})
            container.write(path, tensors, container.read_header(path)[1])

    def config(self, directory, change):
        path = os.path.join(directory, "config.json")
        config = compare.load_json(path)
        change(config)
        with open(path, "w", encoding="utf-8") as f:
            json.dump(config, f, indent=2)

    def check(self, directory, values, place, dtype="F32", shape=()):
        found = scales(directory)
        expected = {prefix + NAMES[place][kind]: bits for (prefix, kind), bits in values.items()}
        self.assertEqual(sorted(found), sorted(expected))
        for name, bits in expected.items():
            self.assertEqual((found[name][0], found[name][1].shape), (dtype, shape), name)
            self.assertEqual(found[name][1].tobytes(), bits.tobytes(), name)

    def declared(self, directory):
        config = compare.load_json(directory, "config.json")
        return (config.get("quantization_config") or {}).get("kv_cache_scheme"), config.get("kv_cache_scheme")


class Layouts(KvCase):
    def test_they_move_with_the_attention(self):
        """Names follow q, k and v apart and together; those on the attention itself stay. Bits, types, shapes stay."""
        for place, apart in (("fused", "split"), ("split", "split"), ("attention", "attention"), ("engine", "engine")):
            for dtype, shape in (("F32", ()), ("BF16", (1,)), ("F16", ())):
                with self.subTest(place=place, dtype=dtype):
                    self.setUp()
                    source, values = self.source("source", place=place, kinds="kvq", dtype=dtype, shape=shape)
                    kept = self.convert(source, "kept", "--max-shard-size", "1MB")
                    self.check(kept, values, place, dtype, shape)
                    split = self.convert(source, "split", "--qkv", "split")
                    self.check(split, values, apart, dtype, shape)
                    self.assertEqual(compare.index_problems(split), [])
                    self.assertEqual(self.declared(split), (SCHEME, None))
                    back = self.convert(split, "back", "--qkv", "fused")
                    self.check(back, values, "fused" if place == "split" else place, dtype, shape)

    def test_split_attention_becomes_fused(self):
        source, values = self.source("source", variant="v2-flash", place="split")
        self.check(self.convert(source, "fused", "--qkv", "fused"), values, "fused")
        self.check(self.convert(source, "same", "--qkv", "split"), values, "split")

    def test_one_scale_for_keys_and_values(self):
        """Beside the fused projection it has no name of its own once that is apart: each gets the number."""
        source, _ = self.source("source", kinds="", extra=[LAYERS[0] + "qkv_proj.kv_scale", LAYERS[1] + "kv_scale"])
        found = scales(self.convert(source, "split", "--qkv", "split"))
        self.assertEqual(sorted(found), [LAYERS[0] + "k_proj.k_scale", LAYERS[0] + "v_proj.v_scale", LAYERS[1] + "kv_scale"])
        self.assertEqual({float(v[1].reshape(())) for v in found.values()}, {0.5})

    def test_two_for_one_place_are_refused(self):
        source, _ = self.source("source", extra=[LAYERS[0] + "k_proj.k_scale"])
        result = self.run_tool("mimo-convert", source, self.at("split"), "--qkv", "split", code=3)
        self.assertIn("[travel.cache_scale_twice]", result.stderr)
        self.assertEqual(len(scales(self.convert(source, "kept", "--qkv", "keep"))), 7)


class Shapes(KvCase):
    """Some tools store [] and others [1], and a merge of two has both: each scale keeps its own shape."""
    size = dict(TINY, intermediate=256)
    RANKS = ("--to", "vllm", "--format", "sharded-state", "--tp", "2", "--ep", "2")

    def mixed(self, place, name="source", kinds="kv"):
        """-> (directory, {(layer prefix, kind): (bits, shape)}): vectors and scalars in turns."""
        source, values = self.source(name, place=place, kinds=kinds)
        expected = {key: np.asarray(bits).reshape((1,) if i % 2 else ()) for i, (key, bits) in enumerate(values.items())}
        self.replace(source, {p + NAMES[place][kind]: ("F32", bits) for (p, kind), bits in expected.items()})
        return source, expected

    def check_shapes(self, directory, expected, place):
        found = scales(directory)
        self.assertEqual({n: (d, a.shape, a.tobytes()) for n, (d, a) in found.items()},
                         {p + NAMES[place][kind]: ("F32", bits.shape, bits.tobytes())
                          for (p, kind), bits in expected.items()})

    def test_every_layout_keeps_them(self):
        for place, apart in (("fused", "split"), ("split", "split"), ("attention", "attention")):
            with self.subTest(place):
                self.setUp()
                source, expected = self.mixed(place)
                self.check_shapes(self.convert(source, "kept", "--max-shard-size", "1MB"), expected, place)
                self.check_shapes(self.convert(source, "split", "--qkv", "split"), expected, apart)
                self.check_shapes(self.convert(source, "values", "--dtype", "bf16", "--qkv", "split"), expected, apart)
                back = self.convert(self.at("split"), "back", "--qkv", "fused")
                self.check_shapes(back, expected, "fused" if place == "split" else place)
                self.check_shapes(self.convert(source, "like", "--like", source), expected, place)

    def test_rank_files_give_them_back(self):
        for place in ("fused", "split", "attention"):
            for index in (True, False):
                with self.subTest(place=place, index=index):
                    self.setUp()
                    source, expected = self.mixed(place)
                    ranks = self.convert(source, "ranks", *self.RANKS)
                    if not index:    # then names are those beside fused attention, and shapes are known all the same
                        os.remove(os.path.join(ranks, "mimo-source", "model.safetensors.index.json"))
                    again = self.convert(ranks, "again", "--to", "hf")
                    self.check_shapes(again, expected, place if index else "fused")
                    # And those of the rank files that these are made into once more.
                    ranks = self.convert(again, "ranks-again", *self.RANKS)
                    self.check_shapes(self.convert(ranks, "last", "--to", "hf"), expected, place if index else "fused")

    def test_what_has_no_place_in_a_state_keeps_them(self):
        source, expected = self.mixed("fused")
        ranks = self.convert(source, "ranks", *self.RANKS, "--dtype", "bf16")
        rest = {n: v for n, v in container.read(os.path.join(ranks, "hf-rest.safetensors")).items() if is_scale(n)}
        self.assertEqual({n: a.shape for n, (_, a) in rest.items()},
                         {p + NAMES["fused"][kind]: bits.shape for (p, kind), bits in expected.items()})
        self.check_shapes(self.convert(ranks, "back", "--to", "hf"), expected, "split")


    def test_a_marker_is_true_or_names(self):
        source, expected = self.mixed("fused")
        ranks = self.convert(source, "ranks", *self.RANKS)
        marked = compare.load_json(ranks, "config.json")["mimo_layout"]["cache_vectors"]
        self.assertEqual(sorted(marked), sorted(p + NAMES["fused"][kind] for (p, kind), b in expected.items() if b.shape))
        for odd in ("yes", [1], {}):
            self.config(ranks, lambda c: c["mimo_layout"].update(cache_vectors=odd))
            self.assertIn("cache_vectors", self.run_tool("mimo-inspect", ranks, code=3).stderr)


class Types(KvCase):
    def test_they_outlive_every_type_of_weights(self):
        """They are of the cache: kept bit for bit, and what declares them stays where the output has a place for it."""
        source, values = self.source("source")
        for dtype, in_quantization in (("bf16", False), ("fp32", False), ("nvfp4", True), ("mxfp4", True)):
            with self.subTest(dtype):
                out = self.at(dtype)
                run = self.run_tool("mimo-convert", source, out, "--dtype", dtype, "--qkv", "split")
                self.check(out, values, "split")
                self.assertIn("6 scales of the KV cache are kept", run.stderr)
                self.assertEqual(self.declared(out), (SCHEME, None) if in_quantization else (None, SCHEME))
                self.assertEqual("kept at the top of config.json" in run.stderr, not in_quantization)
        again = self.convert(self.at("bf16"), "again", "--recipe", "fp8-all")
        self.assertEqual(self.declared(again), (SCHEME, None))

    def test_dialects_say_it_in_their_words(self):
        source, values = self.source("source")
        modelopt = self.convert(source, "modelopt", "--dtype", "nvfp4", "--dialect", "modelopt", "--qkv", "split")
        quantization = compare.load_json(modelopt, "hf_quant_config.json")["quantization"]
        self.assertEqual(quantization["kv_cache_quant_algo"], "FP8")
        self.assertEqual(self.declared(modelopt), (SCHEME, None))
        # Where hf_quant_config.json alone says it, it is heard too.
        self.config(modelopt, lambda c: c["quantization_config"].pop("kv_cache_scheme"))
        compressed = self.convert(modelopt, "compressed", "--recipe", "nvfp4-experts", "--dialect", "compressed-tensors")
        self.assertEqual(self.declared(compressed), (SCHEME, None))
        self.check(compressed, values, "split")

    def test_left_out_they_are_not_declared(self):
        source, _ = self.source("source")
        for options in (("--exclude", "_scale$"), ("--exclude", "[kv]_scale$", "--qkv", "split")):
            self.setUp()
            source, _ = self.source("source")
            out = self.at("out")
            run = self.run_tool("mimo-convert", source, out, *options, code=(0, 2))
            if run.code == 0:
                self.assertEqual((scales(out), self.declared(out)), ({}, (None, None)))
                self.assertIn("are left out", run.stderr)

    def test_what_is_no_single_number_is_unknown(self):
        source, _ = self.source("source", kinds="k", shape=(), layers=LAYERS[:1])
        self.store(source, {LAYERS[1] + "qkv_proj.k_scale": ("F32", np.ones(4, np.float32))})
        result = self.run_tool("mimo-convert", source, self.at("out"), "--qkv", "split", code=3)
        self.assertIn("[unknown.cache_scale]", result.stderr)
        self.assertEqual(len(scales(self.convert(source, "carried", "--unknown", "carry"))), 2)


class Declared(KvCase):
    def test_a_scheme_without_scales_is_said(self):
        source, _ = self.source("source", kinds="")
        run = self.run_tool("mimo-convert", source, self.at("out"), "--qkv", "split")
        self.assertIn("travel.no_cache_scales", run.stderr)
        self.assertEqual(self.declared(self.at("out")), (SCHEME, None))
        self.assertIn("travel.no_cache_scales", self.run_tool("mimo-inspect", source).stdout)
        dynamic, _ = self.source("dynamic", kinds="", scheme=dict(SCHEME, dynamic=True))
        self.assertNotIn("travel.", self.run_tool("mimo-inspect", dynamic).stdout)

    def test_scales_without_a_scheme_are_said(self):
        source, _ = self.source("source", scheme=None)
        self.assertIn("travel.undeclared_cache_scales", self.run_tool("mimo-inspect", source, "--verbose").stdout)
        self.assertEqual(self.declared(self.convert(source, "out", "--qkv", "split")), (None, None))

    def test_layers_without_scales_are_said(self):
        source, _ = self.source("source", layers=LAYERS[:1])
        run = self.run_tool("mimo-convert", source, self.at("out"), "--qkv", "split")
        self.assertIn("travel.cache_scale_gaps: layers 1", run.stderr)
        whole, _ = self.source("whole")
        self.assertNotIn("travel.", self.run_tool("mimo-inspect", whole).stdout)


class Forms(KvCase):
    size = dict(TINY, intermediate=256)
    RANKS = ("--to", "vllm", "--format", "sharded-state", "--tp", "2", "--ep", "2")

    def test_rank_files_take_them_and_give_them_back(self):
        for place in ("fused", "split", "attention"):
            for dtype, shape in (("F32", ()), ("BF16", ()), ("F32", (1,))):
                with self.subTest(place=place, dtype=dtype, shape=shape):
                    self.setUp()
                    source, values = self.source("source", place=place, dtype=dtype, shape=shape)
                    ranks = self.convert(source, "ranks", *self.RANKS)
                    for rank in (0, 1):
                        for (prefix, kind), bits in values.items():
                            mtp = prefix.startswith("model.mtp")
                            layer = int(prefix.split(".")[3 if mtp else 2])
                            file = f"mtp-rank-{rank}-part-{layer}" if mtp else f"model-rank-{rank}-part-{layer + 1}"
                            stored = container.read(os.path.join(ranks, file + ".safetensors"))
                            found = stored[prefix + f"attn.{kind}_scale"]
                            self.assertEqual((found[0], found[1].shape, found[1].tobytes()), (dtype, (), bits.tobytes()))
                            self.assertEqual(stored[prefix + "attn.q_scale"][0], "BF16")    # none: the engine's constant
                    back = self.convert(ranks, "back", "--to", "hf")
                    self.check(back, values, place, dtype, shape)
                    self.assertEqual(self.declared(back), (SCHEME, None))

    def test_a_state_without_a_place_keeps_them_beside_it(self):
        source, values = self.source("source")
        out = self.at("ranks")
        run = self.run_tool("mimo-convert", source, out, *self.RANKS, "--dtype", "bf16")
        self.assertIn("have no place in the state", run.stderr)
        rest = container.read(os.path.join(out, "hf-rest.safetensors"))
        self.assertEqual(sorted(n for n in rest if is_scale(n)),
                         sorted(p + NAMES["fused"][kind] for p, kind in values))

    def test_a_form_without_a_place_refuses(self):
        source, _ = self.source("source")
        for form in ("megatron", "nxdi"):
            with self.subTest(form):
                result = self.run_tool("mimo-convert", source, self.at(form), "--to", form, code=3)
                self.assertIn("[travel.no_place_for_cache_scales]", result.stderr)
                out = self.at(form + "-dropped")
                run = self.run_tool("mimo-convert", source, out, "--to", form, "--unknown", "drop")
                self.assertIn("scales of the KV cache are left out", run.stderr)
                self.assertEqual(self.declared(out), (None, None))
                fates = compare.load_json(out, "mimo-manifest.json")
                self.assertIn("--unknown drop", json.dumps(fates))

    def test_a_run_goes_back_with_the_reference_s_scales(self):
        source, values = self.source("source")
        run = self.convert(source, "run", "--to", "megatron", "--unknown", "drop")
        back = self.convert(run, "back", "--to", "hf", "--like", source)
        self.check(back, values, "fused")
        self.assertEqual(self.declared(back), (SCHEME, None))
        # Where the run has the same ones, its are the newer; those that the reference has no place for are refused.
        same = self.convert(source, "same", "--dtype", "bf16", "--qkv", "keep")
        newer = {n: (d, a + np.float32(1)) for n, (d, a) in scales(same).items()}
        self.replace(same, newer)
        found = scales(self.convert(same, "newer", "--to", "hf", "--like", source))
        self.assertEqual({n: v[1].tobytes() for n, v in found.items()}, {n: v[1].tobytes() for n, v in newer.items()})
        split = self.convert(source, "split", "--dtype", "bf16", "--qkv", "split")
        result = self.run_tool("mimo-convert", split, self.at("refused"), "--like", source, code=3)
        self.assertIn("[unknown.cache_scale]", result.stderr)
        self.check(self.convert(split, "kept", "--like", source, "--unknown", "drop"), values, "fused")
