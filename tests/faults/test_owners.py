"""Proves that an output has one owner: whoever else comes, whatever is planted or exchanged in it, and whoever changes
the checkpoint meanwhile, what ends with exit 0 is right, and nothing outside OUT is touched.
"""
import glob
import json
import os
import random
import shutil
import signal
import time
import unittest

from harness import checkpoints, tools
from harness.case import ToolCase
from harness.xxh3 import sealed, xxh3

ROUNDS = int(os.environ.get("MIMO_RACE_ROUNDS", "6"))
LEASE = os.path.join(".mimo-partial", "lease.json")


class Owners(ToolCase):
    OPTIONS = ("--dtype", "fp32", "--max-shard-size", "6MB", "--threads", "1", "--quiet", "--no-progress")

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.source, _ = checkpoints.ours("v2.5", hidden=512, experts=8, moe_intermediate=512, pattern=(0, 1, 0),
                                         vocab=2048, towers=False)

    def setUp(self):
        super().setUp()
        self.reference = self.convert(self.source, "reference", *self.OPTIONS)
        self.out = self.at("out")
        self.running = []
        self.addCleanup(self.end)

    def end(self):
        for process in self.running:
            if process.poll() is None:
                process.kill()
            process.communicate()

    def start(self, *flags, env=None, source=None):
        process = tools.start("mimo-convert", source or self.source, self.out, *self.OPTIONS, *flags, env=env)
        self.running.append(process)
        return process

    def started(self, *flags, path=".mimo-partial/records/0000.json", number=signal.SIGSTOP, **more):
        """A run that got a signal once it had made `path`."""
        for _ in range(20):
            process = self.start(*flags, **more)
            while process.poll() is None and not os.path.exists(os.path.join(self.out, path)):
                pass
            if process.poll() is None:
                process.send_signal(number)
                if number == signal.SIGKILL:
                    process.wait()
                if not os.path.exists(os.path.join(self.out, "mimo-manifest.json")):
                    return process
            process.kill()
            process.wait()
            shutil.rmtree(self.out, ignore_errors=True)
        self.fail("every run ended before it could be stopped")

    def again(self, *flags, code=0, **more):
        return self.run_tool("mimo-convert", self.source, self.out, *self.OPTIONS, *flags, code=code, **more)

    def finish(self, process, code):
        process.send_signal(signal.SIGCONT)
        _, stderr = process.communicate(timeout=100)
        self.assertEqual(process.returncode, code, stderr)
        return stderr.decode()

    def assert_right(self):
        self.assert_same_trees(self.reference, self.out)
        self.assertEqual([n for n in os.listdir(self.out) if n.startswith(".mimo")], [])

    # ---- one owner

    def test_a_second_run_is_told_who_writes(self):
        first = self.started()
        before = {path: os.lstat(path).st_mtime_ns for path in glob.glob(self.out + "/.mimo-partial/**", recursive=True)}
        for flags in (), ("--resume",), ("--overwrite",), ("--overwrite", "--force"):
            with self.subTest(flags):
                result = self.again(*flags, code=4)
                for word in "another run", f"process {first.pid}", "since 20", os.uname().nodename:
                    self.assertIn(word, result.stderr)
        with open(os.path.join(self.out, LEASE)) as f:
            lease = json.load(f)
        self.assertEqual((lease["host"], lease["pid"]), (os.uname().nodename, first.pid))
        self.assertTrue({"job_id", "started", "renewed"} <= set(lease))
        after = {path: os.lstat(path).st_mtime_ns for path in glob.glob(self.out + "/.mimo-partial/**", recursive=True)}
        self.assertEqual(before, after)
        self.finish(first, 0)
        self.assert_right()

    def test_a_dead_run_is_taken_over_at_once(self):
        self.started(number=signal.SIGKILL)
        self.assertTrue(os.path.exists(os.path.join(self.out, LEASE)))
        self.again("--resume")
        self.assert_right()

    def test_a_lease_of_another_host(self):
        self.started(number=signal.SIGKILL)
        path = os.path.join(self.out, LEASE)
        with open(path) as f:
            lease = json.load(f)
        lease.update(host="node7", pid=1, job_id="77", restarts=1)
        with open(path, "w") as f:
            json.dump(lease, f)
        self.assertIn("node7", self.again("--resume", code=4).stderr)
        # The same job, but not a later start of it; then one.
        for count, code in ("1", 4), ("2", 0):
            self.again("--resume", code=code, env={"SLURM_JOB_ID": "77", "SLURM_RESTART_COUNT": count})
        self.assert_right()
        shutil.rmtree(self.out)
        self.started(number=signal.SIGKILL)
        with open(path, "w") as f:
            json.dump(lease, f)
        long_ago = time.time() - 61
        os.utime(path, (long_ago, long_ago))
        self.again("--resume")
        self.assert_right()

    def test_a_requeued_job_takes_over_from_a_start_that_still_runs(self):
        env = {"SLURM_JOB_ID": "5", "SLURM_RESTART_COUNT": "0"}
        first = self.started(env=env)
        second = self.start("--resume", env=dict(env, SLURM_RESTART_COUNT="1"))
        time.sleep(0.5)
        self.assertIsNone(second.poll(), "waits until the first has let go")
        self.assertIn("taken over", self.finish(first, 4))
        self.finish(second, 0)
        self.assert_right()

    def test_who_loses_the_lease_publishes_nothing(self):
        for loss in "gone", "another's":
            with self.subTest(loss):
                first = self.started()
                path = os.path.join(self.out, LEASE)
                with open(path) as f:
                    lease = json.load(f)
                os.unlink(path)
                if loss != "gone":
                    with open(path, "w") as f:
                        json.dump(dict(lease, token="0" * 32, host="node7"), f)
                self.finish(first, 4)
                self.assert_nothing_published(self.out)
                self.assertEqual(os.path.exists(path), loss != "gone")
                shutil.rmtree(self.out)

    def test_races(self):
        """Two and four processes, at random moments, some of them killed: exit 0 is right, everything else is 2 or 4,
        and --resume completes."""
        chance = random.Random(5)
        for turn in range(ROUNDS):
            with self.subTest(turn=turn):
                flags = [chance.choice(((), ("--resume",), ("--overwrite",))) for _ in range(2 if turn % 2 else 4)]
                racers = []
                for flag in flags:
                    racers.append(self.start(*flag))
                    time.sleep(chance.random() * 0.3)
                    if chance.random() < 0.2:
                        racers[-1].send_signal(chance.choice((signal.SIGKILL, signal.SIGTERM)))
                codes = []
                for racer in racers:
                    racer.communicate(timeout=100)
                    codes.append(racer.returncode)
                    self.assertIn(racer.returncode, (0, 2, 4, 143, -9, -15))
                if os.path.exists(os.path.join(self.out, "mimo-manifest.json")):
                    # One that was to replace a complete output, and was stopped before it did, leaves what it had made beside it.
                    stopped = any(flag == ("--overwrite",) and code not in (0, 2) for flag, code in zip(flags, codes))
                    checked = self.run_tool("mimo-verify", "check", self.out, "--quiet", code=(0, 1))
                    self.assertTrue(checked.code == 0 or stopped, f"{flags} {codes}")
                    for line in checked.stderr.splitlines():
                        if line.startswith("mimo-verify: difference: "):
                            self.assertIn("difference: .mimo-partial/", line)
                elif 0 in codes:
                    self.assertIn("--overwrite", str(flags))  # one had replaced it, and was killed
                self.again("--resume")
                self.assert_right()
                shutil.rmtree(self.out)

    def test_forced_races(self):
        """The first is held at every stage while a second comes; then the second is killed, or done."""
        stages = ("state.json", "files", "records/0000.json", "publish.json")
        for turn in range(ROUNDS):
            path = os.path.join(".mimo-partial", stages[turn % len(stages)])
            with self.subTest(path=path, turn=turn):
                first = self.started(path=path)
                for flags in ("--resume",), ("--overwrite",):
                    self.again(*flags, code=4)
                self.finish(first, 0)
                self.assert_right()
                shutil.rmtree(self.out)

    # ---- what is published is what was written

    def test_a_file_that_is_exchanged_is_not_published(self):
        first = self.started()
        files = sorted(glob.glob(self.out + "/.mimo-partial/files/*.safetensors"))
        other = self.at("other")
        shutil.copy2(files[0], other)
        os.rename(other, files[0])                          # the same size, and another inode
        self.finish(first, 4)
        self.assert_nothing_published(self.out)
        self.again("--resume")
        self.assert_right()

    def test_finished_files_are_not_trusted_after_a_change(self):
        for change in "bit", "exchanged":
            with self.subTest(change):
                self.started(path=".mimo-partial/publish.json", number=signal.SIGKILL)
                for file in sorted(glob.glob(self.out + "/.mimo-partial/files/*.safetensors")):
                    if change == "bit":
                        with open(file, "r+b") as f:
                            f.seek(-3, os.SEEK_END)
                            byte = f.read(1)
                            f.seek(-3, os.SEEK_END)
                            f.write(bytes([byte[0] ^ 1]))
                    else:
                        shutil.copy2(file, self.at("other"))
                        os.rename(self.at("other"), file)
                self.again("--resume")
                self.assert_right()
                shutil.rmtree(self.out)

    @unittest.skipIf(xxh3() is None, "no libxxhash")
    def test_names_that_are_not_the_plans_are_refused(self):
        victim = self.at("victim.txt")
        with open(victim, "w") as f:
            f.write("precious")
        for name in "../victim.txt", victim, "mimo-manifest.json", "x.safetensors":
            with self.subTest(name):
                self.started(path=".mimo-partial/publish.json", number=signal.SIGKILL)
                path = os.path.join(self.out, ".mimo-partial", "publish.json")
                with open(path) as f:
                    publication = json.load(f)
                publication["files"][0]["name"] = name
                with open(path, "w") as f:
                    f.write(sealed(publication))
                self.assertIn("somebody has changed it", self.again("--resume", code=3).stderr)
                with open(victim) as f:
                    self.assertEqual(f.read(), "precious")
                self.again("--overwrite")
                self.assert_right()
                shutil.rmtree(self.out)

    def test_a_list_that_is_not_what_its_hash_is_of_is_none(self):
        victim = self.at("victim.txt")
        with open(victim, "w") as f:
            f.write("precious")
        self.started(path=".mimo-partial/publish.json", number=signal.SIGKILL)
        path = os.path.join(self.out, ".mimo-partial", "publish.json")
        with open(path) as f:
            publication = json.load(f)
        publication["files"][0]["name"] = "../victim.txt"
        with open(path, "w") as f:
            json.dump(publication, f)
        self.again("--resume")
        self.assert_right()
        with open(victim) as f:
            self.assertEqual(f.read(), "precious")

    # ---- nothing outside is touched

    def test_links_that_are_planted_lead_nowhere(self):
        names = ("", "/records", "/files", "/state.json", "/publish.json", "/files/config.json", "/files/mimo-source",
                 "/records/0000.json", "/lease.json")
        for name in names:
            for flag in "--resume", "--overwrite":
                with self.subTest(name=name, flag=flag):
                    self.started(number=signal.SIGKILL)
                    victim = self.at("victim")
                    os.mkdir(victim)
                    for file in ("a.txt", "config.json", "state.json", "0000.json"):
                        with open(os.path.join(victim, file), "w") as f:
                            f.write("precious")
                    link = os.path.normpath(os.path.join(self.out, ".mimo-partial" + name))
                    target = victim if "." not in os.path.basename(name) else os.path.join(victim, "a.txt")
                    if os.path.isdir(link):
                        shutil.rmtree(link)
                    elif os.path.exists(link):
                        os.unlink(link)
                    os.symlink(target, link)
                    result = self.again(flag, code=(0, 2, 3, 4))
                    if result.code == 0:
                        self.assert_right()
                    left = {}
                    for file in os.listdir(victim):
                        with open(os.path.join(victim, file)) as f:
                            left[file] = f.read()
                    self.assertEqual(left, dict.fromkeys(("a.txt", "config.json", "state.json", "0000.json"), "precious"))
                    shutil.rmtree(victim)
                    shutil.rmtree(self.out)

    def test_overwriting_wants_evidence(self):
        for names, flags, code in ((("config.json", "thesis.tex"), ("--overwrite",), 2),
                                   (("config.json", "thesis.tex"), ("--overwrite", "--force"), 0),
                                   (("mimo-manifest.json", "old.safetensors"), ("--overwrite",), 0),
                                   (("thesis.tex",), ("--force",), 2), (("thesis.tex",), ("--resume",), 2)):
            with self.subTest(names=names, flags=flags):
                os.mkdir(self.out)
                for name in names:
                    with open(os.path.join(self.out, name), "w") as f:
                        f.write("{}")
                self.again(*flags, code=code)
                if code == 0:
                    self.assert_right()
                else:
                    self.assertEqual(sorted(os.listdir(self.out)), sorted(names))
                shutil.rmtree(self.out)

    # ---- the checkpoint stays the same

    def change(self, source):
        for file in glob.glob(source + "/*.safetensors"):
            with open(file, "r+b") as f:
                f.seek(-2, os.SEEK_END)
                byte = f.read(1)
                f.seek(-2, os.SEEK_END)
                f.write(bytes([byte[0] ^ 1]))

    def test_a_checkpoint_that_changes_stops_the_run_and_what_was_made_is_kept(self):
        source = self.at("source")
        for during in False, True:
            with self.subTest(during=during):
                shutil.copytree(self.source, source)
                stamps = {p: os.stat(p) for p in glob.glob(source + "/*.safetensors")}
                process = self.started(number=signal.SIGSTOP if during else signal.SIGKILL, source=source)
                self.change(source)
                if during:
                    message = self.finish(process, 3)
                else:
                    message = self.run_tool("mimo-convert", source, self.out, *self.OPTIONS, "--resume", code=3).stderr
                self.assertIn("has changed", message)
                self.assert_nothing_published(self.out)
                self.assertTrue(glob.glob(self.out + "/.mimo-partial/records/*.json"))
                self.change(source)                          # put back
                for path, stamp in stamps.items():
                    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
                done = self.run_tool("mimo-convert", source, self.out, *self.OPTIONS[:-2], "--resume", "--no-progress",
                                     "--json")
                self.assertGreater(json.loads(done.stdout)["run"]["groups_resumed"], 0)
                self.assert_right()
                shutil.rmtree(source)
                shutil.rmtree(self.out)


if __name__ == "__main__":
    unittest.main()
