"""Proves that a file whose name is not UTF-8 is refused before anything is written, by its escaped name, wherever it
lies in a checkpoint; that what does not travel is in nobody's way; and that names in any script travel exactly.
"""
import json
import os
import shutil
import unittest

from harness import ranks
from harness.case import ToolCase
from reference import container

LATIN = b"caf\xe9.txt"                       # in Latin-1; no UTF-8
NAMES = ["café.txt", "数据/模型.json", "quote\".txt", "back\\slash", "tab\tend", "new\nline"]


class FileNames(ToolCase):
    def setUp(self):
        super().setUp()
        self.source = self.at("source")
        shutil.copytree(ranks.ours("v2.5", pattern=(0,), mtp=0).directory, self.source)

    def put(self, name, content=b"x"):
        path = os.path.join(os.fsencode(self.source), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as f:
            f.write(content)

    def refuse(self, shown, *options):
        out = self.at("refused")
        for more in ((), ("--json",), ("--dry-run", "--json"), ("--plan-out", self.at("plan.json"))):
            with self.subTest(options=more):
                result = self.run_tool("mimo-convert", self.source, out, *options, *more, code=3)
                self.assertFalse(os.path.exists(out), "work was done before the refusal")
                self.assertIn(shown, result.stderr)
                self.assertIn("not UTF-8", result.stderr)
                self.assertNotIn("json.exception", result.stderr)
                if "--json" in more:
                    error = json.loads(result.stdout)["error"]
                    self.assertEqual((error["code"], error["found"]), ("bad_input", shown))

    def test_carried_files(self):
        self.put(LATIN)
        for options in (("--qkv", "split"), ("--dtype", "bf16"), ("--to", "nxdi")):
            self.refuse(r"caf\xE9.txt", *options)

    def test_files_below_such_a_directory(self):
        self.put(b"docs/\xff\xfe/notes")
        self.refuse(r"docs/\xFF\xFE/notes")

    def test_tensor_files(self):
        names = container.tensor_files(self.source)
        os.remove(os.path.join(self.source, "model.safetensors.index.json"))
        os.rename(os.path.join(self.source, names[0]), os.path.join(os.fsencode(self.source), b"\xe9.safetensors"))
        self.refuse(r"\xE9.safetensors")

    def test_inspect_says_so(self):
        self.put(LATIN)
        for options in ((), ("--json",)):
            said = self.run_tool("mimo-inspect", self.source, *options).stdout
            self.assertIn("not UTF-8", said)
            self.assertIn(r"caf\\xE9.txt" if options else r"caf\xE9.txt", said)

    def test_what_does_not_travel(self):
        self.put(b"audio_tokenizer/\xe9.bin")
        self.put(b".git/\xe9")
        self.refuse(r"audio_tokenizer/\xE9.bin")
        out = self.convert(self.source, "out", "--text-only")
        self.run_tool("mimo-verify", "check", out)

    def test_names_in_any_script(self):
        for name in NAMES:
            self.put(name.encode(), name.encode() * 7)
        out = self.convert(self.source, "out", "--copy", "--json", "--plan-out", self.at("plan.json"))
        for name in NAMES:
            with open(os.path.join(out, name), "rb") as f:
                self.assertEqual(f.read(), name.encode() * 7)
        with open(os.path.join(out, "mimo-manifest.json"), encoding="utf-8") as f:
            carried = {row["name"] for row in json.load(f)["carried"]}
        self.assertLessEqual(set(NAMES), carried)
        self.run_tool("mimo-verify", "check", out)
        self.assert_same_trees(out, self.convert(self.source, "again", "--plan", self.at("plan.json")))

    def test_a_stray_file_in_an_output(self):
        out = self.convert(self.source, "out")
        with open(os.path.join(os.fsencode(out), LATIN), "wb"):
            pass
        result = self.run_tool("mimo-verify", "check", out, "--json", code=(0, 1))
        json.loads(result.stdout)
        self.assertNotIn("json.exception", result.stderr)

    def test_paths_of_directories_are_anybodys(self):
        """The checkpoint and OUT may lie where no UTF-8 is: no file of the output names that."""
        odd = os.fsdecode(os.fsencode(self.at("")) + b"d\xe9p\xf4t")
        shutil.move(self.source, odd)
        out = os.path.join(odd + "-out")
        result = self.run_tool("mimo-convert", odd, out, "--json", "--qkv", "split")
        json.loads(result.stdout)
        json.loads(self.run_tool("mimo-inspect", odd, "--json").stdout)
        json.loads(self.run_tool("mimo-verify", "check", out, "--json").stdout)
        self.assertEqual(json.loads(self.run_tool("mimo-convert", odd + "x", self.at("no"), "--json", code=3).stdout)
                         ["error"]["code"], "bad_input")


if __name__ == "__main__":
    unittest.main()
