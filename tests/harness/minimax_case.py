"""Checkpoints of MiniMax-M2 for tests: of the project's own generator in several sizes, and of the shared one."""
import os
import subprocess
import sys

from harness import checkpoints, compare
from harness.case import ToolCase
from reference import container, minimax, minimax_forms

# Sizes differ in what their layouts hang on: groups, heads to a group, blocks that are cut short.
SIZES = (dict(seed=1), dict(seed=2, layers=3, heads=48, kv_heads=8, experts=4, intermediate=384, hidden=128),
         dict(seed=3, layers=1, heads=6, kv_heads=2, experts=5, intermediate=128, hidden=384, vocab=256),
         dict(seed=4, layers=1, heads=4, kv_heads=4, head_dim=64, experts=3, intermediate=192, hidden=320))
SMALL = dict(seed=5, layers=2, hidden=128, experts=4, heads=12, kv_heads=4, intermediate=128, vocab=256)
_made = {}


def ours(**spec):
    key = repr(sorted(spec.items()))
    if key not in _made:
        directory = os.path.join(checkpoints.root(), f"minimax{len(_made)}")
        minimax.make_checkpoint(directory, **spec)
        _made[key] = minimax_forms.Source(directory)
    return _made[key]


def external_generator():
    """Path of make_minimax_fixture.py beside make_fixture.py, else None."""
    other = checkpoints.external_generator()
    path = other and os.path.join(os.path.dirname(other), "make_minimax_fixture.py")
    return path if path and os.path.isfile(path) else None


def external(*flags):
    """-> (Source, {name: (dtype, array)} of truth/megatron.safetensors)"""
    if flags not in _made:
        out = os.path.join(checkpoints.root(), f"minimax-external{len(_made)}")
        subprocess.run([sys.executable, external_generator(), out, "--forms", *flags], check=True)
        _made[flags] = (minimax_forms.Source(os.path.join(out, "checkpoint")),
                        container.read(os.path.join(out, "truth", "megatron.safetensors")))
    return _made[flags]


class MiniMaxCase(ToolCase):
    OURS = ("mimo-manifest.json",)

    def each(self, sizes=SIZES, **more):
        """-> the checkpoint of each size, with a fresh directory to write to; self.size says which, for who reads a failure"""
        for spec in sizes:
            self.setUp()
            self.size = dict(spec, **more)
            yield ours(**self.size)

    def refused(self, source, words, *options, code=(2, 3), name="refused"):
        result = self.run_tool("mimo-convert", source, self.at(name), *options, code=code)
        for word in (words,) if isinstance(words, str) else words:
            self.assertIn(word, result.stderr)
        self.assert_nothing_published(self.at(name))
        return result

    def manifest(self, out):
        return compare.load_json(out, "mimo-manifest.json")
