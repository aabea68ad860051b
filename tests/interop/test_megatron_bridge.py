"""Proves that Megatron-Bridge finds in our output what it would have made itself, and shows where it would have made
something else: its own registry of parameter names, its own merging and cutting of weights, its own dequantization, its
own translation of config.json, out of its wheel (harness/bridge_stub.py), beside `--to megatron` and the generator's
truth.

Runs in .venv-interop (scripts/setup.sh); MIMO_INTEROP=0 leaves it out.
"""
import os
import re
import unittest
import warnings

import numpy as np

from harness import bridge_stub, compare, megatron_case, torch_dist
from harness.megatron_case import MegatronCase
from reference import container, megatron
from reference.megatron import HEAD_DIM, V_HEAD_DIM
from reference.model import VARIANTS

# The released head counts; every kind of layer: dense and MoE, both attentions, MTP.
FLASH = dict(heads=64, hidden=128, experts=4, intermediate=256, moe_intermediate=128, vocab=320, pattern=(0, 1, 1, 0),
             mtp=3)
# How the model class of Bridge builds the module that holds a parameter.
MODULES = ((r"word_embeddings\.weight", "VocabParallelEmbedding"), (r"output_layer\.weight", "ColumnParallelLinear"),
           (r"linear_(qkv|fc1)\.(layer_norm_)?weight", "TELayerNormColumnParallelLinear"),
           (r"experts\.linear_fc1\.weight\d+", "TEColumnParallelGroupedLinear"),
           (r"experts\.linear_fc2\.weight\d+", "TERowParallelGroupedLinear"),
           (r"linear_(proj|fc2)\.weight", "TERowParallelLinear"), (r"eh_proj\.weight", "TEColumnParallelLinear"),
           (r"mtp\..*softmax_offset", "MiMoV2FlashMTPTEDotProductAttention"),
           (r"softmax_offset", "MiMoV2FlashTEDotProductAttention"), (r"router\.(weight|expert_bias)", "TopKRouter"),
           (r"norm\.weight", "TENorm"))

# Fields of the provider that differ from Bridge's own translation of the same config.json: ours, Bridge's, why.
INTENDED = {
    "hidden_dropout": (0.0, 0.1, "the model has none; Bridge leaves the default of its base class"),
    "expert_tensor_parallel_size": (1, None, "stated, not derived from the tensor parallel size"),
}


def live_names(key, experts, inner="mtp_model_layer"):
    """The parameters of the running model that a torch_dist key stands for: [(name, expert or None)]."""
    name = key.replace(".transformer_layer.", f".{inner}.")
    if megatron.EXPERTS not in key:
        return [(name, None)]
    return [(name.replace(megatron.EXPERTS, ".mlp.experts.") + str(e), e) for e in range(experts)]


def to_torch(value):
    import torch
    dtype, array = value
    made = torch.from_numpy(np.array(array))
    return made.view({"BF16": torch.bfloat16, "F8_E4M3": torch.float8_e4m3fn}.get(dtype, made.dtype))


def to_bits(tensor):
    import torch
    tensor = tensor.detach().contiguous()
    return tensor.view(torch.uint16 if tensor.element_size() == 2 else torch.uint32).numpy()


def module_of(name):
    return next(kind for pattern, kind in MODULES if re.search(pattern + "$", name))


class BridgeCase(MegatronCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.bridge = bridge_stub.load()
        cls.fixture = megatron_case.ours("v2-flash", **FLASH)
        cls.weights = {n for n in container.read_directory(cls.fixture.directory) if not n.endswith("_scale_inv")}

    def setUp(self):
        super().setUp()
        self.registry = self.bridge.mapping_registry()       # mappings remember process groups

    def written(self, fixture=None, *options):
        out = self.to_megatron(fixture or self.fixture, "out", *options)
        return torch_dist.Checkpoint(torch_dist.iteration_directory(out))

    def lookup(self, live):
        mapping = self.registry.megatron_to_hf_lookup(live)
        self.assertIsNotNone(mapping, f"Bridge has no parameter {live}")
        return mapping

    def module(self, name, weight):
        """The module that Bridge's model class builds for a parameter; its config is that of its layer's attention."""
        config = self.fixture.config
        heads, groups = megatron.geometry(config, "model.mtp." if name.startswith("mtp.")
                                          else f"model.layers.{megatron.layer_number(name) or 0}.")
        return bridge_stub.layer(module_of(name), weight, num_attention_heads=heads, num_query_groups=groups,
                                 kv_channels=HEAD_DIM, v_head_dim=V_HEAD_DIM)


def named(hf_param):
    return list(hf_param.values()) if isinstance(hf_param, dict) else [hf_param]


class Names(BridgeCase):
    def test_every_parameter_and_nothing_else(self):
        """Our keys, as parameters of the running model, are mapped to every weight of the checkpoint exactly once."""
        found = self.mapped(self.written().tensors, FLASH["experts"])
        self.assertEqual(set(found), self.weights)
        self.check_the_way_back(found)

    def test_the_full_size_model(self):
        """The released V2-Flash, 48 layers of 256 experts: the keys of the plan, the names of the index."""
        source, plan = self.at("source"), self.at("plan.json")
        self.run_tool("mimo-synth", "mimo-v2-flash", source, "--sparse", "--quiet")
        self.run_tool("mimo-convert", source, "--to", "megatron", "--dry-run", "--plan-out", plan, "--quiet")
        keys = {re.sub(r"\[[\d,]+\]$", "", output["name"]) for output in compare.load_json(plan)["outputs"]}
        self.assertEqual(len(keys), 457)
        index = compare.load_json(source, "model.safetensors.index.json")["weight_map"]
        self.assertEqual(set(self.mapped(keys, 256)), {n for n in index if not n.endswith("_scale_inv")})

    def mapped(self, keys, experts):
        """{Hugging Face name: the parameter that Bridge maps it to}, of every parameter that the keys stand for."""
        found = {}
        for key in keys:
            for live, _ in live_names(key, experts):
                for name in named(self.lookup(live).hf_param):
                    self.assertNotIn(name, found, f"{live} and {found.get(name)}")
                    found[name] = live
        return found

    def check_the_way_back(self, found):
        """Of all names that Bridge knows for a weight, our output holds exactly one; where its lookup prefers another,
        that is a name which the same weight has in another kind of layer or another version of Megatron-Core."""
        held, preferred = set(found.values()), set()
        for name in self.weights:
            candidates = set()
            for patterns, mapping in self.registry._reverse_patterns:
                if isinstance(patterns, dict):
                    patterns = list(patterns.values())
                for pattern in patterns if isinstance(patterns, list) else [patterns]:
                    match = pattern.match(name) if pattern else None
                    if match:
                        candidates.add(mapping.resolve(match.groups()).megatron_param)
                    elif pattern is None and mapping.hf_param == name:
                        candidates.add(mapping.megatron_param)
            self.assertEqual(candidates & held, {found[name]}, name)
            first = self.registry.hf_to_megatron_lookup(name).megatron_param
            if first != found[name]:
                preferred.add((re.sub(r"\d+", "*", found[name]), re.sub(r"\d+", "*", first)))
        dense_norm = ("decoder.layers.*.mlp.linear_fc*.layer_norm_weight", "decoder.layers.*.pre_mlp_layernorm.weight")
        self.assertIn(dense_norm, preferred)
        for ours, theirs in preferred - {dense_norm}:
            self.assertEqual(ours.replace("mtp_model_layer", "transformer_layer"), theirs)

    def test_both_names_of_the_mtp_layer(self):
        for key in self.written().tensors:
            names = [live_names(key, FLASH["experts"], inner) for inner in ("mtp_model_layer", "transformer_layer")]
            for (one, _), (other, _) in zip(*names):
                self.assertEqual(self.lookup(one).hf_param, self.lookup(other).hf_param, key)


class Values(BridgeCase):
    def compare(self, state, expected_rows):
        """Bridge's import of the weights `state`, parameter by parameter, beside ours. expected_rows: {key: rows that
        differ}. -> ours"""
        found, differing = self.written(), {}
        for key in found.tensors:
            ours = found.array(key)[1]
            for live, expert in live_names(key, FLASH["experts"]):
                mapping = self.lookup(live)
                made = mapping.hf_to_megatron(self.bridge.maybe_modify_loaded_hf_weight(mapping.hf_param, state),
                                              self.module(live, next(iter(state.values()))[:0]))
                one = np.ascontiguousarray(ours if expert is None else ours[expert]).view(
                    np.uint16 if ours.itemsize == 2 else np.uint32)
                theirs = to_bits(made)
                self.assertEqual(theirs.shape, one.shape, live)
                rows = np.flatnonzero((theirs != one).reshape(one.shape[0], -1).any(axis=1))
                if rows.size:
                    differing[live] = rows.tolist()
        self.assertEqual(sorted(differing), sorted(expected_rows))
        for live, rows in expected_rows.items():
            self.assertEqual(differing[live], rows, live)
        return found

    def test_merged_as_bridge_merges(self):
        """From right values: every row of every parameter, Q, K and V of both geometries, gate and up, experts."""
        state = {name: to_torch(value) for name, value in self.fixture.split().items()}
        self.compare(state, {})

    def test_where_bridge_dequantizes_wrongly(self):
        """Bridge takes rows / scale rows for the height of a block. In full-attention layers of V2-Flash K has 2 scale
        rows per head of 192, for its first 128 and its last 64 rows, and the first 64 rows of V lie under the latter:
        so Bridge gives K rows 96 to 127 the next scale, and V rows 0 to 63 that of V's own block. All else agrees, and
        ours is what the generator drew."""
        stored = container.read_directory(self.fixture.directory)
        groups = self.fixture.config["num_key_value_heads"]
        h = FLASH["heads"] // groups
        size = (h + 1) * HEAD_DIM + V_HEAD_DIM
        wrong = [g * size + h * HEAD_DIM + d for g in range(groups)
                 for d in (*range(96, 128), *range(HEAD_DIM, HEAD_DIM + 64))]
        layers = [n for n, window in enumerate(FLASH["pattern"]) if not window]
        expected = {f"decoder.layers.{n}.self_attention.linear_qkv.weight": sorted(wrong) for n in layers}
        found = self.compare({name: to_torch(value) for name, value in stored.items()}, expected)
        truth = self.fixture.megatron()
        for key in expected:
            self.assertTrue(found.array(key)[1].tobytes() == truth[key][1].tobytes(), key)

    def test_a_split_bf16_export_is_read_right(self):
        """What to give Bridge that starts from a Hugging Face directory."""
        split = self.convert(self.fixture.directory, "split", "--dtype", "bf16", "--qkv", "split")
        self.compare({name: to_torch(value) for name, value in container.read_directory(split).items()}, {})

    def test_ranks_get_the_shares_that_bridge_gives(self):
        """Bridge scatters to 2 and 4 ranks what target-layouts, 1.2 and 1.3, call their share of our tensors."""
        found, state = self.written().arrays(), {n: to_torch(v) for n, v in self.fixture.split().items()}
        for parts in (2, 4):
            self.registry = self.bridge.mapping_registry()
            for key, (dtype, ours) in found.items():
                if megatron.split_axis(key) is None:
                    continue
                for live, expert in live_names(key, FLASH["experts"]):
                    whole = ours if expert is None else ours[expert]
                    expected = [megatron.share(whole, megatron.split_axis(key), r, parts,
                                               key.endswith("linear_fc1.weight")) for r in range(parts)]
                    mapping = self.lookup(live)
                    made = bridge_stub.shares(
                        mapping, self.bridge.maybe_modify_loaded_hf_weight(mapping.hf_param, state),
                        self.module(live, to_torch((dtype, expected[0]))), parts)
                    self.assertTrue([to_bits(m).tobytes() for m in made] == [e.tobytes() for e in expected],
                                    f"{live} over {parts}")

    def test_bridge_takes_our_qkv_apart(self):
        found, truth = self.written(), self.fixture.split()
        for key in (k for k in found.tensors if k.endswith("linear_qkv.weight")):
            (live, _), = live_names(key, 0)
            packed = to_torch(found.array(key))
            for name, part in self.lookup(live).megatron_to_hf(packed, self.module(live, packed)).items():
                self.assertTrue(to_bits(part).tobytes() == truth[name][1].tobytes(), name)


class RunConfig(BridgeCase):
    def document(self, directory):
        import yaml
        with open(os.path.join(directory, "run_config.yaml"), encoding="utf-8") as f:
            return yaml.safe_load(f)

    def provider(self, model):
        return bridge_stub.module("megatron.bridge.utils.instantiate_utils").instantiate(dict(model))

    def check_fields(self, ours, theirs, intended=INTENDED):
        """Field by field, those that neither states included."""
        differing = {}
        for field in type(theirs).__dataclass_fields__:
            a, b = (getattr(p, field) for p in (ours, theirs))
            a, b = (list(x) if isinstance(x, tuple) else x for x in (a, b))
            if (a, type(a)) != (b, type(b)):
                differing[field] = (a, b)
        self.assertEqual(differing, {field: both[:2] for field, both in intended.items()})

    def test_every_variant(self):
        """Bridge instantiates its provider from our run_config.yaml, drops nothing of it, accepts it, and every field is
        what its own translation of the source's config.json gives, but for those listed as intended."""
        for variant in VARIANTS:
            with self.subTest(variant):
                self.setUp()
                fixture = megatron_case.ours(variant, **dict(FLASH, heads=128 if variant == "v2.5-pro" else 64))
                run = self.document(self.written(fixture).directory)
                names = container.read_directory(fixture.directory)
                theirs = self.bridge.provider_bridge(bridge_stub.pretrained(fixture.config, names))
                model = run["model"]
                self.assertEqual(set(model) - set(type(theirs).__dataclass_fields__), {"_target_"})
                ours = self.provider(model)
                self.assertIs(type(ours), type(theirs))
                self.check_fields(ours, theirs)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    ours.finalize()
                self.assertEqual(run["checkpoint"], {"save_rng": False, "save_optim": False,
                                                     "fully_parallel_save": True})

    def test_other_dtypes_and_padding(self):
        import torch
        for dtype, made in (("fp16", torch.float16), ("fp32", torch.float32)):
            self.setUp()
            provider = self.provider(self.document(self.written(None, "--dtype", dtype).directory)["model"])
            self.assertEqual((provider.params_dtype, provider.fp16, provider.bf16), (made, dtype == "fp16", False))
        self.setUp()
        found = self.written(None, "--pad", "--tp", "2")
        provider = self.provider(self.document(found.directory)["model"])
        rows = bridge_stub.module("megatron.bridge.utils.vocab_utils").calculate_padded_vocab_size(
            provider.vocab_size, provider.make_vocab_size_divisible_by, provider.tensor_model_parallel_size)
        self.assertTrue(provider.should_pad_vocab)
        self.assertEqual(provider.vocab_size, FLASH["vocab"])
        self.assertEqual(found.tensors["embedding.word_embeddings.weight"].shape[0], rows)

    def test_bridge_reads_the_states(self):
        """Where Bridge looks for them, by its own readers."""
        out = self.to_megatron(self.fixture, "out", "--iteration", "7")
        files = bridge_stub.module("megatron.bridge.training.utils.checkpoint_utils")
        state = bridge_stub.module("megatron.bridge.training.state").TrainState(step=7)
        self.assertEqual(files.read_train_state(files.get_checkpoint_train_state_filename(out, prefix="latest")), state)
        directory = torch_dist.iteration_directory(out)
        self.assertEqual(files.read_train_state(files.get_checkpoint_train_state_filename(directory)), state)
        run = files.read_run_config(files.get_checkpoint_run_config_filename(directory))
        self.assertEqual(run, self.document(directory))


if __name__ == "__main__":
    unittest.main()
