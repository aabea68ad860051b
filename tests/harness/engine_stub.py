"""Imports a few modules of an inference engine as they are, and a stand-in for every other module of its package.

An engine cannot be installed beside the tests: it wants a GPU build of torch and some gigabytes of packages. What reads
a checkpoint's quantization config needs none of that. scripts/setup.sh extracts those files from the engine's wheel into
.venv-interop/engines/NAME; install() makes `import NAME...` find them there, and finds Stub modules for the rest. An
attribute of a Stub module that is named like a class is an empty class, which can be a base or be asked for by
isinstance(); any other attribute is Nothing. provide() puts something else there, and reexport() says which of a
package's names are those of its extracted modules: __init__ files are never extracted.
"""
import abc
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import types

from harness import tools

ENGINES = os.path.join(tools.SOURCE, ".venv-interop", "engines")

# The extracted files that config parsers need; everything else is a stub for them.
PARSERS = {
    "vllm": {"vllm/" + f for f in (
        "scalar_type.py", "utils/math_utils.py", "model_executor/models/mimo_v2.py",
        "model_executor/layers/quantization/base_config.py", "model_executor/layers/quantization/kv_cache.py",
        "model_executor/layers/quantization/modelopt.py", "model_executor/layers/quantization/utils/quant_utils.py")},
    "sglang": {"sglang/srt/" + f for f in (
        "configs/model_config.py", "layers/modelopt_utils.py", "model_loader/checkpoint_quantization.py",
        "model_loader/weight_utils.py", "models/mimo_v2.py", "models/mimo_v2_nextn.py",
        "layers/quantization/base_config.py", "layers/quantization/fp8.py", "layers/quantization/modelopt_quant.py",
        "layers/quantization/utils.py")},
}


class Nothing:
    """False, empty, and again Nothing whatever is asked of it; as a decorator it is called, and changes nothing."""

    def __call__(self, *args, **kwargs):
        return args[0] if len(args) == 1 and not kwargs and isinstance(args[0], (type, types.FunctionType)) else self

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __bool__(self):
        return False

    def __iter__(self):
        return iter(())

    def __or__(self, other):
        return other

    __ror__ = __or__


class Anything(abc.ABCMeta):
    """Classes of which any attribute exists: members of an enum, constants."""

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Nothing()

    def __or__(cls, other):
        return cls

    __ror__ = __or__


_exports = {}           # (package, name) -> the module that has it


class Stub(types.ModuleType):
    __path__ = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        made = Nothing()
        if (self.__name__, name) in _exports:
            made = getattr(importlib.import_module(_exports[self.__name__, name]), name)
        elif name[0].isupper() and not name.isupper():
            made = Anything(name, (), {"__init__": lambda self, *args, **kwargs: None, "__module__": self.__name__,
                                       "__class_getitem__": classmethod(lambda cls, item: cls)})
        setattr(self, name, made)
        return made


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, package, files):
        self.package, self.files = package, files

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] != self.package:
            return None
        path = name.replace(".", "/") + ".py"
        file = os.path.join(ENGINES, self.package, path)
        if (self.files is None or path in self.files) and os.path.isfile(file):
            return importlib.util.spec_from_file_location(name, file)
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        return Stub(spec.name)

    def exec_module(self, module):
        pass


def source(package, *path):
    """The text of an extracted file that is read, not imported."""
    with open(os.path.join(ENGINES, package, package, *path), encoding="utf-8") as f:
        return f.read()


def install(package, files="parsers"):
    """From here on `import PACKAGE...` finds the extracted modules, and stubs. Once per process. files: "parsers" or
    "all" that were extracted."""
    if not os.path.isdir(os.path.join(ENGINES, package)):
        raise AssertionError(f"no files of {package}: run scripts/setup.sh, or set MIMO_INTEROP=0 to leave these tests out")
    if not any(isinstance(finder, Finder) and finder.package == package for finder in sys.meta_path):
        allowed = PARSERS[package] if files == "parsers" else None
        sys.meta_path.insert(0, Finder(package, allowed))


def provide(module, **attributes):
    """Attributes of a module, before anything imports them from there."""
    made = importlib.import_module(module)
    for name, value in attributes.items():
        setattr(made, name, value)


def reexport(package, **names_of):
    """names_of: {module below the package, __ for a dot: "Name Name"}; imported when asked for."""
    for module, names in names_of.items():
        for name in names.split():
            _exports[package, name] = f"{package}.{module.replace('__', '.')}"


def without_kernels(*modules):
    """The classes that hold kernels keep what they are made with as `made_with`, and choose no kernel: there is no GPU."""
    def keep(self, *args, **kwargs):
        self.made_with = (*args, *kwargs.values())

    for module in modules:
        for name, made in vars(module).items():
            if isinstance(made, type) and made.__module__ == module.__name__ and ("Method" in name or "MoE" in name):
                made.__init__ = keep
