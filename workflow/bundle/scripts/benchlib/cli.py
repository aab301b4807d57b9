"""The command line that every benchmark script has."""

import argparse
import inspect
import json
import os
import signal
import sys
import time

from benchlib import estimate, gpus, hardware, journal, resolve, sets, text
from benchlib.arguments import flat, integers
from benchlib.point import listed, parse_point
from benchlib.progress import Progress
from benchlib.results import CACHES
from benchlib.run import BenchmarkRun
from benchlib.runtime import get_runtime
from benchlib.status import EXIT_BUSY, EXIT_DISK, classify, no_room
from benchlib.torch_or_none import TORCH_ERROR, torch


def main(benchmark, run_benchmarks, arguments=None):
    """Run a script's command line; returns the exit code: 0 for every outcome that is on record."""
    options = parse(benchmark, run_benchmarks, arguments)
    try:
        shown = hardware.for_listing(options.hardware)
        if options.point:
            return one_point(benchmark, options)
        points = plan(run_benchmarks, options)
        if options.list_points:
            print(json.dumps(points_as_json(benchmark, points, shown), indent=1))
            return 0
        if options.dry_run:
            dry_run(benchmark, points, shown)
            return 0
        return measure(benchmark, run_benchmarks, points, options)
    except BrokenPipeError:  # the reader of a list has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (hardware.HardwareError, ValueError) as error:
        print(f"{benchmark.kernel}: {error}", file=sys.stderr)
        return 2
    except journal.JournalBusy as error:
        print(f"{benchmark.kernel}: {error}", file=sys.stderr)
        return EXIT_BUSY
    except OSError as error:
        print(f"{benchmark.kernel}: {no_room(error, options.output)}", file=sys.stderr)
        return EXIT_DISK


def parse(benchmark, run_benchmarks, arguments=None):
    """The parsed command line; `lens` is what the script sweeps beside the batch size."""
    batch_sizes, lens = default_sweep(run_benchmarks)
    parser = argparse.ArgumentParser(description=f"Benchmark of {benchmark.kernel} ({benchmark.source}).")
    sizes = {"nargs": "+", "metavar": "N", "type": integers}
    parser.add_argument("--batch-sizes", **sizes, help=f"default: {_words(batch_sizes)}")
    kv = benchmark.sweep == "kv"
    swept = f"default: {_words(lens)}"
    parser.add_argument("--seq-lens", **sizes, help="not swept by this kernel" if kv else swept)
    parser.add_argument("--kv-lens", **sizes, help=swept if kv else "not swept by this kernel")
    parser.add_argument("--output", default="results", metavar="DIR", help="folder of the CSV and its sidecar")
    parser.add_argument("--op", action="append", metavar="NAME", help="only this op; may be repeated")
    parser.add_argument("--phase", choices=("decode", "prefill"), help="only this phase")
    parser.add_argument("--hardware", default=hardware.AUTO, metavar="NAME", help="auto, or an entry of hardware.json")
    parser.add_argument("--cache", choices=CACHES, default="cold", help="state of the L2 cache that the CSV reports")
    parser.add_argument("--dry-run", action="store_true", help="list the points with their cost; no GPU needed")
    parser.add_argument("--list-points", action="store_true", help="the same as JSON")
    parser.add_argument("--point", metavar="OP,B,S[,L]", help="measure one point and print it; nothing is written")
    parser.add_argument("--once", action="store_true", help="with --point: a single launch in an NVTX range, not timed")
    parser.add_argument("--fresh", action="store_true", help="measure again what the journal has")
    parser.add_argument("--journal", metavar="DIR", help="default: journal/ beside the output folder")
    parser.add_argument("--record", metavar="FILE", help="JSON object to put on record with the results")
    parser.add_argument("--share", action="store_true", help=argparse.SUPPRESS)  # for supervise.py: a second worker
    options = parser.parse_args(arguments)
    options.batch_sizes = flat(options.batch_sizes) or batch_sizes
    options.lens = flat(options.kv_lens if kv else options.seq_lens) or lens
    names = list(dict.fromkeys(op.name for op in benchmark.ops))
    for name in options.op or ():
        if name not in names:
            parser.error(f"there is no op {name!r}; the ops are {', '.join(names)}")
    if options.once and not options.point:
        parser.error("--once needs --point")
    if kv and options.seq_lens or not kv and options.kv_lens:
        ignored = "--seq-lens" if kv else "--kv-lens"
        print(f"{benchmark.kernel}: {ignored} is not swept by this kernel and has no effect", file=sys.stderr)
    options.command = [sys.argv[0], *(sys.argv[1:] if arguments is None else arguments)]
    return options


def default_sweep(run_benchmarks):
    """(batch sizes, lengths) of the script: the defaults of its run_benchmarks."""
    parameters = list(inspect.signature(run_benchmarks).parameters.values())
    return tuple(parameter.default for parameter in parameters[:2])


def _words(values):
    return " ".join(map(str, values or ()))


def plan(run_benchmarks, options):
    """What the script's loops ask for: [Planned], in order."""
    return run_benchmarks(
        options.batch_sizes, options.lens, options.output, mode="plan", ops=tuple(options.op or ()), phase=options.phase
    )


def points_as_json(benchmark, points, shown):
    """The points as --list-points prints them: cost and place on the roofline of each."""
    found = {
        name: getattr(benchmark, name)
        for name in ("kernel", "catalogue", "source", "category", "compute_dtype", "sweep")
    }
    found["hardware"] = shown.name
    found["points"] = [listed(benchmark, op, point, shown) for op, point, reason in points if not reason]
    found["not_applicable"] = [
        {"op": op.name, "phase": op.phase, **point._asdict(), "reason": reason}
        for op, point, reason in points
        if reason
    ]
    return found


def dry_run(benchmark, points, shown, stream=None):
    """A table of the points: GFLOP and MB of one call, memory of one input set, time at the roofline in µs."""
    stream = stream or sys.stdout
    width = max([2, *(len(op.name) for op, _, reason in points if not reason)])
    head = f"{'op':<{width}} {'phase':<8}{'B':>5}{'S':>6}{'L':>6}{'M':>8}{'N':>7}{'K':>7}"
    print(f"{head}{'GFLOP':>12}{'MB':>11}{'memory MB':>11}{'roof µs':>10}  bound", file=stream)
    for op, point, reason in points:
        if reason:
            continue
        row = listed(benchmark, op, point, shown)
        memory = _memory(benchmark, op, point)
        widths = {"B": 5, "S": 6, "L": 6, "M": 8, "N": 7, "K": 7}
        place = "".join(f"{row[name]:>{size}}" for name, size in widths.items())
        needed = "–" if memory is None else f"{memory / 1e6:.4g}"
        cost = f"{row['flops'] / 1e9:>12.4g}{row['bytes'] / 1e6:>11.4g}{needed:>11}"
        roof = f"{row['roofline_ms'] * 1e3:>10.3f}  {row['bound']}" if "roofline_ms" in row else ""
        print(f"{op.name:<{width}} {op.phase:<8}{place}{cost}{roof}", file=stream)
    count = sum(not reason for _, _, reason in points)
    out = {reason: 0 for _, _, reason in points if reason}
    for _, _, reason in points:
        if reason:
            out[reason] += 1
    print(f"{benchmark.kernel}: {text.plural(count, 'point')}, roofline of {shown.name}", file=stream)
    for reason, number in out.items():
        print(f"not applicable: {number} x {reason}", file=stream)
    if torch is None:
        print(f"memory is not known: {TORCH_ERROR}", file=stream)


def _memory(benchmark, op, point):
    if torch is None:
        return None
    try:
        return sets.allocated_bytes(benchmark.make_inputs(op, point, "meta", 0))
    except Exception:  # an input builder may need the kernel's package
        return None


def one_point(benchmark, options):
    """--point: measure a single point, or launch it once for a profiler."""
    op, point = parse_point(options.point, benchmark.ops, options.phase)
    reason = benchmark.not_applicable(op, point)
    if reason:
        raise ValueError(f"not applicable: {reason}")
    if options.once:
        return launch_once(benchmark, op, point)
    settings = run_options(options) | {"plan": [(op, point)], "keep": False, "resume": False}
    with BenchmarkRun(benchmark, options.output, **settings) as run:
        run.measure(op, B=point.B, S=point.S, L=point.L)
    if run.status == "unavailable":
        print(f"unavailable: {run.reason}")
        return 0
    print(json.dumps(run.records[0] if run.records else run.run, indent=1, default=str))
    return 0


def launch_once(benchmark, op, point, runtime=None):
    """Launch the kernel once, in an NVTX range named after kernel, op and point."""
    runtime = runtime or get_runtime()
    try:
        kernel = resolve.resolve(benchmark, runtime)
    except resolve.Unavailable as error:
        print(f"unavailable: {error}")
        return 0
    label = f"{benchmark.kernel} {op.name} B={point.B} S={point.S} L={point.L}"
    try:
        x = benchmark.make_inputs(op, point, runtime.device, 0)
        runtime.synchronize()
        with runtime.mark(label):
            benchmark.call_kernel(kernel, x)
            runtime.synchronize()
    except Exception as error:  # whatever a kernel raises
        missing = resolve.missing_piece(error)
        if missing:
            print(f"unavailable: {missing}")
            return 0
        print(f"{label}: {': '.join(classify(error))}", file=sys.stderr)
        return 1
    print(f"launched once: {label} ({kernel.target})")
    return 0


def run_options(options):
    """Options of a BenchmarkRun from the command line."""
    return {
        "hardware": options.hardware,
        "cache": options.cache,
        "ops": tuple(options.op or ()),
        "phase": options.phase,
        "journal_dir": options.journal,
        "resume": not options.fresh,
        "command": options.command,
        "record": facts(options.record) if options.record else None,
    }


def facts(path):
    """The JSON object in a file. Raises ValueError with what is wrong with it."""
    try:
        with open(path, encoding="utf-8") as stream:
            found = json.load(stream)
    except OSError as error:
        raise ValueError(f"--record {path}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"--record {path}: not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"--record {path}: expected an object, found {type(found).__name__}")
    return found


def measure(benchmark, run_benchmarks, points, options):
    """Measure all planned points; prints one line about the outcome."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _terminate)
    planned = [(op, point) for op, point, reason in points if not reason]
    if options.share:
        return share(benchmark, planned, options)
    finished = {}
    start = time.monotonic()
    with Progress(len(planned), benchmark.kernel) as progress:

        def on_point(record):
            progress.advance(f"{record['op']} {record['phase']} B={record['B']} S={record['S']}")

        run_benchmarks(
            options.batch_sizes,
            options.lens,
            options.output,
            plan=planned,
            on_point=on_point,
            on_end=finished.update,
            **run_options(options),
        )
    passed = time.monotonic() - start
    reason = f": {finished['reason']}" if finished.get("reason") else ""
    if finished.get("status") == "unavailable":
        print(f"unavailable{reason}")
    else:
        counts = f"{finished.get('measured')} of {finished.get('asked')} points in {passed:.1f} s"
        print(f"{benchmark.kernel}: {finished.get('status')}, {counts}{reason}")
    return 0


def share(benchmark, planned, options):
    """Measure points for another worker of the same run until somebody waits for this GPU."""
    with BenchmarkRun(benchmark, options.output, plan=planned, share=True, **run_options(options)) as run:
        for op, point in order_of_sharing(planned):
            if gpus.is_awaited(os.environ.get(gpus.HELD)):
                break
            run.measure(op, B=point.B, S=point.S, L=point.L)
    return 0


def order_of_sharing(planned):
    """The largest points first, because they take longest; among equals the last, far from the other worker.

    planned: [(op, point)] in the order in which the first worker measures them.
    """
    return sorted(planned, key=lambda one: estimate.size(one[1].B, one[1].S, one[1].L))[::-1]


def _terminate(signum, frame):
    raise SystemExit(128 + signum)
