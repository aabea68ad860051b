#!/usr/bin/env python3
"""Re-quantizing a full-size MoE layer: FP8 -> NVFP4 within --memory, beside a public package's CPU path on the same layer.

Makes a checkpoint with mimo-synth whose second layer is one MoE layer at full size (256 experts of MiMo-V2.5: 6.4 GB of FP8), then
measures in the same run
  tool     mimo-convert --recipe nvfp4-experts: seconds, GB of source per second (per core, too), peak resident memory; and
  raw      reading the tensor files in 16 MiB blocks and writing as many bytes as the tool wrote, one after the other, synced;
  peer     with --peer: the same experts (FP8 codes times block scales, to BF16, then the package's quantizer on the CPU, as its
           recipes do it) for --peer-experts of them, files read and written with safetensors. What all experts would take
           follows by proportion, and is printed as extrapolated. modelopt: NVFP4QTensor, gate and up under one amax;
           compressed-tensors: the min/max observer's arithmetic and its NVFP4 compressor, what llm-compressor runs.
The peers run in the Python that runs this script: .venv-interop/bin/python3 tests/bench/bench_requant.py --peer modelopt.
The page cache is dropped before each measurement when this may be done (root on Linux); the result says whether it was.
"""
import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from bench_tool import drop_caches, read_raw, tensor_files, write_raw  # noqa: E402

# A child's ru_maxrss starts at what its parent had resident, so a small interpreter stands in between.
MEASURE = ("import resource, subprocess, sys; code = subprocess.call(sys.argv[2:]); "
           "open(sys.argv[1], 'w').write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)); sys.exit(code)")


def run_measured(command, scratch):
    """-> (stdout, seconds, peak resident bytes)"""
    peak = os.path.join(scratch, "peak")
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-I", "-S", "-c", MEASURE, peak] + command, stdout=subprocess.PIPE,
                          check=False)
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}")
    with open(peak) as f:
        return done.stdout, seconds, int(f.read())


def measure_tool(args, checkpoint, scratch, rule):
    out = os.path.join(scratch, "out")
    shutil.rmtree(out, ignore_errors=True)
    cold = drop_caches()
    command = [os.path.join(args.bin, "mimo-convert"), checkpoint, out, "--recipe", "nvfp4-experts", "--nvfp4-scale",
               rule, "--memory", args.memory,
               "--threads", str(args.threads), "--json", "--no-progress"] + args.options
    stdout, seconds, peak = run_measured(command, scratch)
    run = json.loads(stdout)["run"]
    result = {"rule": rule, "caches_dropped": cold, "seconds": seconds, "bytes_read": run["bytes_read"],
              "bytes_written": run["bytes_written"],
              "source_gb_s": run["bytes_read"] / seconds / 1e9,
              "source_gb_s_per_thread": run["bytes_read"] / seconds / 1e9 / args.threads,
              "peak_bytes": peak, "device": run["device"]}
    shutil.rmtree(out)
    return result


def measure_raw(checkpoint, scratch, written):
    out = os.path.join(scratch, "raw")
    os.mkdir(out)
    drop_caches()
    size, read_seconds = read_raw(tensor_files(checkpoint))
    write_seconds = write_raw(out, written)
    shutil.rmtree(out)
    return {"bytes": size, "read_gb_s": size / read_seconds / 1e9, "write_gb_s": written / write_seconds / 1e9,
            "seconds": read_seconds + write_seconds}


def quantize_modelopt(group):
    from modelopt.torch.quantization.qtensor.nvfp4_tensor import NVFP4QTensor
    amax = max(weight.abs().max().float() for weight in group.values())
    for name, weight in group.items():
        made, scales, global_ = NVFP4QTensor.quantize(weight, 16, weights_scaling_factor_2=amax / (6.0 * 448.0))
        yield from ((name + ".weight", made._quantized_data), (name + ".weight_scale", scales),
                    (name + ".weight_scale_2", global_.clone()))


def quantize_compressed_tensors(group):
    from compressed_tensors.compressors.base import BaseCompressor
    from compressed_tensors.quantization import QuantizationScheme, quant_scheme
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam
    rules = QuantizationScheme(targets=["Linear"], weights=quant_scheme.PRESET_SCHEMES["NVFP4A16"]["weights"])
    compressor = BaseCompressor.get_value_from_registry("nvfp4-pack-quantized")
    global_ = generate_gparam(min(w.min() for w in group.values()), max(w.max() for w in group.values()))
    for name, weight in group.items():
        blocks = weight.unflatten(-1, (-1, 16))
        scale, zero = calculate_qparams(blocks.amin(-1), blocks.amax(-1), rules.weights, global_scale=global_)
        state = {"weight": weight, "weight_scale": scale, "weight_zero_point": zero,
                 "weight_global_scale": global_.clone()}
        for key, value in compressor.compress(state, rules).items():
            yield f"{name}.{key}", value


def measure_peer(args, checkpoint, scratch):
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file
    quantize = {"modelopt": quantize_modelopt, "compressed-tensors": quantize_compressed_tensors}[args.peer]
    torch.set_num_threads(args.threads)
    with open(os.path.join(checkpoint, "model.safetensors.index.json")) as f:
        where = json.load(f)["weight_map"]
    number = re.compile(r"model\.layers\.1\.mlp\.experts\.(\d+)\.(\w+)_proj\.weight$")
    experts = sorted({int(m.group(1)) for m in map(number.match, where) if m})
    chosen = experts[:args.peer_experts]
    warm = torch.randn(128, 256).to(torch.bfloat16)
    list(quantize({"warm": warm}))                          # imports and first calls are not measured
    cold = drop_caches()
    source_bytes, quantizing, start = 0, 0.0, time.perf_counter()
    made = {}
    for expert in chosen:
        for letters in (("gate", "up"), ("down",)):
            group = {}
            for letter in letters:
                name = f"model.layers.1.mlp.experts.{expert}.{letter}_proj"
                with safe_open(os.path.join(checkpoint, where[name + ".weight"]), "pt") as f:
                    codes = f.get_tensor(name + ".weight")
                with safe_open(os.path.join(checkpoint, where[name + ".weight_scale_inv"]), "pt") as f:
                    scales = f.get_tensor(name + ".weight_scale_inv")
                source_bytes += codes.numel() + 4 * scales.numel()
                before = time.perf_counter()
                full = scales.repeat_interleave(128, 0).repeat_interleave(128, 1)[:codes.shape[0], :codes.shape[1]]
                group[name] = (codes.float() * full).to(torch.bfloat16)
                quantizing += time.perf_counter() - before
            before = time.perf_counter()
            made.update(quantize(group))
            quantizing += time.perf_counter() - before
    save_file(made, os.path.join(scratch, "peer.safetensors"))
    os.sync()
    seconds = time.perf_counter() - start
    return {"peer": args.peer, "caches_dropped": cold, "experts": len(chosen), "of": len(experts),
            "bytes": source_bytes, "seconds": seconds,
            "seconds_quantizing": quantizing, "source_gb_s": source_bytes / seconds / 1e9,
            "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "extrapolated_seconds": seconds * len(experts) / len(chosen)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default=os.environ.get("MIMO_BIN", "build/release/tools"),
                        help="directory of the tools")
    parser.add_argument("--scratch",
                        help="directory on the disk to measure: 11 GB (default: the system's temporary directory)")
    parser.add_argument("--preset", default="mimo-v2.5")
    parser.add_argument("--experts", type=int, default=256)
    parser.add_argument("--memory", default="2GiB")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rules", default="max", help="comma-separated: max,four-over-six,sweep,mse")
    parser.add_argument("--peer", choices=("modelopt", "compressed-tensors"))
    parser.add_argument("--peer-experts", type=int, default=4,
                        help="how many experts the peer quantizes (default %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("options", nargs="*", help="further options for mimo-convert, after --")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory(dir=args.scratch, prefix="mimo-bench-") as scratch:
        checkpoint = os.path.join(scratch, "checkpoint")
        subprocess.run([os.path.join(args.bin, "mimo-synth"), args.preset, checkpoint, "--layers", "2", "--experts",
                        str(args.experts), "--vocab", "1024",
                        "--no-towers", "--quiet"], check=True)
        tools = [measure_tool(args, checkpoint, scratch, rule) for rule in args.rules.split(",")]
        raw = measure_raw(checkpoint, scratch, tools[0]["bytes_written"])
        peer = measure_peer(args, checkpoint, scratch) if args.peer else None
    if args.json:
        print(json.dumps({"preset": args.preset, "experts": args.experts, "threads": args.threads,
                          "memory": args.memory, "tool": tools, "raw": raw, "peer": peer}, indent=2))
        return
    caches = "dropped before each measurement" if tools[0]["caches_dropped"] else "NOT dropped: reads may come from memory"
    print(f"{args.preset}, one MoE layer of {args.experts} experts, {raw['bytes'] / 1e9:.2f} GB of tensor files; {args.threads} threads; caches {caches}")
    for tool in tools:
        print(f"mimo-convert, NVFP4 {tool['rule']}, --memory {args.memory}: {tool['seconds']:.1f} s, {tool['source_gb_s']:.2f} GB/s of source "
              f"({tool['source_gb_s_per_thread']:.2f} per thread), peak {tool['peak_bytes'] / 2**20:.0f} MiB; read {tool['bytes_read'] / 1e9:.2f} GB, wrote "
              f"{tool['bytes_written'] / 1e9:.2f} GB; {tool['device']}")
    print(f"raw read then write of the same bytes: {raw['seconds']:.1f} s (read {raw['read_gb_s']:.2f} GB/s, write and fsync {raw['write_gb_s']:.2f} GB/s): "
          f"the tool takes {tools[0]['seconds'] / raw['seconds']:.2f} times as long")
    if peer:
        print(f"{peer['peer']} on the CPU, {peer['experts']} of {peer['of']} experts ({peer['bytes'] / 1e9:.2f} GB): {peer['seconds']:.1f} s, of which "
              f"{peer['seconds_quantizing']:.1f} s dequantizing and quantizing, {peer['source_gb_s']:.3f} GB/s of source, peak {peer['peak_bytes'] / 2**20:.0f} MiB; "
              f"all {peer['of']} experts extrapolated: {peer['extrapolated_seconds']:.0f} s, {peer['extrapolated_seconds'] / tools[0]['seconds']:.0f} times mimo-convert's")


if __name__ == "__main__":
    main()
