"""Latency of one call: triton's do_bench_cudagraph over a callable that rotates through input sets.

One call of the timed function is one rotation: every set once, so that a captured graph always holds whole rotations
and no set follows itself. Where the sets together do not fill the cache three times, a rotation begins with a kernel
that reads the rest; its time, measured in the same way, is subtracted.
"""

import math
import statistics
from dataclasses import dataclass, field

WARMUP_CALLS = 10
# Over all replays of a graph; triton replays it 10 times.
LEAST_CALLS = 100
REPLAYS = 10
# Graphs hold at most this many calls: recording one takes the host about 10 µs.
MOST_CAPTURED = 2000
TRIES = 4


@dataclass(frozen=True)
class Budget:
    """How long to measure: milliseconds that one graph should run, and how many replays are wanted."""

    graph_ms: float
    replays: int

    def rounds(self):
        return math.ceil(self.replays / REPLAYS)


COLD = Budget(graph_ms=4.0, replays=20)
WARM = Budget(graph_ms=2.0, replays=10)
# Beyond this much time in one graph, a second round of replays costs more than it tells.
LONG_GRAPH_MS = 30.0


@dataclass(frozen=True)
class Stats:
    """Milliseconds of one call over several replays; spread is (p80 - p20) / median."""

    median_ms: float
    p20_ms: float
    p80_ms: float
    min_ms: float
    spread: float
    replays: int
    calls_per_replay: int
    sets: int
    evicted_bytes: int = 0
    evict_ms: float = 0.0
    samples_ms: list = field(default_factory=list, repr=False)

    @property
    def calls(self):
        return self.replays * self.calls_per_replay

    def as_record(self):
        record = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "samples_ms"}
        return record | {"calls": self.calls}


class TooShort(RuntimeError):
    """Nothing is left of a rotation after the time of evicting is subtracted."""


class TooFewCalls(RuntimeError):
    """The benchmark function did not capture as many calls as asked for."""


def quantile(values, share):
    """Quantile with linear interpolation between neighbours."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def summarise(samples, calls_per_replay, sets, evicted_bytes=0, evict_ms=0.0):
    """Stats of samples in milliseconds a call."""
    median = statistics.median(samples)
    p20, p80 = quantile(samples, 0.2), quantile(samples, 0.8)
    return Stats(
        median_ms=median,
        p20_ms=p20,
        p80_ms=p80,
        min_ms=min(samples),
        spread=(p80 - p20) / median if median > 0 else 0.0,
        replays=len(samples),
        calls_per_replay=calls_per_replay,
        sets=sets,
        evicted_bytes=evicted_bytes,
        evict_ms=evict_ms,
        samples_ms=list(samples),
    )


class _Rotation:
    """One round through the sets, counting how often it ran and how often it was recorded."""

    def __init__(self, runtime, call, sets, evict=None):
        self.runtime, self.call, self.sets, self.evict = runtime, call, sets, evict
        self.runs = self.captured = 0

    def __call__(self):
        self.runs += 1
        if self.runtime.capturing():
            self.captured += 1
        if self.evict is not None:
            self.evict()
        for x in self.sets:
            self.call(x)

    def reset(self):
        self.runs = self.captured = 0

    def recorded(self):
        """Rotations in the graph; where the runtime cannot tell: all calls but the first and the estimate's five."""
        return self.captured if self.runtime.capturing() is not None else max(1, self.runs - 6)


def warm_up(runtime, call, sets):
    """The calls before any timing: compilation, tuning and lazy allocation happen here."""
    with runtime.side_stream():
        for i in range(WARMUP_CALLS):
            call(sets[i % len(sets)])
    runtime.synchronize()


def measure(runtime, call, sets, budget, evicted_bytes=0, evict_ms=0.0, evict=None):
    """Stats of one call. warm_up() must have run.

    call(x) launches the kernel on a set. evict, where given, is launched once a rotation, and evict_ms is its time.
    """
    rotation = _Rotation(runtime, call, sets, evict)
    least = max(1, math.ceil(LEAST_CALLS / REPLAYS / len(sets)))
    samples, rotations = _bench(runtime, rotation, least)
    graph_ms = statistics.median(samples) * rotations
    if graph_ms < budget.graph_ms:
        most = max(least, MOST_CAPTURED // len(sets))
        target = min(most, math.ceil(budget.graph_ms / max(statistics.median(samples), 1e-6)))
        if target > rotations:
            samples, rotations = _bench(runtime, rotation, target)
    if graph_ms < LONG_GRAPH_MS:
        for _ in range(budget.rounds() - 1):
            again, counted = _bench(runtime, rotation, rotations)
            samples, rotations = samples + again, min(rotations, counted)
    per_call = [max(sample - evict_ms, 0.0) / len(sets) for sample in samples]
    found = summarise(per_call, rotations * len(sets), len(sets), evicted_bytes, evict_ms)
    if evict and not found.median_ms > 0:
        raise TooShort(f"{len(sets)} calls cannot be told from the {evict_ms:.4f} ms of evicting before them")
    return found


def _bench(runtime, rotation, wanted):
    """(samples in ms a rotation, rotations in the graph), with at least `wanted` rotations in it."""
    # Triton fills `rep` milliseconds by its own estimate from eager calls, which differs from ours.
    eager_ms = max(runtime.elapsed(rotation), 1e-4)
    rep = (wanted + 0.5) * eager_ms
    for _ in range(TRIES):
        rotation.reset()
        samples = runtime.bench(rotation, rep)
        recorded = rotation.recorded()
        # A tenth fewer is well; fewer than the least number of calls is not.
        if recorded >= wanted or (recorded >= 0.9 * wanted and recorded * len(rotation.sets) >= LEAST_CALLS / REPLAYS):
            return [float(sample) for sample in samples], recorded
        rep *= 1.25 * wanted / max(1, recorded)
    raise TooFewCalls(f"asked for {wanted} rotations of {len(rotation.sets)} sets in a graph, got {recorded}")


class Evictor:
    """Readers of a given size and the time that each takes, measured once."""

    def __init__(self, runtime):
        self.runtime, self._known = runtime, {}

    def of(self, nbytes):
        """(callable, ms of one call) that reads nbytes; (None, 0.0) where none is needed or to be had."""
        if not nbytes:
            return None, 0.0
        if nbytes not in self._known:
            evict = self.runtime.evictor(nbytes)
            if evict is None:
                return None, 0.0
            warm_up(self.runtime, lambda x: evict(), [None])
            stats = measure(self.runtime, lambda x: evict(), [None], Budget(graph_ms=5.0, replays=30))
            self._known[nbytes] = (evict, stats.median_ms)
        return self._known[nbytes]


def launch_floor(runtime):
    """Stats of a kernel that does next to nothing, or None where there is none: no latency can be below it."""
    null = runtime.null_kernel()
    if null is None:
        return None
    warm_up(runtime, lambda x: null(), [None])
    return measure(runtime, lambda x: null(), [None], WARM)
