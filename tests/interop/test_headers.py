"""Proves that our safetensors reader accepts and refuses what the reference package does: headers that are mutated at
random, each judged by both. Where we are stricter on purpose, the reason is one of STRICTER (docs/formats.md); what we
accept, the reference accepts, and reads as the same arrays.

MIMO_HEADER_ROUNDS: how many headers (2 000)."""

import json
import os
import random
import re
import shutil
import subprocess
import tempfile
import unittest

from harness import tools

try:
    import safetensors
except ImportError:
    safetensors = None

ROUNDS = int(os.environ.get("MIMO_HEADER_ROUNDS") or 2000)
JUDGE = os.path.join(os.path.dirname(tools.BIN), "tests", "judge_headers")
# What we refuse and the reference takes: it keeps the last of two equal names, passes over fields that it does not know,
# takes any white space of JSON, in front too, a null as no metadata, names of any length, and in an array without elements extents
# from 2^63 on, or whose product goes beyond.
STRICTER = re.compile(r"appears twice|: unknown field: |header does not (?:end with '}' and spaces|start with '{')"
                      r"|__metadata__ is not an object: expected an object, found null|beyond a limit: expected keys of"
                      r"|shape has a bad number: expected whole numbers from 0 to 2\^63 - 1, found [0-9]{19,}"
                      r"|shape overflows or is not a whole number of bytes: found [A-Z0-9_]+ \[(?:.*, )?0(?:, .*)?\]")

DTYPES = {"BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "I16": 16, "BF16": 16, "F16": 16, "F32": 32, "I64": 64,
          "F64": 64}
NUMBERS = ("0", "1", "-1", "-0", "2", "7", "1.0", "1e2", "255", "4294967296", "9223372036854775807", "9223372036854775808",
           "18446744073709551615", "18446744073709551616", "1e999", "null", "true", '"1"', "[]", "[1]", "{}", "01", "+1")
NAMES = ("a", "b", "weight", "", "__metadata__", "\\u0061", "caf\u00e9", "\\ud83d\\ude00", "\\ud800", "\\u0000", "dtype",
         "shape", "n" * 5000)


class Maker:
    """Headers that are good, and what is done to them."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def good(self):
        """(text of the header, bytes of data)"""
        pick, at, entries = self.random, 0, []
        for i in range(pick.randrange(5)):
            dtype = pick.choice(list(DTYPES))
            shape = [pick.randrange(4) for _ in range(pick.randrange(4))]
            count = 1
            for extent in shape:
                count *= extent
            end = at + count * DTYPES[dtype] // 8
            fields = [f'"dtype":"{dtype}"', f'"shape":{json.dumps(shape)}', f'"data_offsets":[{at},{end}]']
            pick.shuffle(fields)
            entries.append(f'"t{i}":{{{",".join(fields)}}}')
            at = end
        if pick.random() < 0.4:
            entries.append('"__metadata__":{"format":"pt","k":"v"}')
        pick.shuffle(entries)
        return "{" + ",".join(entries) + "}" + " " * pick.randrange(9), at

    def mutated(self):
        """The bytes of a file."""
        pick = self.random
        text, data = self.good()
        header = text.encode()
        for _ in range(pick.choice((0, 1, 1, 1, 2, 3))):
            header = self.change(header)
        length = len(header)
        if pick.random() < 0.1:
            length = max(0, length + pick.choice((-9, -1, 1, 8, 1 << 20, 1 << 62)))
        if pick.random() < 0.1:
            data = max(0, data + pick.choice((-8, -1, 1, 3)))
        return length.to_bytes(8, "little") + header + bytes(data)

    def change(self, header):
        pick = self.random
        at = pick.randrange(len(header) + 1)
        kind = pick.randrange(9)
        if kind == 0:                                       # a byte becomes another
            return header[:at] + bytes([pick.randrange(256)]) + header[at + 1:]
        if kind == 1:                                       # a run is left out
            return header[:at] + header[at + pick.randrange(1, 9):]
        if kind == 2:                                       # something is put in
            return header[:at] + pick.choice((b" ", b"\n", b"\t", b",", b":", b'"', b"{", b"}", b"[", b"]", b"0", b"\0", b"\\",
                                              b"\xef\xbb\xbf", b"\xff", b"null", b"/**/")) + header[at:]
        if kind == 3:                                       # a number becomes another
            return self.instead(header, rb"-?[0-9]+(?=[],])", lambda: pick.choice(NUMBERS).encode())
        if kind == 4:                                       # a name becomes another
            return self.instead(header, rb'(?<=[{,]")[^"]*(?=":)', lambda: pick.choice(NAMES).encode())
        if kind == 5:                                       # a type becomes another
            return self.instead(header, rb'(?<="dtype":")[^"]*', lambda: pick.choice(("F32", "F4", "F6_E2M3", "F8_E8M0", "C64",
                                                                                      "U16", "x", "f32", "")).encode())
        if kind == 6:                                       # a member comes again, or is new
            return self.instead(header, rb'"[^"]*":("[^"]*"|\[[^]]*\])', None)
        if kind == 7:                                       # a value becomes another
            return self.instead(header, rb'(?<=":)("[^"]*"|\[[^]]*\])', lambda: pick.choice(NUMBERS).encode())
        return header[:len(header) // 2] + header[at:]      # a tail moves

    def instead(self, header, pattern, make):
        found = list(re.finditer(pattern, header, re.S))
        if not found:
            return header
        match = self.random.choice(found)
        if make is None:
            other = match[0] if self.random.random() < 0.6 else b'"extra":[1,"x"]'
            return header[:match.end()] + b"," + other + header[match.end():]
        return header[:match.start()] + make() + header[match.end():]


@unittest.skipUnless(safetensors, "the safetensors package is not installed")
@unittest.skipUnless(os.path.exists(JUDGE), "judge_headers is not built")
class Headers(unittest.TestCase):
    def setUp(self):
        self.tmp = tempfile.mkdtemp(prefix="mimo-test-")
        self.addCleanup(shutil.rmtree, self.tmp, ignore_errors=True)
        self.judge = subprocess.Popen([JUDGE], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.addCleanup(self.judge.stdout.close)
        self.addCleanup(self.judge.wait)
        self.addCleanup(self.judge.stdin.close)
        self.path = os.path.join(self.tmp, "x.safetensors")

    def ours(self, content):
        with open(self.path, "wb") as file:
            file.write(content)
        self.judge.stdin.write(self.path.encode() + b"\n")
        self.judge.stdin.flush()
        line = self.judge.stdout.readline().decode()
        self.assertTrue(line, f"the reader ended at {content[:400]!r}")
        return line.rstrip("\n")

    @staticmethod
    def theirs(content):
        """None where the reference accepts, else what it says."""
        try:
            safetensors.deserialize(content)
        except Exception as error:  # of whatever kind it has for this
            return str(error) or repr(error)
        return None

    def test_mutated_headers(self):
        maker, accepted, stricter = Maker(20), 0, 0
        for number in range(ROUNDS):
            content = maker.mutated()
            ours, theirs = self.ours(content), self.theirs(content)
            note = f"header {number}: {content[:600]!r}\nours: {ours}\nreference: {theirs or 'ok'}"
            if ours == "ok":
                accepted += 1
                self.assertIsNone(theirs, note)
            elif theirs is None:
                stricter += 1
                self.assertRegex(ours, STRICTER, note)
        print(f"{ROUNDS} headers: {accepted} accepted by both, {stricter} refused by us alone")
        self.assertGreater(accepted, ROUNDS // 10)           # else nothing was compared
        self.assertLess(accepted, ROUNDS * 9 // 10)

    def test_good_headers_are_accepted_by_both(self):
        maker = Maker(21)
        for _ in range(200):
            text, data = maker.good()
            content = len(text).to_bytes(8, "little") + text.encode() + bytes(data)
            self.assertEqual((self.ours(content), self.theirs(content)), ("ok", None), content)


if __name__ == "__main__":
    unittest.main()
