"""Proves that malformed checkpoints end in exit code 3 with a message that names the file and the tensor, that
nothing is published and the source is untouched, whatever is wrong: containers, scales, config, index, layout.
"""
import json
import os
import pathlib
import shutil
import struct
import unittest

import numpy as np

from harness import checkpoints, compare, tools
from harness.breakage import add, edit_header, edit_json, file_of, join_file, replace, split_file, truncate
from harness.case import ToolCase
from reference import codecs, container, decode

NORM = "model.norm.weight"
QKV = "model.layers.1.self_attn.qkv_proj.weight"
QKV_SCALE = QKV + "_scale_inv"
GATE = "model.layers.0.mlp.gate_proj.weight"
GATE_SCALE = GATE + "_scale_inv"
UP = "model.layers.0.mlp.up_proj.weight"
BF16_SPLIT = ("--dtype", "bf16", "--qkv", "split")


class Broken(ToolCase):
    variant, spec = "v2.5", checkpoints.TINY

    def setUp(self):
        super().setUp()
        source, model = checkpoints.ours(self.variant, **self.spec)
        self.values = dict(model.values)
        self.source = self.at("checkpoint")
        shutil.copytree(source, self.source)

    def refused(self, *words, code=3, options=BF16_SPLIT, timeout=60):
        """The conversion fails with `code`, stderr holds `words`, nothing is published, the source is as it was."""
        before = compare.identity(self.source)
        result = self.run_tool("mimo-convert", self.source, self.at("out"), *options, code=code, timeout=timeout)
        self.assertIn("mimo-convert: error: ", result.stderr)
        for word in words:
            self.assertIn(word, result.stderr)
        self.assertNotIn("terminate called", result.stderr)
        self.assert_nothing_published(self.at("out"))
        self.assertEqual(before, compare.identity(self.source))
        return result

    def converts(self, *words, options=BF16_SPLIT):
        result = self.run_tool("mimo-convert", self.source, self.at("out"), *options)
        for word in words:
            self.assertIn(word, result.stderr)
        self.assert_same_tensors(decode.stored_as(self.values, "bf16"), self.at("out"))

    def test_control(self):
        """The unbroken copy converts, so every refusal below is due to its breakage."""
        self.converts()


class Containers(Broken):
    def shard(self):
        return file_of(self.source, QKV)

    def named(self):
        return os.path.basename(self.shard())

    def test_shorter_than_the_length(self):
        truncate(self.shard(), 5)
        self.refused("model_", ".safetensors")

    def test_empty_file(self):
        path = self.shard()
        truncate(path, 0)
        self.refused(os.path.basename(path))

    def test_truncated_header(self):
        path = self.shard()
        truncate(path, 200)
        self.refused(os.path.basename(path))

    def test_truncated_data(self):
        path = self.shard()
        truncate(path, -100)
        self.refused(os.path.basename(path))

    def test_bytes_after_the_data(self):
        path = self.shard()
        with open(path, "ab") as f:
            f.write(b"junk")
        self.refused(os.path.basename(path))

    def test_header_lengths(self):
        path = self.shard()
        for length in (1 << 30, 1 << 40, (1 << 63) - 1, (1 << 64) - 1, 0):
            with self.subTest(length=length):
                with open(path, "r+b") as f:
                    f.write(struct.pack("<Q", length))
                self.refused(os.path.basename(path))

    def test_header_is_not_json(self):
        path = self.shard()
        header, data = split_file(path)
        for text in (b"{" + b"[" * 100000, b'{"a": nonsense}', b'[1, 2, 3]', b'{"\xff\xfe": 1}', b"\0" * 64,
                     b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}} x'):
            with self.subTest(text[:24]):
                join_file(path, text, data)
                self.refused(os.path.basename(path))

    def test_duplicate_key(self):
        path = self.shard()
        header, data = split_file(path)
        entry = json.dumps({QKV: header[QKV]})[1:-1]
        text = json.dumps(header)
        join_file(path, (text[:-1] + ", " + entry + "}").encode(), data)
        self.refused(os.path.basename(path), QKV)

    def test_overlap(self):
        path = self.shard()
        header, data = split_file(path)
        header_of = {n: entry for n, entry in header.items() if n != "__metadata__"}
        twins = [n for n, entry in header_of.items() if entry["dtype"] == "BF16" and entry["shape"] == [256]]
        header[twins[1]]["data_offsets"] = header[twins[0]]["data_offsets"]
        join_file(path, header, data)
        self.refused(os.path.basename(path))

    def test_offsets(self):
        path, size = self.shard(), os.path.getsize(self.shard())
        original = pathlib.Path(path).read_bytes()
        for name, change in (("past the end", lambda b, e: [b + size, e + size]),
                             ("end before begin", lambda b, e: [e, b]),
                             ("negative", lambda b, e: [b - (1 << 40), e - (1 << 40)]),
                             ("huge", lambda b, e: [(1 << 63), (1 << 63) + e - b]),
                             ("fraction", lambda b, e: [b + 0.5, e + 0.5]), ("text", lambda b, e: [str(b), str(e)]),
                             ("three", lambda b, e: [b, e, e]), ("one", lambda b, e: [b])):
            with self.subTest(name):
                with open(path, "wb") as f:
                    f.write(original)
                edit_header(self.source, QKV, lambda entry: entry.update(data_offsets=change(*entry["data_offsets"])))
                self.refused(os.path.basename(path), QKV)

    def test_shapes(self):
        path = self.shard()
        original = pathlib.Path(path).read_bytes()
        for shape in ([1, 2, 3], [-1, 256], [1 << 62, 1 << 62, 4], [], "wide", [0, 256], [2.5, 4], None):
            with self.subTest(shape=shape):
                with open(path, "wb") as f:
                    f.write(original)
                edit_header(self.source, QKV, lambda entry: entry.update(shape=shape))
                self.refused(os.path.basename(path), QKV)

    def test_dtypes(self):
        path = self.shard()
        original = pathlib.Path(path).read_bytes()
        for dtype in ("F7", "", 5, "F32", "f8_e4m3"):
            with self.subTest(dtype=dtype):
                with open(path, "wb") as f:
                    f.write(original)
                edit_header(self.source, QKV, lambda entry: entry.update(dtype=dtype))
                self.refused(os.path.basename(path), QKV)

    def test_wrong_shape_of_a_known_tensor(self):
        path = replace(self.source, NORM, lambda t: (t[0], np.concatenate([t[1], t[1]])))
        self.refused(os.path.basename(path), NORM)

    def test_same_tensor_in_two_files(self):
        add(self.source, "model_mtp.safetensors", NORM, "BF16", np.zeros(256, np.uint16))
        self.refused(NORM, "model_mtp.safetensors")

    def test_directory_in_place_of_a_shard(self):
        os.unlink(os.path.join(self.source, "model_mtp.safetensors"))
        os.makedirs(os.path.join(self.source, "model_mtp.safetensors"))
        self.refused("model_mtp.safetensors", code=(3, 4))

    def test_fifo_in_place_of_a_shard(self):
        """Refused, not waited for: named by the index or not."""
        for name in ("model_x.safetensors", "model_mtp.safetensors", "notes.txt"):
            with self.subTest(name):
                self.setUp()
                path = os.path.join(self.source, name)
                if os.path.exists(path):
                    os.unlink(path)
                os.mkfifo(path)
                self.refused(name, code=(3, 4), timeout=20)

    def test_shard_that_was_not_downloaded(self):
        """The index names MTP tensors in a file that is not there and no header holds them: an incomplete copy."""
        os.unlink(os.path.join(self.source, "model_mtp.safetensors"))
        self.refused("model_mtp.safetensors")

    def test_dangling_link_in_place_of_a_shard(self):
        os.unlink(os.path.join(self.source, "model_mtp.safetensors"))
        os.symlink("nowhere", os.path.join(self.source, "model_mtp.safetensors"))
        self.refused("model_mtp.safetensors", code=(3, 4))

    def test_unreadable_shard(self):
        if os.geteuid() == 0:
            self.skipTest("root reads everything")
        path = self.shard()
        os.chmod(path, 0)
        self.refused(os.path.basename(path), code=4)


class Scales(Broken):
    def test_missing(self):
        for name in (GATE_SCALE, QKV_SCALE):
            with self.subTest(name):
                self.setUp()
                replace(self.source, name, lambda t: None)
                self.refused(name.replace("_scale_inv", ""))

    def test_wrong_shape(self):
        for name in (GATE_SCALE, QKV_SCALE):
            for change in (lambda a: a[:-1], lambda a: a[:, :-1], lambda a: np.concatenate([a, a]),
                           lambda a: a.reshape(-1)):
                with self.subTest(name):
                    self.setUp()
                    replace(self.source, name, lambda t: (t[0], change(t[1])))
                    self.refused(name)

    def test_wrong_dtype(self):
        for dtype, change in (("I32", lambda a: a.view(np.int32)), ("F64", lambda a: a.astype(np.float64)),
                              ("F8_E4M3", lambda a: np.full(a.shape, 0x38, np.uint8))):
            with self.subTest(dtype):
                self.setUp()
                replace(self.source, GATE_SCALE, lambda t: (dtype, change(t[1])))
                self.refused(GATE_SCALE)

    def test_scales_in_bf16_are_widened(self):
        """Not of the released type, but no value is in doubt."""
        scales = container.read_directory(self.source)[GATE_SCALE][1]
        half = (np.ascontiguousarray(scales).view(np.uint32) >> 16).astype(np.uint16)
        replace(self.source, GATE_SCALE, lambda t: ("BF16", half))
        codes = container.read_directory(self.source)[GATE][1]
        values = codecs.decode_fp8(codes, codecs.f32_from_bf16(half), np.arange(codes.shape[0]) // 128)
        self.values[GATE] = decode.Value("F8_E4M3", None, values)
        self.converts()

    def test_bad_values(self):
        for name in (GATE_SCALE, QKV_SCALE):
            for value in (np.nan, -1.0, np.inf, -np.inf):
                with self.subTest(name, value=value):
                    self.setUp()

                    def spoil(t):
                        t[1][-1, 0] = value
                        return t
                    replace(self.source, name, spoil)
                    self.refused(name.replace("_scale_inv", ""), "scale")

    def test_zero_under_codes(self):
        for name in (GATE_SCALE, QKV_SCALE):
            with self.subTest(name):
                self.setUp()

                def spoil(t):
                    t[1][0, 1] = 0
                    return t
                replace(self.source, name, spoil)
                self.refused(name.replace("_scale_inv", ""))

    def test_zero_under_zeros_is_fine(self):
        def clear(t):
            t[1][:128, 128:] = 0
            return t

        def zero(t):
            t[1][0, 1] = 0
            return t
        replace(self.source, GATE, clear)
        replace(self.source, GATE_SCALE, zero)
        self.convert(self.source, "out", *BF16_SPLIT)
        found = container.read_directory(self.at("out"))[GATE][1]
        self.assertFalse(found[:128, 128:].any())

    def test_nan_codes(self):
        for name in (GATE, QKV):
            with self.subTest(name):
                self.setUp()

                def spoil(t):
                    t[1][3, 7] = 0xFF
                    return t
                replace(self.source, name, spoil)
                self.refused(name)

    def test_scale_without_codes(self):
        replace(self.source, GATE, lambda t: None)
        self.refused(GATE)

    def test_codes_of_another_kind(self):
        replace(self.source, GATE, lambda t: ("F8_E5M2", t[1]))
        self.refused(GATE)


class Mxfp4Scales(Broken):
    variant = "v2.6"
    EXPERT = "model.layers.1.mlp.experts.1.up_proj.weight"

    def test_missing(self):
        replace(self.source, self.EXPERT + "_scale", lambda t: None)
        self.refused(self.EXPERT)

    def test_wrong_shape(self):
        replace(self.source, self.EXPERT + "_scale", lambda t: (t[0], t[1][:, :-1]))
        self.refused(self.EXPERT + "_scale")

    def test_nan(self):
        def spoil(t):
            t[1][2, 1] = 255
            return t
        replace(self.source, self.EXPERT + "_scale", spoil)
        self.refused(self.EXPERT)


class FlashSplit(Broken):
    variant = "v2-flash"
    K_SCALE = "model.layers.0.self_attn.k_proj.weight_scale_inv"

    def test_scale_rows_that_no_layout_has(self):
        replace(self.source, self.K_SCALE, lambda t: (t[0], t[1][:-1]))
        self.refused(self.K_SCALE)

    def test_missing_neighbour_scale(self):
        replace(self.source, self.K_SCALE, lambda t: None)
        self.refused(self.K_SCALE.replace("_scale_inv", ""))


class Inventories(Broken):
    def test_missing_tensors(self):
        for name in (NORM, "model.layers.1.mlp.experts.1.up_proj.weight", "model.mtp.layers.0.eh_proj.weight", QKV):
            with self.subTest(name):
                self.setUp()
                replace(self.source, name, lambda t: None)
                if name + "_scale_inv" in container.read_directory(self.source):
                    replace(self.source, name + "_scale_inv", lambda t: None)
                self.refused(name)

    def test_unknown_tensors(self):
        add(self.source, "model_mtp.safetensors", "model.layers.0.mystery.weight", "BF16", np.zeros(4, np.uint16))
        self.refused("model.layers.0.mystery.weight", "--unknown")
        self.run_tool("mimo-convert", self.source, self.at("drop"), *BF16_SPLIT, "--unknown", "drop")
        expected = decode.stored_as(self.values, "bf16")
        self.assert_same_tensors(expected, self.at("drop"))
        self.run_tool("mimo-convert", self.source, self.at("carry"), *BF16_SPLIT, "--unknown", "carry")
        expected["model.layers.0.mystery.weight"] = ("BF16", np.zeros(4, np.uint16))
        self.assert_same_tensors(expected, self.at("carry"))

    def test_layer_beyond_the_config(self):
        add(self.source, "model_mtp.safetensors", "model.layers.7.input_layernorm.weight", "BF16",
            np.zeros(256, np.uint16))
        self.refused("model.layers.7.input_layernorm.weight")


class Configs(Broken):
    def change(self, **values):
        def edit(config):
            for key, value in values.items():
                if value is KeyError:
                    config.pop(key, None)
                else:
                    config[key] = value
        edit_json(self.source, "config.json", edit)

    def test_missing(self):
        os.unlink(os.path.join(self.source, "config.json"))
        self.refused("config.json")

    def test_not_json(self):
        for text in ("", "{", "[]", "null", '{"hidden_size": 256,}', "{" * 100000):
            with self.subTest(text[:20]):
                with open(os.path.join(self.source, "config.json"), "w") as f:
                    f.write(text)
                self.refused("config.json")

    def test_contradictions(self):
        """Each of these disagrees with the tensors on disk."""
        for values in (dict(hidden_size=512), dict(num_hidden_layers=3), dict(num_hidden_layers=1),
                       dict(num_attention_heads=16), dict(swa_num_attention_heads=16), dict(num_key_value_heads=8),
                       dict(swa_num_key_value_heads=4), dict(head_dim=128), dict(v_head_dim=192), dict(vocab_size=65),
                       dict(n_routed_experts=3), dict(intermediate_size=256), dict(moe_intermediate_size=256),
                       dict(hybrid_layer_pattern=[1, 0]), dict(hybrid_layer_pattern=[0]), dict(moe_layer_freq=[1, 1]),
                       dict(moe_layer_freq=[0, 0])):
            with self.subTest(**values):
                self.setUp()
                self.change(**values)
                self.refused(".")

    def test_nonsense(self):
        for values in (dict(hidden_size="wide"), dict(hidden_size=-256), dict(hidden_size=0),
                       dict(hidden_size=KeyError), dict(hidden_size=1 << 62), dict(num_attention_heads=0),
                       dict(num_hidden_layers=1 << 40),
                       dict(num_key_value_heads=3), dict(hybrid_layer_pattern="00"), dict(hybrid_layer_pattern=[0, 2]),
                       dict(quantization_config={"quant_method": "fp8", "weight_block_size": [64, 64]}),
                       dict(quantization_config={"quant_method": "fp8", "weight_block_size": [0, 128]}),
                       dict(quantization_config={"quant_method": "fp8", "weight_block_size": "128"})):
            with self.subTest(**{k: str(v) for k, v in values.items()}):
                self.setUp()
                self.change(**values)
                self.refused(".")


class Indexes(Broken):
    def edit(self, change):
        edit_json(self.source, "model.safetensors.index.json", change)

    def test_naming_a_missing_file_is_a_warning(self):
        self.edit(lambda index: index["weight_map"].update({NORM: "model-00001-of-00002.safetensors"}))
        self.converts("warning", "model-00001-of-00002.safetensors")

    def test_naming_only_files_and_tensors_that_are_not_there(self):
        """As V2.5's index was at release: split names, files that do not exist. The headers win."""
        def release(index):
            index["weight_map"] = {"model.layers.0.self_attn.q_proj.weight": "model_0-00001-of-00002.safetensors"}
        self.edit(release)
        self.converts("warning")

    def test_missing(self):
        os.unlink(os.path.join(self.source, "model.safetensors.index.json"))
        self.converts()

    def test_copies_that_the_index_does_not_name_stay_behind(self):
        """A stray file (a consolidated copy, say) is no part of the model: a warning, and the output is without it."""
        stray = os.path.join(self.source, "consolidated.safetensors")
        container.write(stray, {NORM: ("BF16", np.ones(256, np.uint16))})
        result = self.run_tool("mimo-convert", self.source, self.at("out"), *BF16_SPLIT)
        self.assertIn("consolidated.safetensors", result.stderr)
        index = compare.load_json(self.at("out"), "model.safetensors.index.json")
        self.assertNotIn("consolidated.safetensors", index["weight_map"].values())
        self.assertNotIn("consolidated.safetensors", compare.tree(self.at("out")))
        self.assert_same_tensors(decode.stored_as(self.values, "bf16"), self.at("out"))

    def test_wrong_chunk_count(self):
        for value in (3, 5, 0, -4, "four", 2.5, 1 << 40):
            with self.subTest(tp_size=value):
                self.setUp()
                self.edit(lambda index: index["metadata"].update(tp_size=value))
                result = tools.run("mimo-convert", self.source, self.at("out"), *BF16_SPLIT)
                if result.code == 0:                           # allowed when the scale rows prove another count
                    self.assert_same_tensors(decode.stored_as(self.values, "bf16"), self.at("out"))
                else:
                    self.assertEqual(result.code, 3, tools.describe(result))
                    self.assert_nothing_published(self.at("out"))

    def test_not_json(self):
        for text in ("{", "[]", '{"weight_map": 5}', '{"metadata": [], "weight_map": {}}'):
            with self.subTest(text):
                with open(os.path.join(self.source, "model.safetensors.index.json"), "w") as f:
                    f.write(text)
                result = tools.run("mimo-convert", self.source, self.at("out"), *BF16_SPLIT, "--overwrite")
                self.assertIn(result.code, (0, 3), tools.describe(result))
                self.assertIn("index", result.stderr)
                if result.code == 0:
                    self.assert_same_tensors(decode.stored_as(self.values, "bf16"), self.at("out"))
                    shutil.rmtree(self.at("out"))


class Undecidable(Broken):
    """Rows of one distribution: nothing in them tells the fused orders apart, and no index declares one."""
    spec = dict(checkpoints.TINY, store="bf16", tp_size=None)

    def setUp(self):
        super().setUp()
        random = np.random.default_rng(5)
        for name in [n for n in container.read_directory(self.source) if n.endswith("qkv_proj.weight")]:
            replace(self.source, name, lambda t: (t[0], codecs.bf16_from_f32(
                random.standard_normal(t[1].shape).astype(np.float32))))
        self.values = decode.checkpoint(self.source, chunks=4)

    def test_control(self):
        self.refused("--source-qkv", "qkv_proj")

    def test_the_flag_decides(self):
        self.converts(options=BF16_SPLIT + ("--source-qkv", "fused:4"))

    def test_a_flag_that_cannot_be(self):
        for flag in ("fused:3", "fused:64", "split", "independent"):
            with self.subTest(flag):
                self.refused(options=BF16_SPLIT + ("--source-qkv", flag), code=(2, 3))

    def test_the_index_decides(self):
        edit_json(self.source, "model.safetensors.index.json", lambda index: index["metadata"].update(tp_size=4))
        self.converts()


def load_tests(loader, tests, pattern):
    """Broken itself is only the base."""
    suite = unittest.TestSuite()
    for case in (Containers, Scales, Mxfp4Scales, FlashSplit, Inventories, Configs, Indexes, Undecidable):
        suite.addTests(loader.loadTestsFromTestCase(case))
    return suite
