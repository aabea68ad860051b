"""Proves that vLLM and SGLang take the config.json of dialect modelopt: their own parsers, out of their wheels, accept it,
and what they make of it gives every linear module of their MiMo-V2 models the method for which its weights are stored.

No weight is loaded and no kernel chosen: the models and layers around the parsers are stubs (harness/engine_stub.py).
Runs in .venv-interop (scripts/setup.sh); MIMO_INTEROP=0 leaves it out.
"""
import ast
import importlib
import logging
import re
import unittest
from collections import namedtuple
from types import SimpleNamespace
from unittest import mock

from harness import checkpoints, compare, engine_stub, peers, requant
from harness.case import ToolCase
from reference import container

SMALL = dict(pattern=(0, 1), mtp=1, experts=2, towers=False, extremes=False)
RECIPES = ("nvfp4", "nvfp4-mlp", "nvfp4-experts", "mxfp8", "nvfp4-experts+mxfp8-attention", "nvfp4+fp8-head",
           "nvfp4 --w4a4", "nvfp4-mlp --w4a4")
HALVES = {"q_proj": "qkv_proj", "k_proj": "qkv_proj", "v_proj": "qkv_proj", "gate_proj": "gate_up_proj",
          "up_proj": "gate_up_proj"}
# Both engines make these without a quantization config.
PLAIN = ("gate", "eh_proj")

# What an engine takes for something else than what is stored, and why. Cases ("VARIANT RECIPE") and modules (as the engine
# names them) are patterns that match in full. Nothing else may differ, and each row must still be true.
Known = namedtuple("Known", "engine cases modules stored resolved cause")
KNOWN = (
    Known("vllm", r".* (nvfp4-experts|nvfp4\+fp8-head)", r".*_proj|lm_head", "FP8_PB_WO",
          "FP8_PB_WO of weight, weight_scale",
          "it reads scales of four dimensions, weight_scale; kept blocks have weight_scale_inv of two (docs/recipes.md)"),
    Known("sglang", ".*", r".*\.experts", "W4A16_NVFP4", "NVFP4",
          "one method serves both: input scales that are not stored are 1.0 (and unused by its Marlin kernels)"),
)

Module = namedtuple("Module", "name kind algorithm tensors")


def packed_modules(text, name):
    """packed_modules_mapping of a class, read from its source; {} when it says none, as the loaders take it."""
    made = next(n for n in ast.parse(text).body if isinstance(n, ast.ClassDef) and n.name == name)
    return next((ast.literal_eval(n.value) for n in made.body if isinstance(n, ast.Assign)
                 and n.targets[0].id == "packed_modules_mapping"), {})


def stored_as(tensors, module):
    """-> (what ModelOpt calls it or None, the names of its tensors)"""
    local = sorted(n for n in ("weight", "weight_scale", "weight_scale_2", "weight_scale_inv", "input_scale")
                   if f"{module}.{n}" in tensors)
    if "weight_scale_2" in local:
        return "NVFP4" if "input_scale" in local else "W4A16_NVFP4", local
    if "weight_scale_inv" in local:
        return "FP8_PB_WO", local
    return "MXFP8" if "weight_scale" in local else None, local


def asked_for(tensors):
    """The linear modules of a checkpoint as the engines' models make them: q, k, v and gate, up merged, experts in one."""
    result = {}
    for module in requant.linear_modules(tensors):
        parent, _, leaf = module.rpartition(".")
        algorithm, local = stored_as(tensors, module)
        if leaf in PLAIN:
            assert algorithm is None, module
            continue
        kind = "head" if module == "lm_head" else "linear"
        if ".experts." in parent:
            name, kind = parent.rpartition(".")[0], "experts"
        else:
            name = ".".join(filter(None, (parent, HALVES.get(leaf, leaf))))
        made = Module(name, kind, algorithm, local)
        assert result.setdefault(name, made) == made, f"{module} is stored unlike its siblings"
    return list(result.values())


class Vllm:
    name = "vllm"
    # The model's class, the file of its source, and which modules it has. The drafter shares the config of the model.
    models = (("MiMoV2ForCausalLM", "mimo_v2.py", ""), ("MiMoV2FlashForCausalLM", "mimo_v2.py", ""))

    def __init__(self):
        self.parsers = importlib.import_module("vllm.model_executor.layers.quantization.modelopt")
        self.layers = {"linear": importlib.import_module("vllm.model_executor.layers.linear").LinearBase,
                       "head": self.parsers.ParallelLMHead, "experts": self.parsers.RoutedExperts}
        self.parsers.MXFP8_BLOCK_SIZE = 32                 # of modules that are stubs
        self.parsers.QuantSpec = namedtuple("QuantSpec", "weight activation")
        engine_stub.without_kernels(self.parsers)

    def parse(self, directory, config, model, file):
        classes = [c for c in vars(self.parsers).values() if isinstance(c, type)
                   and issubclass(c, self.parsers.ModelOptQuantConfigBase) and c is not self.parsers.ModelOptQuantConfigBase
                   and c.override_quantization_method(config.quantization_config, None)]
        assert len(classes) == 1, f"{classes} take this config"
        made = classes[0].from_config({**config.quantization_config, "_online_quantization_args": None})
        made.packed_modules_mapping = packed_modules(
            engine_stub.source("vllm", "model_executor", "models", file), model)
        return made

    @staticmethod
    def names(module):
        return module

    def resolved(self, config, module, name):
        layer = self.layers[module.kind]()
        layer.moe_config = None
        method = config.get_quant_method(layer, name)
        kind = type(method).__name__
        if method is None or kind == "UnquantizedLinearMethod":
            return None
        if kind == "ModelOptNvFp4FusedMoE":
            return method.made_with[0].quant_method
        if kind == "ModelOptMxFp8FusedMoE":
            return "MXFP8"
        assert kind == "ModelOptLinearMethod", kind
        spec, ctx = method.made_with[:2]
        known = {algo: self.parsers.resolve(algo, SimpleNamespace(group_size=16), name)[0]
                 for algo in self.parsers.LINEAR_ALGOS}
        algorithm = next(a for a, s in known.items() if s == spec)
        tensors = self.parameters(spec, ctx)
        return algorithm if tensors == module.tensors else f"{algorithm} of {', '.join(tensors)}"

    def parameters(self, spec, ctx):
        """The names under which it expects the tensors of such a module."""
        import torch
        found, p = [], self.parsers
        shapes = p.Shapes([256], 256, torch.bfloat16)
        record = staticmethod(lambda layer, name, *args, **more: found.append(name))
        with mock.patch.object(p.QuantKeyScheme, "register_params", record):
            for key, role in ((spec.weight, p.WEIGHT), (spec.activation, p.ACT)):
                if key is not None:
                    p.SCHEME_FOR[key].create_weights(SimpleNamespace(), role, ctx, shapes, None)
        return sorted(found)


class Sglang:
    name = "sglang"
    models = (("MiMoV2ForCausalLM", "mimo_v2.py", r"model\.layers\.|lm_head"),
              ("MiMoV2FlashForCausalLM", "mimo_v2.py", r"model\.layers\.|lm_head"),
              ("MiMoV2MTP", "mimo_v2_nextn.py", r"model\.mtp\.|lm_head"))

    def __init__(self):
        base = "sglang.srt.layers."
        self.parsers = importlib.import_module(base + "quantization.modelopt_quant")
        self.fp8 = importlib.import_module(base + "quantization.fp8")
        self.loader = importlib.import_module("sglang.srt.model_loader.weight_utils")
        self.model_config = importlib.import_module("sglang.srt.configs.model_config").ModelConfig
        self.layers = {"linear": importlib.import_module(base + "linear").LinearBase,
                       "head": importlib.import_module(base + "vocab_parallel_embedding").ParallelLMHead,
                       "experts": importlib.import_module(base + "moe.fused_moe_triton").FusedMoE}
        self.classes = {"modelopt_fp4": self.parsers.ModelOptFp4Config, "mxfp8": self.fp8.Fp8Config,
                        "modelopt_mixed": self.parsers.ModelOptMixedPrecisionConfig}
        engine_stub.without_kernels(self.parsers, self.fp8)
        drafter = engine_stub.source("sglang", "srt", "models", "mimo_v2_nextn.py")
        self.mtp = re.search(r'mtp_block = .*?prefix=add_prefix\("(\w+)"', drafter, re.DOTALL).group(1)

    def parse(self, directory, config, model, file):
        """ModelConfig decides the method, the loader finds the config: both are theirs."""
        seen = SimpleNamespace(hf_config=config, model_path=directory, is_draft_model=False)
        seen._parse_modelopt_quant_config = lambda c: self.model_config._parse_modelopt_quant_config(seen, c)
        found = self.model_config._parse_quant_hf_config(seen)
        overrides = (c.override_quantization_method(found, None) for c in self.classes.values())
        seen.quantization = next(filter(None, overrides), found["quant_method"])
        packed = packed_modules(engine_stub.source("sglang", "srt", "models", file), model)
        with mock.patch.object(self.loader, "get_quantization_config", self.classes.__getitem__):
            return self.loader.get_quant_config(seen, None, packed)

    def names(self, module):
        """Its drafter has one layer, which is named after no layer of the checkpoint."""
        return re.sub(r"^model\.mtp\.layers\.\d+\.", f"model.{self.mtp}.", module)

    def resolved(self, config, module, name):
        method = config.get_quant_method(self.layers[module.kind](), name)
        kind = type(method).__name__
        if method is None or kind == "UnquantizedLinearMethod":
            return None
        if kind in ("Fp8LinearMethod", "Fp8MoEMethod"):
            made_with = method.made_with[0]
            block = made_with.weight_block_size
            return {(True, (1, 32)): "MXFP8", (False, (128, 128)): "FP8_PB_WO"}[made_with.use_mxfp8, tuple(block)]
        return {"ModelOptFp4LinearMethod": "NVFP4", "ModelOptNvFp4A16LinearMethod": "W4A16_NVFP4",
                "ModelOptNvFp4FusedMoEMethod": "NVFP4"}[kind]


class EngineParsers(ToolCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        peers.require()
        logging.getLogger("sglang").setLevel(logging.ERROR)

    def outputs(self):
        for variant in ("v2.5", "v2-flash"):
            source, _ = checkpoints.ours(variant, **SMALL)
            for recipe in RECIPES:
                self.setUp()
                yield f"{variant} {recipe}", self.convert(source, "out", "--recipe", *recipe.split())

    def differences(self, engine, case, out):
        """-> (the rows of KNOWN that hold, what else differs)"""
        from transformers import PretrainedConfig
        used, wrong, asked = set(), [], asked_for(container.read_directory(out))
        for model, file, part in engine.models:
            config = engine.parse(out, PretrainedConfig.from_dict(compare.load_json(out, "config.json")), model, file)
            for module in asked:
                if not re.match(part, module.name):
                    continue
                name = engine.names(module.name)
                found, wanted = engine.resolved(config, module, name), module.algorithm
                for row in KNOWN:
                    if row.engine == engine.name and row.stored == wanted and re.fullmatch(row.cases, case) and \
                            re.fullmatch(row.modules, name):
                        wanted = row.resolved
                        used.add(row)
                        break
                if found != wanted:
                    wrong.append(f"{engine.name} {model}, {case}: {name} is stored as {module.algorithm}, "
                                 f"resolved as {found}, expected {wanted}")
        return used, wrong

    def check(self, engine):
        engine_stub.install(engine.name)
        made, used, wrong = engine(), set(), []
        for case, out in self.outputs():
            holds, others = self.differences(made, case, out)
            used |= holds
            wrong += others
        if wrong:
            self.fail("\n".join(["KNOWN does not say:"] + wrong))
        self.assertEqual([row for row in KNOWN if row.engine == engine.name and row not in used], [], "reaches nothing")

    def test_vllm(self):
        self.check(Vllm)

    def test_sglang(self):
        self.check(Sglang)


if __name__ == "__main__":
    unittest.main()
