"""Runs the cases of checkpoints as people have them ($MIMO_FORMAT_CASES, or ../shared/cases/formats next to the source
tree; skipped where there are none) and asserts the right answer that each script states: decoded bit for bit, carried,
or refused by its true name with nothing written.
"""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

import numpy as np

from harness import compare, tools
from harness.case import ToolCase
from reference import container

CASES = os.environ.get("MIMO_FORMAT_CASES") or os.path.join(tools.SOURCE, os.pardir, "shared", "cases", "formats")
DECODED = ("--dtype", "bf16", "--qkv", "split")
HARMFUL = ("remove the scales", "fetch the shard again", "remove the stale file", "complete the checkpoint")


@unittest.skipUnless(os.path.exists(os.path.join(CASES, "lib.py")), "no cases of other formats here")
class FormatCase(ToolCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.made = tempfile.mkdtemp(prefix="mimo-formats-")
        cls.addClassCleanup(shutil.rmtree, cls.made, ignore_errors=True)

    def case(self, script, *kinds):
        """-> (checkpoint, truth {name: (dtype, array)})"""
        out = os.path.join(self.made, "-".join((script,) + kinds))
        if not os.path.isdir(out):
            subprocess.run([sys.executable, os.path.join(CASES, script + ".py"), out, *kinds], check=True,
                           stdout=subprocess.DEVNULL)
        return os.path.join(out, "checkpoint"), container.read(os.path.join(out, "truth", "truth.safetensors"))

    def config(self, directory):
        with open(os.path.join(directory, "config.json")) as f:
            return json.load(f)

    def decodes(self, checkpoint, truth, *options, name="out", extra=()):
        out = self.convert(checkpoint, name, *(options or DECODED))
        found = container.read_directory(out)
        for tensor in extra:
            found.pop(tensor)
        self.assert_same_tensors(truth, found)
        return out

    def refused(self, checkpoint, *words, options=DECODED, id=True):
        before = compare.tree(checkpoint)
        result = self.run_tool("mimo-convert", checkpoint, self.at("refused"), *options, code=3)
        self.assertFalse(os.path.exists(self.at("refused")))
        for word in words:
            self.assertIn(word, result.stderr)
        for word in HARMFUL:
            self.assertNotIn(word, result.stderr)
        if id:
            self.assertRegex(result.stderr, r"\[[a-z_]+\.[a-z_0-9]+\]")
        self.assertEqual(compare.tree(checkpoint), before)
        return result

    def inspected(self, checkpoint, *options, code=0):
        result = self.run_tool("mimo-inspect", checkpoint, *options, code=code)
        return result.stdout + result.stderr


class Scales(FormatCase):
    def test_bf16_scales(self):
        for dtype in ("BF16", "F16"):
            with self.subTest(dtype):
                checkpoint, truth = self.case("bf16_scales", dtype)
                self.decodes(checkpoint, truth, name="out" + dtype)

    def test_bf16_scales_move(self):
        """Codes and scales as they are, or widened: the values are those of the truth."""
        for dtype in ("BF16", "F16"):
            with self.subTest(dtype):
                checkpoint, truth = self.case("bf16_scales", dtype)
                moved = self.convert(checkpoint, "moved" + dtype, "--qkv", "split")
                self.decodes(moved, truth, "--dtype", "bf16", name="again" + dtype)

    def test_per_channel(self):
        for kind in ("channel-f32", "channel-bf16", "vector-f32", "tensor-f32"):
            for fused in ((), ("fused",)):
                with self.subTest(kind, fused=bool(fused)):
                    checkpoint, truth = self.case("per_channel", kind, *fused)
                    self.decodes(checkpoint, truth, name="-".join(("out", kind) + fused))

    def test_kv_scales_move_with_the_layout(self):
        for kind in ("modelopt", "llmcompressor", "attn"):
            with self.subTest(kind):
                checkpoint, _ = self.case("kv_scales", kind)
                source = container.read_directory(checkpoint)
                scales = {n: t for n, t in source.items() if n.endswith((".k_scale", ".v_scale"))}
                out = self.convert(checkpoint, "out" + kind, "--qkv", "split")
                found = container.read_directory(out)
                carried = {n: t for n, t in found.items() if n.endswith((".k_scale", ".v_scale"))}
                self.assertEqual(len(carried), len(scales))
                values = lambda tensors, last: sorted(float(np.asarray(t[1]).reshape(-1)[0]) for n, t in tensors.items()
                                                      if n.endswith(last))
                for last in (".k_scale", ".v_scale"):
                    self.assertEqual(values(carried, last), values(scales, last))
                self.assertFalse([n for n in carried if "qkv_proj" in n], "split attention has no qkv_proj")
                self.assertIn("kv_cache_scheme", self.config(out)["quantization_config"])

    def test_kv_scales_that_are_declared_alone(self):
        checkpoint, _ = self.case("kv_scales", "declared")
        self.assertIn("kv_cache_scheme", self.inspected(checkpoint))


class Edited(FormatCase):
    def test_merged_in_some_weights(self):
        for kind in ("mixed", "attn"):
            with self.subTest(kind):
                checkpoint, truth = self.case("merged_mixed", kind)
                self.decodes(checkpoint, truth, name="out" + kind)

    def test_stale_scale(self):
        checkpoint, _ = self.case("merged_mixed", "stale")
        self.refused(checkpoint, "model.layers.2.mlp.experts.1.down_proj.weight", "weight_scale_inv", "stale")

    def test_codes_without_scale(self):
        checkpoint, _ = self.case("merged_mixed", "raw")
        self.refused(checkpoint, "model.layers.2.mlp.experts.1.down_proj.weight")

    def test_router_bias(self):
        for kind in ("cast", "constant"):
            with self.subTest(kind):
                checkpoint, _ = self.case("router_bias", kind)
                said = self.inspected(checkpoint, code=(0, 3))
                self.assertIn("e_score_correction_bias", said)
                self.assertIn("constant", said)
                run = tools.run("mimo-convert", checkpoint, self.at("out" + kind), *DECODED)
                self.assertIn("e_score_correction_bias", run.stdout + run.stderr)

    def test_router_bias_of_a_half_precision_model(self):
        checkpoint, truth = self.case("router_bias", "f16-model")
        found = container.read_directory(self.convert(checkpoint, "out", *DECODED))
        for name in (n for n in truth if n.endswith("e_score_correction_bias")):
            self.assertEqual((found[name][0], found[name][1].tobytes()), ("F32", truth[name][1].tobytes()))

    def test_mtp_that_the_index_forgot(self):
        checkpoint, truth = self.case("stray_shards", "mtp")
        run = tools.run("mimo-convert", checkpoint, self.at("out"), *DECODED)
        if run.code == 0:
            self.assert_same_tensors(truth, self.at("out"))
        else:
            self.assertEqual(run.code, 3)

    def test_stale_file(self):
        checkpoint, truth = self.case("stray_shards", "stale")
        out = self.decodes(checkpoint, truth)
        self.assertNotIn("model.safetensors", os.listdir(out))
        self.assertIn("model.safetensors", self.inspected(checkpoint))

    def test_announced_mtp_that_is_not_there(self):
        checkpoint, _ = self.case("stray_shards", "nomtp")
        self.assertRegex(self.inspected(checkpoint, code=(0, 3)), "num_nextn_predict_layers.*3")


class Foreign(FormatCase):
    def test_mlx_bytes(self):
        checkpoint, truth = self.case("mlx", "u8")
        self.decodes(checkpoint, truth)

    def test_mlx_prefixes(self):
        for kind in ("prefix", "nested"):
            with self.subTest(kind):
                checkpoint, truth = self.case("mlx", kind)
                self.decodes(checkpoint, truth, name="out" + kind)
                self.assertIn("language_model.", self.inspected(checkpoint))

    def test_mlx_stacked(self):
        checkpoint, _ = self.case("mlx", "stacked")
        self.refused(checkpoint, "switch_mlp", "stacked")

    def test_modelslim(self):
        for variant in ("v2-flash", "v2.5"):
            with self.subTest(variant):
                checkpoint, _ = self.case("modelslim_int8", variant)
                self.refused(checkpoint, "INT8", "msmodelslim")
                said = self.inspected(checkpoint, code=3)
                for word in ("4 layers + 3 MTP", "I8", "3 files"):
                    self.assertIn(word, said)

    def test_transformers_5(self):
        for kind, words in (("names", ("transformers", "attention_sink_bias")),
                            ("stacked", ("stacked experts as transformers 5 saves them", "save_original_format"))):
            with self.subTest(kind):
                checkpoint, truth = self.case("transformers5", kind)
                run = tools.run("mimo-convert", checkpoint, self.at("out" + kind), *DECODED)
                if run.code == 0:
                    self.assert_same_tensors(truth, self.at("out" + kind))
                else:
                    self.refused(checkpoint, *words)

    def test_what_transformers_5_is_advised_to_do_works(self):
        """The release's config.json, and sinks under their released names."""
        checkpoint, truth = self.case("transformers5", "names")
        release, _ = self.case("modelslim_int8", "v2-flash")  # its config is that of the release, without quantization
        repaired = self.at("repaired")
        os.makedirs(repaired)
        tensors = {n.replace("self_attn.sinks", "self_attn.attention_sink_bias"): t
                   for n, t in container.read_directory(checkpoint).items()}
        container.write(os.path.join(repaired, "model.safetensors"), tensors, {"format": "pt"})
        shutil.copy(os.path.join(release, "config.json"), repaired)
        self.decodes(repaired, truth)


if __name__ == "__main__":
    unittest.main()
