"""Proves that nothing takes a name that the output needs, and that links in a checkpoint are followed only inside it: a
stray file with the name of an output file, names that are mimo-convert's own, hostile indices, links that lead out,
loops and pipes. Whatever is refused is refused before anything is written.
"""
import json
import os
import shutil
import stat
import unittest

import numpy as np

from harness import checkpoints, compare, ranks
from harness.case import ToolCase
from reference import container

INDEX = "model.safetensors.index.json"
SECRET = b"nobody outside may read this\n"


class NamesCase(ToolCase):
    def setUp(self):
        super().setUp()
        self.source = self.at("source")
        shutil.copytree(checkpoints.ours("v2.5", **checkpoints.TINY)[0], self.source)

    def put(self, name, content=b"x"):
        path = os.path.join(self.source, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as f:
            f.write(content)
        return path

    def link(self, target, name):
        path = os.path.join(self.source, name)
        if os.path.lexists(path):
            os.remove(path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.symlink(target, path)

    def refuse(self, *options, source=None, says=()):
        out = self.at("refused")
        for more in ((), ("--json",), ("--dry-run",), ("--resume",), ("--plan-out", self.at("plan.json"))):
            with self.subTest(options=more):
                result = self.run_tool("mimo-convert", source or self.source, out, *options, *more, code=3)
                self.assertFalse(os.path.exists(out), "work was done before the refusal")
                self.assertFalse(os.path.exists(self.at("plan.json")))
                for word in says:
                    self.assertIn(word, result.stderr)


class Clashes(NamesCase):
    def test_a_stray_file_with_the_name_of_a_shard(self):
        stray = os.path.join(self.source, "model-00001-of-00002.safetensors")
        options = ("--dtype", "bf16", "--max-shard-size", "400KB")
        shards = self.convert(checkpoints.ours("v2.5", **checkpoints.TINY)[0], "shards", *options)
        container.write(stray, {"not.of.this.model": ("F32", np.zeros(4, np.float32))})
        os.rename(stray, os.path.join(self.source, container.tensor_files(shards)[0]))
        self.refuse(*options, "--unknown", "carry", says=(container.tensor_files(shards)[0], "travels along", "rename the file"))
        # Where no output file has the name, it travels.
        out = self.convert(self.source, "out", "--dtype", "bf16", "--unknown", "carry")
        self.run_tool("mimo-verify", "check", out)
        self.assertTrue(os.path.exists(os.path.join(out, container.tensor_files(shards)[0])))

    def test_a_file_where_the_output_has_a_directory(self):
        self.put("mimo-source")
        self.refuse("--to", "nxdi", says=("mimo-source/config.json", "directory"))
        self.run_tool("mimo-verify", "check", self.convert(self.source, "out"))

    def test_a_directory_where_the_output_has_a_file(self):
        self.put("mimo-manifest.json/x")
        self.refuse(says=("mimo-manifest.json/x",))
        shutil.rmtree(os.path.join(self.source, "mimo-manifest.json"))
        os.remove(os.path.join(self.source, INDEX))
        self.put(INDEX + "/notes")
        self.refuse(says=(INDEX,))

    def test_what_mimo_convert_keeps_for_itself_is_left_out(self):
        names = (".mimo-partial", ".mimo-lease", ".mimo-anything/deep/file")
        for name in names:
            self.put(name)
        out = self.at("out")
        result = self.run_tool("mimo-convert", self.source, out, "--dtype", "bf16")
        for name in names:
            self.assertIn(name.split("/")[0], result.stderr)
            self.assertFalse(os.path.lexists(os.path.join(out, name)))
        self.run_tool("mimo-verify", "check", out)
        self.run_tool("mimo-convert", self.source, out, "--dtype", "bf16", "--resume")

    def test_an_interrupted_output_inside_is_no_part_of_the_checkpoint(self):
        self.put(".mimo-partial/files/tokenizer.json", b"stale")
        self.put("dflash/.mimo-partial/state.json", b"stale")
        out = self.convert(self.source, "out")
        self.assertEqual([p for p in compare.tree(out) if ".mimo-partial" in p], [])
        self.run_tool("mimo-verify", "check", out)


class HostileIndices(ToolCase):
    """File names that an index says become names of an output on the way back."""

    def test_homes_of_tensors(self):
        made = self.convert(ranks.ours("v2.5", pattern=(0,), mtp=0).directory, "made", "--to", "nxdi")
        home = os.path.join(made, "mimo-source", INDEX)
        with open(home, encoding="utf-8") as f:
            index = json.load(f)
        tensor = next(iter(index["weight_map"]))
        self.convert(made, "fine", "--to", "hf")
        for name in ("config.json", "tokenizer.json", INDEX, "mimo-manifest.json", ".mimo-partial", ".mimo-x.safetensors",
                     "a\nb.safetensors", "a\\b.safetensors", "n" * 256, "mimo-source"):
            with self.subTest(name=name[:20]):
                index["weight_map"][tensor] = name
                with open(home, "w", encoding="utf-8") as f:
                    json.dump(index, f)
                out = self.at("out")
                # "mimo-source" is free: on the way back it is gone.
                result = self.run_tool("mimo-convert", made, out, "--to", "hf", code=(0,) if name == "mimo-source" else 3)
                if result.code:
                    self.assertFalse(os.path.exists(out))
                else:
                    self.run_tool("mimo-verify", "check", out)


class Links(NamesCase):
    def setUp(self):
        super().setUp()
        self.secret = self.at("elsewhere", "secret")
        os.makedirs(os.path.dirname(self.secret))
        with open(self.secret, "wb") as f:
            f.write(SECRET)

    def assert_secret_stays(self):
        for root, _, files in os.walk(self.tmp):
            for file in files:
                path = os.path.join(root, file)
                if path != self.secret and not os.path.islink(path):
                    with open(path, "rb") as f:
                        self.assertNotIn(SECRET, f.read(), path)

    def test_a_link_that_leads_out(self):
        for name in ("tokenizer.json", "dflash/dflash.py", "dflash/dflash_draft_model.safetensors", "new/deep/file"):
            with self.subTest(name):
                self.setUp()
                self.link(self.secret, name)
                for link in ("none", "hard", "sym"):
                    self.refuse("--link", link, says=(name, self.secret, "out of the checkpoint", "copy"))
                self.assert_secret_stays()

    def test_directories_hops_and_relative_links(self):
        os.symlink(self.secret, self.at("hop"))
        for target, name in ((os.path.dirname(self.secret), "more"), ("../elsewhere", "sub/../more"),
                             (self.at("hop"), "a.txt"), ("../elsewhere/secret", "b.txt"), ("/", "root")):
            with self.subTest(target):
                path = os.path.normpath(name)
                self.link(target, path)
                self.refuse(says=(path, "out of the checkpoint"))
                os.remove(os.path.join(self.source, path))
        self.assert_secret_stays()

    def test_what_stays_behind_may_lead_anywhere(self):
        """Inspection, and what the output leaves out."""
        shutil.rmtree(os.path.join(self.source, "audio_tokenizer"), ignore_errors=True)
        self.link(os.path.dirname(self.secret), "audio_tokenizer")
        said = self.run_tool("mimo-inspect", self.source).stdout
        self.assertIn("audio_tokenizer -> ", said)
        json.loads(self.run_tool("mimo-inspect", self.source, "--json").stdout)
        self.refuse(says=("audio_tokenizer",))
        out = self.convert(self.source, "out", "--text-only")
        self.run_tool("mimo-verify", "check", out)
        self.assert_secret_stays()

    def test_links_inside_become_files(self):
        plain = self.convert(self.source, "plain")
        self.link("tokenizer.json", "alias.json")
        self.link(os.path.join(self.source, "dflash"), "drafter")
        self.link(os.path.join("..", "tokenizer.json"), "dflash/up.json")
        out = self.convert(self.source, "out")
        self.run_tool("mimo-verify", "check", out)
        found, before = compare.tree(out), compare.tree(plain)
        self.assertEqual(found["alias.json"], before["tokenizer.json"])
        self.assertEqual(found["drafter/dflash.py"], before["dflash/dflash.py"])
        for root, directories, files in os.walk(out):
            for name in directories + files:
                self.assertFalse(os.path.islink(os.path.join(root, name)))

    def test_tensor_files_may_lie_elsewhere(self):
        plain = self.convert(self.source, "plain", "--dtype", "bf16")
        for file in container.tensor_files(self.source):
            shutil.move(os.path.join(self.source, file), self.at("elsewhere", file))
            self.link(self.at("elsewhere", file), file)
        out = self.convert(self.source, "out", "--dtype", "bf16")
        self.assert_same_trees(plain, out, skip=("mimo-manifest.json",))

    def test_what_cannot_be_a_file(self):
        for name, make in (("circle", lambda p: os.symlink("circle", p)), ("dangling", lambda p: os.symlink("no", p)),
                           ("dflash/up", lambda p: os.symlink("..", p)), ("pipe", os.mkfifo),
                           ("dflash/pipe.safetensors", os.mkfifo)):
            with self.subTest(name):
                make(os.path.join(self.source, name))
                self.refuse(says=(name,))
                os.remove(os.path.join(self.source, name))

    def test_a_snapshot_leads_into_its_own_blobs_alone(self):
        hub, snapshot = self.at("models--o--m"), self.at("models--o--m", "snapshots", "abc")
        os.makedirs(os.path.join(hub, "blobs"))
        shutil.move(self.source, snapshot)
        self.source = snapshot
        for root, _, files in os.walk(snapshot):
            for number, file in enumerate(files):
                blob = os.path.join(hub, "blobs", f"{len(os.listdir(os.path.join(hub, 'blobs'))):x}{number:x}")
                path = os.path.join(root, file)
                shutil.move(path, blob)
                os.symlink(os.path.relpath(blob, root), path)
        out = self.convert(snapshot, "out")
        self.run_tool("mimo-verify", "check", out)
        os.symlink(snapshot, self.at("alias"))
        self.assert_same_trees(out, self.convert(self.at("alias"), "by-alias"))
        other = self.at("models--o--n", "blobs", "f")
        os.makedirs(os.path.dirname(other))
        shutil.copyfile(self.secret, other)
        self.link(other, "tokenizer.json")
        self.refuse(says=("tokenizer.json", other))


class Permissions(NamesCase):
    def mode(self, *path):
        return stat.S_IMODE(os.stat(os.path.join(*path)).st_mode)

    def test_permissions_travel_and_privileges_do_not(self):
        modes = {"run.sh": 0o755, "private.txt": 0o600, "read-only.txt": 0o444, "setuid": 0o4755, "sticky": 0o1644,
                 "dflash/setgid": 0o2750}
        for name, mode in modes.items():
            os.chmod(self.put(name), mode)
        for mask in (0o022, 0o077, 0o000):
            for link in ("none", "hard"):
                with self.subTest(mask=mask, link=link):
                    out = self.at(f"{mask}{link}")
                    self.run_tool("mimo-convert", self.source, out, "--dtype", "bf16", "--link", link,
                                  preexec_fn=lambda mask=mask: os.umask(mask))
                    for name, mode in modes.items():
                        self.assertEqual(self.mode(out, name), mode & 0o777, name)
                    for name in ("config.json", INDEX, "mimo-manifest.json", container.tensor_files(out)[0]):
                        self.assertEqual(self.mode(out, name), 0o666 & ~mask, name)
                    self.run_tool("mimo-verify", "check", out)


if __name__ == "__main__":
    unittest.main()
