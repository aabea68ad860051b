"""The row order of fused attention without block scales: right at a small contrast between Q, K and V, never wrong.

MIMO_ROW_ORDER_CASES=N runs N random cases instead of the few of CI."""
import collections
import json
import os
import random
import unittest

from harness import row_order
from harness.case import ToolCase
from reference import container

CASES = int(os.environ.get("MIMO_ROW_ORDER_CASES", "0"))
SIZES = [dict(hidden=128, heads=8, pattern=(0, 1)), dict(hidden=256, heads=16, pattern=(0, 1, 1, 0)),
         dict(hidden=128, heads=32, pattern=(0, 1, 1), mtp=3), dict(hidden=1024, heads=8, pattern=(1, 0))]
PRO = [dict(hidden=128, heads=16, pattern=(0, 1))]


class RowOrder(ToolCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.bases = {}

    def base(self, variant, size):
        key = (variant, json.dumps(size))
        if key not in self.bases:
            import atexit, shutil, tempfile
            folder = tempfile.mkdtemp(prefix="mimo-rows-")
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            self.bases[key] = (folder, row_order.base(folder, variant, **size))
        return self.bases[key]

    def make(self, chunks, contrast, seed=1, rows="gauss", tp_size=None, variant="v2.5", size=SIZES[0]):
        folder, model = self.base(variant, size)
        truth = row_order.write(folder, self.at("in"), model, chunks, contrast, seed, rows, tp_size)
        return self.at("in"), truth

    def look(self, checkpoint, code=(0, 3)):
        """-> (certainty, chunks that are named, exit code)"""
        result = self.run_tool("mimo-inspect", checkpoint, "--json", code=code)
        document = json.loads(result.stdout)
        if result.code == 0:
            return document["qkv_certainty"], [document["qkv_chunks"]], 0
        error = document["error"]
        advice = error["advice"]
        named = [int(w.partition(":")[2]) for w in advice.split() if w.startswith("fused:") and w[6:].isdigit()]
        return error["id"], named, 3

    # ---- one of each

    def test_right_tp_size_is_proven_and_converts_without_a_word(self):
        checkpoint, truth = self.make(2, 1.1, tp_size=2)
        self.assertEqual(self.look(checkpoint), ("proven", [2], 0))
        out = self.convert(checkpoint, "out", "--qkv", "split")
        stored = container.read_directory(out)
        self.assert_same_tensors({n: ("BF16", a) for n, a in truth.items()}, {n: stored[n] for n in truth})

    def test_wrong_tp_size_is_refused_and_what_is_advised_is_right(self):
        checkpoint, truth = self.make(4, 1.1, tp_size=2)
        self.assertEqual(self.look(checkpoint), ("layout.contradicted", [4], 3))
        result = self.run_tool("mimo-convert", checkpoint, self.at("out"), "--qkv", "split", code=3)
        self.assertIn("--source-qkv fused:4", result.stderr)
        self.assert_nothing_published(self.at("out"))
        out = self.convert(checkpoint, "out", "--qkv", "split", "--source-qkv", "fused:4")
        stored = container.read_directory(out)
        self.assert_same_tensors({n: ("BF16", a) for n, a in truth.items()}, {n: stored[n] for n in truth})

    def test_without_tp_size_the_rows_decide(self):
        checkpoint, _ = self.make(1, 1.1)
        self.assertEqual(self.look(checkpoint), ("proven", [1], 0))

    def test_undecided_with_tp_size_is_assumed_and_said(self):
        checkpoint, _ = self.make(4, 1.0, tp_size=4)
        self.assertEqual(self.look(checkpoint), ("assumed", [4], 0))
        result = self.run_tool("mimo-convert", checkpoint, self.at("out"), "--qkv", "split")
        self.assertIn("assumed", result.stdout + result.stderr)
        with open(self.at("out", "mimo-manifest.json")) as f:
            self.assertTrue(json.load(f)["source_layout"]["assumed"])

    def test_undecided_without_tp_size_is_refused(self):
        checkpoint, _ = self.make(4, 1.0)
        code, named, _ = self.look(checkpoint)
        self.assertEqual(code, "layout.undecided")
        self.assertIn(1, named)

    def test_wrong_tp_size_at_no_contrast_is_at_most_assumed(self):
        checkpoint, _ = self.make(4, 1.0, tp_size=1)
        self.assertEqual(self.look(checkpoint)[0], "assumed")

    # ---- many

    def judge(self, case, tally):
        checkpoint, _ = self.make(**case)
        said, named, code = self.look(checkpoint)
        chunks, tp, contrast = case["chunks"], case["tp_size"], case["contrast"]
        if contrast == 1.0:
            expected = ("assumed", [tp]) if tp else ("layout.undecided", named)
        elif tp in (chunks, None):
            expected = ("proven", [chunks])
        else:
            expected = ("layout.contradicted", [chunks])
        tally[said] += 1
        self.assertEqual((said, named), expected, str(case))

    def cases(self, count, seed):
        draw = random.Random(seed)
        for i in range(count):
            variant = "v2.5-pro" if draw.random() < 0.25 else "v2.5"
            size = draw.choice(PRO if variant == "v2.5-pro" else SIZES)
            most = 8 if variant == "v2.5-pro" else 4
            possible = [c for c in (1, 2, 4, 8) if c <= most]
            yield dict(variant=variant, size=size, chunks=draw.choice(possible), seed=seed * 100000 + i,
                       contrast=draw.choice((1.0, 1.1, 1 / 1.1, 1.3)), tp_size=draw.choice(possible + [None, None]),
                       rows=draw.choice(("gauss", "gauss", "equal", "heavy")))

    def test_random_cases(self):
        tally = collections.Counter()
        for case in self.cases(CASES or 16, 7):
            self.judge(case, tally)
        if CASES:
            print(dict(tally))

    def test_heads_that_differ_never_decide_wrongly(self):
        for i in range(CASES // 4 or 4):
            chunks = (1, 2, 4)[i % 3]
            checkpoint, _ = self.make(chunks, (1.0, 1.1, 1.3, 1.6)[i % 4], seed=i, rows="heads", tp_size=chunks,
                                      size=SIZES[i % 2])
            said, named, code = self.look(checkpoint)
            self.assertEqual((code, named), (0, [chunks]), i)


if __name__ == "__main__":
    unittest.main()
