"""Proves that files which came from anywhere are data: pickles that call, import or grow, and zips that lie, are refused by
name, and nothing in them ever runs.

Every hostile file would leave a witness behind if a Python unpickler opened it; a test sees that it would.
"""
import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile
import zlib

from harness import megatron_case, torch_dist
from harness.megatron_case import TINY, MegatronCase


def call(module, name, *arguments):
    """A pickle of protocol 2 that calls a function."""
    parts = [b"\x80\x02c" + f"{module}\n{name}\n".encode(), b"("]
    for argument in arguments:
        text = argument.encode()
        parts.append(b"X" + struct.pack("<I", len(text)) + text)
    return b"".join(parts) + b"tR."


def nested(depth):
    return b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b"."


def bomb(doublings):
    """A list of two lists of two lists ..., each shared: 2^doublings leaves when it is taken apart."""
    return b"\x80\x02]q\x00" + b"".join(
        b"](h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1]) for i in range(doublings)) + b"."


class Hostile(MegatronCase):
    def setUp(self):
        super().setUp()
        self.fixture = megatron_case.ours("plain", **TINY)
        self.run_root = self.to_megatron(self.fixture, "run")
        self.iteration = torch_dist.iteration_directory(self.run_root)
        self.witness = self.at("witness")
        os.remove(os.path.join(self.run_root, "mimo-manifest.json"))

    def path(self, name):
        return os.path.join(self.iteration, name)

    def read(self, name):
        with open(self.path(name), "rb") as f:
            return f.read()

    def write(self, name, data):
        with open(self.path(name), "wb") as f:
            f.write(data)

    def refused(self, *words):
        result = self.run_tool("mimo-convert", self.run_root, self.at("out"), "--to", "hf", "--memory", "256MiB", code=3)
        for word in words:
            self.assertIn(word, result.stderr)
        self.assertFalse(os.path.exists(self.witness), "something ran")
        self.assert_nothing_published(self.at("out"))

    def calls(self):
        return {"os.system": call("os", "system", "touch " + self.witness),
                "posix.system": call("posix", "system", "touch " + self.witness),
                "builtins.eval": call("builtins", "eval", f"open({self.witness!r}, 'w')"),
                "builtins.exec": call("builtins", "exec", f"open({self.witness!r}, 'w')"),
                "subprocess.getoutput": call("subprocess", "getoutput", "touch " + self.witness)}

    def test_calls_would_run_elsewhere(self):
        for name, data in self.calls().items():
            with self.subTest(name):
                subprocess.run([sys.executable, "-c", "import pickle, sys; pickle.loads(sys.stdin.buffer.read())"], input=data,
                               check=True)
                self.assertTrue(os.path.exists(self.witness))
                os.remove(self.witness)

    def test_calls_in_metadata(self):
        metadata = self.read(".metadata")
        for name, data in self.calls().items():
            with self.subTest(name):
                self.write(".metadata", data)
                self.refused(".metadata", name)
                # In the middle of a real one, in the place of its last None.
                at = metadata.rindex(b"Nub.") if metadata.endswith(b"Nub.") else metadata.rindex(b"N")
                self.write(".metadata", metadata[:at] + data[2:-1] + metadata[at + 1:])
                self.refused(".metadata", name)

    def test_calls_on_known_names(self):
        """A class that may be named is not one that may be called."""
        data = call("torch.distributed.checkpoint.metadata", "Metadata", "x")
        self.write(".metadata", data)
        self.refused(".metadata")

    def test_growth_and_depth(self):
        for name, data in {"depth": nested(100_000), "bomb": bomb(60)}.items():
            with self.subTest(name):
                self.write(".metadata", data)
                self.refused(".metadata")

    def test_a_call_in_an_item(self):
        """The pickle of a chunk, in a zip that is otherwise right: as long as the one it takes the place of."""
        name = "__0_1.distcp"
        data = self.read(name)
        with zipfile.ZipFile(io.BytesIO(data[:data.index(b"PK\x05\x06") + 22])) as archive:
            pickled = archive.read("archive/data.pkl")
        bare = call("os", "system", "touch " + self.witness)
        hostile = call("os", "system", "touch " + self.witness + " " * (len(pickled) - len(bare)))
        self.assertEqual(len(hostile), len(pickled))
        data = data.replace(pickled, hostile, 1)
        crcs = [struct.pack("<I", zlib.crc32(x)) for x in (pickled, hostile)]  # in the local header and in the directory
        self.write(name, data.replace(*crcs, 2))
        self.refused(name, "os.system")

    def test_zips_that_lie(self):
        name = "__0_1.distcp"
        data = self.read(name)
        first = data.index(b"PK\x05\x06") + 22
        with zipfile.ZipFile(io.BytesIO(data[:first])) as archive:
            parts = {entry: archive.read(entry) for entry in archive.namelist()}
        directory = data.index(b"PK\x01\x02")
        deflated = self.rezip(parts, {}, zipfile.ZIP_DEFLATED)
        outside = self.rezip({k.replace("archive/", "archive/../../"): v for k, v in parts.items()}, {})
        overlapping = bytearray(data[:first])  # the data of one entry begins in another's
        at = data.index(b"PK\x01\x02", directory + 4)
        struct.pack_into("<I", overlapping, at + 42, 0)
        huge = bytearray(data[:first])
        struct.pack_into("<I", huge, directory + 24, 0xFFFFFFF0)
        for what, item in {"deflated": deflated, "outside": outside, "overlapping": bytes(overlapping), "huge": bytes(huge),
                           "cut": data[:first - 30], "nothing": b""}.items():
            with self.subTest(what):
                self.write(name, data)
                self.replace_first_item(name, first, item)
                self.refused(name)

    def test_a_path_out_of_the_directory(self):
        metadata = self.read(".metadata")
        self.assertIn(b"__0_1.distcp", metadata)
        for place in (b"../x.distcpx", b"/tmp/xx.dist"):
            with self.subTest(place=place):
                self.write(".metadata", metadata.replace(b"__0_1.distcp", place))
                self.refused(".metadata")

    def test_a_call_in_the_arguments_of_a_legacy_file(self):
        class Trap:
            def __init__(self, command):
                self.command = command

            def __reduce__(self):
                return os.system, (self.command,)

        root = self.at("legacy")
        os.makedirs(os.path.join(root, "mp_rank_00"))
        with zipfile.ZipFile(os.path.join(root, "mp_rank_00", "model_optim_rng.pt"), "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps({"args": Trap("touch " + self.witness), "model": {}}, 2))
            archive.writestr("archive/byteorder", "little")
            archive.writestr("archive/version", "3\n")
        result = self.run_tool("mimo-convert", root, self.at("out"), "--like", self.fixture.directory, code=3)
        self.assertIn("posix.system", result.stderr)
        self.assertFalse(os.path.exists(self.witness))

    @staticmethod
    def rezip(parts, changed, method=zipfile.ZIP_STORED):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", method) as archive:
            for entry, content in parts.items():
                archive.writestr(entry, changed.get(entry, content))
        return out.getvalue()

    def replace_first_item(self, name, length, item):
        """Puts `item` at the beginning of a file in the place of its first `length` bytes, padded or cut to them in front of
        the end record, so that the ranges in .metadata still hold."""
        data = self.read(name)
        if len(item) < length:
            item = bytes(length - len(item)) + item if not item else item[:-22] + bytes(length - len(item)) + item[-22:]
        self.write(name, item[:length] + data[length:])
