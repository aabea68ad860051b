"""Proves that a system that gives no more is an error with its exit code, and never a signal: no memory, no threads, no
descriptors, a limit on the size of files, a closed or full stdout. Whatever was begun ends with the same bytes under
--resume. And that the machine's limits are the defaults: one CPU, one worker.
"""
import json
import os
import resource
import shutil
import stat
import subprocess
import unittest

from harness import checkpoints, compare, tools
from harness.case import ToolCase

MIB = 1 << 20
MANIFEST = "mimo-manifest.json"
OPTIONS = ("--dtype", "bf16", "--qkv", "split", "--no-progress")
LOADER = "error while loading shared libraries"  # the system's, before there is a program


def limit(what, value):
    return lambda: resource.setrlimit(what, (value, value))


def loads(tool, size):
    """Whether its image fits into `size` bytes of addresses: else the system ends it before there is a program. With
    CUDA's kernels in it mimo-convert is some 26 MB."""
    return size >= os.path.getsize(tools.path(tool))


class Limits(ToolCase):
    def setUp(self):
        super().setUp()
        self.source, _ = checkpoints.ours("v2.5", **checkpoints.TINY)
        self.reference = self.convert(self.source, "reference", *OPTIONS)

    def try_convert(self, before, *options, note=""):
        """Under a limit: done, or exit 4 that says why and can be resumed. -> the exit code"""
        out = self.at("out")
        shutil.rmtree(out, ignore_errors=True)
        done = tools.run("mimo-convert", self.source, out, *OPTIONS, *options, preexec_fn=before)
        if done.code == 127 and LOADER in done.stderr:
            return 127
        self.assertIn(done.code, (0, 4), f"{note} {tools.describe(done)}")
        if done.code == 4:
            self.assertRegex(done.stderr, r"(?m)^mimo-convert: error: .{10}", note)
            self.assertFalse(os.path.exists(os.path.join(out, MANIFEST)), note)
            self.run_tool("mimo-convert", self.source, out, *OPTIONS, "--resume")
        self.assert_same_trees(self.reference, out, note=note)
        return done.code

    def test_address_space(self):
        codes = set()
        for threads in (1, 4, 64, 512):
            for size in (16, 24, 32, 40, 48, 64, 96, 150, 300, 600, 1000):
                if not loads("mimo-convert", size * MIB):
                    continue
                codes.add(self.try_convert(limit(resource.RLIMIT_AS, size * MIB), "--threads", threads,
                                           note=f"{size} MiB, {threads} threads"))
        self.assertLessEqual({0, 4}, codes)  # else it was never tried

    def test_address_space_of_the_other_tools(self):
        out = self.at("made")
        for tool, *args in (("mimo-verify", "check", self.reference, "--threads", "64"), ("mimo-inspect", self.source),
                            ("mimo-synth", "mimo-v2.5", out, "--layers", "2", "--experts", "2", "--hidden", "128",
                             "--vocab", "64", "--no-towers", "--threads", "64")):
            for size in (16, 24, 32, 48, 64, 100, 300, 2000):
                if not loads(tool, size * MIB):
                    continue
                shutil.rmtree(out, ignore_errors=True)
                done = tools.run(tool, *args, preexec_fn=limit(resource.RLIMIT_AS, size * MIB))
                if done.code == 127 and LOADER in done.stderr:
                    continue
                self.assertIn(done.code, (0, 4), f"{size} MiB: {tools.describe(done)}")
            self.assertEqual(done.code, 0, tools.describe(done))

    def test_threads(self):
        """The limit counts the processes of a user, which the superuser is not held to."""
        tool = tools.path("mimo-convert")
        if os.geteuid() == 0:
            os.chmod(self.tmp, 0o777)
            place = os.path.realpath(tool)
            while place != "/":
                place = os.path.dirname(place)
                if not os.stat(place).st_mode & stat.S_IXOTH:
                    self.skipTest(f"{place} is not everybody's")

        def before():
            if os.geteuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            limit(resource.RLIMIT_NPROC, 1)()
        readable = self.at("readable")
        shutil.copytree(self.source, readable)
        os.chmod(readable, 0o755)
        out = self.at("out")
        self.run_tool("mimo-convert", readable, out, *OPTIONS, "--threads", "16", preexec_fn=before)
        self.assert_same_trees(self.reference, out)
        self.run_tool("mimo-verify", "check", out, "--threads", "16", preexec_fn=before)

    def test_file_size(self):
        for size in (0, 1, 1000, 4096, 50_000, 300_000):
            for threads in (1, 3):
                code = self.try_convert(limit(resource.RLIMIT_FSIZE, size), "--threads", threads, note=f"{size} bytes")
                self.assertEqual(code, 4)
        for tool, *args in (("mimo-synth", "mimo-v2.5", self.at("made"), "--layers", "2", "--experts", "2", "--hidden",
                             "128", "--vocab", "64", "--no-towers"),
                            ("mimo-convert", self.source, "--plan-out", self.at("plan.json"))):
            done = self.run_tool(tool, *args, code=4, preexec_fn=limit(resource.RLIMIT_FSIZE, 1000))
            self.assertIn("File too large", done.stderr)

    def test_descriptors(self):
        codes = {self.try_convert(limit(resource.RLIMIT_NOFILE, most), "--threads", "2", note=f"{most} files")
                 for most in (4, 5, 6, 8, 12, 16, 24, 64)}
        self.assertEqual(codes, {0, 4})

    def test_more_files_than_descriptors(self):
        """A tool takes as many as it may have, whatever it begins with, and keeps no more files open than that leaves room for."""
        begins_with_few = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (8, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        self.assertEqual(self.try_convert(begins_with_few, "--threads", "2"), 0)
        whole = self.convert(self.source, "small files", *OPTIONS, "--max-shard-size", "20KB")
        self.assertGreater(len(os.listdir(whole)), 40)
        for io in ("direct", "buffered"):
            out = self.convert(self.source, f"small files, {io}", *OPTIONS, "--max-shard-size", "20KB", "--io", io, "--threads", "16",
                               preexec_fn=limit(resource.RLIMIT_NOFILE, 160))
            self.assert_same_trees(whole, out)

    def test_stdout_that_takes_nothing(self):
        commands = (("mimo-convert", "--help"), ("mimo-convert", "--version"),
                    ("mimo-convert", self.source, "--dry-run", "--verbose", "--json"),
                    ("mimo-convert", self.source, self.at("out"), *OPTIONS),
                    ("mimo-verify", "check", self.reference), ("mimo-verify", "check", self.reference, "--json"),
                    ("mimo-inspect", self.source), ("mimo-inspect", self.source, "--json"), ("mimo-synth", "--list"))
        for tool, *args in commands:
            with self.subTest(f"{tool} {' '.join(args)}"):
                reader, writer = os.pipe()
                os.close(reader)
                with open("/dev/full", "wb") as full, os.fdopen(writer, "wb") as closed:
                    for stdout in (full, closed):
                        shutil.rmtree(self.at("out"), ignore_errors=True)
                        done = subprocess.run([tools.path(tool), *args], stdout=stdout, stderr=subprocess.PIPE,
                                              env=tools.environment(), timeout=300)
                        self.assertEqual(done.returncode, 4, done.stderr)
                        self.assertIn(b"cannot write to standard output", done.stderr)
                        if self.at("out") in args:
                            self.assert_same_trees(self.reference, self.at("out"))  # that much was done

    def test_defaults_are_what_the_process_may_use(self):
        mine = sorted(os.sched_getaffinity(0))
        for cpus in ({mine[0]}, set(mine)):
            shutil.rmtree(self.at("out"), ignore_errors=True)
            done = self.run_tool("mimo-convert", self.source, self.at("out"), *OPTIONS, "--json",
                                 preexec_fn=lambda: os.sched_setaffinity(0, cpus))
            run = json.loads(done.stdout)["run"]
            self.assertGreaterEqual(run["threads"], 1)
            self.assertLessEqual(run["threads"], len(cpus))  # a quota may leave less
            whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
            self.assertLessEqual(run["memory_bytes"], min(8 << 30, whole // 4))
        self.assert_same_trees(self.reference, self.at("out"))


if __name__ == "__main__":
    unittest.main()
