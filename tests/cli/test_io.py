"""Proves that --io changes no byte: past the page cache and through it, with io_uring and without, where the system forbids it and where
it takes it away, on one thread and on many, in one process and in parts, with
--resume of what the other has begun; that a file system without direct I/O is an error where it was asked for, and none where it
was a wish; and that one which only says that it has it is read and written all the same.
"""
import json
import os
import shutil
import subprocess
import tempfile
import unittest

from harness import checkpoints, seccomp, tools
from harness.case import ToolCase

CONVERSIONS = (("--dtype", "bf16", "--qkv", "split"), ("--recipe", "nvfp4-experts"),
               ("--to", "vllm", "--format", "sharded-state", "--tp", "2"), ("--to", "megatron"))


def has_direct_io(directory):
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        try:
            os.close(os.open(file.name, os.O_RDONLY | os.O_DIRECT))
            return True
        except OSError:
            return False


class Io(ToolCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.made, _ = checkpoints.ours("v2.5", hidden=512, experts=4, moe_intermediate=256, intermediate=1024, pattern=(0, 1), vocab=2048,
                                       towers=False)

    def setUp(self):
        super().setUp()
        self.disk = tempfile.mkdtemp(prefix="mimo-io-", dir="/var/tmp")
        self.addCleanup(shutil.rmtree, self.disk, ignore_errors=True)
        self.source = os.path.join(self.disk, "source")
        shutil.copytree(self.made, self.source)

    def test_same_bytes(self):
        if not has_direct_io(self.disk):
            self.skipTest("/var/tmp has no direct I/O")
        for options in CONVERSIONS:
            with self.subTest(" ".join(options)):
                def run(name, *how):
                    out = os.path.join(self.disk, name)
                    shutil.rmtree(out, ignore_errors=True)
                    self.run_tool("mimo-convert", self.source, out, *options, "--no-progress", *how)
                    return out

                buffered = run("buffered", "--io", "buffered")
                for threads in ("1", "2", "7"):
                    self.assert_same_trees(buffered, run("direct", "--io", "direct", "--threads", threads))
                self.assert_same_trees(buffered, run("single", "--io", "direct-single"))
                small = run("small", "--io", "direct", "--memory", "8MiB", "--unit-size", "200KB")
                self.assert_same_trees(buffered, small)
                self.assert_same_trees(buffered, run("auto"))
                parts = os.path.join(self.disk, "parts")
                shutil.rmtree(parts, ignore_errors=True)
                for index, io in enumerate(("direct", "buffered", "direct")):
                    self.run_tool("mimo-convert", self.source, parts, *options, "--no-progress", "--unit-size", "200KB", "--io", io,
                                  "--part", f"{index}/3")
                self.run_tool("mimo-convert", "--join", parts, "--io", "direct", "--no-progress")
                self.assert_same_trees(buffered, parts)

    def convert_forbidding(self, name, *calls):
        """With an error in place of these system calls, as containers do. The output and the report."""
        out = os.path.join(self.disk, name)
        command = [os.path.join(tools.BIN, "mimo-convert"), self.source, out, *CONVERSIONS[0], "--io", "direct", "--no-progress", "--json"]
        result = subprocess.run(command, preexec_fn=lambda: seccomp.forbid(calls), capture_output=True, text=True, timeout=600)
        self.assertEqual(result.returncode, 0, result.stderr)
        return out, json.loads(result.stdout)["run"]

    def test_system_without_io_uring(self):
        if not has_direct_io(self.disk):
            self.skipTest("/var/tmp has no direct I/O")
        if not seccomp.available():
            self.skipTest("no system calls can be forbidden here")
        allowed, report = self.convert_forbidding("allowed")
        self.assertEqual((report["io"]["read"], report["io"]["write"]), ("direct", "direct"))
        had = report["io"]["io_uring"]
        forbidden, report = self.convert_forbidding("forbidden", seccomp.IO_URING_SETUP)
        self.assertEqual(report["io"], {"read": "direct", "write": "direct", "io_uring": False})
        self.assert_same_trees(allowed, forbidden)
        taken, report = self.convert_forbidding("taken", seccomp.IO_URING_ENTER)
        self.assertEqual(report["io"]["io_uring"], had)    # it was there to begin with
        self.assert_same_trees(allowed, taken)

    def test_file_system_that_does_not_do_what_it_let_begin(self):
        """It lets files be opened past the page cache, and refuses requests, or breaks them off anywhere."""
        if not has_direct_io(self.disk):
            self.skipTest("/var/tmp has no direct I/O")
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("g++")
        if compiler is None:
            self.skipTest("no compiler")
        library = os.path.join(self.disk, "odd.so")
        subprocess.run([compiler, "-shared", "-fPIC", "-x", "c", "-o", library, os.path.join(tools.SOURCE, "tests", "harness", "odd_direct.c"),
                        "-ldl"], check=True)
        for options in CONVERSIONS[:2]:
            expected = os.path.join(self.disk, "expected")
            shutil.rmtree(expected, ignore_errors=True)
            self.run_tool("mimo-convert", self.source, expected, *options, "--io", "buffered", "--no-progress")
            for odd in ("read", "write", "short-read", "short-write"):
                for io in ("direct-single", "direct"):
                    with self.subTest(options=options, odd=odd, io=io):
                        out, log = os.path.join(self.disk, "out"), os.path.join(self.disk, "log")
                        shutil.rmtree(out, ignore_errors=True)
                        self.run_tool("mimo-convert", self.source, out, *options, "--io", io, "--no-progress", "--threads", "1",
                                      env={"LD_PRELOAD": library, "ODD_DIRECT": odd, "ODD_LOG": log})
                        self.assert_same_trees(expected, out)
                        self.assertTrue(io != "direct-single" or os.path.exists(log), "nothing was odd")
                        if os.path.exists(log):
                            os.remove(log)

    def test_memory_has_no_direct_io(self):
        if not os.path.isdir("/dev/shm") or has_direct_io("/dev/shm"):
            self.skipTest("memory is no file system here, or has direct I/O")
        with tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
            out = os.path.join(memory, "out")
            result = self.run_tool("mimo-convert", self.source, out, "--copy", "--io", "direct", "--no-progress", code=4)
            self.assertIn("--io auto or --io buffered", result.stderr)
            self.run_tool("mimo-convert", self.source, out, "--copy", "--resume", "--no-progress")


if __name__ == "__main__":
    unittest.main()
