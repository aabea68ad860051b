"""Checkpoints to work on: ours, cached per process, and an external generator's when there is one."""
import atexit
import os
import shutil
import subprocess
import sys
import tempfile

from harness import tools
from reference import container, make

_root = None
_made = {}

# Small enough for tests that need a fresh copy each time.
TINY = dict(hidden=256, experts=2, heads=8, intermediate=128, moe_intermediate=128, vocab=64, pattern=(0, 1), mtp=1,
            towers=False)


def root():
    global _root
    if _root is None:
        _root = tempfile.mkdtemp(prefix="mimo-fixtures-")
        atexit.register(shutil.rmtree, _root, ignore_errors=True)
    return _root


def ours(variant, **options):
    """-> (checkpoint directory, Model). Read only: copy it before changing it."""
    key = (variant, repr(sorted(options.items())))
    if key not in _made:
        out = os.path.join(root(), f"own{len(_made)}-{variant}")
        _made[key] = (os.path.join(out, "checkpoint"), make.make(out, variant, **options))
    return _made[key]


def external_generator():
    """Path of make_fixture.py: $MIMO_FIXTURES (the file or its folder), or next to the source tree; else None."""
    for place in (os.environ.get("MIMO_FIXTURES"), os.path.join(tools.SOURCE, os.pardir, "shared", "fixtures")):
        for found in (place, os.path.join(place, "make_fixture.py")) if place else ():
            if os.path.isfile(found):
                return os.path.abspath(found)
    return None


def external(variant, **options):
    """-> (checkpoint directory, truth {name: (dtype, array)}); options are the flags, True for one without a value."""
    key = ("external", variant, repr(sorted(options.items())))
    if key not in _made:
        out = os.path.join(root(), f"external{len(_made)}-{variant}")
        flags = [x for k, v in options.items() for x in (f"--{k.replace('_', '-')}", v) if x is not True]
        subprocess.run([sys.executable, external_generator(), variant, out] + [str(x) for x in flags], check=True)
        _made[key] = (os.path.join(out, "checkpoint"), container.read(os.path.join(out, "truth", "truth.safetensors")))
    return _made[key]
