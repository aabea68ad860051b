"""Inputs to begin with for every fuzz target, made by the tools themselves: seeds.py TOOLS FOLDER -> FOLDER/TARGET/..."""

import json
import os
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SMALL = ["--layers", "2", "--experts", "2", "--hidden", "64", "--vocab", "64", "--no-towers"]
MOST = 200_000  # bytes of a seed: longer ones leave no time for others


def read(*path):
    with open(os.path.join(*path), "rb") as file:
        return file.read()


class Seeds:
    def __init__(self, tools, folder):
        self.tools, self.folder, self.count = tools, folder, 0

    def run(self, tool, *arguments):
        environment = dict(os.environ, ASAN_OPTIONS="detect_leaks=0")
        subprocess.run([os.path.join(self.tools, tool), *arguments, "--quiet"], check=True, env=environment)

    def add(self, target, data, prefix=b""):
        data = data.encode() if isinstance(data, str) else data
        if len(data) > MOST:
            return
        os.makedirs(os.path.join(self.folder, target), exist_ok=True)
        with open(os.path.join(self.folder, target, f"seed-{self.count}"), "wb") as file:
            file.write(prefix + data)
        self.count += 1

    def checkpoint(self, path):
        """config.json, index and headers of a directory."""
        config = read(path, "config.json")
        for kind in (0, 2, 4, 12):
            self.add("fuzz_config", config, bytes([kind]))
        self.add("fuzz_json", config)
        index = read(path, "model.safetensors.index.json")
        self.add("fuzz_config", index, b"\1")
        self.add("fuzz_index_check", index)
        for name in sorted(os.listdir(path)):
            if name.endswith(".safetensors"):
                data = read(path, name)
                length = int.from_bytes(data[:8], "little")
                rest = min(len(data) - 8 - length, 65535)
                self.add("fuzz_safetensors", data[8:8 + length], rest.to_bytes(2, "little"))

    def megatron(self, path):
        for folder, _, names in os.walk(path):
            for name in names:
                data = read(folder, name)
                if name == ".metadata":
                    self.add("fuzz_dcp_metadata", data)
                    self.add("fuzz_pickle", data)
                elif name.endswith((".pt", ".distcp")):
                    self.add("fuzz_torch_zip", data, b"\0")

    def own(self, target):
        """What a target makes itself: documents that no tool leaves behind."""
        folder = os.path.join(self.folder, target)
        os.makedirs(folder, exist_ok=True)
        subprocess.run([os.path.join(self.tools, os.pardir, "tests", target), "--seeds=" + folder], check=True)
        self.count += len(os.listdir(folder))

    def words(self):
        """What needs no checkpoint."""
        header = {"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]},
                  "b": {"dtype": "F32", "shape": [], "data_offsets": [2, 6]}, "__metadata__": {"format": "pt"}}
        self.add("fuzz_safetensors", json.dumps(header), b"\6\0")
        self.add("fuzz_index_check", json.dumps({"metadata": {"total_size": 100}, "weight_map":
                                                 {"a": "1.safetensors", "b": "2.safetensors"}}))
        self.add("fuzz_input_scales", json.dumps({f"model.layers.{i}.mlp.up_proj": 0.5 / (i + 1) for i in range(3)}))
        self.add("fuzz_template", json.dumps({"engine": "vllm", "version": "0.33.0", "tensors": [
            {"name": "model.embed_tokens.weight", "dtype": "torch.bfloat16", "shape": [64, 64]},
            {"name": "lm_head.weight", "dtype": "BF16", "shape": [64, 64]}]}))
        for text in ('[1,-2,3.5e-3,"\\u00e9\\n",true,null,{}]', '{"a":{"a":[[[[[[]]]]]]},"b":18446744073709551615}'):
            self.add("fuzz_json", text)
        for pattern in (r"^model\.layers\.1\d\.", "up_proj|down_proj", r"(a*)*b", r"[^\W\d]{2,5}?$", "(?i)x(?:y|z)"):
            self.add("fuzz_pattern", pattern + "\nmodel.layers.12.mlp.up_proj.weight")
        recipes = os.path.join(ROOT, "schemas", "recipes")
        for name in sorted(os.listdir(recipes)):
            self.add("fuzz_recipe", read(recipes, name))


def main(tools, folder):
    seeds = Seeds(tools, folder)
    seeds.words()
    seeds.own("fuzz_partial")
    seeds.own("fuzz_units")
    with tempfile.TemporaryDirectory() as scratch:
        for preset in ("mimo-v2-flash", "mimo-v2.5", "mimo-v2.6-flash"):
            source, out = os.path.join(scratch, preset), os.path.join(scratch, preset + "-out")
            seeds.run("mimo-synth", preset, source, *SMALL)
            seeds.checkpoint(source)
            plan = os.path.join(scratch, preset + ".json")
            seeds.run("mimo-convert", source, out, "--dtype", "bf16", "--qkv", "split", "--plan-out", plan)
            seeds.add("fuzz_plan", read(plan))
            seeds.add("fuzz_manifest", read(out, "mimo-manifest.json"))
            seeds.checkpoint(out)
            trained = os.path.join(scratch, preset + "-megatron")
            seeds.run("mimo-convert", source, trained, "--to", "megatron")
            seeds.megatron(trained)
    print(f"seeds: {seeds.count} in {folder}")


if __name__ == "__main__":
    main(*sys.argv[1:])
