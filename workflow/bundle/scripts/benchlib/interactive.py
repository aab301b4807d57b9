"""The roofline as one HTML page with hover, filters and a table; it needs no network. Needs plotly to be made."""

import json
import math
from pathlib import Path

from .results import write_whole
from .resultset import ResultError
from .roofline_plot import (
    COLOURS,
    DOUBTFUL,
    FLOOR_COLOUR,
    MEASURED_ROOF_COLOUR,
    ROOF_COLOUR,
    SUSPECT_COLOUR,
    THROTTLED_COLOUR,
    floor_line,
    ink_on,
    marks,
    roof_lines,
    roof_names,
    subtitle,
)
from .roofs import share_pct

TEMPLATE = Path(__file__).resolve().parent / "interactive.html"


def write_page(rows, roofs, path, title):
    """Write the page; returns its path. Rows as for ``roofline_plot.plot_roofline``."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise ResultError("plotly is missing; the interactive page needs it: pip install plotly") from None
    data = json.dumps(page_data(rows, roofs, title), ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    page = TEMPLATE.read_text(encoding="utf-8")
    before, rest = page.split("/*PLOTLY*/")
    between, after = rest.split("/*DATA*/")
    return write_whole(path, "".join([before, get_plotlyjs(), between, data, after]))


def page_data(rows, roofs, title):
    """What the page shows: rows with their place, roofs, filters and ranges (powers of ten).

    A row without a place under the roofs (its dtype has no units on this GPU) is in the table alone: ``x`` is None.
    """
    roofline, bandwidth = marks(rows, roofs)
    places = {id(mark.row): (mark, panel) for panel, found in (("x", roofline), ("x2", bandwidth)) for mark in found}
    listed = [_row(row, *places.get(id(row), (None, None)), roofs) for row in rows]
    categories = {row.kernel: row.category for row in rows}
    dtypes = sorted({mark.row.compute_dtype for mark in roofline} & set(roofs.compute), key=roofs.compute.get)
    ranges = _ranges(roofline, bandwidth, roofs)
    names = []
    for dtype in dtypes:
        y, below = _name_place(roofs, dtype, dtypes)
        names.append(_name(roof_names(roofs, dtype), ranges["x"][1], y, below) | {"xref": "x", "yref": "y"})
    if roofs.bandwidth:
        name = _name(roof_names(roofs), ranges["x2"][1], roofs.bandwidth)
        names.append(name | {"xref": "x2", "yref": "y2"})
    colours = {kernel: COLOURS.get(category, COLOURS[""]) for kernel, category in categories.items()}
    return {
        "title": title,
        "subtitle": subtitle(roofs, sum(row.measured for row in rows), len(rows), len(rows) - len(places)),
        "rows": listed,
        "kernels": [{"name": name, "colour": colour, "ink": ink_on(colour)} for name, colour in colours.items()],
        "phases": [phase for phase in ("decode", "prefill") if any(row["phase"] == phase for row in listed)],
        "batches": sorted({row["B"] for row in listed}),
        "roofs": _roofs(roofs, dtypes, ranges),
        "ranges": ranges,
        "names": names,
        "signs": _signs(rows, roofs),
        "colours": {"suspect": SUSPECT_COLOUR, "throttled": THROTTLED_COLOUR},
    }


def _signs(rows, roofs):
    """The legend: [sign, words]."""
    signs = [["●", "decode"], ["■", "prefill"], ["○ □", "not measured: at the roof"]]
    signs.append(["—", "datasheet roof" if roofs.datasheet else "roof"])
    if roofs.measured_bandwidth or roofs.measured_compute:
        signs.append(["- -", "measured roof"])
    if roofs.launch_floor_ms:
        signs.append(["· ·", f"launch floor, {roofs.launch_floor_ms * 1e3:.2f} µs"])
    if any("throttled" in row.flags for row in rows):
        signs.append(["⊗ ⊠", "throttled"])
    if any(row.doubtful for row in rows):
        signs.append(["◯", f"{DOUBTFUL} (red rim)"])
    return signs


def _name_place(roofs, dtype, dtypes):
    """(FLOP/s, below?): above the roof of a dtype, or below its roofs where another one runs through that place."""
    own = [roofs.compute[dtype], roofs.measured_compute.get(dtype) or roofs.compute[dtype]]
    others = [
        peaks[d] for peaks in (roofs.compute, roofs.measured_compute) for d in dtypes if d != dtype and d in peaks
    ]
    crossed = any(max(own) < other < 1.8 * max(own) for other in others)
    return (min(own), True) if crossed else (max(own), False)


def _name(words, x, y, below=False):
    """The name of a roof, at its right end; ``x`` is a power of ten."""
    return {
        "text": words,
        "x": x,
        "y": math.log10(y),
        "xanchor": "right",
        "yanchor": "top" if below else "bottom",
        "yshift": -3 if below else 3,
        "bgcolor": "rgba(255, 255, 255, 0.8)",
    }


def _row(row, mark, panel, roofs):
    attainable = roofs.attainable_ms(row)
    return {
        "kernel": row.kernel,
        "op": row.op,
        "phase": row.phase,
        "B": row.B,
        "where": row.where(),
        "latency_us": row.latency_ms * 1e3 if row.measured else None,
        "attainable_us": None if attainable is None else attainable * 1e3,
        "tflops": row.gflops / 1e3 if row.gflops is not None else None,
        "gbs": row.bandwidth_gbs,
        "share": share_pct(row, roofs) if row.measured else None,
        "limit": roofs.limit(row) or row.bound or "",
        "flags": ", ".join(row.flags),
        "doubtful": row.doubtful,
        "throttled": "throttled" in row.flags,
        "line": row.line if row.measured and row.line else None,
        "x": mark and mark.x,
        "y": mark and mark.y,
        "panel": panel,
    }


def _ranges(roofline, bandwidth, roofs):
    top = max(roofs.compute.values(), default=1e15)

    def span(values, below, above):
        return [math.log10(min(values) / below), math.log10(max(values) * above)]

    ridge = [top / roofs.bandwidth] if roofs.bandwidth else [100.0]
    return {
        "x": span([mark.x for mark in roofline] + ridge, 2, 6),
        "y": span([mark.y for mark in roofline] + [top], 2, 3),
        "x2": span([mark.x for mark in bandwidth] or [1e3, 1e9], 3, 3),
        "y2": span([mark.y for mark in bandwidth] + [roofs.bandwidth or 1e12], 2, 3),
    }


def _roofs(roofs, dtypes, ranges):
    def line(name, panel, points, colour, dash="solid"):
        xs, ys = zip(*points, strict=True)
        return {"name": name, "panel": panel, "x": xs, "y": ys, "colour": colour, "dash": dash}

    def roof(measured, name, panel, points):
        kind = "measured" if measured else "datasheet"
        colour = MEASURED_ROOF_COLOUR if measured else ROOF_COLOUR
        return line(f"{name}, {kind}", panel, points, colour, "dash" if measured else "solid")

    low, high = (10**value for value in ranges["x"])
    lines = [
        roof(measured, dtype.upper() if dtype else "memory", "x", points)
        for measured, dtype, points in roof_lines(roofs, dtypes, low, high)
    ]
    low, high = (10**value for value in ranges["x2"])
    for measured, bandwidth in ((False, roofs.bandwidth), (True, roofs.measured_bandwidth)):
        if bandwidth:
            lines.append(roof(measured, "memory", "x2", [(low, bandwidth), (high, bandwidth)]))
    if floor := floor_line(roofs, low, high):
        lines.append(line("launch floor", "x2", floor, FLOOR_COLOUR, "dot"))
    return lines
