"""Proves what the options of mimo-convert promise about values and files: dtypes, name filters, shard sizes, towers,
links, plans, overwriting; that threads, memory and repetition never change a byte; that config, index and companions
are right; and that a checkpoint in the Hugging Face cache layout works and is never written to.
"""
import hashlib
import json
import os
import re
import shutil
import stat
import unittest

from harness import checkpoints, compare, tools
from harness.case import ToolCase
from reference import container, decode

SMALL = dict(pattern=(0, 1), mtp=1, towers=False, experts=2)
TWO_SHARDS = dict(SMALL, experts=4)
BF16_SPLIT = ("--dtype", "bf16", "--qkv", "split")
TOWERS = ("visual.", "audio_encoder.", "speech_embeddings.")


class Values(ToolCase):
    def test_fp16_and_fp32(self):
        for variant in ("v2-flash", "v2.5", "v2.6"):
            for dtype in ("fp16", "fp32"):
                with self.subTest(variant, dtype=dtype):
                    self.setUp()
                    source, model = checkpoints.ours(variant, extremes=False, **SMALL)
                    out = self.convert(source, "out", "--dtype", dtype, "--qkv", "split")
                    self.assert_same_tensors(decode.stored_as(model.values, dtype), out)
                    config = compare.load_json(out, "config.json")
                    said = {config.get("dtype"), config.get("torch_dtype")} - {None}
                    self.assertEqual(said, {{"fp16": "float16", "fp32": "float32"}[dtype]})

    def test_overflow_to_fp16_is_an_error(self):
        source, _ = checkpoints.ours("v2.6", extremes=True, **SMALL)
        result = self.run_tool("mimo-convert", source, self.at("out"), "--dtype", "fp16", code=3)
        self.assertIn("experts", result.stderr)
        self.assert_nothing_published(self.at("out"))

    def test_bf16_keeping_the_fused_layout(self):
        for variant, chunks in (("v2.5", 4), ("v2.5-pro", 8)):
            source, model = checkpoints.ours(variant, **SMALL)
            out = self.convert(source, f"out{chunks}", "--dtype", "bf16", "--qkv", "keep")
            found = container.read_directory(out)
            self.assertEqual(found["model.layers.0.self_attn.qkv_proj.weight"][0], "BF16")
            self.assert_same_tensors(decode.stored_as(model.values, "bf16"),
                                     decode.stored_as(decode.checkpoint(out, chunks), "bf16"))
            index = compare.load_json(out, "model.safetensors.index.json")
            self.assertEqual(int(index["metadata"]["tp_size"]), chunks)
            again = self.convert(out, f"again{chunks}", "--qkv", "split")
            self.assert_same_tensors(decode.stored_as(model.values, "bf16"), again)


class Determinism(ToolCase):
    def test_threads_memory_and_repetition(self):
        for variant, options in (("v2-flash", BF16_SPLIT), ("v2.5", ("--dtype", "keep", "--qkv", "fused:2")),
                                 ("v2.6", BF16_SPLIT)):
            with self.subTest(variant):
                self.setUp()
                source, _ = checkpoints.ours(variant, **TWO_SHARDS)
                first = self.convert(source, "first", *options)
                for number, flags in enumerate((("--threads", 1), ("--threads", 2), ("--threads", 4), (),
                                                ("--memory", "64MiB"), ("--memory", "1GiB", "--threads", 3),
                                                ("--device", "cpu"))):
                    again = self.convert(source, f"again{number}", *options, *flags)
                    self.assert_same_trees(first, again, note=str(flags))

    def test_where_the_source_lies_does_not_matter(self):
        source, _ = checkpoints.ours("v2.5", **TWO_SHARDS)
        first = self.convert(source, "first", *BF16_SPLIT)
        os.makedirs(self.at("deep", "er"))
        os.symlink(source, self.at("deep", "er", "link"))
        again = self.at("deep", "out")
        self.run_tool("mimo-convert", os.path.join(os.pardir, "deep", "er", "link"), again, *BF16_SPLIT,
                      cwd=self.at("deep"))
        self.assert_same_trees(first, again, skip=("mimo-manifest.json",))


class Names(ToolCase):
    def setUp(self):
        super().setUp()
        self.source, self.model = checkpoints.ours("v2.5", **SMALL)
        self.full = decode.stored_as(self.model.values, "bf16")

    def filtered(self, keep):
        return {n: v for n, v in self.full.items() if keep(n)}

    def test_include(self):
        out = self.convert(self.source, "out", *BF16_SPLIT, "--include", r"^model\.layers\.0\.")
        self.assert_same_tensors(self.filtered(lambda n: n.startswith("model.layers.0.")), out)
        self.assertEqual(compare.index_problems(out), [])

    def test_exclude(self):
        out = self.convert(self.source, "out", *BF16_SPLIT, "--exclude", r"\.experts\.")
        self.assert_same_tensors(self.filtered(lambda n: ".experts." not in n), out)

    def test_include_twice_and_exclude(self):
        out = self.convert(self.source, "out", *BF16_SPLIT, "--include", r"layers\.0\.", "--include", "norm",
                           "--exclude", "mtp")
        wanted = self.filtered(lambda n: re.search(r"layers\.0\.|norm", n) and "mtp" not in n)
        self.assert_same_tensors(wanted, out)

    def test_output_names_count(self):
        """q_proj exists only in the output; its source is the fused tensor."""
        out = self.convert(self.source, "out", *BF16_SPLIT, "--include", r"layers\.1\.self_attn\.q_proj")
        self.assert_same_tensors(self.filtered(lambda n: "layers.1.self_attn.q_proj" in n), out)

    def test_scales_follow_their_weights(self):
        name = "model.layers.0.self_attn.qkv_proj.weight"
        out = self.convert(self.source, "out", "--include", re.escape(name) + "$")
        self.assertEqual(sorted(container.read_directory(out)), [name, name + "_scale_inv"])
        out = self.convert(self.source, "rest", "--exclude", re.escape(name) + "$")
        found = container.read_directory(out)
        self.assertNotIn(name + "_scale_inv", found)
        self.assertEqual(len(found), len(self.model.tensors) - 2)


class Shards(ToolCase):
    def test_keep_names(self):
        source, _ = checkpoints.ours("v2.5", **TWO_SHARDS)
        out = self.convert(source, "out", *BF16_SPLIT)
        self.assertEqual(container.tensor_files(source), container.tensor_files(out))

    def test_limits(self):
        source, model = checkpoints.ours("v2.5", **TWO_SHARDS)
        expected = decode.stored_as(model.values, "bf16")
        for text, limit in (("2MB", 2_000_000), ("1MiB", 1 << 20), ("100GB", 10**11)):
            with self.subTest(text):
                out = self.convert(source, f"out{text}", *BF16_SPLIT, "--max-shard-size", text)
                self.assert_same_tensors(expected, out)
                self.assertEqual(compare.index_problems(out), [])
                files = container.tensor_files(out)
                for file in files:
                    sizes = [e - b for _, _, b, e in container.read_header(os.path.join(out, file))[0].values()]
                    self.assertTrue(sum(sizes) <= limit or len(sizes) == 1, f"{file}: {sum(sizes)} bytes")
                if limit > 10**9:
                    self.assertEqual(len(files), 1)


class TextOnly(ToolCase):
    def test_towers_go(self):
        for variant in ("v2.5", "v2.6"):
            with self.subTest(variant):
                self.setUp()
                source, model = checkpoints.ours(variant, pattern=(0, 1), experts=2)
                out = self.convert(source, "out", *BF16_SPLIT, "--text-only")
                expected = decode.stored_as(model.values, "bf16")
                self.assertTrue(any(n.startswith(TOWERS) for n in expected))
                self.assert_same_tensors({n: v for n, v in expected.items() if not n.startswith(TOWERS)}, out)
                config = compare.load_json(out, "config.json")
                self.assertNotIn("vision_config", config)
                self.assertNotIn("audio_config", config)
                self.assertEqual(compare.index_problems(out), [])

    def test_nothing_to_drop(self):
        source, model = checkpoints.ours("v2-flash", **SMALL)
        out = self.convert(source, "out", *BF16_SPLIT, "--text-only")
        self.assert_same_tensors(decode.stored_as(model.values, "bf16"), out)


class Links(ToolCase):
    def setUp(self):
        super().setUp()
        self.source, _ = checkpoints.ours("v2.5", hidden=256, experts=4)
        self.copy = self.at("checkpoint")
        shutil.copytree(self.source, self.copy)
        self.plain = self.convert(self.copy, "plain", "--dtype", "keep", "--qkv", "split")

    def attention_files(self):
        return {f for f in container.tensor_files(self.copy)
                if any("qkv_proj" in n for n in container.read_header(os.path.join(self.copy, f))[0])}

    def check(self, mode, shared):
        before = compare.tree(self.copy)
        out = self.convert(self.copy, mode, "--dtype", "keep", "--qkv", "split", "--link", mode)
        self.assert_same_trees(self.plain, out, skip=("mimo-manifest.json",))
        untouched = 0
        for file in container.tensor_files(self.copy):
            if file in self.attention_files():
                self.assertFalse(os.path.samefile(os.path.join(self.copy, file), os.path.join(out, file)), file)
            else:
                untouched += 1
                self.assertTrue(shared(os.path.join(self.copy, file), os.path.join(out, file)), file)
        self.assertGreater(untouched, 0)
        self.assertEqual(before, compare.tree(self.copy))

    def test_none(self):
        for file in container.tensor_files(self.plain):
            self.assertFalse(os.path.samefile(os.path.join(self.copy, file), os.path.join(self.plain, file)))

    def test_hard(self):
        self.check("hard", lambda a, b: os.stat(a).st_ino == os.lstat(b).st_ino)

    def test_sym(self):
        self.check("sym", lambda a, b: os.path.islink(b) and os.path.realpath(b) == os.path.realpath(a))

    def test_reflink_where_the_file_system_can(self):
        result = tools.run("mimo-convert", self.copy, self.at("out"), "--qkv", "split", "--link", "reflink")
        if result.code == 4:
            self.assertTrue(result.stderr.strip())
            self.assert_nothing_published(self.at("out"))
            self.skipTest("no reflinks here")
        self.assertEqual(result.code, 0, tools.describe(result))
        self.assert_same_trees(self.plain, self.at("out"), skip=("mimo-manifest.json",))

    def test_overwriting_a_linked_result_leaves_the_source_alone(self):
        before = compare.tree(self.copy)
        out = self.convert(self.copy, "out", "--qkv", "split", "--link", "hard")
        self.convert(self.copy, "out", *BF16_SPLIT, "--overwrite")
        self.assertEqual(before, compare.tree(self.copy))
        self.assertEqual(compare.index_problems(out), [])


class Plans(ToolCase):
    def setUp(self):
        super().setUp()
        self.source, _ = checkpoints.ours("v2.5", **TWO_SHARDS)

    def test_dry_run_writes_nothing(self):
        before = compare.identity(self.source)
        for options in (BF16_SPLIT, ("--qkv", "fused:2"), ()):
            result = self.run_tool("mimo-convert", self.source, self.at("out"), "--dry-run", *options)
            self.assertTrue(result.stdout.strip())
            self.assertEqual(os.listdir(self.tmp), [])
        document = json.loads(self.run_tool("mimo-convert", self.source, self.at("out"), "--dry-run", "--json").stdout)
        self.assertIsInstance(document, dict)
        self.assertEqual(os.listdir(self.tmp), [])
        self.assertEqual(before, compare.identity(self.source))

    def test_a_written_plan_gives_the_same_bytes(self):
        resharded = ("--dtype", "keep", "--qkv", "fused:2", "--max-shard-size", "3MB")
        for number, options in enumerate((BF16_SPLIT, resharded)):
            direct = self.convert(self.source, f"direct{number}", *options)
            plan = self.at(f"plan{number}.json")
            self.run_tool("mimo-convert", self.source, self.at("unused"), "--dry-run", "--plan-out", plan, *options)
            self.assertFalse(os.path.exists(self.at("unused")))
            self.assertIsInstance(compare.load_json(plan), dict)
            out = self.convert(self.source, f"planned{number}", "--plan", plan)
            self.assert_same_trees(direct, out)

    def test_a_plan_of_another_checkpoint_is_refused(self):
        plan = self.at("plan.json")
        self.run_tool("mimo-convert", self.source, self.at("unused"), "--dry-run", "--plan-out", plan, *BF16_SPLIT)
        other, _ = checkpoints.ours("v2.6", **SMALL)
        result = self.run_tool("mimo-convert", other, self.at("out"), "--plan", plan, code=(2, 3))
        self.assertTrue(result.stderr.strip())
        self.assert_nothing_published(self.at("out"))

    def test_overwrite(self):
        out = self.convert(self.source, "out", *BF16_SPLIT, "--max-shard-size", "1MB")
        first = compare.tree(out)
        self.run_tool("mimo-convert", self.source, out, "--dtype", "keep", code=2)
        self.assertEqual(first, compare.tree(out))
        self.convert(self.source, "out", "--dtype", "keep", "--overwrite")
        self.assert_same_trees(self.convert(self.source, "fresh", "--dtype", "keep"), out)

    def test_resume_of_a_finished_run_changes_nothing(self):
        out = self.convert(self.source, "out", *BF16_SPLIT)
        before = compare.tree(out)
        self.convert(self.source, "out", *BF16_SPLIT, "--resume")
        self.assertEqual(before, compare.tree(out))


class Documents(ToolCase):
    def test_config_of_bf16_split(self):
        for variant in ("v2-flash", "v2.5", "v2.5-pro", "v2.6", "plain"):
            with self.subTest(variant):
                self.setUp()
                source, _ = checkpoints.ours(variant, **SMALL)
                out = self.convert(source, "out", *BF16_SPLIT)
                before, after = (compare.load_json(d, "config.json") for d in (source, out))
                self.assertNotIn("quantization_config", after)
                self.assertNotIn("attention_projection_layout", after)
                for key in ("quantization_config", "attention_projection_layout"):
                    before.pop(key, None)
                self.assertEqual(before, {key: after.get(key) for key in before}, "edited beyond need")
                self.assertEqual(list(before), [key for key in after if key in before], "key order")
                self.assertEqual(compare.index_problems(out), [])

    def test_ignore_list_is_complete_when_quantized(self):
        """Every linear weight stored without a scale is named, the MTP ones too, under both keys that engines read."""
        source, _ = checkpoints.ours("v2.5", **SMALL)
        out = self.convert(source, "out", "--dtype", "keep", "--qkv", "split")
        quantization = compare.load_json(out, "config.json")["quantization_config"]
        tensors = container.read_directory(out)
        wanted = {n[:-len(".weight")] for n in tensors
                  if n.endswith((".o_proj.weight", ".eh_proj.weight")) and n + "_scale_inv" not in tensors}
        for key in ("ignored_layers", "modules_to_not_convert"):
            self.assertLessEqual(wanted, set(quantization[key]), key)

    def test_replication_is_declared(self):
        source, _ = checkpoints.ours("v2.5", **SMALL)
        out = self.convert(source, "out", "--dtype", "bf16", "--qkv", "fused:8")
        config = compare.load_json(out, "config.json")
        self.assertEqual((config["num_key_value_heads"], config["swa_num_key_value_heads"]), (8, 8))
        self.assertEqual(config["attention_projection_layout"], "fused_qkv")
        self.assertEqual(int(compare.load_json(out, "model.safetensors.index.json")["metadata"]["tp_size"]), 8)

    def test_companions_travel(self):
        source, _ = checkpoints.ours("v2.5")
        out = self.convert(source, "out", *BF16_SPLIT)
        before, after = compare.tree(source), compare.tree(out)
        weights = {n for n in before if os.sep not in n and n.endswith((".safetensors", ".index.json"))}
        companions = sorted(set(before) - weights - {"config.json", ".gitattributes"})
        self.assertIn(os.path.join("dflash", "mask_embedding.pt"), companions)
        self.assertIn(os.path.join("audio_tokenizer", "model.safetensors"), companions)
        self.assertIn("modeling_mimo_v2.py", companions)
        for name in companions:
            self.assertEqual(before[name], after.get(name), name)

    def test_manifest(self):
        source, model = checkpoints.ours("v2.5", **SMALL)
        out = self.convert(source, "out", *BF16_SPLIT)
        text = json.dumps(compare.load_json(out, "mimo-manifest.json"))
        for name in decode.stored_as(model.values, "bf16"):
            self.assertIn(f'"{name}"', text)
        self.assertFalse(os.path.exists(os.path.join(out, ".mimo-partial")))

    def test_files_are_readable_by_others_as_the_umask_says(self):
        source, _ = checkpoints.ours("v2.5", **SMALL)
        out = self.convert(source, "out", *BF16_SPLIT)
        mask = os.umask(0)
        os.umask(mask)
        for name in ("config.json", *container.tensor_files(out)):
            self.assertEqual(stat.S_IMODE(os.stat(os.path.join(out, name)).st_mode), 0o666 & ~mask, name)


class HubCache(ToolCase):
    """snapshots/REV/NAME -> ../../blobs/HASH, as huggingface_hub downloads."""

    def setUp(self):
        super().setUp()
        self.source, self.model = checkpoints.ours("v2.5", **TWO_SHARDS)
        self.snapshot, blobs = self.at("hub", "snapshots", "0" * 40), self.at("hub", "blobs")
        os.makedirs(blobs)
        for root, _, files in os.walk(self.source):
            for file in files:
                path = os.path.join(root, file)
                place = os.path.join(self.snapshot, os.path.relpath(path, self.source))
                os.makedirs(os.path.dirname(place), exist_ok=True)
                with open(path, "rb") as f:
                    content = f.read()
                blob = os.path.join(blobs, hashlib.sha256(content).hexdigest())
                with open(blob, "wb") as f:
                    f.write(content)
                os.chmod(blob, 0o444)
                os.symlink(os.path.relpath(blob, os.path.dirname(place)), place)
        self.before = (compare.tree(self.at("hub")), compare.identity(self.at("hub")))

    def tearDown(self):
        now = (compare.tree(self.at("hub")), compare.identity(self.at("hub")))
        self.assertEqual(self.before, now, "the cache changed")

    def test_converts(self):
        out = self.convert(self.snapshot, "out", *BF16_SPLIT)
        self.assert_same_trees(self.convert(self.source, "direct", *BF16_SPLIT), out, skip=("mimo-manifest.json",))
        for root, _, files in os.walk(out):
            for file in files:
                self.assertFalse(os.path.islink(os.path.join(root, file)), f"{file}: a link into the cache was copied")

    def test_links_point_at_blobs(self):
        for mode in ("hard", "sym"):
            out = self.convert(self.snapshot, mode, "--qkv", "split", "--link", mode)
            shared = [f for f in container.tensor_files(self.snapshot)
                      if os.path.samefile(os.path.join(out, f), os.path.join(self.snapshot, f))]
            self.assertTrue(shared)
            if mode == "hard":
                for file in shared:
                    self.assertFalse(os.path.islink(os.path.join(out, file)), f"{file}: linked the link, not the blob")
            self.convert(self.snapshot, mode, *BF16_SPLIT, "--overwrite")
            self.assert_same_tensors(decode.stored_as(self.model.values, "bf16"), out)

    def test_output_inside_is_refused(self):
        self.run_tool("mimo-convert", self.snapshot, os.path.join(self.snapshot, "out"), *BF16_SPLIT, code=2)


if __name__ == "__main__":
    unittest.main()
