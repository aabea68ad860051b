"""Megatron-Bridge's conversion of MiMo-V2-Flash and of MiniMax-M2, run without a GPU, Transformer Engine or an installed Megatron.

scripts/setup.sh extracts the modules below from the wheels of megatron-bridge and megatron-core; engine_stub.py imports
them as they are and stands in for everything around them. What is Bridge's own here: the registry of parameter names,
the merging of Q, K and V and of gate and up, the dequantization of FP8, the translation of config.json, the provider
class with all its fields and their validation, and the readers of run_config.yaml and train_state.pt.
"""
import importlib
import os
import sys
import types
import unittest
from types import SimpleNamespace

from harness import engine_stub

PACKAGE = "megatron"
CONVERSION = "megatron.bridge.models.conversion"
FAMILIES = "megatron.bridge.models"
BRIDGES = {"mimo_v2_flash": "MiMoV2FlashBridge", "minimax_m2": "MiniMaxM2Bridge"}


class Group:
    """A process group of which this process is one rank."""

    def __init__(self, size=1, rank=0):
        self.size, self.rank = size, rank


def load(family="mimo_v2_flash"):
    """-> Bridge's bridge of a family, by its folder. Call it before anything else imports `megatron`."""
    if os.environ.get("MIMO_INTEROP") == "0":
        raise unittest.SkipTest("MIMO_INTEROP=0: Megatron-Bridge is not wanted")
    engine_stub.install(PACKAGE, "all")
    engine_stub.provide("megatron.core.utils", get_pg_rank=lambda group: group.rank if group else 0,
                        get_pg_size=lambda group: group.size if group else 1)
    if "torch.utils.tensorboard.writer" not in sys.modules:        # for the type of a logger that nobody makes
        for name in ("torch.utils.tensorboard", "torch.utils.tensorboard.writer"):
            sys.modules[name] = types.ModuleType(name)
        sys.modules[name].SummaryWriter = object
    # A module that is asked for by name of a package whose __init__ is never extracted.
    module(CONVERSION).quantization_utils = module(f"{CONVERSION}.quantization_utils")
    bridge = getattr(module(f"{FAMILIES}.{family}.{family}_bridge"), BRIDGES[family])()
    mapping = module(f"{CONVERSION}.param_mapping")
    # Otherwise ModelOpt would be imported for it, and take the stand-ins for an installed Megatron.
    mapping.is_modelopt_dynamic_module = lambda layer: False
    mapping.get_module_and_param_from_name = lambda layer, name: (layer, layer.weight)
    return bridge


def module(name):
    return importlib.import_module(name)


def pretrained(config, names):
    """What Bridge makes of a Hugging Face directory: config.json's keys as attributes, and the tensor names.
    transformers gives the dtype under its older name as well."""
    source = SimpleNamespace(get_all_keys=lambda: list(names))
    config = {"torch_dtype": config.get("dtype"), **config}
    return SimpleNamespace(config=SimpleNamespace(**config), state=SimpleNamespace(source=source))


def layer(kind, weight, **config):
    """A module of the model as a mapping sees it: its class name says how it is parallel, its config the geometry;
    `weight` is a rank's share of the parameter, of which shape and dtype count."""
    return type(kind, (), {"config": SimpleNamespace(**config), "weight": weight})()


def shares(mapping, weights, module_of_rank, parts):
    """What Bridge gives each of `parts` ranks of the tensor (or expert tensor) group."""
    if parts == 1:
        return [mapping.hf_to_megatron(weights, module_of_rank)]
    found = []
    base = module(f"{CONVERSION}.param_mapping").MegatronParamMapping

    def scatter(self, splits, *shape_and_type):
        found.extend(splits)
        return splits[0]

    group, original = Group(parts), base.scatter_to_tp_ranks
    mapping.set_process_groups_from_pg_collection(SimpleNamespace(tp=group, expt_tp=group))
    base.scatter_to_tp_ranks = scatter
    try:
        mapping.hf_to_megatron(weights, module_of_rank)
    finally:
        base.scatter_to_tp_ranks = original
    return found
