"""Proves that mimo-verify compare judges what other libraries write of the same weights as what it is: files of
transformers' save_pretrained, modelopt's export_hf_checkpoint, compressed-tensors' ModelCompressor, megatron-core's
dist_checkpointing and torch's distributed checkpoints are the same model, bit for bit or within their codec; where the
recipe is one of ours, they are our bytes; and a deliberate mistake in each is found, with its kind.

Runs in .venv-interop (scripts/setup.sh); MIMO_INTEROP=0 leaves it out.
"""
import json
import os
import shutil
import unittest

import numpy as np

from harness import checkpoints, megatron_case, megatron_core, others, peers
from harness.case import ToolCase
from reference import megatron
from reference.megatron import Topology

# Without outliers: packages clip some of those. Experts and MLP are whole blocks.
SMALL = dict(hidden=128, experts=4, heads=8, intermediate=256, moe_intermediate=256, vocab=320, pattern=(0, 1), mtp=0,
             towers=False, extremes=False)
WITHIN = {"values.within-codec"}
EXPERT = "model.layers.1.mlp.experts."
LINEARS = 23                   # weights of attention, of the dense MLP and of 4 experts

# What transformers makes of a config.json: a window that counts the token itself.
CONFIG = {"config.sliding_window"}


class Others(ToolCase):
    tool = "mimo-verify"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        peers.require()

    def report(self, a, b, *options, code=(0, 1)):
        result = self.run_tool("mimo-verify", "compare", a, b, "--json", *options, code=code)
        return json.loads(result.stdout)

    def kinds(self, document, config=CONFIG):
        """{kind: places} of the differences, but for those of config.json that are expected."""
        found = {}
        for difference in document["differences"]:
            if difference["kind"] not in config:
                found.setdefault(difference["kind"], set()).add(difference["place"])
        return found

    def counts(self, document):
        return {k: v for k, v in document["counts"].items() if v}

    def check_counts(self, document):
        """Linear layers are within the codec, and all else is as it was (BF16 that was FP8 before: rounded)."""
        counts = self.counts(document)
        self.assertEqual(counts.pop("within-codec"), LINEARS)
        self.assertLessEqual(set(counts), {"bytes", "rounded"})

    _made = {}

    def once(self, key, make):
        """make(directory) -> what it made, once per process."""
        if key not in self._made:
            self._made[key] = make(os.path.join(checkpoints.root(), f"others{len(self._made)}-{key[0]}"))
        return self._made[key]

    variant, spec = "v2-flash", SMALL

    def original(self):
        return checkpoints.ours(self.variant, **self.spec)[0]

    def decoded(self):
        """The original as split BF16: what every library is given."""
        def make(out):
            self.run_tool("mimo-convert", self.original(), out, "--dtype", "bf16", "--qkv", "split")
            return out
        return self.once(("bf16", self.variant), make)

    def of_ours(self, recipe, *options):
        return self.convert(self.decoded(), "ours-" + recipe, "--recipe", recipe, *options)


class Transformers(Others):
    def saved(self):
        def make(out):
            return others.save_pretrained(others.transformers_model(self.decoded()), out, max_shard_size="1MB")
        return self.once(("transformers",), make)

    def test_the_same_model(self):
        """Experts that it holds in stacks are written one by one again; the bias and the router stay FP32."""
        saved = self.saved()
        self.assertTrue(os.path.exists(os.path.join(saved, "model.safetensors.index.json")))
        document = self.report(self.decoded(), saved)
        self.assertEqual(self.kinds(document), {})
        self.assertEqual(self.counts(document), {"bytes": document["tensors"]})
        document = self.report(self.original(), saved)
        self.assertEqual(self.kinds(document), {})
        self.assertEqual(set(self.counts(document)), {"bytes", "rounded"})

    def test_what_it_leaves_to_others(self):
        """Tokenizer, templates, code and the drafter are not there, which is said and no difference."""
        document = self.report(self.decoded(), self.saved())
        self.assertEqual([k for k in self.kinds(document) if k.startswith("carried.")], [])
        self.assertIn("holds weights and config alone", " ".join(document["notes"]))

    def test_what_its_model_leaves_out(self):
        """It has no MTP layers: all of their tensors are named, and nothing else."""
        source = checkpoints.ours("v2-flash", **dict(SMALL, mtp=1))[0]
        decoded = self.convert(source, "decoded", "--dtype", "bf16", "--qkv", "split")
        saved = others.save_pretrained(others.transformers_model(decoded), self.at("saved"))
        found = self.kinds(self.report(decoded, saved))
        self.assertEqual(set(found), {"tensor.missing"})
        self.assertTrue(all(p.startswith("model.mtp.") for p in found["tensor.missing"]), found)

    def test_stacks_have_their_name(self):
        """Under the names that the model has in memory it is no release's checkpoint, and is refused as what it is."""
        saved = others.save_pretrained(others.transformers_model(self.decoded()), self.at("stacked"),
                                       save_original_format=False)
        result = self.run_tool("mimo-verify", "compare", self.decoded(), saved, code=3)
        self.assertIn("[foreign.stacked_experts]", result.stderr)

    def test_mistakes(self):
        """Made in the model itself: experts in another order, heads of K exchanged, a row multiplied."""
        import torch
        model = others.transformers_model(self.decoded())
        layers = model.model.layers
        with torch.no_grad():
            stack = layers[1].mlp.experts.down_proj
            stack.copy_(stack[[1, 0, 2, 3]].clone())
            keys = layers[0].self_attn.k_proj.weight
            keys.copy_(torch.cat([keys[192:384], keys[:192], keys[384:]]))
            layers[0].mlp.up_proj.weight[7] *= 2
        saved = others.save_pretrained(model, self.at("wrong"))
        found = self.kinds(self.report(self.decoded(), saved))
        self.assertEqual(found, {"experts.permuted": {f"{EXPERT}{e}.down_proj.weight" for e in (0, 1)},
                                 "heads.swapped": {"model.layers.0.self_attn.k_proj.weight"},
                                 "scale.single": {"model.layers.0.mlp.up_proj.weight"}})


class ModelOpt(Others):
    def exported(self, preset):
        return self.once(("modelopt", preset), lambda out: others.modelopt_export(self.decoded(), out, preset))

    def test_within_its_codec(self):
        """NVFP4, MXFP8, MXFP4, FP8 per tensor and per channel, held against the FP8 original, and its BF16."""
        for preset in ("NVFP4_DEFAULT_CFG", "MXFP8_DEFAULT_CFG", "MXFP4_DEFAULT_CFG", "FP8_DEFAULT_CFG",
                       "FP8_PER_CHANNEL_PER_TOKEN_CFG"):
            with self.subTest(preset):
                document = self.report(self.original(), self.exported(preset))
                self.assertEqual(set(self.kinds(document)), WITHIN)
                self.check_counts(document)
                document = self.report(self.decoded(), self.exported(preset), "--within-codec")
                self.assertEqual(self.kinds(document), {})
                self.assertEqual(len(document["measured"]), LINEARS)

    def test_our_bytes(self):
        """The recipe that is theirs gives what they write."""
        theirs = self.exported("NVFP4_EXPERTS_ONLY_CFG")
        document = self.report(self.of_ours("nvfp4-experts"), theirs)
        self.assertEqual(self.counts(document), {"bytes": document["tensors"]})
        self.assertEqual(set(self.kinds(document)), {"input-scale.missing"})      # theirs quantizes inputs too
        theirs = self.exported("MXFP8_DEFAULT_CFG")
        document = self.report(self.of_ours("mxfp8"), theirs)             # ours leaves o_proj alone
        self.assertEqual(self.kinds(document), {"values.within-codec": {
            f"model.layers.{n}.self_attn.o_proj.weight" for n in (0, 1)}})
        self.assertEqual(document["counts"]["bytes"], document["tensors"] - 2)

    def test_what_is_not_read(self):
        """Refused as what they are: NVFP4 in groups of 32; block FP8, whose scales of four dimensions the package itself
        cannot give their names back, so that it leaves all names as transformers has them in memory."""
        for preset, word in (("NVFP4_MLP_WEIGHT_ONLY_CFG", "groups of 32"),
                             ("FP8_2D_BLOCKWISE_WEIGHT_ONLY_CFG", "[foreign.transformers_native]")):
            with self.subTest(preset):
                result = self.run_tool("mimo-verify", "compare", self.decoded(), self.exported(preset), code=3)
                self.assertIn(word, result.stderr)

    def test_mistakes(self):
        """A row of block scales that is another's, codes of gate under the name of up, a global scale doubled."""
        def change(state):
            scales = state[f"{EXPERT}1.down_proj.weight_scale"]
            scales[64:96] = scales[64:96].flip(0)
            for part in ("weight", "weight_scale", "weight_scale_2"):
                gate, up = (f"{EXPERT}2.{x}_proj.{part}" for x in ("gate", "up"))
                state[gate], state[up] = state[up], state[gate]
            state["model.layers.0.mlp.down_proj.weight_scale_2"] *= 2
        theirs = self.exported("NVFP4_DEFAULT_CFG")
        found = self.kinds(self.report(theirs, others.edited(theirs, self.at("wrong"), change)))
        self.assertEqual(found, {"scale.grid": {f"{EXPERT}1.down_proj.weight"},
                                 "rows.gate-up-exchanged": {f"{EXPERT}2.{x}_proj.weight" for x in ("gate", "up")},
                                 "values.scaled": {"model.layers.0.mlp.down_proj.weight"}})


class CompressedTensors(Others):
    """From an original whose attention is fused; MTP layers are left as they are, as is usual."""
    variant, spec = "v2.5", dict(SMALL, mtp=1)

    def saved(self, preset, ignore=(), **options):
        return self.once(("compressed", preset, repr(options)), lambda out: others.compressed_tensors_save(
            self.decoded(), out, preset, ignore=["re:.*mtp.*", *ignore], **options))

    def test_within_its_codec(self):
        """Packed NVFP4 and MXFP4, MXFP8, FP8 per channel and per block, computed in BF16 as the model is."""
        for preset in ("NVFP4A16", "MXFP4A16", "MXFP8A16", "FP8_DYNAMIC", "FP8_BLOCK"):
            with self.subTest(preset):
                document = self.report(self.original(), self.saved(preset))
                self.assertEqual(set(self.kinds(document, ())), WITHIN)
                self.check_counts(document)
                document = self.report(self.decoded(), self.saved(preset), "--within-codec", code=0)
                self.assertEqual(len(document["measured"]), LINEARS)

    def test_our_bytes(self):
        """MXFP4 in BF16, and block FP8 of a model in FP32: what else differs is that it computes in BF16, or in other
        steps (test_encoders)."""
        theirs = self.saved("MXFP4A16", targets=["re:.*experts.*"])
        document = self.report(self.of_ours("mxfp4-experts", "--mx-scale", "even"), theirs, code=0)
        self.assertEqual(self.counts(document), {"bytes": document["tensors"]})
        theirs = self.saved("FP8_BLOCK", f32=True, ignore=["re:.*o_proj"])
        document = self.report(self.of_ours("fp8-all"), theirs, "--exclude", r"\.mtp\.", code=0)
        self.assertEqual(set(self.counts(document)), {"bytes", "values"})       # what is not quantized is FP32

    def test_mistakes(self):
        def lose(state):
            for name in [n for n in state if n.startswith(EXPERT + "3.")]:
                del state[name]

        def swap(state):
            for part in ("weight", "weight_scale"):
                a, b = (f"{EXPERT}{e}.down_proj.{part}" for e in (0, 2))
                state[a], state[b] = state[b], state[a]
            scales = state["model.layers.0.self_attn.o_proj.weight_scale"]
            scales[5] = scales[5] * 4
        theirs = self.saved("FP8_DYNAMIC")
        found = self.kinds(self.report(theirs, others.edited(theirs, self.at("swapped"), swap)))
        self.assertEqual(found, {"experts.permuted": {f"{EXPERT}{e}.down_proj.weight" for e in (0, 2)},
                                 "values.scaled-part": {"model.layers.0.self_attn.o_proj.weight"}})
        result = self.run_tool("mimo-verify", "compare", theirs, others.edited(theirs, self.at("lost"), lose), code=3)
        self.assertIn(EXPERT + "3.", result.stderr)


def mistakes(model):
    """{mistake: tensors with it}: K and V of every group exchanged, experts in another order, a row doubled"""
    qkv = "decoder.layers.1.self_attention.linear_qkv.weight"
    fc2 = "decoder.layers.1.mlp.experts.experts.linear_fc2.weight"
    fc1 = "decoder.layers.0.mlp.linear_fc1.weight"

    def but(key, change):
        array = model[key][1].copy()
        return dict(model, **{key: (model[key][0], np.ascontiguousarray(change(array)))})

    def k_and_v(array):
        return np.concatenate([np.concatenate([g[:-320], g[-128:], g[-320:-128]]) for g in np.split(array, 8)])

    def doubled(array):
        array[7] += 0x80                      # the exponent of BF16
        return array
    return {"k and v": but(qkv, k_and_v), "experts": but(fc2, lambda a: a[[1, 0, 2, 3]]), "row": but(fc1, doubled)}


# What each of them is, and where.
NAMED = {"k and v": ("rows.qkv-exchanged", {f"model.layers.1.self_attn.{x}_proj.weight" for x in "kv"}),
         "experts": ("experts.permuted", {f"{EXPERT}{e}.down_proj.weight" for e in (0, 1)}),
         "row": ("scale.single", {"model.layers.0.mlp.gate_proj.weight"})}


class Training(Others):
    """An FP8 original against what a job that was started from its BF16 saves."""

    def fixture(self):
        return megatron_case.ours("v2.5", **dict(SMALL, mtp=1))

    def place(self, root):
        """An empty iteration below a root, with the config of the model."""
        directory = os.path.join(root, "iter_0000007")
        os.makedirs(directory)
        with open(os.path.join(root, "latest_checkpointed_iteration.txt"), "w", encoding="ascii") as f:
            f.write("7")
        shutil.copyfile(os.path.join(self.fixture().directory, "config.json"), os.path.join(root, "config.json"))
        return directory

    def check_right(self, root):
        for options in ((), ("--within-codec",)):
            document = self.report(self.fixture().directory, root, *options, code=0)
            self.assertEqual(set(self.counts(document)) - {"values"}, {"bytes", "rounded"})

    def check_wrong(self, right, wrong, mistake):
        """Against the original, and against the save without the mistake."""
        kind, places = NAMED[mistake]
        for a in (self.fixture().directory, right):
            found = self.kinds(self.report(a, wrong, code=1))
            self.assertEqual(found, {kind: places})


@unittest.skipUnless(megatron_core.versions(), "no megatron-core")
class MegatronCore(Training):
    def test_saves(self):
        """torch_dist of every release, by two ranks with TP and EP, optimizer beside."""
        fixture = self.fixture()
        model = fixture.megatron()
        for version in megatron_core.versions():
            saved = {"": model, **mistakes(model)}
            roots = {what: self.at(f"{version} {what}") for what in saved}
            megatron_core.World(version, 2).run([
                ("save", (self.place(roots[what]), fixture.config, tensors, Topology(2, 1, 2, 1, 2), fixture.mtp))
                for what, tensors in saved.items()])
            with self.subTest(version):
                self.check_right(roots[""])
            for mistake in NAMED:
                with self.subTest(version, mistake=mistake):
                    self.check_wrong(roots[""], roots[mistake], mistake)


class TorchDistributed(Training):
    def saved(self, name, model, change=None):
        """What Megatron FSDP saves (fsdp_dtensor), by torch's own dcp.save."""
        import torch
        import torch.distributed.checkpoint as dcp
        types = {"BF16": torch.bfloat16, "F32": torch.float32}
        state = {}
        for key, (dtype, array) in megatron.fsdp(model).items():
            state[key] = torch.from_numpy(np.ascontiguousarray(array).copy()).view(types[dtype])
        state["optimizer.state.module.embedding.word_embeddings.weight.exp_avg"] = torch.ones(320, 128)
        if change:
            change(state)
        with others.quiet():
            dcp.save(state, checkpoint_id=self.place(self.at(name)), no_dist=True)
        return self.at(name)

    def test_saves(self):
        model = self.fixture().megatron()
        right = self.saved("right", model)
        self.check_right(right)
        for mistake, tensors in mistakes(model).items():
            with self.subTest(mistake):
                self.check_wrong(right, self.saved("wrong " + mistake, tensors), mistake)

    def test_an_expert_is_missing(self):
        def lose(state):
            for key in [k for k in state if ".layers.1.mlp.experts.linear_fc" in k and "weight3" in k]:
                del state[key]
        wrong = self.saved("lost", self.fixture().megatron(), lose)
        result = self.run_tool("mimo-verify", "compare", self.fixture().directory, wrong, code=3)
        self.assertRegex(result.stderr, r"layers\.1\..*experts")


if __name__ == "__main__":
    unittest.main()
