"""A comparison as Markdown, CSV and picture."""

import csv
import io
import math
import statistics
from collections import Counter
from pathlib import Path

from . import text
from .compare import THRESHOLD, UNKNOWN_SPREAD
from .results import write_whole
from .resultset import ResultError
from .roofline_plot import COLOURS, DPI, FORMATS, MARKERS

CSV_COLUMNS = (
    "kernel", "op", "phase", "B", "S", "L", "M", "N", "K",
    "baseline_ms", "current_ms", "ratio", "noise", "verdict", "bound",
)  # fmt: skip
LISTED = 15
LONG_MS = 0.005
VERDICTS = ("slower", "faster", "same", "not measured")


def write(comparison, output_dir, names, threshold=THRESHOLD, roofs=(None, None), stem="comparison"):
    """Write ``comparison.md``, ``.csv`` and, where something was compared, ``.png`` and ``.svg``; returns the paths.

    ``names`` are what to call baseline and current, ``roofs`` theirs.
    """
    output_dir = Path(output_dir)
    paths = [
        write_whole(output_dir / f"{stem}.md", markdown(comparison, names, threshold, roofs)),
        write_whole(output_dir / f"{stem}.csv", csv_text(comparison)),
    ]
    if comparison.compared:
        paths += plot(comparison, output_dir, names, threshold, roofs, stem)
    return paths


def csv_text(comparison):
    """One line for each joined point: latencies in milliseconds, ratio current over baseline, verdict."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for pair in comparison.pairs:
        new = pair.current
        times = ["" if row.latency_ms is None else f"{row.latency_ms:.6f}" for row in (pair.baseline, new)]
        ratio = "" if pair.ratio is None else f"{pair.ratio:.4f}"
        shape = [getattr(new, name) for name in CSV_COLUMNS[:9]]
        writer.writerow([*shape, *times, ratio, f"{pair.noise:.4f}", pair.verdict, new.bound or pair.baseline.bound])
    return stream.getvalue()


def markdown(comparison, names, threshold=THRESHOLD, roofs=(None, None)):
    """The comparison for people: verdicts, regressions, kernels, and what could not be joined."""
    parts = [f"# Comparison: {names[1]} against {names[0]}", _headline(comparison, threshold)]
    if comparison.compared:
        parts += [_bandwidths(comparison, roofs), _changed(comparison, threshold), _kernels(comparison)]
    parts += [
        _above(comparison),
        _unjoined(comparison),
        _duplicates(comparison),
        _changes(comparison),
        _method(threshold),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _headline(comparison, threshold):
    counts = Counter(pair.verdict for pair in comparison.pairs)
    verdicts = ", ".join(f"{counts[name]} {name}" for name in VERDICTS if counts[name])
    regressions = comparison.regressions(threshold)
    rows = f"**{comparison.joined_rows} of {comparison.baseline_rows} rows of the baseline joined**"
    lines = [f"{rows} at {text.plural(len(comparison.pairs), 'point')}: {verdicts or 'nothing to compare'}."]
    if comparison.compared:
        ratios = [pair.ratio for pair in comparison.compared]
        lines.append(f"Median ratio of latencies {statistics.median(ratios):.3f} (below 1 is faster).")
        lines.append(_differences(comparison.compared))
        found = text.plural(len(regressions), "regression")
        lines.append(
            f"**{found} of more than {threshold:.0%}.**" if regressions else f"No regression above {threshold:.0%}."
        )
    return " ".join(lines)


def _differences(pairs):
    """How far apart the two sets are, whichever way; for two runs of the same thing, how repeatable they are."""
    every = sorted(abs(pair.ratio - 1) for pair in pairs)
    long = sorted(abs(pair.ratio - 1) for pair in pairs if min(_times(pair)) > LONG_MS)
    words = f"Latencies differ by {statistics.median(every):.2%} in the median and by {every[-1]:.1%} at most"
    if long:
        nth = long[math.ceil(0.95 * len(long)) - 1]
        words += f"; 95 % of the {len(long)} points slower than {text.latency(LONG_MS)} by no more than {nth:.2%}"
    return words + "."


def _bandwidths(comparison, roofs):
    """Between two GPUs, memory-bound rows should follow the ratio of the bandwidths."""
    bandwidths = [roof and (roof.measured_bandwidth or roof.bandwidth) for roof in roofs]
    long = [p for p in comparison.compared if p.current.bound == "memory" and min(_times(p)) > 0.02]
    if None in bandwidths or roofs[0].name == roofs[1].name or not long:
        return ""
    expected = bandwidths[0] / bandwidths[1]
    found = statistics.median(pair.ratio for pair in long)
    return (
        f"Memory-bound points slower than 20 µs ({len(long)}): median ratio {found:.3f}; "
        f"the bandwidths of {roofs[0].name} and {roofs[1].name} give {expected:.3f}."
    )


def _times(pair):
    return pair.baseline.latency_ms, pair.current.latency_ms


def _changed(comparison, threshold):
    parts = []
    slower = sorted((p for p in comparison.compared if p.verdict == "slower"), key=lambda p: -p.ratio)
    faster = sorted((p for p in comparison.compared if p.verdict == "faster"), key=lambda p: p.ratio)
    for title, pairs in (("Slower", slower), ("Faster", faster)):
        if pairs:
            worst = list({(p.current.kernel, p.current.op, p.current.phase): p for p in reversed(pairs)}.values())
            worst.sort(key=pairs.index)
            rows = [
                [f"`{p.current.kernel}`", p.current.op, f"{p.current.phase} {p.current.where()}",
                 *map(text.latency, _times(p)), f"{p.ratio:.3f}", f"± {p.noise:.1%}"]
                for p in worst[:LISTED]
            ]  # fmt: skip
            header = ["kernel", "op", "point", "baseline", "current", "ratio", "noise"]
            lead = f"{text.plural(len(pairs), 'point')}; of each op and phase the one that changed most."
            parts.append(f"## {title}\n\n{lead}\n\n{text.table(header, rows, 'lllrrrr')}")
    return "\n\n".join(parts)


def _kernels(comparison):
    groups = {}
    for pair in comparison.compared:
        groups.setdefault(pair.current.kernel, []).append(pair)
    rows = []
    for kernel, pairs in groups.items():
        counts = Counter(pair.verdict for pair in pairs)
        ratios = sorted(pair.ratio for pair in pairs)
        median = statistics.median(ratios)
        rows.append([f"`{kernel}`", len(pairs), f"{median:.3f}", f"{ratios[0]:.3f} – {ratios[-1]:.3f}"])
        rows[-1] += [counts[name] for name in ("slower", "faster", "same")]
    header = ["kernel", "points", "median ratio", "range", "slower", "faster", "same"]
    return "## Kernels\n\n" + text.table(header, rows, "lrrrrrr")


def _above(comparison):
    if not comparison.above_roof:
        return ""
    groups = {}
    for name, row, resource, share in comparison.above_roof:
        groups.setdefault((name, resource, row.kernel, row.op), []).append((share, row))
    totals = Counter((name, resource) for name, _, resource, _ in comparison.above_roof)
    lead = "; ".join(
        f"{count} rows of the {name} above the {resource} roof" for (name, resource), count in totals.items()
    )
    rows = []
    for (name, resource, kernel, op), found in groups.items():
        share, worst = max(found, key=lambda item: item[0])
        places = f"{worst.phase} {worst.where()}"
        lines = ", ".join(str(row.line) for _, row in found if row.line)
        rows.append([name, resource, f"`{kernel}`", op, len(found), f"{share:.0%}", places, lines])
    header = ["set", "roof", "kernel", "op", "rows", "worst", "at", "lines"]
    advice = "A row above the roof did not move the bytes it claims, or moved them in cache; its share means nothing."
    return f"## Above the roof\n\n{lead}. {advice}\n\n{text.table(header, rows, 'llllrrll')}"


def _unjoined(comparison):
    parts = []
    if comparison.other_shape:
        rows = [
            [f"`{old.row.kernel}`", old.row.op, f"{old.row.phase} {old.row.where()}", _dims(old, new), _dims(new, old)]
            for old, new in comparison.other_shape[:LISTED]
        ]
        table = text.table(["kernel", "op", "point", "baseline", "current"], rows)
        parts.append(f"## Same point, other shape: not compared\n\n{table}")
    for title, rows in (
        ("Only in the baseline", comparison.only_baseline),
        ("Only in the current set", comparison.only_current),
    ):
        counts = Counter((row.kernel, row.op, row.phase) for row in rows)
        if counts:
            table = text.table(
                ["kernel", "op", "phase", "rows"], [[f"`{k}`", op, p, n] for (k, op, p), n in counts.items()]
            )
            parts.append(f"## {title}\n\n{text.plural(len(rows), 'row')}.\n\n{table}")
    return "\n\n".join(parts)


def _dims(item, other):
    return ", ".join(f"{name}={value}" for name, value in item.dims.items() if value != other.dims.get(name))


def _duplicates(comparison):
    if not comparison.duplicates:
        return ""
    counts = {}
    for name, key, rows in comparison.duplicates:
        points, total, apart = counts.get((name, *key[:3]), (0, 0, 0.0))
        times = [row.latency_ms for row in rows]
        counts[(name, *key[:3])] = (points + 1, total + len(rows), max(apart, max(times) / min(times) - 1))
    rows = [[name, f"`{k}`", op, p, n, m, f"{apart:.1%}"] for (name, k, op, p), (n, m, apart) in counts.items()]
    header = ["set", "kernel", "op", "phase", "points", "rows", "furthest apart"]
    lead = "Their median stands for the point, and the noise covers all of them."
    return f"## Points that stand more than once\n\n{lead}\n\n{text.table(header, rows, 'llllrrr')}"


def _changes(comparison):
    if not comparison.changes:
        return ""
    rows = [[why, count] for why, count in comparison.changes.most_common()]
    return "## Older conventions in the baseline\n\n" + text.table(["read as", "rows"], rows, "lr")


def _method(threshold):
    return (
        "## Method\n\nRows are joined by kernel, op, phase, B, S and KV length, and compared where M, N and K agree. "
        "The ratio is current over baseline latency. The noise of a pair is twice the root of the sum of both squared "
        f"spreads (half of p80 − p20 over the median; {UNKNOWN_SPREAD:.0%} where none was recorded), at least 2 %. "
        f"A regression is slower beyond its noise and by more than {threshold:.0%}."
    )


def plot(comparison, output_dir, names, threshold=THRESHOLD, roofs=(None, None), stem="comparison"):
    """Ratio of each pair over its latency, and the spread of ratios for each kernel; returns the paths."""
    try:
        import matplotlib
    except ImportError:
        raise ResultError("matplotlib is missing; plotting needs it: pip install matplotlib") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter, NullLocator

    pairs = comparison.compared
    groups = {}
    for pair in pairs:
        groups.setdefault(pair.current.kernel, []).append(pair)
    order = sorted(groups, key=lambda kernel: statistics.median(pair.ratio for pair in groups[kernel]))
    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(15, max(5.5, 0.34 * len(order) + 2)), dpi=DPI, sharex=False, layout="constrained",
        gridspec_kw={"width_ratios": (1, 1.15)},
    )  # fmt: skip
    figure.suptitle(f"Latency of {names[1]} over {names[0]}: {len(pairs)} points", weight="bold", x=0.01, ha="left")
    for phase, marker in MARKERS.items():
        mine = [pair for pair in pairs if pair.current.phase == phase]
        left.scatter(
            [pair.baseline.latency_ms * 1e3 for pair in mine],
            [pair.ratio for pair in mine],
            c=[COLOURS.get(pair.current.category, COLOURS[""]) for pair in mine],
            marker=marker, s=22, edgecolors="white", linewidths=0.4, label=phase, zorder=3,
        )  # fmt: skip
    for number, kernel in enumerate(order):
        ratios = [pair.ratio for pair in groups[kernel]]
        colour = COLOURS.get(groups[kernel][0].current.category, COLOURS[""])
        right.plot([min(ratios), max(ratios)], [number, number], color=colour, linewidth=2, alpha=0.35)
        right.scatter(ratios, [number] * len(ratios), s=14, color=colour, alpha=0.5, linewidths=0)
        right.scatter([statistics.median(ratios)], [number], s=70, marker="|", color=colour, linewidths=2.5, zorder=4)
    left.set_xscale("log")
    left.set_yscale("log")
    right.set_xscale("log")
    for axis in (left.yaxis, right.xaxis):
        axis.set_minor_locator(NullLocator())
        low, high = min(pair.ratio for pair in pairs), max(pair.ratio for pair in pairs)
        steps = [0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 1.75, 2]
        if high / low > 3:
            steps = [digit * 10.0**power for power in range(-3, 4) for digit in (1, 2, 5)]
        axis.set_ticks([step for step in steps if low / 1.3 <= step <= high * 1.3])
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    left.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    left.set_xlabel("baseline latency, µs")
    left.set_ylabel("current / baseline")
    right.set_xlabel("current / baseline (bar: median)")
    right.set_yticks(range(len(order)), order)
    for axis, line, span in ((left, left.axhline, left.axhspan), (right, right.axvline, right.axvspan)):
        line(1, color="#374151", linewidth=1.2, zorder=2)
        span(1 / (1 + threshold), 1 + threshold, color="#9ca3af", alpha=0.18, linewidth=0)
        axis.grid(True, color="#e5e7eb", linewidth=0.7)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    for handle in left.legend(loc="upper right", frameon=False).legend_handles:
        handle.set_color(COLOURS[""])
    output_dir = Path(output_dir)
    paths = [output_dir / f"{stem}.{suffix}" for suffix in FORMATS]
    for path in paths:
        figure.savefig(path)
    pyplot.close(figure)
    return paths
