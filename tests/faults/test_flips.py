"""Proves that no flipped bit is taken for good: in anything that an output is made of, mimo-verify check finds it; in
what Megatron saved, a conversion fails, or its output is the one without the flip (the time of an entry of a zip, the
optimizer).

MIMO_FLIPS=10000 flips so many bits (a few hundred else), MIMO_FLIPS_SEED others. What was flipped is printed by kind.
"""
import collections
import concurrent.futures
import os
import random
import shutil
import tempfile
import threading
import unittest

from harness import checkpoints, compare, tools
from harness.case import ToolCase

FLIPS = int(os.environ.get("MIMO_FLIPS", "300"))
SEED = int(os.environ.get("MIMO_FLIPS_SEED", "1"))
SMALL = dict(checkpoints.TINY, hidden=128, intermediate=256, moe_intermediate=256)
QUIET = ("--quiet", "--no-progress", "--threads", "1")
MANIFEST = "mimo-manifest.json"
# Of the source: without a checksum, and no part of what Megatron saves.
UNCHECKED = ("config.json", "README.md", "LICENSE", "mimo-source", MANIFEST)


def files_of(directory):
    return sorted(os.path.relpath(os.path.join(root, name), directory)
                  for root, _, names in os.walk(directory) for name in names)


def kind_of(name):
    """Of a file of an output, by its name in it."""
    if name == MANIFEST or name.endswith(".index.json") and os.sep not in name:
        return name
    if name.startswith(("dflash", "audio_tokenizer")) or name.endswith((".py", ".jinja", ".md", ".txt")) or "token" in name:
        return "carried"
    return "tensors" if name.endswith((".safetensors", ".distcp")) else "config and other documents"


class Flip:
    """A bit of a file, flipped for the time of a block."""

    def __init__(self, directory, name, bit):
        self.path, self.bit, self.where = os.path.join(directory, name), bit, f"{name} byte {bit // 8} bit {bit % 8}"

    def __enter__(self):
        self._turn()
        return self

    def __exit__(self, *_):
        self._turn()

    def _turn(self):
        with open(self.path, "r+b") as f:
            f.seek(self.bit // 8)
            byte = f.read(1)[0]
            f.seek(self.bit // 8)
            f.write(bytes([byte ^ 1 << self.bit % 8]))


def any_bit(rng, directory, names):
    """Every file is as likely as any other, or every byte is."""
    sizes = [os.path.getsize(os.path.join(directory, name)) for name in names]
    name = rng.choices(names, weights=sizes if rng.random() < 0.5 else [size > 0 for size in sizes])[0]
    return Flip(directory, name, rng.randrange(8 * os.path.getsize(os.path.join(directory, name))))


class Flips(ToolCase):
    def setUp(self):
        super().setUp()
        self.source, _ = checkpoints.ours("v2.5", **SMALL)

    def each(self, count, directories, judge):
        """Calls judge(place, rng) -> a verdict `count` times, on copies of `directories`, one for each thread."""
        verdicts, local = collections.Counter(), threading.local()

        def one(number):
            if not hasattr(local, "place"):
                local.place = tempfile.mkdtemp(dir=self.tmp)
                for name in directories:
                    shutil.copytree(self.at(name), os.path.join(local.place, name))
            return judge(local.place, random.Random(f"{SEED} {self.id()} {number}"))
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            for verdict in pool.map(one, range(count)):
                verdicts[verdict] += 1
        return verdicts

    def say(self, title, verdicts):
        for (kind, verdict), count in sorted(verdicts.items()):
            print(f"\n{title}: {kind}: {count} {verdict}", end="")

    def test_outputs(self):
        outputs = {"split": ("--dtype", "bf16", "--qkv", "split"), "nvfp4": ("--dtype", "nvfp4"),
                   "ranks": ("--to", "vllm", "--format", "sharded-state", "--tp", "2"), "megatron": ("--to", "megatron")}
        for name, options in outputs.items():
            self.convert(self.source, name, *options, *QUIET)
            self.run_tool("mimo-verify", "check", self.at(name))

        def judge(place, rng):
            name = rng.choice(sorted(outputs))
            directory = os.path.join(place, name)
            names = [MANIFEST] if rng.random() < 0.2 else files_of(directory)
            with any_bit(rng, directory, names) as flip:
                done = tools.run("mimo-verify", "check", directory, *QUIET)
            self.assertIn(done.code, (1, 3), f"{name}: {flip.where}: {tools.describe(done)}")
            return f"{name}, {kind_of(os.path.relpath(flip.path, directory))}", f"exit {done.code}"
        self.say("output", self.each(FLIPS // 2, outputs, judge))

    def check_source(self, count, options, back):
        run = self.convert(self.source, "run", *options, *QUIET)
        saved = [name for name in files_of(run) if name.startswith(("iter_", "latest"))]
        self.assertTrue([name for name in saved if name.endswith(".distcp")])
        shutil.copytree(self.source, self.at("like"))
        expected = compare.tree(self.convert(run, "back", *back, *QUIET), (MANIFEST,))

        def judge(place, rng):
            out = os.path.join(place, "out")
            shutil.rmtree(out, ignore_errors=True)
            with any_bit(rng, os.path.join(place, "run"), saved) as flip:
                done = tools.run("mimo-convert", os.path.join(place, "run"), out, *back, *QUIET)
            name = os.path.basename(flip.path)
            kind = ".distcp" if name.endswith(".distcp") else name
            if done.code == 0:
                self.assertEqual(compare.tree(out, (MANIFEST,)), expected, flip.where)
                return kind, "harmless: the same output"
            self.assertEqual(done.code, 3, f"{flip.where}: {tools.describe(done)}")
            self.assert_nothing_published(out)
            return kind, "refused"
        self.say("source of " + back[0], self.each(count, ("run", "like"), judge))

    def test_megatron_source_split(self):
        self.check_source(FLIPS // 4, ("--to", "megatron"), ("--to", "hf", "--dtype", "bf16"))

    def test_megatron_source_like(self):
        self.check_source(FLIPS // 4, ("--to", "megatron", "--dtype", "fp32"), ("--like", self.source))


if __name__ == "__main__":
    unittest.main()
