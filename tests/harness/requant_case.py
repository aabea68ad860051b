"""The base of the re-quantization tests."""
import os

from harness import compare, requant
from harness.case import ToolCase
from reference import container


def chunks_of(model):
    """How many chunks the attention of a generated model is cut from."""
    kind, _, chunks = model.spec.qkv.partition(":")
    return int(chunks) if kind in ("fused", "cut") else None


class RequantCase(ToolCase):
    """check(source, recipe): everything that must hold of one re-quantization."""

    def check(self, source, recipe, chunks=None, options=(), **account):
        out = self.convert(source, "out", "--recipe", recipe, *options)
        expected = requant.expected(source, recipe, chunks=chunks, **account)
        self.assert_same_tensors(expected.tensors, out, recipe)
        problems = compare.index_problems(out)
        if compare.index_problems(source):     # unchanged files keep what the source's own metadata lacks
            problems = [line for line in problems if "format: pt" not in line]
        self.assertEqual(problems, [], recipe)
        manifest = compare.load_json(out, "mimo-manifest.json")
        self.assertEqual((manifest["totals"]["encoded_blocks"], manifest["totals"]["exact_blocks"]),
                         (expected.encoded[0], expected.exact[0]), recipe)
        self.check_globals(out)
        self.check_config(out, expected, account.get("dialect") or requant.recipe(recipe)["dialect"])
        self.run_tool("mimo-verify", "check", out)
        return out, expected

    def check_globals(self, out):
        """Gate and up of an expert and of a dense layer, and q, k, v, bit for bit, whatever `expected` says."""
        seen = {}
        for name, (_, array) in container.read_directory(out).items():
            if name.endswith((".weight_scale_2", ".weight_global_scale")):
                seen.setdefault(requant.group_key(name.rsplit(".", 1)[0]), set()).add(array.tobytes())
        self.assertTrue(all(len(values) == 1 for values in seen.values()))

    def check_config(self, out, expected, dialect):
        linear = requant.linear_modules(expected.tensors)
        unquantized = {module for module, quantized in linear.items() if not quantized}
        self.assertEqual({m for m, quantized in linear.items() if quantized}, set(expected.quantized))
        config = compare.load_json(out, "config.json").get("quantization_config")
        if not expected.quantized:
            self.assertIsNone(config)
            return
        if dialect == "native":
            self.assertEqual(config["quant_method"], "fp8")
            self.assertEqual(sorted(config["ignored_layers"]), sorted(config["modules_to_not_convert"]))
            lists = [config["ignored_layers"]]
            four = "mxfp4" in expected.quantized.values()
            self.assertEqual((config.get("store_dtype") == "mxfp4", config.get("mxfp4_block_size")),
                             (four, 32 if four else None))
        elif dialect == "modelopt":
            self.assertEqual(config["quant_method"], "modelopt")
            own = compare.load_json(out, "hf_quant_config.json")["quantization"]
            self.assertEqual(sorted(config["ignore"]), sorted(own["exclude_modules"]))
            self.assertEqual(config["quant_algo"], own["quant_algo"])
            self.check_algorithms(own, expected)
            lists = [config["ignore"], own["exclude_modules"]]
        else:
            self.assertEqual(config["quant_method"], "compressed-tensors")
            lists = [config["ignore"]]
        if dialect != "modelopt":
            self.assertFalse(os.path.exists(os.path.join(out, "hf_quant_config.json")))
        if dialect == "native":           # the family's lists name neither its routers, nor lm_head, nor towers
            unquantized = {m for m in unquantized if requant.role_of(m) not in ("router", "lm_head", None)}
        for patterns in lists:
            self.assertEqual({m for m in linear if requant.listed(patterns, m)}, unquantized)
            self.assertEqual(len(patterns), len(set(patterns)))

    def check_algorithms(self, own, expected, w4a4=False):
        word = {"nvfp4": "NVFP4" if w4a4 else "W4A16_NVFP4", "mxfp8": "MXFP8", "fp8": "FP8_PB_WO"}
        size = {"nvfp4": 16, "mxfp8": 32, "fp8": 128}
        kinds = set(expected.quantized.values())
        self.assertEqual(own["quant_algo"], word[kinds.pop()] if len(kinds) == 1 else "MIXED_PRECISION")
        if own["quant_algo"] != "MIXED_PRECISION":
            return
        for module, kind in expected.quantized.items():
            entry = own["quantized_layers"].get(module) or own["quantized_layers"].get(module.split(".experts.")[0]
                                                                                       + ".experts")
            self.assertEqual(entry, {"quant_algo": word[kind], "group_size": size[kind]}, module)
