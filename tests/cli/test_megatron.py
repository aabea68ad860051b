"""Proves that `--to megatron` writes a torch_dist checkpoint of the model that tests/reference/megatron.py describes:
every key, shape, dtype and byte of every variant of the family, extra states, trackers and state files; chunks tile
their tensors, lie in proper torch.save items and are cut where ranks are.

The directories are read by tests/harness/torch_dist.py, which shares nothing with the tool and needs no torch.
"""
import hashlib
import os
import shutil
import unittest

import numpy as np

from harness import breakage, checkpoints, compare, megatron_case, torch_dist
from harness.megatron_case import TINY, MegatronCase
from reference import codecs, decode, layouts, megatron
from reference.model import VARIANTS

REAL_HEADS = {"v2.5-pro": 128}


class Values(MegatronCase):
    def convert_and_check(self, variant, *options, **spec):
        fixture = megatron_case.ours(variant, **spec)
        out = self.to_megatron(fixture, "out", *options)
        return fixture, out, self.check(fixture, out)

    def test_every_variant(self):
        for variant in VARIANTS:
            with self.subTest(variant):
                self.setUp()
                _, out, _ = self.convert_and_check(variant)
                self.run_tool("mimo-verify", "check", out)

    def test_real_head_counts(self):
        for variant in VARIANTS:
            with self.subTest(variant):
                self.setUp()
                self.convert_and_check(variant, **dict(TINY, heads=REAL_HEADS.get(variant, 64), hidden=128, seed=7))

    def test_other_layouts_and_codecs(self):
        for variant, spec in (("v2.5", dict(qkv="fused:2")), ("v2-flash", dict(qkv="independent")),
                              ("v2.5", dict(store="bf16")), ("v2-flash", dict(store="bf16")),
                              ("v2.5", dict(store="ue8m0")), ("v2.5", dict(store="nvfp4")),
                              ("v2-flash", dict(store="nvfp4-ct")), ("v2.5", dict(store="mxfp8")),
                              ("v2.5", dict(replicate=8)), ("v2-flash", dict(placement="random")),
                              ("v2.6", dict(placement="apart", hidden=320, moe_intermediate=160))):
            with self.subTest(variant, **spec):
                self.setUp()
                self.convert_and_check(variant, **dict(TINY, seed=9, **spec) if "hidden" not in spec
                                       else dict(TINY, **spec))

    def test_other_layer_patterns(self):
        for pattern, mtp in (((1, 1, 0), 0), ((0, 0), 2), ((1,), 3)):
            with self.subTest(pattern=pattern, mtp=mtp):
                self.setUp()
                self.convert_and_check("v2.5", **dict(TINY, pattern=pattern, mtp=mtp, towers=False, seed=6))

    def test_towers_are_dropped(self):
        fixture, out, _ = self.convert_and_check("v2.5", **TINY)
        names = {d["name"] for d in compare.load_json(out, "mimo-manifest.json")["dropped"]}
        self.assertTrue(any(n.startswith("visual.") for n in names))
        self.assertTrue(any(n.startswith("speech_embeddings.") for n in names))

    def test_fp32(self):
        """Exact: the product of code and scale, not rounded to BF16 on the way."""
        for variant in ("v2-flash", "v2.5", "v2.6"):
            with self.subTest(variant):
                self.setUp()
                fixture = megatron_case.ours(variant, **TINY)
                out = self.to_megatron(fixture, "out", "--dtype", "fp32")
                found = self.check(fixture, out, "fp32")
                self.assertEqual({t.dtype for t in found.tensors.values()}, {"F32"})

    def test_fp16(self):
        fixture = megatron_case.ours("v2.5", **TINY)
        self.check(fixture, self.to_megatron(fixture, "out", "--dtype", "fp16"), "fp16")

    @unittest.skipUnless(checkpoints.external_generator(), "no external generator")
    def test_external_generator(self):
        for variant in VARIANTS:
            with self.subTest(variant):
                self.setUp()
                fixture = megatron_case.external(variant, seed=2, experts=4)
                self.check(fixture, self.to_megatron(fixture, "out"))


class Chunks(MegatronCase):
    def test_experts(self):
        """One chunk per expert and half; with --etp R, one per rank of these."""
        fixture = megatron_case.ours("v2.5", **TINY)
        count, inner, hidden = 4, TINY["moe_intermediate"], TINY["hidden"]
        for etp in (1, 2, 4):
            with self.subTest(etp=etp):
                out = self.to_megatron(fixture, f"etp{etp}", "--etp", etp)
                found, width = self.check(fixture, out), inner // etp
                base = "decoder.layers.1.mlp.experts.experts."
                fc1 = {(c.offsets, c.sizes) for c in found.tensors[base + "linear_fc1.weight"].chunks}
                self.assertEqual(fc1, {((e, half + r * width, 0), (1, width, hidden)) for e in range(count)
                                       for half in (0, inner) for r in range(etp)})
                fc2 = {(c.offsets, c.sizes) for c in found.tensors[base + "linear_fc2.weight"].chunks}
                self.assertEqual(fc2, {((e, 0, r * width), (1, hidden, width)) for e in range(count)
                                       for r in range(etp)})

    def test_ranks_read_whole_chunks(self):
        fixture = megatron_case.ours("v2.5", **TINY)
        for tp, etp in ((1, 1), (2, 1), (4, 2)):
            with self.subTest(tp=tp, etp=etp):
                out = self.to_megatron(fixture, f"tp{tp}", "--tp", tp, "--etp", etp)
                found = self.check(fixture, out)
                self.check_whole_chunks(found, megatron.Topology(tp, 1, 1, etp, 4), fixture.config)

    def test_dense_tensors_are_cut_fine_by_default(self):
        """Up to 8 parts, so that any TP reads little more than its share; QKV by whole groups, the rest whole."""
        fixture = megatron_case.ours("v2.5", **dict(TINY, heads=64, intermediate=1024))
        found = self.check(fixture, self.to_megatron(fixture, "out"))
        for key, tensor in found.tensors.items():
            axis = megatron.split_axis(key)
            if megatron.EXPERTS in key:
                continue
            if axis is None or key.endswith("softmax_offset"):
                self.assertEqual(len(tensor.chunks), 1, key)
                continue
            starts = {c.offsets[axis] for c in tensor.chunks}
            self.assertEqual(len(starts), len(tensor.chunks), key)
            limit = 16 if key.endswith("linear_fc1.weight") else 8
            self.assertTrue(1 < len(starts) <= limit, f"{key}: {len(starts)} chunks")
            if key.endswith("linear_fc1.weight"):
                self.assertIn(tensor.shape[0] // 2, starts, key)
            if key.endswith("linear_qkv.weight"):
                groups = megatron.geometry(fixture.config, "model." + ("layers.0." if ".0." in key and "mtp" not in key
                                                                       else "layers.1."))[1]
                self.assertTrue(all(s % (tensor.shape[0] // groups) == 0 for s in starts), key)

    def test_cuts_change_no_value(self):
        fixture = megatron_case.ours("v2.5", **TINY)
        first = torch_dist.Checkpoint(torch_dist.iteration_directory(self.to_megatron(fixture, "a"))).arrays()
        second = self.to_megatron(fixture, "b", "--tp", 2, "--etp", 4)
        self.assert_same_tensors(first, torch_dist.Checkpoint(torch_dist.iteration_directory(second)).arrays())

    def test_threads_change_nothing(self):
        fixture = megatron_case.ours("v2.6", **TINY)
        self.assert_same_trees(self.to_megatron(fixture, "one", "--threads", 1),
                               self.to_megatron(fixture, "four", "--threads", 4))


class Options(MegatronCase):
    def test_padded_vocabulary(self):
        """320 rows become 384 at TP 1, 512 at TP 2 (a multiple of 256) and at TP 4; the new rows are zero."""
        fixture = megatron_case.ours("v2.5", **TINY)
        for tp, rows in ((1, 384), (2, 512), (4, 512)):
            with self.subTest(tp=tp):
                out = self.to_megatron(fixture, f"tp{tp}", "--pad", "--tp", tp)
                found = self.check(fixture, out, pad=tp)
                for key in megatron.VOCABULARY_KEYS:
                    self.assertEqual(found.tensors[key].shape[0], rows)
        self.check(fixture, self.to_megatron(fixture, "plain", "--tp", 4))

    def test_iteration(self):
        fixture = megatron_case.ours("plain", **TINY)
        self.check(fixture, self.to_megatron(fixture, "out", "--iteration", 1200), iteration=1200)

    def test_golden_common_state(self):
        """Iteration 0 gives the bytes of target-layouts, A.6."""
        fixture = megatron_case.ours("plain", **TINY)
        out = torch_dist.iteration_directory(self.to_megatron(fixture, "out"))
        with open(os.path.join(out, "common.pt"), "rb") as f:
            digest = hashlib.sha256(f.read()).hexdigest()
        self.assertEqual(digest, "a06cea96a4fdcf9b73e46f667b8f619a5da0bc7585f9c23a94e186664e5ae87f")
        with open(os.path.join(out, "__0_0.distcp"), "rb") as f:
            digest = hashlib.sha256(f.read()).hexdigest()
        self.assertEqual(digest, "e187e397057021d8443756f926694a10ce3e0c3ba5f5f30279cf235fb5c24aff")

    def test_refused(self):
        fixture = megatron_case.ours("v2.5", **TINY)
        for options, words in ((("--dtype", "fp8"), "bf16"), (("--etp", "3"), "etp"), (("--qkv", "split"), "qkv")):
            with self.subTest(options=options):
                result = self.run_tool("mimo-convert", fixture.directory, self.at("out"), "--to", "megatron", *options,
                                       code=(1, 2, 3))
                self.assertIn(words, result.stderr.lower())
                self.assert_nothing_published(self.at("out"))

    def test_truncated_source(self):
        fixture = megatron_case.ours("v2.5", **TINY)
        broken = self.at("broken")
        shutil.copytree(fixture.directory, broken)
        breakage.truncate(breakage.file_of(broken, "model.layers.1.self_attn.qkv_proj.weight"), -7)
        self.run_tool("mimo-convert", broken, self.at("out"), "--to", "megatron", code=3)
        self.assert_nothing_published(self.at("out"))


class SelfCheck(unittest.TestCase):
    """The model of this test agrees with the other, older account of layouts, and the judge sees what is wrong."""

    def test_linear_qkv_is_fused_by_group(self):
        rng = np.random.default_rng(1)
        for heads, groups in ((16, 4), (16, 8), (128, 8)):
            parts = [rng.integers(0, 1 << 16, (n * d, 3)).astype(np.uint16) for n, d in
                     ((heads, 192), (groups, 192), (groups, 128))]
            stored = layouts.fused(heads, groups, groups)["qkv"]
            expected = np.empty((stored.row.size, 3), np.uint16)
            for letter in range(3):
                mine = stored.letter == letter
                expected[mine] = parts[letter][stored.row[mine]]
            self.assertTrue(np.array_equal(megatron.linear_qkv(*parts, groups), expected))

    def test_shapes_of_the_page(self):
        """13568 rows of GA and 14848 of SWA layers at 64 heads; 27136 at 128."""
        for heads, groups, rows in ((64, 4, 13568), (64, 8, 14848), (128, 8, 27136)):
            parts = [np.zeros((n * d, 1)) for n, d in ((heads, 192), (groups, 192), (groups, 128))]
            self.assertEqual(megatron.linear_qkv(*parts, groups).shape[0], rows)

    def test_places_of_ranks(self):
        topology = megatron.Topology(2, 1, 8, 2, 16)
        for g in range(16):
            place = topology.place(g)
            self.assertEqual((place.tp, place.etp, place.ep, place.pp), (g % 2, g % 2, g // 2, 0))
        self.assertEqual([megatron.Topology(2, 1, 8, 1, 8).place(g)[:4] for g in (0, 3, 7)],
                         [(0, 0, 0, 0), (1, 0, 3, 0), (1, 0, 7, 0)])

    def test_gated_shares(self):
        rows = np.arange(8)
        self.assertEqual([megatron.share(rows, 0, r, 2, True).tolist() for r in (0, 1)], [[0, 1, 4, 5], [2, 3, 6, 7]])

    def test_values_of_the_fixture_tell_mistakes_apart(self):
        """Any of the classic errors changes the bytes of the truth."""
        fixture = megatron_case.ours("v2.5", **TINY)
        stored, truth = fixture.stored("bf16"), fixture.megatron()
        base, key = "model.layers.1.", "decoder.layers.1."

        def swapped(a, b):
            return dict(stored, **{base + a: stored[base + b], base + b: stored[base + a]})
        for wrong, changed in ((swapped("mlp.experts.1.gate_proj.weight", "mlp.experts.1.up_proj.weight"), "fc1"),
                               (swapped("mlp.experts.1.down_proj.weight", "mlp.experts.2.down_proj.weight"), "fc2")):
            found = megatron.full(fixture.config, wrong)
            self.assertEqual([n for n in truth if truth[n][1].tobytes() != found[n][1].tobytes()],
                             [f"{key}mlp.experts.experts.linear_{changed}.weight"])
        attention = base + "self_attn."
        halves = np.split(stored[attention + "k_proj.weight"][1], 2)
        moved = dict(stored, **{attention + "k_proj.weight": ("BF16", np.concatenate(halves[::-1]))})
        found = megatron.full(fixture.config, moved)
        self.assertEqual([n for n in truth if truth[n][1].tobytes() != found[n][1].tobytes()],
                         [key + "self_attention.linear_qkv.weight"])

    def test_golden_bytes_are_read(self):
        """target-layouts, A.5 and A.6."""
        self.assertEqual(torch_dist.unpickle(COMMON), {
            "checkpoint_version": 3.0, "iteration": 0, "num_floating_point_operations_so_far": 0,
            "content_metadata": megatron_case.CONTENT})
        with self.assertRaises(torch_dist.Malformed):
            torch_dist.unpickle(b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00id\x85R.")

    def test_fp32_truth_is_not_rounded(self):
        fixture = megatron_case.ours("v2.5", **TINY)
        name = "model.layers.0.mlp.down_proj.weight"
        exact = fixture.stored("fp32")[name][1]
        self.assertFalse(np.array_equal(exact, codecs.f32_from_bf16(codecs.bf16_from_f32(exact))))
        self.assertTrue(np.array_equal(exact, decode.checkpoint(fixture.directory)[name].values))


COMMON = bytes.fromhex(
    "80027d285812000000636865636b706f696e745f76657273696f6e71004740080000000000005809000000697465726174696f6e71014b00"
    "58240000006e756d5f666c6f6174696e675f706f696e745f6f7065726174696f6e735f736f5f66617271024b005810000000636f6e74656e"
    "745f6d6574616461746171037d28581600000073696e676c65746f6e5f6c6f63616c5f736861726473710489581a000000636861696e6564"
    "5f6f7074696d5f61766f69645f70726566697871058875752e")

if __name__ == "__main__":
    unittest.main()
