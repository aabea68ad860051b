"""Proves that `--to vllm --format sharded-state` writes what each rank of the engine holds before it post-processes:
names, shapes, dtypes and decoded values of every rank file against the independent model, in files by layer, for
experts cut (`--ep 1`) and dealt out (`--ep T`); and that `--ranks` writes the same bytes of fewer ranks.
"""
import os
import re
import unittest

import numpy as np

from harness import checkpoints, compare, ranks
from harness.case import ToolCase
from reference import codecs, container, sharding

CUT = dict(moe_intermediate=4096, experts=2)
DEALT = dict(moe_intermediate=128, experts=32)


class ShardedCase(ToolCase):
    def sharded(self, fixture, name, tp, ep=1, *options):
        return self.convert(fixture.directory, name, "--to", "vllm", "--format", "sharded-state", "--tp", tp,
                            "--ep", ep, *options)

    def check(self, fixture, out, tp, ep=1, only=None, values=None, config=None, cells=None):
        stored = compare.load_json(out, "config.json")
        judge = ranks.Rank(self, fixture, stored, ranks.rank_grid(stored), values, config, cells)
        wanted = list(range(tp)) if only is None else only
        self.assertEqual(sorted({rank for _, rank, _ in ranks.rank_files(out)}), wanted)
        for rank in wanted:
            tensors, parts = ranks.read_rank(out, rank)
            where = f"TP {tp} EP {ep} rank {rank}"
            expected = sharding.rank_values(judge.config, judge.values, tp, rank, ep)
            params = self.take_beside(fixture, tensors, expected, tp, ep, rank, where)
            self.assertEqual({n: parts[n] for n in tensors}, {n: ranks.part_of(n) for n in tensors}, where)
            self.check_dtypes(fixture, params, where)
            rest = {n for n in expected if not re.match(r"model\.|lm_head\.", n)}
            judge.check(params, tp, rank, ep, f"TP {tp} EP {ep}", only=lambda n: n not in rest)
        self.check_directory(fixture, out, rest)
        return judge

    def take_beside(self, fixture, tensors, expected, tp, ep, rank, where):
        """Checks what an engine holds beside the weights, and returns the rest."""
        params = {}
        for name, (dtype, array) in tensors.items():
            if name in expected or ranks.SCALES.fullmatch(name):
                params[name] = (dtype, array)
            elif name.endswith(".experts.e_score_correction_bias"):
                params[name.replace(".experts.", ".gate.")] = (dtype, array)     # an alias: vLLM keeps the smaller name
            else:
                self.assertRegex(name, r"\.self_attn\.attn\.(_?[kvq]|_?prob)_scale$", where)
                unset = "._" not in name
                self.assertEqual((dtype, array.shape), ("BF16" if unset else "F32", ()), where + name)
                value = codecs.decode_plain(dtype, array.reshape(1))
                self.assertEqual(float(value[0]), -1.0 if unset else 1.0, where + name)
        self.assertEqual(sum("self_attn.attn." in n for n in tensors), 8 * len(fixture.prefixes), where)
        self.assertFalse([n for n in tensors if n.endswith(("gate.e_score_correction_bias", "._expert_map"))], where)
        return params

    def check_dtypes(self, fixture, params, where):
        stored = {name: dtype for name, (dtype, _) in fixture.tensors.items()}
        for name, (dtype, array) in params.items():
            if name in stored and not ranks.SCALES.fullmatch(name):
                self.assertEqual(dtype, stored[name], where + name)
            elif name.endswith("weight_scale_inv") and params[name.removesuffix("_scale_inv")][0] == "F8_E4M3":
                self.assertEqual(dtype, "F32", where + name)
            elif name.endswith(("w13_weight", "w2_weight")):
                expert = next(d for n, d in stored.items() if n.endswith("experts.0.down_proj.weight"))
                self.assertEqual(dtype, expert, where + name)

    def check_directory(self, fixture, out, rest):
        """Found without an index; the source's own config and index for the way back; the rest under its own names."""
        self.assertFalse(os.path.exists(os.path.join(out, "model.safetensors.index.json")))
        config = compare.load_json(out, "config.json")
        self.assertIn("mimo_layout", config)
        config.pop("mimo_layout")
        # With towers vLLM would build another model. The projection layout decides how rows of several chunks lie
        # (sharding.qkv_order): check() reads the ranks as this config says.
        free = ("vision_config", "audio_config", "processor_config", "attention_projection_layout")
        # Ignore lists that do not name what is unquantized are completed.
        lists = ("ignored_layers", "modules_to_not_convert")
        before, after = ({k: {x: y for x, y in v.items() if x not in lists} if k == "quantization_config" and v else v
                          for k, v in c.items() if k not in free} for c in (fixture.config, config))
        self.assertEqual(before, after)
        self.assertLessEqual(set(config), set(fixture.config))
        self.assertFalse({"vision_config", "audio_config"} & set(config))
        for name in ("config.json", "model.safetensors.index.json"):
            self.assertEqual(compare.load_json(fixture.directory, name), compare.load_json(out, "mimo-source", name))
        others = [f for f in container.tensor_files(out) if not ranks.RANK_FILE.fullmatch(f)]
        self.assertEqual(others, ["hf-rest.safetensors"] if rest else [])
        if rest:
            self.assert_same_tensors({n: fixture.tensors[n] for n in rest},
                                     container.read(os.path.join(out, others[0])))

    def check_counts(self, out, judge, tp):
        manifest, cuts = ranks.manifest(out), judge.cuts(tp)
        totals = manifest["totals"]
        self.assertEqual(totals["requantized_blocks"] + totals["equal_scale_blocks"], cuts)
        said = [note for note in manifest.get("notes", []) if "re-quantized" in note]
        self.assertEqual([int(note.split()[0]) for note in said], [cuts] if cuts else [])
        return said


class Values(ShardedCase):
    def check_all(self, variant, options, pairs):
        fixture = ranks.ours(variant, **options)
        for tp, ep in pairs:
            with self.subTest(variant, tp=tp, ep=ep):
                out = self.sharded(fixture, f"tp{tp}ep{ep}", tp, ep)
                self.check_counts(out, self.check(fixture, out, tp, ep), tp)
                self.run_tool("mimo-verify", "check", out)

    def test_v2_flash(self):
        self.check_all("v2-flash", CUT, [(2, 1), (4, 1), (32, 1)])

    def test_v2_flash_where_a_head_is_a_block_and_a_half(self):
        """At TP 64 every rank has 192 rows of Q: the plan says what that costs, and promises refuse it."""
        fixture = ranks.ours("v2-flash", **dict(CUT, moe_intermediate=8192, intermediate=8192, pattern=(0, 1), mtp=1))
        out = self.sharded(fixture, "out", 64)
        said = self.check_counts(out, self.check(fixture, out, 64), 64)
        self.assertRegex(said[0], r"layers 0 to 1, mtp 0 .*--tp 4 moves every block")
        form = ("--to", "vllm", "--format", "sharded-state", "--tp")
        for promise in (("--lossless",), ("--on-straddle", "refuse")):
            refused = self.run_tool("mimo-convert", fixture.directory, self.at("no"), *form, 64, *promise, code=1)
            self.assertRegex(refused.stderr, "layers 0, 1, mtp 0.*--tp 4 moves every block")
            self.run_tool("mimo-convert", fixture.directory, self.at("yes"), *form, 4, *promise, "--dry-run")

    def test_v2_5(self):
        self.check_all("v2.5", CUT, [(1, 1), (2, 1), (8, 1)])

    def test_v2_5_pro(self):
        self.check_all("v2.5-pro", CUT, [(4, 1), (8, 1), (16, 1)])

    def test_experts_dealt(self):
        self.check_all("v2.5", DEALT, [(4, 4), (32, 32)])
        self.check_all("v2-flash", DEALT, [(8, 8)])
        self.check_all("v2.5-pro", DEALT, [(16, 16)])

    def test_mxfp4_experts(self):
        self.check_all("v2.6", dict(CUT, hidden=256), [(4, 1), (8, 1)])
        self.check_all("v2.6", dict(DEALT, experts=8, hidden=256), [(8, 8)])

    def test_plain_source(self):
        self.check_all("plain", CUT, [(2, 1), (4, 1)])

    def test_towers_lie_beside(self):
        fixture = ranks.ours("v2.5", towers=True, pattern=(0,), mtp=0)
        self.check(fixture, self.sharded(fixture, "out", 8), 8)

    @unittest.skipUnless(checkpoints.external_generator(), "no external generator")
    def test_external_generator(self):
        for variant, tp, ep in (("v2-flash", 8, 8), ("v2.5-pro", 8, 1)):
            with self.subTest(variant):
                fixture = ranks.external(variant, experts=8)
                out = self.sharded(fixture, variant, tp, ep)
                self.check_counts(out, self.check(fixture, out, tp, ep), tp)


class Ranks(ShardedCase):
    def test_only_some(self):
        """A node writes its own ranks, byte for byte those of a full run."""
        fixture = ranks.ours("v2.5", **dict(CUT, pattern=(0, 1), mtp=1))
        whole = compare.tree(self.sharded(fixture, "whole", 8))
        for listed, wanted in (("0,2,4-6", [0, 2, 4, 5, 6]), ("7", [7])):
            with self.subTest(listed):
                out = self.sharded(fixture, "some" + listed[0], 8, 1, "--ranks", listed)
                self.assertEqual(sorted({rank for _, rank, _ in ranks.rank_files(out)}), wanted)
                some = compare.tree(out)
                for (kind, rank, part), file in ranks.rank_files(self.at("whole")).items():
                    self.assertEqual(file in some, rank in wanted)
                    if rank in wanted:
                        self.assertEqual(some[file], whole[file], file)

    def test_threads_change_nothing(self):
        fixture = ranks.ours("v2.5", **CUT)
        self.assert_same_trees(self.sharded(fixture, "one", 8, 1, "--threads", 1),
                               self.sharded(fixture, "four", 8, 1, "--threads", 4))


class SelfCheck(unittest.TestCase):
    def test_expert_placement(self):
        """Linear: the first ranks hold one more; the map of each rank numbers its own from 0."""
        self.assertEqual([list(sharding.experts_of(7, 3, r)) for r in range(3)], [[0, 1, 2], [3, 4], [5, 6]])

    def test_halves_of_w13_have_their_own_grid(self):
        """64 rows of gate and 64 of up are two scale rows, though one block would hold them."""
        codes = np.full((1, 128, 128), 0x38, np.uint8)
        params = {"a.w13_weight": ("F8_E4M3", codes),
                  "a.w13_weight_scale_inv": ("F32", np.array([[[2], [3]]], np.float32))}
        found = sharding.decode(params)["a.w13_weight"][0]
        self.assertTrue((found[:64] == 2).all() and (found[64:] == 3).all())


if __name__ == "__main__":
    unittest.main()
