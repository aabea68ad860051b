"""Proves that MXFP4 -> NVFP4 -> MXFP4 gives the source's bytes back, in both dialects, for every span of exponents that
NVFP4 holds, and that --lossless believes it only of what is so."""
import shutil
import unittest

import numpy as np

from harness import breakage, checkpoints
from harness.case import ToolCase
from reference import container

SMALL = dict(hidden=256, experts=2, heads=8, intermediate=256, moe_intermediate=256, vocab=64, pattern=(0, 1), mtp=1,
             towers=False, sidecars=False, extremes=False)


class ThereAndBack(ToolCase):
    def source(self, name, largest, span=17):
        """Experts' exponents from largest - span to largest; no group of zeros."""
        made, _ = checkpoints.ours("v2.6", **SMALL)
        out = self.at(name)
        shutil.copytree(made, out)
        rng = np.random.default_rng(largest)
        for tensor, (dtype, array) in container.read_directory(made).items():
            if ".experts." in tensor and tensor.endswith("_scale"):
                scale = rng.integers(largest - span, largest + 1, array.shape, dtype=np.int64).astype(np.uint8)
                scale[0, 0], scale[0, 1] = largest, largest - span
                breakage.replace(out, tensor, lambda _, s=scale: ("U8", s))
            elif ".experts." in tensor:
                breakage.replace(out, tensor, lambda v: ("U8", v[1] | np.uint8(1)))
        return out

    def test_bytes_come_back(self):
        for largest in (17, 30, 127, 200, 252):
            for dialect in ("modelopt", "compressed-tensors"):
                with self.subTest(largest=largest, dialect=dialect):
                    source = self.source(f"s{largest} {dialect}", largest)
                    four = self.convert(source, f"n{largest} {dialect}", "--recipe", "nvfp4-experts", "--dialect", dialect,
                                        "--lossless")
                    back = self.convert(four, f"b{largest} {dialect}", "--dtype", "mxfp4", "--lossless")
                    before, after = container.read_directory(source), container.read_directory(back)
                    for name, value in before.items():
                        if ".experts." in name:
                            self.assertEqual(after[name][1].tobytes(), value[1].tobytes(), name)

    def test_what_was_never_mxfp4_rounds_and_says_so(self):
        source, _ = checkpoints.ours("v2.5", store="nvfp4", **{**SMALL, "extremes": True})
        self.convert(source, "out", "--dtype", "mxfp4")
        result = self.run_tool("mimo-convert", source, self.at("no"), "--dtype", "mxfp4", "--lossless", code=1)
        self.assertIn("without rounding", result.stderr)


if __name__ == "__main__":
    unittest.main()
