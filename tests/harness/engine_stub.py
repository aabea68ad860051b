"""Imports a few modules of an inference engine as they are, and a stand-in for every other module of its package.

An engine cannot be installed beside the tests: it wants a GPU build of torch and some gigabytes of packages. What reads
a checkpoint's quantization config needs none of that. scripts/setup.sh extracts those files from the engine's wheel into
.venv-interop/engines/NAME; install() makes `import NAME...` find them there, and finds Stub modules for the rest. An
attribute of a Stub module that is named like a class is an empty class, which can be a base or be asked for by
isinstance(); any other attribute is Nothing.
"""
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import types

from harness import tools

ENGINES = os.path.join(tools.SOURCE, ".venv-interop", "engines")


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


class Anything(type):
    """Classes of which any attribute exists: members of an enum, constants."""

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Nothing()

    def __or__(cls, other):
        return cls

    __ror__ = __or__


class Stub(types.ModuleType):
    __path__ = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        made = Nothing()
        if name[0].isupper() and not name.isupper():
            made = Anything(name, (), {"__init__": lambda self, *args, **kwargs: None, "__module__": self.__name__,
                                       "__class_getitem__": classmethod(lambda cls, item: cls)})
        setattr(self, name, made)
        return made


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, package):
        self.package = package

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] != self.package:
            return None
        file = os.path.join(ENGINES, self.package, *name.split(".")) + ".py"
        if os.path.isfile(file):
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


def install(package):
    """From here on `import PACKAGE...` finds the extracted modules, and stubs. Once per process."""
    if not os.path.isdir(os.path.join(ENGINES, package)):
        raise AssertionError(f"no files of {package}: run scripts/setup.sh, or set MIMO_INTEROP=0 to leave these tests out")
    if not any(isinstance(finder, Finder) and finder.package == package for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder(package))


def without_kernels(*modules):
    """The classes that hold kernels keep what they are made with as `made_with`, and choose no kernel: there is no GPU."""
    def keep(self, *args, **kwargs):
        self.made_with = (*args, *kwargs.values())

    for module in modules:
        for name, made in vars(module).items():
            if isinstance(made, type) and made.__module__ == module.__name__ and ("Method" in name or "MoE" in name):
                made.__init__ = keep
