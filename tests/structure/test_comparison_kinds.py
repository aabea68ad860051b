"""docs/comparing.md lists what `mimo-verify compare` calls differences, all of it and nothing else."""
import os
import re
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FOLDER = os.path.join(ROOT, "lib", "verify", "compare")
KIND = re.compile(r'"((?:tensor|rows|heads|columns|scale|value-scale|values|layers|experts|codes|replica|index|bytes|'
                  r'carried|input-scale)'
                  r'\.[a-z0-9-]+)"')
PREFIX = re.compile(r'"(config\.)"')
LISTED = re.compile(r"^\* `([a-z0-9-]+\.[A-Za-z0-9-]+)`", re.M)


class ComparisonKinds(unittest.TestCase):
    def setUp(self):
        self.made = set()
        for name in os.listdir(FOLDER):
            with open(os.path.join(FOLDER, name), encoding="utf-8") as file:
                text = re.sub(r"//[^\n]*", "", file.read())
            self.made |= set(KIND.findall(text)) | {found + "KEY" for found in PREFIX.findall(text)}
        with open(os.path.join(ROOT, "docs", "comparing.md"), encoding="utf-8") as file:
            self.listed = LISTED.findall(file.read())

    def test_every_kind_is_listed_once(self):
        self.assertEqual(sorted(self.made), sorted(self.listed))

    def test_kinds_are_found(self):
        self.assertGreater(len(self.made), 50)
        self.assertIn("config.KEY", self.made)


if __name__ == "__main__":
    unittest.main()
