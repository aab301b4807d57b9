"""Two result sets side by side: joined by point, with a verdict for each pair that takes the noise into account."""

import math
import statistics
from collections import Counter
from dataclasses import dataclass, field, replace

from . import conventions

UNKNOWN_SPREAD = 0.02
MINIMUM_NOISE = 0.02
RESOLUTION_MS = 5e-5
THRESHOLD = 0.10
# From this share of the roof on, in either set, the roof is what a point should follow; and how closely.
HELD_BY_ROOF = 0.5
FOLLOWS = 0.10


@dataclass(frozen=True)
class Pair:
    """One point in both sets. ``ratio`` is current over baseline latency (below 1 is faster), None where not measured.

    ``noise`` is the relative difference below which the two are the same. ``verdict`` is faster, slower, same or
    ``not measured``. Between GPUs, ``expected`` is the ratio of the times at their roofs, ``limit`` the resource that
    sets it (``memory``, ``compute``, or ``mixed`` where it differs), and ``shares`` what each row reaches of its roof.
    """

    baseline: object
    current: object
    ratio: float | None
    noise: float
    verdict: str
    expected: float | None = None
    limit: str = ""
    shares: tuple = ()

    @property
    def off(self):
        """How much longer than expected the current set takes: 0.1 is 10 %, None where nothing is expected."""
        return None if self.ratio is None or self.expected is None else self.ratio / self.expected - 1

    @property
    def held(self):
        """Whether the roof limits the point in either set; below that, launch or latency does."""
        return self.off is not None and max(self.shares) >= HELD_BY_ROOF

    @property
    def follows(self):
        """Whether a point that is held by the roof changed as the roofs did; None for the others."""
        return abs(self.off) <= max(FOLLOWS, self.noise) if self.held else None


@dataclass
class Comparison:
    """What became of every row of both sets.

    ``other_shape`` holds pairs of equal key whose M, N or K differ; ``duplicates`` the points that stand more than
    once in a set, as (set, key, rows); ``above_roof`` rows faster than their set's roofs, as (set, row, resource,
    share); ``changes`` counts why rows of the baseline were rewritten.
    """

    pairs: list = field(default_factory=list)
    other_shape: list = field(default_factory=list)
    only_baseline: list = field(default_factory=list)
    only_current: list = field(default_factory=list)
    duplicates: list = field(default_factory=list)
    above_roof: list = field(default_factory=list)
    changes: Counter = field(default_factory=Counter)
    baseline_rows: int = 0
    joined_rows: int = 0

    @property
    def lost(self):
        """Pairs that the baseline measured and the current set lists without a measurement."""
        return [pair for pair in self.pairs if pair.baseline.measured and not pair.current.measured]

    @property
    def compared(self):
        return [pair for pair in self.pairs if pair.ratio is not None]

    def regressions(self, threshold=THRESHOLD):
        """Pairs that are slower beyond their noise and by more than ``threshold`` (0.1 is 10 %), worst first."""
        slower = [pair for pair in self.compared if pair.verdict == "slower" and pair.ratio - 1 > threshold]
        return sorted(slower, key=lambda pair: -pair.ratio)


def compare(baseline, current, points=(), baseline_roofs=None, current_roofs=None):
    """A Comparison of two ResultSets.

    Both are normalised by the declared conventions. ``points`` are today's points: a baseline row joins one of them
    even where the current set has no measurement of it. Roofs, where given, find rows above them and, between GPUs,
    the ratio to expect.
    """
    result = Comparison()
    before = conventions.normalise(baseline.measured)
    after = conventions.normalise(list(current.rows) + list(points))
    result.baseline_rows = len(before)
    result.changes = Counter(change for row in before for change in row.changes)
    old, new = _by_key(before), _by_key(after)
    for name, groups in (("baseline", old), ("current", new)):
        for key, rows in groups.items():
            measured = [row.original for row in rows if row.row.measured]
            if len(measured) > 1:
                result.duplicates.append((name, key, measured))
    for key, rows in old.items():
        others = new.get(key)
        if not others:
            result.only_baseline += [row.original for row in rows]
            continue
        other = _representative(others)
        left = _representative(rows)
        if _same_shape(left, other):
            result.pairs.append(_pair(left.row, other.row, baseline_roofs, current_roofs))
            result.joined_rows += len(rows)
        else:
            result.other_shape.append((left, other))
    # What neither set measured is no difference between them.
    neither = {row.row.key for row in conventions.normalise([row for row in baseline.rows if not row.measured])}
    for key, rows in new.items():
        if key not in old and (key not in neither or any(row.row.measured for row in rows)):
            result.only_current.append(_representative(rows).row)
    result.above_roof = [
        (name, *found)
        for name, rows, roofs in (("baseline", before, baseline_roofs), ("current", after, current_roofs))
        if roofs is not None
        for found in above_roof(rows, roofs, new)
    ]
    return result


def _by_key(rows):
    groups = {}
    for row in rows:
        groups.setdefault(row.row.key, []).append(row)
    return groups


def _representative(rows):
    """One row for a point: the measured ones with their median latency, and a spread that covers all of them."""
    measured = [row for row in rows if row.row.measured]
    if not measured:
        return rows[0]
    times = [row.row.latency_ms for row in measured]
    median = statistics.median(times)
    first = measured[0]
    described = next((row.row for row in rows if row.row.category), first.row)
    spread = first.row.spread
    if len(times) > 1:
        spread = max((max(times) - min(times)) / 2 / median, spread or 0.0)
    row = replace(
        first.row,
        latency_ms=median,
        spread=spread,
        category=first.row.category or described.category,
        compute_dtype=first.row.compute_dtype or described.compute_dtype,
    )
    return replace(first, row=row)


def _same_shape(left, right):
    names = [name for name in left.shape if name in right.shape]
    return all(left.dims[name] == right.dims[name] for name in names)


def _pair(old, new, old_roofs=None, new_roofs=None):
    noise = combined_noise(old, new)
    if not (old.measured and new.measured):
        return Pair(old, new, None, noise, "not measured")
    ratio = new.latency_ms / old.latency_ms
    found = expectation(old, new, old_roofs, new_roofs) if between_gpus(old_roofs, new_roofs) else ()
    return Pair(old, new, ratio, noise, verdict(old.latency_ms, new.latency_ms, noise), *found)


def between_gpus(old_roofs, new_roofs):
    """Whether two sets are known to be of different GPUs, by their roofs."""
    known = old_roofs and new_roofs and not (old_roofs.assumed or new_roofs.assumed)
    return bool(known and old_roofs.name != new_roofs.name)


def measured_roofs(*roofs):
    """Whether all bandwidths are measured: then those are compared, else the datasheets'."""
    return all(roof.measured_bandwidth for roof in roofs)


def expectation(old, new, old_roofs, new_roofs):
    """(ratio of the times at the roofs, limit, (share of the baseline, of the current row)); empty where unknown.

    The cost of one row counts for both, because older sets count FLOPs and bytes in other ways. Without a compute
    dtype in either, points that both call memory-bound take the ratio of the bandwidths.
    """
    dtype = new.compute_dtype or old.compute_dtype
    cost = new if new.compute_dtype or not old.compute_dtype else old
    if not dtype:
        if not old.bound == new.bound == "memory":
            return ()
        cost = replace(cost, flops=0.0)
    cost = replace(cost, compute_dtype=dtype)
    pair = old_roofs, new_roofs
    bounds = {roof.bound(cost) for roof in pair}
    measured = measured_roofs(*pair)
    if measured and dtype not in old_roofs.measured_compute.keys() & new_roofs.measured_compute.keys():
        pair = [replace(roof, measured_compute={}) for roof in pair]
    times = [roof.time_ms(cost, measured) for roof in pair]
    if not all(times):
        return ()
    shares = times[0] / old.latency_ms, times[1] / new.latency_ms
    return times[1] / times[0], bounds.pop() if len(bounds) == 1 else "mixed", shares


def combined_noise(old, new):
    """Relative difference that noise explains: twice the root sum of squares of both spreads, at least 2 %.

    A set that recorded no spread counts with 2 %.
    """
    spreads = [UNKNOWN_SPREAD if row.spread is None else row.spread for row in (old, new)]
    return max(MINIMUM_NOISE, 2 * math.hypot(*spreads))


def verdict(old_ms, new_ms, noise):
    """``faster``, ``slower`` or ``same``; differences below 0.05 µs are the timer's."""
    if abs(new_ms - old_ms) < RESOLUTION_MS or 1 / (1 + noise) <= new_ms / old_ms <= 1 + noise:
        return "same"
    return "slower" if new_ms > old_ms else "faster"


def above_roof(rows, roofs, described=None):
    """(row, resource, share) of rows that claim more than a roof allows, by what they themselves say they moved.

    ``rows`` are Normalised; ``described`` maps a key to rows that know the compute dtype.
    """
    found = []
    for item in rows:
        row = item.row
        if not row.measured:
            continue
        dtype = row.compute_dtype or next((o.row.compute_dtype for o in (described or {}).get(row.key, ())), "")
        if roofs.bandwidth and row.bytes and row.bandwidth_gbs * 1e9 > roofs.bandwidth:
            found.append((item.original, "memory", row.bandwidth_gbs * 1e9 / roofs.bandwidth))
        peak = roofs.compute.get(dtype)
        if peak and row.flops and row.gflops * 1e9 > peak:
            found.append((item.original, "compute", row.gflops * 1e9 / peak))
    return found
