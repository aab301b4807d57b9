"""Model time and headroom as Markdown, CSV and pictures."""

import csv
import io
from pathlib import Path

from . import headroom, text
from .results import write_whole
from .resultset import ResultError
from .roofline_plot import DPI, FORMATS

STEP_COLUMNS = (
    "step", "B", "S", "L", "measured_ops", "ops", "complete", "time_ms", "roofline_ms",
    "speed_of_light_ms", "tokens_per_s",
)  # fmt: skip
OP_COLUMNS = (
    "step", "B", "S", "L", "slot", "path", "kernel", "op", "count", "latency_ms", "total_ms", "share",
    "roofline_total_ms", "gain_ms",
)  # fmt: skip
HEADROOM_COLUMNS = (
    "step", "B", "S", "L", "rank", "slot", "kernel", "op", "count", "total_ms", "gain_ms", "share", "speedup",
    "efficiency",
)  # fmt: skip
SHOWN = 9
PALETTE = (
    "#1f4e9c", "#e8731a", "#1e8a55", "#c9304a", "#8e5bb5", "#c79a00", "#3d9be0", "#8a5a3c", "#86a81c", "#d6609e",
    "#0f766e", "#5b5bd6", "#a16207", "#475569", "#f0a58f", "#7cc4a4",
)  # fmt: skip
OTHER = "#c4c9d1"


def write(steps, output_dir, title, outside=(), reason="", stem="model_time"):
    """Write ``{stem}.md``, ``{stem}.csv``, ``{stem}_ops.csv``, ``headroom.csv`` and the pictures; returns the paths.

    All are written whatever there is: without a step, or a measurement, they say so. ``reason`` is why there is no
    step.
    """
    output_dir = Path(output_dir)
    return [
        write_whole(output_dir / f"{stem}.md", markdown(steps, title, outside, reason)),
        write_whole(output_dir / f"{stem}.csv", steps_csv(steps)),
        write_whole(output_dir / f"{stem}_ops.csv", ops_csv(steps)),
        write_whole(output_dir / "headroom.csv", headroom_csv(steps)),
        *plot(steps, output_dir, title, stem),
    ]


def _csv(header, lines):
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([header, *lines])
    return stream.getvalue()


def _cell(value, digits=6):
    return "" if value is None else f"{value:.{digits}f}"


def steps_csv(steps):
    """One line for each step and point. ``time_ms`` is a lower bound where ``complete`` is no."""
    lines = [
        [
            step.step, step.B, step.S, step.L, len(step.measured), len(step.entries), "yes" if step.complete else "no",
            _cell(step.total_ms if step.measured else None), _cell(step.roof_ms if step.measured else None),
            _cell(step.light_ms), _cell(step.tokens_per_s, 1),
        ]
        for step in steps
    ]  # fmt: skip
    return _csv(STEP_COLUMNS, lines)


def ops_csv(steps):
    """One line for each kernel call of each step and point; empty cells are unknown."""
    lines = []
    for step in steps:
        for entry in step.entries:
            share = entry.total_ms / step.total_ms if entry.total_ms is not None else None
            lines.append([
                step.step, step.B, step.S, step.L, entry.slot, entry.path, entry.kernel, entry.op, entry.count,
                _cell(entry.latency_ms), _cell(entry.total_ms), _cell(share, 4), _cell(entry.roof_total_ms),
                _cell(entry.gain_ms),
            ])  # fmt: skip
    return _csv(OP_COLUMNS, lines)


def headroom_csv(steps):
    """One line for each measured kernel and op of each step and point whose roof is known, the largest gain first."""
    lines = [
        [
            step.step, step.B, step.S, step.L, rank, item.slot, item.kernel, item.op, item.count,
            _cell(item.total_ms), _cell(item.gain_ms), _cell(item.share, 4), _cell(item.speedup, 4),
            _cell(item.efficiency, 4),
        ]
        for step in steps
        for rank, item in enumerate(headroom.rank(step), 1)
    ]  # fmt: skip
    return _csv(HEADROOM_COLUMNS, lines)


def markdown(steps, title, outside=(), reason=""):
    """Steps, what is missing, and what to fix first, for people."""
    parts = [f"# {title}", _scope(outside)]
    if not steps:
        parts.append(f"**There is no step to add up**: {reason or 'no point of its phases is in the results'}.")
    names = list(dict.fromkeys(step.step for step in steps))
    for name in names:
        mine = [step for step in steps if step.step == name]
        parts.append(f"## {name.capitalize()}")
        if not any(step.measured for step in mine):
            parts.append(f"None of its {len(mine[0].entries)} ops is measured.")
            parts.append(_missing(mine))
            continue
        longest = max(step.L for step in mine)
        parts += [_table([step for step in mine if step.L == longest]), _matrix(mine), _missing(mine), _first(mine)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _scope(outside):
    lead = (
        "Measured kernels added up: count in the model × latency. A time marked ≥ is a lower bound, because not every "
        "op of the step is measured. `These at the roof` are the same ops at the roofline; the speed of light is all "
        "ops at the roofline."
    )
    if outside:
        lead += "\n\nNot part of any total: " + "; ".join(outside) + "."
    return lead


def _table(steps):
    rows = []
    for step in steps:
        bound, limit = ("", "") if step.complete else ("≥ ", "≤ ")
        light = text.latency(step.light_ms)
        if step.light_ms is None:
            light = "≥ " + text.latency(step.known_light_ms)
        tokens = step.tokens_per_s
        rows.append(
            [
                step.where(),
                f"{len(step.measured)} of {len(step.entries)}",
                bound + text.latency(step.total_ms) if step.measured else "–",
                text.latency(step.roof_ms) if step.measured else "–",
                text.percent(step.roof_ms / step.total_ms) if step.measured else "–",
                light,
                f"{limit}{tokens:,.0f}".replace(",", " ") if tokens else "–",
            ]
        )
    header = ["point", "ops measured", "time", "these at the roof", "share of roof", "speed of light", "tokens/s"]
    return text.table(header, rows, "lrrrrrr")


def _matrix(steps):
    """Time by B and length; nothing where the length changes nothing."""
    lengths, batches = sorted({step.L for step in steps}), sorted({step.B for step in steps})
    times = {(step.B, step.L): step for step in steps if step.measured}
    if len({round(step.total_ms, 9) for step in steps if step.B == batches[0]}) < 2:
        return ""
    kind = "KV" if steps[0].phase == "decode" else "S"

    def cell(step):
        return "–" if step is None else ("" if step.complete else "≥ ") + text.latency(step.total_ms)

    rows = [[f"B={B}", *(cell(times.get((B, L))) for L in lengths)] for B in batches]
    return "Time of a step:\n\n" + text.table(["", *(f"{kind}={L}" for L in lengths)], rows, "l" + "r" * len(lengths))


def _missing(steps):
    """Ops without a measurement, with the number of points where they lack."""
    counts = {}
    for step in steps:
        for entry in step.missing:
            name = (
                f"{entry.slot} (no kernel is benchmarked)" if not entry.kernel else f"{entry.name} (`{entry.kernel}`)"
            )
            counts[name] = counts.get(name, 0) + 1
    if not counts:
        return ""
    every = [name for name, count in counts.items() if count == len(steps)]
    some = [
        f"{name}: {count} of {text.plural(len(steps), 'point')}" for name, count in counts.items() if count < len(steps)
    ]
    lines = []
    if every:
        lines.append("Not measured at any point: " + "; ".join(every) + ".")
    if some:
        lines.append("Not measured at some points: " + "; ".join(some) + ".")
    return "\n\n".join(lines)


def _first(steps):
    """The three ops with the largest gain, over all points and at the ends of the sweep."""
    usable = [step for step in steps if step.measured]
    ranked = headroom.overall(usable)
    if not ranked:
        return ""
    lines = ["### Fix these three first", ""]
    for number, (kernel, op, share, count) in enumerate(ranked[:3], 1):
        lines.append(
            f"{number}. `{kernel}` for {op}: reaching the roof would save {share:.1%} of the step, on average over "
            f"{text.plural(count, 'point')}."
        )
    largest = max(step.L for step in usable)
    chosen = [step for step in usable if step.phase == "prefill" or step.L == largest]
    batches = sorted({step.B for step in chosen})
    wanted = {batches[0], batches[len(batches) // 2], batches[-1]}
    chosen = [step for step in chosen if step.B in wanted and (step.phase == "decode" or step.S == largest)]
    for step in chosen:
        lines += ["", _ranking(step)]
    return "\n".join(lines)


def _ranking(step):
    items = headroom.rank(step)[:5]
    rows = [
        [
            number,
            f"`{item.kernel}`",
            item.op,
            item.count,
            text.latency(item.total_ms),
            text.percent(item.efficiency),
            text.latency(item.gain_ms),
            text.percent(item.share),
            f"{item.speedup:.2f}×",
        ]
        for number, item in enumerate(items, 1)
    ]
    header = ["", "kernel", "op", "calls", "time", "share of roof", "gain at the roof", "of the step", "step gets"]
    bound = "" if step.complete else " or more"
    faster = f"with the first three at the roof: {headroom.together(step, items[:3]):.2f}× faster"
    lead = f"At {step.where()}, a step of {text.latency(step.total_ms)}{bound}; {faster}."
    return f"{lead}\n\n{text.table(header, rows, 'rllrrrrrr')}"


def series(steps, names=None):
    """(names, {name: [ms by step]}, {name: [gain by step]}) of the ops that matter most; the rest is ``other``.

    An op is a slot with its kernel's op; times of all counts together.
    """
    totals = {}
    for step in steps:
        for entry in step.measured:
            totals[entry.name] = totals.get(entry.name, 0.0) + entry.total_ms / step.total_ms
    names = names or sorted(totals, key=lambda name: -totals[name])[:SHOWN]
    times = {name: [0.0] * len(steps) for name in [*names, "other"]}
    gains = {name: [0.0] * len(steps) for name in [*names, "other"]}
    for number, step in enumerate(steps):
        for entry in step.measured:
            name = entry.name if entry.name in names else "other"
            times[name][number] += entry.total_ms
            gains[name][number] += entry.gain_ms or 0.0
    return [*names, "other"], times, gains


def plot(steps, output_dir, title, stem="model_time"):
    """Stacked bars over B: where the time of a step goes, and what it would gain; decode and prefill. Returns paths."""
    try:
        import matplotlib
    except ImportError:
        raise ResultError("matplotlib is missing; plotting needs it: pip install matplotlib") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = [(name, mine) for name in ("decode", "prefill") if (mine := _longest(steps, name))]
    if not panels:
        return _nothing(pyplot, title, [Path(output_dir) / f"{stem}.{suffix}" for suffix in FORMATS])
    figure, axes = pyplot.subplots(
        2, len(panels), figsize=(7.6 * len(panels) + 0.6, 9.6), dpi=DPI, squeeze=False, layout="constrained"
    )
    figure.suptitle(title, weight="bold", fontsize=15, x=0.012, ha="left")
    colours = _colours(panels)
    for column, (name, mine) in enumerate(panels):
        names, times, gains = series(mine)
        totals = [step.total_ms for step in mine]
        what = f"KV length {mine[0].L}" if mine[0].phase == "decode" else f"S = {mine[0].S}"
        top, low = axes[0][column], axes[1][column]
        shares = {name: [value / total for value, total in zip(times[name], totals, strict=True)] for name in names}
        _bars(top, mine, names, shares, colours)
        lost = {name: [value / total for value, total in zip(gains[name], totals, strict=True)] for name in names}
        _bars(low, mine, names, lost, colours)
        for number, step in enumerate(mine):
            bound = "" if step.complete else "≥ "
            top.text(number, 1.015, bound + text.latency(step.total_ms), ha="center", fontsize=9)
            low.text(number, sum(lost[name][number] for name in names) + 0.015, _speedup(step), ha="center", fontsize=9)
        complete = all(step.complete for step in mine)
        ops = "" if complete else f"; {_counts(mine)} of {len(mine[0].entries)} ops measured"
        top.set_title(f"{name.capitalize()}, {what}: where the time goes{ops}", loc="left", fontsize=11, weight="bold")
        low.set_title("What reaching the roof would gain, and how much faster", loc="left", fontsize=11, weight="bold")
        shown = [name for name in reversed(names) if any(times[name])]
        low.legend(
            [pyplot.Rectangle((0, 0), 1, 1, color=colours[name]) for name in shown],
            shown,
            loc="upper left",
            bbox_to_anchor=(0, -0.13),
            ncols=2,
            frameon=False,
            fontsize=9,
        )
    paths = [Path(output_dir) / f"{stem}.{suffix}" for suffix in FORMATS]
    for path in paths:
        figure.savefig(path)
    pyplot.close(figure)
    return paths


def _counts(steps):
    """How many ops are measured: ``14``, or ``12 to 14`` where that depends on the point."""
    counts = {len(step.measured) for step in steps}
    return str(counts.pop()) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"


def _nothing(pyplot, title, paths):
    """Pictures that say that there is nothing to show."""
    figure = pyplot.figure(figsize=(7.6, 2.2), dpi=DPI)
    figure.text(0.03, 0.8, title, weight="bold", fontsize=15)
    figure.text(0.03, 0.45, "No op of a decode or prefill step is measured.", fontsize=12)
    for path in paths:
        figure.savefig(path)
    pyplot.close(figure)
    return paths


def _longest(steps, name):
    """The points of a step at the greatest length, in order of B; those without any measurement left out."""
    mine = [step for step in steps if step.step == name and step.measured]
    longest = max((step.L for step in mine), default=0)
    return sorted((step for step in mine if step.L == longest), key=lambda step: step.B)


def _colours(panels):
    """One colour for an op in both panels."""
    found = {"other": OTHER}
    for _, mine in panels:
        for name in series(mine)[0]:
            found.setdefault(name, PALETTE[(len(found) - 1) % len(PALETTE)])
    return found


def _bars(axis, steps, names, values, colours):
    base = [0.0] * len(steps)
    for name in names:
        if not any(values[name]):
            continue
        axis.bar(range(len(steps)), values[name], bottom=base, color=colours[name], width=0.72, zorder=3)
        base = [low + value for low, value in zip(base, values[name], strict=True)]
    axis.set_xticks(range(len(steps)), [f"B={step.B}" for step in steps])
    axis.set_ylim(0, 1.08)
    axis.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    axis.set_ylabel("share of the step's time")
    axis.grid(True, axis="y", color="#e5e7eb", linewidth=0.7)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def _speedup(step):
    rest = step.total_ms - sum(entry.gain_ms or 0.0 for entry in step.measured)
    return f"{step.total_ms / rest:.1f}×" if rest > 0 else ""
