#!/usr/bin/env python3
"""Conversions on a disk, past the page cache, beside fio moving as many bytes past it on as many files.

Makes a checkpoint with mimo-synth in --directory, then in turns, --repeat times,
  fio    reads as many bytes of the checkpoint's files as the conversion does, and at the same time writes as many bytes as it does into
         an allocated file per thread, in blocks of 4 MiB with several requests under way; and
  tool   mimo-convert --io MODE, once for each --mode.
Files are on the disk, and out of the page cache, before each. Prints medians of wall time and of CPU time, and of the rate of the tool as a
part of fio's within pairs. Nothing is asserted. Needs fio.
"""
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from bench_lanes import CONVERSIONS, cpu, make_parser, make_source

BLOCK = 4 << 20
MODES = ("direct", "direct-single", "buffered")


def forget(directory):
    """Has the system write out and drop what it holds of these files."""
    for folder, _, names in os.walk(directory):
        for name in names:
            fd = os.open(os.path.join(folder, name), os.O_RDONLY)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def timed(command):
    start, before = time.perf_counter(), cpu(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout, time.perf_counter() - start, cpu(resource.RUSAGE_CHILDREN) - before


def fio(args, files, target, read, written):
    os.mkdir(target)
    whole = sum(map(os.path.getsize, files))
    command = ["fio", "--ioengine=io_uring", "--direct=1", f"--bs={BLOCK}", "--thread"]
    for i, path in enumerate(files):
        share = os.path.getsize(path) * read // whole // BLOCK * BLOCK
        if share > 0:
            command += [f"--name=read{i}", "--rw=read", f"--filename={path}", f"--size={share}", f"--iodepth={max(1, 2 * args.depth // len(files))}"]
    share = written // args.threads // BLOCK * BLOCK
    for i in range(args.threads):
        command += [f"--name=write{i}", "--rw=write", f"--filename={target}/{i}", f"--size={share}", "--fallocate=native", "--end_fsync=1",
                    f"--iodepth={args.depth}"]
    _, wall, used = timed(command)
    shutil.rmtree(target)
    return wall, used


def convert(args, source, out, options, mode):
    shutil.rmtree(out, ignore_errors=True)
    text, wall, used = timed([os.path.join(args.bin, "mimo-convert"), source, out, "--threads", str(args.threads), "--io", mode, "--json",
                              "--no-progress"] + options)
    return json.loads(text)["run"], wall, used


def measure(args, scratch, name, source, options):
    out = os.path.join(scratch, "out")
    run, _, _ = convert(args, source, out, options, "direct")    # the first is not counted
    shutil.rmtree(out)
    files = sorted(os.path.join(source, f) for f in os.listdir(source) if f.endswith(".safetensors"))
    peers, tools = [], {mode: [] for mode in args.mode}
    for _ in range(args.repeat):
        forget(source)
        peers.append(fio(args, files, os.path.join(scratch, "fio"), run["bytes_read"], run["bytes_written"]))
        for mode in args.mode:
            forget(source)
            tools[mode].append(convert(args, source, out, options, mode)[1:])
            shutil.rmtree(out)
    median = statistics.median
    return {"name": name, "bytes": run["bytes_read"] + run["bytes_written"], "io": run.get("io"),
            "fio_seconds": median(wall for wall, _ in peers), "fio_cpu_seconds": median(used for _, used in peers),
            "modes": {mode: {"seconds": median(wall for wall, _ in times), "cpu_seconds": median(used for _, used in times),
                             "rate": median(peer[0] / wall for peer, (wall, _) in zip(peers, times))} for mode, times in tools.items()}}


def main():
    parser = make_parser(__doc__, "/var/tmp", CONVERSIONS)
    parser.add_argument("--mode", action="append", choices=MODES, help="of --io (default: direct)")
    parser.add_argument("--depth", type=int, default=4, help="requests of fio under way, of each file that it writes")
    args = parser.parse_args()
    args.mode = args.mode or ["direct"]
    scratch = tempfile.mkdtemp(prefix="mimo-bench-", dir=args.directory)
    try:
        source = make_source(args, scratch)
        results = [measure(args, scratch, name, source, options) for name, options in CONVERSIONS.items()
                   if not args.only or name in args.only]
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if args.json:
        print(json.dumps(results, indent=2))
        return 0
    for r in results:
        print(f"{r['name']:12} {r['bytes'] / 1e9:.2f} GB read and written; fio {r['fio_seconds']:.2f} s, CPU {r['fio_cpu_seconds']:.2f} s")
        for mode, m in r["modes"].items():
            print(f"  {mode:14} {m['seconds']:6.2f} s, CPU {m['cpu_seconds']:6.2f} s: {m['rate']:.2f} of the rate of fio")
    return 0


if __name__ == "__main__":
    sys.exit(main())
