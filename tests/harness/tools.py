"""Runs the built tools ($MIMO_BIN) and reports exit code, output and, when asked, peak memory."""
import atexit
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from collections import namedtuple

Run = namedtuple("Run", "code stdout stderr command peak_bytes seconds")

SOURCE = os.environ.get("MIMO_SOURCE") or os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BIN = os.environ.get("MIMO_BIN") or os.path.join(SOURCE, "build", "release", "tools")

# A child's ru_maxrss starts at what its parent had resident when it forked, so a small interpreter stands in between.
_MEASURE = """
import os, resource, subprocess, sys
code = subprocess.call(sys.argv[2:])
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
with open(sys.argv[1], "w") as f: f.write(str(peak))
sys.exit(code if code >= 0 else 128 - code)
"""


def path(tool):
    found = os.path.join(BIN, tool)
    if not os.path.exists(found):
        raise unittest.SkipTest(f"{tool} is not built ({BIN}; set MIMO_BIN)")
    return found


def environment():
    """The caller's, without what would change defaults of the tools."""
    return {k: v for k, v in os.environ.items() if not k.startswith("MIMO_CONVERT_")}


def run(tool, *args, timeout=300, measure=False, env=None, **popen):
    """Never raises for a failing tool; a hang is killed and raises."""
    command = [path(tool)] + [str(a) for a in args]
    started, peak, report = time.monotonic(), None, None
    launched = command
    if measure:
        handle, report = tempfile.mkstemp()
        os.close(handle)
        launched = [sys.executable, "-I", "-S", "-c", _MEASURE, report] + command
    try:
        done = subprocess.run(launched, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              timeout=timeout, env=dict(environment(), **(env or {})), **popen)
        if measure:
            with open(report) as f:
                peak = int(f.read())
    finally:
        if report:
            os.unlink(report)
    return Run(done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace"), command,
               peak, time.monotonic() - started)


def start(tool, *args, env=None):
    """A running process, for tests that interrupt it."""
    return subprocess.Popen([path(tool)] + [str(a) for a in args], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                            stderr=subprocess.PIPE, env=dict(environment(), **(env or {})))


class Stopped:
    """How many processes the tests of this run have ended by a signal; said at the end where $MIMO_KILL_ROUNDS asks for many."""

    def __init__(self):
        self.count = 0
        if os.environ.get("MIMO_KILL_ROUNDS"):
            atexit.register(lambda: print(f"{self.count} processes were ended by signals", file=sys.stderr))

    def add(self, returncode):
        """Of one that has ended. -> whether a signal did it"""
        ended = returncode < 0 or returncode > 128
        self.count += ended
        return ended


stopped = Stopped()


def describe(result):
    text = f"exit {result.code}: {' '.join(result.command)}\n{result.stderr[-3000:]}"
    if result.code < 0:
        text += f"\n(killed by {signal.Signals(-result.code).name})"
    return text


def has_option(tool, option):
    return option in run(tool, "--help").stdout


def blocks_in(directory):
    """Bytes that the files below take on the disk; those that go meanwhile take none."""
    total = 0
    for root, _, files in os.walk(directory):
        for file in files:
            try:
                total += os.lstat(os.path.join(root, file)).st_blocks * 512
            except OSError:
                pass
    return total
