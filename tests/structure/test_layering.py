"""Dependencies point downward only: every #include of lib/, kernels/ and tools/ goes to the same folder or to one of lower
rank, so that no two folders use each other. The ranks are those of docs/architecture.md."""

import os
import re
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# From the bottom up. Folders on one line know nothing of each other.
RANKS = [
    ["kernels"],
    ["kernels/codec"],
    ["kernels/cpu"],
    ["kernels/cuda"],
    ["schemas", "lib/base"],
    ["lib/json"],
    ["lib/io", "lib/owner"],
    ["lib/io/safetensors", "lib/io/torch"],
    ["lib/model"],
    ["lib/foreign"],
    ["lib/layout", "lib/synth"],
    ["lib/recipe"],
    ["lib/decode"],
    ["lib/plan"],
    ["lib/draft"],
    ["lib/forms"],
    ["lib/forms/hf"],
    ["lib/forms/engine", "lib/forms/neuron", "lib/forms/megatron", "lib/forms/merge"],
    ["lib/forms/ranks"],
    ["lib/forms/registry"],
    ["lib/planner"],
    ["lib/results"],
    ["lib/judge"],
    ["lib/inspect"],
    ["lib/run"],
    ["lib/verify"],
    ["lib/verify/logical"],
    ["lib/verify/compare"],
    ["tools"],
]
RANK_OF = {folder: rank for rank, row in enumerate(RANKS) for folder in row}
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)


def sources():
    for top in ("lib", "kernels", "tools", "schemas"):
        for folder, _, names in os.walk(os.path.join(ROOT, top)):
            for name in names:
                if name.endswith((".h", ".cc", ".cu", ".cuh")):
                    yield os.path.relpath(os.path.join(folder, name), ROOT)


def includes(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return INCLUDE.findall(file.read())


def upward(path, included):
    """What is wrong with this include; None when nothing is."""
    here, there = os.path.dirname(path), os.path.dirname(included)
    if here not in RANK_OF or there not in RANK_OF:
        return f"{path} or {included} lies in a folder without a rank"
    if here == there or RANK_OF[there] < RANK_OF[here]:
        return None
    return f"{path} includes {included}, which is not below it"


class Layering(unittest.TestCase):
    def test_every_include_points_downward(self):
        wrong = [text for path in sources() for included in includes(path) if (text := upward(path, included))]
        self.assertEqual(wrong, [])

    def test_every_include_is_a_file(self):
        missing = [f"{path}: {included}" for path in sources() for included in includes(path)
                   if not os.path.exists(os.path.join(ROOT, included))]
        self.assertEqual(missing, [])

    def test_includes_are_seen(self):
        self.assertGreater(sum(len(includes(path)) for path in sources()), 500)

    def test_an_arrow_upward_is_found(self):
        self.assertIsNotNone(upward("lib/run/executor.h", "lib/verify/check.h"))
        self.assertIsNotNone(upward("lib/io/torch/item.h", "lib/io/safetensors/safetensors.h"))
        self.assertIsNotNone(upward("lib/attic/old.h", "lib/base/status.h"))
        self.assertIsNone(upward("lib/run/executor.cc", "lib/plan/plan.h"))


if __name__ == "__main__":
    unittest.main()
