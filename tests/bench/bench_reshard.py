#!/usr/bin/env python3
"""Re-layouts that only move bytes, beside a plain copy of as many bytes on the same disk, measured in the same run.

Makes a checkpoint with mimo-synth whose second layer is one MoE layer of MiMo-V2.5 (full size but for the number of experts), then measures
  copy     reading and writing the tensor files in 16 MiB blocks, synced: as many bytes as the tool is about to write;
  tool     mimo-convert --format sharded-state at several TP and EP, the way back, the Neuron directory, and an engine directory
           at another TP with --link hard, of which it also says which share of the bytes was written; and
  plan     planning the 1 T-parameter Pro (headers only) for TP 16: seconds and peak resident memory.
The page cache is dropped before each measurement when this may be done (root on Linux); the result says whether it was.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from bench_requant import run_measured  # noqa: E402
from bench_tool import BLOCK, drop_caches, tensor_files  # noqa: E402

MOVES = (("TP 4, EP 4", ["--tp", "4", "--ep", "4"]), ("TP 4", ["--tp", "4"]), ("TP 8", ["--tp", "8"]))


def copy_bytes(paths, out, total):
    """Copies the files over and over until `total` bytes are written; -> seconds."""
    os.mkdir(out)
    buffer = memoryview(bytearray(BLOCK))
    start, left, number = time.perf_counter(), total, 0
    while left > 0:
        with open(paths[number % len(paths)], "rb", buffering=0) as source, \
                open(os.path.join(out, str(number)), "wb", buffering=0) as target:
            while left > 0 and (n := source.readinto(buffer[: min(BLOCK, left)])):
                target.write(buffer[:n])
                left -= n
            os.fsync(target.fileno())
        number += 1
    seconds = time.perf_counter() - start
    shutil.rmtree(out)
    return seconds


def measure(args, scratch, name, source, options, keep=None):
    out = keep or os.path.join(scratch, "out")
    shutil.rmtree(out, ignore_errors=True)
    best = None
    for _ in range(args.repeat):
        shutil.rmtree(out, ignore_errors=True)
        cold = drop_caches()
        stdout, seconds, peak = run_measured([os.path.join(args.bin, "mimo-convert"), source, out, "--memory", args.memory,
                                              "--json", "--no-progress"] + options, scratch)
        document = json.loads(stdout)
        written = document["run"]["bytes_written"]
        drop_caches()
        copied = copy_bytes(tensor_files(source), os.path.join(scratch, "copy"), max(written, 1))
        result = {"name": name, "caches_dropped": cold, "seconds": seconds, "copy_seconds": copied, "ratio": seconds / copied,
                  "bytes_written": written, "disk_bytes": document["plan"]["disk_bytes"], "lossless": document["plan"]["lossless"],
                  "peak_bytes": peak}
        if best is None or result["ratio"] < best["ratio"]:
            best = result
    if keep is None:
        shutil.rmtree(out)
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default=os.environ.get("MIMO_BIN", "build/release/tools"))
    parser.add_argument("--directory", help="scratch space on the disk to measure (default: a temporary directory)")
    parser.add_argument("--experts", type=int, default=64)
    parser.add_argument("--memory", default="1GiB")
    parser.add_argument("--repeat", type=int, default=3, help="the run with the best ratio counts")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    scratch = tempfile.mkdtemp(prefix="mimo-bench-", dir=args.directory)
    results = []
    try:
        source = os.path.join(scratch, "source")
        subprocess.run([os.path.join(args.bin, "mimo-synth"), "mimo-v2.5", source, "--layers", "2", "--experts",
                        str(args.experts), "--vocab", "16384", "--no-towers", "--quiet"], check=True)
        ranks = os.path.join(scratch, "ranks")
        for name, options in MOVES:
            keep = ranks if name == "TP 4" else None
            results.append(measure(args, scratch, f"ranks, {name}", source,
                                   ["--to", "vllm", "--format", "sharded-state"] + options, keep))
        results.append(measure(args, scratch, "back from TP 4", ranks, ["--to", "hf"]))
        shutil.rmtree(ranks)
        results.append(measure(args, scratch, "Neuron", source, ["--to", "nxdi"]))
        results.append(measure(args, scratch, "vLLM directory, TP 8", source, ["--to", "vllm", "--tp", "8", "--link", "hard"]))
        shutil.rmtree(source)
        pro = os.path.join(scratch, "pro")
        subprocess.run([os.path.join(args.bin, "mimo-synth"), "mimo-v2.5-pro", pro, "--sparse", "--quiet"], check=True)
        plans = []
        for ep in ("1", "16"):
            stdout, seconds, peak = run_measured(
                [os.path.join(args.bin, "mimo-convert"), pro, "--to", "vllm", "--format", "sharded-state", "--tp", "16", "--ep", ep,
                 "--dry-run", "--json"], scratch)
            plan = json.loads(stdout)["plan"]
            plans.append({"tp": 16, "ep": int(ep), "seconds": seconds, "peak_bytes": peak, "payload_bytes": plan["payload_bytes"],
                          "read_bytes": plan["read_bytes"], "tensors": plan["tensors"]["written"]})
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if args.json:
        print(json.dumps({"moves": results, "plans": plans}, indent=2))
        return
    for r in results:
        print(f"{r['name']:22} {r['seconds']:6.2f} s, copy of as many bytes {r['copy_seconds']:6.2f} s: ratio {r['ratio']:.2f}; wrote "
              f"{r['bytes_written'] / 1e9:.2f} GB, {r['bytes_written'] / r['disk_bytes']:.0%} of the output; peak "
              f"{r['peak_bytes'] / 2**20:.0f} MiB{'' if r['lossless'] else '; rounds'}")
    for p in plans:
        print(f"plan of Pro, TP {p['tp']}, EP {p['ep']}: {p['seconds']:.2f} s, {p['peak_bytes'] / 2**20:.0f} MiB; {p['tensors']} arrays, "
              f"{p['payload_bytes']} bytes from {p['read_bytes']}")
    print(f"page cache {'dropped' if results[0]['caches_dropped'] else 'NOT dropped'} before each measurement")


if __name__ == "__main__":
    main()
