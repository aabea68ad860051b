"""The base of the Megatron tests: checkpoints to convert, the truth of their Megatron form, and everything that must
hold of a torch_dist root that was written for one of them.
"""
import os

import numpy as np

from harness import checkpoints, compare, torch_dist
from harness.case import ToolCase
from reference import container, decode, make, megatron
from reference.model import Model, Spec

TINY = dict(hidden=256, experts=4, intermediate=256, moe_intermediate=128, vocab=320, pattern=(0, 1), mtp=1)
SIDECARS = ("tokenizer.json", "tokenizer_config.json", "merges.txt", "chat_template.jinja", "generation_config.json",
            "README.md")
CONTENT = {"singleton_local_shards": False, "chained_optim_avoid_prefix": True}
TRAIN_STATE = {"step": "I64", "consumed_train_samples": "I64", "skipped_train_samples": "I64",
               "consumed_valid_samples": "I64", "do_train": "BOOL", "do_valid": "BOOL", "do_test": "BOOL"}


class Fixture:
    def __init__(self, directory, stored, qkv=None):
        self.directory, self.qkv = directory, qkv     # qkv: as the generator's spec says it
        self.config = compare.load_json(directory, "config.json")
        self.stored = stored                        # dtype name -> {split HF name: (dtype, array)}
        self.mtp = len(megatron.mtp_layers(stored("bf16")))

    def megatron(self, dtype="bf16"):
        return megatron.full(self.config, self.stored(dtype))

    def split(self, dtype="bf16"):
        """What comes back as a split checkpoint: all but the towers."""
        stored = self.stored(dtype)
        return {n: v for n, v in stored.items() if n not in megatron.dropped(stored)}


def of_model(directory, model):
    return Fixture(directory, lambda dtype: decode.stored_as(model.values, dtype), model.spec.qkv)


def ours(variant, **options):
    return of_model(*checkpoints.ours(variant, **options))


def external(variant, **options):
    directory, truth = checkpoints.external(variant, **options)
    return Fixture(directory, lambda dtype: truth)


def uniform(out, variant="v2.5", layers=3, window=0, **options):
    """All decoder layers alike, as only a homogeneous Megatron model has them."""
    spec = Spec(variant, **dict(TINY, **options, pattern=(window,) * layers))
    spec.moe = [1] * layers
    model = Model(spec)
    directory = os.path.join(out, "uniform")
    make.write(directory, model)
    return of_model(directory, model)


def expected_file(key, layers):
    """Where a key's chunks lie: one file per layer, embeddings and final norm before them, MTP behind."""
    kind, _, rest = key.partition(".layers.")
    if not rest:
        return "__0_1.distcp"
    return f"__0_{2 + int(rest.split('.')[0]) + (layers if kind == 'mtp' else 0)}.distcp"


class MegatronCase(ToolCase):
    def to_megatron(self, fixture, name, *options, **run):
        return self.convert(fixture.directory, name, "--to", "megatron", *options, **run)

    def check(self, fixture, out, dtype="bf16", iteration=0, pad=0):
        """Names, shapes, dtypes and every value; files, trackers, states. -> the torch_dist.Checkpoint"""
        found = torch_dist.Checkpoint(torch_dist.iteration_directory(out))
        self.assertEqual(os.path.basename(found.directory), f"iter_{iteration:07d}")
        torch_dist.check_backend(found.directory)
        truth = fixture.megatron(dtype)
        if pad:
            truth = megatron.with_padded_vocabulary(truth, pad)
        self.assert_same_tensors(truth, found.arrays(), f"{dtype} {out}")
        self.check_extra_states(fixture, found)
        self.check_states(out, found.directory, iteration)
        self.check_root(fixture, out)
        layers = fixture.config["num_hidden_layers"]
        for key, tensor in found.tensors.items():
            self.assertEqual({c.file for c in tensor.chunks}, {expected_file(key, layers)}, key)
        return found

    def check_extra_states(self, fixture, found):
        self.assertEqual(set(found.objects), megatron.extra_states(fixture.config, fixture.mtp))
        self.assertEqual({r[0] for r in found.objects.values()}, {"__0_0.distcp"})
        self.assertEqual(len(set(found.objects.values())), 1, "one item serves all")
        (dtype, array), = found.object(next(iter(found.objects)))
        self.assertEqual((dtype, array.shape), ("U8", (0,)))

    def check_states(self, out, directory, iteration):
        common = torch_dist.load_file(os.path.join(directory, "common.pt"))
        self.assertEqual(common, {"checkpoint_version": 3.0, "iteration": iteration,
                                  "num_floating_point_operations_so_far": 0, "content_metadata": CONTENT})
        for path in (os.path.join(directory, "train_state.pt"), os.path.join(out, "latest_train_state.pt")):
            state = torch_dist.load_file(path, "train_state")
            self.assertEqual({n: v[0] for n, v in state.items() if n in TRAIN_STATE}, TRAIN_STATE, path)
            self.assertEqual(set(state) - set(TRAIN_STATE), {"floating_point_operations_so_far"}, path)
            self.assertIn(state["floating_point_operations_so_far"][0], ("F32", "F64"))
            self.assertTrue(all(v[1].shape == () for v in state.values()))
            self.assertEqual(int(state["step"][1]), iteration)
        with open(os.path.join(out, "latest_checkpointed_iteration.txt"), "rb") as f:
            self.assertEqual(f.read().strip(), str(iteration).encode())
        self.assertTrue(os.path.getsize(os.path.join(directory, "run_config.yaml")))

    def check_root(self, fixture, out):
        """The source's config and index for the way back, what else travels along, and what was left out by name."""
        config = compare.load_json(out, "config.json")
        self.assertIn("mimo_layout", config)
        for name in ("config.json", "model.safetensors.index.json"):
            self.assertEqual(compare.load_json(fixture.directory, name), compare.load_json(out, "mimo-source", name))
        for name in SIDECARS:
            if os.path.exists(os.path.join(fixture.directory, name)):
                with open(os.path.join(fixture.directory, name), "rb") as a, open(os.path.join(out, name), "rb") as b:
                    self.assertEqual(a.read(), b.read(), name)
        self.assertEqual(container.tensor_files(out), [])
        dropped = {d["name"]: d["reason"] for d in compare.load_json(out, "mimo-manifest.json")["dropped"]}
        self.assertEqual(set(dropped), megatron.dropped(fixture.stored("bf16")))
        self.assertTrue(all(dropped.values()))

    def check_whole_chunks(self, found, topology, config):
        """Every rank's share of every tensor is a union of whole chunks."""
        for rank in range(topology.world):
            place = topology.place(rank)
            for key, tensor in found.tensors.items():
                axis, expert = megatron.split_axis(key), megatron.EXPERTS in key
                if axis is None or key.endswith("softmax_offset"):      # small, in one chunk
                    continue
                part, parts = (place.etp, topology.etp) if expert else (place.tp, topology.tp)
                rows = np.arange(tensor.shape[axis + expert])
                mine = megatron.share(rows, 0, part, parts, key.endswith("linear_fc1.weight"))
                for chunk in tensor.chunks:
                    start, size = chunk.offsets[axis + expert], chunk.sizes[axis + expert]
                    inside = np.isin(np.arange(start, start + size), mine)
                    self.assertTrue(inside.all() or not inside.any(), f"{key} {chunk} rank {rank} of {topology}")
