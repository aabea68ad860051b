#!/usr/bin/env python3
"""Megatron checkpoints, beside the conversion to a BF16 Hugging Face directory of the same source, in the same run.

Makes a checkpoint with mimo-synth whose second layer is one MoE layer of full size (but for the number of experts), then
measures, in turn, as often as --repeat says,
  HF to HF, BF16      --dtype bf16 --qkv split, the path that the others are measured by;
  HF to Megatron      --to megatron;
  Megatron to HF      --to hf: BF16, split;
  ... --like, sticky  the same run back into the source's own codecs and scales; and
  ... --like, fresh   with new scales;
each followed by a plain copy, in 16 MiB blocks and synced, of as many bytes as it wrote. MB/s count bytes read plus bytes
written; the ratio is that of MB/s to those of the first in the same round, and the median round counts. Then
  plan                planning the full-size model, headers only (--dry-run): seconds and peak resident memory.
The page cache is dropped before each measurement when this may be done (root on Linux); the result says whether it was.
"""
import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from bench_requant import run_measured  # noqa: E402
from bench_reshard import copy_bytes  # noqa: E402
from bench_tool import drop_caches, tensor_files  # noqa: E402

BASE = "HF to HF, BF16"


def cpu_seconds():
    """Of all processes that have ended, this one's children and theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def convert(args, scratch, source, out, options):
    """-> figures of one run; `out` is replaced."""
    shutil.rmtree(out, ignore_errors=True)
    cold, before = drop_caches(), cpu_seconds()
    stdout, seconds, peak = run_measured([os.path.join(args.bin, "mimo-convert"), source, out, "--memory", args.memory, "--json",
                                          "--no-progress"] + options, scratch)
    run = json.loads(stdout)["run"]
    moved = run["bytes_read"] + run["bytes_written"]
    return {"caches_dropped": cold, "seconds": seconds, "cpu_seconds": cpu_seconds() - before, "peak_bytes": peak,
            "bytes_read": run["bytes_read"], "bytes_written": run["bytes_written"], "mb_s": moved / seconds / 1e6}


def one_round(args, scratch, source):
    root, out = os.path.join(scratch, "root"), os.path.join(scratch, "out")
    like = ["--to", "hf", "--like", source, "--scale-policy"]
    runs = {}
    for name, start, target, options in (
            (BASE, source, out, ["--dtype", "bf16", "--qkv", "split"]), ("HF to Megatron", source, root, ["--to", "megatron"]),
            ("Megatron to HF", root, out, ["--to", "hf"]), ("... --like, sticky", root, out, like + ["sticky"]),
            ("... --like, fresh", root, out, like + ["fresh"])):
        run = convert(args, scratch, start, target, options)
        drop_caches()
        run["copy_seconds"] = copy_bytes(tensor_files(source), os.path.join(scratch, "copy"), run["bytes_written"])
        runs[name] = run
    for run in runs.values():
        run["ratio"] = run["mb_s"] / runs[BASE]["mb_s"]
    shutil.rmtree(root)
    shutil.rmtree(out)
    return runs


def median(runs):
    return sorted(runs, key=lambda r: r["ratio"])[len(runs) // 2] | {
        "seconds": statistics.median(r["seconds"] for r in runs),
        "cpu_seconds": statistics.median(r["cpu_seconds"] for r in runs), "peak_bytes": max(r["peak_bytes"] for r in runs)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default=os.environ.get("MIMO_BIN", "build/release/tools"))
    parser.add_argument("--directory", help="scratch space on the disk to measure (default: a temporary directory)")
    parser.add_argument("--preset", default="mimo-v2.5")
    parser.add_argument("--experts", type=int, default=32)
    parser.add_argument("--memory", default="1GiB")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--no-plan", action="store_true", help="leave the full-size plan out")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    scratch = tempfile.mkdtemp(prefix="mimo-bench-", dir=args.directory)
    plan = None
    try:
        source = os.path.join(scratch, "source")
        synth = [os.path.join(args.bin, "mimo-synth"), args.preset, source, "--quiet"]
        subprocess.run(synth + ["--layers", "2", "--experts", str(args.experts), "--vocab", "16384", "--no-towers", "--no-mtp"], check=True)
        rounds = [one_round(args, scratch, source) for _ in range(args.repeat)]
        results = {name: median([r[name] for r in rounds]) for name in rounds[0]}
        shutil.rmtree(source)
        if not args.no_plan:
            subprocess.run(synth + ["--sparse"], check=True)
            stdout, seconds, peak = run_measured([os.path.join(args.bin, "mimo-convert"), source, "--to", "megatron", "--dry-run",
                                                  "--json"], scratch)
            plan = {"seconds": seconds, "peak_bytes": peak, "parts": json.loads(stdout)["plan"]["tensors"]["written"],
                    "payload_bytes": json.loads(stdout)["plan"]["payload_bytes"]}
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if args.json:
        print(json.dumps({"preset": args.preset, "memory": args.memory, "runs": results, "plan": plan}, indent=2))
        return
    for name, r in results.items():
        print(f"{name:20} {r['seconds']:6.2f} s, {r['cpu_seconds']:5.2f} s of CPU; read {r['bytes_read'] / 1e9:.2f} GB, wrote {r['bytes_written'] / 1e9:.2f} GB: {r['mb_s']:.0f} "
              f"MB/s, {r['ratio']:.2f} of the first; copy of what it wrote {r['copy_seconds']:.2f} s; peak {r['peak_bytes'] / 2**20:.0f} MiB "
              f"of {args.memory}")
    if plan:
        print(f"plan of the full {args.preset}: {plan['seconds']:.2f} s, {plan['peak_bytes'] / 2**20:.0f} MiB; {plan['parts']} parts, "
              f"{plan['payload_bytes']} bytes")
    print(f"page cache {'dropped' if results[BASE]['caches_dropped'] else 'NOT dropped'} before each measurement")


if __name__ == "__main__":
    main()
