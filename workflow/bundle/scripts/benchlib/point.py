"""One point: make its inputs, time it cold and warm, and write down everything about it."""

import re
import statistics
from dataclasses import dataclass

from benchlib import check, nvml, sets, timing
from benchlib.model import Point


@dataclass
class Context:
    """What all points of a run share."""

    benchmark: object
    kernel: object
    runtime: object
    evictor: timing.Evictor
    reference: object = None


def base_record(benchmark, op, point):
    """What is known of a point without measuring it."""
    M, N, K = benchmark.columns(op, point)
    found = {"kernel": benchmark.kernel, "op": op.name, "phase": op.phase, **point._asdict(), "M": M, "N": N, "K": K}
    return found | {"compute_dtype": benchmark.compute_dtype, "dims": dict(op.dims)}


def measure_point(context, op, point, seed=0):
    """The sidecar record of a point that was measured: statistics, clocks, flags; peaks and rates are added later.

    A point that was measured while the GPU was throttled is measured once more, then flagged.
    """
    benchmark, runtime = context.benchmark, context.runtime
    first = benchmark.make_inputs(op, point, runtime.device, seed)
    cost = benchmark.cost(op, point, first)
    record = base_record(benchmark, op, point)
    if benchmark.routing:
        record["routing"] = benchmark.routing
    return record | measure_inputs(context, op, point, first, cost, seed)


def measure_inputs(context, op, point, first, cost, seed):
    """Statistics of one call with inputs like `first`, cold and warm."""
    benchmark, kernel, runtime = context.benchmark, context.kernel, context.runtime

    def call(x):
        benchmark.call_kernel(kernel, x)

    def draw(i):
        return benchmark.make_inputs(op, point, runtime.device, seed + i)

    if benchmark.warm_up:
        benchmark.warm_up(kernel, first)
    set_bytes = sets.allocated_bytes(first)
    count, evicted = sets_for(context, first, cost)
    rotation = sets.more_sets(first, count, draw)
    counted = mean_cost(benchmark, op, point, rotation)
    evict, evict_ms = context.evictor.of(evicted)
    evicted = evicted if evict else 0
    same = count == 1 and not evicted  # one set that fills the cache by itself, or no cache at all

    timing.warm_up(runtime, call, rotation)
    attempts = []
    for _ in range(2):
        before = runtime.clocks()
        cold = timing.measure(runtime, call, rotation, timing.COLD, evicted, evict_ms, evict)
        warm = cold if same else timing.measure(runtime, call, rotation[:1], timing.WARM)
        after = _under_load(runtime, call, rotation, cold)
        attempts.append((cold, warm, before, after))
        if not nvml.throttled(before, after):
            break
    cold, warm, before, after = attempts[-1]

    flags = []
    reasons = nvml.throttled(before, after)
    if reasons:
        flags.append("throttled")
    if runtime.checks and context.reference is not None:
        result = benchmark.call_kernel(kernel, rotation[0])
        runtime.synchronize()
        if check.not_finite(context.reference, rotation[0], result):
            flags.append("not_finite")
    return counted | {
        "pdl": getattr(kernel, "pdl", None),
        "cold": cold.as_record(),
        "warm": warm.as_record(),
        "warm_is_cold": same,
        "set_bytes": set_bytes,
        "clocks": {"before": before, "after": after},
        "throttle_reasons": reasons,
        "attempts": len(attempts),
        "flags": flags,
        "seed": seed,
    }


def sets_for(context, first, cost):
    """How many sets like `first` to rotate through, and the bytes that a reader evicts beside them (see sets.wanted).

    The kernel is called once: what it allocates itself lies in the graph's own memory, the same in every call.
    """
    runtime = context.runtime
    l2_bytes = runtime.properties().l2_bytes
    if not l2_bytes:
        return 1, 0
    repeated = sets.bytes_beside(context.benchmark.call_kernel(context.kernel, first), first)
    return sets.wanted(cost.bytes, l2_bytes, sets.allocated_bytes(first), runtime.free_memory(), repeated)


def mean_cost(benchmark, op, point, rotation):
    """FLOPs, bytes and, where they are counted, activated experts of a call: the mean over the sets.

    Sets that were drawn apart have different routings, and the latency is a mean over them as well.
    """
    costs = [benchmark.cost(op, point, x) for x in rotation]
    found = {"flops": _mean([cost.flops for cost in costs]), "bytes": _mean([cost.bytes for cost in costs])}
    if isinstance(rotation[0], dict) and "active_experts" in rotation[0]:
        found["active_experts"] = _mean([int(x["active_experts"]) for x in rotation])
    return found


def _mean(values):
    """The mean; equal values stay as they are, integers included."""
    return values[0] if values.count(values[0]) == len(values) else statistics.fmean(values)


def _under_load(runtime, call, rotation, cold):
    """Clocks while the kernel runs: a few milliseconds of launches are still queued when they are read."""
    calls = min(200, max(1, int(10.0 / max(cold.median_ms, 1e-3))))
    with runtime.side_stream():
        for i in range(calls):
            call(rotation[i % len(rotation)])
        reading = runtime.clocks()
    runtime.synchronize()
    return reading


def listed(benchmark, op, point, hardware, x=None):
    """A point that is not measured: its cost and its time at the roofline."""
    cost = benchmark.cost(op, point, x)
    record = base_record(benchmark, op, point) | {"flops": cost.flops, "bytes": cost.bytes}
    roof = hardware.roofline(cost.flops, cost.bytes, benchmark.compute_dtype) if hardware else None
    if roof:
        record |= {"roofline_ms": roof.time_ms, "bound": roof.bound}
    return record | {"category": benchmark.category}


def parse_point(text, ops, phase=None):
    """(op, Point) of "op,B,S" or "op,B,S,L". Raises ValueError with what was found and expected.

    Op labels may hold commas: numbers are taken from the end. Of two ops with one label, S = 1 means decode.
    """
    found = re.fullmatch(r"(.*?)((?:,\s*\d+){2,3})", text.strip())
    if found is None:
        raise ValueError(f"point {text!r}: expected op,B,S or op,B,S,L")
    label = found.group(1).strip()
    numbers = [int(number) for number in found.group(2).split(",")[1:]]
    if min(numbers) < 1:
        raise ValueError(f"point {text!r}: sizes begin at 1")
    B, S = numbers[:2]
    found = [op for op in ops if op.name == label and phase in (None, op.phase)]
    if not found:
        raise ValueError(
            f"point {text!r}: there is no op {label!r}; the ops are {', '.join({op.name: 0 for op in ops})}"
        )
    likely = [op for op in found if (op.phase == "decode") == (S == 1)]
    op = (likely or found)[0]
    return op, Point.of(op, B, S, numbers[2] if len(numbers) == 3 else None)
