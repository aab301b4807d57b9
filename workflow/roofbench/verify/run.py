"""The steps of one run on one stack: import the script, run its sweep, read what it wrote, compare with the spec."""

import contextlib
import csv
import dataclasses
import importlib
import importlib.machinery
import inspect
import io
import json
import math
import os
import re
import sys
import types

from roofbench.verify import metrics, sandbox
from roofbench.verify.execute import REPLAYS, TIMED_CALLS, WARM_UP_CALLS, Hook, make_runtime
from roofbench.verify.seal import Seal
from roofbench.verify.shadow import Shadow
from roofbench.verify.stack import PACKAGES

HOOKED = ("make_inputs", "call_kernel", "cost")
# Points of a second, shorter sweep, which shows that the script obeys its arguments.
SHORT = 2


def run_script(session):
    """All checks that need the script to run; findings go to session.report."""
    import torch

    job = session.job
    # Two stacks run beside each other, and other scripts beside them.
    torch.set_num_threads(1)
    prepare_imports(job)
    session.stack.install()
    patch_torch(session, torch)
    session.shadow = Shadow(lambda: session.in_call, session.on_event, session.on_op)
    module = load(session)
    if module is None:
        return
    if not check_constants(session, module):
        return
    check_benchmark(session, module)
    check_ops(session, module)
    check_providers(session, module)
    if not session.report.ok:
        # A kernel from the wrong place would only repeat itself as hundreds of other findings.
        if any(f.check == "imports.provider" for f in session.report.findings.values()):
            return
    import benchlib.runtime

    runtime = make_runtime(benchlib.runtime, job.roof, session)
    benchlib.runtime.set_runtime(runtime)
    attempts = watch_measure(session, module)
    module.BENCHMARK = observed(session, module)
    output = session.folder / "results"
    if run_benchmarks(session, module, {"output_dir": str(output)}):
        check_method(session)
        check_loops(session, attempts)
        check_output(session, output)
    elif attempts:
        check_loops(session, attempts, finished=False)
    check_not_applicable(session, module)
    check_dry_cost(session, module)
    if session.report.ok:
        check_short_sweep(session, module, attempts)
    if session.report.ok and session.stack_name == min(job.snapshots):
        check_command_line(session, module)


def prepare_imports(job):
    """The script's folder first on the path, and no module of the bundle left from before."""
    for name in list(sys.modules):
        if name.split(".")[0] in ("bench_utils", "benchlib", "references"):
            del sys.modules[name]
    sys.path[:] = [str(job.bundle)] + [p for p in sys.path if p != str(job.bundle)]
    loader = importlib.machinery.SourceFileLoader
    real = loader.source_to_code

    def source_to_code(self, data, path, **more):
        return job.code.get((path, bytes(data))) or real(self, data, path, **more)

    loader.source_to_code = source_to_code
    os.fsync = lambda descriptor: None


def patch_torch(session, torch):
    """torch.tensor passes through the CPU, so that values can be followed to meta; synchronisation is recorded."""
    real = {name: getattr(torch, name) for name in ("tensor", "as_tensor")}

    def through_cpu(name):
        def make(data, *args, device=None, **kwargs):
            if device is not None and torch.device(device).type == "meta" and not isinstance(data, torch.Tensor):
                return real[name](data, *args, **kwargs).to("meta")
            return real[name](data, *args, device=device, **kwargs)

        return make

    for name in real:
        setattr(torch, name, through_cpu(name))

    def synchronize(*args, **kwargs):
        if session.in_call:
            session.on_event("sync", "torch.cuda.synchronize() waits for the device")

    torch.cuda.synchronize = synchronize
    if "torch._dynamo" not in sys.modules:
        # Some operators on meta ask the compiler to stay away, which imports it (1.5 s) first.
        compiler = types.ModuleType("torch._dynamo")
        compiler.disable = lambda fn, *args, **kwargs: fn
        sys.modules["torch._dynamo"] = torch._dynamo = compiler


def load(session):
    """The script as a module, or None with a finding."""
    source = session.source
    module = types.ModuleType(f"bench_{session.job.spec['kernel']}")
    module.__file__ = source.path
    sys.modules[module.__name__] = module
    session.report.passed("imports.name")
    with contextlib.suppress(Exception):  # the script's own import says what is wrong
        importlib.import_module("bench_utils")
    session.seal = Seal()
    try:
        exec(compile(source.text, source.path, "exec"), module.__dict__)
    except ImportError as error:
        name = str(getattr(error, "name", "") or "")
        stack = f"config/stacks/{session.stack_name}.json" if name.split(".")[0] in PACKAGES else ""
        wanted = f"a name that the stack {session.stack_name} has" if stack else "a name that exists"
        session.fail("imports.name", source.line_of(error), "an import fails", error, wanted, stack)
        return None
    except SystemExit as error:
        session.fail(
            "output.exit",
            source.line_of(error),
            "importing the script ends the process",
            f"SystemExit({error.code})",
            "a module that can be imported",
        )
        return None
    except Exception as error:
        session.script_error(error, "importing the script raises", "imports.load")
        return None
    return module


def check_constants(session, module):
    """KERNEL, SOURCE, COMPUTE_DTYPE and OPTIONS are those of the spec. False where it is another kernel's script."""
    spec, source = session.job.spec, session.source
    wanted = {
        "KERNEL": ("imports.kernel", spec["kernel"], "the spec"),
        "SOURCE": ("imports.source", spec["source"], "the spec"),
        "COMPUTE_DTYPE": ("metrics.peak", spec["compute_dtype"], f"{session.job.catalogue_path}, compute_dtype"),
    }
    if spec.get("options"):
        wanted["OPTIONS"] = ("kernel-call.options", spec["options"], f"{session.job.catalogue_path}, options")
    for name, (check, value, origin) in wanted.items():
        session.report.passed(check)
        found = getattr(module, name, None)
        if found != value:
            session.fail(check, source.of(name), name, repr(found), repr(value), origin)
        carried = getattr(module.BENCHMARK, name.lower(), None)
        if name != "OPTIONS" and found == value and carried is not None and carried != value:
            session.fail(check, source.of("BENCHMARK"), f"BENCHMARK.{name.lower()}", repr(carried), repr(value), origin)
    return getattr(module, "KERNEL", None) == spec["kernel"]


def check_benchmark(session, module):
    """BENCHMARK holds this script's functions and what the catalogue says of the kernel."""
    job, source, benchmark = session.job, session.source, module.BENCHMARK
    place = source.of("BENCHMARK")
    for name in ("make_inputs", "call_kernel", "cost", "columns", "not_applicable"):
        session.report.passed("output.benchmark")
        if getattr(benchmark, name) is not getattr(module, name):
            found = getattr(getattr(benchmark, name), "__name__", repr(getattr(benchmark, name)))
            session.fail("output.benchmark", place, f"BENCHMARK.{name}", found, f"this script's {name}")
    if list(benchmark.ops) != list(module.OPS):
        session.fail("output.benchmark", place, "BENCHMARK.ops", f"{len(benchmark.ops)} ops", "this script's OPS")
    entry = job.entry
    wanted = {
        "catalogue": (job.spec["catalogue"], "the spec"),
        "category": (entry["category"], job.from_catalogue("category")),
        "min_compute_capability": (entry.get("min_compute_capability"), job.from_catalogue("min_compute_capability")),
        "compute_capabilities": (entry.get("compute_capabilities") or [], job.from_catalogue("compute_capabilities")),
        "sweep": (job.spec["sweep"]["kind"], "the spec"),
        "routing": (job.spec.get("routing"), "the spec"),
    }
    for name, (value, origin) in wanted.items():
        found = getattr(benchmark, name, None)
        session.report.passed("output.benchmark")
        if (list(found) if isinstance(value, list) and found is not None else found) != value:
            session.fail("output.benchmark", place, f"BENCHMARK.{name}", repr(found), repr(value), origin)
    session.report.passed("output.tolerance")
    for name, value in entry["tolerance"].items():
        found = getattr(benchmark.tolerance, name, None)
        if found != value:
            session.fail(
                "output.tolerance", place, f"the tolerance {name}", found, value, job.from_catalogue("tolerance")
            )


def check_ops(session, module):
    """OPS has the ops of the spec with their dimensions."""
    job, place = session.job, session.source.of("OPS")
    ops = script_ops(module)
    for op in job.spec["ops"]:
        found = ops.get((op["op"], op["phase"]))
        session.report.passed("shapes.dims", len(op["dims"]))
        if found is None:
            continue
        line = line_with(session.source, f'"{op["op"]}", "{op["phase"]}"') or place
        for name, value in op["dims"].items():
            if found.dims.get(name, value) != value:
                session.fail(
                    "shapes.dims",
                    line,
                    f"dimension {name} of {op['op']} ({op['phase']})",
                    found.dims.get(name),
                    value,
                    job.from_ops_file(op),
                )


def check_providers(session, module):
    """The provider that this stack would use is one that the catalogue allows there, and it exists."""
    job, source, stack = session.job, session.source, session.stack
    allowed = session.allowed_targets
    session.report.passed("imports.provider")
    targets = [getattr(p, "target", str(p)) for p in module.BENCHMARK.providers]
    for target in targets:
        known = [p for p in job.entry["providers"] if p["target"] == target]
        if not known:
            session.fail(
                "imports.provider",
                line_with(source, target) or source.of("PROVIDERS"),
                "a provider",
                target,
                " or ".join(dict.fromkeys(p["target"] for p in job.entry["providers"])),
                job.from_catalogue("providers"),
            )
        elif job.spec["source"] not in {p["source"] for p in known}:
            session.fail(
                "imports.provider",
                line_with(source, target) or source.of("PROVIDERS"),
                "a provider",
                f"{target}, of source {known[0]['source']}",
                f"a provider of source {job.spec['source']}",
                job.from_catalogue("providers"),
            )
    for target in allowed:
        session.report.passed("imports.name")
        if not stack.has(target):
            session.fail(
                "imports.name",
                source.of("PROVIDERS"),
                target.replace(":", "."),
                f"missing in the stack {session.stack_name}",
                "a function of the pinned packages",
                f"config/stacks/{session.stack_name}.json",
            )
    for helper in job.entry.get("helpers", []):
        if session.stack_name in helper.get("stacks", [session.stack_name]):
            session.report.passed("imports.name")
            if not stack.has(helper["target"]):
                session.fail(
                    "imports.name",
                    source.place(None),
                    helper["target"].replace(":", "."),
                    f"missing in the stack {session.stack_name}",
                    "a function of the pinned packages",
                    f"config/stacks/{session.stack_name}.json",
                )
    present = [t for t in targets if stack.has(t)]
    if allowed and not present:
        session.fail(
            "imports.provider",
            source.of("PROVIDERS"),
            f"no provider of the stack {session.stack_name}",
            ", ".join(targets) or "none",
            " or ".join(allowed),
            job.from_catalogue("providers"),
        )
    elif present and present[0] not in allowed:
        session.fail(
            "imports.provider",
            line_with(source, present[0]) or source.of("PROVIDERS"),
            f"the provider that the stack {session.stack_name} would use",
            present[0],
            " or ".join(allowed) or "none",
            job.from_catalogue("providers"),
        )


def line_with(source, text):
    for number, line in enumerate(source.text.splitlines(), 1):
        if text in line and not line.lstrip().startswith(("#", '"""')):
            if "Provider(" in line or f'"{text}"' in line:
                return number
    return None


def observed(session, module):
    """BENCHMARK with hooks around the script's functions."""
    benchmark = module.BENCHMARK
    hooks = {}
    for name in HOOKED:
        function = getattr(benchmark, name)
        hooks[name] = function if isinstance(function, Hook) else Hook(function, getattr(session, name))
    return dataclasses.replace(benchmark, **hooks)


def watch_measure(session, module):
    """A list that grows by (op, phase, B, S, L) with every point that run_benchmarks asks for."""
    import bench_utils

    attempts = []
    run = getattr(bench_utils, "BenchmarkRun", None)
    if run is None or not hasattr(run, "measure"):
        return None
    real = run.measure

    def measure(self, op, *args, **kwargs):
        bound = inspect.signature(real).bind(self, op, *args, **kwargs).arguments
        B, S = bound.get("B"), bound.get("S")
        L = bound.get("L")
        attempts.append((op.name, op.phase, B, S, S if L is None else L))
        return real(self, op, *args, **kwargs)

    run.measure = measure
    return attempts


def run_benchmarks(session, module, arguments):
    """Run the sweep under the recording mode. False, with a finding, where it raises."""
    source = session.source
    session.report.passed("output.run")
    signature = inspect.signature(module.run_benchmarks)
    lengths = "kv_lens" if session.job.spec["sweep"]["kind"] == "kv" else "seq_lens"
    for name in ("batch_sizes", lengths, "output_dir"):
        if name not in signature.parameters:
            session.fail(
                "output.arguments",
                source.of("run_benchmarks"),
                "parameters of run_benchmarks",
                ", ".join(signature.parameters),
                f"{name} among them",
            )
            return False
    try:
        with session.shadow:
            module.run_benchmarks(**arguments)
    except SystemExit as error:
        session.fail(
            "output.exit",
            source.line_of(error),
            "run_benchmarks ends the process",
            f"SystemExit({error.code})",
            "a return",
        )
        return False
    except Exception as error:
        session.point = session.point if session.calls or session.inputs else None
        if session.report.ok:
            session.script_error(error, "run_benchmarks raises")
        return False
    return True


def spec_points(spec):
    """{(op, phase, B, S, L): (op, point)} of every point of a spec, and the same of those that are not applicable."""
    points, excluded = {}, {}
    for op in spec["ops"]:
        for target, items in ((points, op["points"]), (excluded, op.get("not_applicable", []))):
            for point in items:
                target[op["op"], op["phase"], point["B"], point["S"], point.get("L", point["S"])] = (op, point)
    return points, excluded


def check_loops(session, attempts, finished=True):
    """Every point of the spec was attempted exactly once, and nothing else."""
    if attempts is None:
        return
    source = session.source
    points, excluded = spec_points(session.job.spec)
    wanted = {**points, **excluded}
    counted = {}
    for key in attempts:
        counted[key] = counted.get(key, 0) + 1
    session.report.passed("loops.missing", len(wanted))
    session.report.passed("loops.extra", len(counted))
    session.report.passed("loops.twice", len(counted))
    place = source.of("run_benchmarks")
    for key, times in counted.items():
        if key not in wanted:
            session.fail(
                "loops.extra",
                loop_place(session, key),
                "a point is measured that the spec does not have",
                session.where(key),
                sweep_text(session.job.spec, key),
                sweep_origin(session, key),
                key,
            )
        elif times > 1:
            session.fail(
                "loops.twice", place, "a point is attempted more than once", f"{times} times", "once", "the spec", key
            )
    for key, (op, _) in wanted.items():
        if key not in counted and finished:
            session.fail(
                "loops.missing",
                loop_place(session, key),
                "a point of the spec is never attempted",
                session.where(key),
                sweep_text(session.job.spec, key),
                session.job.from_ops_file(op),
                key,
            )


def loop_place(session, key):
    """OPS where the op itself is missing or strange, else the loops."""
    ops = {(op["op"], op["phase"]) for op in session.job.spec["ops"]}
    listed = {(op.name, op.phase) for op in getattr(sys.modules.get(f"bench_{session.job.spec['kernel']}"), "OPS", ())}
    name = "OPS" if key[:2] not in ops or key[:2] not in listed else "run_benchmarks"
    return session.source.of(name)


def sweep_origin(session, key):
    op = session.job.op(key[0], key[1])
    return session.job.from_ops_file(op) if op else "the spec's list of ops"


def sweep_text(spec, key):
    ops = [(op["op"], op["phase"]) for op in spec["ops"]]
    if key[:2] not in ops:
        return "the ops " + ", ".join(f"{name} ({phase})" for name, phase in ops)
    sweep = spec["sweep"]
    if sweep["kind"] == "kv":
        return f"B in {sweep['batch_sizes']} times KV length in {sweep['kv_lens']}, S=1"
    if key[1] == "decode":
        return f"B in {sweep['batch_sizes']}, S=1"
    return f"B in {sweep['batch_sizes'][:4]} times S in {sweep['seq_lens']}"


def check_method(session):
    """At least 10 warm-up calls before a timing and at least 100 timed calls."""
    source = session.source
    session.report.passed("output.method", len(session.methods))
    for key, (warm, timed) in session.methods.items():
        if warm < WARM_UP_CALLS:
            session.fail(
                "output.method",
                source.of("run_benchmarks"),
                "calls before the timing",
                warm,
                f"at least {WARM_UP_CALLS}",
                "docs/measurement.md",
                key,
            )
        if timed < TIMED_CALLS:
            session.fail(
                "output.method",
                source.of("run_benchmarks"),
                f"timed calls in {REPLAYS} replays",
                timed,
                f"at least {TIMED_CALLS}",
                "docs/measurement.md",
                key,
            )


def check_output(session, folder):
    """The CSV and its sidecar: header, one full row a point, and figures that agree with the fake clock."""
    job, source = session.job, session.source
    kernel = job.spec["kernel"]
    path = folder / f"{kernel}.csv"
    place = source.of("run_benchmarks")
    points, excluded = spec_points(job.spec)
    sidecar = read_sidecar(folder / f"{kernel}.jsonl")
    session.report.passed("output.file")
    if not path.is_file():
        found = ", ".join(sorted(p.name for p in folder.rglob("*") if p.is_file())) if folder.is_dir() else "nothing"
        session.fail(
            "output.file", place, "the results are not saved", found or "nothing", f"{kernel}.csv", "docs/design.md"
        )
        return
    session.point = None
    with path.open(newline="") as stream:
        rows = list(csv.reader(stream))
    session.report.passed("output.header")
    if not rows or tuple(rows[0]) != metrics.COLUMNS:
        session.fail(
            "output.header",
            place,
            f"the header of {kernel}.csv",
            ",".join(rows[0]) if rows else "an empty file",
            ",".join(metrics.COLUMNS),
        )
        return
    status = sidecar["run"].get("status")
    if len(rows) == 1 and points:
        explain_no_rows(session, sidecar, status)
        return
    attended = match_rows(session, rows[1:], points, place)
    check_figures(session, attended, points)
    session.report.passed("output.sidecar")
    if sidecar["run"] and status != "ok":
        reason = sidecar["run"].get("reason") or ""
        session.fail(
            "output.status", place, "the status of the run", f"{status} {reason}".strip(), "ok", "docs/design.md"
        )
    check_listed(session, sidecar, excluded, place)


def explain_no_rows(session, sidecar, status):
    """A header alone: say why, from the sidecar, unless a finding does already."""
    if not session.report.ok:
        return
    reason = sidecar["run"].get("reason") or next(
        (p.get("reason") or p.get("error") for p in sidecar["points"] if p.get("reason") or p.get("error")), ""
    )
    check = "imports.name" if status == "unavailable" else "output.rows"
    session.fail(
        check,
        session.source.of("PROVIDERS" if check == "imports.name" else "run_benchmarks"),
        f"nothing was measured on the stack {session.stack_name} ({status})",
        reason or "no row",
        "a row for each point",
    )


def match_rows(session, rows, points, place):
    """{key: row as dict} of the rows that belong to a point."""
    matched = {}
    # The CSV has no KV length of its own: it stands in N.
    kv = session.job.spec["sweep"]["kind"] == "kv"
    by_key = {}
    for key, (_, point) in points.items():
        by_key.setdefault((key[0], key[1], str(key[2]), str(key[3]), str(point["N"]) if kv else ""), key)
    session.report.passed("output.rows", len(points))
    for number, cells in enumerate(rows, 2):
        row = dict(zip(metrics.COLUMNS, cells, strict=False))
        if len(cells) != len(metrics.COLUMNS) or "" in [c.strip() for c in cells]:
            session.fail(
                "output.field",
                place,
                f"line {number} of the CSV has an empty field",
                ",".join(cells),
                f"{len(metrics.COLUMNS)} fields, all filled",
            )
            continue
        key = by_key.get((row["op"], row["phase"], row["B"], row["S"], row["N"] if kv else ""))
        if key is None:
            session.fail(
                "output.rows",
                place,
                "a row that is no point of the spec",
                ",".join(cells[:8]),
                "rows of the spec's points",
                "the spec",
            )
        elif key in matched:
            session.fail("output.rows", place, "two rows of one point", ",".join(cells[:8]), "one row a point", "", key)
        else:
            matched[key] = row
    for key in points:
        if key not in matched:
            session.fail(
                "output.rows", place, "a point has no row", session.where(key), "one row a point", "the spec", key
            )
    return matched


def check_figures(session, rows, points):
    """Every cell of every row against the spec, the contract's FLOPs, the recorded bytes and the fake clock."""
    job, source = session.job, session.source
    dtype = job.spec["compute_dtype"]
    for check in ("metrics.flops", "metrics.bytes", "metrics.columns", "metrics.latency", "metrics.bound"):
        session.report.passed(check, len(rows))
    for key in worst_first(session, rows):
        row = rows[key]
        op, point = points[key]
        if row["kernel"] != job.spec["kernel"]:
            session.fail(
                "output.field", source.of("KERNEL"), "kernel", row["kernel"], job.spec["kernel"], "the spec", key
            )
        for name in ("M", "N", "K"):
            if row[name] != str(point[name]):
                session.fail(
                    "metrics.columns",
                    source.of("columns"),
                    name,
                    row[name],
                    point[name],
                    f"{job.from_catalogue('columns')}; dimensions from {job.from_ops_file(op)}",
                    key,
                )
        if key not in session.traffic:
            continue
        flops, nbytes, latency = session.flops[key], session.traffic[key], session.latency.get(key)
        if not check_cost(session, key, flops, nbytes):
            session.wrong_costs.add(key)
            continue
        if latency is None:
            continue
        want = job.roof.row(flops, nbytes, dtype, latency)
        places = {
            "latency_ms": "metrics.latency",
            "gflops": "metrics.rates",
            "bandwidth_gbs": "metrics.rates",
            "arith_intensity": "metrics.intensity",
            "peak_pct": "metrics.peak",
        }
        for name, check in places.items():
            session.report.passed(check)
            if not metrics.cell_agrees(row[name], want[name]):
                session.fail(
                    check,
                    source.of("run_benchmarks"),
                    name,
                    row[name],
                    f"{want[name]:.6g}",
                    f"the fake clock's {latency} ms, {flops:g} FLOPs, {nbytes:g} bytes, peaks of {job.roof.name}",
                    key,
                )
        if row["bound"] != want["bound"]:
            session.fail(
                "metrics.bound",
                source.of("run_benchmarks"),
                "bound",
                row["bound"],
                want["bound"],
                f"the roofline of {dtype} on {job.roof.name}",
                key,
            )


def check_cost(session, key, flops, nbytes):
    """What cost() returned with inputs. True where it agrees."""
    source, job = session.source, session.job
    agrees = True
    for cost in given_costs(session, key):
        if not metrics.close(cost.flops, flops, metrics.EXACT):
            session.fail(
                "metrics.flops",
                source.cost_place("flops"),
                "FLOPs",
                f"{cost.flops:.10g}",
                f"{flops:.10g}{ratio(cost.flops, flops)}",
                job.contract_path,
                key,
            )
            agrees = False
        if not metrics.close(cost.bytes, nbytes, metrics.EXACT):
            session.fail(
                "metrics.bytes",
                source.cost_place("bytes"),
                "bytes",
                f"{cost.bytes:.12g}",
                f"{nbytes:.12g}{ratio(cost.bytes, nbytes)}{parts_of(session, key)}",
                f"the recorded tensors and {job.catalogue_path}, arguments (role, traffic)",
                key,
            )
            agrees = False
        if not agrees:
            break
    return agrees


def given_costs(session, key):
    """Costs that the script computed with inputs, else those without."""
    costs = session.costs.get(key, [])
    return [cost for with_inputs, cost in costs if with_inputs] or [cost for _, cost in costs]


def worst_first(session, keys):
    """Points in the order of how far their costs are off, so that a message shows the error where it is largest."""

    def distance(key):
        if key not in session.traffic:
            return 0.0
        return max(
            (off(cost, session.flops[key], session.traffic[key]) for cost in given_costs(session, key)), default=0.0
        )

    return sorted(keys, key=distance, reverse=True)


def off(cost, flops, nbytes):
    """How far FLOPs or bytes are off, as the logarithm of a factor."""
    pairs = [(found, wanted) for found, wanted in ((cost.flops, flops), (cost.bytes, nbytes)) if found != wanted]
    return max((abs(math.log(f / w)) if f > 0 and w > 0 else math.inf for f, w in pairs), default=0.0)


def parts_of(session, key):
    """What the bytes are made of, in words."""
    traffic, experts = session.parts.get(key, ({}, None))
    parts = sorted(((n, name) for name, n in traffic.items() if n), reverse=True)
    text = " + ".join(f"{name} {n:.12g}" for n, name in parts[:5])
    if len(parts) > 5:
        text += f" + {len(parts) - 5} smaller ones"
    op = session.job.op(key[0], key[1])
    total = (op or {}).get("dims", {}).get("E")
    activated = f"; {experts:.4g} of {total} experts are activated" if experts is not None and total else ""
    return f": {text}{activated}" if text else ""


def ratio(found, wanted):
    if not wanted or not found:
        return ""
    return f" (found is {found / wanted:.4g} times that)"


def check_listed(session, sidecar, excluded, place):
    """Points outside the kernel's limits are listed in the sidecar, with a reason."""
    listed = {
        (p.get("op"), p.get("phase"), p.get("B"), p.get("S"), p.get("L", p.get("S"))): p
        for p in sidecar["points"]
        if p.get("status") == "not_applicable"
    }
    session.report.passed("loops.not-applicable", len(excluded))
    if not sidecar["run"]:
        return
    for key in excluded:
        if key not in listed:
            session.fail(
                "loops.not-applicable",
                place,
                "a point outside the kernel's limits is not listed",
                session.where(key),
                "an entry with its reason in the sidecar",
                "the spec",
                key,
            )
        elif not listed[key].get("reason"):
            session.fail(
                "loops.not-applicable",
                session.source.of("not_applicable"),
                "a point is left out",
                "no reason",
                "the limit that it breaks",
                "the spec",
                key,
            )


def read_sidecar(path):
    """{"run": {...}, "points": [...]} of a .jsonl, empty where there is none."""
    found = {"run": {}, "points": []}
    if not path.is_file():
        return found
    for line in path.read_text().splitlines():
        with contextlib.suppress(ValueError):
            record = json.loads(line)
            if record.get("type") == "run":
                found["run"] = record
            elif record.get("type") == "point":
                found["points"].append(record)
    return found


def script_ops(module):
    return {(op.name, op.phase): op for op in module.OPS}


def check_not_applicable(session, module):
    """not_applicable() says a reason for the points outside the limits, and None for all others."""
    from bench_utils import Point

    points, excluded = spec_points(session.job.spec)
    ops = script_ops(module)
    place = session.source.of("not_applicable")
    for keys, wanted in ((points, False), (excluded, True)):
        for key, (spec_op, _) in keys.items():
            op = ops.get(key[:2])
            if op is None:
                continue
            T = key[2] if spec_op["phase"] == "decode" else key[2] * key[3]
            session.report.passed("loops.not-applicable")
            try:
                reason = module.not_applicable(op, Point(B=key[2], S=key[3], L=key[4], T=T))
            except Exception as error:
                session.script_error(error, "not_applicable raises", "loops.not-applicable")
                return
            if wanted and not (isinstance(reason, str) and reason.strip()):
                session.fail(
                    "loops.not-applicable",
                    place,
                    "a point outside the kernel's limits is not refused",
                    repr(reason),
                    "the limit that it breaks",
                    session.job.from_catalogue("limits"),
                    key,
                )
            elif not wanted and reason is not None:
                session.fail(
                    "loops.not-applicable",
                    place,
                    "a point of the spec is refused",
                    reason,
                    "None",
                    session.job.from_catalogue("limits"),
                    key,
                )


def check_dry_cost(session, module):
    """cost() without inputs, which --dry-run uses, says the same, with the expected number of activated experts."""
    from bench_utils import Point

    job = session.job
    points, _ = spec_points(job.spec)
    ops = script_ops(module)
    counted = job.entry.get("active_experts") == "counted"
    wrong = []
    for key, (spec_op, _) in points.items():
        if key not in session.traffic or key[:2] not in ops or key in session.wrong_costs:
            continue
        T = key[2] if spec_op["phase"] == "decode" else key[2] * key[3]
        session.report.passed("metrics.dry-run")
        try:
            cost = module.cost(ops[key[:2]], Point(B=key[2], S=key[3], L=key[4], T=T))
        except Exception as error:
            session.script_error(error, "cost without inputs raises", "metrics.dry-run")
            return
        flops, nbytes = session.flops[key], session.traffic[key]
        # The expected number of experts is close to the counted one, and never far from it.
        tolerance = 0.5 if counted else metrics.EXACT
        agree = metrics.close(cost.flops, flops, metrics.EXACT) and metrics.close(cost.bytes, nbytes, tolerance)
        if not agree:
            wrong.append((off(cost, flops, nbytes), key, cost, flops, nbytes))
    about = "about " if counted else ""
    for _, key, cost, flops, nbytes in sorted(wrong, key=lambda item: item[0], reverse=True):
        session.fail(
            "metrics.dry-run",
            session.source.of("cost"),
            "FLOPs and bytes without inputs",
            f"{cost.flops:.10g} and {cost.bytes:.10g}",
            f"{flops:.10g} and {about}{nbytes:.10g}{ratio(cost.bytes, nbytes)}",
            f"{job.contract_path}, the recorded tensors and {job.catalogue_path}, arguments (role, traffic)",
            key,
        )


def check_short_sweep(session, module, attempts):
    """Fewer batch sizes and lengths are obeyed."""
    if attempts is None:
        return
    spec = session.job.spec
    kv = spec["sweep"]["kind"] == "kv"
    batches = spec["sweep"]["batch_sizes"][:SHORT]
    lengths = spec["sweep"]["kv_lens" if kv else "seq_lens"][:1]
    points, excluded = spec_points(spec)
    wanted = {
        key
        for key in {**points, **excluded}
        if key[2] in batches and ((key[4] if kv else key[3]) in lengths or (key[1] == "decode" and not kv))
    }
    attempts.clear()
    session.report.passed("loops.arguments")
    folder = session.folder / "short"
    arguments = {
        "batch_sizes": list(batches),
        "kv_lens" if kv else "seq_lens": list(lengths),
        "output_dir": str(folder),
    }
    if run_benchmarks(session, module, arguments) and set(attempts) != wanted:
        odd = sorted(set(attempts) ^ wanted, key=str)[0]
        session.fail(
            "loops.arguments",
            session.source.of("run_benchmarks"),
            f"run_benchmarks(batch_sizes={batches}, {'kv_lens' if kv else 'seq_lens'}={lengths})",
            f"{len(set(attempts))} points",
            f"{len(wanted)} points; the first difference is {session.where(odd)}",
        )


def check_command_line(session, module):
    """--help names the options, and --dry-run lists every point without the kernel packages."""
    import bench_utils

    source, spec = session.source, session.job.spec
    if not hasattr(bench_utils, "main"):
        return
    session.point = None
    status, text = command(session, module, ["--help"])
    session.report.passed("output.cli")
    flags = ["--batch-sizes", "--output", "--op", "--phase", "--hardware", "--dry-run"]
    flags.append("--kv-lens" if spec["sweep"]["kind"] == "kv" else "--seq-lens")
    missing = [flag for flag in flags if not re.search(rf"{re.escape(flag)}\b", text)]
    if status or missing:
        session.fail(
            "output.cli",
            source.place(None),
            "--help",
            f"without {', '.join(missing)}" if missing else text[-300:],
            "all options of a benchmark",
        )
    for name in list(sys.modules):
        if name.split(".")[0] in PACKAGES:
            sys.modules[name] = None
    status, text = command(session, module, ["--dry-run"])
    points, _ = spec_points(spec)
    session.report.passed("output.cli")
    if status:
        session.fail(
            "output.cli", source.place(None), "--dry-run", f"status {status}: {text[-300:].strip()}", "status 0"
        )
    elif sum(any(op["op"] in line for op in spec["ops"]) for line in text.splitlines()) < len(points):
        session.fail(
            "output.cli",
            source.place(None),
            "--dry-run",
            f"{len(text.splitlines())} lines",
            f"each of the {len(points)} points",
        )


def command(session, module, arguments):
    """(exit status, output) of the script's command line."""
    import bench_utils

    stream = io.StringIO()
    argv, sys.argv = sys.argv, [module.__file__, *arguments]
    width = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "400"
    # Without the hooks: a script may do without what only make_inputs needs.
    plain = dataclasses.replace(
        module.BENCHMARK, **{name: getattr(module.BENCHMARK, name)._function for name in HOOKED}
    )
    try:
        with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream), session.shadow:
            status = bench_utils.main(plain, module.run_benchmarks)
    except SystemExit as error:
        status = error.code
    except sandbox.Denied:
        raise
    except Exception as error:
        status = f"{type(error).__name__}: {error}"
    finally:
        sys.argv = argv
        if width is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = width
    return status or 0, stream.getvalue()
