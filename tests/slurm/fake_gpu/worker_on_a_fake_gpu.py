"""What `sitecustomize` puts into a worker: a device that sleeps and writes down when, and kernels that do nothing."""

import contextlib
import json
import os
import signal
import sys
import time
import types
from pathlib import Path

BUNDLE_TESTS = Path(__file__).resolve().parents[2] / "bundle"
PACKAGES = ("sgl_kernel", "torch.ops.sgl_kernel", "flashinfer")


class Function:
    """A kernel, and each of its overloads."""

    def __init__(self, launch):
        self.launch = launch

    def __call__(self, *args, **kwargs):
        self.launch()

    def __getattr__(self, name):
        return self


class Package(types.ModuleType):
    """A package that has every function."""

    launch = None

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Function(self.launch)


def install(script):
    """Make the worker of a script measure on the fake device."""
    sys.path[:0] = [str(Path(script).resolve().parent), str(BUNDLE_TESTS)]
    from fakes import FakeRuntime

    from benchlib.runtime import set_runtime

    folder = Path(os.environ["FAKE_GPU"])
    kernel = Path(script).stem.removeprefix("bench_")
    behaviour = {}
    with contextlib.suppress(OSError):
        behaviour = json.loads((folder / "behaviour.json").read_text()).get(kernel, {})
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "none")

    class Fake(FakeRuntime):
        checks, persistent = False, True

        def bench(self, fn, rep):
            start = time.time()
            mishap = behaviour.get("mishap")
            if mishap == "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            elif mishap == "end_supervisor":
                os.kill(os.getppid(), signal.SIGKILL)
                time.sleep(60)
            time.sleep(behaviour.get("sleep", 0.05))
            found = super().bench(fn, rep)
            record = {"kernel": kernel, "gpu": gpu, "start": start, "end": time.time()}
            record |= {"worker": os.getpid(), "job": os.environ.get("SLURM_JOB_ID")}
            with (folder / "intervals.jsonl").open("a") as stream:
                stream.write(json.dumps(record) + "\n")
            return found

    runtime = Fake(name=behaviour.get("device", "NVIDIA H100 80GB HBM3"))
    Package.launch = runtime.kernel
    for name in PACKAGES:
        sys.modules[name] = Package(name)
    set_runtime(runtime)
