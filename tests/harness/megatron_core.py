"""megatron-core on machines without a GPU: its releases side by side, and groups of processes that load and save
checkpoints with them as the ranks of a topology do.

scripts/setup.sh extracts the Python files of each wheel into .venv-interop/megatron/VERSION. World(version, n).run()
starts one interpreter, which imports the release once and forks n processes; every process does every step: (name of a
function of harness.megatron_ranks or of another module that was named, its arguments). What they return comes back per step and rank.
"""
import os
import pickle
import subprocess
import sys
import tempfile
import types

from harness import tools

ROOT = os.path.join(tools.SOURCE, ".venv-interop", "megatron")


def versions():
    if not os.path.isdir(ROOT):
        return []
    return sorted(v for v in os.listdir(ROOT) if os.path.isdir(os.path.join(ROOT, v, "megatron")))


def install(version):
    """From here on `import megatron.core` is that release; the current device is the CPU."""
    sys.path.insert(0, os.path.join(ROOT, version))
    import torch
    torch.cuda.current_device = lambda: "cpu"
    torch.cuda.synchronize = lambda *args: None
    torch.set_num_threads(1)
    _without_strides()
    try:
        import triton  # noqa: F401
    except ImportError:                       # only named by decorators of kernels that are never called
        for name in ("triton", "triton.language"):
            sys.modules[name] = types.ModuleType(name)
        sys.modules["triton"].jit = lambda function=None, **options: function or (lambda made: made)
        sys.modules["triton"].language = sys.modules["triton.language"]
        sys.modules["triton.language"].constexpr = object


def _without_strides():
    """torch 2.15 gave TensorProperties one more field, and both releases hand all that it has to torch.empty."""
    from torch.distributed.checkpoint.metadata import TensorProperties
    before = TensorProperties.__setstate__

    def setstate(self, state):
        before(self, state)
        if self.__dict__.get("strides") is None:
            self.__dict__.pop("strides", None)               # the default of the class stays
    TensorProperties.__setstate__ = setstate


class World:
    def __init__(self, version, size=4, module="harness.megatron_ranks"):
        self.version, self.size, self.module = version, size, module

    def run(self, steps, timeout=900):
        """-> [[what each rank returned] per step]; an exception of any rank is an AssertionError here."""
        with tempfile.TemporaryDirectory(prefix="mimo-world-") as place:
            with open(os.path.join(place, "steps"), "wb") as f:
                pickle.dump(steps, f)
            command = [sys.executable, "-W", "ignore", "-m", "harness.megatron_core", self.version]
            command += [str(self.size), place, self.module]
            with open(os.path.join(place, "output"), "w+b") as output:
                subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                               timeout=timeout, env=dict(os.environ, OMP_NUM_THREADS="1"))
                output.seek(0)
                said = output.read().decode("utf-8", "replace")[-4000:]
            results = []
            for rank in range(self.size):
                path = os.path.join(place, f"result{rank}")
                if not os.path.exists(path):
                    raise AssertionError(f"megatron-core {self.version}, rank {rank} gave no result:\n{said}")
                with open(path, "rb") as f:
                    results.append(pickle.load(f))
        failures = [r for r in results if isinstance(r, str)]
        if failures:
            raise AssertionError(f"megatron-core {self.version}:\n" + "\n".join(failures)[-6000:])
        return [list(step) for step in zip(*results)]


def _rank(rank, size, place, module, steps):
    import importlib
    import multiprocessing
    import traceback

    import torch.distributed

    does = importlib.import_module(module)
    try:
        torch.distributed.init_process_group("gloo", init_method=f"file://{place}/meeting", rank=rank, world_size=size)
        result = [getattr(does, name)(rank, *arguments) for name, arguments in steps]
        torch.distributed.barrier()
    except BaseException:                      # the others would wait for this rank for ever
        result = f"rank {rank}: {traceback.format_exc()}"
    with open(os.path.join(place, f"result{rank}.part"), "wb") as f:
        pickle.dump(result, f)
    os.rename(os.path.join(place, f"result{rank}.part"), os.path.join(place, f"result{rank}"))
    for helper in multiprocessing.active_children():
        helper.terminate()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(isinstance(result, str))


def main():
    version, size, place, module = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
    install(version)
    import megatron.core.dist_checkpointing  # noqa: F401
    with open(os.path.join(place, "steps"), "rb") as f:
        steps = pickle.load(f)
    children = []
    for rank in range(size):
        pid = os.fork()
        if pid == 0:
            _rank(rank, size, place, module, steps)
        children.append(pid)
    failed = False
    while children:
        pid, status = os.wait()
        children.remove(pid)
        if status and not failed:
            failed = True
            for other in children:
                os.kill(other, 15)


if __name__ == "__main__":
    main()
