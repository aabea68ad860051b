"""mimo-verify compare has no first and second: A B and B A give one verdict and the same differing tensors.

Either side may have been made from the other. Where a rank's block spans what lay under two scales, the values of the
source are no codes of the rank's grid, nor the other way about, and which of the grids is the coarser one changes from
value to value.
"""
import json
import unittest

import numpy as np

from harness import ranks
from harness.breakage import replace
from harness.case import ToolCase
from reference import container

SMALL = dict(experts=2, moe_intermediate=256, intermediate=512, pattern=(0, 1), mtp=1)
VARIANTS = ("v2-flash", "v2.5")
# What is made, from what, how.
MADE = {**{f"ranks-{tp}": ("source", ("--to", "vllm", "--format", "sharded-state", "--tp", tp, "--pad")) for tp in (2, 4, 8)},
        "vllm-8": ("source", ("--to", "vllm", "--tp", "8", "--pad")),
        "fused-1": ("source", ("--qkv", "fused:1")),
        "bf16": ("source", ("--dtype", "bf16")),
        "fp8-all": ("source", ("--recipe", "fp8-all")),
        "mxfp8": ("source", ("--recipe", "mxfp8")),
        "nvfp4": ("source", ("--recipe", "nvfp4")),
        "nvfp4-ranks": ("source", ("--recipe", "nvfp4", "--to", "vllm", "--format", "sharded-state", "--tp", "2", "--pad")),
        "mxfp4": ("source", ("--recipe", "mxfp4-experts")),
        "fp8-of-bf16": ("bf16", ("--dtype", "fp8")),
        "mxfp4-of-bf16": ("bf16", ("--recipe", "mxfp4-experts")),
        "nvfp4-of-bf16": ("bf16", ("--recipe", "nvfp4-experts")),
        "nvfp4-of-mxfp4": ("mxfp4", ("--recipe", "nvfp4")),
        "fp8-of-nvfp4": ("nvfp4", ("--dtype", "fp8"))}
# Pairs of which neither was made from the other: half a step of each may lie between them, so nothing is promised but
# that both orders say the same.
SIBLINGS = (("ranks-2", "ranks-8"), ("ranks-2", "vllm-8"), ("nvfp4", "mxfp4"), ("nvfp4", "nvfp4-ranks"),
            ("mxfp8", "fp8-all"), ("fused-1", "ranks-4"), ("mxfp8", "nvfp4"))


class Orders(ToolCase):
    tool = "mimo-verify"

    def made(self, variant):
        out = {"source": ranks.ours(variant, **SMALL).directory}
        for name, (source, options) in MADE.items():
            out[name] = self.convert(out[source], f"{variant}-{name}", *options)
        return out

    def verdict(self, a, b):
        """What does not depend on the order: the exit code, what differs, and by how much each tensor does."""
        result = self.run_tool("mimo-verify", "compare", a, b, "--within-codec", "--json", code=(0, 1))
        document = json.loads(result.stdout)
        measured = [(m["tensor"], m) for m in document["measured"]]
        measured += [(d["place"], d) for d in document["differences"] if "figures" in d]
        figures = {name: (m["equality"], {k: m["figures"][k] for k in ("differing", "beyond_half_step", "clipped", "max_error")})
                   for name, m in measured}
        return result.code, sorted(d["place"] for d in document["differences"]), document["counts"], figures

    def both(self, a, b):
        there, back = self.verdict(a, b), self.verdict(b, a)
        self.assertEqual(there, back)
        return there

    def test_the_order_of_the_two_does_not_matter(self):
        for variant in VARIANTS:
            made = self.made(variant)
            for name, (source, _) in MADE.items():
                with self.subTest(variant=variant, a=source, b=name):
                    code, places, _, _ = self.both(made[source], made[name])
                    self.assertEqual((code, places), (0, []))
            for a, b in SIBLINGS:
                with self.subTest(variant=variant, a=a, b=b):
                    self.both(made[a], made[b])

    def test_some_are_made_anew_at_another_scale(self):
        """The pairs above show what they are meant to: ranks hold values that are none of the source's."""
        source = ranks.ours("v2-flash", **SMALL).directory
        out = self.convert(source, "out", *MADE["ranks-2"][1])
        self.assertGreater(ranks.manifest(out)["totals"]["requantized_blocks"], 0)
        _, _, _, figures = self.both(source, out)
        self.assertTrue(any(name.endswith(("k_proj.weight", "v_proj.weight")) and found["differing"]
                            for name, (_, found) in figures.items()), sorted(figures))

    def test_what_is_wrong_is_wrong_in_both_orders(self):
        """One code further, in a tensor that else is the same, and in one that was made anew."""
        source = ranks.ours("v2-flash", **SMALL).directory
        for name, options in (("fp8", ("--dtype", "fp8")), ("nvfp4", ("--recipe", "nvfp4-experts"))):
            with self.subTest(name):
                out = self.convert(source, name, *options)
                weight = "model.layers.1.mlp.experts.1.down_proj.weight"
                stored = weight if weight in container.read_directory(out) else weight + "_packed"

                def further(tensor):
                    codes = np.array(tensor[1]).copy()
                    flat = codes.reshape(-1).view(np.uint8)
                    at = int(np.flatnonzero((flat & 0x07) < 6)[len(flat) // 2])
                    flat[at] += 2
                    return tensor[0], codes
                replace(out, stored, further)
                code, places, _, _ = self.both(source, out)
                self.assertEqual((code, places), (1, [weight]))


if __name__ == "__main__":
    unittest.main()
