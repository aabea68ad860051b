"""The base of the black-box tests."""
import os
import shutil
import tempfile
import unittest

from harness import compare, tools
from reference import container


class ToolCase(unittest.TestCase):
    """A fresh directory per test (self.tmp) and assertions in the words of the domain."""

    tool = "mimo-convert"

    @classmethod
    def setUpClass(cls):
        tools.path(cls.tool)

    def setUp(self):
        self.tmp = tempfile.mkdtemp(prefix="mimo-test-")
        self.addCleanup(shutil.rmtree, self.tmp, ignore_errors=True)

    def at(self, *parts):
        return os.path.join(self.tmp, *parts)

    def run_tool(self, tool, *args, code=0, **options):
        """Runs a tool and asserts its exit code (one, or one of several)."""
        result = tools.run(tool, *args, **options)
        wanted = code if isinstance(code, tuple) else (code,)
        self.assertIn(result.code, wanted, tools.describe(result))
        return result

    def convert(self, checkpoint, name, *options, **run):
        """mimo-convert CHECKPOINT TMP/name OPTIONS, which must succeed; a copy without options. -> the output directory"""
        out = self.at(name)
        options = options or ("--copy",)
        self.run_tool("mimo-convert", checkpoint, out, *options, **run)
        return out

    def assert_same_tensors(self, expected, found, note=""):
        """Both {name: (dtype, array)} or directories."""
        expected, found = (container.read_directory(x) if isinstance(x, str) else x for x in (expected, found))
        lines = compare.differences(expected, found)
        self.assertFalse(lines, "\n".join([note] + lines))

    def assert_same_trees(self, expected, found, skip=(), note=""):
        a, b = compare.tree(expected, skip), compare.tree(found, skip)
        self.assertEqual(sorted(a), sorted(b), note)
        self.assertEqual([n for n in a if a[n] != b[n]], [], note)

    def assert_nothing_published(self, out):
        self.assertEqual(compare.published(out), [], "a failed run left a result in place")
