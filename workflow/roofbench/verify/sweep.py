"""The sweep: run it under the recording mode, and compare the points that it asks for with those of the spec."""

import dataclasses
import errno
import inspect
import sys

from roofbench.verify.declared import script_ops
from roofbench.verify.job import spec_points
from roofbench.verify.session import REPLAYS, TIMED_CALLS, WARM_UP_CALLS, Hook

HOOKED = ("make_inputs", "call_kernel", "cost")
# Points of a second, shorter sweep, which shows that the script obeys its arguments.
SHORT = 2


def observed(session, module):
    """BENCHMARK with hooks around the script's functions."""
    benchmark = module.BENCHMARK
    hooks = {}
    for name in HOOKED:
        function = getattr(benchmark, name)
        hooks[name] = function if isinstance(function, Hook) else Hook(function, getattr(session, name))
    if getattr(benchmark, "warm_up", None) is not None:
        hooks["warm_up"] = Hook(benchmark.warm_up, session.warm_up_kernel)
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
        check_run(session, module, self)
        check_options(session, self)
        return real(self, op, *args, **kwargs)

    run.measure = measure
    return attempts


def check_run(session, module, run):
    """The object that measures is the bundle's own, with this script's BENCHMARK and the options that were given."""
    if run in session.runs:
        return
    session.runs.append(run)
    session.kernel = getattr(run, "kernel", None)
    session.report.passed("output.options")
    place = session.source.called("BenchmarkRun", "run_benchmarks")
    kind = type(run)
    if (kind.__module__, kind.__name__) != ("benchlib.run", "BenchmarkRun"):
        session.fail("output.options", place, "what measures", kind.__name__, "BenchmarkRun of bench_utils")
    own = [name for name in vars(run) if callable(getattr(kind, name, None))]
    if own:
        session.fail(
            "output.options", place, "methods of BenchmarkRun", f"its own {', '.join(own)}", "those of bench_utils"
        )
    if run.benchmark is not module.BENCHMARK:
        wanted = "BENCHMARK, whose tolerance and functions are checked"
        session.fail("output.options", place, "what BenchmarkRun gets", "another Benchmark", wanted)


def check_options(session, run):
    """The options of a run are those that run_benchmarks was called with."""
    if session.given is None or (session.free and run.options.mode == "plan"):
        return
    wanted = {field.name: session.given.get(field.name, field.default) for field in dataclasses.fields(run.options)}
    odd = [name for name in wanted if name not in session.free and getattr(run.options, name) != wanted[name]]
    if not odd:
        return
    session.free = (*session.free, *odd)
    session.fail(
        "output.options",
        session.source.called("BenchmarkRun", "run_benchmarks"),
        "options of the run",
        ", ".join(f"{name}={getattr(run.options, name)!r}" for name in odd),
        f"{', '.join(f'{name}={wanted[name]!r}' for name in odd)}{'' if session.given else ', the default'}: "
        "who runs the script decides how it is measured",
        "docs/design.md, A generated script",
    )


def run_benchmarks(session, module, arguments, options=None):
    """Run the sweep under the recording mode. False, with a finding, where it raises.

    options: of the run itself, such as cache="warm".
    """
    session.given, session.free, session.runs = options or {}, (), []
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
            module.run_benchmarks(**arguments, **session.given)
    except SystemExit as error:
        session.raised = True
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
    finally:
        session.given = None
    return True


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
                f"no attempt at {session.where(key)}",
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
            session.never.add(key)
            session.fail(
                "loops.missing",
                loop_place(session, key),
                "a point of the spec is never attempted",
                f"no attempt at {session.where(key)}",
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


def check_not_applicable(session, module):
    """not_applicable() says a reason for the points outside the limits, and None for all others."""
    from bench_utils import Point

    points, excluded = spec_points(session.job.spec)
    ops = script_ops(module)
    place = session.source.of("not_applicable")
    for keys, wanted in ((points, False), (excluded, True)):
        for key, (spec_op, _) in keys.items():
            op = ops.get(key[:2])
            if op is None or key[:2] in session.own_dims:
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


def check_short_sweep(session, module, attempts):
    """Fewer batch sizes and lengths, one op, and other settings are obeyed."""
    if attempts is None:
        return
    spec = session.job.spec
    batches = spec["sweep"]["batch_sizes"][:SHORT]
    lengths = spec["sweep"][lengths_name(spec)][:1]
    sizes = {"batch_sizes": list(batches), lengths_name(spec): list(lengths)}
    last = spec["ops"][-1]
    one = {"ops": (last["op"],), "phase": last["phase"]}
    short = short_points(spec, batches, lengths)
    for options, wanted in (
        ({}, short),
        ({**one, "cache": "warm", "resume": False}, {key for key in short if key[:2] == (last["op"], last["phase"])}),
    ):
        attempts.clear()
        session.report.passed("loops.arguments")
        folder = session.folder / "short"
        if not run_benchmarks(session, module, {**sizes, "output_dir": str(folder)}, options):
            return
        if set(attempts) != wanted and session.report.ok:
            odd = sorted(set(attempts) ^ wanted, key=str)[0]
            given = {**sizes, **options}
            session.fail(
                "loops.arguments",
                session.source.of("run_benchmarks"),
                f"run_benchmarks({', '.join(f'{name}={value!r}' for name, value in given.items())})",
                f"{len(set(attempts))} points",
                f"{len(wanted)} points; the first difference is {session.where(odd)}",
                "docs/design.md, A generated script",
            )
        if not session.report.ok:
            return


def lengths_name(spec):
    return "kv_lens" if spec["sweep"]["kind"] == "kv" else "seq_lens"


def short_points(spec, batches, lengths):
    """Keys of the points that a sweep over these batch sizes and lengths has."""
    kv = spec["sweep"]["kind"] == "kv"
    points, excluded = spec_points(spec)
    return {
        key
        for key in {**points, **excluded}
        if key[2] in batches and ((key[4] if kv else key[3]) in lengths or (key[1] == "decode" and not kv))
    }


def check_endings(session, module):
    """What ends a run comes out of run_benchmarks: a dead GPU and a full disk are for those who started it."""
    import bench_utils
    from benchlib.run import RestartNeeded

    spec = session.job.spec
    run = bench_utils.BenchmarkRun
    watched = run.measure
    sizes = {"batch_sizes": spec["sweep"]["batch_sizes"][:1], lengths_name(spec): spec["sweep"][lengths_name(spec)][:1]}
    for error in (RestartNeeded("the GPU context is lost"), OSError(errno.ENOSPC, "No space left on device")):

        def measure(self, *args, error=error, **kwargs):
            raise error

        run.measure = measure
        session.report.passed("output.errors")
        try:
            with session.shadow:
                module.run_benchmarks(**sizes, output_dir=str(session.folder / "short"))
        except type(error):
            continue
        except Exception as other:
            found = f"{type(other).__name__}: {other}"
        else:
            found = "it returns as if nothing had happened"
        finally:
            run.measure = watched
        said = getattr(error, "reason", None) or error.args[-1]
        session.fail(
            "output.errors",
            session.source.called("measure", "run_benchmarks"),
            f"run_benchmarks, where run.measure raises {type(error).__name__} ({said})",
            found,
            "the same error: the supervisor starts another process, or says that the disk is full",
            "docs/measurement.md, Running",
        )
        return
