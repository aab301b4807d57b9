"""One run of a script on one stack: hooks around its functions, recorders for kernels, a fake clock.

Everything here happens in a forked process (see sandbox.py).
"""

import contextlib
import errno
import functools
import re
import sys
from pathlib import Path

from roofbench import grammar
from roofbench.verify import calls, expected, sandbox
from roofbench.verify.findings import Report
from roofbench.verify.stack import Stack

# The method that docs/measurement.md promises: calls before anything is timed, and calls in all replays together.
WARM_UP_CALLS = 10
TIMED_CALLS = 100
REPLAYS = 10

# What torch says where a script insists on a GPU.
NO_CUDA = re.compile(r"not compiled with CUDA|without ATen_cuda|NVIDIA driver|CUDA driver|requires CUDA")


class Enough(BaseException):
    """The first finding was made, and nobody asks for more. Nothing in a script or in the bundle catches it."""


class Hook:
    """A function of the script, observed. It keeps the attributes of what it stands for."""

    def __init__(self, function, around):
        self._function = function
        self._around = around
        functools.update_wrapper(self, function)

    def __call__(self, *args, **kwargs):
        return self._around(self._function, *args, **kwargs)

    def __getattr__(self, name):
        return getattr(self.__dict__["_function"], name)


def context_line(source):
    """Line of the script that is running now, innermost frame first, or None."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename == source.path:
            return frame.f_lineno
        frame = frame.f_back
    return None


def make_runtime(benchlib_runtime, roof, session):
    """A MetaRuntime for the bundle: the meta device, a fake clock, and a record of how the calls were made."""

    class MetaRuntime(benchlib_runtime.Runtime):
        device = "meta"
        checks = False
        persistent = False
        peaks = False

        def __init__(self):
            self.in_capture = False

        def unavailable(self):
            return None

        def properties(self):
            return benchlib_runtime.DeviceProperties(
                name=roof.device, compute_capability=roof.capability, l2_bytes=0, total_memory=1 << 50, uuid="GPU-meta"
            )

        def capturing(self):
            return self.in_capture

        def elapsed(self, fn):
            return session.timed(fn)

        def bench(self, fn, rep):
            return session.bench(self, fn, rep)

    return MetaRuntime()


class Session:
    """One run of one script on one stack: hooks, recorded calls, and the comparison with what is expected."""

    def __init__(self, job, stack_name, folder):
        self.job = job
        self.stack_name = stack_name
        self.folder = Path(folder)
        self.report = Report()
        self.source = job.source
        self.layout = expected.Layout(job.entry, job.spec, stack_name)
        self.stack = Stack(job.snapshots[stack_name], self.on_call)
        self.in_call = False
        self.calls = []
        self.helpers = {}
        self.events = []
        self.attempts = []
        self.inputs = {}
        self.point = None
        self.latency = {}
        self.compared = set()
        self.costs = {}
        self.wrong_costs = set()
        self.seal = None
        self.traffic = {}
        self.parts = {}  # of the traffic: ({argument: bytes}, activated experts)
        self.flops = {}
        self.warm_up = 0
        self.methods = {}
        self.returns_env = None
        self.kernel = None  # what a run gives to call_kernel
        self.runtime = None
        self.runs = []
        self.free = ()  # options of a run that nobody compares
        self.given = None  # options that a run must have, where that is known
        self.prints = {}  # (point, inputs): what was called with what
        self.surroundings = None
        self.order = ()  # names of the kernel's parameters
        self.raised = False  # whether the script raised something
        self.own_dims = {}  # {(op, phase): dimensions} where OPS has others than the spec
        self.faulty = set()  # arguments whose values are known to be wrong
        self.never = set()  # points that were not attempted
        self.made = None

    # Findings.

    def where(self, key=None):
        """A point in words, the current one unless given; None where there is none."""
        key = key or self.point
        if key is None:
            return None
        op, phase, B, S, L = key
        kv = f", KV length {L}" if L != S else ""
        return f"{op} ({phase}), B={B}, S={S}{kv}"

    def fail(self, check, line, subject, found, wanted, source="", key=None):
        source = source or f"docs/verification.md, {check}"
        place = line if hasattr(line, "path") else self.source.place(line)
        self.report.fail(check, place, subject, found, wanted, source, self.where(key), self.stack_name)
        if self.job.stop_early:
            raise Enough

    def script_error(self, error, doing, check="output.run"):
        """An exception out of the script, once for each line and type."""
        self.raised = True
        line = self.source.line_of(error)
        function = self.source.function_at(line)
        if function and doing.endswith(" raises"):
            doing = f"{function} raises"
        text = f"{type(error).__name__}: {error}".strip().splitlines()[0][:300]
        if isinstance(error, sandbox.Denied):
            check, wanted = "output.isolation", "a benchmark that keeps to its process and its output folder"
        elif isinstance(error, MemoryError) or "can't allocate memory" in text:
            # The next points would only take as long again.
            self.fail("output.memory", line, doing, text, f"at most {sandbox.MEMORY >> 30} GiB of memory")
            raise Enough
        elif getattr(error, "errno", None) == errno.EFBIG:
            check, wanted = "output.files", f"files of at most {sandbox.FILE_SIZE >> 20} MiB"
        elif NO_CUDA.search(text):
            check, wanted = "shapes.device", "tensors on the device that make_inputs gets"
        elif isinstance(error, ImportError):
            check, wanted = "imports.name", f"names that the stack {self.stack_name} has"
        else:
            wanted = "no exception"
        self.fail(
            check, line, doing, text, wanted, f"config/stacks/{self.stack_name}.json" if check == "imports.name" else ""
        )

    # The kernel packages call here.

    def on_call(self, call):
        if call.error:
            if self.in_call or call.target in self.kernel_targets:
                self.report.passed("kernel-call.bind")
                signature = self.stack.signature_of(call.target)
                self.fail(
                    "kernel-call.bind",
                    self.source.call_line(),
                    f"the call of {call.target.replace(':', '.')}",
                    call.error,
                    f"arguments that fit {signature}",
                    f"config/stacks/{self.stack_name}.json",
                )
            return None
        if call.target in self.kernel_targets:
            self.calls.append(call)
            return self.returned(call)
        bound = {**call.defaults, **call.arguments}
        simulate = getattr(self.job.contract, "HELPERS", {}).get(call.target)
        if simulate is not None:
            call.result = simulate(**bound)
        for helper in self.job.entry.get("helpers", []):
            if helper["target"] == call.target:
                if call.result is None and "returns" in helper:
                    numbers = {k: v for k, v in bound.items() if isinstance(v, int | float)}
                    call.result = grammar.evaluate(helper["returns"], numbers)
                self.helpers.setdefault(call.target, []).append({**bound, "returned": call.result})
                return NullContext() if call.result is None else call.result
        if self.in_call:
            self.calls.append(call)
        return NullContext()

    def on_op(self, func, args, kwargs):
        call = self.stack.op_call(func, args, kwargs)
        if call.target in self.kernel_targets or self.in_call:
            self.calls.append(call)
        return self.returned(call) if func._schema.returns else None

    def returned(self, call):
        if self.point is None or self.returns_env is None:
            return None
        made = self.made
        if made is None:
            self.shadow.recording = False
            try:
                made = self.layout.make_returns(self.returns_env)
            except grammar.GrammarError:
                made = []
            finally:
                self.shadow.recording = True
            self.made = made
        if not made:
            # A function that takes its output returns it.
            import torch

            outs = [
                expected.lookup(call.arguments, item["name"])
                for _, item in self.layout.tensors()
                if item.get("role") == "out"
            ]
            given = [out for out in outs if isinstance(out, torch.Tensor)]
            return given[0] if len(given) == 1 and not call.target.startswith("torch.ops") else None
        call.result = made[0] if len(made) == 1 else made
        return call.result

    def on_event(self, kind, text):
        self.events.append((kind, text, context_line(self.source)))

    # Hooks around the script's functions.

    def make_inputs(self, function, op, point, *args, **kwargs):
        key = (op.name, op.phase, point.B, point.S, point.L)
        self.enter_point(key)
        try:
            with self.phase("build"):
                x = function(op, point, *args, **kwargs)
        except (Exception, KeyboardInterrupt) as error:
            self.script_error(error, "make_inputs raises", "shapes.build")
            raise
        if not isinstance(x, dict):
            self.fail(
                "shapes.build",
                self.source.of("make_inputs"),
                "what make_inputs returns",
                type(x).__name__,
                "a dict of arguments",
            )
        self.inputs[id(x)] = (key, x)
        return x

    def enter_point(self, key):
        if key != self.point:
            self.point = key
            self.inputs.clear()
            self.prints.clear()
            self.compared = {c for c in self.compared if c[0] == key}
            self.warm_up = 0
            self.made = None
            op = self.job.op(key[0], key[1])
            self.returns_env = self.env(op, key) if op else None

    def env(self, op, key):
        B, S, L = key[2:]
        point = {"B": B, "S": S, "L": L, "T": B if op["phase"] == "decode" else B * S}
        own = self.own_dims.get((op["op"], op["phase"]))
        if own:  # the finding is there; everything else is compared as if they were right
            op = {**op, "dims": {**op["dims"], **own}}
        return expected.dims_of(self.job.entry, self.job.spec, op, point)

    def call_kernel(self, function, kernel, x, *args, **kwargs):
        self.calls = []
        self.events = []
        self.in_call = True
        try:
            with self.phase("call"):
                result = function(kernel, x, *args, **kwargs)
        except Exception as error:
            self.in_call = False
            calls.check_events(self)
            if not any(f.check == "kernel-call.bind" for f in self.report.findings.values()):
                self.script_error(error, "call_kernel raises", "kernel-call.run")
            raise
        finally:
            self.in_call = False
        self.warm_up += 1
        mark = (self.point, id(x))
        if mark not in self.compared and self.point is not None:
            self.compared.add(mark)
            calls.compare(self, x, result)
            self.prints[mark] = calls.fingerprint(self.calls)
        elif mark in self.prints:
            calls.check_repeat(self, self.prints[mark])
        return result

    @contextlib.contextmanager
    def unrecorded(self):
        """Calls and events in here leave no trace."""
        calls, events, recording = self.calls, self.events, self.shadow.recording
        self.calls, self.events, self.shadow.recording = [], [], False
        try:
            yield
        finally:
            self.calls, self.events, self.shadow.recording = calls, events, recording

    def warm_up_kernel(self, function, kernel, x):
        with self.phase("build"):
            return function(kernel, x)

    @contextlib.contextmanager
    def phase(self, name):
        """Branches that run in here are taken while inputs are made ("build") or in the timed call ("call")."""
        marks = self.job.marks
        before, marks.phase = marks.phase, name
        try:
            yield
        finally:
            marks.phase = before

    def cost(self, function, op, point, x=None):
        try:
            cost = function(op, point, x)
        except Exception as error:
            self.script_error(error, "cost raises", "metrics.run")
            raise
        key = (op.name, op.phase, point.B, point.S, point.L)
        self.costs.setdefault(key, []).append((x is not None, cost))
        return cost

    # The clock.

    def timed(self, fn):
        before = self.warm_up
        fn()
        calls = self.warm_up - before
        return self.clock() * max(calls, 1)

    def clock(self):
        """Milliseconds of one call at the current point: slower than its roofline, and different at each point."""
        if self.point is None:
            return 0.01
        if self.point not in self.latency:
            roofline = 0.0
            if self.point in self.traffic:
                nbytes, flops = self.traffic[self.point], self.flops[self.point]
                dtype = self.compute_dtype
                roofline = 1e3 * max(self.job.roof.seconds(flops, nbytes, dtype)) if dtype in self.job.roof.peaks else 0
            # Not below 0.4 ms: with shorter calls thousands would be captured, and each of them would be run here.
            self.latency[self.point] = round(max(0.4, 1.9 * roofline) * (1 + 0.017 * (len(self.latency) % 23)), 6)
        return self.latency[self.point]

    def bench(self, runtime, fn, rep):
        warm = self.warm_up
        before = self.warm_up
        fn()
        each = self.clock() * max(self.warm_up - before, 1)
        captured = max(1, int(rep / each))
        runtime.in_capture = True
        before = self.warm_up
        try:
            for _ in range(captured):
                fn()
        finally:
            runtime.in_capture = False
        self.methods.setdefault(self.point, (warm, (self.warm_up - before) * REPLAYS))
        # The median is the clock's; mean and minimum are not.
        spread = (1.0, 1.0, 0.97, 1.31, 1.0, 0.98, 1.12, 1.0, 0.99, 1.02)
        return [each * factor for factor in spread]


class NullContext:
    """What a helper without a recorded result returns: usable as a context manager, and nothing else."""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return False
