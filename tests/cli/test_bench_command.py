"""Proves that `mimo-convert bench CKPT OUT` measures and says, and leaves nothing behind: what it tells is positive where it can be, its
bounds are what its rates give, and OUT need not exist.
"""
import json
import os
import unittest

from harness import checkpoints
from harness.case import ToolCase


class Bench(ToolCase):
    def test_rates_and_bounds(self):
        source, _ = checkpoints.ours("v2.5", pattern=(0, 1), mtp=1, towers=False, experts=2)
        out = self.at("deep", "out")
        before = sorted(os.listdir(self.at()))
        told = json.loads(self.run_tool("mimo-convert", "bench", source, out, "--bytes", "1MB", "--threads", "2", "--json").stdout)
        self.assertEqual(sorted(os.listdir(self.at())), before)
        rates = told["bytes_per_second"]
        for name, rate in rates.items():
            self.assertGreaterEqual(rate, 0, name)
            if "direct" not in name:  # not every file system has direct I/O
                self.assertGreater(rate, 0, name)
        read, write = max(rates["read_buffered"], rates["read_direct"]), max(rates["write_buffered"], rates["write_direct"])
        for bound in told["bounds"]:
            written = {"moves": 1, "FP8 to BF16": 2, "FP8 to NVFP4": 0.5625}[bound["conversion"]]
            self.assertLessEqual(bound["source_bytes_per_second"], min(read, write / written) * 1.0001)
            self.assertIn(bound["bound_by"], ("reading", "writing", "computing and hashing"))
        text = self.run_tool("mimo-convert", "bench", source, out, "--bytes", "1MB").stdout
        self.assertEqual(len([line for line in text.splitlines() if line.startswith("bound")]), 3)

    def test_what_is_no_checkpoint(self):
        self.run_tool("mimo-convert", "bench", self.at("nothing"), self.at("out"), code=(3, 4))
        self.run_tool("mimo-convert", "bench", code=2)


if __name__ == "__main__":
    unittest.main()
