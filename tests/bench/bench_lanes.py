#!/usr/bin/env python3
"""Conversions of files in memory beside a copy of as many bytes, on as many threads, each on files of its own.

Makes a checkpoint with mimo-synth in --directory (default /dev/shm), then runs in turns, --repeat times,
  copy   every thread reads its share of the bytes that the conversion reads, and writes its share of those that it writes, in blocks of
         4 MiB, into a file of its own; and
  tool   mimo-convert with --threads.
Prints medians of wall time and of CPU time, and the medians of the ratios within pairs. Nothing is asserted.

In a virtual machine whose host takes free memory back, whoever touches a page first waits for the host: a run of some seconds finds few
pages left that the one before it has used, and looks slower than it is. Fewer --experts make runs short.
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
import threading
import time

BLOCK = 4 << 20
CONVERSIONS = {
    "moves": ["--copy"],
    "re-layout": ["--dtype", "keep", "--qkv", "split"],
    "ranks TP 4": ["--to", "vllm", "--format", "sharded-state", "--tp", "4"],
    "BF16": ["--dtype", "bf16", "--qkv", "split"],
    "NVFP4": ["--recipe", "nvfp4-experts"],
    "Megatron": ["--to", "megatron"],
}
BACK = "--like"  # what Megatron would have saved, back into the form of the checkpoint


def cpu(who):
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


class Copier:
    def __init__(self, sources, directory, read, written, threads):
        self.sources, self.directory, self.threads = sources, directory, threads
        self.read, self.written = read // threads, written // threads

    def share(self, index):
        """One thread's: whole files in turn, from another one for each."""
        buffer = memoryview(bytearray(BLOCK))
        buffer[:] = os.urandom(1 << 12) * (BLOCK >> 12)
        read = written = 0
        number = index * len(self.sources) // self.threads
        source = open(self.sources[number], "rb", buffering=0)
        with open(os.path.join(self.directory, str(index)), "wb", buffering=0) as target:
            while read < self.read or written < self.written:
                if read < self.read and read * self.written <= written * self.read:
                    n = source.readinto(buffer[: min(BLOCK, self.read - read)])
                    if n == 0:
                        number = (number + 1) % len(self.sources)
                        source.close()
                        source = open(self.sources[number], "rb", buffering=0)
                    read += n
                else:
                    written += target.write(buffer[: min(BLOCK, self.written - written)])
        source.close()

    def run(self):
        os.mkdir(self.directory)
        start, before = time.perf_counter(), cpu(resource.RUSAGE_SELF)
        workers = [threading.Thread(target=self.share, args=(i,)) for i in range(self.threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        took = time.perf_counter() - start, cpu(resource.RUSAGE_SELF) - before
        shutil.rmtree(self.directory)
        return took


def convert(args, source, out, options):
    shutil.rmtree(out, ignore_errors=True)
    command = [os.path.join(args.bin, "mimo-convert"), source, out, "--threads", str(args.threads), "--memory", args.memory, "--json",
               "--no-progress"] + options
    start, before = time.perf_counter(), cpu(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, check=True, capture_output=True)
    took = time.perf_counter() - start, cpu(resource.RUSAGE_CHILDREN) - before
    return json.loads(done.stdout)["run"], took


def measure(args, scratch, name, source, options):
    out = os.path.join(scratch, "out")
    run, _ = convert(args, source, out, options)  # the first is not counted
    files = sorted(os.path.join(folder, f) for folder, _, names in os.walk(source) for f in names if f.endswith((".safetensors", ".distcp")))
    copier = Copier(files, os.path.join(scratch, "copy"), run["bytes_read"], run["bytes_written"], args.threads)
    pairs = []
    for _ in range(args.repeat):
        shutil.rmtree(out, ignore_errors=True)
        copied = copier.run()
        pairs.append((convert(args, source, out, options)[1], copied))
    shutil.rmtree(out)
    return {"name": name, "bytes_read": run["bytes_read"], "bytes_written": run["bytes_written"],
            "seconds": statistics.median(t[0] for t, _ in pairs), "copy_seconds": statistics.median(c[0] for _, c in pairs),
            "ratio": statistics.median(t[0] / c[0] for t, c in pairs),
            "cpu_seconds": statistics.median(t[1] for t, _ in pairs), "cpu_ratio": statistics.median(t[1] / c[1] for t, c in pairs)}


def make_parser(description, directory, conversions):
    """With the options of every benchmark of conversions."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default=os.environ.get("MIMO_BIN", "build/release/tools"))
    parser.add_argument("--directory", default=directory, help="where the files are")
    parser.add_argument("--only", action="append", choices=sorted(conversions), help="these conversions")
    parser.add_argument("--experts", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    return parser


def make_source(args, scratch):
    """Two layers of full width. -> the checkpoint"""
    source = os.path.join(scratch, "source")
    subprocess.run([os.path.join(args.bin, "mimo-synth"), "mimo-v2.5", source, "--layers", "2", "--experts", str(args.experts), "--vocab",
                    "16384", "--no-towers", "--quiet"], check=True)
    return source


def main():
    parser = make_parser(__doc__, "/dev/shm", [*CONVERSIONS, BACK])
    parser.add_argument("--memory", default="1GiB")
    args = parser.parse_args()
    scratch = tempfile.mkdtemp(prefix="mimo-bench-", dir=args.directory)
    try:
        source = make_source(args, scratch)
        results = [measure(args, scratch, name, source, options) for name, options in CONVERSIONS.items()
                   if not args.only or name in args.only]
        if not args.only or BACK in args.only:
            trained = os.path.join(scratch, "run")
            convert(args, source, trained, CONVERSIONS["Megatron"])
            results.append(measure(args, scratch, BACK, trained, ["--like", source]))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if args.json:
        print(json.dumps(results, indent=2))
        return 0
    for r in results:
        print(f"{r['name']:12} {r['seconds']:6.2f} s, copy {r['copy_seconds']:6.2f} s: {r['ratio']:.2f}; CPU {r['cpu_seconds']:6.2f} s: "
              f"{r['cpu_ratio']:.2f}; read {r['bytes_read'] / 1e9:.2f} GB, wrote {r['bytes_written'] / 1e9:.2f} GB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
