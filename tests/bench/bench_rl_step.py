#!/usr/bin/env python3
"""What a training step costs a quantized checkpoint, sticky and fresh: on layers of full size, counted by numpy.

Makes a checkpoint with mimo-synth (one dense layer, one MoE layer of a few experts), converts it to Megatron, moves one in a hundred
elements of attention, dense MLP and experts by some BF16 steps, and converts it back with --like under either policy. Prints,
beside the source, how many codes, blocks and scales are others, and how far the result is from the run's BF16 weights: the
root of the squared error over that of the squares. Needs numpy.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir))
from harness import rl_step, torch_dist  # noqa: E402
from reference import container  # noqa: E402

KINDS = {"F8_E4M3": "FP8", "U8": "MXFP4"}
SLICE = 1024  # columns at a time


def convert(args, *words):
    subprocess.run([os.path.join(args.bin, "mimo-convert"), *words, "--memory", "1GiB", "--quiet", "--overwrite"], check=True)


def trained(root, fraction, steps, seed=1):
    """Moves elements of a root in place. -> how many"""
    random, count = np.random.default_rng(seed), 0
    checkpoint = torch_dist.Checkpoint(torch_dist.iteration_directory(root))

    def change(bits):
        nonlocal count
        where = random.random(bits.shape, np.float32) < fraction
        new = rl_step.moved(bits, where, random.integers(0, 2, bits.shape, np.uint8) == 1, steps)
        count += int((new != bits).sum())
        return new

    for key, tensor in sorted(checkpoint.tensors.items()):
        if tensor.dtype == "BF16" and key.endswith(("linear_qkv.weight", "linear_fc1.weight", "linear_fc2.weight",
                                                    "linear_proj.weight")):
            checkpoint.edit(key, change)
    return count


def columns(matrix, begin, end):
    end = min(end, matrix.codes.shape[1])
    return matrix._replace(codes=matrix.codes[:, begin:end],
                           scales=matrix.scales[:, begin // matrix.width:-(-end // matrix.width)])


def accounts(source, out, weights):
    """{kind: Account} of every quantized weight of `out`."""
    found = {}
    for matrix, made in zip(source, rl_step.matrices(out)):
        for begin in range(0, matrix.codes.shape[1], SLICE):
            part, other = (columns(m, begin, begin + SLICE) for m in (matrix, made))
            values = np.concatenate([container_values(weights[n], begin, begin + SLICE) for n in matrix.names])
            account = rl_step.account(part, other.codes, other.scales, values)
            kind = KINDS[matrix.dtype]
            found[kind] = rl_step.total([found[kind], account]) if kind in found else account
    return found


def container_values(value, begin, end):
    dtype, array = value
    assert dtype == "BF16", dtype
    return (np.array(array[:, begin:end]).astype(np.uint32) << 16).view(np.float32)


def measure(args, scratch, preset):
    source, root, plain, out = (os.path.join(scratch, name) for name in ("source", "root", "plain", "out"))
    subprocess.run([os.path.join(args.bin, "mimo-synth"), preset, source, "--layers", "2", "--experts", str(args.experts),
                    "--vocab", "4096", "--no-towers", "--no-mtp", "--quiet", "--overwrite"], check=True)
    stored, rows = rl_step.matrices(source), []
    for steps in args.steps:
        convert(args, source, root, "--to", "megatron")
        moved = trained(root, args.fraction, steps)
        convert(args, root, plain, "--to", "hf")
        weights = container.read_directory(plain)
        for policy in ("sticky", "fresh"):
            convert(args, root, out, "--to", "hf", "--like", source, "--scale-policy", policy)
            for kind, account in accounts(stored, out, weights).items():
                rows.append({"preset": preset, "kind": kind, "steps": steps, "moved": moved, "policy": policy,
                             "relative_error": rl_step.relative_error(account), **account._asdict()})
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default=os.environ.get("MIMO_BIN", "build/release/tools"))
    parser.add_argument("--directory", help="scratch space (default: a temporary directory)")
    parser.add_argument("--preset", action="append", help="default: mimo-v2-flash and mimo-v2.6-flash")
    parser.add_argument("--experts", type=int, default=4)
    parser.add_argument("--fraction", type=float, default=0.01)
    parser.add_argument("--steps", type=int, action="append", help="BF16 steps per moved element (default: 1, 8 and 32)")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    args.steps = args.steps or [1, 8, 32]
    scratch = tempfile.mkdtemp(prefix="mimo-bench-", dir=args.directory)
    try:
        rows = [row for preset in args.preset or ["mimo-v2-flash", "mimo-v2.6-flash"] for row in measure(args, scratch, preset)]
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if args.json:
        print(json.dumps(rows, indent=2))
        return
    print("| preset | codec | BF16 steps | policy | changed codes | blocks with a change | re-scaled blocks | relative error |")
    print("|---|---|---:|---|---:|---:|---:|---:|")
    for r in rows:
        print(f"| {r['preset']} | {r['kind']} | {r['steps']} | {r['policy']} | {r['changed_codes']} of {r['elements']} "
              f"({r['changed_codes'] / r['elements']:.3%}) | {r['changed_blocks']} of {r['blocks']} | {r['rescaled_blocks']} | "
              f"{r['relative_error']:.5f} |")


if __name__ == "__main__":
    main()
