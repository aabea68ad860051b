"""Proves that vLLM and SGLang compute with the right rows of what `--to ENGINE --tp T` writes: their own models, linear
layers, expert containers and loaders, out of their wheels, load our directories as rank r of T on the CPU.

What a rank then holds is decoded as its kernels do (codes times the scale of row / 128 of the rank's rows) and compared
with the generator's values: bit for bit, but for blocks that hold rows of several source blocks, whose squared error is
at most that of the engine's own re-quantization of the stock file, where it loads that at all. Rank files are loaded by
vLLM's sharded_state loader and must leave the state that the Hugging Face directory leaves.
Runs in .venv-interop (scripts/setup.sh); MIMO_INTEROP=0 leaves it out.
"""
import contextlib
import functools
import glob
import importlib.util
import io
import json
import logging
import os
import re
import unittest
from unittest import mock

import numpy as np

from harness import checkpoints, engine_models, peers, tools
from harness.case import ToolCase
from reference import container, layouts

# Head counts are the released ones. Experts: no engine takes more ranks than experts.
WIDTHS = dict(hidden=128, experts=32, intermediate=4096, moe_intermediate=2048, vocab=4096, pattern=(0, 1), mtp=1,
              towers=False)
HEADS = {"v2-flash": 64, "v2.5": 64, "v2.5-pro": 128}
STORED = {"v2-flash": "cut:4", "v2.5": "fused:4", "v2.5-pro": "fused:8"}
RANKS = (1, 2, 4, 8, 16, 32)
DTYPES = {"torch.bfloat16": "BF16", "torch.float32": "F32", "torch.float8_e4m3fn": "F8_E4M3", "torch.uint8": "U8"}


def ranks_of(tp):
    """The ends and one in the middle."""
    return sorted({0, tp // 2, tp - 1})


def scaled(codes, scales, rows, columns):
    """float32: 8-bit codes times the scale of their block of rows x columns."""
    codes, scales = codes.float().numpy(), scales.float().numpy()
    return codes * scales[np.arange(codes.shape[-2]) // rows][:, np.arange(codes.shape[-1]) // columns]


def linear(module):
    """float32 values of a loaded linear layer."""
    weight = module.weight.detach()
    if weight.element_size() > 1:
        return weight.float().numpy()
    return scaled(weight, module.weight_scale_inv.detach(), 128, 128)


@functools.cache
def fixture_of(variant):
    return Fixture(variant)


class Fixture:
    def __init__(self, variant):
        self.variant, self.heads = variant, HEADS[variant]
        self.directory, self.model = checkpoints.ours(variant, heads=self.heads, **WIDTHS)
        self.kv, self.real = self.model.spec.kv, (self.heads, *self.model.spec.kv)
        self.intermediate, self.moe_intermediate = WIDTHS["intermediate"], WIDTHS["moe_intermediate"]

    def values(self, name):
        value = self.model.values[name]
        if value.values is not None:
            return value.values
        raw = value.array
        return (raw.astype(np.uint32) << 16).view(np.float32) if value.dtype == "BF16" else raw.astype(np.float32)

    def quantized_rows(self, letter, window, rows):
        """Which of these rows the checkpoint has."""
        heads = self.real[0] if letter == layouts.Q else self.real[1 + window]
        return rows < heads * layouts.head_rows(letter)

    def rank_rows(self, window, tp, rank):
        """Per letter: the model's rows of this rank, in order."""
        kv = self.kv[window]
        share = self.heads // tp
        first, count = (rank * kv // tp, kv // tp) if kv >= tp else (rank // (tp // kv), 1)
        heads = ((rank * share, share), (first, count), (first, count))
        return [np.arange(a * layouts.head_rows(x), (a + n) * layouts.head_rows(x)) for x, (a, n) in enumerate(heads)]

    @functools.cache
    def cells(self, window):
        """Per letter: which stored block of rows each of the model's rows comes from."""
        stored = layouts.parse(STORED[self.variant], self.heads, self.kv[window])
        found = [{}, {}, {}]
        for part in stored.values():
            for letter, row, owner, scale in zip(part.letter, part.row, part.owner, part.scale_row):
                found[letter].setdefault(int(row), (str(owner), int(scale)))
        return found


class Padded(Fixture):
    """The model that --pad makes of a fixture: as its config.json says, zeros behind what there was."""

    def __init__(self, variant, out):
        super().__init__(variant)
        with open(os.path.join(out, "config.json"), encoding="utf-8") as f:
            config = json.load(f)
        self.heads, self.kv = config["num_attention_heads"], (config["num_key_value_heads"],
                                                              config["swa_num_key_value_heads"])
        self.intermediate, self.moe_intermediate = config["intermediate_size"], config["moe_intermediate_size"]
        self.directory = out

    def values(self, name):
        found = super().values(name)
        window = int(".mtp." in name or ".layers.1." in name)
        width = self.moe_intermediate if ".experts." in name else self.intermediate
        shape = list(found.shape)
        for part, axis, size in (("q_proj", 0, self.heads * 192), ("k_proj", 0, self.kv[window] * 192),
                                 ("v_proj", 0, self.kv[window] * 128), ("o_proj", 1, self.heads * 128),
                                 ("attention_sink_bias", 0, self.heads), ("gate_proj", 0, width), ("up_proj", 0, width),
                                 ("down_proj", 1, width)):
            if part in name:
                shape[axis] = size
        return np.pad(found, [(0, a - b) for a, b in zip(shape, found.shape)])

    def cells(self, window):
        stored = layouts.parse(STORED[self.variant], self.real[0], self.real[1 + window])
        found = [{}, {}, {}]
        for part in stored.values():
            for letter, row, owner, scale in zip(part.letter, part.row, part.owner, part.scale_row):
                found[letter].setdefault(int(row), (str(owner), int(scale)))
        return found


class Loaders(ToolCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        peers.require()
        for name in ("sglang", "harness"):
            logging.getLogger(name).setLevel(logging.CRITICAL)

    # ---- attention -------------------------------------------------------------------------------------------------

    def held(self, engine, attention):
        """-> per letter (values, numbers of the rank's blocks that its rows lie in)"""
        import torch
        values = torch.from_numpy(linear(attention.qkv_proj))
        blocks = torch.arange(values.shape[0])[:, None] // 128
        return [(v.numpy(), b.numpy()[:, 0]) for v, b in
                zip(engine.split(attention, values), engine.split(attention, blocks))]

    def errors(self, engine, fixture, attention, window, name, tp, rank):
        """-> squared error of the rank's rows. Asserts that rows of blocks that could move are the truth."""
        requantizes = tp < self.requantized_below(engine, fixture, name)
        rows, cells = fixture.rank_rows(window, tp, rank), fixture.cells(window)
        found = self.held(engine, attention)
        sources = {}
        for letter, (values, blocks) in enumerate(found):
            self.assertEqual(values.shape[0], rows[letter].size, f"{name}: rows of {layouts.LETTERS[letter]}")
            there = fixture.quantized_rows(letter, window, rows[letter])           # zeros fit any scale
            for block, row in zip(blocks[there], rows[letter][there]):
                sources.setdefault(int(block), set()).add(cells[letter][int(row)])
        quantized = attention.qkv_proj.weight.element_size() == 1
        total = 0.0
        for letter, (values, blocks) in enumerate(found):
            truth = fixture.values(f"{name}.{layouts.LETTERS[letter]}_proj.weight")[rows[letter]]
            total += float(np.sum((values.astype(np.float64) - truth) ** 2))
            where = f"{name} {layouts.LETTERS[letter]}, rank {rank} of {tp}"
            if not quantized:
                bf16 = engine_models.as_bf16(truth)
                self.assertTrue(np.array_equal(values, bf16), f"{where}: not the truth in BF16")
                continue
            one = np.array([not requantizes and len(sources.get(int(b), ())) <= 1 for b in blocks])
            self.assertTrue(np.array_equal(values[one].view(np.uint32), truth[one].view(np.uint32)),
                            f"{where}: rows that only moved are not the truth")
            if not one.all():                        # a re-quantized block: E4M3 of amax / 448
                worst = np.abs(values - truth).max(axis=1)[~one]
                block_amax = max(np.abs(v[b == x]).max() for x in set(blocks[~one]) for v, b in found if (b == x).any())
                self.assertLessEqual(worst.max(), block_amax / 14, f"{where}: more than re-quantization")
        return total

    @staticmethod
    def requantized_below(engine, fixture, name):
        """vLLM's drafter puts chunks in order without their scales where K and V of a chunk share a block."""
        return 8 if engine.name == "vllm" and ".mtp." in name and fixture.variant == "v2.5-pro" else 0

    def attentions(self, engine, directory, tp, rank):
        """(module, window, its name in the checkpoint) of every attention; the drafter's last."""
        model = engine.load(directory, tp, rank)
        result = [(layer.self_attn, n, f"model.layers.{n}.self_attn") for n, layer in enumerate(model.model.layers)]
        drafter = engine.load(directory, tp, rank, drafter=True)
        block = drafter.model.mtp.layers["0"] if engine.name == "vllm" else drafter.model.mtp_block
        return model, result + [(block.self_attn, 1, "model.mtp.layers.0.self_attn")]

    def stock(self, engine, fixture, tp, rank):
        """{attention: squared error} of the stock file, where the engine loads it."""
        result = {}
        for drafter in (False, True):
            try:
                model = engine.load(fixture.directory, tp, rank, drafter=drafter)
            except (ValueError, AssertionError, RuntimeError, IndexError):
                continue
            if drafter:
                block = model.model.mtp.layers["0"] if engine.name == "vllm" else model.model.mtp_block
                found = [(block.self_attn, 1, "model.mtp.layers.0.self_attn")]
            else:
                found = [(layer.self_attn, n, f"model.layers.{n}.self_attn")
                         for n, layer in enumerate(model.model.layers)]
            for attention, window, name in found:
                rows = fixture.rank_rows(window, tp, rank)
                result[name] = sum(float(np.sum((v.astype(np.float64) - fixture.values(
                    f"{name}.{layouts.LETTERS[x]}_proj.weight")[rows[x]]) ** 2))
                    for x, (v, _) in enumerate(self.held(engine, attention)))
        return result

    # ---- everything else -------------------------------------------------------------------------------------------

    def check_mlp(self, fixture, module, name, tp, rank):
        width = fixture.intermediate // tp
        mine = np.arange(rank * width, (rank + 1) * width)
        both = np.concatenate([fixture.values(f"{name}.{x}_proj.weight")[mine] for x in ("gate", "up")])
        self.assertTrue(np.array_equal(linear(module.gate_up_proj), both), f"{name}.gate_up_proj, rank {rank} of {tp}")
        down = fixture.values(f"{name}.down_proj.weight")[:, mine]
        self.assertTrue(np.array_equal(linear(module.down_proj), down), f"{name}.down_proj, rank {rank} of {tp}")

    def check_output(self, fixture, attention, name, tp, rank):
        width = fixture.heads * 128 // tp
        mine = slice(rank * width, (rank + 1) * width)
        self.assertTrue(np.array_equal(linear(attention.o_proj), fixture.values(f"{name}.o_proj.weight")[:, mine]),
                        f"{name}.o_proj, rank {rank} of {tp}")

    def check_sinks(self, fixture, attention, name, tp, rank):
        share = fixture.heads // tp
        self.assertTrue(np.array_equal(attention.attention_sink_bias.detach().float().numpy(),
                                       fixture.values(f"{name}.attention_sink_bias")[rank * share:(rank + 1) * share]),
                        f"{name}: sinks, rank {rank} of {tp}")

    def check_experts(self, fixture, module, name, tp, rank, ep=1):
        held = module.experts.routed_experts
        local = WIDTHS["experts"] // ep
        width = fixture.moe_intermediate // (tp // ep)
        mine = np.arange(width) + (rank * width if ep == 1 else 0)
        block = np.gcd(128, width)
        for n in range(local):
            prefix = f"{name}.experts.{n + (rank * local if ep > 1 else 0)}"
            gate_up = np.concatenate([fixture.values(f"{prefix}.{x}_proj.weight")[mine] for x in ("gate", "up")])
            found = scaled(held.w13_weight[n], held.w13_weight_scale_inv[n], block, block)
            self.assertTrue(np.array_equal(found, gate_up), f"{prefix}: w13, rank {rank} of {tp}")
            down = fixture.values(f"{prefix}.down_proj.weight")[:, mine]
            found = scaled(held.w2_weight[n], held.w2_weight_scale_inv[n], block, block)
            self.assertTrue(np.array_equal(found, down), f"{prefix}: w2, rank {rank} of {tp}")

    def check_directory(self, engine, fixture, out, tp, stock=True):
        for rank in ranks_of(tp):
            model, attentions = self.attentions(engine, out, tp, rank)
            errors = self.stock(engine, fixture, tp, rank) if stock else {}
            for attention, window, name in attentions:
                ours = self.errors(engine, fixture, attention, window, name, tp, rank)
                if name in errors:
                    self.assertLessEqual(ours, errors[name], f"{name}, rank {rank} of {tp}: {engine.name} makes a "
                                                            "smaller error of the stock file")
                if window:
                    self.check_sinks(fixture, attention, name, tp, rank)
                self.check_output(fixture, attention, name, tp, rank)
            self.check_mlp(fixture, model.model.layers[0].mlp, "model.layers.0.mlp", tp, rank)
            if engine.name == "vllm":
                self.check_experts(fixture, model.model.layers[1].mlp, "model.layers.1.mlp", tp, rank)

    def check_engine(self, engine):
        for variant in HEADS:
            fixture = fixture_of(variant)
            for tp in RANKS:
                with self.subTest(variant=variant, tp=tp):
                    self.setUp()
                    whole = ("--ep", str(tp)) if tp > 16 else ()         # 16 blocks of expert rows
                    out = self.convert(fixture.directory, "out", "--to", engine.name, "--tp", str(tp), *whole)
                    self.check_directory(engine, fixture, out, tp)

    def test_vllm(self):
        self.check_engine(engine_models.Vllm())

    def test_sglang(self):
        self.check_engine(engine_models.Sglang())

    def test_bf16_attention_loads_everywhere(self):
        fixture = fixture_of("v2.5")
        for engine in (engine_models.Vllm(), engine_models.Sglang()):
            out = self.convert(fixture.directory, engine.name, "--to", engine.name, "--tp", "8", "--attention", "bf16")
            for tp in (2, 8):
                with self.subTest(engine=engine.name, tp=tp):
                    for rank in ranks_of(tp):
                        _, attentions = self.attentions(engine, out, tp, rank)
                        for attention, window, name in attentions:
                            self.errors(engine, fixture, attention, window, name, tp, rank)

    def test_padded(self):
        """TP 3 and 6: heads, columns and rows of zeros behind those of the model."""
        for engine in (engine_models.Vllm(), engine_models.Sglang()):
            for tp in (3, 6):
                with self.subTest(engine=engine.name, tp=tp):
                    self.setUp()
                    source = fixture_of("v2.5").directory
                    out = self.convert(source, "out", "--to", engine.name, "--tp", str(tp), "--pad")
                    self.check_directory(engine, Padded("v2.5", out), out, tp, stock=False)

    # ---- rank files ------------------------------------------------------------------------------------------------

    def test_the_form_table_is_the_engines_state(self):
        """schemas/forms/vllm-0.33.json names exactly what vLLM's model holds, with its dtypes; aliases left out."""
        with open(os.path.join(tools.SOURCE, "schemas", "forms", "vllm-0.33.json"), encoding="utf-8") as f:
            form = json.load(f)
        engine = engine_models.Vllm()
        for ep in (1, 4):
            fixture = fixture_of("v2.5")
            state = engine.state(engine.build(fixture.directory, 4, 1, ep))
            rows = {r["name"] for r in form["tensors"] if not r["mtp"]}
            constants = {c["name"]: c for c in form["constants"] if not c["mtp"]}
            general = {re.sub(r"layers\.\d+\.", "layers.{layer}.", n) for n in state}
            self.assertLessEqual(general, rows | set(constants))
            absent = rows | set(constants)
            absent -= general
            self.assertEqual(sorted(absent), sorted(n for n in rows if re.search(
                r"o_proj\.weight_scale_inv$|weight_scale(_2)?$|input_scale$", n)), "rows for BF16 o_proj and FP8 only")
            for name, tensor in state.items():
                self.assertFalse([n for n in form["never"] if name.endswith(n)], name)
                constant = constants.get(re.sub(r"layers\.\d+\.", "layers.{layer}.", name))
                if constant:
                    found = (DTYPES[str(tensor.dtype)], list(tensor.shape), tensor.item())
                    self.assertEqual(found, (constant["dtype"], constant["shape"], constant["value"]), name)

    def test_template_script(self):
        """scripts/dump_template.py, with the model that vLLM builds; only starting vLLM is left out."""
        engine = engine_models.Vllm()
        loader = importlib.util.spec_from_file_location("dump_template",
                                                        os.path.join(tools.SOURCE, "scripts", "dump_template.py"))
        script = importlib.util.module_from_spec(loader)
        loader.loader.exec_module(script)
        model = engine.build(fixture_of("v2.5").directory, 4, 1)
        dummy = importlib.import_module("vllm.model_executor.model_loader.dummy_loader").DummyModelLoader
        script.capture()
        dummy.load_weights(dummy, model, None)
        out = self.at("template.json")
        with mock.patch.object(script, "states", lambda args: ("0.33.0", [[], script.kept(model)])), \
                contextlib.redirect_stderr(io.StringIO()):
            script.main(["CKPT", "--tp", "2", "--ep", "--ranks", "1", "--out", out])
            for wrong in (["--tp", "2", "--ranks", "2"], ["--tp", "2", "--ranks", "x"], []):
                with self.assertRaises(SystemExit):
                    script.main(["CKPT"] + wrong)
        with open(out, encoding="utf-8") as f:
            made = json.load(f)
        self.assertEqual([made[k] for k in ("engine", "version", "tp", "ep", "rank")], ["vllm", "0.33.0", 2, 2, 1])
        self.assertEqual([t["name"] for t in made["tensors"]], sorted(engine.state(model)))
        self.assertIn({"name": "model.layers.0.self_attn.qkv_proj.weight_scale_inv", "dtype": "F32", "shape": [27, 1]},
                      made["tensors"])

    def test_vllm_sharded_state(self):
        engine = engine_models.Vllm()
        for variant, tp, ep in (("v2.5", 2, 1), ("v2.5", 4, 1), ("v2.5-pro", 16, 1), ("v2-flash", 8, 8)):
            with self.subTest(variant=variant, tp=tp, ep=ep):
                self.setUp()
                fixture = fixture_of(variant)
                out = self.convert(fixture.directory, "ranks", "--to", "vllm", "--format", "sharded-state", "--tp",
                                   str(tp), "--ep", str(ep))
                for rank in ranks_of(tp):
                    model = engine.load_ranks(out, tp, rank, ep)
                    for n, layer in enumerate(model.model.layers):
                        name = f"model.layers.{n}.self_attn"
                        self.errors(engine, fixture, layer.self_attn, n, name, tp, rank)
                        self.check_output(fixture, layer.self_attn, name, tp, rank)
                    self.check_sinks(fixture, model.model.layers[1].self_attn, "model.layers.1.self_attn", tp, rank)
                    self.check_mlp(fixture, model.model.layers[0].mlp, "model.layers.0.mlp", tp, rank)
                    self.check_experts(fixture, model.model.layers[1].mlp, "model.layers.1.mlp", tp, rank, ep)
                    self.check_rest(fixture, model, tp, rank)

    def test_vllm_sharded_state_of_modelopt(self):
        """NVFP4 and MXFP8: its ModelOpt classes hold, under exactly these names, what the files of the rank have."""
        engine = engine_models.Vllm()
        fixture = fixture_of("v2.5")
        for recipe, options in (("nvfp4", ()), ("nvfp4", ("--w4a4", "--input-scale", "0.5")), ("nvfp4-mlp", ()),
                                ("mxfp8", ()), ("nvfp4-experts+mxfp8-attention", ())):
            for tp, ep in ((4, 1), (2, 2)):
                with self.subTest(recipe=recipe, options=options, tp=tp, ep=ep):
                    self.setUp()
                    out = self.convert(fixture.directory, "ranks", "--to", "vllm", "--format", "sharded-state", "--tp",
                                       str(tp), "--ep", str(ep), "--recipe", recipe, *options)
                    for rank in ranks_of(tp):
                        self.check_state(engine, out, tp, rank, ep)

    def check_state(self, engine, out, tp, rank, ep):
        import torch
        state = engine.state(engine.load_ranks(out, tp, rank, ep))
        stored = {}
        for file in sorted(glob.glob(os.path.join(out, f"model-rank-{rank}-part-*.safetensors"))):
            stored.update(container.read(file))
        self.assertEqual(sorted(state), sorted(stored))
        kinds = set()
        for name, (dtype, array) in stored.items():
            held = state[name].detach().contiguous()
            self.assertEqual((DTYPES[str(held.dtype)], tuple(held.shape)), (dtype, array.shape), name)
            self.assertEqual(held.view(torch.uint8).numpy().tobytes() if held.ndim else held.numpy().tobytes()
                             if held.dtype == torch.float32 else held.view(torch.int16).numpy().tobytes(),
                             array.tobytes(), name)
            kinds.add(name.rpartition(".")[2])
        self.assertTrue(any(kind.endswith("weight_scale") for kind in kinds), "no class of ModelOpt was built")

    def check_rest(self, fixture, model, tp, rank):
        share = WIDTHS["vocab"] // tp
        mine = slice(rank * share, (rank + 1) * share)
        gate = model.model.layers[1].mlp.gate
        for found, name, rows in ((model.model.embed_tokens.weight, "model.embed_tokens.weight", mine),
                                  (model.lm_head.weight, "lm_head.weight", mine),
                                  (model.model.norm.weight, "model.norm.weight", slice(None)),
                                  (gate.weight, "model.layers.1.mlp.gate.weight", slice(None)),
                                  (gate.e_score_correction_bias, "model.layers.1.mlp.gate.e_score_correction_bias",
                                   slice(None))):
            self.assertTrue(np.array_equal(found.detach().float().numpy(), fixture.values(name)[rows]),
                            f"{name}, rank {rank} of {tp}")


if __name__ == "__main__":
    unittest.main()
