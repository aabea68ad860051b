"""Proves what `--to vllm|sglang --tp T` promises: a Hugging Face directory that the engine's own loading arithmetic
(reference/sharding.py: the verbatim chunk, or the scale slots of split files) turns into the right parameters on every
rank, bit for bit wherever the plan does not say that a block is re-quantized; with a config that says what is stored.
"""
import json
import os
import unittest

import numpy as np

from harness import checkpoints, compare, ranks
from harness.case import ToolCase
from reference import codecs, container, decode, layouts, sharding
from reference.model import VARIANTS

DEGREES = (1, 2, 4, 8, 16, 32)


def outside_experts(name):
    return ".experts." not in name


class DirectoryCase(ToolCase):
    def check(self, fixture, out, tp, dtype=None, layout=None):
        """Loads every rank of a directory and judges it; the manifest must count the blocks that its grid cuts and no
        others (of fused files every replica). -> how many"""
        tensors, config = container.read_directory(out), compare.load_json(out, "config.json")
        mine = {n: v for n, v in tensors.items() if outside_experts(n)}
        fused = any(n.endswith("qkv_proj.weight") for n in tensors if n.startswith("model."))
        judge = ranks.Rank(self, fixture, config, lambda _, tp: config["num_key_value_heads"] if fused else tp)
        for rank in range(tp):
            params = sharding.load(mine, config, tp, rank)
            judge.check(params, tp, rank, only=outside_experts, note=f"{os.path.basename(out)} TP {tp}")
        experts = {n: v for n, v in fixture.tensors.items() if not outside_experts(n)}
        self.assert_same_tensors(experts, {n: v for n, v in tensors.items() if not outside_experts(n)})
        self.check_config(fixture, out, tp, tensors, config, fused)
        if dtype:
            found = {v[0] for n, v in mine.items() if n.endswith(("q_proj.weight", "qkv_proj.weight"))
                     and n.startswith("model.")}
            self.assertEqual(found, {dtype})
        if layout:
            self.assertEqual(fused, layout == "fused")
        cut = 0 if any(n.endswith("q_proj.weight") and d == "BF16" for n, (d, _) in mine.items()) else \
            judge.cuts(tp, replicas=fused)
        totals = ranks.manifest(out)["totals"]
        self.assertEqual(totals["requantized_blocks"] + totals["equal_scale_blocks"], cut)
        return cut

    def check_config(self, fixture, out, tp, tensors, config, fused):
        before = fixture.config
        index = compare.load_json(out, "model.safetensors.index.json")
        problems = compare.index_problems(out)
        if compare.index_problems(fixture.directory):          # unchanged files keep what the source's metadata lacks
            problems = [line for line in problems if "format: pt" not in line]
        self.assertEqual(problems, [])
        quantized = fused or any(n.startswith("model.") and n.endswith("q_proj.weight_scale_inv") for n in tensors)
        for key in ("num_key_value_heads", "swa_num_key_value_heads"):
            self.assertEqual(config[key], max(before[key], tp) if fused else before[key], key)
        self.assertEqual(index["metadata"].get("tp_size"), max(tp, before["num_key_value_heads"]) if fused else None)
        self.assertEqual(config.get("attention_projection_layout"), "fused_qkv" if fused else None)
        word = "fused" if fused else "split"                     # an output that is its source carries no marker
        self.assertEqual(config.get("mimo_layout", {"qkv": word})["qkv"], word)
        for key in ("num_attention_heads", "swa_num_attention_heads", "vocab_size", "intermediate_size",
                    "hybrid_layer_pattern", "auto_map", "architectures", "attention_value_scale"):
            self.assertEqual(config[key], before[key], key)
        lists = config["quantization_config"]
        self.assertEqual(lists["ignored_layers"], lists["modules_to_not_convert"])
        self.assertLessEqual(ranks.unquantized_modules(tensors), set(lists["ignored_layers"]))
        if not quantized:
            wanted = {f"{prefix}.{x}_proj" for prefix in fixture.prefixes for x in ("q", "k", "v", "qkv", "o")}
            wanted |= {p.replace("self_attn", "eh_proj") for p in fixture.prefixes if ".mtp." in p}
            self.assertLessEqual(wanted, set(lists["ignored_layers"]))
        self.assertFalse([name for name in lists["ignored_layers"] if "*" in name or name.startswith("re:")])

    def check_companions(self, source, out):
        def companions(directory):
            ours = ("mimo-source", "config.json", "mimo-manifest.json")
            return {n: d for n, d in compare.tree(directory, ours).items()
                    if os.sep in n or not n.endswith((".safetensors", ".index.json"))}
        self.assertEqual(companions(source), companions(out))


class Vllm(DirectoryCase):
    def check_variant(self, variant, degrees=DEGREES, **options):
        fixture = ranks.ours(variant, **options)
        for tp in degrees:
            with self.subTest(variant, tp=tp):
                out = self.convert(fixture.directory, f"tp{tp}", "--to", "vllm", "--tp", tp)
                cut = self.check(fixture, out, tp)
                plan = json.loads(self.run_tool("mimo-convert", fixture.directory, "--to", "vllm", "--tp", tp,
                                                "--dry-run", "--json").stdout)["plan"]
                self.assertEqual((plan["lossless"], plan["straddling_blocks"]), (cut == 0, cut))
                self.check_companions(fixture.directory, out)
        return fixture

    def test_v2_flash(self):
        self.check_variant("v2-flash")

    def test_v2_5(self):
        self.check_variant("v2.5", hidden=256)

    def test_v2_5_pro(self):
        self.check_variant("v2.5-pro")

    def test_v2_6(self):
        self.check_variant("v2.6", (2, 4, 8), hidden=256)

    def test_plain(self):
        self.check_variant("plain", (1, 4, 16))

    def test_sixty_four_ranks(self):
        """Pro deals two Q heads to a rank, whole blocks; Flash one, which cuts Q too, so that BF16 is chosen."""
        for variant, attention, exact in (("v2.5-pro", "auto", True), ("v2.5", "auto", True), ("v2.5", "fused", False)):
            with self.subTest(variant, attention=attention):
                fixture = ranks.ours(variant, intermediate=8192, moe_intermediate=8192)
                out = self.convert(fixture.directory, variant + attention, "--to", "vllm", "--tp", 64, "--attention",
                                   attention)
                self.assertEqual(self.check(fixture, out, 64) == 0, exact)

    def test_towers_travel(self):
        fixture = ranks.ours("v2.5", towers=True, pattern=(0,), mtp=0)
        out = self.convert(fixture.directory, "out", "--to", "vllm", "--tp", 8)
        self.check(fixture, out, 8)
        self.check_companions(fixture.directory, out)


class Attention(DirectoryCase):
    """--attention names the form; each of them must give the same heads."""

    def test_fused(self):
        for variant, degrees in (("v2-flash", (1, 4, 8, 32)), ("v2.5", (2, 16)), ("v2.5-pro", (4, 8, 16))):
            fixture = ranks.ours(variant)
            for tp in degrees:
                with self.subTest(variant, tp=tp):
                    out = self.convert(fixture.directory, f"{variant}-{tp}", "--to", "vllm", "--tp", tp, "--attention",
                                       "fused")
                    self.check(fixture, out, tp, "F8_E4M3", "fused")

    def test_split(self):
        for variant in ("v2-flash", "v2.5", "v2.5-pro"):
            fixture = ranks.ours(variant)
            for tp in (1, 4, 8, 32):
                with self.subTest(variant, tp=tp):
                    out = self.convert(fixture.directory, f"{variant}-{tp}", "--to", "vllm", "--tp", tp, "--attention",
                                       "split")
                    self.check(fixture, out, tp, "F8_E4M3", "split")
                    self.check_scale_rows(fixture, out, variant, tp)

    def check_scale_rows(self, fixture, out, variant, tp):
        """The K scale rows that target-layouts, 4.2, says a split file must have."""
        tensors = container.read_directory(out)
        for prefix in fixture.prefixes:
            window, pro = sharding.is_window(fixture.config, prefix), variant == "v2.5-pro"
            kv = 4 if not (pro or window) else 8
            wanted = {4: 8 if tp >= 4 else 6, 8: 16 if tp >= 8 else 12}[kv]
            self.assertEqual(tensors[f"{prefix}.k_proj.weight_scale_inv"][1].shape[0], wanted, prefix)
            self.assertEqual(tensors[f"{prefix}.v_proj.weight_scale_inv"][1].shape[0], kv, prefix)

    def test_bf16(self):
        for variant in VARIANTS:
            with self.subTest(variant):
                fixture = ranks.ours(variant)
                out = self.convert(fixture.directory, variant, "--to", "vllm", "--tp", 32, "--attention", "bf16")
                self.check(fixture, out, 32, "BF16", "split")

    def test_released_v2_flash_is_the_split_form_of_four(self):
        fixture = ranks.ours("v2-flash")
        out = self.convert(fixture.directory, "out", "--to", "vllm", "--tp", 4, "--attention", "split", "--lossless")
        self.assert_same_tensors(fixture.directory, out)


class Sglang(DirectoryCase):
    def test_directories(self):
        for variant, degrees in (("v2-flash", (1, 4, 8)), ("v2.5", (2, 8, 16)), ("v2.5-pro", (4, 16))):
            fixture = ranks.ours(variant)
            for tp in degrees:
                with self.subTest(variant, tp=tp):
                    out = self.convert(fixture.directory, f"{variant}-{tp}", "--to", "sglang", "--tp", tp)
                    self.check(fixture, out, tp)
                    if any(n.endswith("qkv_proj.weight") for n in container.read_directory(out)):
                        self.assertEqual(compare.load_json(out, "config.json")["num_key_value_heads"], tp)

    def test_blocks_of_64_rows_cut_nothing(self):
        """Heads of K are three blocks, those of V two: no block spans two of anything."""
        for variant, tp in (("v2.5", 8), ("v2-flash", 16)):
            with self.subTest(variant):
                fixture = ranks.ours(variant)
                out = self.convert(fixture.directory, variant, "--to", "sglang", "--tp", tp, "--attention", "split",
                                   "--fp8-block", "64x128", "--lossless")
                found = container.read_directory(out)
                self.assertEqual(compare.load_json(out, "config.json")["quantization_config"]["weight_block_size"],
                                 [64, 128])
                for name in (n for n, (dtype, _) in found.items() if dtype == "F8_E4M3"):
                    codes, scales = found[name][1], found[name + "_scale_inv"][1]
                    self.assertEqual(scales.shape[0], -(-codes.shape[0] // 64), name)
                    values = codecs.decode_fp8(codes, scales, np.arange(codes.shape[0]) // 64)
                    self.assertTrue(ranks.same_bits(values, fixture.values[name]), name)


class ValueScale(ToolCase):
    """--fold-value-scale multiplies attention_value_scale into V or o_proj, once."""

    WINDOW = dict(pattern=(1, 1), mtp=1, moe_intermediate=256)

    def folded(self, fixture, where, *options):
        out = self.convert(fixture.directory, "out", "--fold-value-scale", where, *options)
        self.assertIsNone(compare.load_json(out, "config.json").get("attention_value_scale"))
        twice = self.run_tool("mimo-convert", out, self.at("again"), "--fold-value-scale", where, code=(0, 2))
        if twice.code == 0:                                             # refused, or nothing left to fold
            self.assert_same_tensors(out, self.at("again"))
        return out, np.float32(fixture.config["attention_value_scale"])

    def test_bf16(self):
        for where, ending in (("v", "v_proj.weight"), ("o", "o_proj.weight")):
            with self.subTest(where):
                self.setUp()
                fixture = ranks.ours("v2.5", **self.WINDOW)
                out, factor = self.folded(fixture, where, "--dtype", "bf16", "--qkv", "split")
                wanted = container.read_directory(self.convert(fixture.directory, "plain", "--dtype", "bf16", "--qkv",
                                                               "split"))
                for name in (n for n in wanted if n.startswith("model.") and n.endswith(ending)):
                    wanted[name] = ("BF16", codecs.bf16_from_f32(fixture.values[name] * factor))
                self.assert_same_tensors(wanted, out)

    def test_scales_of_v_that_own_their_blocks(self):
        fixture = ranks.ours("v2.5", **self.WINDOW)
        out, factor = self.folded(fixture, "v")
        found, chunk = container.read_directory(out), 3712
        wanted = dict(fixture.tensors)
        for prefix in fixture.prefixes:
            name = prefix + ".qkv_proj.weight_scale_inv"
            scales = wanted[name][1].copy().reshape(4, chunk // 128, -1)
            scales[:, 27:] *= factor                                        # V: the last two blocks of each chunk
            wanted[name] = ("F32", scales.reshape(wanted[name][1].shape))
        self.assert_same_tensors(wanted, found)


    def test_blocks_that_k_and_v_share_are_quantized_again(self):
        fixture = ranks.ours("v2.5")
        out, factor = self.folded(fixture, "v")
        found = ranks.float_values(decode.checkpoint(out, 4))
        for prefix in fixture.prefixes:
            for part, scale in (("q", np.float32(1)), ("k", np.float32(1)), ("v", factor)):
                name = f"{prefix}.{part}_proj.weight"
                wanted = fixture.values[name] * scale
                large = np.abs(wanted) > np.abs(wanted).max() / 4           # half a step of three mantissa bits, twice
                self.assertLess(np.abs(found[name][large] / wanted[large] - 1).max(), 1 / 8, name)
        self.run_tool("mimo-convert", fixture.directory, self.at("refused"), "--fold-value-scale", "v", "--lossless", code=1)


class Experts(DirectoryCase):
    """Experts are not rewritten, so it is enough to see once that ranks cut from the directory get the right ones."""

    def test_cut_and_dealt(self):
        fixture = ranks.ours("v2.5", pattern=(1, 0), experts=10, moe_intermediate=256, mtp=0)
        out = self.convert(fixture.directory, "out", "--to", "vllm", "--tp", 2)
        tensors, config = container.read_directory(out), compare.load_json(out, "config.json")
        for ep in (1, 2):
            judge = ranks.Rank(self, fixture, config)
            for rank in range(2):
                judge.check(sharding.load(tensors, config, 2, rank, ep), 2, rank, ep)


@unittest.skipUnless(checkpoints.external_generator(), "no external generator")
class External(DirectoryCase):
    def test_directories(self):
        for variant, degrees in (("v2-flash", (2, 8)), ("v2.5", (4, 16)), ("v2.5-pro", (8, 32)), ("plain", (8,))):
            fixture = ranks.external(variant)
            for tp in degrees:
                with self.subTest(variant, tp=tp):
                    out = self.convert(fixture.directory, f"{variant}-{tp}", "--to", "vllm", "--tp", tp)
                    self.check(fixture, out, tp)


class SelfCheck(unittest.TestCase):
    """The judge itself, without the converter."""

    def test_ranks_together_are_the_model(self):
        for variant in ("v2.5", "v2.5-pro"):
            fixture = ranks.ours(variant, experts=17)
            values, config = fixture.values, fixture.config
            for tp, ep in ((1, 1), (4, 1), (4, 4), (16, 16), (2, 1)):
                parts = [sharding.rank_values(config, values, tp, r, ep) for r in range(tp)]
                again = reassembled(config, parts, tp, ep)
                self.assertEqual(sorted(again), sorted(values))
                for name in values:
                    self.assertTrue(ranks.same_bits(again[name], values[name]), (variant, tp, ep, name))

    def test_query_heads_meet_their_kv_head(self):
        config = ranks.ours("v2.5").config
        for name, group in (("model.layers.0.self_attn.", 16), ("model.layers.1.self_attn.", 8),
                            ("model.mtp.layers.0.self_attn.", 8)):
            for tp in (1, 2, 4, 8, 16, 32, 64):
                for rank in range(tp):
                    rows = sharding.head_rows(config, name, tp, rank)
                    wanted = {h // group for h in set(rows["q"] // 192)}
                    self.assertEqual(wanted, set(rows["k"] // 192))
                    self.assertEqual(wanted, set(rows["v"] // 128))

    def test_slot_table_of_the_reference(self):
        table = [(64, 4, 1, (96, 6, 4), 106), (64, 4, 2, (48, 3, 2), 53), (64, 4, 4, (24, 2, 1), 27),
                 (64, 4, 8, (12, 2, 1), 15), (64, 4, 16, (6, 2, 1), 9), (64, 4, 32, (3, 2, 1), 6),
                 (64, 8, 1, (96, 12, 8), 116), (64, 8, 4, (24, 3, 2), 29), (64, 8, 8, (12, 2, 1), 15),
                 (128, 8, 1, (192, 12, 8), 212), (128, 8, 8, (24, 2, 1), 27), (128, 8, 16, (12, 2, 1), 15),
                 (128, 8, 64, (3, 2, 1), 6)]
        for heads, kv, tp, sizes, total in table:
            slots, _, scale_rows = sharding.qkv_slots(heads, kv, tp, 0)
            self.assertEqual(tuple(slots[x][3] for x in "qkv"), sizes)
            self.assertEqual(scale_rows, total)
            self.assertEqual(slots["v"][2], sizes[0] + sizes[1])

    def test_chunk_table_of_the_reference(self):
        for heads, kv, chunks, rows, scale_rows in ((64, 4, 4, 13568, 108), (64, 8, 4, 14848, 116),
                                                    (128, 8, 8, 27136, 216)):
            stored = layouts.fused(heads, kv, chunks)["qkv"]
            self.assertEqual((stored.row.size, stored.scale_rows), (rows, scale_rows))

    def test_straddles_of_the_reference(self):
        """Blocks that a degree cuts, by layer kind: mimo-checkpoints, 3.4, and its split tables."""
        flash, pro = ranks.ours("v2.5"), ranks.ours("v2.5-pro")
        kinds = {"ga": (flash, "model.layers.0.self_attn"), "swa": (flash, "model.layers.1.self_attn"),
                 "mtp": (flash, "model.mtp.layers.0.self_attn"), "pro": (pro, "model.layers.0.self_attn")}
        wanted = {("ga", 4): 0, ("ga", 8): 0, ("ga", 32): 0, ("ga", 2): 8, ("ga", 1): 8, ("swa", 1): 0, ("swa", 2): 0,
                  ("swa", 4): 0, ("swa", 8): 12, ("swa", 16): 24, ("mtp", 8): 12, ("pro", 8): 0, ("pro", 16): 0,
                  ("pro", 64): 0, ("pro", 4): 16, ("pro", 1): 16}
        for (kind, tp), blocks in wanted.items():
            fixture, prefix = kinds[kind]
            cells = fixture.cells(prefix)
            found = sum(sharding.straddling(cells, sharding.head_rows(fixture.config, prefix + ".", tp, r))[1]
                        for r in range(tp))
            self.assertEqual(found, blocks, (kind, tp))

    def test_released_files_load_where_the_reference_says(self):
        """V2-Flash at TP 4 gives the truth, at 8 the published error, at 2 wrong K; V2.5 and Pro up to their chunks."""
        flash = ranks.ours("v2-flash")
        stored = {n: v for n, v in flash.tensors.items() if outside_experts(n)}
        v2_5, pro = ranks.ours("v2.5"), ranks.ours("v2.5-pro")
        for fixture, tp, chunks in ((flash, 4, 4), (v2_5, 4, 4), (v2_5, 2, 4), (v2_5, 1, 4), (pro, 8, 8), (pro, 2, 8)):
            mine = {n: v for n, v in fixture.tensors.items() if outside_experts(n)}
            judge = ranks.Rank(self, fixture, fixture.config, lambda prefix, tp: chunks)
            for rank in range(tp):
                judge.check(sharding.load(mine, fixture.config, tp, rank), tp, rank, only=outside_experts)
            self.assertEqual(judge.cuts(tp), 0)
        with self.assertRaisesRegex(sharding.Refused, r"start \(12\) \+ length \(2\) exceeds dimension size \(12\)"):
            for rank in range(8):
                sharding.load(stored, flash.config, 8, rank)
        name = "model.layers.0.self_attn.qkv_proj.weight"
        read = sharding.decode(sharding.load(stored, flash.config, 2, 1))[name]
        true = sharding.rank_values(flash.config, flash.values, 2, 1)[name]
        self.assertFalse(np.array_equal(read[6144:], true[6144:]))
        self.assertTrue(np.array_equal(read[:6144], true[:6144]))
        with self.assertRaisesRegex(sharding.Refused, "slots of v are taken"):
            tall = {n: (d, np.tile(a, (4, 1))) if "_scale" in n else (d, a) for n, (d, a) in stored.items()}
            sharding.load_split_qkv(tall, flash.prefixes[0], 64, 4, 64, 0)


def reassembled(config, parts, tp, ep):
    """The model from its ranks, by concatenation; replicas are compared."""
    result, sizes = {}, {"q": 192, "k": 192, "v": 128}
    for name in parts[0]:
        pieces = [p[name] for p in parts]
        if name.endswith("qkv_proj.weight"):
            heads, kv = sharding.heads_of(config, name)
            share, groups = heads // tp, max(1, kv // tp)
            bounds = np.cumsum([0, share * 192, groups * 192, groups * 128])
            for i, letter in enumerate("qkv"):
                cut = [p[bounds[i]:bounds[i + 1]] for p in pieces]
                if letter != "q" and tp > kv:
                    assert all(np.array_equal(cut[r], cut[r - r % (tp // kv)]) for r in range(tp))
                    cut = cut[::tp // kv]
                result[name.replace("qkv", letter)] = np.concatenate(cut)
                assert result[name.replace("qkv", letter)].shape[0] == (heads if letter == "q" else kv) * sizes[letter]
        elif name.endswith(("w13_weight", "w2_weight")):
            if ep == 1:
                halves = [np.split(p, 2, axis=1) for p in pieces] if "w13" in name else None
                whole = np.concatenate([np.concatenate([h[i] for h in halves], 1) for i in (0, 1)], 1) if halves else \
                    np.concatenate(pieces, 2)
            else:
                whole = np.concatenate(pieces)
            base = name.rpartition(".")[0]
            for expert, matrix in enumerate(whole):
                if "w2" in name:
                    result[f"{base}.{expert}.down_proj.weight"] = matrix
                else:
                    for letter, half in zip(("gate", "up"), np.split(matrix, 2)):
                        result[f"{base}.{expert}.{letter}_proj.weight"] = half
        elif name.endswith("gate_up_proj.weight"):
            halves = [np.split(p, 2) for p in pieces]
            for i, letter in enumerate(("gate", "up")):
                result[name.replace("gate_up", letter)] = np.concatenate([h[i] for h in halves])
        elif name.endswith(("o_proj.weight", "down_proj.weight", "attention_sink_bias")):
            result[name] = np.concatenate(pieces, -1)
        elif name in ("model.embed_tokens.weight", "lm_head.weight"):
            whole = np.concatenate(pieces)
            assert whole.shape[0] == 320 and not whole[300:].any()
            result[name] = whole[:300]
        else:
            assert all(p is pieces[0] or np.array_equal(p, pieces[0]) for p in pieces)
            result[name] = pieces[0]
    return result


if __name__ == "__main__":
    unittest.main()
