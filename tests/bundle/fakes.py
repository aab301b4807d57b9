"""A device made of Python, and a benchmark of a kernel made of Python, for tests without a GPU."""

import sys
import textwrap
from pathlib import Path

from benchlib import runtime as runtime_module
from benchlib.runtime import DeviceProperties, Runtime

SCRIPTS = Path(__file__).resolve().parents[2] / "workflow" / "bundle" / "scripts"


class FakeRuntime(Runtime):
    """A device on which a kernel takes call_ms, evicting takes evict_ms, and an eager call eager_ms more."""

    device = "cpu"
    persistent = False

    def __init__(
        self, call_ms=0.002, evict_ms=0.06, eager_ms=0.01, l2=0, free=None, cc=(9, 0), name="NVIDIA H100 80GB HBM3"
    ):
        self.call_ms, self.evict_ms, self.eager_ms, self.free = call_ms, evict_ms, eager_ms, free
        self._properties = DeviceProperties(name, cc, l2, 80 << 30, "GPU-fake")
        self.reason = None
        self.in_graph = False
        self.evictions = self.calls = 0
        self.benches = []
        self.readings = []
        self.lost = None

    def unavailable(self):
        return self.reason

    def properties(self):
        return self._properties

    def free_memory(self):
        return self.free

    def capturing(self):
        return self.in_graph

    def kernel(self, x=None):
        self.calls += 1

    def elapsed(self, fn):
        return self._work(fn) + self.eager_ms

    def _work(self, fn):
        calls, evictions = self.calls, self.evictions
        fn()
        return (self.calls - calls) * self.call_ms + (self.evictions - evictions) * self.evict_ms

    def bench(self, fn, rep):
        """As triton does it: one call, five for the estimate, the captured ones, then ten replays."""
        fn()
        estimate = sum(self._work(fn) + self.eager_ms for _ in range(5)) / 5
        repeat = max(1, int(rep / estimate))
        self.in_graph = True
        total = sum(self._work(fn) for _ in range(repeat))
        self.in_graph = False
        self.benches.append(repeat)
        return [total / repeat * (1 + 0.001 * i) for i in range(10)]

    def evictor(self, nbytes):
        def evict():
            self.evictions += 1

        return evict

    def null_kernel(self):
        return self.kernel

    def dead(self):
        return self.lost

    def clocks(self):
        return self.readings.pop(0) if self.readings else {"absent": "a fake device"}


class installed:
    """Context in which a runtime is the current one."""

    def __init__(self, runtime):
        self.runtime = runtime

    def __enter__(self):
        self.previous = runtime_module._current
        runtime_module.set_runtime(self.runtime)
        return self.runtime

    def __exit__(self, *_):
        runtime_module.set_runtime(self.previous)


TOY = '''
    """A benchmark of a kernel in Python: y = 2 * x, with mishaps that the environment asks for."""

    import os
    import signal
    import sys
    import time

    sys.path[:0] = {paths}

    import toy_kernel
    from fakes import FakeRuntime

    from bench_utils import Benchmark, BenchmarkRun, Cost, Op, Provider, Random, Tolerance, main, set_runtime, torch

    BATCH_SIZES = [1, 2, 4]
    SEQ_LENS = [16, 32]
    OPS = (Op("a * b, c", "decode", D=8), Op("plain", "prefill", D=8))


    class Persistent(FakeRuntime):
        persistent = True
        checks = torch is not None


    runtime = Persistent()
    runtime.reason = os.environ.get("TOY_UNAVAILABLE")
    toy_kernel.runtime = runtime
    set_runtime(runtime)


    def make_inputs(op, point, device, seed=0):
        time.sleep(float(os.environ.get("TOY_NAP", "0")))
        if torch is None:
            return {{"x": None, "y": None, "T": point.T}}
        rng = Random(device, seed)
        return {{"x": rng.normal((point.T, op.D)), "y": rng.empty((point.T, op.D), torch.bfloat16), "T": point.T}}


    def call_kernel(kernel, x):
        kernel(x["x"], x["y"], x["T"])


    def cost(op, point, x=None):
        return Cost(flops=point.T * op.D, bytes=4 * point.T * op.D)


    def columns(op, point):
        return point.T, op.D, 0


    def not_applicable(op, point):
        return "too many tokens" if point.T > 100 else None


    BENCHMARK = Benchmark(
        kernel="toy", source="sgl-kernel", catalogue="toy", category="norm", compute_dtype="bf16",
        min_compute_capability="9.0", providers=(Provider("toy_kernel:double"),), ops=OPS,
        tolerance=Tolerance(0.01, 0.01),
        make_inputs=make_inputs, call_kernel=call_kernel, cost=cost, columns=columns, not_applicable=not_applicable,
    )


    def run_benchmarks(batch_sizes=BATCH_SIZES, seq_lens=SEQ_LENS, output_dir="results", **options):
        with BenchmarkRun(BENCHMARK, output_dir, **options) as run:
            for op in run.select(OPS):
                if op.phase == "decode":
                    sweep = [(B, 1) for B in batch_sizes]
                else:
                    sweep = [(B, S) for B in batch_sizes[:4] for S in seq_lens]
                for B, S in sweep:
                    run.measure(op, B=B, S=S)
        return run.results


    if __name__ == "__main__":
        sys.exit(main(BENCHMARK, run_benchmarks))
'''

KERNEL = '''
    """The kernel: y = 2 * x. MISHAP=kind:T makes its calls on T rows go wrong, MISHAP=kind:all every call."""

    import os
    import signal
    import time

    runtime = None


    def double(x, y, T):
        runtime.kernel()
        kind, _, tokens = os.environ.get("MISHAP", "").partition(":")
        if not kind or tokens not in ("all", str(T)):
            kind = ""
        else:
            if kind == "segfault":
                os.kill(os.getpid(), signal.SIGSEGV)
            elif kind == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            elif kind == "hang":
                time.sleep(1000)
            elif kind == "oom":
                raise MemoryError("CUDA out of memory. Tried to allocate 20 GiB")
            elif kind == "lost":
                runtime.lost = "CUDA error: an illegal memory access was encountered"
                raise RuntimeError(runtime.lost)
            elif kind == "error":
                raise ValueError("no such tile")
            elif kind == "slow":
                time.sleep(0.05)
        if x is None:
            return
        y.copy_(x * (3 if kind == "wrong" else 2))
        if kind == "unwritten":
            y[0, 0] = float("nan")
'''

REFERENCE = """
    POISON = ("y",)


    def expected(x, dims):
        return {"y": x["x"].float() * 2}


    def actual(x, result):
        return {"y": x["y"]}
"""


def write_toy(folder, with_torch=True):
    """The toy script, its kernel and its reference in a folder; returns the script's path.

    Without torch, workers start in a tenth of the time, and outputs are not checked.
    """
    folder = Path(folder)
    (folder / "references").mkdir(parents=True)
    paths = [str(folder), str(SCRIPTS), str(Path(__file__).resolve().parent)]
    script = folder / "bench_toy.py"
    script.write_text(textwrap.dedent(TOY).format(paths=paths).lstrip())
    if not with_torch:
        (folder / "torch.py").write_text("raise ModuleNotFoundError('torch is hidden', name='torch')\n")
    (folder / "toy_kernel.py").write_text(textwrap.dedent(KERNEL).lstrip())
    (folder / "references" / "toy.py").write_text(textwrap.dedent(REFERENCE).lstrip())
    return script


def load_toy(script):
    """The toy script as a module, with a runtime of its own installed."""
    import importlib.util

    for name in ("toy_kernel", "references", "references.toy"):
        sys.modules.pop(name, None)
    spec = importlib.util.spec_from_file_location("bench_toy", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
