"""Proves that peak memory is a flag: converting a checkpoint of real row lengths with --memory M stays under M + 256
MiB, also when M is far below the largest tensor; and that --link hard shares every file without attention with the
source.

MIMO_STRESS=1 uses a checkpoint of several GB.
"""
import os
import unittest

from harness import compare
from harness.case import ToolCase
from reference import container

MIB = 1 << 20
STRESS = os.environ.get("MIMO_STRESS") == "1"


class Memory(ToolCase):
    tool = "mimo-synth"

    def setUp(self):
        super().setUp()
        self.source = self.at("checkpoint")
        options = ["--layers", "3", "--experts", "8", "--vocab", "4096", "--intermediate", "2048", "--no-towers"]
        if STRESS:
            options = ["--layers", "12", "--experts", "32"]
        self.run_tool("mimo-synth", "mimo-v2.5", self.source, *options, timeout=900)

    def test_peak_and_links(self):
        payload = sum(os.path.getsize(os.path.join(self.source, f)) for f in container.tensor_files(self.source))
        for memory in (256, 1024) if STRESS else (256,):
            for options in (("--dtype", "bf16", "--qkv", "split"), ("--dtype", "keep", "--qkv", "fused:2"),
                            ("--dtype", "keep", "--qkv", "split", "--link", "hard")):
                with self.subTest(memory=memory, options=options):
                    result = self.run_tool("mimo-convert", self.source, self.at("out"), "--memory", f"{memory}MiB",
                                           "--overwrite", *options, measure=True, timeout=1800)
                    print(f"\n{payload >> 20} MiB {' '.join(options)} --memory {memory}MiB: peak "
                          f"{result.peak_bytes >> 20} MiB, {result.seconds:.1f} s")
                    self.assertLess(result.peak_bytes, (memory + 256) * MIB)
        self.check_links(self.at("out"))

    def check_links(self, out):
        shared = 0
        for file in container.tensor_files(self.source):
            tensors, _, _ = container.read_header(os.path.join(self.source, file))
            attention = any("qkv_proj" in name for name in tensors)
            same = os.path.samefile(os.path.join(self.source, file), os.path.join(out, file))
            self.assertEqual(same, not attention, f"{file}: attention {attention}, shared {same}")
            shared += same
        self.assertGreater(shared, 0)
        self.assertEqual(compare.index_problems(out), [])


if __name__ == "__main__":
    unittest.main()
