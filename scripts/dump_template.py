#!/usr/bin/env python3
"""Writes what vLLM's sharded_state loader wants of rank files, as JSON for `mimo-convert --template FILE`.

Run it where the vLLM that will serve the checkpoint is installed, with as many GPUs as ranks. The model is built with
dummy weights, so the directory needs config.json and the tokenizer only. The names are those before vLLM prepares the
weights for its kernels, which is when the loader reads them.

    dump_template.py CKPT --tp 8 [--ep] [--ranks 0] [--out template.json]

{"engine": "vllm", "version": ..., "tp": 8, "ep": 1, "rank": 0, "tensors": [{"name", "dtype", "shape"}]}; with several
--ranks, one file each, FILE.rank2.json and so on.
"""
import argparse
import json
import os
import sys

DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "float8_e4m3fn": "F8_E4M3",
          "float8_e8m0fnu": "F8_E8M0", "uint8": "U8", "int8": "I8", "int32": "I32", "int64": "I64", "bool": "BOOL"}


def dtype_name(dtype):
    name = str(dtype).rpartition(".")[2]
    return DTYPES.get(name, name.upper())


def rows(state):
    """[{"name", "dtype", "shape"}], by name."""
    return [{"name": name, "dtype": dtype_name(state[name].dtype), "shape": list(state[name].shape)}
            for name in sorted(state)]


def template(args, version, rank, tensors):
    return {"engine": "vllm", "version": version, "tp": args.tp, "ep": args.tp if args.ep else 1, "rank": rank,
            "tensors": tensors}


def arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a Hugging Face directory; its weights are not read")
    parser.add_argument("--tp", type=int, required=True)
    parser.add_argument("--ep", action="store_true", help="as with --enable-expert-parallel")
    parser.add_argument("--ranks", default="0", help="LIST: 0,3 (default 0)")
    parser.add_argument("--out", default="template.json")
    args = parser.parse_args(argv)
    try:
        args.ranks = sorted({int(rank) for rank in args.ranks.split(",")})
    except ValueError:
        parser.error(f"--ranks {args.ranks}: numbers and commas")
    if args.tp < 1 or args.ranks[0] < 0 or args.ranks[-1] >= args.tp:
        parser.error(f"--ranks of {args.tp} ranks are 0 to {args.tp - 1}")
    return args


def capture():
    """From here on, loading dummy weights keeps the loader's view of the state; in every worker, as vLLM forks them."""
    from vllm.model_executor.model_loader.dummy_loader import DummyModelLoader
    from vllm.model_executor.model_loader.sharded_state_loader import ShardedStateLoader
    load = DummyModelLoader.load_weights

    def keep(self, model, model_config):
        load(self, model, model_config)
        model.mimo_template = rows(ShardedStateLoader._filter_subtensors(model.state_dict()))

    DummyModelLoader.load_weights = keep


def kept(model):
    return model.mimo_template


def states(args):
    """-> (vLLM's version, the rows of every rank)"""
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "fork")
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_ALLOW_INSECURE_SERIALIZATION", "1")        # apply_model sends a function
    capture()
    import vllm
    engine = vllm.LLM(args.checkpoint, load_format="dummy", tensor_parallel_size=args.tp, enforce_eager=True,
                      enable_expert_parallel=args.ep, max_model_len=1024, trust_remote_code=True)
    return vllm.__version__, engine.apply_model(kept)


def file_name(out, rank, only):
    stem, extension = os.path.splitext(out)
    return out if only else f"{stem}.rank{rank}{extension}"


def main(argv=None):
    args = arguments(argv)
    version, tensors = states(args)
    for rank in args.ranks:
        made = template(args, version, rank, tensors[rank])
        path = file_name(args.out, rank, len(args.ranks) == 1)
        with open(path, "w", encoding="utf-8") as f:
            json.dump(made, f, indent=1)
            f.write("\n")
        print(f"{path}: {len(made['tensors'])} tensors of rank {rank}", file=sys.stderr)


if __name__ == "__main__":
    main()
