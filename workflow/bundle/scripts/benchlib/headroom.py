"""What a step would gain if its kernels reached the roof: which to fix first."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Headroom:
    """One kernel and op of a step. ``gain_ms`` is count × (measured − roofline), ``share`` that over the step's time.

    ``speedup`` is the step's time over its time with this one fixed (Amdahl): 1.25 is a quarter faster.
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
        found.append(Headroom(slot, kernel, op, count, mine, gain, gain / total, speedup, ideal / mine))
    return sorted(found, key=lambda item: (-item.gain_ms, item.kernel, item.op))


def overall(steps):
    """[(kernel, op, mean share of the step's time that could be gained, steps)] over several points, largest first."""
    shares, usable = {}, [step for step in steps if step.measured]
    for step in usable:
        for item in rank(step):
            shares[(item.kernel, item.op)] = shares.get((item.kernel, item.op), 0.0) + item.share
    ranked = sorted(shares.items(), key=lambda item: (-item[1], item[0]))
    return [(kernel, op, total / len(usable), len(usable)) for (kernel, op), total in ranked]


def together(step, items):
    """The step's time over its time with all of ``items`` at the roof."""
    rest = step.total_ms - sum(item.gain_ms for item in items)
    return step.total_ms / rest if rest > 0 else float("inf")
