"""Time of one step of the model: measured kernels added up, beside the same sum at the roofline.

The steps come as data (``model_steps.json``, made from the ops file): slots of ops with counts and alternative paths.
A sum over fewer ops than the step has is a lower bound, and says so. Nothing outside the listed kernels is counted:
no communication, no host time, no gaps or overlap between kernels.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from . import conventions, roofs
from .resultset import ResultError

FASTEST, FIRST = "fastest", "first"


@dataclass(frozen=True)
class Entry:
    """One kernel call of a step, ``count`` times. Times are milliseconds of one call, None where unknown.

    ``attainable_ms`` is what the call cannot go below on this GPU: measured roofs and launch floor.
    """

    slot: str
    path: str
    kernel: str
    op: str
    count: int
    latency_ms: float | None
    roof_ms: float | None
    category: str = ""
    attainable_ms: float | None = None

    @property
    def total_ms(self):
        return None if self.latency_ms is None else self.count * self.latency_ms

    @property
    def roof_total_ms(self):
        return None if self.roof_ms is None else self.count * self.roof_ms

    @property
    def gain_ms(self):
        """What the step would gain if this kernel took what is attainable; 0 where it does, None where unknown."""
        return self._gain(self.attainable_ms)

    @property
    def roof_gain_ms(self):
        """What the step would gain if this kernel reached the datasheet's roof; 0 above it, None where unknown."""
        return self._gain(self.roof_ms)

    def _gain(self, ideal):
        if self.latency_ms is None or ideal is None:
            return None
        return self.count * max(0.0, self.latency_ms - ideal)

    @property
    def name(self):
        """The op, with its slot in front where it does not say that itself."""
        return self.op if self.op.split(".")[0] == self.slot.split(".")[0] else f"{self.slot}: {self.op}"


@dataclass
class StepTime:
    """One step at one point. ``L`` is the KV length in decode, the sequence length in prefill."""

    step: str
    phase: str
    B: int
    S: int
    L: int
    entries: list = field(default_factory=list)

    @property
    def measured(self):
        return [entry for entry in self.entries if entry.latency_ms is not None]

    @property
    def missing(self):
        return [entry for entry in self.entries if entry.latency_ms is None]

    @property
    def complete(self):
        return not self.missing

    @property
    def total_ms(self):
        """Sum over the measured ops: the step's time where ``complete``, else a lower bound."""
        return sum(entry.total_ms for entry in self.measured)

    @property
    def roof_ms(self):
        """The measured ops at the roofline; None where the roof of one of them is unknown."""
        if any(entry.roof_ms is None for entry in self.measured):
            return None
        return sum(entry.roof_total_ms for entry in self.measured)

    @property
    def attainable_ms(self):
        """The step's measured time less all that could be gained; None where that is unknown of one of its ops."""
        if any(entry.gain_ms is None for entry in self.measured):
            return None
        return self.total_ms - sum(entry.gain_ms for entry in self.measured)

    @property
    def light_ms(self):
        """Speed of light of the whole step: every op at the roofline, measured or not (None: one is unknown)."""
        if any(entry.roof_ms is None for entry in self.entries):
            return None
        return sum(entry.roof_total_ms for entry in self.entries)

    @property
    def known_light_ms(self):
        """All ops at the roofline whose roof is known: a lower bound of ``light_ms``."""
        return sum(entry.roof_total_ms or 0.0 for entry in self.entries)

    @property
    def tokens(self):
        return self.B if self.phase == "decode" else self.B * self.S

    @property
    def tokens_per_s(self):
        """Tokens a second; an upper bound where the time is a lower one. None where nothing is measured."""
        return self.tokens / self.total_ms * 1e3 if self.measured else None

    def where(self):
        if self.phase != "decode":
            return f"B={self.B} S={self.S}"
        return f"B={self.B} KV={self.L}" if self.L != self.S else f"B={self.B}"  # no kernel's KV length is swept


def load_steps(path):
    """The steps from JSON; raises ResultError with what is wrong."""
    try:
        steps = json.loads(Path(path).read_text(encoding="utf-8"))
        slots = [(slot["op"], slot["count"], slot["paths"]) for step in steps["steps"] for slot in step["slots"]]
    except OSError as error:
        raise ResultError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ResultError(f"{path}: does not hold the steps of a model: {error!r}") from None
    for op, count, _ in slots:
        if not isinstance(count, int) or count < 1:
            raise ResultError(f"{path}: op {op!r} runs {count!r} times, expected a count of at least 1")
    return steps


def check_choices(steps, choices):
    """Raise ResultError where a choice names an op or a path that no step has."""
    paths = {}
    for step in steps["steps"]:
        for slot in step["slots"]:
            paths.setdefault(slot["op"], set()).update(path["name"] for path in slot["paths"])
    for op, name in choices.items():
        if op not in paths:
            several = sorted(op for op, names in paths.items() if len(names) > 1)
            raise ResultError(f"path for {op!r}: there is no such op; ops with several paths: {', '.join(several)}")
        if name not in paths[op] | {FASTEST, FIRST}:
            known = ", ".join([FASTEST, FIRST, *sorted(paths[op])])
            raise ResultError(f"path {name!r} for {op!r}: there is no such path; there are {known}")


def choices(texts):
    """{op: path} of texts like ``experts=cutlass``; raises ResultError where one has another form."""
    found = {}
    for item in texts:
        op, sign, path = item.rpartition("=")
        if not (op and sign and path):
            raise ResultError(f"--path {item!r}: expected OP=PATH, such as experts=fastest")
        found[op] = path
    return found


class Times:
    """Latency and time at the roofline by kernel, op and point, from rows and points."""

    def __init__(self, rows, roof):
        self.roof, self.rows = roof, {}
        self.names = conventions.load()["kernels"]
        for item in conventions.normalise(rows):
            held = self.rows.get(item.row.key)
            if held is None or (item.row.measured and not held.measured):
                self.rows[item.row.key] = item.row

    def find(self, kernel, op, phase, B, S, L):
        """The row of a kernel at a point, or None; where a kernel has no sweep over KV lengths, L does not count."""
        kernel = self.names.get(kernel, kernel)
        return self.rows.get((kernel, op, phase, B, S, L)) or self.rows.get((kernel, op, phase, B, S, S))

    def entry(self, slot, path, part, phase, B, S, L):
        kernel, op = part
        row = self.find(kernel, op, phase, B, S, L)
        if row is None:
            return Entry(slot["op"], path, kernel, op, slot["count"], None, None)
        roof_ms = roofs.roof_time_ms(row, self.roof)
        attainable = roofs.attainable_ms(row, self.roof)
        return Entry(slot["op"], path, kernel, op, slot["count"], row.latency_ms, roof_ms, row.category, attainable)

    def points(self, phase):
        """(B, S, L) of all rows of a phase; in decode every B at every KV length."""
        mine = [row for row in self.rows.values() if row.phase == phase]
        if phase == "prefill":
            return sorted({(row.B, row.S, row.S) for row in mine})
        lengths = sorted({row.L for row in mine if row.L != row.S}) or [1]
        return [(B, 1, L) for L in lengths for B in sorted({row.B for row in mine})]


def step_times(steps, rows, roof=None, choices=None):
    """A StepTime for each step and each point that the rows cover.

    ``rows`` are Rows, measured or not (unmeasured ones give the roofline of what is missing). ``choices`` maps an op
    to ``fastest``, ``first`` or a path's name and overrides what the steps say; ``{"*": ...}`` overrides all of them.
    """
    choices = choices or {}
    check_choices(steps, {op: name for op, name in choices.items() if op != "*"})
    times = Times(rows, roof)
    result = []
    for step in steps["steps"]:
        for B, S, L in times.points(step["phase"]):
            found = StepTime(step["name"], step["phase"], B, S, L)
            for slot in step["slots"]:
                choice = choices.get(slot["op"], choices.get("*", slot.get("choose", FIRST)))
                found.entries += choose_path(slot, choice, times, step["phase"], B, S, L)
            result.append(found)
    return result


def choose_path(slot, choice, times, phase, B, S, L):
    """Entries of the path that the slot takes at a point.

    Only paths whose token limit holds and whose kernels exist at the point are considered. ``fastest`` is the quickest
    of those that are measured completely; where there is none, and for a name that is not possible here, the first.
    """
    tokens = B if phase == "decode" else B * S
    candidates = []
    for path in slot["paths"]:
        limit = path.get("max_tokens")
        if limit is not None and tokens > limit:
            continue
        entries = [times.entry(slot, path["name"], part, phase, B, S, L) for part in path["parts"]]
        exists = all(times.find(*part, phase, B, S, L) is not None for part in path["parts"])
        candidates.append((path["name"], entries, exists))
    candidates = [c for c in candidates if c[2]] or candidates
    if not candidates:
        return [Entry(slot["op"], "", "", slot["op"], slot["count"], None, None)]
    named = [entries for name, entries, _ in candidates if name == choice]
    if named:
        return named[0]
    measured = [entries for _, entries, _ in candidates if all(entry.latency_ms is not None for entry in entries)]
    if choice == FASTEST and measured:
        return min(measured, key=lambda entries: sum(entry.latency_ms for entry in entries))
    return candidates[0][1]
