#!/usr/bin/env python3
"""Compare our cold latency with other timers: flashinfer.testing over CUDA graphs, over events, and over CUPTI.

CUPTI reads the time stamps of single kernels, twice: over our own rotated input sets, and after flashinfer's flush of
the cache, which writes zeros and leaves the cache full of lines that the kernel has to write back. "apart" is our own
timer with an empty kernel before each call, whose time is subtracted: no call overlaps with the one before it, which
programmatic dependent launch would let it do.

Needs a GPU, the benchmark scripts beside this folder, and flashinfer-python; for CUPTI also cupti-python 13. For each
point named, prints and writes our latency, the other timers' and the ratios, as a Markdown table.

    python crosscheck.py --output timers.md rmsnorm:input_layernorm,8,2048 moe_fused_gate:topk,1,1
"""

import argparse
import importlib
import importlib.metadata
import itertools
import statistics
import sys
import warnings
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchlib import check, resolve, sets, timing
from benchlib.point import Context, measure_point, parse_point, sets_for
from benchlib.runtime import get_runtime

# Kernels of seven categories, small and large, each over 5 µs where the kernel allows it; the two norms are also here
# with a short point, where a launch that overlaps (PDL) would show most.
POINTS = (
    "rmsnorm:input_layernorm,64,1",
    "rmsnorm:input_layernorm,8,2048",
    "fused_add_rmsnorm:post_attention_layernorm,64,1",
    "fused_add_rmsnorm:post_attention_layernorm,4,1024",
    "dsv3_fused_a_gemm:fused_qkv_a_proj_with_mqa,1,1",
    "dsv3_fused_a_gemm:fused_qkv_a_proj_with_mqa,16,1",
    "bmm_fp8:q_nope * w_kc,128,1",
    "silu_and_mul:act_fn,8,1024",
    "apply_rope_with_cos_sin_cache_inplace:rotary_emb,8,1024",
    "moe_fused_gate:topk,8,1024",
    "apply_shuffle_mul_sum:experts.combine,8,512",
    "mla_rope_quantize_fp8:attn_mqa.rope_quantize,128,1",
)
TIMERS = ("apart", "graph", "events", "CUPTI, flushed", "CUPTI, rotated")
CUPTI_MAJOR = 13


class NoTimer(RuntimeError):
    """A timer is not there; the message says why."""


def ours(context, op, point):
    """Cold and warm latency in ms."""
    record = measure_point(context, op, point)
    return record["cold"]["median_ms"], record["warm"]["median_ms"]


def cupti_missing():
    """Why flashinfer.testing cannot time with CUPTI here, or None. It wants cupti-python 13 or newer."""
    try:
        version = importlib.metadata.version("cupti-python")
    except importlib.metadata.PackageNotFoundError:
        return "cupti-python is not installed"
    if int(version.split(".")[0]) < CUPTI_MAJOR:
        return f"cupti-python {version} is older than {CUPTI_MAJOR}"
    return None


def with_cupti(timer):
    """``timer`` (bench_gpu_time_with_cupti), which raises NoTimer where it would measure with events instead."""

    def measure(**options):
        reason = cupti_missing()
        if reason:
            raise NoTimer(reason)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*[Ff]alling back")
            try:
                return timer(**options)
            except UserWarning as warning:
                raise NoTimer(f"CUPTI did not work: {str(warning).splitlines()[0][:80]}") from None

    return measure


def try_timers(timers, **options):
    """{timer: median latency in ms, or the reason why there is none}."""
    found = {}
    for name, timer in timers.items():
        try:
            found[name] = statistics.median(timer(**options))
        except NoTimer as error:
            found[name] = str(error)
        except Exception as error:  # what another library's timer cannot do is a finding, not a failure
            found[name] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:80]}"
    return found


def rotated(timer, call, inputs, complete):
    """``timer`` over calls with one input set after the other, without a flush.

    complete    whether the sets alone empty the cache
    """

    def measure(**options):
        if not complete:
            raise NoTimer("the sets do not fill the cache")
        turns = itertools.cycle(inputs)
        return timer(fn=lambda: call(next(turns)), cold_l2_cache=False)

    return measure


def apart(context, call, rotation, evicted):
    """Cold latency in ms of calls between which an empty kernel runs, without the time of that.

    evicted    bytes that a reader pushes out in each rotation, 0 for none
    """
    runtime = context.runtime
    empty = runtime.null_kernel()
    if empty is None:
        raise NoTimer("no empty kernel")

    def spaced(x):
        empty()
        call(x)

    evict, evict_ms = context.evictor.of(evicted)
    timing.warm_up(runtime, spaced, rotation)
    both = timing.measure(runtime, spaced, rotation, timing.COLD, evicted, evict_ms, evict)
    return both.median_ms - timing.launch_floor(runtime).median_ms


def our_sets(context, op, point, first):
    """(the input sets that our own timing rotates through, the bytes that a reader evicts beside them)."""
    benchmark, runtime = context.benchmark, context.runtime
    count, evicted = sets_for(context, first, benchmark.cost(op, point, first))

    def draw(i):
        return benchmark.make_inputs(op, point, runtime.device, i)

    return sets.more_sets(first, count, draw), evicted


def theirs(context, op, point):
    """{timer: cold latency in ms, or the reason why there is none} of flashinfer.testing, and of calls kept apart."""
    from flashinfer.testing import utils

    x = context.benchmark.make_inputs(op, point, context.runtime.device, 0)

    def call(x):
        context.benchmark.call_kernel(context.kernel, x)

    timing.warm_up(context.runtime, call, [x])
    rotation, evicted = our_sets(context, op, point, x)
    rotations = utils.calculate_rotation_count(list(sets.tensors(x)))
    cupti = with_cupti(utils.bench_gpu_time_with_cupti)
    timers = {
        "apart": lambda **options: [apart(context, call, rotation, evicted)],
        "graph": lambda **options: utils.bench_gpu_time_with_cudagraph(
            num_iters_within_graph=max(10, rotations), **options
        ),
        "events": utils.bench_gpu_time_with_cuda_event,
        "CUPTI, flushed": cupti,
        "CUPTI, rotated": rotated(cupti, call, rotation, not evicted),
    }
    return try_timers(timers, fn=call, input_kwargs={"x": x}, cold_l2_cache=True)


def compare(text):
    """One point, "kernel:op,B,S[,L]", as a row: (text, cold ms, warm ms, {timer: ms or reason}).

    The text says where a call asks for programmatic dependent launch.
    """
    kernel, _, point = text.partition(":")
    benchmark = importlib.import_module(f"bench_{kernel}").BENCHMARK
    op, point = parse_point(point, benchmark.ops)
    runtime = get_runtime()
    resolved = resolve.resolve(benchmark, runtime)
    context = Context(benchmark, resolved, runtime, timing.Evictor(runtime), check.reference_of(benchmark.catalogue))
    cold, warm = ours(context, op, point)
    asked = " (PDL)" if resolved.pdl == "on" else ""
    return f"{text}{asked}", cold, warm, theirs(context, op, point)


def table(rows):
    """Markdown: latencies in µs, and each other timer's ratio to ours; a reason where a timer gave none."""
    lines = [f"| point | ours, cold | ours, warm | {' | '.join(TIMERS)} |", "|---" * (3 + len(TIMERS)) + "|"]
    for text, cold, warm, others in rows:
        cells = []
        for name in TIMERS:
            value = others[name]
            cells.append(value if isinstance(value, str) else f"{value * 1e3:.2f} ({value / cold:.2f})")
        lines.append(f"| {text} | {cold * 1e3:.2f} | {warm * 1e3:.2f} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("points", nargs="*", default=POINTS, metavar="KERNEL:OP,B,S[,L]")
    parser.add_argument("--output", type=Path, help="also write the table here")
    options = parser.parse_args(arguments)
    reason = get_runtime().unavailable()
    if reason:
        print(f"unavailable: {reason}")
        return 0
    rows = []
    for text in options.points:
        try:
            rows.append(compare(text))
        except (resolve.Unavailable, ValueError, ModuleNotFoundError) as error:
            print(f"{text}: {error}", file=sys.stderr)
    shown = table(rows)
    print(shown)
    if options.output:
        options.output.write_text(shown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
