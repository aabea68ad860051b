"""Proves that vLLM and SGLang compute with the right rows of MiniMax-M2: their own models, norms, linear layers, expert
containers and loaders, out of their wheels, load our directories and rank files as rank r of T on the CPU.

What a rank then holds is compared with reference/minimax.py, byte for byte: after loading a directory, after loading rank
files, and name by name with the state that the engine builds. Runs in .venv-interop (scripts/setup.sh); MIMO_INTEROP=0
leaves it out.
"""
import json
import logging
import os
import re

import numpy as np

from harness import checkpoints, engine_models, peers, tools
from harness.case import ToolCase
from reference import codecs, container, minimax

# Head counts and expert width are the released ones.
REAL = dict(layers=2, hidden=128, experts=48, heads=48, kv_heads=8, intermediate=1536, vocab=384)
DTYPES = {"torch.bfloat16": "BF16", "torch.float32": "F32", "torch.float8_e4m3fn": "F8_E4M3", "torch.uint8": "U8"}


def ranks_of(tp):
    """The ends, one in the middle and, where KV heads are repeated, one that is not the first of its head."""
    return sorted({0, tp // 2, min(tp // 2 + 1, tp - 1), tp - 1})


def held(state):
    """{name: (dtype, array)} of tensors, as reference/container.py has them."""
    import torch
    out = {}
    for name, tensor in state.items():
        tensor = tensor.detach().contiguous()
        dtype = DTYPES[str(tensor.dtype)]
        bits = {1: torch.uint8, 2: torch.int16}.get(tensor.element_size())
        array = (tensor.reshape(-1).view(bits) if bits else tensor.reshape(-1)).numpy()
        out[name] = (dtype, array.view(np.uint16 if dtype == "BF16" else array.dtype).reshape(tuple(tensor.shape)))
    return out


class MinimaxLoaders(ToolCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        peers.require()
        for name in ("sglang", "harness"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        cls.source = os.path.join(checkpoints.root(), "minimax-loaders")
        cls.tensors = minimax.make_checkpoint(cls.source, 21, **REAL)
        cls.config = minimax.config_of(**REAL)

    def ranks(self, name, *options):
        return self.convert(self.source, name, "--to", "vllm", "--format", "sharded-state", *options)

    def expected(self, tensors, config, tp, rank, ep=1, cache_scales=True):
        found = minimax.rank_state(tensors, config, tp, rank, ep)
        found.update(minimax.rank_constants(config["num_hidden_layers"], cache_scales))
        return found

    def test_vllm_directories(self):
        engine = engine_models.Vllm()
        for tp, ep in ((1, 1), (2, 1), (4, 1), (4, 4), (8, 8), (16, 16), (24, 24), (48, 48)):
            out = self.convert(self.source, f"vllm{tp}-{ep}", "--to", "vllm", "--tp", tp, "--ep", ep)
            for rank in ranks_of(tp):
                with self.subTest(tp=tp, ep=ep, rank=rank):
                    found = held(engine.state(engine.load(out, tp, rank, ep=ep)))
                    self.assert_same_tensors(self.expected(self.tensors, self.config, tp, rank, ep), found)

    def test_vllm_repeats_scales_of_experts(self):
        """Where ranks cut expert blocks: scales of smaller blocks, values as they are."""
        engine = engine_models.Vllm()
        for tp in (8, 16, 24, 48):
            out = self.convert(self.source, f"smaller{tp}", "--to", "vllm", "--tp", tp)
            width = REAL["intermediate"] // tp
            block = int(np.gcd(width, 128))
            for rank in ranks_of(tp):
                with self.subTest(tp=tp, rank=rank):
                    found = held(engine.state(engine.load(out, tp, rank)))
                    expected = self.expected(self.tensors, self.config, tp, rank, ep=tp)
                    experts = {n for n in expected if ".routed_experts." in n}
                    self.assert_same_tensors({n: v for n, v in expected.items() if n not in experts},
                                             {n: v for n, v in found.items() if n not in experts})
                    self.check_values(found, tp, rank, width, block)

    def check_values(self, found, tp, rank, width, block):
        mine = slice(rank * width, (rank + 1) * width)
        for layer in range(REAL["layers"]):
            at = f"model.layers.{layer}.block_sparse_moe.experts."
            for expert in (0, 7, REAL["experts"] - 1):
                values = {w: minimax.values(self.tensors, f"{at}{expert}.{w}.weight") for w in ("w1", "w2", "w3")}
                for stack, wanted in (("w13", np.concatenate([values["w1"][mine], values["w3"][mine]])),
                                      ("w2", values["w2"][:, mine])):
                    stored, scales = (found[f"{at}routed_experts.{stack}_{part}"][1][expert]
                                     for part in ("weight", "weight_scale_inv"))
                    rows, cols = (np.arange(n) // block for n in stored.shape)
                    decoded = codecs.E4M3[stored] * scales[rows][:, cols]
                    self.assertTrue(np.array_equal(decoded, wanted), f"{at}{expert} {stack}")

    def test_vllm_padded(self):
        engine = engine_models.Vllm()
        for tp in (8, 16):
            wide = -(-1536 // (128 * tp)) * 128 * tp
            model, config = minimax.padded(self.tensors, self.config, wide), dict(self.config, intermediate_size=wide)
            out = self.convert(self.source, f"padded{tp}", "--to", "vllm", "--tp", tp, "--pad")
            for rank in ranks_of(tp):
                found = held(engine.state(engine.load(out, tp, rank)))
                self.assert_same_tensors(self.expected(model, config, tp, rank), found)

    def test_vllm_rank_files(self):
        engine = engine_models.Vllm()
        for tp, ep in ((1, 1), (4, 1), (8, 8), (16, 16), (48, 48)):
            out = self.ranks(f"ranks{tp}-{ep}", "--tp", tp, "--ep", ep)
            for rank in ranks_of(tp):
                with self.subTest(tp=tp, ep=ep, rank=rank):
                    found = held(engine.state(engine.load_ranks(out, tp, rank, ep)))
                    self.assert_same_tensors(self.expected(self.tensors, self.config, tp, rank, ep), found)

    def test_vllm_rank_files_of_values(self):
        engine = engine_models.Vllm()
        for tp in (8, 16):
            out = self.ranks(f"values{tp}", "--tp", tp, "--dtype", "bf16")
            for rank in ranks_of(tp):
                found = held(engine.state(engine.load_ranks(out, tp, rank)))
                expected = self.expected(minimax.decoded(self.tensors), self.config, tp, rank, cache_scales=False)
                self.assert_same_tensors(expected, found)

    def test_vllm_modelopt(self):
        """NVFP4 and MXFP8: its ModelOpt classes hold, under exactly these names, what the files of the rank have."""
        engine = engine_models.Vllm()
        for recipe in ("nvfp4", "mxfp8"):
            for tp, ep in ((4, 1), (16, 16)):
                with self.subTest(recipe, tp=tp, ep=ep):
                    out = self.ranks(f"{recipe}{tp}", "--tp", tp, "--ep", ep, "--recipe", recipe)
                    for rank in ranks_of(tp):
                        found = held(engine.state(engine.load_ranks(out, tp, rank, ep)))
                        stored = {}
                        for file in container.tensor_files(out):
                            if file.startswith(f"model-rank-{rank}-part-"):
                                stored.update(container.read(os.path.join(out, file)))
                        self.assert_same_tensors(stored, found)

    def test_vllm_knows_no_mixture(self):
        """It asks for the algorithm of mlp.experts, whatever they are called: experts of a mixture of algorithms get no
        scales, and their files are refused. docs/engines.md says so; should this fail, it need not any more."""
        engine = engine_models.Vllm()
        out = self.ranks("mixture", "--tp", 4, "--recipe", "nvfp4-experts")
        state = engine.state(engine.build(out, 4, 0))
        at = "model.layers.0.block_sparse_moe.experts.routed_experts."
        self.assertEqual(str(state[at + "w13_weight"].dtype), "torch.bfloat16")
        with self.assertRaises((ValueError, KeyError, AssertionError, RuntimeError)) as refused:
            engine.load_ranks(out, 4, 0)
        self.assertRegex(str(refused.exception), "routed_experts|shape|size")

    def test_the_form_table_is_the_engines_state(self):
        with open(os.path.join(tools.SOURCE, "schemas", "forms", "vllm-0.33-minimax.json"), encoding="utf-8") as f:
            form = json.load(f)
        engine = engine_models.Vllm()
        rows, constants = ({r["name"] for r in form[k]} for k in ("tensors", "constants"))
        for tp, ep in ((4, 1), (16, 16)):
            model = engine.build(self.source, tp, 1, ep)
            state = engine.state(model)
            general = {re.sub(r"layers\.\d+\.", "layers.{layer}.", n) for n in state}
            self.assertLessEqual(general, rows | constants)
            absent = (rows | constants) - general
            self.assertEqual(sorted(absent), sorted(n for n in rows if re.search(r"weight_scale(_2)?$|input_scale$", n)))
            for name in state:
                self.assertFalse([n for n in form["never"] if name.endswith(n)], name)
            every = set(model.state_dict()) - set(state)              # what it leaves out are aliases that we name
            self.assertTrue(all(n.endswith(form["aliases"]["renamed"][0]["other"]) for n in every), every)

    def test_sglang_attention(self):
        engine = engine_models.Sglang()
        for tp in (1, 2, 4, 8, 16, 24, 48):
            ep = tp if tp > 4 else 1
            out = self.convert(self.source, f"sglang{tp}", "--to", "sglang", "--tp", tp, "--ep", ep)
            for rank in ranks_of(tp):
                with self.subTest(tp=tp, rank=rank):
                    model = engine.load_minimax(out, tp, rank)
                    found = held({n: t for n, t in model.state_dict().items() if ".attn." not in n})
                    expected = minimax.rank_state(self.tensors, self.config, tp, rank, ep)
                    self.assert_same_tensors({n: v for n, v in expected.items() if ".self_attn." in n}, found)
