"""Proves that every JSON document the tools print or write validates against its schema in schemas/: inspect, convert (plan, run,
error), the plan file, the manifest, check, layout, and the layout marker in config.json.
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

SMALL = dict(pattern=(0, 1), towers=False, experts=2)


@unittest.skipIf(jsonschema is None, "jsonschema is not installed")
class Documents(ToolCase):
    def validate(self, document, schema):
        with open(os.path.join(tools.SOURCE, "schemas", schema + ".schema.json")) as f:
            rules = json.load(f)
        jsonschema.Draft202012Validator.check_schema(rules)
        problems = list(jsonschema.Draft202012Validator(rules).iter_errors(document))
        self.assertEqual(problems, [], schema)

    def printed(self, tool, *args, code=0):
        return json.loads(self.run_tool(tool, *args, "--json", code=code).stdout)

    def read(self, *parts):
        with open(self.at(*parts)) as f:
            return json.load(f)

    def test_conversion_from_plan_to_check(self):
        source, _ = checkpoints.ours("v2.5", **SMALL)
        out, plan = self.at("out"), self.at("plan.json")
        dry = self.printed("mimo-convert", source, "--dry-run", "--qkv", "fused:8", "--plan-out", plan)
        self.validate(dry, "convert")
        self.assertNotIn("run", dry)
        self.validate(self.read("plan.json"), "plan")
        done = self.printed("mimo-convert", source, out, "--qkv", "fused:8")
        self.validate(done, "convert")
        self.assertEqual(done["plan"], dry["plan"])
        self.assertEqual(done["run"]["requantized_blocks"] + done["run"]["equal_scale_blocks"],
                         done["plan"]["straddling_blocks"])
        self.validate(self.read("out", "mimo-manifest.json"), "manifest")
        self.validate(self.read("out", "config.json")["mimo_layout"], "layout_marker")
        self.validate(self.printed("mimo-inspect", out), "inspect")
        self.validate(self.printed("mimo-verify", "check", out), "check")

    def test_differences_are_listed(self):
        source, _ = checkpoints.ours("v2.6", **SMALL)
        out = self.convert(source, "out", "--dtype", "bf16", "--qkv", "split")
        self.validate(self.read("out", "mimo-manifest.json"), "manifest")
        shard = os.path.join(out, "model_mtp.safetensors")
        with open(shard, "r+b") as f:
            f.seek(-1, os.SEEK_END)
            last = f.read(1)
            f.seek(-1, os.SEEK_END)
            f.write(bytes([last[0] ^ 1]))
        report = self.printed("mimo-verify", "check", out, code=1)
        self.validate(report, "check")
        self.assertEqual(len(report["differences"]), 1)
        self.assertEqual(report["differences"][0]["file"], "model_mtp.safetensors")

    def test_errors(self):
        source, _ = checkpoints.ours("v2.5", **SMALL)
        refused = self.printed("mimo-convert", source, "--dry-run", "--qkv", "fused:8", "--lossless", code=1)
        self.validate(refused, "convert")
        self.assertEqual(refused["error"]["exit"], 1)
        self.validate(self.printed("mimo-verify", "check", source), "check")
        self.validate(self.printed("mimo-verify", "layout", source), "layout")
        self.validate(self.printed("mimo-verify", "layout", source, "--source-qkv", "fused:2", code=1), "layout")
        self.run_tool("mimo-verify", "check", self.tmp, code=3)


if __name__ == "__main__":
    unittest.main()
