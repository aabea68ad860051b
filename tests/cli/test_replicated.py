"""Proves that more chunks than KV heads is the same model: `fused:8` of a model with 4 KV heads decodes to the same
heads, each one twice, config and index say so, and a checkpoint stored that way by others is read as what it is.
"""
import unittest

import numpy as np

from harness import checkpoints, compare
from harness.case import ToolCase
from reference import decode, layouts

SMALL = dict(pattern=(0, 1), mtp=1, towers=False, experts=2)


def repeated(values, config, kv_out):
    """The expected split BF16 tensors when every KV head is repeated up to kv_out."""
    result = decode.stored_as(values, "bf16")
    for name in result:
        for letter in ("k", "v"):
            if name.endswith(f".self_attn.{letter}_proj.weight"):
                _, kv = decode.geometry(config, name)
                size = layouts.head_rows(layouts.LETTERS.index(letter))
                heads = result[name][1].reshape(kv, size, -1)
                order = np.arange(max(kv, kv_out)) * kv // max(kv, kv_out)
                result[name] = ("BF16", heads[order].reshape(-1, heads.shape[2]))
    return result


class Writing(ToolCase):
    def check(self, variant, chunks, **spec):
        source, model = checkpoints.ours(variant, **dict(SMALL, **spec))
        config = compare.load_json(source, "config.json")
        expected = repeated(model.values, config, chunks)
        out = self.convert(source, "fused", "--dtype", "bf16", "--qkv", f"fused:{chunks}")
        written = compare.load_json(out, "config.json")
        index = compare.load_json(out, "model.safetensors.index.json")
        self.assertGreaterEqual(written["num_key_value_heads"], chunks)
        self.assertGreaterEqual(written["swa_num_key_value_heads"], chunks)
        self.assertEqual(int(index["metadata"]["tp_size"]), chunks)
        self.assertEqual(written["num_attention_heads"], config["num_attention_heads"])
        self.assert_same_tensors(expected, decode.stored_as(decode.checkpoint(out, chunks), "bf16"))
        split = self.convert(out, "split", "--dtype", "bf16", "--qkv", "split")
        # The marker tells the heads before replication, so a converter may give either; its config says which.
        heads = compare.load_json(split, "config.json")["num_key_value_heads"]
        self.assertIn(heads, (config["num_key_value_heads"], chunks))
        self.assert_same_tensors(repeated(model.values, config, heads), split)

    def test_eight_chunks_of_four_heads(self):
        self.check("v2.5", 8)

    def test_from_split(self):
        self.check("v2-flash", 8)

    def test_sixteen_chunks_of_eight_heads(self):
        self.check("v2.5-pro", 16)

    def test_real_head_count(self):
        self.check("v2.5", 8, heads=64)

    def test_fp8_of_global_layers_is_lossless(self):
        """In a chunk with one KV head, K and V keep their place against the grid: only Q is dealt out."""
        source, model = checkpoints.ours("v2.5", pattern=(0, 0), mtp=0, towers=False, experts=2)
        out = self.convert(source, "out", "--dtype", "keep", "--qkv", "fused:8", "--lossless")
        config = compare.load_json(source, "config.json")
        self.assert_same_tensors(repeated(model.values, config, 8), decode.stored_as(decode.checkpoint(out, 8), "bf16"))
        pro, model = checkpoints.ours("v2.5-pro", **SMALL)
        out = self.convert(pro, "pro", "--dtype", "keep", "--qkv", "fused:16", "--lossless")
        config = compare.load_json(pro, "config.json")
        found = decode.stored_as(decode.checkpoint(out, 16), "bf16")
        self.assert_same_tensors(repeated(model.values, config, 16), found)


class Reading(ToolCase):
    def test_stored_replicated(self):
        for variant, replicate in (("v2.5", 8), ("v2.5-pro", 16)):
            with self.subTest(variant):
                self.setUp()
                source, model = checkpoints.ours(variant, replicate=replicate, **SMALL)
                expected = decode.stored_as(model.values, "bf16")
                key = expected["model.layers.0.self_attn.k_proj.weight"][1].reshape(replicate, 192, -1)
                self.assertTrue(np.array_equal(key[0], key[1]), "the generator repeats heads")
                self.assertFalse(np.array_equal(key[1], key[2]))
                out = self.convert(source, "out", "--dtype", "bf16", "--qkv", "split")
                self.assert_same_tensors(expected, out)

    def test_fp8_round_trip(self):
        source, _ = checkpoints.ours("v2.5", replicate=8, **SMALL)
        middle = self.convert(source, "middle", "--dtype", "keep", "--qkv", "split", "--lossless")
        out = self.convert(middle, "out", "--dtype", "keep", "--qkv", "fused:8", "--lossless")
        self.assert_same_tensors(source, out)


if __name__ == "__main__":
    unittest.main()
