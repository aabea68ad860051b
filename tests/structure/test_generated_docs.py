"""Proves that the pages that are made of data are those that the data makes, that ids are unique, and that no advice of a
table asks for what destroys or re-fetches a valid file."""
import glob
import importlib.util
import json
import os
import re
import unittest

ROOT = os.environ.get("MIMO_SOURCE") or os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# "take out of the directory" and "move aside" are fine: what is moved can be moved back.
HARMFUL = re.compile(r"\b(?:remove the (?:stale |old )?(?:scales?|files?|index|weights?)|remove it|delete|"
                     r"fetch (?:the|this) (?:file|shard|checkpoint) again|fetch it again|complete the (?:checkpoint|download)|"
                     r"download .* again|rm -)", re.I)
ID = re.compile(r'\.Id\("([^"]+)"\)|\bid = "([^"]+)"|Verdict::Add\("([^"]+)"')


def generator():
    path = os.path.join(ROOT, "scripts", "generate_docs.py")
    spec = importlib.util.spec_from_file_location("generate_docs", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows():
    """(file, row) of every finding of every table."""
    for path in sorted(glob.glob(os.path.join(ROOT, "schemas", "findings", "*.json"))) + [
            os.path.join(ROOT, "schemas", "foreign.json")]:
        with open(path, encoding="utf-8") as f:
            for row in json.load(f)["findings"]:
                yield os.path.relpath(path, ROOT), row


def library_sources():
    for folder, _, names in os.walk(os.path.join(ROOT, "lib")):
        for name in names:
            if name.endswith((".h", ".cc")):
                with open(os.path.join(folder, name), encoding="utf-8") as f:
                    yield os.path.relpath(os.path.join(folder, name), ROOT), f.read()


class GeneratedDocs(unittest.TestCase):
    def test_pages_are_what_the_data_makes(self):
        for page, make in generator().PAGES.items():
            with self.subTest(page), open(os.path.join(ROOT, page), encoding="utf-8") as f:
                self.assertEqual(f.read(), make(), "run scripts/generate_docs.py")

    def test_ids_are_unique_and_severities_known(self):
        ids = [row["id"] for _, row in rows()]
        self.assertEqual(sorted(ids), sorted(set(ids)))
        self.assertEqual({row["severity"] for _, row in rows()} - {"note", "warning", "error"}, set())

    def test_every_id_of_the_library_is_in_a_table(self):
        known = {row["id"] for _, row in rows()}
        used = {(path, next(x for x in found if x)) for path, text in library_sources() for found in ID.findall(text)}
        self.assertGreater(len(used), 10)
        self.assertEqual([u for u in sorted(used) if u[1] not in known and u[1] != "refused"], [])

    def test_no_advice_destroys_or_fetches_what_is_valid(self):
        for path, row in rows():
            with self.subTest(row["id"]):
                self.assertIsNone(HARMFUL.search(row.get("advice", "")), row.get("advice"))

    def test_no_advice_of_those_who_read_checkpoints_does(self):
        strings = re.compile(r'"(?:\\.|[^"\\\n])*"')
        rooms = ("lib/model/", "lib/foreign/", "lib/io/", "lib/layout/", "lib/decode/", "lib/forms/",
                 "lib/judge/", "lib/inspect/")
        found = [(path, text) for path, source in library_sources() if path.startswith(rooms)
                 for text in strings.findall(source) if HARMFUL.search(text)]
        self.assertEqual(found, [])

    def test_what_is_harmful_is_seen(self):
        for text in ("fetch the shard again", "remove the scales", "remove the stale file", "complete the checkpoint",
                     "repair or delete the index", "download config.json again"):
            self.assertIsNotNone(HARMFUL.search(text), text)


if __name__ == "__main__":
    unittest.main()
