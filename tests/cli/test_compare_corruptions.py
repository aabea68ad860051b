"""Every corruption of the table is told from the truth and named, with 1 % of the blocks damaged on top as well."""
import json
import os
import re
import shutil
import unittest
import zlib

import numpy as np

from harness import case, corruption_table, corruptions


class Corruptions(case.ToolCase):
    tool = "mimo-verify"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.bases = {}

    def base(self, name):
        if name not in self.bases:
            self.bases[name] = corruptions.Base(name)
        return self.bases[name]

    def compare(self, base, work, codes=(1,)):
        """-> [(kind, place)] of the edited copy of a base; of one that is refused, "refused" and the words of it"""
        directory = self.at("edited")
        shutil.rmtree(directory, ignore_errors=True)
        work.state.write(directory)
        result = self.run_tool("mimo-verify", "compare", base.directory, directory, "--json", code=codes)
        if result.code == 3:
            return [("refused", result.stdout + result.stderr)]
        return [(d["kind"], d["place"]) for d in json.loads(result.stdout)["differences"]]

    def judge(self, corruption, found, bystanders, beside):
        """Lines that say what is wrong with the findings."""
        wrong, named = [], set()
        for kind, place in found:
            matches = re.search if kind == "refused" else re.fullmatch
            pattern = next((p for p in corruption.expect if matches(p, place)), None)
            kinds = corruption.expect.get(pattern, ())
            if pattern is None and (place in bystanders or place in beside):
                kinds = ("values.damaged",)
            if kind not in ((kinds,) if isinstance(kinds, str) else kinds):
                wrong.append(f"{place}: {kind}, not {kinds or 'anything'}")
            named.add(pattern)
        wrong += [f"nothing at {p}" for p in corruption.expect if p not in named]
        wrong += [f"no damage at {n}" for n in bystanders if n not in {place for _, place in found}]
        return wrong

    def check(self, corruption):
        base = self.base(corruption.base)
        for rounds in (0, 1)[:1 + bool(corruption.damage)]:
            work = corruptions.Work(base)
            corruption.edit(work)
            bystanders = []
            if rounds:
                random = np.random.default_rng(zlib.crc32(corruption.name.encode()))
                bystanders = corruptions.damage(work, random, corruption.damage == "same")
            refused = "refused" in corruption.expect.values()
            found = self.compare(base, work, (3,) if refused else (1,))
            # Damage of a fused array is in all that it holds.
            beside = [n.replace("qkv_proj", x + "_proj") for n in work.touched * rounds for x in "qkv" if "qkv_proj" in n]
            wrong = self.judge(corruption, found, bystanders, beside)
            if os.environ.get("MIMO_TABLE"):
                print(corruption.name, "|", corruption.base, "|", rounds, "|", sorted({k for k, p in found if p not in bystanders}),
                      "|", "WRONG" if wrong else "ok")
            self.assertFalse(wrong, "\n".join([f"damaged: {bool(rounds)}"] + wrong[:12]))

    def test_the_table_is_told(self):
        only = os.environ.get("MIMO_ONLY")
        for corruption in corruption_table.TABLE:
            if only and not re.search(only, corruption.name):
                continue
            with self.subTest(corruption.name):
                self.check(corruption)

    def test_what_is_not_edited_is_the_same(self):
        for name in corruptions.BASES:
            with self.subTest(name):
                base = self.base(name)
                self.assertEqual(self.compare(base, corruptions.Work(base), (0,)), [])

    def test_the_table_is_long_enough(self):
        names = [corruption.name for corruption in corruption_table.TABLE]
        self.assertEqual(len(names), len(set(names)))
        self.assertGreaterEqual(len(names), 60)


if __name__ == "__main__":
    unittest.main()
