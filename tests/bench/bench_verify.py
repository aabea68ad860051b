#!/usr/bin/env python3
"""mimo-verify beside the reading that it cannot do without, on files in memory, measured in the same run.

Makes a checkpoint with mimo-synth in a folder of /dev/shm, splits it (the same codes under the same scales) and decodes it to BF16, then
measures in turns, each as often as --rounds says,
  check      mimo-verify check of the split output, beside reading its files and hashing them (XXH3-128) on as many threads;
  equal      mimo-verify compare of the source and the split output, beside reading both;
  decoded    mimo-verify compare of the source and the BF16 output, beside reading both.
Prints medians, and the fraction of the limit: the seconds of the limit (of the better of two sizes of blocks in each round) by those
of the tool.
"""
import argparse
import ctypes
import ctypes.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

BLOCKS = (1 << 20, 8 << 20)      # small ones stay in the cache of a core, large ones cost fewer calls: the limit is the better


def files_of(*directories):
    return [os.path.join(d, f) for d in directories for f in sorted(os.listdir(d)) if f.endswith(".safetensors")]


def read_all(paths, threads, hashes, block):
    """Reads every file in blocks shared out over threads, and hashes each block. -> seconds"""
    blocks = [(path, at) for path in paths for at in range(0, os.path.getsize(path), block)]
    lock, files = threading.Lock(), {path: os.open(path, os.O_RDONLY) for path in paths}
    function = None
    if hashes:
        class Hash(ctypes.Structure):
            _fields_ = [("low", ctypes.c_uint64), ("high", ctypes.c_uint64)]
        function = ctypes.CDLL(ctypes.util.find_library("xxhash")).XXH3_128bits
        function.restype, function.argtypes = Hash, [ctypes.c_void_p, ctypes.c_size_t]

    def work():
        buffer = bytearray(block)
        address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
        while True:
            with lock:
                if not blocks:
                    return
                path, at = blocks.pop()
            count = os.preadv(files[path], [buffer], at)
            if function is not None:
                function(address, count)
    start = time.perf_counter()
    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    seconds = time.perf_counter() - start
    for file in files.values():
        os.close(file)
    return seconds


def run(*command):
    start = time.perf_counter()
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit {result.returncode}\n{result.stdout[-800:]}{result.stderr[-800:]}")
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tools", help="folder of the tools, e.g. build/release/tools")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--experts", type=int, default=24)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    tool = lambda name: os.path.join(args.tools, name)
    scratch = tempfile.mkdtemp(prefix="mimo-bench-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
    try:
        source, split, values = (os.path.join(scratch, n) for n in ("source", "split", "values"))
        run(tool("mimo-synth"), "mimo-v2.5", source, "--layers", "2", "--experts", str(args.experts), "--no-towers")
        run(tool("mimo-convert"), source, split, "--qkv", "split")
        run(tool("mimo-convert"), source, values, "--dtype", "bf16")
        threads = ("--threads", str(args.threads))
        jobs = {"check": ([tool("mimo-verify"), "check", split, *threads], files_of(split), True),
                "equal": ([tool("mimo-verify"), "compare", source, split, *threads], files_of(source, split), False),
                "decoded": ([tool("mimo-verify"), "compare", source, values, *threads], files_of(source, values), False)}
        results = []
        for name, (command, paths, hashes) in jobs.items():
            limit, spent = [], []
            for _ in range(args.rounds):
                limit.append(min(read_all(paths, args.threads, hashes, block) for block in BLOCKS))
                spent.append(run(*command, "--quiet"))
            total = sum(map(os.path.getsize, paths))
            pairs = [a / b for a, b in zip(limit, spent)]
            results.append({"job": name, "gb": total / 1e9, "limit_s": statistics.median(limit), "tool_s": statistics.median(spent),
                            "fraction": statistics.median(pairs), "pairs": [round(p, 3) for p in pairs]})
        if args.json:
            print(json.dumps(results, indent=1))
        else:
            print(f"{args.threads} threads, {args.rounds} rounds; medians")
            for r in results:
                print(f"{r['job']:8} {r['gb']:6.2f} GB  limit {r['limit_s']:6.3f} s  tool {r['tool_s']:6.3f} s  "
                      f"{100 * r['fraction']:5.1f} % of the limit")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
