"""Proves that wrong command lines are refused with exit code 2 and help, that output and checkpoint cannot contain
each other, and that a full disk ends in exit code 4 with nothing published and can be resumed.
"""
import os
import resource
import shutil
import signal
import subprocess
import unittest

from harness import checkpoints, compare, tools
from harness.case import ToolCase
from reference import decode

BF16_SPLIT = ("--dtype", "bf16", "--qkv", "split")


class Usage(ToolCase):
    def setUp(self):
        super().setUp()
        self.source, _ = checkpoints.ours("v2.5", **checkpoints.TINY)

    def refused(self, *options, words=(), code=2):
        result = self.run_tool("mimo-convert", self.source, self.at("out"), *options, code=code)
        self.assertTrue(result.stderr.strip())
        for word in words:
            self.assertIn(word, result.stderr)
        self.assert_nothing_published(self.at("out"))

    def test_unknown_option(self):
        self.refused("--dtyp", "bf16", words=("--dtyp",))

    def test_arguments(self):
        for arguments in ((), (self.source,), (self.source, self.at("out"), "more")):
            self.run_tool("mimo-convert", *arguments, code=2)

    def test_bad_values(self):
        for options in (("--dtype", "int3"), ("--dtype",), ("--qkv", "fused:0"), ("--qkv", "fused:-1"),
                        ("--qkv", "fused:x"), ("--qkv", "fused:"), ("--qkv", "woven"), ("--source-qkv", "fused:x"),
                        ("--threads", "-1"),
                        ("--threads", "many"), ("--device", "abacus"), ("--link", "soft"),
                        ("--plan", self.at("none.json"))):
            with self.subTest(options=options):
                self.refused(*options, code=(2, 3, 4) if options[0] == "--plan" else 2)

    def test_bad_sizes(self):
        for text in ("5XB", "-1", "", "GB", "1e400", "99999999999999999999GB", "5 5", "0x10", "nan"):
            for option in ("--memory", "--max-shard-size"):
                with self.subTest(option, text=text):
                    self.refused(f"{option}={text}", words=(option,))

    def test_good_sizes(self):
        for number, text in enumerate(("64MiB", "1GB", "1GiB", "300000000", "0.5GiB")):
            with self.subTest(text):
                self.convert(self.source, f"out{number}", *BF16_SPLIT, "--memory", text)

    def test_chunks_that_do_not_fit(self):
        for chunks in (3, 5, 64):
            with self.subTest(chunks):
                self.refused("--qkv", f"fused:{chunks}", code=(2, 3), words=(str(chunks),))

    def test_patterns(self):
        self.refused("--include", "no such tensor", words=("no such tensor",))
        self.refused("--exclude", "no such tensor", words=("no such tensor",))
        self.refused("--include", "(", words=("(",))
        self.refused("--include", "model", "--include", "no such tensor", words=("no such tensor",))

    def test_overwrite_and_resume_together(self):
        self.refused("--overwrite", "--resume")

    def test_lossless_and_rounding(self):
        """BF16 of FP8 blocks rounds, so it cannot be lossless."""
        self.refused("--dtype", "bf16", "--lossless", code=1)


class Places(ToolCase):
    def setUp(self):
        super().setUp()
        source, _ = checkpoints.ours("v2.5", **checkpoints.TINY)
        self.source = self.at("checkpoint")
        shutil.copytree(source, self.source)
        self.before = compare.tree(self.source)

    def refused(self, source, out, code=2, options=()):
        result = self.run_tool("mimo-convert", source, out, *BF16_SPLIT, *options, code=code)
        self.assertTrue(result.stderr.strip())
        self.assertEqual(self.before, compare.tree(self.source))

    def test_not_empty(self):
        os.makedirs(self.at("out"))
        with open(self.at("out", "precious.txt"), "w") as f:
            f.write("mine")
        self.refused(self.source, self.at("out"))
        self.assertEqual(os.listdir(self.at("out")), ["precious.txt"])
        # Not even --overwrite: nothing says that this directory is a checkpoint.
        self.refused(self.source, self.at("out"), options=("--overwrite",))
        with open(self.at("out", "precious.txt")) as f:
            self.assertEqual(f.read(), "mine")

    def test_empty_is_fine(self):
        os.makedirs(self.at("out"))
        self.run_tool("mimo-convert", self.source, self.at("out"), *BF16_SPLIT)

    def test_file(self):
        with open(self.at("out"), "w") as f:
            f.write("mine")
        self.refused(self.source, self.at("out"), code=(2, 4))
        self.refused(self.source, self.at("out"), code=(2, 4), options=("--overwrite",))
        with open(self.at("out")) as f:
            self.assertEqual(f.read(), "mine")

    def test_inside_each_other(self):
        os.symlink(self.source, self.at("alias"))
        for options in ((), ("--overwrite",), ("--resume",)):
            for source, out in ((self.source, self.source), (self.source, os.path.join(self.source, "out")),
                                (self.source, self.at("alias", "out")), (self.source, self.at("alias")),
                                (self.source, os.path.join(self.source, "dflash", "..", "deep", "out")),
                                (self.source, self.tmp)):
                with self.subTest(out=out, options=options):
                    self.refused(source, out, options=options)
        self.assertFalse(os.path.exists(os.path.join(self.source, "out")))

    def test_no_checkpoint(self):
        self.run_tool("mimo-convert", self.at("nothing"), self.at("out"), code=(3, 4))
        os.makedirs(self.at("empty"))
        self.run_tool("mimo-convert", self.at("empty"), self.at("out"), code=3)
        self.run_tool("mimo-convert", os.path.join(self.source, "config.json"), self.at("out"), code=(3, 4))
        self.assert_nothing_published(self.at("out"))

    def test_output_that_cannot_be_made(self):
        with open(self.at("file"), "w"):
            pass
        self.refused(self.source, self.at("file", "out"), code=(2, 4))


class FullDisk(ToolCase):
    def setUp(self):
        super().setUp()
        self.source, self.model = checkpoints.ours("v2.5", **checkpoints.TINY)

    def test_small_file_system(self):
        disk = self.at("disk")
        os.makedirs(disk)
        if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk],
                                               stderr=subprocess.DEVNULL).returncode != 0:
            self.skipTest("cannot mount a small file system")
        self.addCleanup(subprocess.run, ["umount", "-l", disk])
        out = os.path.join(disk, "out")
        result = self.run_tool("mimo-convert", self.source, out, *BF16_SPLIT, code=4)
        self.assertIn("space", result.stderr.lower())
        self.assert_nothing_published(out)
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        again = () if not os.path.exists(out) or not os.listdir(out) else ("--resume",)
        self.run_tool("mimo-convert", self.source, out, *BF16_SPLIT, *again)
        self.assert_same_tensors(decode.stored_as(self.model.values, "bf16"), out)

    def test_file_size_limit(self):
        """EFBIG in the middle of a shard: an I/O failure, resumable once the limit is gone."""
        out = self.at("out")

        def limit():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        result = tools.run("mimo-convert", self.source, out, *BF16_SPLIT, preexec_fn=limit, restore_signals=False)
        self.assertEqual(result.code, 4, tools.describe(result))
        self.assertTrue(result.stderr.strip())
        self.assert_nothing_published(out)
        again = () if not os.path.exists(out) or not os.listdir(out) else ("--resume",)
        self.run_tool("mimo-convert", self.source, out, *BF16_SPLIT, *again)
        self.assert_same_tensors(decode.stored_as(self.model.values, "bf16"), out)
        self.assert_same_trees(self.convert(self.source, "fresh", *BF16_SPLIT), out)


if __name__ == "__main__":
    unittest.main()
