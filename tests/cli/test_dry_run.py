"""Proves that --dry-run plans the run that was typed: OUT as it is, the space that it takes, links, units, the share of a part, and
a refusal where the run itself would be refused, with its exit code; and that it changes nothing. What it foretells is held against
what the runs then do.
"""
import json
import os
import unittest

from harness import checkpoints, tools
from harness.case import ToolCase

try:
    import jsonschema
except ImportError:
    jsonschema = None

OPTIONS = ("--dtype", "bf16", "--qkv", "split", "--unit-size", "300KB")


def bytes_in(directory):
    return sum(os.path.getsize(os.path.join(root, name)) for root, _, names in os.walk(directory) for name in names)


class DryRun(ToolCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.source, _ = checkpoints.ours("v2.5", hidden=512, experts=4, moe_intermediate=256, intermediate=512, pattern=(0, 1), vocab=2048,
                                         towers=False)

    def forecast(self, out, *options, code=0, asked=OPTIONS):
        before = self.names(out)
        printed = self.run_tool("mimo-convert", self.source, out, *asked, "--dry-run", "--json", *options, code=code).stdout
        document = json.loads(printed)
        if jsonschema is not None:
            with open(os.path.join(tools.SOURCE, "schemas", "convert.schema.json")) as f:
                jsonschema.Draft202012Validator(json.load(f)).validate(document)
        self.assertEqual(self.names(out), before)
        return document["forecast"]

    def names(self, out):
        return sorted(os.path.join(root, name) for root, _, names in os.walk(out) for name in names)

    def run_json(self, out, *options):
        return json.loads(self.run_tool("mimo-convert", self.source, out, *OPTIONS, "--json", "--no-progress", *options).stdout)["run"]

    def test_a_new_output(self):
        out = self.at("out")
        told = self.forecast(out, "--rates", "2MB,1MB")
        self.assertEqual((told["state"], told["units"]["there"], told["output_bytes"]["there"]), ("new", 0, 0))
        self.assertAlmostEqual(told["seconds_at_least"], max(told["read_bytes"] / 2e6, told["written_bytes"] / 1e6), places=6)
        self.assertTrue(told["file_system"] and told["may_write"])
        run = self.run_json(out)
        self.assertEqual(told["units"]["all"], run["units"]["made"])
        self.assertLessEqual(abs(told["read_bytes"] - run["bytes_read"]), 0.05 * run["bytes_read"])
        size = bytes_in(out) - os.path.getsize(os.path.join(out, "mimo-manifest.json"))
        self.assertEqual(told["needed_bytes"], size)
        told = self.forecast(out, "--resume")
        self.assertEqual(told["state"], "complete")

    def test_what_is_linked_takes_no_space(self):
        told = self.forecast(self.at("out"), "--link", "hard", asked=("--copy",))
        self.assertGreater(told["files_linked"], 0)
        self.assertGreater(told["linked_bytes"], 0)
        self.assertLess(told["needed_bytes"], self.forecast(self.at("out"), asked=("--copy",))["needed_bytes"])

    def test_what_parts_have_made_is_there(self):
        out = self.at("out")
        made = self.run_json(out, "--part", "1/3")
        self.assertEqual(self.forecast(out, code=2)["refusal"]["exit"], 2)  # not empty
        told = self.forecast(out, "--resume")
        self.assertEqual((told["state"], told["units"]["there"]), ("partial", made["units"]["made"]))
        self.assertEqual(told["units"]["all"], made["units"]["all"])
        share = self.forecast(out, "--part", "0/3")
        self.assertEqual(share["units"]["there"], 0)
        other = self.run_json(out, "--part", "0/3")
        self.assertEqual(other["units"]["made"], share["units"]["all"])
        self.assertEqual(self.forecast(out, "--join", code=4)["refusal"]["exit"], 4)
        last = self.forecast(out, "--part", "2/3")
        self.assertEqual(last["needed_bytes"], self.forecast(out, "--resume")["needed_bytes"])
        self.run_json(out, "--part", "2/3")
        self.assertNotIn("refusal", self.forecast(out, "--join"))

    def test_what_a_run_would_refuse(self):
        out = self.at("out")
        os.mkdir(out)
        with open(os.path.join(out, "thesis.tex"), "w") as f:
            f.write("x")
        self.assertEqual(self.forecast(out, code=2)["state"], "other")
        self.assertEqual(self.forecast(out, "--overwrite", code=2)["refusal"]["exit"], 2)
        self.assertNotIn("refusal", self.forecast(out, "--overwrite", "--force"))
        self.assertIn("memory", self.forecast(self.at("new"), "--memory", "1kB", code=2)["refusal"]["message"])
        self.run_tool("mimo-convert", self.source, out, *OPTIONS, "--dry-run", "--rates", "5GB", code=2)

    def test_space_that_is_not_there_is_said(self):
        """A plan is made wherever it is asked for; space comes and goes."""
        sparse = self.at("sparse")
        self.run_tool("mimo-synth", "mimo-v2.5-pro", sparse, "--sparse", "--quiet")
        result = self.run_tool("mimo-convert", sparse, self.at("out"), *OPTIONS[:4], "--dry-run", "--json")
        told = json.loads(result.stdout)["forecast"]
        free = os.statvfs(self.at())
        self.assertEqual(told["fits"], told["needed_bytes"] <= told["free_bytes"])
        self.assertLess(abs(told["free_bytes"] - free.f_bavail * free.f_frsize), 1 << 30)
        if not told["fits"]:
            self.assertIn("not enough free space", result.stderr)

    def test_equal_layers_are_one_line(self):
        source, _ = checkpoints.ours("v2.5", pattern=(0, 0, 0, 1), mtp=0, towers=False, experts=2)
        text = self.run_tool("mimo-convert", source, "--qkv", "fused:8", "--dry-run").stdout
        lines = [line for line in text.splitlines() if line.startswith("straddles")]
        self.assertTrue(lines)
        self.assertLessEqual(len(lines), 2, text)


if __name__ == "__main__":
    unittest.main()
