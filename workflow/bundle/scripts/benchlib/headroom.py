"""What a step would gain if its kernels did what this GPU allows: which to fix first.

No kernel can be faster than the roofs that were measured on the device, nor than the launch of a kernel that does
nothing. That is *attainable*; where nothing was measured it is the datasheet's roof.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Headroom:
    """One kernel and op of a step. ``gain_ms`` is count × (measured − attainable), ``share`` that over the step's time.

    ``speedup`` is the step's time over its time with this one fixed (Amdahl): 1.25 is a quarter faster.
    ``roof_gain_ms`` is count × (measured − datasheet's roof), and ``efficiency`` that roof over the measured time.
    """

    slot: str
    kernel: str
    op: str
    count: int
    total_ms: float
    gain_ms: float
    share: float
    speedup: float
    efficiency: float | None
    attainable_ms: float
    roof_gain_ms: float


@dataclass(frozen=True)
class Candidate:
    """A kernel to fix, with all of its ops: the mean share of a step's time that it could give, and the largest."""

    kernel: str
    ops: tuple
    share: float
    largest: float
    where: str
    steps: int


def rank(step):
    """Headroom of each kernel and op of a StepTime, largest gain first; equal calls of several slots are one."""
    total = step.total_ms
    groups = {}
    for entry in step.measured:
        if entry.gain_ms is not None:
            groups.setdefault((entry.slot, entry.kernel, entry.op), []).append(entry)
    found = []
    for (slot, kernel, op), entries in groups.items():
        gain, mine = sum(entry.gain_ms for entry in entries), sum(entry.total_ms for entry in entries)
        ideal = sum(entry.roof_total_ms for entry in entries)
        count = sum(entry.count for entry in entries)
        rest = total - gain
        speedup = total / rest if rest > 0 else float("inf")
        at_roof = sum(entry.roof_gain_ms for entry in entries)
        found.append(
            Headroom(slot, kernel, op, count, mine, gain, gain / total, speedup, ideal / mine, mine - gain, at_roof)
        )
    return sorted(found, key=lambda item: (-item.gain_ms, item.kernel, item.op))


def overall(steps):
    """Candidates over several points, the largest mean share of the step's time first."""
    shares, ops, usable = {}, {}, [step for step in steps if step.measured]
    for number, step in enumerate(usable):
        for item in rank(step):
            mine = shares.setdefault(item.kernel, [0.0] * len(usable))
            mine[number] += item.share
            ops.setdefault(item.kernel, {})[item.op] = None
    found = []
    for kernel, values in shares.items():
        largest = max(values)
        where = usable[values.index(largest)].where()
        found.append(Candidate(kernel, tuple(ops[kernel]), sum(values) / len(values), largest, where, len(values)))
    return sorted(found, key=lambda item: (-item.share, item.kernel))


def together(step, items):
    """The step's time over its time with all of ``items`` fixed."""
    rest = step.total_ms - sum(item.gain_ms for item in items)
    return step.total_ms / rest if rest > 0 else float("inf")
