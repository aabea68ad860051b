"""Proves that Megatron-Bridge finds in MiniMax-M2's training checkpoints what it would have made itself: its own
registry of parameter names, its own merging, cutting and dequantization of the release's weights, and its own
translation of config.json, out of its wheel (harness/bridge_stub.py), beside `--to megatron`.

Runs in .venv-interop (scripts/setup.sh); MIMO_INTEROP=0 leaves it out.
"""
import os
import re
import unittest
import warnings

import numpy as np

from harness import bridge_stub, compare, minimax_case, torch_dist
from harness.minimax_case import MiniMaxCase
from reference import minimax_forms

SPEC = dict(seed=12, layers=2, hidden=256, experts=11, heads=48, kv_heads=8, intermediate=384, vocab=320)
MODULES = ((r"word_embeddings\.weight", "VocabParallelEmbedding"), (r"output_layer\.weight", "ColumnParallelLinear"),
           (r"linear_qkv\.(layer_norm_)?weight", "TELayerNormColumnParallelLinear"),
           (r"experts\.linear_fc1\.weight\d+", "TEColumnParallelGroupedLinear"),
           (r"experts\.linear_fc2\.weight\d+", "TERowParallelGroupedLinear"),
           (r"linear_proj\.weight", "TERowParallelLinear"), (r"router\.(weight|expert_bias)", "TopKRouter"),
           (r"[qk]_layernorm\.weight", "_FullDimRMSNorm"), (r"norm\.weight", "TENorm"))
# Fields of the provider that differ from Bridge's own translation of the same config.json: ours, Bridge's, why.
INTENDED = {
    "attention_dropout": (0.0, 0.1, "the model has none; Bridge leaves the default of its base class"),
    "moe_layer_freq": ([1, 1], 1, "as a list it makes core ask for keys layer by layer"),
    "moe_ffn_hidden_size": (384, None, "stated, not derived from ffn_hidden_size"),
    "expert_tensor_parallel_size": (1, None, "stated, not derived from the tensor parallel size"),
}


def live_names(key, experts):
    if ".experts.experts." not in key:
        return [(key, None)]
    return [(key.replace(".experts.experts.", ".experts.") + str(e), e) for e in range(experts)]


def to_torch(value):
    import torch
    dtype, array = value
    made = torch.from_numpy(np.array(array))
    return made.view({"BF16": torch.bfloat16, "F8_E4M3": torch.float8_e4m3fn}.get(dtype, made.dtype))


def to_bits(tensor):
    import torch
    tensor = tensor.detach().contiguous()
    return tensor.view(torch.uint16 if tensor.element_size() == 2 else torch.uint32).numpy()


class BridgeCase(MiniMaxCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.bridge = bridge_stub.load("minimax_m2")
        cls.source = minimax_case.ours(**SPEC)

    def setUp(self):
        super().setUp()
        self.registry = self.bridge.mapping_registry()       # mappings remember process groups

    def written(self, *options):
        out = self.convert(self.source.directory, "out", "--to", "megatron", *options)
        return torch_dist.Checkpoint(torch_dist.iteration_directory(out))

    def lookup(self, live):
        mapping = self.registry.megatron_to_hf_lookup(live)
        self.assertIsNotNone(mapping, f"Bridge has no parameter {live}")
        return mapping

    def module(self, name, weight):
        kind = next(kind for pattern, kind in MODULES if re.search(pattern + "$", name))
        return bridge_stub.layer(kind, weight, num_attention_heads=SPEC["heads"], num_query_groups=SPEC["kv_heads"],
                                 kv_channels=128, hidden_size=SPEC["hidden"])


def named(hf_param):
    return list(hf_param.values()) if isinstance(hf_param, dict) else [hf_param]


class Names(BridgeCase):
    def mapped(self, keys, experts):
        found = {}
        for key in keys:
            for live, _ in live_names(key, experts):
                for name in named(self.lookup(live).hf_param):
                    self.assertNotIn(name, found, f"{live} and {found.get(name)}")
                    found[name] = live
        return found

    def test_every_parameter_and_nothing_else(self):
        self.assertEqual(set(self.mapped(self.written().tensors, SPEC["experts"])), set(self.source.names))

    def test_the_full_size_model(self):
        """M2: 62 layers of 256 experts, the keys of the plan, the names of the index."""
        source, plan = self.at("source"), self.at("plan.json")
        self.run_tool("mimo-synth", "minimax-m2", source, "--sparse", "--quiet")
        self.run_tool("mimo-convert", source, "--to", "megatron", "--dry-run", "--plan-out", plan, "--quiet")
        keys = {re.sub(r"\[[\d,]+\]$", "", output["name"]) for output in compare.load_json(plan)["outputs"]}
        self.assertEqual(len(keys), 3 + 62 * 10)
        index = compare.load_json(source, "model.safetensors.index.json")["weight_map"]
        self.assertEqual(set(self.mapped(keys, 256)), {n for n in index if not n.endswith("_scale_inv")})


class Values(BridgeCase):
    def compared(self, found, state):
        """Parameters whose values Bridge would import otherwise."""
        different = []
        for key in found.tensors:
            ours = found.array(key)[1]
            for live, expert in live_names(key, SPEC["experts"]):
                mapping, one = self.lookup(live), ours if expert is None else ours[expert]
                like = to_torch(("BF16" if one.itemsize == 2 else "F32", one[:0]))
                weights = self.bridge.maybe_modify_loaded_hf_weight(mapping.hf_param, state)
                made = to_bits(mapping.hf_to_megatron(weights, self.module(live, like)))
                if made.shape != one.shape or made.tobytes() != np.ascontiguousarray(one).tobytes():
                    different.append(live)
        return different

    def test_bridge_imports_the_release_as_we_do(self):
        """From its FP8 bytes, by Bridge's own dequantization."""
        state = {name: to_torch(value) for name, value in self.source.stored.items()}
        self.assertEqual(self.compared(self.written(), state), [])

    def test_the_judge_sees_mistakes(self):
        state = {name: to_torch(value) for name, value in self.source.stored.items()}
        base = "model.layers.1.self_attn."
        k, v = state[base + "k_proj.weight"], state[base + "v_proj.weight"]
        scales = [state[base + x + "_proj.weight_scale_inv"] for x in "kv"]
        state.update({base + "k_proj.weight": v, base + "v_proj.weight": k,
                      base + "k_proj.weight_scale_inv": scales[1], base + "v_proj.weight_scale_inv": scales[0]})
        self.assertEqual(self.compared(self.written(), state), ["decoder.layers.1.self_attention.linear_qkv.weight"])

    def test_bridge_takes_our_qkv_apart(self):
        found, plain = self.written(), self.source.plain()
        for key in (k for k in found.tensors if k.endswith("linear_qkv.weight")):
            packed = to_torch(found.array(key))
            parts = self.lookup(key).megatron_to_hf(packed, self.module(key, packed))
            self.assertEqual(len(parts), 3)
            for name, part in parts.items():
                self.assertEqual(to_bits(part).tobytes(), plain[name][1].tobytes(), name)

    def test_ranks_get_the_shares_that_bridge_gives(self):
        state = {name: to_torch(value) for name, value in self.source.plain().items()}
        model = self.written().arrays()
        for parts in (2, 4, 8):
            self.registry = self.bridge.mapping_registry()
            ranks = [minimax_forms.live(self.source.geometry, model, parts, r) for r in range(parts)]
            for key in ("decoder.layers.1.self_attention.linear_qkv.weight",
                        "decoder.layers.0.self_attention.linear_proj.weight", "embedding.word_embeddings.weight"):
                mapping, expected = self.lookup(key), [rank[key] for rank in ranks]
                made = bridge_stub.shares(mapping, self.bridge.maybe_modify_loaded_hf_weight(mapping.hf_param, state),
                                          self.module(key, to_torch(expected[0])), parts)
                self.assertEqual([to_bits(m).tobytes() for m in made],
                                 [np.ascontiguousarray(e[1]).tobytes() for e in expected], f"{key} over {parts}")


class RunConfig(BridgeCase):
    def test_fields(self):
        """Bridge instantiates its provider from our run_config.yaml, drops nothing of it, accepts it, and every field is
        what its own translation of config.json gives, but for those listed as intended."""
        import yaml
        with open(os.path.join(self.written().directory, "run_config.yaml"), encoding="utf-8") as f:
            model = yaml.safe_load(f)["model"]
        config = dict(self.source.config, torch_dtype="bfloat16")
        theirs = self.bridge.provider_bridge(bridge_stub.pretrained(config, self.source.names))
        self.assertEqual(set(model) - set(type(theirs).__dataclass_fields__), {"_target_"})
        ours = bridge_stub.module("megatron.bridge.utils.instantiate_utils").instantiate(dict(model))
        self.assertIs(type(ours), type(theirs))
        differing = {}
        for field in type(theirs).__dataclass_fields__:
            a, b = (getattr(p, field) for p in (ours, theirs))
            if (a, type(a)) != (b, type(b)):
                differing[field] = (a, b)
        self.assertEqual(differing, {field: both[:2] for field, both in INTENDED.items()})
        spec = bridge_stub.module("megatron.bridge.models.minimax_m2.minimax_m2_provider").minimax_m2_layer_spec
        self.assertIs(ours.transformer_layer_spec, spec)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ours.finalize()


if __name__ == "__main__":
    unittest.main()
