"""Writes a generated checkpoint.   python3 -m reference.make VARIANT OUT [options]

OUT/checkpoint is what a converter reads, OUT/truth/truth.safetensors what `--dtype bf16 --qkv split` must give.
"""
import argparse
import json
import os
import random
import re

import numpy as np

from reference import config, container, decode
from reference.model import STORES, VARIANTS, Model, Spec


def shard_of(name, spec, chooser):
    """released: experts by expert-parallel rank, MTP apart, the rest in rank 0. apart: like that, but every scale
    lies in another file than its weight. random: anywhere."""
    if spec.placement == "random":
        return f"model_part{chooser.randrange(5)}.safetensors"
    if spec.placement == "apart" and re.search(r"weight_scale(_inv|_2)?$|weight_global_scale$", name):
        return "model_scales.safetensors"
    if name.startswith("model.mtp."):
        return "model_mtp.safetensors"
    if spec.variant == "v2-flash":
        match = re.match(r"model\.layers\.(\d+)\.(mlp\.experts\.)?.*?(down_proj)?\.weight", name)
        layer = re.match(r"model\.layers\.(\d+)\.", name)
        if layer is None:
            return "model_embedding.safetensors" if "embed" in name else "model_final.safetensors"
        if match and match.group(2):
            return f"model_{layer.group(1)}_linear_fc{2 if 'down_proj' in name else 1}.safetensors"
        return f"model_{layer.group(1)}.safetensors"
    expert = re.search(r"\.experts\.(\d+)\.", name)
    if expert:
        return f"model_pp0_ep{int(expert.group(1)) * 2 // spec.experts}_shard0.safetensors"
    # The first shard of rank 0 ends inside layer 1, between a weight and its scale.
    late = name > "model.layers.1.self_attn.qkv_proj.weight"
    return f"model_pp0_ep0_shard{1 if late and name.startswith('model.') else 0}.safetensors"


def sidecars(directory, spec):
    """All that a released repository holds beside the weights, the trailing comma in dflash/config.json included."""
    rng = np.random.default_rng(spec.seed)
    stem = "mimo_v2_flash" if spec.variant == "v2-flash" else "mimo_v2"
    texts = {"tokenizer_config.json": '{"model_max_length": 262144}\n', "tokenizer.json": '{"version": "1.0"}',
             "generation_config.json": '{\n  "do_sample": true\n}\n', "merges.txt": "#version: 0.2\nh e\n",
             "chat_template.jinja": "{{ messages }}", "README.md": "# Model\r\nwith CRLF\r\n",
             f"configuration_{stem}.py": "class Config:\n    pass\n", f"modeling_{stem}.py": "# code\n",
             ".gitattributes": "*.safetensors filter=lfs\n"}
    if spec.variant != "plain":
        texts["dflash/config.json"] = '{\n  "architectures": ["DFlashDraftModel"],\n  "block_size": 8,\n}\n'
        texts["dflash/dflash.py"] = "# drafter\n"
    if spec.towers:
        texts["audio_tokenizer/config.json"] = '{"model_type": "mimo_audio_tokenizer"}'
    for name, text in texts.items():
        os.makedirs(os.path.dirname(os.path.join(directory, name)), exist_ok=True)
        with open(os.path.join(directory, name), "w", newline="") as f:
            f.write(text)
    if "dflash/config.json" in texts:
        container.write(os.path.join(directory, "dflash", "dflash_draft_model.safetensors"),
                        {"layers.0.q_proj.weight": ("BF16", rng.integers(0, 0x7F00, (8, 16)).astype(np.uint16))})
        with open(os.path.join(directory, "dflash", "mask_embedding.pt"), "wb") as f:
            f.write(b"PK\x03\x04" + rng.bytes(333))
    if spec.towers:
        container.write(os.path.join(directory, "audio_tokenizer", "model.safetensors"),
                        {"encoder.conv.weight": ("F32", rng.standard_normal((4, 4)).astype(np.float32))})


def write(directory, model):
    """Writes the checkpoint files of a Model into `directory`, which is made."""
    spec = model.spec
    os.makedirs(directory)
    chooser, files = random.Random(spec.seed), {}
    for name in model.tensors:
        files.setdefault(shard_of(name, spec, chooser), {})[name] = model.tensors[name]
    total = sum(container.write(os.path.join(directory, f), files[f], {"format": "pt"}) for f in sorted(files))
    index = {"metadata": config.index_metadata(spec, total),
             "weight_map": {n: f for f in sorted(files) for n in sorted(files[f])}}
    for name, document in (("model.safetensors.index.json", index), ("config.json", config.config(spec))):
        with open(os.path.join(directory, name), "w") as f:
            json.dump(document, f, indent=2)
    if spec.sidecars:
        sidecars(directory, spec)


def make(out, *args, **options):
    """Model(Spec(*args, **options)) written to OUT/checkpoint; -> the Model."""
    model = Model(Spec(*args, **options))
    write(os.path.join(out, "checkpoint"), model)
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variant", choices=VARIANTS)
    parser.add_argument("out")
    for flag in ("seed", "hidden", "experts", "heads", "intermediate", "moe-intermediate", "vocab", "replicate", "mtp"):
        parser.add_argument("--" + flag, type=int)
    parser.add_argument("--qkv", help="fused:C, cut:C or independent")
    parser.add_argument("--store", choices=STORES)
    parser.add_argument("--placement", choices=("released", "apart", "random"))
    parser.add_argument("--no-tp-size", action="store_true")
    parser.add_argument("--no-towers", action="store_true")
    parser.add_argument("--mild", action="store_true", help="for a forward pass")
    args = parser.parse_args()
    options = {k: v for k, v in vars(args).items()
               if v is not None and k not in ("variant", "out", "no_tp_size", "no_towers")}
    if args.no_tp_size:
        options["tp_size"] = None
    if args.no_towers:
        options["towers"] = False
    model = make(args.out, args.variant, **options)
    os.makedirs(os.path.join(args.out, "truth"))
    container.write(os.path.join(args.out, "truth", "truth.safetensors"), decode.stored_as(model.values, "bf16"))


if __name__ == "__main__":
    main()
