"""Proves that a run may be killed anywhere: SIGKILL, SIGTERM and SIGINT at random moments leave no manifest (so no
result), and `--resume` ends with the same bytes as an undisturbed run. Terminated runs exit with 143, interrupted
ones with 130.
"""
import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

from harness import checkpoints, compare, tools
from harness.case import ToolCase

ROUNDS = int(os.environ.get("MIMO_KILL_ROUNDS", "13"))  # per class


class Killed(ToolCase):
    OPTIONS = ("--dtype", "bf16", "--qkv", "split", "--max-shard-size", "6MB", "--threads", "1", "--memory", "64MiB")

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.source, _ = checkpoints.ours("v2.5", hidden=512, experts=16, moe_intermediate=512, intermediate=512, pattern=(0, 1, 0),
                                         vocab=2048, towers=False)

    def setUp(self):
        super().setUp()
        began = time.monotonic()
        self.reference = self.convert(self.source, "reference", *self.OPTIONS)
        self.seconds = time.monotonic() - began
        self.size = tools.blocks_in(self.reference)
        self.random = random.Random(20)
        self.out = self.at("out")

    def stop(self, number, moment, *flags):
        """Starts a run and signals it at `moment` (share of the bytes written; negative: of the time). -> exit code"""
        process = tools.start("mimo-convert", self.source, self.out, *self.OPTIONS, *flags)
        deadline = time.monotonic() + (abs(moment) * self.seconds if moment < 0 else 60)
        while process.poll() is None and time.monotonic() < deadline:
            if moment >= 0 and tools.blocks_in(self.out) >= moment * self.size:
                break
            time.sleep(0.001)
        if process.poll() is None:
            process.send_signal(number)
        try:
            _, stderr = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            self.fail(f"signal {number} did not end the run")
        tools.stopped.add(process.returncode)
        self.last_stderr = stderr.decode("utf-8", "replace")
        if process.returncode != 0 and os.path.exists(os.path.join(self.out, "mimo-manifest.json")):
            # Killed after the last rename: what stands there is complete, and only .mimo-partial is still to go.
            seen = tempfile.mkdtemp(dir=os.path.dirname(self.out))
            shutil.copytree(self.out, seen, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".mimo-partial"))
            self.assert_same_trees(self.reference, seen)
            shutil.rmtree(seen)
        return process.returncode

    def resume(self):
        self.run_tool("mimo-convert", self.source, self.out, *self.OPTIONS, "--resume")
        self.assert_same_trees(self.reference, self.out)
        self.assertFalse(os.path.exists(os.path.join(self.out, ".mimo-partial")))

    def test_kill_then_resume(self):
        interrupted = 0
        for turn in range(ROUNDS):
            moment = self.random.random() if turn % 3 else -self.random.random()
            with self.subTest(moment=moment):
                interrupted += self.stop(signal.SIGKILL, moment) == -signal.SIGKILL
                self.resume()
            shutil.rmtree(self.out, ignore_errors=True)
        self.assertGreater(interrupted, 0, "no run was killed in time")

    def test_killed_again_and_again(self):
        killed = self.stop(signal.SIGKILL, 0.15) == -signal.SIGKILL
        for moment in (0.3, 0.45, 0.6, 0.75, 0.9):
            killed += self.stop(signal.SIGKILL, moment, "--resume") == -signal.SIGKILL
        self.assertGreater(killed, 1)
        self.resume()

    def test_exit_codes_of_signals(self):
        for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
            with self.subTest(number):
                codes = []
                for moment in (0.1, 0.4, 0.7):
                    shutil.rmtree(self.out, ignore_errors=True)
                    codes.append(self.stop(number, moment))
                    if codes[-1] == code:
                        self.assertIn("--resume", self.last_stderr)
                        self.resume()
                self.assertLessEqual(set(codes), {0, code}, codes)
                self.assertIn(code, codes)

    def test_resume_after_damage_to_the_partial_directory(self):
        """A partial directory is not trusted beyond its records: with shards cut or gone the result is still right."""
        for damage in ("truncate", "remove", "garbage record"):
            with self.subTest(damage):
                shutil.rmtree(self.out, ignore_errors=True)
                if self.stop(signal.SIGKILL, 0.5) == 0:
                    continue
                partial = os.path.join(self.out, ".mimo-partial")
                if not os.path.isdir(partial):
                    continue
                for root, _, files in os.walk(partial):
                    for file in sorted(files):
                        path = os.path.join(root, file)
                        shard = file.endswith(".safetensors")
                        if damage == "truncate" and shard:
                            os.truncate(path, os.path.getsize(path) // 2)
                        elif damage == "remove" and shard:
                            os.unlink(path)
                        elif damage == "garbage record" and not shard:
                            with open(path, "w") as f:
                                f.write("{")
                result = tools.run("mimo-convert", self.source, self.out, *self.OPTIONS, "--resume")
                if result.code == 0:
                    self.assert_same_trees(self.reference, self.out)
                else:                                        # refused with a reason is allowed; wrong bytes are not
                    self.assertIn(result.code, (2, 3, 4), tools.describe(result))
                    self.assert_nothing_published(self.out)

    def test_resume_of_another_conversion_is_refused(self):
        if self.stop(signal.SIGKILL, 0.3) == 0:
            self.skipTest("the run ended before it could be killed")
        other = tools.run("mimo-convert", self.source, self.out, "--dtype", "keep", "--resume")
        self.assertEqual(other.code, 2, tools.describe(other))
        self.assertEqual(compare.published(self.out), [])
        self.resume()

    def test_without_resume_a_partial_result_is_refused(self):
        if self.stop(signal.SIGKILL, 0.3) == 0:
            self.skipTest("the run ended before it could be killed")
        refused = tools.run("mimo-convert", self.source, self.out, *self.OPTIONS)
        self.assertEqual(refused.code, 2, tools.describe(refused))
        self.assertIn("--resume", refused.stderr)
        self.run_tool("mimo-convert", self.source, self.out, *self.OPTIONS, "--overwrite")
        self.assert_same_trees(self.reference, self.out)


class KilledWhileQuantizing(Killed):
    """The same of encoded weights: the figures of their errors come back from the records of finished file groups."""

    OPTIONS = ("--recipe", "nvfp4", "--error-report", "--threads", "2", "--memory", "2MiB")


class KilledWhileWritingRanks(Killed):
    """Ranks of an engine: many files, of which several come from one source."""

    OPTIONS = ("--to", "vllm", "--format", "sharded-state", "--tp", "4", "--threads", "2", "--memory", "4MiB")


class KilledWhileWritingTorchDist(Killed):
    """Megatron's files, whose headers and checksums are written when their data is there."""

    OPTIONS = ("--to", "megatron", "--threads", "2", "--memory", "4MiB")


class KilledWhileHashingValues(Killed):
    """Hashes of values are made of what was written, by whichever run: the same manifest."""

    OPTIONS = ("--recipe", "nvfp4", "--hash-values", "--max-shard-size", "2MB", "--threads", "2", "--memory", "64MiB")

    def test_killed_once_all_is_written(self):
        """Only hashes are missing: no file group is made again."""
        killed, longest = 0, self.seconds / 4
        for attempt in range(40):
            if killed == 6:
                break
            number = (signal.SIGKILL, signal.SIGTERM)[attempt % 2]
            shutil.rmtree(self.out, ignore_errors=True)
            process = tools.start("mimo-convert", self.source, self.out, *self.OPTIONS)
            for line in process.stderr:
                if b"hashing values" in line:
                    break
            time.sleep(self.random.random() * longest)
            longest *= 0.8                                             # whatever else runs, some come in time
            process.send_signal(number)
            process.communicate(timeout=60)
            if process.returncode not in (-signal.SIGKILL, 143):
                continue
            if os.path.exists(os.path.join(self.out, ".mimo-partial", "publish.json")):
                continue
            if os.path.exists(os.path.join(self.out, "mimo-manifest.json")):
                continue
            killed += 1
            records = os.listdir(os.path.join(self.out, ".mimo-partial", "records"))
            result = self.run_tool("mimo-convert", self.source, self.out, *self.OPTIONS, "--resume", "--json")
            run = json.loads(result.stdout)["run"]
            self.assertEqual(run["groups_resumed"], len(records))
            self.assertLess(run["bytes_read"], self.size // 100)       # what travels along is copied again
            self.assertGreater(run["values_hashed"], 40)
            self.assert_same_trees(self.reference, self.out)
        self.assertEqual(killed, 6)

    def test_resumed_without_them(self):
        """The hashes are no part of the plan: what was converted serves a run without them, and the reverse."""
        plain = [option for option in self.OPTIONS if option != "--hash-values"]
        bare = self.convert(self.source, "bare", *plain)
        self.assertEqual(self.stop(signal.SIGKILL, 0.6), -signal.SIGKILL)
        self.run_tool("mimo-convert", self.source, self.out, *plain, "--resume")
        self.assert_same_trees(bare, self.out)
        shutil.rmtree(self.out)
        process = tools.start("mimo-convert", self.source, self.out, *plain)
        while process.poll() is None and tools.blocks_in(self.out) < 0.5 * self.size:
            time.sleep(0.001)
        process.kill()
        process.communicate()
        if not os.path.exists(os.path.join(self.out, "mimo-manifest.json")):
            self.resume()


if __name__ == "__main__":
    unittest.main()
