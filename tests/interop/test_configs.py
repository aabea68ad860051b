"""Proves that what config.json and hf_quant_config.json say about quantized weights is what their readers expect:
compressed-tensors parses ours into schemes that match the stored tensors, ModelOpt's own conversion turns our
hf_quant_config.json into the quantization_config that we wrote, and transformers' quantizer configs take both.

Runs in .venv-interop (scripts/setup.sh); MIMO_INTEROP=0 leaves it out.
"""
import json
import os
import re
import unittest
import warnings

from harness import checkpoints, compare, peers, requant
from harness.case import ToolCase
from reference import container

SMALL = dict(pattern=(0, 1), mtp=1, experts=2, towers=False, extremes=False)
MODELOPT = ("nvfp4", "nvfp4-experts", "nvfp4-mlp", "mxfp8", "nvfp4-experts+mxfp8-attention", "nvfp4+fp8-head")
COMPRESSED = ("nvfp4", "nvfp4-mlp", "mxfp4-experts", "mxfp8", "nvfp4-experts+mxfp8-attention", "nvfp4-experts",
              "fp8-all")
NATIVE = ("mxfp4-experts", "fp8-all", "bf16-attention", "fp8-all+head")
EXTRA = {"nvfp4": ((), ("--w4a4",)), "nvfp4-mlp": ((), ("--w4a4", "--input-scale", "0.5"))}


class Configs(ToolCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        peers.require()
        warnings.simplefilter("ignore")

    def outputs(self, recipes, dialect):
        for variant in ("v2.5", "v2-flash"):
            source, _ = checkpoints.ours(variant, **SMALL)
            for recipe in recipes:
                for options in EXTRA.get(recipe, ((),)) if dialect != "native" else ((),):
                    self.context = f"{variant}, {recipe}, {dialect} {options}"
                    self.setUp()
                    out = self.convert(source, "out", "--recipe", recipe, "--dialect", dialect, *options)
                    yield out, compare.load_json(out, "config.json")["quantization_config"]

    context = ""

    def _formatMessage(self, message, standard):
        return f"{self.context}: {super()._formatMessage(message, standard)}"

    def test_modelopts_own_conversion(self):
        """convert_hf_quant_config_format() is what ModelOpt's export writes into config.json."""
        from modelopt.torch.export.convert_hf_config import convert_hf_quant_config_format
        for out, config in self.outputs(MODELOPT, "modelopt"):
            theirs = convert_hf_quant_config_format(compare.load_json(out, "hf_quant_config.json"))
            self.assertEqual(theirs, config)

    def test_compressed_tensors_parses_and_matches(self):
        """Every Linear of the model gets the scheme under which its tensors are stored, or none when it is ignored."""
        from compressed_tensors.quantization import QuantizationConfig
        from compressed_tensors.utils.match import match_name
        word = {"nvfp4": (4, 16), "mxfp4": (4, 32), "mxfp8": (8, 32), "fp8": (8, None)}
        for out, config in self.outputs(COMPRESSED, "compressed-tensors"):
            parsed = QuantizationConfig.model_validate(config)
            self.assertEqual(parsed.quant_method, "compressed-tensors")
            tensors = container.read_directory(out)
            for module, quantized in requant.linear_modules(tensors).items():
                ignored = any(match_name(module, pattern) for pattern in parsed.ignore or ())
                self.assertEqual(ignored, not quantized, module)
                if not quantized:
                    continue
                schemes = [group for group in parsed.config_groups.values()
                           if any(target == "Linear" or match_name(module, target) for target in group.targets)]
                self.assertEqual(len(schemes), 1, module)
                weights = schemes[0].weights
                stored = self.kind(tensors, module)
                self.assertEqual((weights.num_bits, weights.group_size), word[stored], module)
                has_input = module + ".input_global_scale" in tensors
                if stored == "nvfp4":
                    self.assertEqual(schemes[0].input_activations is not None, has_input, module)

    @staticmethod
    def kind(tensors, module):
        if module + ".weight_packed" in tensors:
            return "nvfp4" if module + ".weight_global_scale" in tensors else "mxfp4"
        return "mxfp8" if tensors[module + ".weight_scale"][0] == "U8" else "fp8"

    def test_transformers_quantizer_configs(self):
        """AutoConfig keeps what we wrote; its quantizer classes accept the methods that it knows."""
        from transformers import PretrainedConfig
        from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING as known
        for dialect, recipes in (("compressed-tensors", COMPRESSED[:3]), ("native", NATIVE),
                                 ("modelopt", MODELOPT[:1])):
            for out, config in self.outputs(recipes, dialect):
                loaded = PretrainedConfig.from_pretrained(out)
                self.assertEqual(json.loads(json.dumps(loaded.quantization_config)), config)
                method = config["quant_method"]
                if method == "compressed-tensors":
                    made = known[method].from_dict(dict(config))
                    self.assertEqual(made.quant_method.value if hasattr(made.quant_method,
                                                                        "value") else made.quant_method, method)
                elif method == "fp8":
                    made = known[method].from_dict(dict(config))
                    self.assertEqual(list(made.weight_block_size), config["weight_block_size"])
                    self.assertEqual(sorted(made.modules_to_not_convert), sorted(config["modules_to_not_convert"]))

    def test_compressed_tensors_decompresses_every_module(self):
        """With the parsed scheme, by the compressor that the package itself picks, to the values our decoder gives."""
        import numpy as np

        from compressed_tensors.compressors.base import BaseCompressor
        import torch
        from compressed_tensors.quantization import QuantizationConfig
        from compressed_tensors.utils.match import match_name
        from reference import decode, quantize
        for out, config in self.outputs(("nvfp4", "mxfp8", "mxfp4-experts"), "compressed-tensors"):
            parsed = QuantizationConfig.model_validate(config)
            tensors, values = container.read_directory(out), decode.checkpoint(out)
            for module, quantized in requant.linear_modules(tensors).items():
                if not quantized or not re.search(r"experts\.0\.", module):
                    continue
                scheme = next(group for group in parsed.config_groups.values()
                              if any(target == "Linear" or match_name(module, target) for target in group.targets))
                compressor = BaseCompressor.get_value_from_registry(scheme.format or config["format"])
                state = {}
                for name, (dtype, array) in tensors.items():
                    if name.startswith(module + "."):
                        made = torch.from_numpy(array.copy())
                        state[name[len(module) + 1:]] = made.view(torch.float8_e4m3fn) if dtype == "F8_E4M3" else made
                found = peers.raw(compressor.decompress(state, scheme)["weight"])
                self.assertTrue(np.array_equal(found, quantize.via_bf16(values[module + ".weight"].values)), module)


class Names(ToolCase):
    """No package needed: files named by the configs exist, and nothing that engines glob is left over."""

    def test_files(self):
        source, _ = checkpoints.ours("v2.5", **SMALL)
        for dialect in ("modelopt", "compressed-tensors"):
            out = self.convert(source, "out-" + dialect, "--recipe", "nvfp4", "--dialect", dialect)
            self.assertEqual(os.path.exists(os.path.join(out, "hf_quant_config.json")), dialect == "modelopt")
            self.assertFalse([f for f in os.listdir(out) if f.startswith(".mimo")])


if __name__ == "__main__":
    unittest.main()
