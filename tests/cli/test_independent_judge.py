"""The judge of random edits (tests/judge): it finds nothing in what conversions of valid checkpoints write, and sees each
fault that is put into such an output."""
import collections
import json
import os
import unittest

import numpy as np

from harness import edit_trials, edited
from harness.case import ToolCase
from judge import verdict
from judge.directory import Directory
from judge.meaning import Meaning
from judge.verdict import Asked
from reference import codecs

K1 = "model.layers.1.self_attn.k_proj.weight"
GATE = "model.layers.0.mlp.gate_proj.weight"
EXPERT = "model.layers.1.mlp.experts.1.down_proj.weight"
ROUTER = "model.layers.1.mlp.gate.weight"
BF16, KEEP = Asked(plain="BF16"), Asked()


def change(state, name, function):
    dtype, array = state.get(name)
    state.put(name, dtype, function(array.copy()))


def swap_heads(array):
    array[:192], array[192:384] = array[192:384].copy(), array[:192].copy()
    return array


def shift_blocks(array):
    return np.roll(array, 1, axis=0)


def truncate_bf16(state, truth):
    """Cut off instead of rounded."""
    bits = truth.logical[K1].values.view(np.uint32) >> 16
    state.put(K1, "BF16", bits.astype(np.uint16))


def drop_ignored(state, module, keys=("ignored_layers", "modules_to_not_convert", "ignore")):
    for key in keys:
        if key in state.quantization():
            state.quantization()[key] = [n for n in state.quantization()[key] if n != module]


class JudgeCase(ToolCase):
    def source(self, base):
        made = edit_trials.base(base)
        directory = self.at("checkpoint")
        made.state.copy().write(directory)
        return made, directory, Meaning(Directory(directory), made.geometry)

    def found(self, base, options, asked, fault=None, prepare=None):
        """Kinds of what the judge says of an output that `fault(state, truth)` was applied to."""
        made, directory, truth = self.source(base)
        out = self.convert(directory, "out", *options)
        state = edited.State(out, made.state.layout)
        if fault:
            fault(state, truth)
        state.write(self.at("changed"))
        if prepare:
            prepare(self.at("changed"))
        _, wrong, disagreements = verdict.judge(Directory(self.at("changed")), truth, truth.geometry.layout, asked)
        return {kind for kind, _ in wrong + disagreements}

    def assert_seen(self, kind, base, options, asked, fault=None, prepare=None):
        self.assertIn(kind, self.found(base, options, asked, fault, prepare))


class TestValidOutputs(JudgeCase):
    CASES = (("v2.5", "--qkv split", KEEP), ("v2.5", "--qkv fused:2", Asked(exact=False)), ("v2-flash", "--dtype bf16", BF16),
             ("v2.6", "--dtype nvfp4", Asked(plain="BF16", kinds=("nvfp4",))), ("v2.5-pro", "--copy", Asked(copy=True)),
             ("nvfp4-ct", "--dtype bf16", BF16), ("mxfp8", "--qkv fused:4", Asked(exact=False)),
             ("plain", "--dtype fp32 --qkv fused:2", Asked(plain="F32")))

    def test_nothing_is_found_in_them(self):
        for number, (base, options, asked) in enumerate(self.CASES):
            with self.subTest(base=base, options=options):
                made = edit_trials.base(base)
                directory = self.at(f"checkpoint{number}")
                made.state.copy().write(directory)
                truth = Meaning(Directory(directory), made.geometry)
                out = self.convert(directory, f"out{number}", *options.split())
                self.assertEqual(([], []), verdict.judge(Directory(out), truth, truth.geometry.layout, asked)[1:])


class TestFaultsOfValues(JudgeCase):
    def test_heads_that_changed_places(self):
        self.assert_seen("values", "v2.5", ("--dtype", "bf16"), BF16, lambda s, _: change(s, K1, swap_heads))

    def test_values_cut_off_instead_of_rounded(self):
        self.assert_seen("values", "v2.5", ("--dtype", "bf16"), BF16, truncate_bf16)

    def test_scale_rows_that_changed_places(self):
        for base in ("v2.5", "v2-flash"):
            name = "model.layers.0.self_attn." + ("qkv" if base == "v2.5" else "k") + "_proj.weight_scale_inv"
            with self.subTest(base=base):
                self.setUp()
                self.assert_seen("values", base, ("--copy",), KEEP, lambda s, _, n=name: change(s, n, shift_blocks))

    def test_a_code_of_an_expert(self):
        self.assert_seen("values", "v2.6", ("--qkv", "split"), KEEP,
                         lambda s, _: change(s, EXPERT, lambda a: a ^ np.uint8(1)))

    def test_a_global_scale_of_half(self):
        self.assert_seen("values", "v2.5", ("--dtype", "nvfp4"), Asked(plain="BF16", kinds=("nvfp4",)),
                         lambda s, _: change(s, EXPERT + "_scale_2", lambda a: a / np.float32(2)))

    def test_encoded_values_further_off_than_half_a_step(self):
        def nudge(codes):
            codes[0, :64] = np.where(codes[0, :64] & 7 < 6, codes[0, :64] + 1, codes[0, :64] - 1)
            return codes
        self.assert_seen("values", "bf16 split", ("--dtype", "fp8"), Asked(kinds=("block",), exact=False),
                         lambda s, _: change(s, EXPERT, nudge))

    def test_a_router_of_fewer_bits(self):
        self.assert_seen("values", "v2.5", ("--dtype", "bf16"), BF16, lambda s, _: s.put(
            ROUTER, "BF16", codecs.bf16_from_f32(s.get(ROUTER)[1])))

    def test_a_tensor_that_vanished(self):
        self.assert_seen("vanished", "v2.5", ("--dtype", "bf16"), BF16, lambda s, _: s.remove("model.norm.weight"))

    def test_a_tensor_that_nobody_has(self):
        self.assert_seen("invented", "v2.5", ("--dtype", "bf16"), BF16, lambda s, _: s.put(
            "model.alpha", "BF16", np.zeros(3, np.uint16), sorted(s.files)[0]))

    def test_stale_scales(self):
        self.assert_seen("unreadable", "v2.5", ("--dtype", "bf16"), BF16, lambda s, _: s.put(
            GATE + "_scale_inv", "F32", np.ones((2, 1), np.float32), s.file_of(GATE)))


class TestFaultsOfConfigs(JudgeCase):
    def test_a_quantization_config_that_is_gone(self):
        self.assert_seen("codec", "v2.5", ("--qkv", "split"), KEEP, lambda s, _: s.config.pop("quantization_config"))

    def test_a_quantization_config_that_stayed(self):
        self.assert_seen("codec", "v2.5", ("--dtype", "bf16"), BF16, lambda s, _: s.config.update(
            quantization_config={"quant_method": "fp8", "weight_block_size": [128, 128]}))

    def test_ignore_lists_in_three_dialects(self):
        for options in (("--dtype", "fp8"), ("--recipe", "nvfp4-experts"),
                        ("--recipe", "nvfp4-experts", "--dialect", "compressed-tensors")):
            with self.subTest(options=options):
                self.setUp()
                self.assert_seen("codec", "bf16 split", options, Asked(kinds=("nvfp4", "block"), exact=False),
                                 lambda s, _: drop_ignored(s, "model.layers.1.self_attn.o_proj"))

    def test_a_stale_hf_quant_config(self):
        def write(directory):
            with open(os.path.join(directory, "hf_quant_config.json"), "w") as f:
                json.dump({"quantization": {"quant_algo": "MXFP8", "exclude_modules": []}}, f)
        self.assert_seen("codec", "v2.5", ("--recipe", "nvfp4-experts"), Asked(kinds=("nvfp4",)), prepare=write)

    def test_another_block(self):
        self.assert_seen("codec", "v2.5", ("--qkv", "split"), KEEP,
                         lambda s, _: s.quantization().update(weight_block_size=[64, 128]))

    def test_another_projection_layout(self):
        self.assert_seen("layout", "v2.5", ("--qkv", "split"), KEEP,
                         lambda s, _: s.config.update(attention_projection_layout="fused_qkv"))

    def test_another_chunk_count(self):
        def edit(state, _):
            state.index["metadata"]["tp_size"] = 1
            state.config.get("mimo_layout", {}).update(chunks=1)
        self.assert_seen("values", "bf16 fused", ("--copy",), KEEP, edit)

    def test_counts(self):
        for key, value, kind in (("num_hidden_layers", 4, "count"), ("n_routed_experts", 3, "count"),
                                 ("vocab_size", 65, "count"), ("num_key_value_heads", 8, "unreadable"), ("num_nextn_predict_layers", 3, "mtp"),
                                 ("tie_word_embeddings", True, "tied"), ("torch_dtype", "float16", "dtype"),
                                 ("moe_layer_freq", [1, 1, 1], "count"), ("hybrid_layer_pattern", [1, 1, 1], "unreadable")):
            with self.subTest(key=key):
                self.setUp()
                self.assert_seen(kind, "v2.5", ("--dtype", "bf16"), BF16, lambda s, _: s.config.update({key: value}))

    def test_a_kv_cache_scheme_without_scales(self):
        self.assert_seen("kv", "v2.5", ("--qkv", "split"), KEEP,
                         lambda s, _: s.quantization().update(kv_cache_scheme={"num_bits": 8}))


class TestFaultsOfFiles(JudgeCase):
    def test_an_entry_that_is_missing(self):
        self.assert_seen("index", "v2.5", ("--dtype", "bf16"), BF16, lambda s, _: s.index["weight_map"].pop(K1))

    def test_an_entry_of_nothing(self):
        self.assert_seen("index", "v2.5", ("--dtype", "bf16"), BF16, lambda s, _: s.index["weight_map"].update(
            {"model.alpha": sorted(s.files)[0]}))

    def test_another_total(self):
        self.assert_seen("index", "v2.5", ("--dtype", "bf16"), BF16, lambda s, _: setattr(s, "total_size", 17))

    def test_a_file_that_is_not_in_the_index(self):
        def add(state, _):
            state.files["model.safetensors"] = {K1: state.get(K1)}
            state.changed.add("model.safetensors")
        self.assert_seen("index", "v2.5", ("--dtype", "bf16"), BF16, add)


class TestRefusals(JudgeCase):
    Result = collections.namedtuple("Result", "code stderr")

    def judged(self, result, left=()):
        _, directory, _ = self.source("v2.5")
        os.makedirs(self.at("refused"))
        for name in left:
            with open(self.at("refused", name), "w"):
                pass
        return {kind for kind, _ in edit_trials.judge_refusal(result, Directory(directory), self.at("refused"))}

    def test_what_names_a_tensor(self):
        self.assertEqual(set(), self.judged(self.Result(3, f"error: tensor {K1.replace('k_', 'qkv_')}: no")))

    def test_what_names_nothing(self):
        self.assertEqual({"nameless"}, self.judged(self.Result(3, "error: no")))

    def test_what_leaves_something(self):
        self.assertEqual({"left"}, self.judged(self.Result(2, "error: --dtype: no"), left=["config.json"]))


class TestWords(JudgeCase):
    """What has to be said where an output was written all the same."""

    Result = collections.namedtuple("Result", "code stderr")

    def kinds(self, edit, options, asked, stderr, document=None):
        """document: of config.json in the output, where that is to be the edited source's."""
        made = edit_trials.base("v2.5")
        state = made.state.copy()
        edit(state)
        state.write(self.at("edited"))
        source = Directory(self.at("edited"))
        truth = Meaning(source, made.geometry)
        out = self.convert(self.at("edited"), "out", *options, "--allow-anomalies")
        if document:
            with open(os.path.join(out, "config.json"), "w") as f:
                json.dump({**state.config, **document}, f)
        result = self.Result(0, stderr)
        return {kind for kind, _ in edit_trials.judge_output(result, made, source, truth, out, asked)}

    @staticmethod
    def norm(state):
        change(state, "model.norm.weight", lambda a: np.full_like(a, 0x7FC0))

    @staticmethod
    def scale(state):
        change(state, GATE + "_scale_inv", lambda a: a * np.float32(-1))

    def test_a_damaged_vector_needs_a_warning_that_names_it(self):
        for number, (stderr, kinds) in enumerate((
                ("", {"unsaid"}), ("warning health.value: model.layers.0.input_layernorm.weight: NaN", {"unsaid"}),
                ("warning health.value: model.norm.weight: NaN", set()))):
            with self.subTest(number=number):
                self.setUp()
                self.assertEqual(kinds, self.kinds(self.norm, ("--qkv", "split"), KEEP, stderr))

    def test_damaged_block_scales_need_one_where_they_are_decoded(self):
        self.assertIn("unsaid", self.kinds(self.scale, ("--dtype", "bf16"), BF16, ""))

    def test_damaged_block_scales_that_are_moved_need_none(self):
        self.assertEqual(set(), self.kinds(self.scale, ("--qkv", "split"), KEEP, ""))

    def test_less_than_codecs_may_be_as_in_the_source_with_a_warning(self):
        said = "warning declared.mtp_count: config.json: num_nextn_predict_layers: 3"
        for stderr, kinds in (("", {"mtp"}), (said, set())):
            with self.subTest(stderr=stderr):
                self.setUp()
                self.assertEqual(kinds, self.kinds(lambda s: None, ("--copy",), KEEP, stderr,
                                                   {"num_nextn_predict_layers": 3}))

    def test_an_ignore_list_has_to_be_right_all_the_same(self):
        said = "warning declared.unlisted_module: config.json: quantization_config: o_proj"
        wrong = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128], "ignored_layers": []}}
        for asked, kinds in ((KEEP, {"codec"}), (Asked(copy=True), set())):
            with self.subTest(copy=asked.copy):
                self.setUp()
                self.assertEqual(kinds, self.kinds(lambda s: None, ("--copy",), asked, said, wrong))


class TestDoubts(JudgeCase):
    """What the arrays of a source do not say."""

    def doubts(self, base, edit):
        made = edit_trials.base(base)
        state = made.state.copy()
        edit(state)
        state.write(self.at("edited"))
        truth = Meaning(Directory(self.at("edited")), made.geometry)
        return edit_trials.source_doubts(made, truth)

    def test_what_nobody_can_say(self):
        def halve(state):
            dtype, array = state.get("model.norm.weight")
            state.files["other.safetensors"] = {"model.norm.weight": (dtype, np.zeros_like(array))}
            state.changed.add("other.safetensors")
            del state.index["weight_map"]["model.norm.weight"]

        edits = {"codes without scales": lambda s: s.remove(GATE + "_scale_inv"),
                 "values beside scales": lambda s: s.put(GATE, "BF16", np.zeros((256, 128), np.uint16)),
                 "scales of no grid": lambda s: s.put(GATE + "_scale_inv", "F32", np.ones((3, 1), np.float32)),
                 "INT8 or FP8": lambda s: change(s, GATE, lambda a: a) or s.put(GATE, "I8", s.get(GATE)[1].view(np.int8)),
                 "copies that differ": halve, "a name": lambda s: s.rename(EXPERT, EXPERT + "s"),
                 "an entry of nothing": lambda s: s.index["weight_map"].update(alpha="model_mtp.safetensors")}
        for what, edit in edits.items():
            with self.subTest(what=what):
                self.setUp()
                self.assertTrue(self.doubts("v2.5", edit)[0])

    def test_what_is_unhealthy(self):
        def put(name, value):
            return lambda s: change(s, name, lambda a: np.full_like(a, value))
        bias = "model.layers.1.mlp.gate.e_score_correction_bias"
        for what, edit in {"NaN": put(GATE + "_scale_inv", np.nan), "negative": put(GATE + "_scale_inv", -1),
                           "zero": put(GATE + "_scale_inv", 0), "NaN codes": put(GATE, 0x7F), "constant": put(bias, 71)
                           }.items():
            with self.subTest(what=what):
                self.setUp()
                doubts, ills = self.doubts("v2.5", edit)
                self.assertFalse(doubts)
                self.assertTrue(ills)

    def test_scale_forms_that_say_what_they_mean(self):
        for shape in ("[rows, 1]", "[rows]", "[1]", "[]"):
            for dtype in ("F32", "BF16", "F16"):
                with self.subTest(shape=shape, dtype=dtype):
                    self.setUp()
                    found = self.doubts("v2.5", lambda s: edit_trials.ARRAYS.rescale(
                        s, [GATE[:-7], EXPERT[:-7]], shape, dtype, ".weight_scale"))
                    self.assertEqual(([], []), found)


if __name__ == "__main__":
    unittest.main()
