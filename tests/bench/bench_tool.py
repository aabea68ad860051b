#!/usr/bin/env python3
"""How close mimo-convert comes to the disk: its throughput beside raw sequential I/O of the same bytes, measured in the same run.

Makes a checkpoint with mimo-synth, then measures
  raw      os.read and os.write of every tensor file in 16 MiB blocks into one directory, then fsync; and
  tool     mimo-convert --dtype bf16 --qkv split, and --dtype keep --qkv split, which write to the same disk and sync.
MB/s count bytes read plus bytes written. The raw figure for a conversion that writes more than it reads is weighted
accordingly: the time that raw I/O would take to read what it read and to write what it wrote.

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

BLOCK = 16 << 20
CONVERSIONS = (("bf16, split", ["--dtype", "bf16", "--qkv", "split"]), ("keep, split", ["--dtype", "keep", "--qkv", "split"]))


def drop_caches():
    """Whether reads now come from the disk."""
    os.sync()
    try:
        with open("/proc/sys/vm/drop_caches", "w") as f:
            f.write("3")
        return True
    except OSError:
        return False


def tensor_files(directory):
    return sorted(os.path.join(directory, f) for f in os.listdir(directory) if f.endswith(".safetensors"))


def read_raw(paths):
    buffer = memoryview(bytearray(BLOCK))
    total, start = 0, time.perf_counter()
    for path in paths:
        with open(path, "rb", buffering=0) as f:
            while n := f.readinto(buffer):
                total += n
    return total, time.perf_counter() - start


def write_raw(directory, total):
    """Writes `total` bytes that do not compress, in files of at most 1 GiB, and syncs them."""
    block = memoryview(os.urandom(BLOCK))
    start, left, number = time.perf_counter(), total, 0
    while left > 0:
        size = min(left, 1 << 30)
        with open(os.path.join(directory, f"raw{number}"), "wb", buffering=0) as f:
            done = 0
            while done < size:
                done += f.write(block[: min(BLOCK, size - done)])
            os.fsync(f.fileno())
        left, number = left - size, number + 1
    return time.perf_counter() - start


def copy_raw(paths, directory):
    """Reads and writes in turn, as the simplest converter would."""
    buffer = memoryview(bytearray(BLOCK))
    start = time.perf_counter()
    for number, path in enumerate(paths):
        with open(path, "rb", buffering=0) as source, open(os.path.join(directory, f"copy{number}"), "wb", buffering=0) as target:
            while n := source.readinto(buffer):
                done = 0
                while done < n:
                    done += target.write(buffer[done:n])
            os.fsync(target.fileno())
    return time.perf_counter() - start


def measure_raw(paths, scratch):
    cold = drop_caches()
    size, read_seconds = read_raw(paths)
    out = os.path.join(scratch, "raw")
    os.mkdir(out)
    write_seconds = write_raw(out, size)
    shutil.rmtree(out)
    os.mkdir(out)
    drop_caches()
    copy_seconds = copy_raw(paths, out)
    shutil.rmtree(out)
    return {
        "bytes": size,
        "caches_dropped": cold,
        "read_mb_s": size / read_seconds / 1e6,
        "write_mb_s": size / write_seconds / 1e6,
        "copy_mb_s": 2 * size / copy_seconds / 1e6,
    }


def measure_tool(binary, checkpoint, scratch, label, options, extra, raw):
    out = os.path.join(scratch, "out")
    shutil.rmtree(out, ignore_errors=True)
    cold = drop_caches()
    command = [binary, checkpoint, out, *options, "--json", "--no-progress", *extra]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}")
    run = json.loads(done.stdout)["run"]
    shutil.rmtree(out)
    moved = run["bytes_read"] + run["bytes_written"]
    rate = moved / run["seconds"] / 1e6
    # One after the other on one disk; and what the copy really reached, scaled by how much of each there is.
    serial = moved / (run["bytes_read"] / raw["read_mb_s"] + run["bytes_written"] / raw["write_mb_s"])
    return {
        "conversion": label,
        "caches_dropped": cold,
        "bytes_read": run["bytes_read"],
        "bytes_written": run["bytes_written"],
        "seconds": run["seconds"],
        "mb_s": rate,
        "percent_of_serial_raw": 100 * rate / serial,
        "percent_of_raw_copy": 100 * rate / raw["copy_mb_s"],
        "device": run["device"],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default=os.environ.get("MIMO_BIN", "build/release/tools"), help="directory of the tools")
    parser.add_argument("--scratch", help="directory on the disk to measure (default: the system's temporary directory)")
    parser.add_argument("--preset", default="mimo-v2.5")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--experts", type=int, default=16)
    parser.add_argument("--vocab", type=int, default=16384)
    parser.add_argument("--repeat", type=int, default=1, help="measure each conversion this often and report the median")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("options", nargs="*", help="further options for mimo-convert, after --")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory(dir=args.scratch, prefix="mimo-bench-") as scratch:
        checkpoint = os.path.join(scratch, "checkpoint")
        subprocess.run(
            [os.path.join(args.bin, "mimo-synth"), args.preset, checkpoint, "--layers", str(args.layers), "--experts",
             str(args.experts), "--vocab", str(args.vocab), "--no-towers", "--quiet"], check=True)
        raw = measure_raw(tensor_files(checkpoint), scratch)
        convert = os.path.join(args.bin, "mimo-convert")
        results = []
        for label, options in CONVERSIONS:
            runs = [measure_tool(convert, checkpoint, scratch, label, options, args.options, raw) for _ in range(args.repeat)]
            results.append(sorted(runs, key=lambda r: r["mb_s"])[len(runs) // 2])
    if args.json:
        print(json.dumps({"preset": args.preset, "raw": raw, "conversions": results}, indent=2))
        return
    caches = "dropped before each measurement" if raw["caches_dropped"] else "NOT dropped: reads may come from memory"
    print(f"{args.preset}, {raw['bytes'] / 1e9:.2f} GB of tensor files; caches {caches}")
    print(f"raw read {raw['read_mb_s']:.0f} MB/s, raw write and fsync {raw['write_mb_s']:.0f} MB/s, "
          f"raw copy {raw['copy_mb_s']:.0f} MB/s (read + written)")
    for r in results:
        print(f"{r['conversion']}: read {r['bytes_read'] / 1e9:.2f} GB, wrote {r['bytes_written'] / 1e9:.2f} GB in {r['seconds']:.1f} s: "
              f"{r['mb_s']:.0f} MB/s, {r['percent_of_serial_raw']:.0f} % of raw read then write, "
              f"{r['percent_of_raw_copy']:.0f} % of raw copy; {r['device']}")


if __name__ == "__main__":
    main()
