"""A comparison as Markdown, CSV and picture."""

import csv
import io
import math
import statistics
from collections import Counter
from pathlib import Path

from . import text
from .compare import FOLLOWS, HELD_BY_ROOF, THRESHOLD, UNKNOWN_SPREAD, between_gpus, measured_roofs
from .results import write_whole
from .resultset import ResultError
from .roofline_plot import COLOURS, DPI, FORMATS, MARKERS, MEASURED_ROOF_COLOUR, save

CSV_COLUMNS = (
    "kernel", "op", "phase", "B", "S", "L", "M", "N", "K",
    "baseline_ms", "current_ms", "ratio", "noise", "verdict", "bound", "expected", "limit", "follows",
)  # fmt: skip
LISTED = 15
LONG_MS = 0.005
# Characters of a title in one line.
TITLE = 130
VERDICTS = ("slower", "faster", "same", "not measured")


def write(comparison, output_dir, names, threshold=THRESHOLD, roofs=(None, None), stem="comparison", facts=({}, {})):
    """Write ``comparison.md``, ``.csv`` and, where something was compared, ``.png`` and ``.svg``; returns the paths.

    ``names`` are what to call baseline and current, ``roofs`` theirs, ``facts`` how they were measured, in words by
    name.
    """
    output_dir = Path(output_dir)
    paths = [
        write_whole(output_dir / f"{stem}.md", markdown(comparison, names, threshold, roofs, facts)),
        write_whole(output_dir / f"{stem}.csv", csv_text(comparison)),
    ]
    if comparison.compared:
        paths += plot(comparison, output_dir, names, threshold, roofs, stem)
    return paths


def _percent(value, digits=0):
    return f"{value * 100:.{digits}f} %"


def csv_text(comparison):
    """One line for each joined point: latencies in milliseconds, ratio current over baseline, verdict.

    ``expected`` and ``limit`` are filled between GPUs, ``follows`` where the roof limits the point.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for pair in comparison.pairs:
        new = pair.current
        times = ["" if row.latency_ms is None else f"{row.latency_ms:.6f}" for row in (pair.baseline, new)]
        ratio = "" if pair.ratio is None else f"{pair.ratio:.4f}"
        shape = [getattr(new, name) for name in CSV_COLUMNS[:9]]
        expected = "" if pair.expected is None else f"{pair.expected:.4f}"
        follows = {True: "yes", False: "no", None: ""}[pair.follows]
        verdict = [f"{pair.noise:.4f}", pair.verdict, new.bound or pair.baseline.bound]
        writer.writerow([*shape, *times, ratio, *verdict, expected, pair.limit, follows])
    return stream.getvalue()


def markdown(comparison, names, threshold=THRESHOLD, roofs=(None, None), facts=({}, {})):
    """The comparison for people: verdicts, regressions, kernels, and what could not be joined."""
    gpus = between_gpus(*roofs)
    parts = [f"# Comparison: {names[1]} against {names[0]}", _headline(comparison, threshold, gpus)]
    if comparison.compared:
        parts += [_by_roofs(comparison, roofs), _changed(comparison, gpus), _kernels(comparison)]
    parts += [
        _lost(comparison),
        _above(comparison),
        _unjoined(comparison),
        _duplicates(comparison),
        _changes(comparison),
        _facts(*facts),
        _method(threshold, roofs),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _headline(comparison, threshold, gpus):
    counts = Counter(pair.verdict for pair in comparison.pairs)
    verdicts = ", ".join(f"{counts[name]} {name}" for name in VERDICTS if counts[name])
    regressions = comparison.regressions(threshold)
    rows = f"**{comparison.joined_rows} of {comparison.baseline_rows} rows of the baseline joined**"
    lines = [f"{rows} at {text.plural(len(comparison.pairs), 'point')}: {verdicts or 'nothing to compare'}."]
    if comparison.compared:
        ratios = [pair.ratio for pair in comparison.compared]
        lines.append(f"Median ratio of latencies {statistics.median(ratios):.3f} (below 1 is faster).")
        if gpus:
            lines.append(
                f"{text.plural(len(regressions), 'point')} slower by more than {_percent(threshold)}, on another "
                "GPU: what its roofs predict is below."
            )
        else:
            lines.append(_differences(comparison.compared))
            found = text.plural(len(regressions), "regression")
            lines.append(
                f"**{found} of more than {_percent(threshold)}.**"
                if regressions
                else f"No regression above {_percent(threshold)}."
            )
    return " ".join(lines)


def _differences(pairs):
    """How far apart the two sets are, whichever way; for two runs of the same thing, how repeatable they are."""
    every = sorted(abs(pair.ratio - 1) for pair in pairs)
    long = sorted(abs(pair.ratio - 1) for pair in pairs if min(_times(pair)) > LONG_MS)
    median = _percent(statistics.median(every), 2)
    words = f"Latencies differ by {median} in the median and by {_percent(every[-1], 1)} at most"
    if long:
        nth = long[math.ceil(0.95 * len(long)) - 1]
        words += (
            f"; 95 % of the {len(long)} points slower than {text.latency(LONG_MS)} by no more than {_percent(nth, 2)}"
        )
    return words + "."


def _by_roofs(comparison, roofs):
    """Between two GPUs: what the roofs predict for each point that they limit, and which points do otherwise."""
    if not between_gpus(*roofs):
        return ""
    held = [pair for pair in comparison.compared if pair.held]
    kind = "measured" if measured_roofs(*roofs) else "datasheet's"
    lead = _prediction(roofs, held, kind)
    parts = [f"## What the roofs predict\n\n{lead}"]
    if held:
        parts.append(_by_share(held, kind))
        parts.append(_followers(held))
        parts.append(_strays(held, kind))
    rest = [pair for pair in comparison.compared if not pair.held]
    parts.append(_below(rest, kind))
    if rest:
        median = statistics.median(pair.ratio for pair in rest)
        parts.append(
            f"The other {text.plural(len(rest), 'point')} (median ratio {median:.3f}): below "
            f"{_percent(HELD_BY_ROOF)} of the {kind} roof in both sets, or without a roof. Something else limits most "
            "of them (launch, latency, instructions), and neither bandwidth nor peak predicts how that changes."
        )
    return "\n\n".join(part for part in parts if part)


def _prediction(roofs, held, kind):
    old, new = roofs
    measured = measured_roofs(*roofs)
    source = "measured" if measured else "datasheet"
    bandwidths = [roof.measured_bandwidth if measured else roof.bandwidth for roof in roofs]
    values = [text.rate(value, "B/s") for value in bandwidths]
    words = ""
    if all(bandwidths):
        words = (
            f"From {old.name} ({values[0]}) to {new.name} ({values[1]}, both {source}), a memory-bound point should "
            f"take **{bandwidths[0] / bandwidths[1]:.3f} times as long**. "
        )
    memory = [pair for pair in held if pair.limit == "memory"]
    if memory:
        words += (
            f"The {text.plural(len(memory), 'memory-bound point')} at {_percent(HELD_BY_ROOF)} of the {kind} roof or "
            f"more in either set take **{statistics.median(pair.ratio for pair in memory):.3f} times as long** in the "
            f"median; {sum(pair.follows for pair in memory)} of them are within {_percent(FOLLOWS)} of the prediction."
        )
    else:
        words += f"No memory-bound point reaches {_percent(HELD_BY_ROOF)} of the {kind} roof in either set."
    return words


def _by_share(held, kind):
    """Memory-bound points by what they reach of the baseline's roof: those at it change as it does."""
    groups = {}
    for pair in held:
        if pair.limit == "memory":
            groups.setdefault(min(9, int(pair.shares[0] * 10)), []).append(pair)
    if len(groups) < 2:
        return ""
    rows = []
    for tenth, pairs in sorted(groups.items(), reverse=True):
        share = "90 % or more" if tenth == 9 else f"{tenth * 10} to {tenth * 10 + 10} %"
        rows.append([share, len(pairs), *_change(pairs)])
    return text.table([f"baseline's share of the {kind} roof", "points", *CHANGE], rows, "lrrrr")


def _followers(held):
    groups = {}
    for pair in held:
        groups.setdefault((pair.current.kernel, pair.limit), []).append(pair)
    rows = []
    for (kernel, limit), pairs in sorted(groups.items()):
        expected = _span(pair.expected for pair in pairs)
        rows.append([f"`{kernel}`", limit, len(pairs), expected, *_change(pairs)])
    return text.table(["kernel", "limit", "points", "expected", *CHANGE], rows, "llrrrrr")


CHANGE = ["median ratio", "range", "follow"]


def _change(pairs):
    ratios = [pair.ratio for pair in pairs]
    return f"{statistics.median(ratios):.3f}", _span(ratios), sum(pair.follows for pair in pairs)


def _span(values):
    ordered = sorted(values)
    low, high = f"{ordered[0]:.3f}", f"{ordered[-1]:.3f}"
    return low if low == high else f"{low} – {high}"


def _strays(held, kind):
    strays = sorted((pair for pair in held if not pair.follows), key=lambda pair: -abs(math.log1p(pair.off)))
    if not strays:
        return "Every one of them follows."
    worst = list({_op_of(pair): pair for pair in reversed(strays)}.values())
    worst.sort(key=strays.index)
    lead = (
        f"{text.plural(len(strays), 'point')} of these {'does' if len(strays) == 1 else 'do'} not follow; of each op "
        f"and phase the one furthest off. A share of the {kind} roof that is lower in one set says where the time "
        "went; one above 100 % is a cost counted wrong, or a warm cache."
    )
    return f"{lead}\n\n{_against_expectation(worst)}"


def _below(pairs, kind):
    """Points that change as the memory does although their roof is far: they may move more than is counted."""
    found = [pair for pair in pairs if pair.limit == "memory" and pair.verdict in ("slower", "faster")]
    found = sorted((pair for pair in found if abs(pair.off) <= FOLLOWS), key=lambda pair: min(pair.shares))
    if not found:
        return ""
    lead = (
        f"{text.plural(len(found), 'point')} below {_percent(HELD_BY_ROOF)} of the {kind} roof in both sets changed as "
        "the bandwidth did all the same. Bytes are counted once each; a kernel that reads some again, or spills, moves "
        "more, and is limited by memory at a low share."
    )
    return f"{lead}\n\n{_against_expectation(found)}"


def _against_expectation(pairs):
    rows = [
        [
            *_point(pair),
            f"{pair.expected:.3f}",
            f"{pair.ratio:.3f}",
            f"{pair.off * 100:+.0f} %",
            *(f"{share * 100:.0f} %" for share in pair.shares),
        ]
        for pair in pairs[:LISTED]
    ]
    header = ["kernel", "op", "point", "expected", "ratio", "off", "baseline's share", "current share"]
    return text.table(header, rows, "lllrrrrr")


def _op_of(pair):
    return pair.current.kernel, pair.current.op, pair.current.phase


def _point(pair):
    row = pair.current
    return [f"`{row.kernel}`", row.op, f"{row.phase} {row.where()}"]


def _times(pair):
    return pair.baseline.latency_ms, pair.current.latency_ms


def _changed(comparison, gpus):
    parts = []
    slower = sorted((p for p in comparison.compared if p.verdict == "slower"), key=lambda p: -p.ratio)
    faster = sorted((p for p in comparison.compared if p.verdict == "faster"), key=lambda p: p.ratio)
    for title, pairs in (("Slower", slower), ("Faster", faster)):
        if pairs:
            worst = list({_op_of(pair): pair for pair in reversed(pairs)}.values())
            worst.sort(key=pairs.index)
            rows = [
                [*_point(p), *map(text.latency, _times(p)), f"{p.ratio:.3f}", f"± {_percent(p.noise, 1)}"]
                for p in worst[:LISTED]
            ]
            if gpus:
                for cells, p in zip(rows, worst, strict=False):
                    cells[-1] = f"{p.expected:.3f}" if p.held else "–"
            header = ["kernel", "op", "point", "baseline", "current", "ratio", "by the roofs" if gpus else "noise"]
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


def _lost(comparison):
    """What the baseline measured and the current set did not, with the reason where the sidecars give one."""
    groups = {}
    for pair in comparison.lost:
        reason = pair.current.extra.get("reason") or pair.current.extra.get("status") or ""
        key = pair.current.kernel, pair.current.op, pair.current.phase, reason
        groups[key] = groups.get(key, 0) + 1
    if not groups:
        return ""
    rows = [[f"`{kernel}`", op, phase, count, reason] for (kernel, op, phase, reason), count in groups.items()]
    lead = f"{text.plural(len(comparison.lost), 'point')} that the baseline has."
    table = text.table(["kernel", "op", "phase", "points", "reason"], rows, "lllrl")
    return f"## Not measured in the current set\n\n{lead}\n\n{table}"


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
        rows.append([name, resource, f"`{kernel}`", op, len(found), _percent(share), places, lines])
    header = ["set", "roof", "kernel", "op", "rows", "worst", "at", "lines"]
    advice = "A row above the roof did not move the bytes it claims, or moved them in cache; its share means nothing."
    return f"## Above the roof\n\n{lead}. {advice}\n\n{text.table(header, rows, 'llllrrll')}"


def _unjoined(comparison):
    parts = []
    if comparison.other_shape:
        groups = {}
        for old, new in comparison.other_shape:
            key = old.original.kernel, old.original.op, old.row.phase
            groups.setdefault(key, []).append((old, new))
        rows = []
        for (kernel, op, phase), pairs in groups.items():
            old, new = pairs[0]
            rows.append([f"`{kernel}`", op, phase, len(pairs), old.row.where(), _dims(old, new), _dims(new, old)])
        table = text.table(["kernel", "op", "phase", "points", "such as", "baseline", "current"], rows, "lllrlll")
        lead = f"{text.plural(len(comparison.other_shape), 'point')}: the shapes are of another problem."
        parts.append(f"## Same point, other shape: not compared\n\n{lead}\n\n{table}")
    for title, rows in (
        ("Only in the baseline", comparison.only_baseline),
        ("Only in the current set", comparison.only_current),
    ):
        groups = {}
        for row in rows:
            groups.setdefault((row.kernel, row.op, row.phase), []).append(row.measured)
        if groups:
            lines = [[f"`{k}`", op, phase, len(found), sum(found)] for (k, op, phase), found in groups.items()]
            table = text.table(["kernel", "op", "phase", "rows", "measured"], lines, "lllrr")
            lead = f"{text.plural(len(rows), 'row')}, {sum(row.measured for row in rows)} of them measured."
            parts.append(f"## {title}\n\n{lead}\n\n{table}")
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
    rows = [[name, f"`{k}`", op, p, n, m, _percent(apart, 1)] for (name, k, op, p), (n, m, apart) in counts.items()]
    header = ["set", "kernel", "op", "phase", "points", "rows", "furthest apart"]
    lead = "Their median stands for the point, and the noise covers all of them."
    return f"## Points that stand more than once\n\n{lead}\n\n{text.table(header, rows, 'llllrrr')}"


def _changes(comparison):
    if not comparison.changes:
        return ""
    rows = [[why, count] for why, count in comparison.changes.most_common()]
    return "## Older conventions in the baseline\n\n" + text.table(["read as", "rows"], rows, "lr")


def _facts(old, new):
    """What was different in how the two sets were measured, and what was not."""
    names = list(dict.fromkeys([*old, *new]))
    if not names:
        return ""
    rows = [[name, old.get(name, "–"), new.get(name, "–")] for name in names if old.get(name) != new.get(name)]
    parts = ["## How they were measured"]
    if rows:
        parts.append(text.table(["", "baseline", "current"], rows))
    equal = [f"{name} {old[name]}" for name in names if old.get(name) == new.get(name)]
    if equal:
        parts.append(f"Equal in both: {'; '.join(equal)}.")
    return "\n\n".join(parts)


def _method(threshold, roofs):
    parts = [
        "## Method\n\nRows are joined by kernel, op, phase, B, S and KV length, and compared where M, N and K agree. "
        "The ratio is current over baseline latency. The noise of a pair is twice the root of the sum of both squared "
        f"spreads (half of p80 − p20 over the median; {_percent(UNKNOWN_SPREAD)} where none was recorded), at least "
        f"2 %. A regression is slower beyond its noise and by more than {_percent(threshold)}."
    ]
    if between_gpus(*roofs):
        whose = "measured" if measured_roofs(*roofs) else "the datasheets'"
        parts.append(f"What the roofs predict, and shares of them, are by {whose} bandwidths and rates.")
    parts += [
        f"Peaks of the {name} set: {roof.name} ({roof.source})."
        for name, roof in zip(("baseline", "current"), roofs, strict=True)
        if roof and roof.source
    ]
    return " ".join(parts)


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
    title = f"Latency of {names[1]}", f"over {names[0]}: {len(pairs)} points"
    figure.suptitle((" " if len("".join(title)) < TITLE else "\n").join(title), weight="bold", x=0.01, ha="left")
    for phase, marker in MARKERS.items():
        for same in (True, False):
            mine = [p for p in pairs if p.current.phase == phase and (p.verdict == "same") == same]
            colours = [COLOURS.get(pair.current.category, COLOURS[""]) for pair in mine]
            left.scatter(
                [pair.baseline.latency_ms * 1e3 for pair in mine], [pair.ratio for pair in mine], marker=marker,
                s=24, facecolors="white" if same else colours, edgecolors=colours if same else "white",
                linewidths=0.8 if same else 0.4, zorder=3 if same else 4,
            )  # fmt: skip
    for number, kernel in enumerate(order):
        ratios = [pair.ratio for pair in groups[kernel]]
        colour = COLOURS.get(groups[kernel][0].current.category, COLOURS[""])
        right.plot([min(ratios), max(ratios)], [number, number], color=colour, linewidth=2, alpha=0.35)
        right.scatter(ratios, [number] * len(ratios), s=14, color=colour, alpha=0.5, linewidths=0)
        right.scatter([statistics.median(ratios)], [number], s=110, marker="|", color=colour, linewidths=2.5, zorder=4)
    left.set_xscale("log")
    left.set_yscale("log")
    right.set_xscale("log")
    expected = _bandwidth_ratio(roofs)
    every = [pair.ratio for pair in pairs] + ([expected] if expected else [])
    low, high = min(every), max(every)
    for axis in (left.yaxis, right.xaxis):
        axis.set_minor_locator(NullLocator())
        axis.set_ticks(_ratio_ticks(low, high))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    margin = (high / low) ** 0.06 * 1.01
    left.set_ylim(low / margin, high * margin)
    right.set_xlim(low / margin, high * margin)
    left.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    left.set_xlabel("baseline latency, µs")
    left.set_ylabel("current / baseline, below 1 is faster")
    right.set_xlabel("current / baseline (bar: median)")
    right.set_yticks(range(len(order)), order)
    for axis, line, span in ((left, left.axhline, left.axhspan), (right, right.axvline, right.axvspan)):
        line(1, color="#374151", linewidth=1.2, zorder=2)
        if expected:
            line(expected, color=MEASURED_ROOF_COLOUR, linewidth=1.4, linestyle=(0, (5, 3)), zorder=2)
        else:
            span(1 / (1 + threshold), 1 + threshold, color="#9ca3af", alpha=0.18, linewidth=0)
        axis.grid(True, color="#e5e7eb", linewidth=0.7)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    _legends(figure, pairs, threshold, expected)
    output_dir = Path(output_dir)
    paths = [output_dir / f"{stem}.{suffix}" for suffix in FORMATS]
    return save(pyplot, figure, paths)


def _bandwidth_ratio(roofs):
    """What a memory-bound point should take in the current set over the baseline; None on one and the same GPU."""
    if not between_gpus(*roofs):
        return None
    measured = measured_roofs(*roofs)
    old, new = [roof.measured_bandwidth if measured else roof.bandwidth for roof in roofs]
    return old / new if old and new else None


def _ratio_ticks(low, high):
    """Ratios to write at an axis from ``low`` to ``high``: fewer digits the wider it is."""
    for step in (0.01, 0.02, 0.05, 0.1, 0.25, 0.5):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < 9:
            found = [round(step * number, 4) for number in range(max(first, 1), last + 1)]
            if len(found) > 1:
                return found
    return [
        digit * 10.0**power
        for power in range(-3, 4)
        for digit in (1, 2, 5)
        if low / 2 <= digit * 10.0**power <= high * 2
    ]


def _legends(figure, pairs, threshold, expected):
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    grey = COLOURS[""]

    def dot(label, colour=grey, marker="o", face=None):
        face = colour if face is None else face
        return Line2D([], [], linestyle="", marker=marker, label=label, markerfacecolor=face, markeredgecolor=colour)

    used = {pair.current.category for pair in pairs}
    handles = [dot(category, COLOURS[category]) for category in COLOURS if category in used and category]
    handles += [dot(phase, marker=marker) for phase, marker in MARKERS.items()]
    handles.append(dot("same, within the noise", face="white"))
    if expected:
        label = f"memory-bound, by the bandwidths: {expected:.3f}"
        handles.append(Line2D([], [], color=MEASURED_ROOF_COLOUR, linewidth=1.4, linestyle=(0, (5, 3)), label=label))
    else:
        handles.append(Patch(color="#9ca3af", alpha=0.25, label=f"within ± {_percent(threshold)}"))
    figure.legend(handles=handles, loc="outside lower left", ncols=min(len(handles), 8), frameon=False, fontsize=9.5)
