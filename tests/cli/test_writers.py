"""Proves that what a user asks for beside an output touches nothing else: --plan-out and --report never write through a
link, to a device, into what is read or made, by way of a name that can be foreseen; and that a command whose standard
output could not be written does not end with 0.
"""
import json
import os
import shutil
import stat
import subprocess
import unittest

from harness import checkpoints, compare, tools
from harness.case import ToolCase
from reference import container

OPTIONS = ("--plan-out", "--report")
RECIPE = ("--recipe", "nvfp4-experts")


class WritersCase(ToolCase):
    def setUp(self):
        super().setUp()
        self.source = self.at("source")
        shutil.copytree(checkpoints.ours("v2.5", **checkpoints.TINY)[0], self.source)

    def write(self, path, content=b"precious"):
        with open(path, "wb") as f:
            f.write(content)

    def read(self, path):
        with open(path, "rb") as f:
            return f.read()


class RequestedFiles(WritersCase):
    def request(self, option, path, code=2, out="out", options=RECIPE):
        """Nothing is made where the request is refused."""
        result = self.run_tool("mimo-convert", self.source, self.at(out), *options, option, path, code=code)
        self.assertEqual(os.path.exists(self.at(out)), code == 0)
        if code:
            self.assertIn(option, result.stderr)
        return result

    def test_new_files_and_old_ones(self):
        for option in OPTIONS:
            path = self.at("file.json")
            self.request(option, path, code=0)
            first = self.read(path)
            json.loads(first)
            self.write(path, b"an older one")
            os.chmod(path, 0o640)
            twin = self.at("twin.json")
            os.link(path, twin)
            shutil.rmtree(self.at("out"))
            self.request(option, path, code=0)
            self.assertEqual(self.read(path), first)
            self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o640)
            self.assertEqual(self.read(twin), b"an older one", "written through a hard link")
            shutil.rmtree(self.at("out"))
            self.assertEqual(sorted(os.listdir(self.tmp)), ["file.json", "source", "twin.json"])
            os.remove(path)
            os.remove(twin)

    def test_never_into_the_checkpoint_or_the_output(self):
        os.symlink(self.source, self.at("alias"))
        before = compare.tree(self.source)
        inside = [os.path.join(self.source, "config.json"), os.path.join(self.source, "new.json"),
                  os.path.join(self.source, "dflash", "new.json"), self.at("alias", "new.json"),
                  os.path.join(self.source, "dflash", "..", "x.json"), self.at("out"), self.source]
        for option in OPTIONS:
            for path in inside:
                with self.subTest(option, path=path):
                    self.request(option, path)
            os.mkdir(self.at("made"))
            self.run_tool("mimo-convert", self.source, self.at("made"), *RECIPE, option, self.at("made", "x.json"), code=2)
            self.assertEqual(os.listdir(self.at("made")), [])
            os.rmdir(self.at("made"))
        self.assertEqual(compare.tree(self.source), before)

    def test_never_into_the_reference_or_a_cache(self):
        reference = self.at("reference")
        shutil.copytree(self.source, reference)
        hub = self.at("models--o--m")
        os.makedirs(os.path.join(hub, "blobs"))
        os.makedirs(os.path.join(hub, "snapshots"))
        shutil.move(self.source, os.path.join(hub, "snapshots", "1"))
        self.source = os.path.join(hub, "snapshots", "1")
        for option in OPTIONS:
            self.request(option, os.path.join(reference, "x.json"), options=("--like", reference))
            self.request(option, os.path.join(hub, "blobs", "c0ffee"))

    def test_never_over_what_a_linked_file_is(self):
        for file in (container.tensor_files(self.source)[0], "config.json", "model.safetensors.index.json"):
            elsewhere = self.at("elsewhere-" + file)
            shutil.move(os.path.join(self.source, file), elsewhere)
            os.symlink(elsewhere, os.path.join(self.source, file))
            before = self.read(elsewhere)
            for option in OPTIONS:
                with self.subTest(option, file=file):
                    self.request(option, elsewhere)
            self.assertEqual(self.read(elsewhere), before)

    def test_never_over_another_file_of_the_command(self):
        plan = self.at("plan.json")
        self.run_tool("mimo-convert", self.source, "--plan-out", plan, *RECIPE)
        before = self.read(plan)
        for option in OPTIONS:
            self.request(option, plan, options=("--plan", plan))
        self.assertEqual(self.read(plan), before)
        result = self.run_tool("mimo-convert", self.source, self.at("out"), *RECIPE, "--plan-out", self.at("x"),
                               "--report", os.path.join(self.tmp, ".", "x"), code=2)
        self.assertIn("--plan-out", result.stderr)
        self.assertFalse(os.path.exists(self.at("out")))

    def test_nothing_but_regular_files(self):
        precious = self.at("precious")
        self.write(precious)
        os.symlink(precious, self.at("link"))
        os.symlink(self.at("nowhere"), self.at("dangling"))
        os.mkfifo(self.at("pipe"))
        os.mkdir(self.at("directory"))
        for option in OPTIONS:
            for name in ("link", "dangling", "pipe", "directory", "directory/"):
                with self.subTest(option, name=name):
                    self.request(option, self.at(name))
            self.request(option, "-")
        self.assertEqual(self.read(precious), b"precious")
        self.assertTrue(os.path.islink(self.at("link")))
        self.assertFalse(os.path.lexists(self.at("nowhere")))
        self.assertTrue(stat.S_ISFIFO(os.stat(self.at("pipe")).st_mode))

    def test_no_device(self):
        """One of its own, with the numbers of /dev/null: a tool that is broken must not reach that of the machine."""
        device = self.at("null")
        try:
            os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        except PermissionError:
            self.skipTest("only root makes device nodes")
        for option in OPTIONS:
            self.request(option, device)
        self.assertTrue(stat.S_ISCHR(os.stat(device).st_mode))

    def test_planted_temporary_names_are_not_followed(self):
        precious = self.at("precious")
        self.write(precious)
        for suffix in (".tmp", ".partial", ".part", "~", ".new"):
            for prefix in ("", "."):
                os.symlink(precious, self.at(prefix + "plan.json" + suffix))
        before = sorted(os.listdir(self.tmp))
        self.run_tool("mimo-convert", self.source, "--plan-out", self.at("plan.json"))
        self.assertEqual(self.read(precious), b"precious")
        self.assertEqual(sorted(os.listdir(self.tmp)), sorted(before + ["plan.json"]))

    def test_a_directory_that_cannot_take_it_stops_before_the_work(self):
        for option in OPTIONS:
            self.request(option, self.at("missing", "x.json"), code=4)


class StandardOutput(WritersCase):
    """/dev/full takes nothing: every write to it fails as on a full disk."""

    def commands(self):
        out = self.at("made")
        if not os.path.exists(out):
            self.convert(self.source, "made", "--dtype", "bf16")
        yield "mimo-convert", (self.source, "--dry-run")
        yield "mimo-convert", (self.source, "--dry-run", "--json")
        yield "mimo-convert", (self.source, "--dry-run", "--verbose")
        for more in ((), ("--json",)):
            yield "mimo-inspect", (self.source,) + more
            yield "mimo-verify", ("check", out) + more
            yield "mimo-synth", ("--list",) + more
        for tool in ("mimo-convert", "mimo-inspect", "mimo-verify", "mimo-synth"):
            yield tool, ("--help",)
        yield "mimo-convert", ("--version",)

    def run_into(self, target, tool, arguments):
        with open(target, "wb") as stream:
            return subprocess.run([tools.path(tool)] + [str(a) for a in arguments], stdin=subprocess.DEVNULL,
                                  stdout=stream, stderr=subprocess.PIPE, env=tools.environment(), timeout=300)

    def test_a_full_disk_is_an_error(self):
        if not os.path.exists("/dev/full"):
            self.skipTest("no /dev/full")
        for tool, arguments in self.commands():
            with self.subTest(tool, arguments=arguments):
                self.assertEqual(self.run_into(os.devnull, tool, arguments).returncode, 0)
                done = self.run_into("/dev/full", tool, arguments)
                self.assertEqual(done.returncode, 4, done.stderr)
                self.assertIn(b"cannot write to standard output", done.stderr)

    def test_other_errors_keep_their_code(self):
        done = self.run_into("/dev/full", "mimo-inspect", (self.at("missing"), "--json"))
        self.assertEqual(done.returncode, 3, done.stderr)

    def test_the_work_is_done_all_the_same(self):
        done = self.run_into("/dev/full", "mimo-convert", (self.source, self.at("out"), "--copy", "--json"))
        self.assertEqual(done.returncode, 4)
        self.run_tool("mimo-verify", "check", self.at("out"))
        self.run_tool("mimo-convert", self.source, self.at("out"), "--copy", "--resume")

    def test_closed_descriptors_are_not_taken_by_files(self):
        """A file that were opened as number 1 would get what is printed, as number 2 what is reported."""
        expected = self.convert(self.source, "expected", "--dtype", "bf16")
        for closed in ("0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"):
            with self.subTest(closed):
                out = self.at("out")
                shutil.rmtree(out, ignore_errors=True)
                done = subprocess.run(["sh", "-c", f'exec "$@" {closed}', "sh", tools.path("mimo-convert"), self.source, out,
                                       "--dtype", "bf16", "--threads", "1"], stdin=subprocess.DEVNULL,
                                      stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=tools.environment(), timeout=300)
                self.assertEqual(done.returncode, 4 if "1>" in closed else 0, done.stderr)
                self.assert_same_trees(expected, out)


if __name__ == "__main__":
    unittest.main()
