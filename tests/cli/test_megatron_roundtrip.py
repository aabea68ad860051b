"""Proves that a Megatron run comes back as the checkpoint it was made from: as split BF16 byte for byte, and with
--like in the source's own files, layout, codes and scales; that what a run changed, and nothing else, changes there;
and that half-written, damaged or foreign runs are refused.

Runs are changed in place (harness/torch_dist.py); what must come of it follows from codes that were changed first.
"""
import os
import re
import shutil
import unittest

import numpy as np

from harness import breakage, checkpoints, compare, megatron_case, megatron_changes, torch_dist
from harness.megatron_case import TINY, MegatronCase
from reference import codecs, container, decode, megatron
from reference.model import VARIANTS

OURS = ("mimo-manifest.json",)
LAYOUTS = (("v2.5", dict(qkv="fused:2")), ("v2-flash", dict(qkv="independent")), ("v2.5", dict(store="bf16")),
           ("v2-flash", dict(store="bf16")), ("v2.5", dict(store="ue8m0")), ("v2.5", dict(replicate=8)),
           ("v2-flash", dict(placement="random")), ("v2.6", dict(placement="apart", hidden=320)))


class RunCase(MegatronCase):
    def back(self, run, name, *options, **how):
        return self.convert(run, name, "--to", "hf", *options, **how)

    def edit(self, run, before, after):
        """Gives a run other values: both are {torch_dist key: (dtype, array)}. -> the keys that changed"""
        checkpoint = torch_dist.Checkpoint(torch_dist.iteration_directory(run))
        keys = [k for k in before if before[k][1].tobytes() != after[k][1].tobytes()]
        for key in keys:
            checkpoint.edit(key, lambda _, key=key: after[key][1])
        return keys


class Split(RunCase):
    def check_split(self, fixture, *options, back=()):
        run = self.to_megatron(fixture, "run", *options)
        out = self.back(run, "back", *back)
        self.assert_same_tensors(fixture.split(), out)
        self.assertEqual(compare.index_problems(out), [])
        self.run_tool("mimo-verify", "check", out)
        config = compare.load_json(out, "config.json")
        self.assertNotIn("quantization_config", config)
        self.assertNotEqual(config.get("attention_projection_layout"), "fused_qkv")
        return out

    def test_every_variant(self):
        for variant in VARIANTS:
            with self.subTest(variant):
                self.setUp()
                self.check_split(megatron_case.ours(variant))

    def test_other_layouts_and_codecs(self):
        for variant, spec in LAYOUTS:
            with self.subTest(variant, **spec):
                self.setUp()
                # A source that was not quantized comes back in its own layout unless told otherwise.
                self.check_split(megatron_case.ours(variant, **dict(TINY, **spec)), back=("--qkv", "split"))

    def test_cut_padded_and_moved(self):
        """Finer chunks, a padded vocabulary, another iteration; the iteration directory and `release`."""
        fixture = megatron_case.ours("v2.5", **TINY)
        out = self.check_split(fixture, "--tp", 4, "--etp", 2, "--pad", "--iteration", 30)
        self.assertEqual(container.read_directory(out)["model.embed_tokens.weight"][1].shape[0], TINY["vocab"])
        run = self.at("run")
        os.rename(os.path.join(run, "iter_0000030"), os.path.join(run, "release"))
        with open(os.path.join(run, "latest_checkpointed_iteration.txt"), "w", encoding="ascii") as f:
            f.write("release\n")
        self.assert_same_tensors(fixture.split(), self.back(run, "released"))
        given = self.back(os.path.join(run, "release"), "given", "--like", fixture.directory, "--dtype", "bf16",
                          "--qkv", "split")
        self.assert_same_tensors(fixture.stored("bf16"), given)

    def test_parts_of_virtual_stages(self):
        """Keys below model0 and model1, layers by turns under their numbers in the model: the same weights. Numbers of
        each part's own are refused, and so is what no table knows."""
        fixture = megatron_case.ours("v2.5", **TINY)
        run = self.to_megatron(fixture, "run", "--tp", 2)

        def part(key):
            number = re.search(r"\blayers\.(\d+)\.", key)
            return f"model{int(number[1]) % 2 if number else int(key.startswith('output'))}.{key}"

        keys = torch_dist.rename(torch_dist.iteration_directory(run), part)
        self.assertEqual({new[:7] for new in keys.values()}, {"model0.", "model1."})
        self.assert_same_tensors(fixture.split(), self.back(run, "back"))
        like = self.back(run, "like", "--like", fixture.directory)
        self.assert_same_tensors({n: v for n, v in container.read_directory(fixture.directory).items()}, like)
        for name, rename, says in (
                ("local", lambda key: re.sub(r"^(model1\.decoder\.layers\.)1\.", r"\g<1>0.", key), "layers from 0"),
                ("odd", lambda key: key.replace("model1.output_layer", "model1.adapter"), "no model table knows")):
            with self.subTest(name):
                shutil.copytree(run, self.at(name))
                torch_dist.rename(torch_dist.iteration_directory(self.at(name)), rename)
                result = self.run_tool("mimo-convert", self.at(name), self.at("refused"), "--to", "hf", code=3)
                self.assertIn(says, result.stderr)

    def test_fp32_run(self):
        """F32 values of a quantized source round to the BF16 of a direct conversion."""
        fixture = megatron_case.ours("v2.5", **TINY)
        self.check_split(fixture, "--dtype", "fp32")

    @unittest.skipUnless(checkpoints.external_generator(), "no external generator")
    def test_external_generator(self):
        for variant in VARIANTS:
            with self.subTest(variant):
                self.setUp()
                self.check_split(megatron_case.external(variant, seed=2, experts=4))


class Like(RunCase):
    def check_like(self, fixture, *options):
        run = self.to_megatron(fixture, "run", *options)
        out = self.back(run, "back", "--like", fixture.directory)
        self.assert_same_trees(fixture.directory, out, skip=OURS)
        self.run_tool("mimo-verify", "check", out)
        return out

    def test_every_variant(self):
        for variant in VARIANTS:
            with self.subTest(variant):
                self.setUp()
                self.check_like(megatron_case.ours(variant))

    def test_other_layouts_and_codecs(self):
        for variant, spec in LAYOUTS:
            with self.subTest(variant, **spec):
                self.setUp()
                self.check_like(megatron_case.ours(variant, **dict(TINY, **spec)))

    def test_values_have_no_scales_to_make_anew(self):
        for variant in ("v2.5", "v2-flash"):
            with self.subTest(variant):
                self.setUp()
                fixture = megatron_case.ours(variant, **dict(TINY, store="bf16"))
                run = self.to_megatron(fixture, "run")
                out = self.back(run, "back", "--like", fixture.directory, "--scale-policy", "fresh")
                self.assert_same_trees(fixture.directory, out, skip=OURS)

    def test_real_head_counts(self):
        for variant, heads in (("v2-flash", 64), ("v2.5", 64), ("v2.5-pro", 128), ("v2.6", 64)):
            with self.subTest(variant):
                self.setUp()
                self.check_like(megatron_case.ours(variant, **dict(TINY, heads=heads, hidden=128, seed=7)))

    def test_fp32_and_padded(self):
        self.check_like(megatron_case.ours("v2.5", **TINY), "--dtype", "fp32", "--pad", "--tp", 4)

    def test_threads_change_nothing(self):
        fixture = megatron_case.ours("v2-flash", **TINY)
        run = self.to_megatron(fixture, "run")
        self.assert_same_trees(self.back(run, "one", "--like", fixture.directory, "--threads", 1),
                               self.back(run, "four", "--like", fixture.directory, "--threads", 4))

    def test_what_the_run_lacks_is_grafted(self):
        """A run without MTP (and, always, without towers) gets REF's own bytes of them; the manifest names them."""
        whole = megatron_case.ours("v2.5", **dict(TINY, seed=21))
        bare = megatron_case.ours("v2.5", **dict(TINY, seed=21, mtp=0, towers=False))
        run = self.to_megatron(bare, "run")
        out = self.back(run, "back", "--like", whole.directory)
        self.assert_same_trees(whole.directory, out, skip=OURS)
        manifest = compare.load_json(out, "mimo-manifest.json")
        grafts, = [note for note in manifest["notes"] if "the run does not have" in note]
        self.assertIn("MTP layer 0", grafts)
        self.assertIn("tower.vision", grafts)
        tensors = manifest["tensors"]
        of_run = {t["name"] for t in tensors if any(s.startswith("run/") for s in t["sources"])}
        grafted = {n for n in container.read_directory(whole.directory)
                   if n.startswith("model.mtp.") or n in megatron.dropped([n])}
        self.assertIn("model.mtp.layers.0.eh_proj.weight", grafted)
        self.assertIn("visual.merger.mlp.0.weight", grafted)
        self.assertEqual({t["name"] for t in tensors} - of_run, grafted)
        split = self.back(run, "split", "--like", whole.directory, "--dtype", "bf16", "--qkv", "split")
        self.assert_same_tensors(whole.stored("bf16"), split)

    def test_grafts_are_of_the_reference_not_of_the_run(self):
        run_of = megatron_case.ours("v2-flash", **dict(TINY, seed=31, mtp=0))
        like = megatron_case.ours("v2-flash", **dict(TINY, seed=32, store="bf16"))
        out = container.read_directory(self.back(self.to_megatron(run_of, "run"), "back", "--like", like.directory,
                                                 "--allow-divergence"))
        expected = dict(container.read_directory(like.directory), **run_of.split())
        self.assert_same_tensors(expected, out)


class Changed(RunCase):
    """A run whose weights moved. Expected: the source with other codes, from which the run's values were computed."""

    def test_only_what_changed(self):
        for variant in VARIANTS:
            with self.subTest(variant):
                self.setUp()
                fixture = megatron_case.ours(variant, **TINY)
                wanted = self.at("wanted")
                shutil.copytree(fixture.directory, wanted)
                count = megatron_changes.other_codes(wanted, seed=5)
                self.assertGreater(count, 1000)
                run = self.to_megatron(fixture, "run")
                values = decode.stored_as(decode.checkpoint(wanted, int(fixture.qkv[-1])), "bf16")
                keys = self.edit(run, fixture.megatron(), megatron.full(fixture.config, values))
                self.assertGreater(len(keys), 10)
                out = self.back(run, "back", "--like", fixture.directory, "--scale-policy", "sticky")
                self.assert_same_tensors(wanted, out, variant)
                self.assert_same_trees(wanted, out, skip=OURS)

    def test_a_value_beyond_its_scale(self):
        """The block of that element gets the scale of the published rule; all others stay."""
        fixture = megatron_case.ours("v2.5", **TINY)
        base = "model.layers.1.mlp.experts.2.down_proj.weight"
        key = "decoder.layers.1.mlp.experts.experts.linear_fc2.weight"
        before = fixture.megatron()
        after = {k: (d, a.copy()) for k, (d, a) in before.items()}
        block = codecs.f32_from_bf16(after[key][1][2][128:256, :128])
        row, column = np.unravel_index(np.abs(block).argmax(), block.shape)
        block[row, column] *= 4
        after[key][1][2, 128 + row, column] = codecs.bf16_from_f32(block)[row, column]
        run = self.to_megatron(fixture, "run")
        self.assertEqual(self.edit(run, before, after), [key])
        found = container.read_directory(self.back(run, "back", "--like", fixture.directory))
        expected = {n: (d, a.copy()) for n, (d, a) in container.read_directory(fixture.directory).items()}
        made = megatron_changes.fresh_block(block)
        expected[base][1][128:256, :128] = made.codes
        expected[base + "_scale_inv"][1][1, 0] = made.scales[0, 0]
        self.assertNotEqual(expected[base + "_scale_inv"][1][1, 0],
                            container.read_directory(fixture.directory)[base + "_scale_inv"][1][1, 0])
        self.assert_same_tensors(expected, found)

    def test_a_value_beyond_the_scale_of_k_and_v(self):
        """V2-Flash: K and V share a row of scales. Where V leaves it, K's rows of that block are encoded anew too."""
        fixture = megatron_case.ours("v2-flash", **TINY)
        before = fixture.megatron()
        stored = {n: (d, a.copy()) for n, (d, a) in fixture.stored("bf16").items()}
        name = "model.layers.0.self_attn.v_proj.weight"
        stored[name][1][3, 5] = codecs.bf16_from_f32(np.float32([1e4]))[0]
        run = self.to_megatron(fixture, "run")
        self.edit(run, before, megatron.full(fixture.config, stored))
        found = container.read_directory(self.back(run, "back", "--like", fixture.directory))
        expected = megatron_changes.with_fresh_cells(fixture, stored, "model.layers.0.self_attn", [("v", 3, 5)])
        self.assert_same_tensors(expected, found)

    def test_fresh(self):
        """Every scale by the published rule from the BF16 values, whatever the source had."""
        for variant in ("v2.5", "v2-flash", "v2.6"):
            with self.subTest(variant):
                self.setUp()
                fixture = megatron_case.ours(variant, **dict(TINY, extremes=False))
                run = self.to_megatron(fixture, "run")
                found = self.back(run, "back", "--like", fixture.directory, "--scale-policy", "fresh")
                expected = megatron_changes.fresh(fixture)
                towers = megatron.dropped(fixture.stored("bf16"))
                source = container.read_directory(fixture.directory)
                expected.update({n: v for n, v in source.items() if n in towers})
                self.assert_same_tensors(expected, found, variant)


class Refused(RunCase):
    def refused(self, run, words, *options):
        words = (words,) if isinstance(words, str) else words
        result = self.run_tool("mimo-convert", run, self.at("refused"), "--to", "hf", *options, code=3)
        for word in words:
            self.assertIn(word, result.stderr)
        self.assert_nothing_published(self.at("refused"))

    def setUp(self):
        super().setUp()
        self.fixture = megatron_case.ours("plain", **TINY)
        self.run_root = self.to_megatron(self.fixture, "run")
        self.iteration = torch_dist.iteration_directory(self.run_root)

    def test_half_written(self):
        """metadata.json comes last in a save: without it there is no checkpoint, whatever else lies there."""
        os.remove(os.path.join(self.iteration, "metadata.json"))
        os.remove(os.path.join(self.run_root, "mimo-manifest.json"))
        self.refused(self.run_root, "metadata.json")

    def test_no_metadata(self):
        os.remove(os.path.join(self.iteration, ".metadata"))
        self.refused(self.run_root, ".metadata")

    def test_tracker_of_a_missing_directory(self):
        for text in ("77", "release", "../run", "-1", "seven", ""):
            with self.subTest(text=text):
                with open(os.path.join(self.run_root, "latest_checkpointed_iteration.txt"), "w", encoding="ascii") as f:
                    f.write(text)
                words = {"77": "iter_0000077", "release": "release"}
                self.refused(self.run_root, words.get(text, "latest_checkpointed_iteration.txt"))

    def test_missing_and_truncated_files(self):
        path = os.path.join(self.iteration, "__0_2.distcp")
        breakage.truncate(path, -100)
        self.refused(self.run_root, "__0_2.distcp")
        os.remove(path)
        self.refused(self.run_root, "__0_2.distcp")

    def test_truncated_metadata(self):
        breakage.truncate(os.path.join(self.iteration, ".metadata"), -10)
        self.refused(self.run_root, ".metadata")

    def test_no_config(self):
        os.remove(os.path.join(self.run_root, "config.json"))
        self.refused(self.run_root, "--like")
        out = self.back(self.run_root, "back", "--like", self.fixture.directory)
        self.assert_same_trees(self.fixture.directory, out, skip=OURS)

    def test_reference_of_another_shape(self):
        for other in (dict(hidden=128), dict(heads=32), dict(experts=2), dict(pattern=(0, 1, 1)), dict(pattern=(1, 0)),
                      dict(moe_intermediate=256), dict(vocab=400)):
            with self.subTest(**other):
                like = megatron_case.ours("plain", **dict(TINY, **other))
                self.refused(self.run_root, (), "--like", like.directory)

    def test_a_tensor_missing(self):
        """A run without a layer's tensors is not filled up from REF: only MTP and towers are."""
        text = os.path.join(self.iteration, ".metadata")
        with open(text, "rb") as f:
            data = f.read()
        key = b"decoder.layers.1.self_attention.linear_proj.weight"
        self.assertIn(key, data)
        with open(text, "wb") as f:
            f.write(data.replace(key, b"decoder.layers.1.self_attention.linear_proX.weight"))
        self.refused(self.run_root, (), "--like", self.fixture.directory)


if __name__ == "__main__":
    unittest.main()
