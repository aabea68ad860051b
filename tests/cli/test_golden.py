"""Proves that nothing of a conversion changed: exit code, plan, bytes and words of every row of
tests/golden/digests.json are what they were when the row was recorded. It says that something changed, not whether that
is right: other tests do.

A change of meaning rewrites the file on purpose, and the commit says why:

    python3 tests/cli/test_golden.py --update            all rows
    python3 tests/cli/test_golden.py --update NAME ...   these
    python3 tests/cli/test_golden.py NAME ...            run these and the rows that they use, and judge
    python3 tests/cli/test_golden.py --keep DIR NAME ... leave in DIR what they made, for comparing builds

$MIMO_BIN names the folder of the tools, as for all tests.
"""
import argparse
import os
import sys
import unittest

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from harness import golden, tools  # noqa: E402


def report(outcome, different):
    """The lines about a row that is not what it was."""
    row, found = outcome.row, outcome.found
    lines = [f"{row['name']}: {', '.join(different)} differ", f"  {row['run']}"]
    return "\n".join(lines + [f"  {key}: recorded {row.get(key)}, found {found.get(key)}" for key in different])


def judge(rows):
    """-> [(outcome, what differs)] of the rows that are not what they were"""
    outcomes = golden.Runner(rows).run()
    return [(o, d) for o in outcomes if (d := golden.differences(o.row, o.found))]


class Golden(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        for tool in golden.FIXED:
            tools.path(tool)
        cls.rows = golden.load()

    def test_every_row(self):
        for outcome, different in judge(self.rows):
            with self.subTest(outcome.row["name"]):
                self.fail("\n" + report(outcome, different))

    def changed(self, name, **change):
        """-> what differs of a row when the row itself is changed"""
        rows = [dict(row, **(change if row["name"] == name else {})) for row in golden.needed(self.rows, [name])]
        return {outcome.row["name"]: different for outcome, different in judge(rows)}

    def test_another_digest_is_noticed(self):
        for key in golden.DIGESTS:
            value = 7 if key == "exit" else "0" * 16
            self.assertEqual(self.changed("qkv-split", **{key: value}), {"qkv-split": [key]})

    def test_another_option_is_noticed(self):
        """Another plan, other bytes, another report; another seed, other bytes, under the same plan."""
        run = next(row["run"] for row in self.rows if row["name"] == "qkv-split")
        self.assertEqual(self.changed("qkv-split", run=run + " --text-only --exclude embed"),
                         {"qkv-split": ["plan", "tree", "text"]})
        run = next(row["run"] for row in self.rows if row["name"] == "v2.5")
        self.assertEqual(self.changed("v2.5", run=run + " --seed 8"), {"v2.5": ["tree"]})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true", help="record what is found")
    parser.add_argument("--keep", metavar="DIR", help="a folder that is not there yet, for outputs and plans")
    parser.add_argument("names", nargs="*", metavar="NAME")
    args = parser.parse_args()
    rows = golden.load()
    if unknown := set(args.names) - {row["name"] for row in rows}:
        parser.error(f"no row is called {', '.join(sorted(unknown))}")
    if args.keep:
        os.makedirs(args.keep)
    outcomes = golden.Runner(golden.needed(rows, args.names) if args.names else rows, args.keep).run()
    changed = [(o, d) for o in outcomes if (d := golden.differences(o.row, o.found))]
    for outcome, different in changed:
        print(report(outcome, different))
    if args.update:
        golden.write({o.row["name"]: o.found for o in outcomes if not args.names or o.row["name"] in args.names})
    print(f"{len(outcomes)} rows, {len(changed)} differ{', recorded' if args.update else ''}")
    return 0 if args.update or not changed else 1


if __name__ == "__main__":
    sys.exit(main())
