"""``benchmark_summary.md``: what was measured, how good it is, and what is missing, in two minutes of reading."""

import re
import statistics
from collections import Counter
from dataclasses import replace
from pathlib import Path

from . import model_time, model_time_report, resultset, roofs, text
from .results import write_whole

STATUSES = ("ok", "partial", "unavailable", "incorrect", "failed", "timeout")
LISTED = 8
STEPS = Path(__file__).resolve().parent / "model_steps.json"
# Facts that each kernel's sidecar has, and that say nothing of the whole.
OF_ONE_KERNEL = ("command", "journal key", "script sha256", "spec sha256")
_DIMENSION = re.compile(r"(\w+) = (-?\d+)")
_LIMIT = re.compile(r"(?:(?P<where>\w+ = -?\d+(?:, \w+ = -?\d+)*): )?(?P<why>.*)", re.DOTALL)


def write_summary(results_dir, kernels, output=None, launch_floor_ms=None, steps=STEPS, choices=None):
    """Write the summary of a results directory; returns its path. Works on a directory without any result.

    ``steps`` is the file with the steps of the model, without which nothing is said about what to fix first;
    ``choices`` the paths of ops, as for ``model_time.step_times``.
    """
    results_dir = Path(results_dir)
    output = Path(output) if output else results_dir / "benchmark_summary.md"
    known = [name for name in kernels if _has_files(results_dir, name)]
    results = resultset.load(results_dir, known) if known else resultset.ResultSet(results_dir, [])
    skipped = {name: _unmeasured_points(results_dir / f"{name}.jsonl") for name in known}
    data = model_time.load_steps(steps) if steps and Path(steps).exists() else None
    return write_whole(output, summarise(results, kernels, skipped, launch_floor_ms, data, choices))


def _has_files(results_dir, name):
    return any((results_dir / f"{name}{suffix}").exists() for suffix in (".csv", ".jsonl"))


def _unmeasured_points(sidecar):
    if not sidecar.exists():
        return []
    return [point for point in resultset.read_sidecar(sidecar)[1] if point.get("latency_ms") is None]


def summarise(results, kernels, skipped=None, launch_floor_ms=None, steps=None, choices=None):
    """The summary as Markdown.

    ``skipped`` maps a kernel to the point records that have no latency; ``launch_floor_ms`` is the time of an empty
    kernel, taken from the run records where it is None; ``steps`` are the model's, as data.
    """
    skipped = skipped or {}
    status = {kernel: kernel_status(results, kernel) for kernel in kernels}
    floor = launch_floor_ms if launch_floor_ms is not None else roofs.launch_floor(results.runs.values())
    roof = roofs.choose(results) if results.measured else None
    if roof is not None and roof.launch_floor_ms is None:
        roof = replace(roof, launch_floor_ms=floor)
    parts = ["# Benchmark summary", _headline(results, status)]
    if results.measured:
        parts += [_fix_first(results, roof, steps, choices)]
    parts.append(_status(status))
    if results.measured:
        parts += [_shares(results, kernels, roof), _slowest(results, roof), _least_efficient(results, roof)]
    parts += [_flags(results), _not_measured(status, skipped), _provenance(results, roof)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _fix_first(results, roof, steps, choices):
    found = model_time.step_times(steps, results.rows, roof, choices) if steps else []
    words = model_time_report.fix_first(found)
    return f"## Fix these three first\n\n{words} More in `model_time.md`." if words else ""


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
            f"The median point reaches {text.points(statistics.median(shares))} % of its roof; "
            + (f"{text.plural(suspects, 'row')} flagged suspect" if suspects else "no row is flagged suspect")
            + "".join(f", {count} {flag}" for flag, count in _flag_counts(results) if flag != "suspect")
            + "."
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


def _shares(results, kernels, roof):
    rows = []
    for kernel in kernels:
        mine = [row for row in results.measured if row.kernel == kernel and row.peak_pct is not None]
        if not mine:
            continue
        best, worst = max(mine, key=lambda row: row.peak_pct), min(mine, key=lambda row: row.peak_pct)
        limits = Counter(roof.limit(row) or row.bound for row in mine)
        rows.append(
            [
                f"`{kernel}`",
                len(mine),
                text.points(best.peak_pct),
                _place(best),
                text.points(statistics.median(row.peak_pct for row in mine)),
                text.points(worst.peak_pct),
                _place(worst),
                ", ".join(f"{name} {count}" for name, count in limits.most_common()),
            ]
        )
    if not rows:
        return ""
    header = ["kernel", "points", "best %", "at", "median %", "worst %", "at", "attainable set by"]
    lead = "Percent of the datasheet's roof; the last column counts what sets the time that is attainable."
    if roof.launch_floor_ms:
        lead += (
            f" With `launch`, the roof would be faster than a kernel that does nothing "
            f"({text.latency(roof.launch_floor_ms)}), and no kernel can come near it."
        )
    return f"## Share of the roof\n\n{lead}\n\n{text.table(header, rows, 'lrrlrrll')}"


def _place(row):
    return f"{row.op}, {row.phase} {row.where()}"


_POINT_HEADER = ["kernel", "op", "point", "latency", "attainable", "set by", "% of attainable", "% of roof"]
_POINT_ALIGN = "lllrrlrr"


def _point_rows(rows, roof):
    lines = []
    for row in rows:
        attainable = roofs.attainable_ms(row, roof)
        lines.append([
            f"`{row.kernel}`",
            row.op,
            f"{row.phase} {row.where()}",
            text.latency(row.latency_ms),
            text.latency(attainable),
            roof.limit(row) or row.bound,
            "–" if attainable is None else text.points(attainable / row.latency_ms * 100),
            text.points(row.peak_pct),
        ])  # fmt: skip
    return lines


def _first_of_each_op(rows):
    seen = set()
    for row in rows:
        if (row.kernel, row.op, row.phase) not in seen:
            seen.add((row.kernel, row.op, row.phase))
            yield row


def _slowest(results, roof):
    ranked = sorted(results.measured, key=lambda row: -row.latency_ms)
    rows = list(_first_of_each_op(ranked))[:LISTED]
    table = text.table(_POINT_HEADER, _point_rows(rows, roof), _POINT_ALIGN)
    return f"## Slowest points\n\nThe slowest point of each op.\n\n{table}"


def _least_efficient(results, roof):
    found = [(ms / row.latency_ms, row) for row in results.measured if (ms := roofs.attainable_ms(row, roof))]
    if not found:
        return ""
    rows = list(_first_of_each_op(row for _, row in sorted(found, key=lambda item: item[0])))[:LISTED]
    limits = "the roofs that were measured on it" if roof.measured_bandwidth else "the datasheet's roof"
    if roof.launch_floor_ms:
        limits += f" and the launch floor of {text.latency(roof.launch_floor_ms)}, whichever takes longer"
    lead = f"The point of each op that is furthest from what is attainable on this GPU: {limits}."
    table = text.table(_POINT_HEADER, _point_rows(rows, roof), _POINT_ALIGN)
    return f"## Least efficient points\n\n{lead}\n\n{table}"


def _flag_counts(results):
    return Counter(flag for row in results.measured for flag in row.flags).most_common()


def _flags(results):
    """Suspect rows one by one, because each is wrong; other flags by op."""
    if not any(row.flags for row in results.measured):
        return "## Flags\n\nNone." if results.measured else ""
    parts = ["## Flags", ", ".join(f"{flag}: {text.plural(n, 'row')}" for flag, n in _flag_counts(results)) + "."]
    suspects = sorted((row for row in results.measured if row.suspect), key=lambda row: -(row.peak_pct or 0))
    if suspects:
        rows = [
            [f"`{row.kernel}`", row.op, f"{row.phase} {row.where()}", text.latency(row.latency_ms),
             text.points(row.peak_pct), row.extra.get("suspect") or ""]
            for row in suspects[: 3 * LISTED]
        ]  # fmt: skip
        more = f"\n\nand {len(suspects) - len(rows)} more." if len(suspects) > len(rows) else ""
        header = ["suspect: kernel", "op", "point", "latency", "% of roof", "why"]
        parts.append(text.table(header, rows, "lllrrl") + more)
    groups = {}
    for row in results.measured:
        for flag in row.flags:
            if flag != "suspect":
                groups.setdefault((flag, row.kernel, row.op), []).append(f"{row.phase} {row.where()}")
    if groups:
        rows = [
            [flag, f"`{kernel}`", op, len(places), ", ".join(places[:3]) + (", …" if len(places) > 3 else "")]
            for (flag, kernel, op), places in groups.items()
        ]
        parts.append(text.table(["flag", "kernel", "op", "rows", "at"], rows, "lllrl"))
    return "\n\n".join(parts)


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


def facts(results):
    """{name: words} of how a result set was measured; what differs between its kernels with the number of kernels."""
    found = {}
    for run in results.runs.values():
        flat = _flatten(run.get("provenance") or {})
        hardware = run.get("hardware") or {}
        if hardware.get("name"):
            flat["hardware table"] = hardware["name"]
        for name, value in flat.items():
            if name not in OF_ONE_KERNEL:
                found.setdefault(name, Counter())[_short(value, 100)] += 1
    return {name: _values(name, values) for name, values in found.items()}


def _values(name, values):
    if len(values) == 1:
        return next(iter(values))
    if name == "date":
        return f"{min(values)} to {max(values)}"
    words = "; ".join(f"{value} ({count})" for value, count in values.most_common(3))
    return words + ("; …" if len(values) > 3 else "")


def _provenance(results, roof):
    rows = _peaks(roof) if roof is not None else []
    rows += [[name, words] for name, words in facts(results).items()]
    return "## Run\n\n" + text.table(["", ""], rows) if rows else ""


def _peaks(roof):
    """Rows with the peaks that shares are taken of, and those measured on the device."""

    def words(compute, bandwidth):
        found = [f"{dtype.upper()} {text.rate(peak, 'FLOP/s')}" for dtype, peak in compute.items()]
        return ", ".join(found + ([text.rate(bandwidth, "B/s")] if bandwidth else []))

    rows = [[f"peaks ({roof.source})", words(roof.compute, roof.bandwidth)]]
    if roof.datasheet:
        rows.append(["peaks measured", words(roof.measured_compute, roof.measured_bandwidth)])
    rows.append(["launch floor", text.latency(roof.launch_floor_ms)])
    return [row for row in rows if row[1] not in ("", "–")]


def _flatten(record, prefix=""):
    flat = {}
    for name, value in record.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name} ")
        elif value not in (None, "", []):
            label = f"{prefix}{name}".replace("_", " ")
            if label.endswith(" bytes") and isinstance(value, int):
                size, unit = (2**30, "GiB") if value >= 2**30 else (2**20, "MiB")
                label, value = label.removesuffix(" bytes"), f"{value / size:.4g} {unit}"
            flat[label] = ", ".join(map(str, value)) if isinstance(value, list) else value
    return flat
