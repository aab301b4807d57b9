"""``benchmark_summary.md``: what was measured, how good it is, and what is missing, in two minutes of reading."""

import re
import statistics
from collections import Counter
from pathlib import Path

from . import resultset, text
from .results import write_whole

STATUSES = ("ok", "partial", "unavailable", "incorrect", "failed", "timeout")
LISTED = 8
# Facts that each kernel's sidecar has, and that say nothing of the whole.
OF_ONE_KERNEL = ("command", "journal key", "script sha256", "spec sha256")
_DIMENSION = re.compile(r"(\w+) = (-?\d+)")
_LIMIT = re.compile(r"(?:(?P<where>\w+ = -?\d+(?:, \w+ = -?\d+)*): )?(?P<why>.*)", re.DOTALL)


def write_summary(results_dir, kernels, output=None, launch_floor_ms=None):
    """Write the summary of a results directory; returns its path. Works on a directory without any result."""
    results_dir = Path(results_dir)
    output = Path(output) if output else results_dir / "benchmark_summary.md"
    known = [name for name in kernels if _has_files(results_dir, name)]
    results = resultset.load(results_dir, known) if known else resultset.ResultSet(results_dir, [])
    skipped = {name: _unmeasured_points(results_dir / f"{name}.jsonl") for name in known}
    return write_whole(output, summarise(results, kernels, skipped, launch_floor_ms))


def _has_files(results_dir, name):
    return any((results_dir / f"{name}{suffix}").exists() for suffix in (".csv", ".jsonl"))


def _unmeasured_points(sidecar):
    if not sidecar.exists():
        return []
    return [point for point in resultset.read_sidecar(sidecar)[1] if point.get("latency_ms") is None]


def summarise(results, kernels, skipped=None, launch_floor_ms=None):
    """The summary as Markdown.

    ``skipped`` maps a kernel to the point records that have no latency; ``launch_floor_ms`` is the time of an empty
    kernel, taken from the run records where it is None.
    """
    skipped = skipped or {}
    status = {kernel: kernel_status(results, kernel) for kernel in kernels}
    floor = launch_floor_ms if launch_floor_ms is not None else _launch_floor(results.runs)
    parts = ["# Benchmark summary", _headline(results, status), _status(status)]
    if results.measured:
        parts += [_shares(results, kernels), _slowest(results), _least_efficient(results, floor)]
    parts += [_flags(results), _not_measured(status, skipped), _provenance(results, floor)]
    return "\n\n".join(part for part in parts if part) + "\n"


def kernel_status(results, kernel):
    """{status, reason, measured, asked, not_applicable}: the sidecar's run record, or what the rows say without one."""
    run = results.runs.get(kernel)
    rows = sum(row.measured for row in results.rows if row.kernel == kernel)
    if run is None:
        if rows:
            return _state("ok", "no sidecar: the number of points asked for is unknown", rows, rows, 0)
        return _state("not run", "there are no results", 0, None, None)
    return _state(
        run.get("status") or "failed",
        run.get("reason") or "",
        _count(run.get("measured"), rows),
        _count(run.get("asked"), None),
        _count(run.get("not_applicable"), None),
    )


def _state(status, reason, measured, asked, not_applicable):
    return {
        "status": status,
        "reason": reason,
        "measured": measured,
        "asked": asked,
        "not_applicable": not_applicable,
    }


def _count(value, default):
    return default if value is None else value


def _headline(results, status):
    measured = sum(state["measured"] for state in status.values())
    asked = sum(state["asked"] or 0 for state in status.values())
    counts = Counter(state["status"] for state in status.values())
    order = [name for name in (*STATUSES, "not run") if counts[name]]
    order += [name for name in counts if name not in order]
    spread = ", ".join(f"{counts[name]} {name}" for name in order)
    devices = results.devices()
    where = f" on {' and '.join(devices)}" if devices else ""
    lines = [f"**{measured} of {text.plural(asked, 'point')} measured{where}.**"]
    lines.append(f"{text.plural(len(status), 'kernel')}: {spread}.")
    shares = [row.peak_pct for row in results.measured if row.peak_pct is not None]
    if shares:
        suspects = sum(row.suspect for row in results.measured)
        lines.append(
            f"The median point reaches {statistics.median(shares):.1f} % of its roof; "
            + (f"{text.plural(suspects, 'row')} flagged suspect." if suspects else "no row is flagged suspect.")
        )
    if not measured:
        lines.append("Nothing was measured: everything below says why.")
    return " ".join(lines)


def _status(status):
    rows = []
    for kernel, state in status.items():
        counts = ["–" if state[name] is None else state[name] for name in ("measured", "asked", "not_applicable")]
        rows.append([f"`{kernel}`", state["status"], *counts, _short(state["reason"])])
    header = ["kernel", "status", "measured", "asked", "not applicable", "reason"]
    return "## Status\n\n" + text.table(header, rows, "llrrrl")


def _short(reason, limit=160):
    reason = " ".join(str(reason).split())
    return reason if len(reason) <= limit else reason[: limit - 1] + "…"


def _shares(results, kernels):
    rows = []
    for kernel in kernels:
        mine = [row for row in results.measured if row.kernel == kernel and row.peak_pct is not None]
        if not mine:
            continue
        best, worst = max(mine, key=lambda row: row.peak_pct), min(mine, key=lambda row: row.peak_pct)
        bounds = Counter(row.bound for row in mine)
        rows.append(
            [
                f"`{kernel}`",
                len(mine),
                f"{best.peak_pct:.1f}",
                _place(best),
                f"{statistics.median(row.peak_pct for row in mine):.1f}",
                f"{worst.peak_pct:.1f}",
                _place(worst),
                ", ".join(f"{name} {count}" for name, count in bounds.most_common()),
            ]
        )
    header = ["kernel", "points", "best %", "at", "median %", "worst %", "at", "bound by"]
    return "## Share of the roof\n\n" + text.table(header, rows, "lrrlrrll")


def _place(row):
    return f"{row.op}, {row.phase} {row.where()}"


def _point_rows(rows):
    return [
        [
            f"`{row.kernel}`",
            row.op,
            f"{row.phase} {row.where()}",
            text.latency(row.latency_ms),
            "–" if row.peak_pct is None else f"{row.peak_pct:.1f}",
            row.bound,
        ]
        for row in rows
    ]


_POINT_HEADER = ["kernel", "op", "point", "latency", "% of roof", "bound"]


def _first_of_each_op(rows):
    seen = set()
    for row in rows:
        if (row.kernel, row.op, row.phase) not in seen:
            seen.add((row.kernel, row.op, row.phase))
            yield row


def _slowest(results):
    ranked = sorted(results.measured, key=lambda row: -row.latency_ms)
    rows = list(_first_of_each_op(ranked))[:LISTED]
    return "## Slowest points\n\nThe slowest point of each op.\n\n" + text.table(
        _POINT_HEADER, _point_rows(rows), "lllrrl"
    )


def _least_efficient(results, floor):
    threshold = 2 * floor if floor else 0.005
    ranked = sorted(
        (row for row in results.measured if row.peak_pct is not None and row.latency_ms > threshold),
        key=lambda row: row.peak_pct,
    )
    rows = list(_first_of_each_op(ranked))[:LISTED]
    if not rows:
        return ""
    why = "twice the launch floor" if floor else "below which the launch itself counts"
    lead = f"The least efficient point of each op, among points slower than {text.latency(threshold)} ({why})."
    return f"## Least efficient points\n\n{lead}\n\n" + text.table(_POINT_HEADER, _point_rows(rows), "lllrrl")


def _flags(results):
    flagged = [row for row in results.measured if row.flags]
    if not flagged:
        return "## Flags\n\nNone." if results.measured else ""
    counts = Counter(flag for row in flagged for flag in row.flags)
    lead = ", ".join(f"{flag}: {text.plural(count, 'row')}" for flag, count in counts.most_common())
    flagged.sort(key=lambda row: (not row.suspect, -(row.peak_pct or 0)))
    rows = [[*cells, ", ".join(row.flags)] for cells, row in zip(_point_rows(flagged), flagged, strict=True)]
    more = f"\n\nand {len(rows) - 3 * LISTED} more; all are in the sidecars." if len(rows) > 3 * LISTED else ""
    table = text.table([*_POINT_HEADER, "flags"], rows[: 3 * LISTED], "lllrrll")
    return f"## Flags\n\n{lead}.\n\n{table}{more}"


def _not_measured(status, skipped):
    lines = []
    for kernel, state in status.items():
        missing = None if state["asked"] is None else state["asked"] - state["measured"]
        points = skipped.get(kernel) or []
        if missing == 0 and not points:
            continue
        count = "all points" if missing is None else text.plural(missing, "point")
        if missing:
            lines.append(f"- `{kernel}`: {count}: {_short(state['reason']) or state['status']}")
        elif missing is None:
            lines.append(f"- `{kernel}`: {state['reason'] or state['status']}")
        else:
            lines.append(f"- `{kernel}`: all points that it can run are measured")
        for reason, places in _reasons(points, state):
            some = ", ".join(places[:3]) + (", …" if len(places) > 3 else "")
            lines.append(f"  - {text.plural(len(places), 'point')}: {_short(reason)} ({some})")
        for why, count, where in _limits(points):
            lines.append(f"  - {text.plural(count, 'point')} not applicable: {_short(why)} ({where})")
    return "## Not measured\n\n" + ("\n".join(lines) if lines else "Every point of every kernel was measured.")


def _limits(points):
    """(reason, number of points, where) of what the kernel cannot run, one for each reason.

    Such a reason reads "T = 32: at most 16 tokens"; points that differ in the numbers alone are one line.
    """
    groups = {}
    for point in points:
        if point.get("status") == "not_applicable":
            found = re.fullmatch(_LIMIT, point.get("reason") or "not applicable")
            groups.setdefault(found["why"], []).append((found["where"], point))
    return [(why, len(places), _range(places)) for why, places in groups.items()]


def _range(places):
    """``T = 32 to 4096``; the points themselves where their reasons give no dimensions."""
    values = {}
    for where, _ in places:
        for name, value in _DIMENSION.findall(where or ""):
            values.setdefault(name, set()).add(int(value))
    if values:
        spans = [(name, min(found), max(found)) for name, found in values.items()]
        return ", ".join(f"{name} = {low}" if low == high else f"{name} = {low} to {high}" for name, low, high in spans)
    some = [_place(resultset.row_from_record(point, {"kernel": ""})) for _, point in places[:3]]
    return ", ".join(some) + (", …" if len(places) > 3 else "")


def _reasons(points, state):
    groups = {}
    for point in points:
        if point.get("status") == "not_applicable":
            continue
        reason = point.get("reason") or point.get("status")
        if reason and reason != state["reason"]:
            row = resultset.row_from_record(point, {"kernel": ""})
            groups.setdefault(reason, []).append(_place(row))
    return groups.items()


def _launch_floor(runs):
    return next((run["launch_floor_ms"] for run in runs.values() if run.get("launch_floor_ms")), None)


def _provenance(results, floor):
    """Facts that all kernels share in one table, those that differ with the number of kernels."""
    facts = {}
    for run in results.runs.values():
        flat = _flatten(run.get("provenance") or {})
        hardware = run.get("hardware") or {}
        if hardware.get("name"):
            flat["hardware table"] = hardware["name"]
        for name, value in flat.items():
            facts.setdefault(name, Counter())[_short(value, 100)] += 1
    rows = []
    if floor:
        rows.append(["launch floor", text.latency(floor)])
    for name, values in facts.items():
        if name in OF_ONE_KERNEL:
            continue
        if len(values) == 1:
            rows.append([name, next(iter(values))])
        elif name == "date":
            rows.append([name, f"{min(values)} to {max(values)}"])
        else:
            rows.append(
                [
                    name,
                    "; ".join(f"{value} ({count})" for value, count in values.most_common(3))
                    + ("; …" if len(values) > 3 else ""),
                ]
            )
    if not rows:
        return ""
    return "## Run\n\n" + text.table(["", ""], rows)


def _flatten(record, prefix=""):
    flat = {}
    for name, value in record.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name} ")
        elif value not in (None, "", []):
            flat[f"{prefix}{name}".replace("_", " ")] = ", ".join(map(str, value)) if isinstance(value, list) else value
    return flat
