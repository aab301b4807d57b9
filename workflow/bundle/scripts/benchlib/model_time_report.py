"""Model time and headroom as Markdown, CSV and pictures."""

import csv
import io
from pathlib import Path

from . import headroom, text
from .results import write_whole
from .resultset import ResultError
from .roofline_plot import DPI, FORMATS, ink_on, save

STEP_COLUMNS = (
    "step", "B", "S", "L", "measured_ops", "ops", "complete", "time_ms", "roofline_ms",
    "speed_of_light_ms", "tokens_per_s", "attainable_ms",
)  # fmt: skip
OP_COLUMNS = (
    "step", "B", "S", "L", "slot", "path", "kernel", "op", "count", "latency_ms", "total_ms", "share",
    "roofline_total_ms", "gain_ms", "attainable_total_ms", "roofline_gain_ms",
)  # fmt: skip
HEADROOM_COLUMNS = (
    "step", "B", "S", "L", "rank", "slot", "kernel", "op", "count", "total_ms", "gain_ms", "share", "speedup",
    "efficiency", "attainable_total_ms", "roofline_gain_ms",
)  # fmt: skip
SHOWN = 9
# Neighbours in a bar differ in lightness, so that they can be told apart by the colour-blind, too.
PALETTE = (
    "#192891", "#ffa300", "#084b44", "#56b4e9", "#fc0f92", "#b6bb73", "#9144f3", "#e3c9f0", "#523c00", "#7fd6c2",
    "#b76804", "#c3d5ff", "#475569", "#f0a58f", "#0f766e", "#dcdc4f",
)  # fmt: skip
OTHER = "#c4c9d1"


def write(steps, output_dir, title, outside=(), reason="", stem="model_time", roof=None):
    """Write ``{stem}.md``, ``{stem}.csv``, ``{stem}_ops.csv``, ``headroom.csv`` and the pictures; returns the paths.

    All are written whatever there is: without a step, or a measurement, they say so. ``reason`` is why there is no
    step, ``roof`` the Roofs that were used.
    """
    output_dir = Path(output_dir)
    return [
        write_whole(output_dir / f"{stem}.md", markdown(steps, title, outside, reason, roof)),
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
            _cell(step.light_ms), _cell(step.tokens_per_s, 1), _cell(step.attainable_ms if step.measured else None),
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
                _cell(entry.gain_ms), _cell(entry.total_ms - entry.gain_ms if entry.gain_ms is not None else None),
                _cell(entry.roof_gain_ms),
            ])  # fmt: skip
    return _csv(OP_COLUMNS, lines)


def headroom_csv(steps):
    """One line for each measured kernel and op of each step and point whose roof is known, the largest gain first."""
    lines = [
        [
            step.step, step.B, step.S, step.L, rank, item.slot, item.kernel, item.op, item.count,
            _cell(item.total_ms), _cell(item.gain_ms), _cell(item.share, 4), _cell(item.speedup, 4),
            _cell(item.efficiency, 6), _cell(item.attainable_ms), _cell(item.roof_gain_ms),
        ]
        for step in steps
        for rank, item in enumerate(headroom.rank(step), 1)
    ]  # fmt: skip
    return _csv(HEADROOM_COLUMNS, lines)


def markdown(steps, title, outside=(), reason="", roof=None):
    """What to fix first, steps, and what is missing, for people. ``roof`` says what attainable is."""
    parts = [f"# {title}"]
    first = fix_first(steps)
    if first:
        parts.append(f"## Fix these three first\n\n{first}")
    if steps:
        parts.append(f"## How to read it\n\n{_scope(outside, roof)}")
    else:
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
        parts += [_table([step for step in mine if step.L == longest]), _matrix(mine), _missing(mine), _gains(mine)]
    return "\n\n".join(part for part in parts if part) + "\n"


def fix_first(steps):
    """The three kernels that would give a decode and a prefill step most; empty where nothing is measured."""
    columns = {}
    for name in ("decode", "prefill"):
        usable = [step for step in steps if step.step == name and step.measured]
        if found := [item for item in headroom.overall(usable)[:3] if item.share > 0]:
            columns[name] = (usable, found)
    if not columns:
        return ""
    rows = [
        [rank + 1, *(_candidate(found[rank]) if rank < len(found) else "" for _, found in columns.values())]
        for rank in range(max(len(found) for _, found in columns.values()))
    ]
    lead = []
    for name, (usable, found) in columns.items():
        total = len(usable[0].entries)
        ops = f"all {total} ops" if all(step.complete for step in usable) else f"{_counts(usable)} of {total} ops"
        bound = "" if all(step.complete for step in usable) else ", a lower bound"
        lead.append(f"{name} over {ops}{bound}, mean of {text.plural(found[0].steps, 'point')}")
    unranked = {
        entry.kernel: None
        for usable, _ in columns.values()
        for step in usable
        for entry in step.missing
        if entry.kernel
    }
    words = (
        "Share of a step's measured time that the kernel would give back if it took what is attainable on this GPU. "
        f"Time of a step: {'; '.join(lead)}."
    )
    if unranked:
        words += " Not ranked, because not measured (at some points): " + ", ".join(f"`{k}`" for k in unranked) + "."
    return f"{text.table(['', *columns], rows, 'r' + 'l' * len(columns))}\n\n{words}"


def _candidate(item):
    ops = item.ops[0] if len(item.ops) == 1 else f"{len(item.ops)} ops"
    largest = f"; {text.percent(item.largest)} at {item.where}" if item.steps > 1 else ""
    return f"`{item.kernel}` ({ops}): **{text.percent(item.share)}**{largest}"


def _scope(outside, roof):
    lead = (
        "Measured kernels added up: count in the model × latency. A time marked ≥ is a lower bound, because not every "
        "op of the step is measured. *At the roof* are the same ops at the datasheet's roofline, the *speed of light* "
        "is all ops there. *Attainable* is what the same ops cannot go below on this GPU"
    )
    limits = []
    if roof and roof.measured_bandwidth:
        limits.append(f"the roofs measured on it ({text.rate(roof.measured_bandwidth, 'B/s')})")
    if roof and roof.launch_floor_ms:
        limits.append(f"the launch floor of {text.latency(roof.launch_floor_ms)} a call")
    if limits:
        lead += f": {' and '.join(limits)}."
    elif roof and not roof.bandwidth:
        lead += f"; the peaks of {roof.name} are unknown, and with them both."
    else:
        lead += "; without measured peaks it is the datasheet's roof."
    if outside:
        lead += "\n\nNot part of any total: " + "; ".join(outside) + "."
    return lead


def _table(steps):
    rows = []
    for step in steps:
        bound, limit = ("", "") if step.complete else ("≥ ", "≤ ")
        light = text.latency(step.light_ms)
        if step.light_ms is None and step.known_light_ms:
            light = "≥ " + text.latency(step.known_light_ms)
        tokens = step.tokens_per_s
        rows.append(
            [
                step.where(),
                f"{len(step.measured)} of {len(step.entries)}",
                bound + text.latency(step.total_ms) if step.measured else "–",
                text.latency(step.attainable_ms) if step.measured else "–",
                text.latency(step.roof_ms) if step.measured else "–",
                text.percent(step.roof_ms / step.total_ms) if step.measured and step.roof_ms is not None else "–",
                light,
                f"{limit}{tokens:,.0f}".replace(",", " ") if tokens else "–",
            ]
        )
    header = [
        "point",
        "ops measured",
        "time",
        "attainable",
        "at the roof",
        "share of roof",
        "speed of light",
        "tokens/s",
    ]
    return text.table(header, rows, "lrrrrrrr")


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


def _gains(steps):
    """The ops with the largest gain at the ends and in the middle of the sweep."""
    usable = [step for step in steps if step.measured]
    if not headroom.overall(usable):
        return ""
    largest = max(step.L for step in usable)
    chosen = [step for step in usable if step.phase == "prefill" or step.L == largest]
    batches = sorted({step.B for step in chosen})
    wanted = {batches[0], batches[len(batches) // 2], batches[-1]}
    chosen = [step for step in chosen if step.B in wanted and (step.phase == "decode" or step.S == largest)]
    return "\n\n".join(["### Largest gains", *map(_ranking, chosen)])


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
            text.latency(item.attainable_ms),
            text.latency(item.gain_ms),
            text.percent(item.share),
            f"{item.speedup:.2f}×",
            text.latency(item.roof_gain_ms),
        ]
        for number, item in enumerate(items, 1)
    ]
    header = [
        "", "kernel", "op", "calls", "time", "share of roof", "attainable", "gain", "of the step", "step gets",
        "gain at the roof",
    ]  # fmt: skip
    bound = "" if step.complete else f" or more ({len(step.measured)} of {len(step.entries)} ops)"
    faster = f"with the first three at what is attainable {headroom.together(step, items[:3]):.2f}× faster"
    lead = f"At {step.where()}, a step of {text.latency(step.total_ms)}{bound}; {faster}."
    return f"{lead}\n\n{text.table(header, rows, 'rllrrrrrrrr')}"


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
        2, len(panels), figsize=(7.8 * len(panels) + 0.6, 10.2), dpi=DPI, squeeze=False, layout="constrained"
    )
    figure.suptitle(title, weight="bold", fontsize=15, x=0.012, ha="left")
    colours = _colours(panels)
    for column, (name, mine) in enumerate(panels):
        names, times, gains = series(mine)
        totals = [step.total_ms for step in mine]
        what = f", S = {mine[0].S}"
        if mine[0].phase == "decode":
            what = f", KV length {mine[0].L}" if mine[0].L != mine[0].S else ""
        top, low = axes[0][column], axes[1][column]
        shares = {name: [value / total for value, total in zip(times[name], totals, strict=True)] for name in names}
        _bars(top, mine, names, shares, colours)
        lost = {name: [value / total for value, total in zip(gains[name], totals, strict=True)] for name in names}
        _bars(low, mine, names, lost, colours)
        heights = [sum(lost[name][number] for name in names) for number in range(len(mine))]
        low.set_ylim(0, min(1.08, max(0.05, *heights) * 1.15))
        for number, step in enumerate(mine):
            bound = "" if step.complete else "≥ "
            top.text(number, 1.015, bound + text.latency(step.total_ms), ha="center", fontsize=9)
            low.annotate(
                _speedup(step), (number, heights[number]), (0, 3), textcoords="offset points", ha="center", fontsize=9
            )
        complete = all(step.complete for step in mine)
        ops = "" if complete else f"; {_counts(mine)} of {len(mine[0].entries)} ops measured"
        top.set_title(f"{name.capitalize()}{what}: where the time goes{ops}", loc="left", fontsize=11, weight="bold")
        low.set_title("What could be gained, and how much faster the step gets", loc="left", fontsize=11, weight="bold")
        shown = [name for name in names if any(times[name])]
        low.legend(
            [pyplot.Rectangle((0, 0), 1, 1, color=colours[name]) for name in shown],
            shown,
            title="from the bottom of the bars up",
            title_fontsize=9,
            alignment="left",
            loc="upper left",
            bbox_to_anchor=(0, -0.1),
            ncols=2,
            frameon=False,
            fontsize=9,
        )
    paths = [Path(output_dir) / f"{stem}.{suffix}" for suffix in FORMATS]
    return save(pyplot, figure, paths)


def _counts(steps):
    """How many ops are measured: ``14``, or ``12 to 14`` where that depends on the point."""
    counts = {len(step.measured) for step in steps}
    return str(counts.pop()) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"


def _nothing(pyplot, title, paths):
    """Pictures that say that there is nothing to show."""
    figure = pyplot.figure(figsize=(7.6, 2.2), dpi=DPI)
    figure.text(0.03, 0.8, title, weight="bold", fontsize=15)
    figure.text(0.03, 0.45, "No op of a decode or prefill step is measured.", fontsize=12)
    return save(pyplot, figure, paths)


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
    """Stacked bars; segments that have room for it are labelled with their share."""
    tallest = max(sum(values[name][number] for name in names) for number in range(len(steps))) or 1.0
    base = [0.0] * len(steps)
    for name in names:
        if not any(values[name]):
            continue
        axis.bar(range(len(steps)), values[name], bottom=base, color=colours[name], width=0.72, zorder=3)
        for number, value in enumerate(values[name]):
            if value > 0.06 * tallest:
                axis.text(
                    number, base[number] + value / 2, f"{value * 100:.0f} %", ha="center", va="center", fontsize=8.5,
                    color=ink_on(colours[name]), zorder=4,
                )  # fmt: skip
        base = [low + value for low, value in zip(base, values[name], strict=True)]
    axis.set_xticks(range(len(steps)), [f"B={step.B}" for step in steps])
    axis.set_ylim(0, 1.08)
    axis.yaxis.set_major_formatter(lambda value, _: f"{value * 100:g} %")
    axis.set_ylabel("share of the step's time")
    axis.grid(True, axis="y", color="#e5e7eb", linewidth=0.7)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def _speedup(step):
    return f"{step.total_ms / step.attainable_ms:.2f}×" if step.attainable_ms else ""
