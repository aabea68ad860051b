"""Proves what the job scripts do: scripts/job_size.py chooses from a dry run; scripts/slurm/*.sbatch start parts and the join,
pass options on whole, and queue themselves again by exit code and no more often than they may; scripts/k8s/*.yaml go by the
same exit codes. Commands of Slurm are stood in for; scripts/test_launchers.sh runs them under a real one.
"""
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import unittest

from harness import checkpoints, tools
from harness.case import ToolCase

SCRIPTS = os.path.join(tools.SOURCE, "scripts")
SMALL = dict(checkpoints.TINY)
# Starts what follows its options once per task, one after the other, as srun sets them; the highest exit code is its own.
SRUN = """#!/bin/sh
tasks=${SLURM_NTASKS:-1}
while :; do
  case $1 in --ntasks=*) tasks=${1#*=}; shift ;; -*) shift ;; *) break ;; esac
done
code=0 i=0
while [ $i -lt "$tasks" ]; do
  SLURM_STEP_ID=0 SLURM_PROCID=$i SLURM_NTASKS=$tasks SLURM_STEP_NUM_TASKS=$tasks "$@"
  now=$?
  [ $now -le $code ] || code=$now
  i=$((i + 1))
done
exit $code
"""
NOTE = """#!/bin/sh
echo "$(basename "$0") $*" >> "$NOTES"
echo 41
"""


class Scripts(ToolCase):
    def setUp(self):
        super().setUp()
        self.bin = self.at("bin")
        os.mkdir(self.bin)
        for name, text in (("srun", SRUN), ("scontrol", NOTE), ("sbatch", NOTE)):
            self.program(name, text)
        self.notes = self.at("notes")
        self.source = checkpoints.ours("v2.5", **SMALL)[0]
        self.out = self.at("out dir")

    def program(self, name, text):
        path = os.path.join(self.bin, name)
        with open(path, "w") as f:
            f.write(text)
        os.chmod(path, os.stat(path).st_mode | stat.S_IXUSR)

    def script(self, name, *arguments, code=0, **environment):
        path = os.path.join(self.bin, os.path.basename(name))
        clean = {k: v for k, v in tools.environment().items() if not k.startswith(("SLURM_", "OMPI_", "PMI_", "JOB_COMP"))}
        clean.update(MIMO_BIN=tools.BIN, NOTES=self.notes, PATH=self.bin + os.pathsep + os.environ["PATH"], **environment)
        done = subprocess.run([os.path.join(SCRIPTS, name), *map(str, arguments)], env=clean, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=300)
        self.assertEqual(done.returncode, code, f"{path}: {done.stdout}{done.stderr}")
        return done

    def noted(self):
        if not os.path.exists(self.notes):
            return []
        with open(self.notes) as f:
            lines = f.read().splitlines()
        os.unlink(self.notes)
        return lines

    def options(self):
        return "--dtype", "bf16", "--exclude", "no such tensor|model\\.norm\\.weight"

    def expect_whole(self):
        whole = self.convert(self.source, "whole", *self.options())
        self.assert_same_trees(whole, self.out)

    def test_steps_and_join(self):
        self.script("slurm/steps.sbatch", self.source, self.out, *self.options(), SLURM_JOB_ID="7", SLURM_NTASKS="3",
                    SLURM_CPUS_PER_TASK="1")
        self.script("slurm/join.sbatch", self.out, SLURM_JOB_ID="8")
        self.script("slurm/join.sbatch", self.out, SLURM_JOB_ID="8")
        self.assertEqual(self.noted(), [])
        self.expect_whole()

    def test_elements_and_join(self):
        for element in (2, 0, 1):
            self.script("slurm/array.sbatch", self.source, self.out, *self.options(), SLURM_JOB_ID=str(7 + element),
                        SLURM_NTASKS="1", SLURM_ARRAY_TASK_ID=str(element), SLURM_ARRAY_TASK_MIN="0", SLURM_ARRAY_TASK_MAX="2",
                        SLURM_ARRAY_TASK_COUNT="3")
        self.script("slurm/join.sbatch", self.out, SLURM_JOB_ID="10")
        self.expect_whole()

    def test_they_queue_themselves_again_by_exit_code(self):
        shutil.copy(os.path.join(self.bin, "srun"), self.at("srun"))
        for name, again in (("steps", (4, 5, 130, 137, 143)), ("array", (4, 5, 130, 137, 143)), ("join", (130, 137, 143))):
            arguments = (self.out,) if name == "join" else (self.source, self.out)
            for code in (1, 2, 3, 4, 5, 130, 137, 143):
                with self.subTest(name, code=code):
                    self.program("srun", f"#!/bin/sh\nexit {code}\n")
                    for restarts, most in (("0", "2"), ("1", "2"), ("2", "2")):
                        self.script(f"slurm/{name}.sbatch", *arguments, code=code, SLURM_JOB_ID="7", MIMO_RESTARTS=most,
                                    SLURM_RESTART_COUNT=restarts)
                        expected = ["scontrol requeue 7"] if code in again and restarts < most else []
                        self.assertEqual(self.noted(), expected)
        self.script("slurm/steps.sbatch", self.source, code=2)
        self.script("slurm/join.sbatch", code=2)

    def test_jobs_are_submitted_with_their_sizes(self):
        for flags, number, script in ((), "--ntasks=3", "steps"), (("--array",), "--array=0-2", "array"):
            done = self.script("slurm/submit.sh", *flags, "--parts", "3", "--sbatch", "--partition=a", self.source, "o", "--dtype",
                               "bf16")
            self.assertEqual(done.stdout, "41 41\n")
            parts, join = self.noted()
            self.assertRegex(parts, rf"^sbatch --parsable {number} --mem=3072M --time=00:10:0\d "
                             rf"--export=ALL,MIMO_CONVERT_MEMORY=2147483648 --partition=a \S*/{script}\.sbatch "
                             rf"{re.escape(self.source)} o --dtype bf16$")
            self.assertRegex(join, r"^sbatch --parsable --dependency=afterok:41 --kill-on-invalid-dep=yes --partition=a "
                             r"\S*/join\.sbatch o$")
        self.script("slurm/submit.sh", "--parts", "3", self.source, code=2)
        self.script("slurm/submit.sh", self.at("nothing"), "o", code=3)
        self.assertEqual(self.noted(), [], "nothing is queued that cannot be planned")

    def size(self, *arguments, code=0):
        done = subprocess.run([sys.executable, os.path.join(SCRIPTS, "job_size.py"), *arguments], capture_output=True, text=True,
                              env=dict(tools.environment(), MIMO_BIN=tools.BIN), timeout=300)
        self.assertEqual(done.returncode, code, done.stderr)
        return done.stdout

    def test_sizes(self):
        big = self.at("big")
        self.run_tool("mimo-synth", "mimo-v2.5", big, "--sparse", "--quiet", "--layers", "6", "--experts", "64")
        plan = json.loads(self.run_tool("mimo-convert", big, "--dtype", "bf16", "--dry-run", "--json").stdout)["plan"]
        moved = plan["read_bytes"] + plan["disk_bytes"]
        figures = json.loads(self.size("--minutes", "10", "--rate", "10", big, "--dtype", "bf16"))
        self.assertEqual(figures["moved_bytes"], moved)
        self.assertEqual(figures["parts"], -(-moved // (600 * 10**7)))
        self.assertLessEqual(figures["seconds"], 600)
        self.assertEqual(figures["limit_seconds"], 2 * figures["seconds"] + 600)
        most = json.loads(self.size("--minutes", "0.001", big, "--dtype", "bf16"))
        self.assertEqual(most["parts"], plan["disk_bytes"] // (2 << 30), "2 GiB of output for each")
        self.assertEqual(json.loads(self.size(self.source, "--dtype", "bf16"))["parts"], 1)
        pods = self.size("--for", "k8s", "--parts", "5", self.source, "--dtype", "bf16")
        for line in ("completions: 5", "MIMO_CONVERT_PART: auto/5", "memory: 3072Mi", "activeDeadlineSeconds: 602"):
            self.assertIn(line, pods)
        self.size("--parts", "0", self.source, code=2)
        self.size("--parts", "2", code=2)
        self.size(self.at("nothing"), code=3)

    def test_pods_go_by_exit_codes(self):
        for name, container in (("indexed-job", "convert"), ("join-job", "join")):
            with open(os.path.join(SCRIPTS, "k8s", name + ".yaml")) as f:
                text = f.read()
            rules = re.findall(r"- action: (\w+)\n\s+onExitCodes:\n\s+containerName: (\w+)\n\s+operator: In\n"
                               r"\s+values: \[([\d, ]+)\]", text)
            self.assertEqual(rules, [("FailJob", container, "1, 2, 3"), ("Ignore", container, "130, 143"),
                                     ("Count", container, "4, 5")])
            self.assertIn("restartPolicy: Never", text)               # which podFailurePolicy asks for
            self.assertLess(text.index("FailJob"), text.index("DisruptionTarget"))
            self.assertIn(f"- name: {container}\n", text)
        with open(os.path.join(SCRIPTS, "k8s", "indexed-job.yaml")) as f:
            text = f.read()
        number = re.search(r"completions: (\d+)", text).group(1)
        self.assertIn(f"value: auto/{number} ", text)


if __name__ == "__main__":
    unittest.main()
