"""The roofline picture: decode, prefill, and a bandwidth panel for kernels without FLOPs. Needs matplotlib."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from . import labels, text
from .resultset import ResultError

# Told apart by normal and by red- and green-blind eyes; tests/results/test_roofline_plot.py holds them to it.
COLOURS = {
    "gemm": "#192891",
    "bmm": "#56b4e9",
    "norm": "#084b44",
    "activation": "#b6bb73",
    "rope": "#9144f3",
    "concat": "#523c00",
    "topk": "#ffa300",
    "attention": "#fc0f92",
    "moe": "#b76804",
    "": "#6b7280",
}
MARKERS = {"decode": "o", "prefill": "s"}
ROOF_COLOUR = "#374151"
MEASURED_ROOF_COLOUR = "#9333a8"
SUSPECT_COLOUR = "#dc0f0f"
DOUBTFUL = "cannot be right: above 105 % of the measured roof, or output not finite"
THROTTLED_COLOUR = "#111827"
FLOOR_COLOUR = "#6b7280"
SIZE = (16.0, 10.2)
DPI = 120
FORMATS = ("png", "svg")
# A white ground behind words. A white rim around the letters would make each word hundreds of paths in the SVG.
GROUND = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.8}


@dataclass(frozen=True)
class Mark:
    """One point of the picture: FLOPs per byte (or bytes) against FLOP/s (or bytes/s)."""

    x: float
    y: float
    row: object
    hollow: bool


def marks(rows, roofs):
    """(roofline marks, bandwidth marks) of measured and unmeasured rows.

    Roofline marks are at FLOPs per byte and FLOP/s; rows with zero FLOPs become bandwidth marks at bytes of one call
    and bytes/s. Unmeasured rows lie where the datasheet roof is. Rows of unknown cost or roof are left out.
    """
    roofline, bandwidth = [], []
    for row in rows:
        if row.flops is None or not row.bytes:
            continue
        ms = row.latency_ms if row.measured else roofs.time_ms(row)
        if not ms:
            continue
        if row.flops:
            roofline.append(Mark(row.flops / row.bytes, row.flops / ms * 1e3, row, not row.measured))
        else:
            bandwidth.append(Mark(row.bytes, row.bytes / ms * 1e3, row, not row.measured))
    return roofline, bandwidth


def plot_roofline(rows, roofs, output_dir, title=None, stem="roofline"):
    """Draw measured and unmeasured rows under the roofs; writes ``{stem}.png`` and ``{stem}.svg``, returns their paths.

    Rows carry FLOPs, bytes, compute_dtype and category; those without latency are drawn hollow on the roof.
    """
    pyplot = _pyplot()
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    paths = [output_dir / f"{stem}.{suffix}" for suffix in FORMATS]
    with pyplot.rc_context(_style()):
        return save(pyplot, draw(pyplot, rows, roofs, title), paths)


def save(pyplot, figure, paths):
    """Write a figure, and return the paths. The same rows give the same files, byte for byte."""
    with pyplot.rc_context({"svg.hashsalt": "roofbench"}):
        for path in paths:
            figure.savefig(path, dpi=DPI, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)
    return paths


def draw(pyplot, rows, roofs, title=None):
    """The figure: panels for decode and prefill, and one for kernels without FLOPs."""
    roofline, bandwidth = marks(rows, roofs)
    figure = pyplot.figure(figsize=SIZE, dpi=DPI)
    grid = figure.add_gridspec(
        1, 3, width_ratios=(1, 1, 0.62), left=0.05, right=0.985, top=0.87, bottom=0.15, wspace=0.19
    )
    first = figure.add_subplot(grid[0])
    axes = [first, figure.add_subplot(grid[1], sharex=first, sharey=first), figure.add_subplot(grid[2])]
    _roofline_panels(figure, axes[:2], roofline, roofs)
    _bandwidth_panel(figure, axes[2], bandwidth, roofs)
    measured = sum(row.measured for row in rows)
    hidden = len(rows) - len(roofline) - len(bandwidth)
    figure.text(0.05, 0.955, title or f"Roofline on {roofs.name}", fontsize=16, weight="bold")
    figure.text(0.05, 0.93, subtitle(roofs, measured, len(rows), hidden), fontsize=10.5, color="#4b5563")
    figure.text(0.05, 0.907, homeless(rows, roofs), fontsize=9.5, color="#6b7280")
    _legend(figure, rows, roofs)
    return figure


def _pyplot():
    try:
        import matplotlib
    except ImportError:
        raise ResultError("matplotlib is missing; plotting needs it: pip install matplotlib") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _style():
    return {
        "font.size": 10,
        "axes.titlesize": 12,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": "#6b7280",
        "axes.labelcolor": "#374151",
        "xtick.color": "#374151",
        "ytick.color": "#374151",
        "text.parse_math": False,
    }


def subtitle(roofs, measured, total, homeless):
    """How much was measured, and the peaks; ``homeless`` is the number of points without a roof."""
    counts = f"{measured} of {total} points measured"
    if not measured:
        counts = f"nothing measured: {total - homeless} points shown on the roof"
    if homeless:
        counts += f" ({text.plural(homeless, 'point')} without a roof here, not shown)"
    kind = "datasheet" if roofs.datasheet else "measured"
    peaks = " / ".join(f"{dtype.upper()} {text.rate(peak, 'FLOP/s')}" for dtype, peak in roofs.compute.items())
    memory = text.rate(roofs.bandwidth, "B/s") if roofs.bandwidth else ""
    words = ", ".join(word for word in (peaks, memory) if word)
    return (
        f"{counts}  ·  {roofs.name} {kind}: {words}" if words else f"{counts}  ·  the peaks of {roofs.name} are unknown"
    )


def homeless(rows, roofs):
    """In words: the kernels whose unmeasured points have no roof, with the number of points; empty without any."""
    groups = {}
    for row in rows:
        if not row.measured and roofs.time_ms(row) is None:
            groups.setdefault((row.compute_dtype or "unknown").upper(), Counter())[row.kernel] += 1
    parts = [
        f"{dtype}: " + ", ".join(f"{kernel} ({count})" for kernel, count in kernels.items())
        for dtype, kernels in groups.items()
    ]
    return f"Not measured and without a roof on {roofs.name}: {'; '.join(parts)}" if parts else ""


def ink_on(colour):
    """Black or white, whichever is easier to read on a colour."""
    return "#ffffff" if _luminance(colour) < 0.25 else "#111827"


def _luminance(colour):
    """Relative luminance of a colour, 0 to 1 (WCAG)."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _roofline_panels(figure, axes, points, roofs):
    dtypes = sorted({mark.row.compute_dtype for mark in points} & set(roofs.compute), key=roofs.compute.get) or sorted(
        roofs.compute, key=roofs.compute.get
    )
    top = max(roofs.compute[dtype] for dtype in dtypes) if dtypes else 1e15
    xs = [mark.x for mark in points] + [top / roofs.bandwidth if roofs.bandwidth else 100.0]
    ys = [mark.y for mark in points]
    low_x, high_x = min(xs) / 14, max(xs) * (130 if roofs.measured_compute else 10)
    axes[0].set_xlim(low_x, high_x)
    axes[0].set_ylim(min([*ys, low_x * (roofs.bandwidth or 1e12)]) / 2, top * 5)
    for axis, phase in zip(axes, MARKERS, strict=True):
        _log_axes(axis)
        axis.set_title({"decode": "Decode (S = 1)", "prefill": "Prefill"}[phase])
        axis.set_xlabel("arithmetic intensity, FLOP per byte")
        obstacles, segments = _draw_roofs(axis, roofs, dtypes)
        mine = [mark for mark in points if mark.row.phase == phase]
        _draw_marks(axis, mine)
        _draw_labels(figure, axis, mine, obstacles, segments)
    axes[0].set_ylabel("FLOP/s")
    _decades(axes[0].yaxis, "")


def _log_axes(axis):
    from matplotlib.ticker import NullLocator

    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.xaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_minor_locator(NullLocator())
    _decades(axis.xaxis, "")
    axis.grid(True, color="#e5e7eb", linewidth=0.7)
    axis.set_axisbelow(True)


def _decades(axis, unit, numticks=9):
    """Ticks at powers of ten, written as 0.01, 1, 100 k, 10 G."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    axis.set_major_locator(LogLocator(numticks=numticks))
    axis.set_major_formatter(FuncFormatter(lambda value, _: text.rate(value, unit).strip()))


def roof_lines(roofs, dtypes, low_x, high_x):
    """[(measured?, dtype or None, [(x, y), (x, y)])]: the flat roof of each dtype from its ridge, and the slope.

    The slope (dtype None) ends at the highest ridge. Measured lines come only where something was measured; without
    any bandwidth a flat roof goes through the whole picture.
    """
    lines = []
    for measured in (False, True):
        bandwidth = roofs.measured_bandwidth if measured else roofs.bandwidth
        compute = roofs.measured_compute if measured else roofs.compute
        used = [dtype for dtype in dtypes if dtype in compute]
        slope = bandwidth or roofs.bandwidth
        for dtype in used:
            ridge = compute[dtype] / slope if slope else low_x
            lines.append((measured, dtype, [(ridge, compute[dtype]), (high_x, compute[dtype])]))
        if bandwidth:
            end = max((compute[dtype] for dtype in used), default=max(roofs.compute.values(), default=1e15))
            lines.append((measured, None, [(low_x, low_x * bandwidth), (end / bandwidth, end)]))
    return lines


def roof_names(roofs, dtype=None):
    """What to write at the roof of a dtype, or at the memory's: ``BF16 989 T (measured 675 T)``, of FLOP/s or B/s."""
    peak, measured = roofs.bandwidth, roofs.measured_bandwidth
    if dtype:
        peak, measured = roofs.compute[dtype], roofs.measured_compute.get(dtype)
        name = f"{dtype.upper()} {text.rate(peak, '').strip()}"
    else:
        name = text.rate(peak, "B/s")
    if not roofs.datasheet:
        return f"{name}, measured"
    return f"{name} (measured {text.rate(measured, '').strip()})" if measured else f"{name}, datasheet"


def floor_line(roofs, low, high):
    """The launch floor over bytes of one call, [(bytes, bytes/s), …], up to the roof; empty where it is unknown."""
    if not roofs.launch_floor_ms or not roofs.bandwidth:
        return []
    seconds = roofs.launch_floor_ms / 1e3
    end = min(high, seconds * roofs.bandwidth)
    return [(low, low / seconds), (end, end / seconds)] if end > low else []


def _draw_roofs(axis, roofs, dtypes):
    """Draw the roofs with their names; returns the rectangles of the names and the lines, in pixels."""
    low_x, high_x = axis.get_xlim()
    segments, obstacles = [], []
    for measured, _dtype, line in roof_lines(roofs, dtypes, low_x, high_x):
        xs, ys = zip(*line, strict=True)
        axis.plot(
            xs,
            ys,
            color=MEASURED_ROOF_COLOUR if measured else ROOF_COLOUR,
            linestyle=(0, (5, 3)) if measured else "-",
            linewidth=1.3 if measured else 1.6,
            zorder=2,
            solid_capstyle="butt",
        )
        segments.append(tuple(map(tuple, axis.transData.transform(line))))
    for dtype in dtypes:
        obstacles.append(_name_flat(axis, roofs, dtype, high_x, obstacles, segments))
    if roofs.bandwidth:
        obstacles.append(_name_slope(axis, roofs, low_x, high_x))
    return obstacles, segments


def _name_flat(axis, roofs, dtype, x, obstacles, segments):
    """Name a compute roof above its line, or below its lines where another roof runs through that place."""
    own = [roofs.compute[dtype], roofs.measured_compute.get(dtype) or roofs.compute[dtype]]
    places = [(max(own) * 1.08, "bottom"), (min(own) / 1.2, "top")]
    artist = axis.text(
        x, places[0][0], roof_names(roofs, dtype), ha="right", va="bottom", fontsize=9, color=ROOF_COLOUR, zorder=2.5
    )
    found = []
    for y, side in places:
        artist.set(y=y, verticalalignment=side)
        box = _extent(axis, artist)
        crossed = sum(labels.crosses_box(line, box) for line in segments) + sum(box.overlaps(o) for o in obstacles)
        found.append((crossed, len(found), box))
    _, chosen, box = min(found, key=lambda item: item[:2])
    y, side = places[chosen]
    artist.set(y=y, verticalalignment=side)
    return box


def _name_slope(axis, roofs, low_x, high_x):
    import math

    name = roof_names(roofs)
    x = low_x * 1.6
    (x0, y0), (x1, y1) = axis.transData.transform([(x, x * roofs.bandwidth), (2 * x, 2 * x * roofs.bandwidth)])
    artist = axis.text(
        x,
        x * roofs.bandwidth * 1.25,
        name,
        rotation=math.degrees(math.atan2(y1 - y0, x1 - x0)),
        rotation_mode="anchor",
        va="bottom",
        fontsize=9,
        color=ROOF_COLOUR,
        zorder=2.5,
    )
    return _extent(axis, artist)


def _extent(axis, artist):
    """The rectangle of a roof's name, which gets a white ground so that lines behind it do not strike it out."""
    artist.set_bbox(GROUND)
    box = artist.get_window_extent(axis.figure.canvas.get_renderer())
    return labels.Box(box.x0, box.y0, box.x1, box.y1)


def _draw_marks(axis, points):
    lines = {}
    for mark in points:
        lines.setdefault(
            (mark.row.kernel, mark.row.op, mark.row.phase, mark.row.B if mark.row.L != 1 else 0), []
        ).append(mark)
    for line in lines.values():
        solid = [mark for mark in line if not mark.hollow]
        if len(solid) > 1:
            solid.sort(key=lambda mark: (mark.row.tokens, mark.row.L))
            axis.plot(
                [m.x for m in solid],
                [m.y for m in solid],
                color=_colour(line[0].row),
                alpha=0.22,
                linewidth=0.9,
                zorder=3,
            )
    for hollow in (True, False):
        for phase, marker in MARKERS.items():
            chosen = [mark for mark in points if mark.hollow == hollow and mark.row.phase == phase]
            if not chosen:
                continue
            colours = [_colour(mark.row) for mark in chosen]
            axis.scatter(
                [mark.x for mark in chosen],
                [mark.y for mark in chosen],
                s=[30 if hollow else 26] * len(chosen),
                marker=marker,
                facecolors="white" if hollow else colours,
                edgecolors=colours if hollow else "white",
                linewidths=1.1 if hollow else 0.5,
                alpha=0.95,
                zorder=4 if hollow else 5,
            )
    throttled = [mark for mark in points if "throttled" in mark.row.flags]
    if throttled:
        axis.scatter(
            [mark.x for mark in throttled], [mark.y for mark in throttled], s=22, marker="x", color=THROTTLED_COLOUR,
            linewidths=0.9, zorder=6,
        )  # fmt: skip
    suspects = [mark for mark in points if mark.row.doubtful]
    if suspects:
        axis.scatter(
            [mark.x for mark in suspects],
            [mark.y for mark in suspects],
            s=150,
            marker="o",
            facecolors="none",
            edgecolors=SUSPECT_COLOUR,
            linewidths=1.8,
            zorder=7,
        )


def _colour(row):
    return COLOURS.get(row.category, COLOURS[""])


def _draw_labels(figure, axis, points, obstacles, segments):
    """One label for each kernel in the panel, near one of its points."""
    renderer = figure.canvas.get_renderer()
    groups = {}
    for mark in points:
        groups.setdefault(mark.row.kernel, []).append(mark)
    pixels = {id(mark): tuple(axis.transData.transform((mark.x, mark.y))) for mark in points}
    order = sorted(groups, key=lambda kernel: (len(groups[kernel]), kernel))
    artists, wanted = [], []
    for kernel in order:
        artist = axis.text(
            0, 0, kernel, fontsize=8.6, color=_darker(_colour(groups[kernel][0].row)), zorder=9, transform=None
        )
        artist.set_bbox(GROUND)
        size = artist.get_window_extent(renderer)
        anchors = [pixels[id(mark)] for mark in _spread(sorted(groups[kernel], key=lambda mark: (mark.x, mark.y)))]
        artists.append(artist)
        wanted.append((size.width, size.height, anchors))
    area = axis.get_window_extent(renderer)
    area = labels.Box(area.x0 + 4, area.y0 + 4, area.x1 - 2, area.y1 - 4)
    seen = {(round(x / 4), round(y / 4)): (x, y) for x, y in pixels.values()}
    placed = labels.place(wanted, area, obstacles, list(seen.values()), segments)
    for artist, kernel, placement in zip(artists, order, placed, strict=True):
        box, anchor = placement.box, placement.anchor
        inverse = axis.transData.inverted()
        artist.set_transform(axis.transData)
        artist.set_position(inverse.transform((box.x0, box.y0)))
        artist.set_verticalalignment("bottom")
        tip = box.nearest(*anchor)
        (x0, y0), (x1, y1) = inverse.transform([anchor, tip])
        axis.plot([x0, x1], [y0, y1], color=_colour(groups[kernel][0].row), linewidth=0.8, alpha=0.85, zorder=8)


def _spread(items, count=7):
    if len(items) <= count:
        return items
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def _darker(colour):
    """The colour, dark enough for small letters on white: a contrast of at least 4.5 to 1."""
    channels = [int(colour[i : i + 2], 16) * 0.78 for i in (1, 3, 5)]
    while _luminance(_hex(channels)) > 1.05 / 4.5 - 0.05:
        channels = [value * 0.94 for value in channels]
    return _hex(channels)


def _hex(channels):
    return "#" + "".join(f"{int(value):02x}" for value in channels)


def _bandwidth_panel(figure, axis, points, roofs):
    _log_axes(axis)
    axis.set_title("No FLOPs: bandwidth")
    axis.set_xlabel("bytes moved by one call")
    peak = roofs.bandwidth or max((mark.y for mark in points), default=1e12)
    xs, ys = [mark.x for mark in points] or [1e3, 1e9], [mark.y for mark in points] or [peak]
    low, high = min(xs) / 4, max(xs) * 8
    axis.set_xlim(low, high)
    axis.set_ylim(min(min(ys), peak / 10) / 3, max(max(ys), peak) * 6)
    segments, obstacles = [], []
    for value, measured in ((roofs.bandwidth, False), (roofs.measured_bandwidth, True)):
        if value:
            axis.plot(
                [low, high],
                [value, value],
                color=MEASURED_ROOF_COLOUR if measured else ROOF_COLOUR,
                linestyle=(0, (5, 3)) if measured else "-",
                linewidth=1.3 if measured else 1.6,
                zorder=2,
            )
            segments.append(tuple(map(tuple, axis.transData.transform([(low, value), (high, value)]))))
    if roofs.bandwidth:
        words = {"fontsize": 9, "color": ROOF_COLOUR, "zorder": 2.5}
        artist = axis.text(high, roofs.bandwidth * 1.1, roof_names(roofs), ha="right", va="bottom", **words)
        obstacles.append(_extent(axis, artist))
    line = floor_line(roofs, low, high)
    if line:
        axis.plot(*zip(*line, strict=True), color=FLOOR_COLOUR, linestyle=":", linewidth=1.5, zorder=2)
        segments.append(tuple(map(tuple, axis.transData.transform(line))))
    axis.set_ylabel("bytes/s")
    _decades(axis.yaxis, "")
    _decades(axis.xaxis, "B", 5)
    if points:
        _draw_marks(axis, points)
        _draw_labels(figure, axis, points, obstacles, segments)
    else:
        axis.text(0.5, 0.5, "no kernel without FLOPs", transform=axis.transAxes, ha="center", color="#6b7280")


def _legend(figure, rows, roofs):
    from matplotlib.lines import Line2D

    def dot(label, colour, marker="o", face=None, size=7, width=1.0):
        return Line2D(
            [], [], linestyle="", marker=marker, label=label, markersize=size,
            markerfacecolor=colour if face is None else face, markeredgecolor=colour, markeredgewidth=width,
        )  # fmt: skip

    used = [category for category in COLOURS if any(row.category == category for row in rows)]
    kinds = [dot(category or "no category", COLOURS[category]) for category in used]
    grey = "#4b5563"
    signs = [
        dot("decode", grey),
        dot("prefill", grey, "s"),
        dot("not measured: at the roof", grey, face="white", width=1.3),
    ]
    if roofs.bandwidth or roofs.compute:
        kind = "datasheet roof" if roofs.datasheet else "measured roof, no datasheet known"
        signs.append(Line2D([], [], color=ROOF_COLOUR, linewidth=1.6, label=kind))
    if roofs.measured_bandwidth or roofs.measured_compute:
        signs.append(
            Line2D([], [], color=MEASURED_ROOF_COLOUR, linewidth=1.3, linestyle=(0, (5, 3)), label="measured roof")
        )
    if floor_line(roofs, 1.0, 1e12):
        label = f"launch floor, {text.latency(roofs.launch_floor_ms)}"
        signs.append(Line2D([], [], color=FLOOR_COLOUR, linewidth=1.5, linestyle=":", label=label))
    if any("throttled" in row.flags for row in rows):
        signs.append(dot("throttled", THROTTLED_COLOUR, "x", size=6))
    if any(row.doubtful for row in rows):
        signs.append(dot(DOUBTFUL, SUSPECT_COLOUR, face="none", size=11, width=1.8))
    for handles, y in ((kinds, 0.052), (signs, 0.018)):
        figure.legend(
            handles=handles, loc="lower left", bbox_to_anchor=(0.045, y - 0.006), ncols=len(handles), frameon=False,
            fontsize=10, handletextpad=0.4, columnspacing=1.8,
        )  # fmt: skip
