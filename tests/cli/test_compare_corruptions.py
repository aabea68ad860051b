"""Every corruption of the table is told from the truth and named, with 1 % of the blocks damaged on top as well."""
import concurrent.futures
import json
import os
import re
import shutil
import threading
import unittest
import zlib

import numpy as np

from harness import case, corruption_table, corruptions, tools


class Corruptions(case.ToolCase):
    tool = "mimo-verify"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        tools.path("mimo-convert")
        cls.bases, cls.making = {}, threading.Lock()

    def base(self, name):
        with self.making:
            if name not in self.bases:
                self.bases[name] = corruptions.base_of(name)
            return self.bases[name]

    def compare(self, base, work, name, codes=(1,)):
        """-> [(kind, place)] of the edited copy of a base; of one that is refused, "refused" and the words of it"""
        directory = self.at(name)
        work.state.write(directory)
        result = self.run_tool("mimo-verify", "compare", base.directory, directory, "--json", "--threads", 1, code=codes)
        shutil.rmtree(directory)
        if result.code == 3:
            return [("refused", result.stdout + result.stderr)]
        return [(d["kind"], d["place"]) for d in json.loads(result.stdout)["differences"]]

    @staticmethod
    def judge(corruption, found, bystanders, beside):
        """Lines that say what is wrong with the findings. What was damaged alone is named so; of `beside` it may be."""
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

    def check(self, number, corruption):
        """-> lines that say what is wrong, without damage and with it; and rows of the table for people"""
        base, lines, rows = self.base(corruption.base), [], []
        for damaged in (False, True)[:1 + bool(corruption.damage)]:
            work = corruptions.Work(base)
            corruption.edit(work)
            bystanders = []
            if damaged:
                random = np.random.default_rng(zlib.crc32(corruption.name.encode()))
                bystanders = corruptions.damage(work, random, corruption.damage == "same")
            refused = "refused" in corruption.expect.values()
            found = self.compare(base, work, f"{number}-{damaged}", (3,) if refused else (1,))
            # Damage of a fused array is in all that it holds.
            beside = [n.replace("qkv_proj", x + "_proj").replace("_scale_inv", "")
                      for n in work.touched * damaged for x in "qkv" if "qkv_proj" in n]
            wrong = self.judge(corruption, found, bystanders, beside)
            lines += [f"{'with damage' if damaged else 'alone'}: {line}" for line in wrong]
            rows.append(" ".join(sorted({k for k, p in found if p not in bystanders})))
        return lines, rows

    def test_the_table_is_told(self):
        # For people: MIMO_ONLY is a regular expression on names, MIMO_TABLE prints what was found.
        only = re.compile(os.environ.get("MIMO_ONLY", ""))
        chosen = [(n, c) for n, c in enumerate(corruption_table.TABLE) if only.search(c.name)]
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            running = [(corruption, pool.submit(self.check, number, corruption)) for number, corruption in chosen]
            for corruption, result in running:
                with self.subTest(corruption.name):
                    lines, rows = result.result()
                    if os.environ.get("MIMO_TABLE"):
                        print("|", corruption.name, "|", corruption.base, "|", " | ".join(rows), "|", "WRONG" if lines else "ok", flush=True)
                    self.assertFalse(lines, "\n".join(lines[:12]))

    def test_what_is_not_edited_is_the_same(self):
        for name in (*corruptions.BASES, *corruptions.MINIMAX_BASES):
            with self.subTest(name):
                base = self.base(name)
                self.assertEqual(self.compare(base, corruptions.Work(base), name, (0,)), [])

    def test_the_table_has_every_kind(self):
        names = [corruption.name for corruption in corruption_table.TABLE]
        self.assertEqual(len(names), len(set(names)))
        self.assertGreaterEqual(len(names), 60)
        expected = {kind for corruption in corruption_table.TABLE for kinds in corruption.expect.values()
                    for kind in ((kinds,) if isinstance(kinds, str) else kinds)}
        with open(os.path.join(tools.SOURCE, "docs", "comparing.md"), encoding="utf-8") as file:
            listed = set(re.findall(r"^\* `([a-z0-9-]+\.[a-z0-9-]+)`", file.read(), re.M))
        self.assertEqual(sorted(listed - expected), [])


if __name__ == "__main__":
    unittest.main()
