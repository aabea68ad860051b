"""Proves what progress looks like: on a terminal of 40 columns no line wraps; in a log every line has a clock; an interrupted run says
what stays, and one that goes on begins there.
"""
import os
import pty
import re
import signal
import subprocess
import time
import unittest

from harness import checkpoints, tools
from harness.case import ToolCase

CLOCK = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ ")


class Progress(ToolCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.source, _ = checkpoints.ours("v2.5", hidden=1024, experts=16, moe_intermediate=512, intermediate=1024, pattern=(0, 1, 1),
                                         vocab=2048, towers=False)

    def on_terminal(self, columns, *options):
        """What a run prints on a terminal's stderr."""
        main, side = pty.openpty()
        os.system(f"stty cols {columns} rows 24 < {os.ttyname(side)}")
        process = subprocess.Popen([tools.path("mimo-convert"), self.source, self.at("out"), *options], stdout=subprocess.DEVNULL,
                                   stderr=side)
        os.close(side)
        printed = b""
        while True:
            try:
                piece = os.read(main, 4096)
            except OSError:
                break
            if not piece:
                break
            printed += piece
        os.close(main)
        self.assertEqual(process.wait(), 0)
        return printed.decode()

    def test_no_line_wraps(self):
        for columns in (40, 60, 200):
            with self.subTest(columns=columns):
                self.setUp()
                printed = self.on_terminal(columns, "--dtype", "bf16", "--qkv", "split", "--threads", "1", "--memory", "16MiB")
                drawn = [line.replace("\x1b[K", "") for line in re.split(r"[\r\n]+", printed) if "%" in line]
                self.assertTrue(drawn)
                self.assertLess(max(map(len, drawn)), columns)
                self.assertTrue(drawn[-1].startswith("100 %"), drawn[-1])
                if columns == 200:
                    self.assertRegex(drawn[-1], r"files (\d+)/\1, units (\d+)/\2$")

    def test_lines_of_a_log_have_a_clock(self):
        result = self.run_tool("mimo-convert", self.source, self.at("out"), "--copy")
        lines = [line for line in result.stderr.splitlines() if not line.startswith("mimo-convert:")]
        self.assertTrue(lines)
        for line in lines:
            self.assertRegex(line, CLOCK)

    def test_what_stays_is_said(self):
        out = self.at("out")
        options = ("--dtype", "bf16", "--qkv", "split", "--threads", "1", "--unit-size", "1MB", "--no-progress")
        process = tools.start("mimo-convert", self.source, out, *options)
        deadline = time.monotonic() + 60
        units = os.path.join(out, ".mimo-partial", "units")
        while process.poll() is None and time.monotonic() < deadline and not (os.path.isdir(units) and len(os.listdir(units)) > 3):
            time.sleep(0.001)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
        if process.returncode == 0:
            self.skipTest("the run was over before it was stopped")
        self.assertEqual(process.returncode, 143)
        said = re.search(r"(\d+) of (\d+) units \([^)]+\) are on the disk and stay", stderr.decode())
        self.assertTrue(said, stderr)
        self.assertGreater(int(said[1]), 2)
        self.assertLess(int(said[1]), int(said[2]))


if __name__ == "__main__":
    unittest.main()
