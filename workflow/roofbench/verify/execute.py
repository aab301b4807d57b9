"""Run a script as it would run on the GPU machine, with recorders for kernels, torch's meta device and a fake clock.

Everything here happens in a forked process (see sandbox.py), once for each stack. What comes back is a Report.
"""

import errno
import functools
import inspect
import sys
from pathlib import Path

from roofbench import grammar
from roofbench.verify import expected, sandbox
from roofbench.verify.findings import Report
from roofbench.verify.stack import Stack

# The method that docs/measurement.md promises: calls before anything is timed, and calls in all replays together.
WARM_UP_CALLS = 10
TIMED_CALLS = 100
REPLAYS = 10


class Job:
    """What a run is compared with. All plain data, so that it can be made before the fork.

    code: modules of the bundle that are compiled already. stop_early: the first finding ends the run.
    """

    def __init__(
        self, source, spec, entry, contract, snapshots, roof, bundle, origins=None, code=None, stop_early=False
    ):
        self.source = source
        self.spec = spec
        self.entry = entry.data
        self.lines = entry.line
        self.catalogue_path = relative(entry.path)
        self.contract = contract
        self.contract_path = f"workflow/roofbench/contracts/{spec['catalogue']}.py"
        self.snapshots = snapshots
        self.roof = roof
        self.bundle = bundle
        self.origins = origins or {}
        self.code = code or {}
        self.stop_early = stop_early

    def op(self, name, phase):
        return next((op for op in self.spec["ops"] if op["op"] == name and op["phase"] == phase), None)

    def from_ops_file(self, op):
        """Where the shapes of an op come from, in words."""
        origin = op.get("origin") or {}
        line = (self.origins.get("ops") or {}).get(f"{op['op']}|{op['phase']}")
        file = self.origins.get("ops_file") or "the ops file"
        parts = []
        if origin.get("row"):
            parts.append(f"{file}{f':{line}' if line else ''}, row {origin['row']}")
        if origin.get("key"):
            parts.append(f"{self.catalogue_path}, {origin['key']}")
        return "; ".join(parts) or file

    def from_catalogue(self, key):
        """File, line and key of a catalogue key such as "arguments[2] (mat_b).strides"."""
        path, _, rest = key.partition("[")
        keys = [path]
        if rest:
            index, _, tail = rest.partition("]")
            keys.append(int(index))
            keys += [part for part in tail.rpartition(")")[2].split(".") if part]
        line = self.lines(*keys)
        return f"{self.catalogue_path}{f':{line}' if line else ''}, {key}"


def relative(path):
    """A path as a person in the repository would write it."""
    try:
        return str(Path(path).resolve().relative_to(Path(__file__).resolve().parents[3]))
    except ValueError:
        return str(path)


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


class ContractCall:
    """What a contract's check() sees of a call: tensors, the values of small ones, scalars, and helper calls."""

    def __init__(self, call, layout, helpers):
        from roofbench.verify import shadow

        self.arguments = call.arguments
        self.target = call.target
        self.tensors, self.values, self.helpers = {}, {}, helpers
        import torch

        for _, item in layout.tensors():
            value = expected.lookup(call.arguments, item["name"])
            if isinstance(value, torch.Tensor):
                self.tensors[item["name"]] = value
                known = shadow.value_of(value) if shadow.is_written(value) else None
                self.values[item["name"]] = known
            else:
                self.values[item["name"]] = None

    def argument(self, name, default=None):
        """An argument by (nested) name, or the default where it was not given."""
        value = expected.lookup(self.arguments, name)
        return default if value is expected.MISSING else value


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
        self.made = None

    # Findings.

    def where(self, key=None):
        key = key or self.point
        if key is None:
            return self.stack_name
        op, phase, B, S, L = key
        kv = f", KV length {L}" if L != S else ""
        return f"{op} ({phase}), B={B}, S={S}{kv}, stack {self.stack_name}"

    def fail(self, check, line, subject, found, wanted, source="", key=None):
        place = line if hasattr(line, "path") else self.source.place(line)
        self.report.fail(check, place, subject, found, wanted, source, at=self.where(key))
        if self.job.stop_early:
            raise Enough

    def script_error(self, error, doing, check="output.run"):
        """An exception out of the script, once for each line and type."""
        line = self.source.line_of(error)
        text = f"{type(error).__name__}: {error}".strip().splitlines()[0][:300]
        if isinstance(error, sandbox.Denied):
            check, wanted = "output.isolation", "a benchmark that keeps to its process and its output folder"
        elif isinstance(error, MemoryError) or "can't allocate memory" in text:
            # The next points would only take as long again.
            self.fail("output.memory", line, doing, text, f"at most {sandbox.MEMORY >> 30} GiB of memory")
            raise Enough
        elif getattr(error, "errno", None) == errno.EFBIG:
            check, wanted = "output.files", f"files of at most {sandbox.FILE_SIZE >> 20} MiB"
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
            self.compared = {c for c in self.compared if c[0] == key}
            self.warm_up = 0
            self.made = None
            op = self.job.op(key[0], key[1])
            self.returns_env = self.env(op, key) if op else None

    def env(self, op, key):
        B, S, L = key[2:]
        point = {"B": B, "S": S, "L": L, "T": B if op["phase"] == "decode" else B * S}
        return expected.dims_of(self.job.entry, self.job.spec, op, point)

    def call_kernel(self, function, kernel, x, *args, **kwargs):
        self.calls = []
        self.events = []
        self.in_call = True
        try:
            result = function(kernel, x, *args, **kwargs)
        except Exception as error:
            self.in_call = False
            self.check_events()
            if not any(f.check == "kernel-call.bind" for f in self.report.findings.values()):
                self.script_error(error, "call_kernel raises", "kernel-call.run")
            raise
        finally:
            self.in_call = False
        self.warm_up += 1
        mark = (self.point, id(x))
        if mark not in self.compared and self.point is not None:
            self.compared.add(mark)
            self.compare(x, result)
        return result

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

    # Comparison of one call.

    def compare(self, x, result):
        op = self.job.op(self.point[0], self.point[1])
        if op is None:
            return
        env = dict(self.returns_env)
        source = self.source
        self.check_events()
        kernel_calls = [c for c in self.calls if c.target in self.kernel_targets]
        self.report.passed("kernel-call.count")
        if len(kernel_calls) != 1 or len(self.calls) != 1:
            names = ", ".join(c.target.replace(":", ".") for c in self.calls) or "none"
            self.fail(
                "kernel-call.count",
                source.call_line(),
                "kernels called by one call_kernel",
                f"{len(self.calls)}: {names}",
                "exactly one call of the kernel",
            )
        if not kernel_calls:
            return
        call = kernel_calls[0]
        self.report.passed("kernel-call.bind")
        self.report.passed("imports.provider")
        if call.target not in self.allowed_targets:
            self.fail(
                "imports.provider",
                source.of("PROVIDERS"),
                "the kernel that is called",
                call.target,
                " or ".join(self.allowed_targets) or "no provider on this stack",
                self.job.from_catalogue("providers"),
            )
        call.all_defaults = self.defaults_of(call)
        order = list(call.all_parameters)
        try:
            mismatches = list(self.layout.compare(call, env))
        except grammar.GrammarError as error:
            self.fail(
                "shapes.shape",
                source.of("OPS"),
                "the layout cannot be evaluated",
                str(error),
                "dimensions of the spec",
                self.job.catalogue_path,
            )
            return
        self.count_layout()
        self.check_result(call, result)
        for item in mismatches:
            in_call, made = source.argument(item.argument.split(" and ")[0], order)
            tensor_made = item.check.startswith("shapes") and made
            line = made if tensor_made else in_call or source.call_line()
            from_text = self.job.from_catalogue(item.key)
            if item.check == "shapes.shape":
                from_text += f"; dimensions from {self.job.from_ops_file(op)}"
            name = item.argument
            via = f" (passed in line {in_call})" if tensor_made and in_call and in_call != line else ""
            self.fail(item.check, line, f"argument {name}{via}", item.found, item.expected, from_text)
        seen = ContractCall(call, self.layout, {k: list(v) for k, v in self.helpers.items()})
        broken = {m.argument for m in mismatches if m.check.startswith(("shapes", "kernel-call.missing"))}
        self.check_values(seen, env, op, order, broken)
        self.check_names(call, x, order)
        self.account(call, seen, env, op, broken)
        self.check_count(x, env)

    def check_result(self, call, result):
        """What the kernel allocates and returns, call_kernel returns too: the reference is compared with it."""
        if not self.layout.returns or call.result is None:
            return
        self.report.passed("kernel-call.result")
        if result is not call.result:
            self.fail(
                "kernel-call.result",
                self.source.call_line(),
                "what call_kernel returns",
                type(result).__name__,
                "what the kernel returned",
                self.job.from_catalogue("returns"),
            )

    def defaults_of(self, call):
        if call.target.startswith("torch.ops"):
            text = self.stack.signature_of(call.target) or ""
            names = [
                p.strip().rpartition(" ")[2].partition("=")[0]
                for p in text[text.find("(") + 1 : text.rfind(")")].split(",")
            ]
            call.all_parameters = [n for n in names if n]
            return {}
        from roofbench.verify.stack import signature

        text = self.stack.signature_of(call.target)
        found = signature(text) if text else inspect.Signature()
        call.all_parameters = list(found.parameters)
        return {n: p.default for n, p in found.parameters.items() if p.default is not p.empty}

    def count_layout(self):
        tensors = len(self.layout.tensors())
        for check in ("shapes.shape", "shapes.dtype", "shapes.stride", "shapes.device"):
            self.report.passed(check, tensors)
        zeroed = sum(bool(i.get("zeroed")) for _, i in self.layout.arguments)
        if zeroed:
            self.report.passed("shapes.zeroed", zeroed)
        self.report.passed(
            "shapes.uninitialised", sum(i.get("role") in expected.READ_ROLES for _, i in self.layout.arguments)
        )
        self.report.passed("shapes.random", sum(i.get("role") in ("in", "inout") for _, i in self.layout.tensors()))
        self.report.passed("kernel-call.scalar", len(self.layout.arguments) - tensors)
        self.report.passed("kernel-call.missing", len(self.layout.arguments))
        self.report.passed("kernel-call.extra")
        self.report.passed("kernel-call.alias")

    def check_events(self):
        self.report.passed("kernel-call.allocation")
        self.report.passed("kernel-call.sync")
        for kind, text, line in dict.fromkeys(self.events):
            check = "kernel-call.sync" if kind == "sync" else "kernel-call.allocation"
            wanted = "no wait for the device" if kind == "sync" else "tensors that make_inputs made"
            self.fail(check, line or self.source.call_line(), "in the timed call", text, wanted)

    def check_values(self, seen, env, op, order, broken):
        check = getattr(self.job.contract, "check", None)
        if check is None:
            return
        self.report.passed("shapes.value")
        try:
            findings = list(check(seen, env))
        except Exception as error:
            if broken:
                return  # the contract stumbles over what is reported already
            self.fail(
                "shapes.value",
                self.source.of("make_inputs"),
                "the contract cannot judge the call",
                f"{type(error).__name__}: {error}",
                "arguments that the contract understands",
                self.job.contract_path,
            )
            return
        for argument, found, wanted in findings:
            in_call, made = self.source.argument(argument, order)
            line = made or in_call or self.source.of("make_inputs")
            self.fail("shapes.value", line, f"argument {argument}", found, wanted, self.job.contract_path)

    def check_names(self, call, x, order):
        """A tensor goes where the reference looks for it: x["name"], where there is one, is argument `name`."""
        if not isinstance(x, dict):
            return
        for index, item in self.layout.tensors():
            given = expected.lookup(call.arguments, item["name"])
            self.report.passed("kernel-call.name")
            if item["name"] in x and given is not x[item["name"]]:
                key = next((k for k, v in x.items() if v is given), None)
                in_call, _ = self.source.argument(item["name"], order)
                self.fail(
                    "kernel-call.name",
                    in_call or self.source.call_line(),
                    f"argument {item['name']}",
                    f"x[{key!r}]" if key else "another tensor",
                    f"x[{item['name']!r}], which the reference reads",
                    self.job.from_catalogue(self.layout.key(index, item)),
                )

    def check_count(self, x, env):
        """The number of activated experts that goes into the sidecar is the number that the contract counts."""
        if isinstance(x, dict) and "active_experts" in x and "active_experts" in env:
            self.report.passed("metrics.experts")
            if x["active_experts"] != env["active_experts"]:
                line = self.source.argument("active_experts")[1] or self.source.of("make_inputs")
                self.fail(
                    "metrics.experts",
                    line,
                    "activated experts",
                    x["active_experts"],
                    env["active_experts"],
                    self.job.contract_path,
                )

    def account(self, call, seen, env, op, broken):
        """FLOPs and bytes of this point, from the contract and the recorded tensors."""
        counts = getattr(self.job.contract, "counts", None)
        try:
            if counts is not None:
                env.update(counts(seen, env) or {})
            flops = self.job.contract.flops(env)
            traffic = self.layout.traffic(call, env)
        except (grammar.GrammarError, KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
            if not broken:
                self.fail(
                    "metrics.bytes",
                    self.source.of("cost"),
                    "the traffic cannot be computed",
                    f"{type(error).__name__}: {error}",
                    "known values of the routed ids",
                    self.job.contract_path,
                )
            return
        self.flops.setdefault(self.point, flops)
        self.traffic.setdefault(self.point, sum(traffic.values()))
        self.parts.setdefault(self.point, (traffic, env.get("active_experts")))


class NullContext:
    """What a helper without a recorded result returns: usable as a context manager, and nothing else."""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return False


def run_stack(job, stack_name, folder):
    """Verify one script on one stack, in a forked process. Returns {"report": Report, "points": {...}}."""
    session = Session(job, stack_name, folder)
    session.compute_dtype = job.spec["compute_dtype"]
    providers = [p for p in job.entry["providers"] if p["source"] == job.spec["source"]]
    session.allowed_targets = [p["target"] for p in providers if stack_name in p["stacks"]]
    session.kernel_targets = {p["target"] for p in job.entry["providers"]}
    from roofbench.verify.run import run_script

    try:
        run_script(session)
    except Enough:
        pass
    except KeyboardInterrupt as error:
        if session.report.ok:
            session.script_error(error, "the script raises")
    session.job.stop_early = False
    broken = session.seal.broken() if session.seal else []
    session.point = None
    session.report.passed("output.isolation")
    if broken:
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        session.fail(
            "output.isolation",
            None,
            "the script replaces functions that are not its own",
            ", ".join(broken[:3]) + more,
            "a benchmark that leaves bench_utils, benchlib and the verifier as they are",
        )
    known = {f.check for f in session.report.findings.values()}
    for text in dict.fromkeys(sandbox.violations):
        if known.isdisjoint({"output.isolation", "output.exit"} if "os._exit" in text else {"output.isolation"}):
            wanted = "a benchmark that keeps to its process and its output folder"
            session.fail("output.isolation", None, "the script", text, wanted)
    return {"report": session.report, "points": len(session.traffic)}
