"""Proves that --link is for tensor files alone: config, templates, tokenizer and code are copies whatever it says, so
that editing an output edits nothing else; that symbolic links still lead there when the tree is moved; and that a run
that was stopped ends with the same links.
"""
import os
import shutil
import tempfile
import unittest

from harness import checkpoints, compare, tools
from harness.case import ToolCase
from reference import container

MODES = ("none", "hard", "sym", "reflink")


def files_below(directory):
    return sorted(os.path.relpath(os.path.join(root, name), directory)
                  for root, _, names in os.walk(directory) for name in names)


class SmallFiles(ToolCase):
    def setUp(self):
        super().setUp()
        self.source = self.at("checkpoint")
        shutil.copytree(checkpoints.ours("v2.5", hidden=256, experts=2)[0], self.source)
        os.makedirs(os.path.join(self.source, "audio_tokenizer"), exist_ok=True)
        shutil.copyfile(os.path.join(self.source, "dflash", "dflash_draft_model.safetensors"),
                        os.path.join(self.source, "audio_tokenizer", "speech.safetensors"))

    def convert_linked(self, mode, name="out", source=None, options=("--qkv", "split")):
        source = source or self.source
        out = self.at(name)
        result = tools.run("mimo-convert", source, out, *options, "--link", mode)
        if mode == "reflink" and result.code == 4:
            self.skipTest("no reflinks here")
        self.assertEqual(result.code, 0, tools.describe(result))
        self.run_tool("mimo-verify", "check", out)
        return out

    def test_editing_an_output_edits_nothing_else(self):
        before = compare.tree(self.source)
        for mode in MODES:
            with self.subTest(mode):
                out = self.convert_linked(mode, mode)
                edited = 0
                for name in files_below(out):
                    if name.endswith(".safetensors"):
                        continue
                    path = os.path.join(out, name)
                    self.assertFalse(os.path.islink(path), name)
                    self.assertEqual(os.stat(path).st_nlink, 1, name)
                    with open(path, "ab") as f:
                        f.write(b"edited")
                    edited += 1
                self.assertGreater(edited, 5)
                self.assertEqual(compare.tree(self.source), before)

    def test_tensor_files_that_travel_are_linked(self):
        for mode in ("hard", "sym"):
            out = self.convert_linked(mode, mode)
            for name in ("dflash/dflash_draft_model.safetensors", "audio_tokenizer/speech.safetensors"):
                path = os.path.join(out, name)
                self.assertEqual(os.path.islink(path), mode == "sym", name)
                self.assertTrue(os.path.samefile(path, os.path.join(self.source, name)), name)

    def test_the_manifest_says_which(self):
        for hashed in (False, True):
            out = self.convert_linked("hard", f"out{hashed}", options=("--hash-linked",) if hashed else ())
            rows = compare.load_json(out, "mimo-manifest.json")["carried"]
            self.assertGreater(len(rows), 5)
            for row in rows:
                self.assertEqual(row.get("linked", False), row["name"].endswith(".safetensors"), row)
                self.assertEqual("hash" in row, hashed or not row.get("linked", False), row)

    def test_a_tree_can_be_moved(self):
        tree = self.at("tree")
        os.makedirs(os.path.join(tree, "outputs", "deep"))
        shutil.move(self.source, os.path.join(tree, "checkpoint"))
        out = self.convert_linked("sym", "tree/outputs/deep/out", os.path.join(tree, "checkpoint"))
        links = [n for n in files_below(out) if os.path.islink(os.path.join(out, n))]
        self.assertGreater(len(links), 2)
        for name in links:
            self.assertFalse(os.path.isabs(os.readlink(os.path.join(out, name))), name)
        contents = compare.tree(out)
        shutil.move(tree, self.at("elsewhere"))
        moved = self.at("elsewhere", "outputs", "deep", "out")
        self.assertEqual(compare.tree(moved), contents)
        self.run_tool("mimo-verify", "check", moved)

    def test_an_output_that_is_reached_by_a_link(self):
        os.makedirs(self.at("a", "b"))
        os.symlink(self.at("a", "b"), self.at("alias"))
        out = self.convert_linked("sym", "alias/out")
        path = os.path.join(out, "dflash", "dflash_draft_model.safetensors")
        self.assertEqual(os.readlink(path), "../../../../checkpoint/dflash/dflash_draft_model.safetensors")

    def test_far_apart_links_are_absolute(self):
        if not os.path.isdir("/dev/shm") or os.stat("/dev/shm").st_dev == os.stat(self.tmp).st_dev:
            self.skipTest("one file system")
        far = tempfile.mkdtemp(dir="/dev/shm", prefix="mimo-test-")
        self.addCleanup(shutil.rmtree, far, ignore_errors=True)
        out = os.path.join(far, "out")
        self.run_tool("mimo-convert", self.source, out, "--qkv", "split", "--link", "sym")
        self.run_tool("mimo-verify", "check", out)
        path = os.path.join(out, "dflash", "dflash_draft_model.safetensors")
        self.assertEqual(os.readlink(path), os.path.realpath(os.path.join(self.source, "dflash",
                                                                          "dflash_draft_model.safetensors")))

    def test_links_lead_to_the_blobs_of_a_cache(self):
        hub, snapshot = self.at("hub"), self.at("hub", "snapshots", "1")
        os.makedirs(os.path.join(hub, "blobs"))
        shutil.move(self.source, snapshot)
        for number, name in enumerate(files_below(snapshot)):
            path, blob = os.path.join(snapshot, name), os.path.join(hub, "blobs", f"{number:04x}")
            shutil.move(path, blob)
            os.symlink(os.path.relpath(blob, os.path.dirname(path)), path)
        before = compare.tree(hub)
        for mode in ("hard", "sym"):
            out = self.convert_linked(mode, mode, snapshot)
            linked = 0
            for name in files_below(out):
                path = os.path.join(out, name)
                if name.endswith(".safetensors") and os.path.exists(os.path.join(snapshot, name)) and \
                        os.path.samefile(path, os.path.join(snapshot, name)):
                    linked += 1
                    if mode == "sym":
                        self.assertIn("/blobs/", os.readlink(path))
                        self.assertFalse(os.path.isabs(os.readlink(path)))
                elif not name.endswith(".safetensors"):
                    with open(path, "ab") as f:
                        f.write(b"edited")
            self.assertGreater(linked, 2)
            self.assertEqual(compare.tree(hub), before)

    def test_a_stopped_run_ends_with_the_same_links(self):
        for mode in ("hard", "sym"):
            whole = self.convert_linked(mode, f"whole-{mode}")
            out = self.at(f"stopped-{mode}")
            process = tools.start("mimo-convert", self.source, out, "--qkv", "split", "--link", mode, "--threads", "1")
            process.terminate()
            process.communicate()
            self.assertIn(process.returncode, (0, 143, -15))
            resumed = tools.run("mimo-convert", self.source, out, "--qkv", "split", "--link", mode, "--resume")
            self.assertEqual(resumed.code, 0, tools.describe(resumed))
            self.assert_same_trees(whole, out)
            for name in files_below(whole):
                self.assertEqual(os.path.islink(os.path.join(whole, name)), os.path.islink(os.path.join(out, name)))


if __name__ == "__main__":
    unittest.main()
