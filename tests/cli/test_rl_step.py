"""A simulated training step goes back to the published form: `--to hf --like SOURCE`, under --scale-policy sticky and fresh.

One in a hundred elements of attention, dense MLP and experts moves by some BF16 steps. What must then be stored follows
from the rules (harness/rl_step.py, in numpy), code by code and scale by scale: sticky keeps a scale while the values of
its block fit, so codes move where weights did and everything else is the source's bytes; fresh makes every block anew.
"""
import json
import os
import unittest

import numpy as np

from harness import compare, megatron_case, rl_step
from harness.megatron_case import TINY, MegatronCase
from reference import container

LEAN = dict(mtp=0, towers=False, experts=2)
VARIANTS = {"v2-flash": {}, "v2.5": LEAN, "v2.5-pro": dict(LEAN, hidden=128), "v2.6": dict(LEAN, extremes=False)}
# BF16 steps. One is less than half a step of any code; at 40 codes move and the largest values outgrow their scales.
STEPS = (1, 40)


class RlStep(MegatronCase):
    def trained(self, variant, steps, **options):
        """-> (fixture, the root after the step, its split BF16 weights, where they moved)"""
        fixture = megatron_case.ours(variant, **dict(TINY, **(options or VARIANTS[variant])))
        root = self.to_megatron(fixture, "run")
        before = fixture.split()
        after, where = rl_step.step(before, steps=steps)
        self.assertTrue(rl_step.apply(root, fixture.config, before, after))
        return fixture, root, after, where

    def back(self, fixture, root, policy):
        """-> (directory, the run's figures, with the error report as "report")"""
        out = self.at(policy)
        done = self.run_tool("mimo-convert", root, out, "--to", "hf", "--like", fixture.directory, "--scale-policy",
                             policy, "--report", self.at(policy + ".json"), "--json", "--no-progress")
        return out, dict(json.loads(done.stdout)["run"], report=compare.load_json(self.at(policy + ".json")))

    def judge(self, fixture, out, after, rule):
        """Every code and scale of `out` is what the rule says. -> [(Matrix of the source, Stored, Account)]"""
        found = []
        source, written = rl_step.matrices(fixture.directory), rl_step.matrices(out)
        self.assertEqual([m.names for m in source], [m.names for m in written])
        for matrix, made in zip(source, written):
            values = rl_step.target(matrix, after)
            expected = rule(matrix, values)
            self.assertTrue(np.array_equal(made.scales, expected.scales), f"scales of {matrix.names}")
            self.assertTrue(np.array_equal(made.codes, expected.codes), f"codes of {matrix.names}")
            found.append((matrix, expected, rl_step.account(matrix, made.codes, made.scales, values)))
        return found

    def check_plain(self, fixture, out, after):
        """What is not quantized is the run's own, bit for bit; towers are the source's."""
        source, written = container.read_directory(fixture.directory), container.read_directory(out)
        self.assertEqual({n: (v[0], v[1].shape) for n, v in source.items()},
                         {n: (v[0], v[1].shape) for n, v in written.items()})
        quantized = {n for m in rl_step.matrices(fixture.directory) for n in m.names}
        for name, (dtype, array) in written.items():
            if name in after and name not in quantized and dtype == after[name][0]:
                self.assertEqual(array.tobytes(), after[name][1].tobytes(), name)
            elif name not in after and "_scale" not in name and ".qkv_proj." not in name:
                self.assertEqual(array.tobytes(), source[name][1].tobytes(), name)
        for name in ("config.json", "model.safetensors.index.json"):
            a, b = (compare.load_json(d, name) for d in (fixture.directory, out))
            a.pop("mimo_layout", None), b.pop("mimo_layout", None)
            self.assertEqual(a, b, name)

    def check_figures(self, found, run):
        blocks, kept = sum(s.kept.size for _, s, _ in found), sum(int(s.kept.sum()) for _, s, _ in found)
        self.assertEqual((run["kept_blocks"], run["fresh_blocks"]), (kept, blocks - kept))
        attention = rl_step.total([a for m, _, a in found if len(m.names) > 1])
        for key in ("squared_error", "squared_sum"):
            self.close(run[key], getattr(attention, key))
        reported = {t["name"]: t for t in run["report"]["tensors"]}
        for matrix, stored, account in found:
            if len(matrix.names) == 1:
                figures = reported.pop(matrix.names[0])
                self.assertEqual((figures["blocks"], figures["kept_blocks"]), (stored.kept.size, stored.kept.sum()))
                self.close(figures["squared_error"], account.squared_error)
                self.close(figures["squared_source"], account.squared_sum)
        self.assertFalse(reported)

    def close(self, found, expected):
        self.assertLessEqual(abs(found - expected), 1e-9 * expected)

    def test_sticky(self):
        for variant in VARIANTS:
            for steps in STEPS:
                with self.subTest(variant, steps=steps):
                    self.setUp()
                    fixture, root, after, where = self.trained(variant, steps)
                    out, run = self.back(fixture, root, "sticky")
                    found = self.judge(fixture, out, after, rl_step.sticky)
                    self.check_plain(fixture, out, after)
                    self.check_figures(found, run)
                    for matrix, stored, _ in found:
                        self.check_only_what_moved(matrix, stored, np.concatenate([where[n] for n in matrix.names]))
                    whole = rl_step.total([a for _, _, a in found])
                    if steps == 1:
                        self.assertEqual((whole.changed_codes, whole.rescaled_blocks), (0, 0), "less than half a code")
                        self.check_same_files(fixture, out)
                    else:
                        self.assertTrue(whole.changed_codes and whole.rescaled_blocks)

    def check_only_what_moved(self, matrix, stored, moved):
        """Blocks in which no weight moved are the source's; under a kept scale, so are codes of weights that did not."""
        touched = rl_step.over_blocks(matrix, moved, np.logical_or)
        self.assertTrue(stored.kept[~touched].all())
        self.assertTrue(np.array_equal(stored.scales[stored.kept], matrix.scales[stored.kept]))
        still = rl_step.spread(matrix, stored.kept) & ~moved
        self.assertTrue(np.array_equal(stored.codes[still], matrix.codes[still]), matrix.names)

    def check_same_files(self, fixture, out):
        """One BF16 step is lost in the quantized weights: their bytes are the source's, as they lie in the files."""
        source, written = container.read_directory(fixture.directory), container.read_directory(out)
        for name, (dtype, array) in source.items():
            if dtype in ("F8_E4M3", "U8") or "_scale" in name:
                self.assertEqual(array.tobytes(), written[name][1].tobytes(), name)

    def test_fresh(self):
        for variant in VARIANTS:
            with self.subTest(variant):
                self.setUp()
                fixture, root, after, _ = self.trained(variant, 1)
                out, run = self.back(fixture, root, "fresh")
                found = self.judge(fixture, out, after, rl_step.fresh)
                self.check_plain(fixture, out, after)
                self.check_figures(found, run)
                fp8 = rl_step.total([a for m, _, a in found if m.dtype == "F8_E4M3"])
                self.assertTrue(fp8.rescaled_blocks)
                sticky, _ = self.back(fixture, root, "sticky")
                kept = rl_step.total([a for m, _, a in self.judge(fixture, sticky, after, rl_step.sticky)
                                      if m.dtype == "F8_E4M3"])
                self.assertLess(kept.changed_blocks, fp8.changed_blocks)
                self.assertLess(kept.squared_error, fp8.squared_error)

    def test_without_a_step_both_are_what_they_say(self):
        """Sticky gives the source back; fresh does not, because the scales of the source are not of its BF16 values."""
        fixture = megatron_case.ours("v2-flash", **TINY)
        root = self.to_megatron(fixture, "run")
        out, run = self.back(fixture, root, "sticky")
        self.assert_same_tensors(fixture.directory, out)
        self.assertEqual(run["fresh_blocks"], 0)
        fresh, run = self.back(fixture, root, "fresh")
        self.judge(fixture, fresh, fixture.split(), rl_step.fresh)
        self.assertEqual(run["kept_blocks"], 0)

    def test_what_the_run_lacks_is_grafted(self):
        """Towers: the source's bytes, though the weights moved; the manifest says where they came from."""
        fixture, root, after, _ = self.trained("v2.5", 40, mtp=0)
        out, _ = self.back(fixture, root, "sticky")
        towers = {n: v for n, v in container.read_directory(fixture.directory).items() if n.startswith("visual.")}
        self.assertTrue(towers)
        written = container.read_directory(out)
        self.assert_same_tensors(towers, {n: written[n] for n in towers})
        self.run_tool("mimo-verify", "check", out)
        self.assertTrue(os.path.exists(os.path.join(out, "mimo-manifest.json")))


if __name__ == "__main__":
    unittest.main()
