"""Proves that parts make what one process makes, byte for byte, whatever is made and however many they are; that a join
publishes it, once, and not too early; and that a launcher's variables say which part a process is, or that they do not.
"""
import json
import os
import shutil
import unittest
from unittest import mock

from harness import checkpoints, megatron_case, rl_step, tools
from harness.case import ToolCase

try:
    import jsonschema
except ImportError:
    jsonschema = None

SMALL = dict(checkpoints.TINY, intermediate=256, moe_intermediate=256)
UNITS = ("--unit-size", "150000", "--threads", "1")
LAUNCHERS = ("SLURM_", "OMPI_", "PMI_", "PMIX_", "TORCHELASTIC_", "JOB_COMPLETION_INDEX", "RANK", "WORLD_SIZE", "LOCAL_RANK",
             "GROUP_RANK", "GROUP_WORLD_SIZE", "MIMO_CONVERT_")


class PartsCase(ToolCase):
    def setUp(self):
        super().setUp()
        outside = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHERS)}
        cleared = mock.patch.dict(os.environ, outside, clear=True)
        cleared.start()
        self.addCleanup(cleared.stop)

    def source(self):
        return checkpoints.ours("v2.5", **SMALL)[0]

    def part(self, source, out, part, *options, units=UNITS, **run):
        return self.run_tool("mimo-convert", source, out, *options, *units, "--part", part, **run)

    def join(self, out, *options, **run):
        return self.run_tool("mimo-convert", "--join", out, *options, **run)

    def validate(self, document):
        if jsonschema is None:
            return
        with open(os.path.join(tools.SOURCE, "schemas", "convert.schema.json")) as f:
            rules = json.load(f)
        self.assertEqual(list(jsonschema.Draft202012Validator(rules).iter_errors(document)), [])


class SameBytes(PartsCase):
    """The tree that one process makes, of 1, 3 and 16."""

    def check(self, source, *options):
        whole = self.convert(source, "whole", *options)
        for count in (1, 3, 16):
            with self.subTest(parts=count):
                out = self.at(f"of-{count}")
                made, units = [], set()
                for index in reversed(range(count)):
                    done = self.part(source, out, f"{index}/{count}", *options, "--json", "--no-progress")
                    document = json.loads(done.stdout)
                    self.validate(document)
                    run = document["run"]["units"]
                    made.append(run["made"])
                    units.add(run["all"])
                    self.assertEqual(run["left"], run["all"] - sum(made))
                    self.assert_nothing_published(out)
                self.assertEqual({sum(made)}, units, "every unit is made once")
                self.assertGreater(sum(made), 16)
                joined = json.loads(self.join(out, "--json", "--no-progress").stdout)
                self.validate(joined)
                self.assertEqual(joined["run"]["units"]["made"], 0)
                self.assert_same_trees(whole, out)
                self.assertEqual(sorted(os.listdir(whole)), sorted(os.listdir(out)))
                shutil.rmtree(out)
        self.run_at_once(source, whole, 3, *options)

    def run_at_once(self, source, whole, count, *options):
        out = self.at("at-once")
        parts = [tools.start("mimo-convert", source, out, *options, *UNITS, "--part", f"{i}/{count}") for i in range(count)]
        for part in parts:
            _, stderr = part.communicate(timeout=300)
            self.assertEqual(part.returncode, 0, stderr.decode("utf-8", "replace"))
        self.join(out)
        self.assert_same_trees(whole, out)

    def test_values(self):
        self.check(self.source(), "--dtype", "bf16", "--qkv", "split")

    def test_recipe_with_errors_and_hashes(self):
        self.check(self.source(), "--recipe", "nvfp4", "--error-report", "--hash-values")

    def test_rank_files(self):
        self.check(self.source(), "--to", "vllm", "--format", "sharded-state", "--tp", "2")

    def test_megatron(self):
        self.check(self.source(), "--to", "megatron")

    def test_a_run_under_its_reference(self):
        fixture = megatron_case.ours("v2.5", **dict(megatron_case.TINY, mtp=0, towers=False, experts=2))
        run = self.convert(fixture.directory, "run", "--to", "megatron")
        before = fixture.split()
        after, _ = rl_step.step(before, steps=40)
        self.assertTrue(rl_step.apply(run, fixture.config, before, after))
        self.check(run, "--to", "hf", "--like", fixture.directory)


class Joins(PartsCase):
    OPTIONS = ("--dtype", "bf16", "--qkv", "split")

    def setUp(self):
        super().setUp()
        self.out = self.at("out")

    def make(self, *parts):
        for part in parts:
            self.part(self.source(), self.out, part, *self.OPTIONS)

    def expect_whole(self):
        if not os.path.exists(self.at("whole")):
            self.convert(self.source(), "whole", *self.OPTIONS)
        self.assert_same_trees(self.at("whole"), self.out)

    def test_comes_too_early_comes_once_and_again(self):
        self.join(self.out, code=2)                                       # nobody has begun
        self.make("0/3", "2/3")
        early = self.join(self.out, "--json", code=4)
        self.validate(json.loads(early.stdout))
        self.assertIn("missing", early.stderr)
        self.assert_nothing_published(self.out)
        self.make("1/3")
        self.join(self.out)
        self.expect_whole()
        again = self.join(self.out, "--json")
        self.validate(json.loads(again.stdout))
        self.assertEqual(json.loads(again.stdout), {"joined": "before"})
        self.assertIn("complete already", self.join(self.out).stdout)
        # A part that a launcher starts once more finds all done, and changes nothing.
        late = self.part(self.source(), self.out, "1/3", *self.OPTIONS, "--json", "--no-progress")
        self.validate(json.loads(late.stdout))
        self.assertEqual(json.loads(late.stdout)["run"]["units"]["made"], 0)
        self.expect_whole()

    def test_wants_no_more_than_out_from_anywhere(self):
        """Relative names, options from variables and names that a shell would cut: as the parts had them."""
        os.mkdir(self.at("here"))
        os.symlink(self.source(), self.at("here", "a checkpoint"))
        run = dict(cwd=self.at("here"), env={"MIMO_CONVERT_DTYPE": "bf16"})
        for index in range(2):
            self.part("a checkpoint", "../out", f"{index}/2", "--qkv", "split", **run)
        self.join("out", cwd=self.tmp)
        self.expect_whole()

    def test_a_join_that_died_at_its_very_end(self):
        """All is published, and the lease is left: of whoever removed the rest."""
        self.make("0/2", "1/2")
        self.join(self.out)
        partial = os.path.join(self.out, ".mimo-partial")
        for lease in None, {"host": os.uname().nodename, "pid": 1, "token": "0" * 32, "format": "mimo-lease", "version": 1,
                            "started": "", "renewed": ""}:
            os.mkdir(partial)
            if lease:
                with open(os.path.join(partial, "lease.json"), "w") as f:
                    json.dump(lease, f)
                os.utime(f.name, (1, 1))                                  # stale
            self.assertEqual(json.loads(self.join(self.out, "--json").stdout), {"joined": "before"})
            self.expect_whole()
            self.assertFalse(os.path.exists(partial))

    def test_takes_the_whole_command_in_the_place_of_part(self):
        self.make("0/2", "1/2")
        self.run_tool("mimo-convert", self.source(), self.out, *self.OPTIONS, *UNITS, "--join")
        self.expect_whole()

    def test_one_run_may_finish_what_parts_have_begun(self):
        self.make("1/3")
        self.run_tool("mimo-convert", self.source(), self.out, *self.OPTIONS, *UNITS, "--resume")
        self.expect_whole()

    def test_their_number_may_change(self):
        self.make("0/4", "3/4", "1/2")
        done = self.part(self.source(), self.out, "0/2", *self.OPTIONS)
        self.assertIn("--join", done.stdout)
        self.join(self.out)
        self.expect_whole()

    def test_two_numbers_at_once_are_refused(self):
        process = tools.start("mimo-convert", self.source(), self.out, *self.OPTIONS, "--unit-size", "4000", "--threads", "1",
                              "--part", "0/2")
        lease = os.path.join(self.out, ".mimo-partial", "parts", "0-of-2.json")
        units = os.path.join(self.out, ".mimo-partial", "units")
        try:
            while process.poll() is None and not (os.path.exists(lease) and os.path.isdir(units) and os.listdir(units)):
                pass
            self.assertIsNone(process.poll(), "it ended before another came")
            process.send_signal(19)
            other = self.run_tool("mimo-convert", self.source(), self.out, *self.OPTIONS, "--unit-size", "4000", "--part",
                                  "2/3", code=4)
            self.assertIn("another run is writing here", other.stderr)
            for mine in ("--resume",), ("--join",), ("--part", "0/2"):
                self.run_tool("mimo-convert", self.source(), self.out, *self.OPTIONS, "--unit-size", "4000", *mine, code=4)
        finally:
            process.send_signal(18)
            _, stderr = process.communicate(timeout=300)
        self.assertEqual(process.returncode, 0, stderr)
        self.run_tool("mimo-convert", self.source(), self.out, *self.OPTIONS, "--unit-size", "4000", "--part", "1/2")
        self.join(self.out)
        self.expect_whole()

    def test_options_of_another_conversion_are_refused(self):
        self.make("0/2")
        self.part(self.source(), self.out, "1/2", "--dtype", "fp16", "--qkv", "split", code=2)
        self.part(self.source(), self.out, "1/2", *self.OPTIONS, units=("--unit-size", "70000"), code=2)
        self.make("1/2")
        self.join(self.out)
        self.expect_whole()

    def test_a_report_is_of_the_whole(self):
        options = ("--recipe", "nvfp4", "--error-report")
        refused = self.part(self.source(), self.out, "0/2", *options, "--report", self.at("r.json"), code=2)
        self.assertIn("--join", refused.stderr)
        self.assertFalse(os.path.exists(self.out))
        for index in range(2):
            self.part(self.source(), self.out, f"{index}/2", *options)
        # where whoever joins stands, which is not where the parts did
        self.join("out", "--report", "r.json", cwd=self.tmp)
        self.convert(self.source(), "whole", *options, "--report", self.at("whole.json"))
        with open(self.at("r.json")) as a, open(self.at("whole.json")) as b:
            self.assertEqual(json.load(a), json.load(b))
        self.assert_same_trees(self.at("whole"), self.out)

    def test_a_threshold_rejects_at_the_join(self):
        options = ("--recipe", "nvfp4", "--error-report", "--min-sqnr", "experts=90")
        for index in range(2):
            self.part(self.source(), self.out, f"{index}/2", *options)
        self.join(self.out, code=1)
        self.run_tool("mimo-convert", self.source(), self.at("whole"), *options, code=1)
        self.assert_same_trees(self.at("whole"), self.out)

    def test_a_join_of_what_was_rejected_rejects_again(self):
        options = ("--recipe", "nvfp4", "--min-sqnr", "experts=90")
        for index in range(2):
            self.part(self.source(), self.out, f"{index}/2", *options)
        for _ in range(3):
            self.join(self.out, code=1)
        self.assertIn("--hash-values", self.join(self.out, "--hash-values", code=2).stderr)
        self.assertIn("no report", self.join(self.out, "--report", self.at("r.json"), code=1).stderr)

    def test_what_was_complete_and_is_no_more(self):
        self.make("0/2", "1/2")
        self.join(self.out)
        shutil.copytree(self.out, self.at("whole"))
        os.remove(os.path.join(self.out, "config.json"))
        self.assertIn("changed since", self.join(self.out, code=2).stderr)
        self.part(self.source(), self.out, "0/2", *self.OPTIONS, code=2)
        for part in ("0/2", "1/2"):
            self.part(self.source(), self.out, part, *self.OPTIONS, "--overwrite")
        self.join(self.out)
        self.assert_same_trees(self.at("whole"), self.out)
        self.part(self.source(), self.out, "1/2", *self.OPTIONS, "--overwrite")    # one that comes late takes nothing away
        self.join(self.out)
        self.assert_same_trees(self.at("whole"), self.out)

    def test_parts_are_asked_the_same(self):
        recipe = ("--recipe", "nvfp4")
        for first, second in (((), ("--min-sqnr", "experts=90")), (("--min-sqnr", "experts=90"), ()),
                              (("--min-sqnr", "experts=90"), ("--min-sqnr", "experts=80")), (("--error-report",), ())):
            with self.subTest(first=first, second=second):
                shutil.rmtree(self.out, ignore_errors=True)
                self.part(self.source(), self.out, "0/2", *recipe, *first)
                refused = self.part(self.source(), self.out, "1/2", *recipe, *second, code=2)
                self.assertIn("other options", refused.stderr)
                self.part(self.source(), self.out, "1/2", *recipe, *first)
                self.join(self.out, code=1 if "--min-sqnr" in first else 0)

    def test_units_of_another_size_are_refused(self):
        self.make("0/2")
        refused = self.run_tool("mimo-convert", self.source(), self.out, *self.OPTIONS, "--resume", code=2)
        self.assertIn("--unit-size", refused.stderr)
        done = self.run_tool("mimo-convert", self.source(), self.out, *self.OPTIONS, *UNITS, "--resume", "--json")
        self.assertGreater(json.loads(done.stdout)["run"]["units"]["resumed"], 0)

    def test_what_a_dead_part_leaves_beside_a_complete_output(self):
        self.make("0/2", "1/2")
        self.join(self.out)
        partial = os.path.join(self.out, ".mimo-partial")
        for name in ("parts/0-of-2.json", "start.json"):
            path = os.path.join(partial, name)
            os.makedirs(os.path.dirname(path))
            with open(path, "w") as f:
                f.write("{}")
            os.utime(path, (1, 1))
            self.join(self.out)
            self.assertFalse(os.path.exists(partial))

    def test_what_is_no_part_is_refused(self):
        for part in ("3/3", "-1/3", "0/0", "1", "1/", "/3", "a/b", "0/3/4", "auto/0", "auto/x", "autos", "0/99999999",
                     "18446744073709551616/3"):
            with self.subTest(part):
                self.part(self.source(), self.out, part, *self.OPTIONS, code=2)
        self.run_tool("mimo-convert", self.source(), self.out, *self.OPTIONS, "--part", "0/2", "--join", code=2)
        self.assertFalse(os.path.exists(self.out))


STEP = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}
TORCH = {"RANK": "5", "WORLD_SIZE": "8", "GROUP_RANK": "1", "GROUP_WORLD_SIZE": "2", "LOCAL_RANK": "1"}


def step(index, count, nodes=1, **more):
    return dict(STEP, SLURM_PROCID=str(index), SLURM_NTASKS=str(count), SLURM_STEP_NUM_TASKS=str(count),
                SLURM_STEP_NUM_NODES=str(nodes), **more)


def array(task, least, most, count):
    return {"SLURM_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_TASK_MIN": str(least),
            "SLURM_ARRAY_TASK_MAX": str(most), "SLURM_ARRAY_TASK_COUNT": str(count), "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}


# What launchers set -> the part, and what must be named as the reason.
TOLD = {
    "a step": (step(3, 16, 4), "3/16", ("SLURM_PROCID=3", "SLURM_STEP_NUM_TASKS=16")),
    "an array": (array(4, 1, 7, 3) | {"SLURM_ARRAY_TASK_ID": "7"}, "2/3", ("SLURM_ARRAY_TASK_ID=7", "SLURM_ARRAY_TASK_COUNT=3")),
    "a step in an array": (array(1, 0, 3, 4) | step(1, 2), "3/8", ("SLURM_ARRAY_TASK_ID=1", "SLURM_PROCID=1")),
    "Open MPI": ({"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4"}, "2/4", ("OMPI_COMM_WORLD_RANK=2",)),
    "PMI in its step": (step(1, 2) | {"PMI_RANK": "1", "PMI_SIZE": "2"}, "1/2", ("PMI_RANK=1", "SLURM_PROCID=1")),
    "torchrun": (TORCH, "5/8", ("RANK=5", "WORLD_SIZE=8")),
    "torchrun in a step of a task per node": (TORCH | step(1, 2, 2), "5/8", ("RANK=5",)),
    "torchrun in the pods of an Indexed Job": (TORCH | {"JOB_COMPLETION_INDEX": "1"}, "5/8", ("RANK=5",)),
    "mpirun, by daemons that a step has started": (
        step(0, 3, 3) | {"OMPI_COMM_WORLD_RANK": "4", "OMPI_COMM_WORLD_SIZE": "8"}, "4/8", ("OMPI_COMM_WORLD_RANK=4",)),
}
# What tells nothing, too little or two things.
NOT_TOLD = {
    "nobody": {},
    "a batch script without a step": {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "4"},
    "a batch script that a step has submitted": dict(step(0, 4), SLURM_NTASKS="1"),
    "an array with gaps": array(3, 0, 5, 3),
    "an array that lacks its count": {"SLURM_ARRAY_TASK_ID": "1"},
    "a step and MPI": step(1, 4) | {"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4"},
    "torchrun and a step that is not of nodes": TORCH | step(3, 4, 2),
    "a rank that is none": {"RANK": "8", "WORLD_SIZE": "8"},
    "words": {"RANK": "first", "WORLD_SIZE": "8"},
}


class Launchers(PartsCase):
    def told(self, environment, part="auto", code=0):
        out = self.at("out")
        shutil.rmtree(out, ignore_errors=True)
        return self.part(self.source(), out, part, "--dtype", "bf16", "--no-progress", units=("--unit-size", "1MB"),
                         env=environment, code=code)

    def test_what_they_say_is_used_and_printed(self):
        for name, (environment, part, words) in TOLD.items():
            with self.subTest(name):
                said = self.told(environment).stderr
                self.assertIn(f"part {part}, by ", said)
                for word in words:
                    self.assertIn(word, said)

    def test_what_they_do_not_say_is_refused(self):
        for name, environment in NOT_TOLD.items():
            with self.subTest(name):
                self.assertIn("--part I/N", self.told(environment, code=2).stderr)
                self.assertFalse(os.path.exists(self.at("out")))

    def test_an_indexed_job_needs_its_number(self):
        pod = {"JOB_COMPLETION_INDEX": "2"}
        self.assertIn("auto/N", self.told(pod, code=2).stderr)
        self.assertIn("part 2/5, by JOB_COMPLETION_INDEX=2", self.told(pod, "auto/5").stderr)
        self.told(pod, "auto/2", code=2)
        self.told(step(1, 4), "auto/5", code=2)                            # a launcher that says it is not contradicted
        self.assertIn("part 1/4", self.told(step(1, 4), "auto/4").stderr)

    def test_the_option_may_be_a_variable(self):
        out = self.at("out")
        for index in range(2):
            environment = dict(step(index, 2), MIMO_CONVERT_PART="auto")
            done = self.run_tool("mimo-convert", self.source(), out, "--dtype", "bf16", *UNITS, env=environment)
            self.assertIn(f"part {index}/2", done.stderr)
        # where it stands for the whole job, a join is still one
        self.join(out, env={"MIMO_CONVERT_PART": "auto"})
        self.assert_same_trees(self.convert(self.source(), "whole", "--dtype", "bf16"), out)

    def test_quiet_is_quiet(self):
        self.assertEqual(self.told(dict(step(0, 2), MIMO_CONVERT_QUIET="1")).stderr, "")


if __name__ == "__main__":
    unittest.main()
