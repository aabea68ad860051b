"""Proves that parts and joins may be killed anywhere: SIGKILL and SIGTERM of parts that run side by side, and of joins, at
random moments leave nothing published; whoever is run again makes what is missing, and a join ends with the bytes of an
undisturbed run. What a kill loses is bounded: at most threads + 1 units per process are begun and not recorded, one for
each worker, one that waits for its record and one whose record is being written; of one thread it is one.
"""
import json
import os
import random
import re
import shutil
import signal
import time
import unittest

from harness import checkpoints, tools
from harness.case import ToolCase

ROUNDS = int(os.environ.get("MIMO_KILL_ROUNDS", "4"))  # per test
PAGE = 4096


def data_in(directory):
    """Bytes of the files below that are no holes."""
    total = 0
    for root, _, files in os.walk(directory):
        for file in files:
            descriptor = os.open(os.path.join(root, file), os.O_RDONLY)
            try:
                size, at = os.fstat(descriptor).st_size, 0
                while at < size:
                    try:
                        at = os.lseek(descriptor, at, os.SEEK_DATA)
                    except OSError:
                        break                                # nothing but a hole is left
                    end = os.lseek(descriptor, at, os.SEEK_HOLE)
                    total += end - at
                    at = end
            finally:
                os.close(descriptor)
    return total


class KilledParts(ToolCase):
    OPTIONS = ("--dtype", "bf16", "--qkv", "split", "--max-shard-size", "6MB")
    COUNT, THREADS, UNIT = 3, 2, 400_000

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.source, _ = checkpoints.ours("v2.5", hidden=512, experts=8, moe_intermediate=512, intermediate=512,
                                         pattern=(0, 1, 0), vocab=2048, towers=False)

    def setUp(self):
        super().setUp()
        self.options = (*self.OPTIONS, "--unit-size", self.UNIT, "--threads", self.THREADS, "--memory", "64MiB")
        self.reference = self.at("reference")
        done = self.document(self.run_tool("mimo-convert", self.source, self.reference, *self.options, "--json", "--no-progress"))
        self.written = done["run"]["bytes_written"]
        self.groups = done["plan"]["files"]["groups"]
        self.random = random.Random(17)
        self.out = self.at("out")
        self.partial = os.path.join(self.out, ".mimo-partial")

    def document(self, result):
        return json.loads(result.stdout)

    def start(self, *more):
        return tools.start("mimo-convert", self.source, self.out, *self.options, *more)

    def kill(self, processes, most=0.9):
        """Signals some of them, each at a moment of its own: a share of the bytes that all of them write, below `most`.
        -> how many ended by that"""
        waiting = sorted((self.random.random() * most, i) for i in range(len(processes)) if self.random.random() < 0.7)
        waiting = waiting or [(0.4 * most, 0)]
        number = {}
        while waiting and any(process.poll() is None for process in processes):
            if tools.blocks_in(self.out) < waiting[0][0] * self.written:
                time.sleep(0.001)
                continue
            _, i = waiting.pop(0)
            number[i] = self.random.choice((signal.SIGKILL, signal.SIGTERM))
            processes[i].send_signal(number[i])
        killed = 0
        for i, process in enumerate(processes):
            _, stderr = process.communicate(timeout=300)
            by_signal = {signal.SIGKILL: (-9,), signal.SIGTERM: (143, -15)}.get(number.get(i), ())
            self.assertIn(process.returncode, (0, *by_signal), stderr[-800:])
            killed += tools.stopped.add(process.returncode)
        return killed

    def turns(self):
        """As many as were asked for, and more while hardly a process was stopped before it was done, as on a busy machine."""
        self.killed = 0
        for turn in range(8 * ROUNDS):
            if turn >= ROUNDS and self.killed > ROUNDS // 2:
                return
            yield turn

    def twice(self, data, runs):
        """Output that was made twice, of `data` bytes that were there and what the runs after that have written."""
        return data + sum(run["bytes_written"] for run in runs) - self.written

    def expect_little_lost(self, data, runs, killed):
        """Units of these checkpoints are no larger than --unit-size. Some pages on both sides of what was lost count whole,
        and files that travel along are copied again."""
        units = self.THREADS + 1 if self.THREADS > 1 else 1
        self.assertLess(self.twice(data, runs), killed * units * self.UNIT + 64 * PAGE)

    def recorded(self):
        units = os.path.join(self.partial, "units")
        return sum(bool(re.fullmatch(r"\d{6}\.json", name)) for name in os.listdir(units)) if os.path.isdir(units) else 0

    def run_parts(self):
        """Every part once more, one after the other. -> their figures"""
        runs = []
        for i in range(self.COUNT):
            done = self.run_tool("mimo-convert", self.source, self.out, *self.options, "--part", f"{i}/{self.COUNT}", "--json",
                                 "--no-progress")
            runs.append(self.document(done)["run"])
        self.assertEqual(runs[-1]["units"]["left"], 0)
        return runs

    def expect_whole(self):
        self.assert_same_trees(self.reference, self.out)
        self.assertFalse(os.path.exists(self.partial))

    def test_parts_are_killed_and_run_again(self):
        for turn in self.turns():
            with self.subTest(turn=turn):
                now = self.kill([self.start("--part", f"{i}/{self.COUNT}") for i in range(self.COUNT)])
                self.assert_nothing_published(self.out)
                data, recorded = data_in(os.path.join(self.partial, "files")), self.recorded()
                runs = self.run_parts()
                self.assertEqual(runs[0]["units"]["resumed"], recorded, "what was recorded is not made again")
                self.assertEqual(sum(run["units"]["made"] for run in runs), runs[0]["units"]["all"] - recorded)
                self.assert_nothing_published(self.out)
                joined = self.document(self.run_tool("mimo-convert", "--join", self.out, "--json", "--no-progress"))
                self.expect_whole()
                if data:                                     # else a kill came before the files were made
                    self.expect_little_lost(data, runs + [joined["run"]], now)
                self.killed += now
            shutil.rmtree(self.out, ignore_errors=True)
        self.assertGreater(self.killed, ROUNDS // 2, "hardly a part was killed in time")

    def test_parts_are_killed_again_and_again(self):
        """Each is stopped several times before it may end; and their number changes on the way."""
        for turn in range(max(1, ROUNDS // 4)):
            with self.subTest(turn=turn):
                for most, count in ((0.3, self.COUNT), (0.6, self.COUNT), (0.8, 2), (0.95, 5)):
                    self.kill([self.start("--part", f"{i}/{count}") for i in range(count)], most)
                    self.assert_nothing_published(self.out)
                self.run_parts()
                self.run_tool("mimo-convert", "--join", self.out)
                self.expect_whole()
            shutil.rmtree(self.out, ignore_errors=True)

    def joined(self):
        """How far a join is: records of file groups, the list of what to publish, names that are in place."""
        records, publish = os.path.join(self.partial, "records"), os.path.join(self.partial, "publish.json")
        try:
            done = len(os.listdir(records)) if os.path.isdir(records) else 0
            return done + 4 * os.path.exists(publish) + 2 * (len(os.listdir(self.out)) - 1)
        except OSError:
            return 0

    def test_joins_are_killed_and_run_again(self):
        for turn in self.turns():
            with self.subTest(turn=turn):
                self.run_parts()
                for moment in sorted(self.random.random() for _ in range(3)):
                    join = tools.start("mimo-convert", "--join", self.out)
                    most = self.groups + 4 + 2 * len(os.listdir(self.reference))
                    while join.poll() is None and self.joined() < moment * most:
                        pass
                    number = self.random.choice((signal.SIGKILL, signal.SIGTERM))
                    join.send_signal(number)
                    _, stderr = join.communicate(timeout=300)
                    self.assertIn(join.returncode, (0, -number, 128 + number), stderr[-800:])
                    self.killed += tools.stopped.add(join.returncode)
                    if join.returncode == 0:
                        self.expect_whole()
                self.run_tool("mimo-convert", "--join", self.out)
                self.expect_whole()
            shutil.rmtree(self.out)
        self.assertGreater(self.killed, ROUNDS // 2, "hardly a join was killed in time")

    def test_one_run_is_killed_and_resumed(self):
        for turn in self.turns():
            with self.subTest(turn=turn):
                now = self.kill([self.start()])
                if not os.path.exists(os.path.join(self.out, "mimo-manifest.json")):
                    data = data_in(os.path.join(self.partial, "files"))
                    done = self.run_tool("mimo-convert", self.source, self.out, *self.options, "--resume", "--json",
                                         "--no-progress")
                    if data:
                        self.expect_little_lost(data, [self.document(done)["run"]], now)
                    self.killed += now
                else:
                    self.run_tool("mimo-convert", self.source, self.out, *self.options, "--resume")
                self.expect_whole()
            shutil.rmtree(self.out, ignore_errors=True)
        self.assertGreater(self.killed, ROUNDS // 2, "hardly a run was killed in time")


class KilledPartsOfARecipe(KilledParts):
    """Groups of encoded weights are units whole, and their errors come back from records."""

    OPTIONS = ("--recipe", "nvfp4", "--error-report")
    THREADS = 1


class KilledPartsOfRanks(KilledParts):
    OPTIONS = ("--to", "vllm", "--format", "sharded-state", "--tp", "4")


class KilledPartsOfTorchDist(KilledParts):
    """Headers and checksums come from the records of units that others have made."""

    OPTIONS = ("--to", "megatron")


if __name__ == "__main__":
    unittest.main()
