#!/usr/bin/env python3
"""Chooses how many parts of a conversion to run, and the memory and time of each, from `mimo-convert --dry-run --json`:
  job_size.py [--for slurm|array|k8s|json] [--parts N] [--minutes M] [--rate MB/s] CKPT [OPTIONS of mimo-convert]

--parts    how many; default: as many as end within --minutes, each with at least 2 GiB to write
--minutes  what a conversion may take (60)
--rate     MB read and written per second by one part (500): `mimo-convert`'s own report of a run says it of your storage

slurm, array: words for sbatch; k8s: values for scripts/k8s/indexed-job.yaml; json: the figures. The time asked for is twice
the estimate and ten minutes, for what is killed at its end has to go on later.
"""
import argparse
import json
import math
import os
import subprocess
import sys

GIB = 1 << 30
LEAST_OUTPUT = 2 * GIB      # per part: below that a part is over before it has started
BESIDE = GIB                # what a process needs beside --memory, plans and records of a terabyte included
MARGIN, GRACE = 2, 600


def dry_run(command, memory):
    tool = os.path.join(os.environ["MIMO_BIN"], "mimo-convert") if os.environ.get("MIMO_BIN") else "mimo-convert"
    environment = {k: v for k, v in os.environ.items() if k not in ("MIMO_CONVERT_PART", "MIMO_CONVERT_JOIN")}
    done = subprocess.run([tool, *command, "--dry-run", "--json", "--quiet", "--memory", str(memory)],
                          stdout=subprocess.PIPE, env=environment)
    if done.returncode:
        sys.exit(done.returncode)
    return json.loads(done.stdout)["plan"]


def budget(command):
    """-> (bytes for --memory, the plan): the least at which nothing has to be read twice, up to 16 GiB."""
    for size in (2, 4, 8, 16):
        plan = dry_run(command, size * GIB)
        if plan["groups_read_twice"] == 0:
            break
    return size * GIB, plan


def choose(plan, memory, parts, minutes, rate):
    written = plan["disk_bytes"]
    moved = plan["read_bytes"] + written
    if parts is None:
        most = max(1, written // LEAST_OUTPUT)
        parts = min(most, max(1, math.ceil(moved / (rate * 1e6 * minutes * 60))))
    seconds = math.ceil(moved / (rate * 1e6 * parts))
    return {"parts": parts, "seconds": seconds, "limit_seconds": MARGIN * seconds + GRACE, "memory_bytes": memory,
            "job_memory_bytes": memory + BESIDE, "written_bytes": written, "moved_bytes": moved}


def shown(figures, form):
    if form == "json":
        return json.dumps(figures, indent=2)
    mebibytes, limit = figures["job_memory_bytes"] >> 20, figures["limit_seconds"]
    if form == "k8s":
        return "\n".join((f"completions: {figures['parts']}", f"parallelism: {figures['parts']}",
                          f"MIMO_CONVERT_PART: auto/{figures['parts']}", f"MIMO_CONVERT_MEMORY: {figures['memory_bytes']}",
                          f"memory: {mebibytes}Mi", f"activeDeadlineSeconds: {limit}"))
    number = f"--array=0-{figures['parts'] - 1}" if form == "array" else f"--ntasks={figures['parts']}"
    time = f"{limit // 3600:02}:{limit // 60 % 60:02}:{limit % 60:02}"
    return f"{number} --mem={mebibytes}M --time={time} --export=ALL,MIMO_CONVERT_MEMORY={figures['memory_bytes']}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--for", dest="form", choices=("slurm", "array", "k8s", "json"), default="json")
    parser.add_argument("--parts", type=int)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate", type=float, default=500)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    numbers = (arguments.minutes, arguments.rate, 1 if arguments.parts is None else arguments.parts)
    if not arguments.command or min(numbers) <= 0:
        parser.error("CKPT is missing, or a number is not positive")
    memory, plan = budget(arguments.command)
    print(shown(choose(plan, memory, arguments.parts, arguments.minutes, arguments.rate), arguments.form))


if __name__ == "__main__":
    main()
