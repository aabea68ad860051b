"""What scalars and vectors hold is read and said: by mimo-inspect, and by mimo-convert before it writes."""
import json
import os
import shutil
import unittest

import numpy as np

from harness import checkpoints
from harness.case import ToolCase
from reference import codecs, container

BIAS = "e_score_correction_bias"


class Health(ToolCase):
    def edited(self, change, variant="v2.5", **options):
        """A copy whose tensors went through change(name, dtype, array) -> (dtype, array) or None: left out."""
        source, _ = checkpoints.ours(variant, **dict(checkpoints.TINY, **options))
        shutil.copytree(source, self.at("in"))
        for file in container.tensor_files(self.at("in")):
            path = self.at("in", file)
            tensors = {n: change(n, d, np.array(a)) for n, (d, a) in container.read(path).items()}
            container.write(path, {n: t for n, t in tensors.items() if t}, {"format": "pt"})
        return self.at("in")

    def findings(self, checkpoint, *options, code=0):
        result = self.run_tool("mimo-inspect", checkpoint, "--json", *options, code=code)
        return {f["id"]: f for f in json.loads(result.stdout)["findings"] if f["id"].startswith("health.")}

    def test_a_good_checkpoint_has_no_finding(self):
        for variant in ("v2-flash", "v2.5", "v2.6"):
            source, _ = checkpoints.ours(variant, **checkpoints.TINY)
            self.assertEqual(self.findings(source), {}, variant)

    def test_router_bias_cast_to_bf16(self):
        def cast(name, dtype, array):
            return ("BF16", codecs.bf16_from_f32(np.full_like(array, 71))) if name.endswith(BIAS) else (dtype, array)
        checkpoint = self.edited(cast)
        found = self.findings(checkpoint)
        self.assertEqual(sorted(found), ["health.constant_router_bias", "health.storage"])
        self.assertIn("BF16", found["health.constant_router_bias"]["evidence"])
        self.assertEqual(found["health.constant_router_bias"]["severity"], "warning")
        result = self.run_tool("mimo-convert", checkpoint, self.at("out"), "--dtype", "bf16", "--qkv", "split")
        self.assertIn("health.constant_router_bias", result.stderr)

    def test_router_bias_constant_in_f32(self):
        checkpoint = self.edited(lambda n, d, a: (d, np.full_like(a, 71)) if n.endswith(BIAS) else (d, a))
        self.assertEqual(sorted(self.findings(checkpoint)), ["health.constant_router_bias"])
        self.assertEqual(self.findings(checkpoint, "--headers-only"), {})
        self.run_tool("mimo-inspect", checkpoint, "--strict", code=1)

    def test_a_nan_in_a_norm_stops_a_conversion_before_it_writes(self):
        def break_norm(name, dtype, array):
            if name == "model.layers.1.input_layernorm.weight":
                array[3] = 0x7FC0
            return dtype, array
        checkpoint = self.edited(break_norm)
        self.assertIn("health.non_finite", self.findings(checkpoint, code=3))
        result = self.run_tool("mimo-convert", checkpoint, self.at("out"), "--dtype", "bf16", code=3)
        self.assertIn("model.layers.1.input_layernorm.weight", result.stderr)
        self.assertFalse(os.path.exists(self.at("out")))

    def test_a_nan_in_a_norm_is_found_by_check_without_a_manifest(self):
        def break_norm(name, dtype, array):
            if name == "model.layers.1.input_layernorm.weight":
                array[3] = 0x7FC0
            return dtype, array
        sound, _ = checkpoints.ours("v2.5", **checkpoints.TINY)
        self.run_tool("mimo-verify", "check", sound)
        result = self.run_tool("mimo-verify", "check", self.edited(break_norm), code=1)
        self.assertIn("health.non_finite", result.stdout + result.stderr)

    def test_gaps_of_input_scales_are_counted_and_filled(self):
        source, _ = checkpoints.ours("v2.5", **dict(checkpoints.TINY, store="nvfp4"))
        shutil.copytree(source, self.at("in"))
        has = []
        for file in container.tensor_files(self.at("in")):
            path = self.at("in", file)
            tensors = {n: (d, np.array(a)) for n, (d, a) in container.read(path).items()}
            for name in list(tensors):
                if name.endswith("weight_scale_2"):
                    has.append(name.replace("weight_scale_2", "input_scale"))
                    if "experts.1.down" not in name:
                        tensors[has[-1]] = ("F32", np.array(0.25, np.float32))
            container.write(path, tensors, {"format": "pt"})
        for name in ("model.safetensors.index.json",):
            os.remove(self.at("in", name))
        found = self.findings(self.at("in"))
        self.assertEqual(sorted(found), ["health.input_scale_gaps"])
        self.assertEqual(found["health.input_scale_gaps"]["count"], 1)
        self.assertIn("model.layers.1.mlp.experts.1.down_proj", found["health.input_scale_gaps"]["evidence"])
        out = self.convert(self.at("in"), "out", "--recipe", "nvfp4-experts", "--w4a4", "--input-scale", "0.5")
        stored = container.read_directory(out)
        for name in has:
            self.assertEqual(float(stored[name][1]), 0.5 if "experts.1.down" in name else 0.25, name)
        self.assertEqual(self.findings(out), {})

    def test_input_scales_that_differ_where_weights_run_as_one(self):
        """gate and up of an expert; between experts, and between up and down, they may differ."""
        source, _ = checkpoints.ours("v2.5", **dict(checkpoints.TINY, store="nvfp4"))
        made = self.convert(source, "made", "--recipe", "nvfp4-experts", "--w4a4", "--input-scale", "0.25")
        os.remove(os.path.join(made, "mimo-manifest.json"))
        self.assertEqual(self.findings(made), {})
        for value, names in ((0.5, ("experts.0.down_proj", "experts.1.up_proj", "experts.1.gate_proj")),
                             (0.125, ("experts.0.up_proj",))):
            for file in container.tensor_files(made):
                path = os.path.join(made, file)
                tensors = {n: (d, np.array(a)) for n, (d, a) in container.read(path).items()}
                for n, (_, a) in tensors.items():
                    if n.endswith(tuple(x + ".input_scale" for x in names)):
                        a[...] = value
                container.write(path, tensors, {"format": "pt"})
            found = self.findings(made)
            self.assertEqual(sorted(found), [] if value == 0.5 else ["health.input_scale_differs"])
        self.assertIn("model.layers.1.mlp.experts.0.", found["health.input_scale_differs"]["evidence"])
        said = self.run_tool("mimo-convert", made, self.at("said"), "--copy")
        self.assertIn("health.input_scale_differs", said.stderr)

    def test_rank_files_hold_what_no_engine_reads(self):
        """Input scales of NVFP4 that nothing uses are NaN or 1 in the state of an engine; those in use are judged there."""
        source, _ = checkpoints.ours("v2.5", **dict(checkpoints.TINY, heads=8, intermediate=256, moe_intermediate=256))
        ranks = ("--to", "vllm", "--format", "sharded-state", "--tp", "2", "--ep", "1")
        for name, options in (("weights", ()), ("both", ("--w4a4", "--input-scale", "0.25"))):
            made = self.convert(source, name, "--recipe", "nvfp4-mlp", *options, "--qkv", "fused:2")
            out = self.convert(made, name + "-ranks", *ranks)
            os.remove(os.path.join(out, "mimo-manifest.json"))
            odd = [n for file in container.tensor_files(out) for n, (d, a) in container.read(os.path.join(out, file)).items()
                   if n.endswith("input_scale") and d == "BF16" and (np.asarray(a) == 0x7FC0).all()]
            self.assertEqual(bool(odd), name == "weights")
            self.assertEqual(self.findings(out), {}, name)
        for file in container.tensor_files(out):
            path = os.path.join(out, file)
            tensors = {n: (d, np.array(a)) for n, (d, a) in container.read(path).items()}
            for n, (d, a) in tensors.items():
                if n == "model.layers.1.input_layernorm.weight":
                    a[3] = 0x7FC0
            container.write(path, tensors, container.read_header(path)[1])
        self.assertEqual(sorted(self.findings(out, code=3)), ["health.non_finite"])

    def test_globals_of_zero_or_nan(self):
        for value in (0.0, np.nan):
            def break_global(name, dtype, array):
                return (dtype, np.full_like(array, value)) if name.endswith("experts.0.up_proj.weight_scale_2") else \
                    (dtype, array)
            shutil.rmtree(self.at("in"), ignore_errors=True)
            checkpoint = self.edited(break_global, store="nvfp4")
            found = self.findings(checkpoint, code=3)
            self.assertIn("health.scale" if value == 0 else "health.non_finite", found)


if __name__ == "__main__":
    unittest.main()
